"""The fresh process of the resident pass: a cell's description on stdin, its resident peak on stdout.

Started by `bench.measure.resident_growth` as ``python -m bench.resident``.
"""

import importlib
import json
import os
import sys
from typing import Any

from bench import inputs, measure
from bench.failures import classify
from bench.processes import die_with_parent


def main() -> None:
    """Read the request, measure, answer: what `resident_here` returns, or `{"failed": [status, reason]}`."""
    die_with_parent()
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a plugin prints stays out of the answer
    answer = measure_cell(json.load(sys.stdin))
    json.dump(answer, answer_to)
    answer_to.close()


def measure_cell(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request `{"cell": description, "modules": [...]}`."""
    try:
        for module in request["modules"]:
            importlib.import_module(module)
        description = request["cell"]
        with inputs.conditions(description):
            cell = inputs.prepare(description)
            return measure.resident_here(cell.run)
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; the parent records it
        return {"failed": list(classify(error))}


if __name__ == "__main__":
    main()
