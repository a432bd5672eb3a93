"""`metabench warm`: builds the kernels of a study's compiled cells before anything is measured."""

import json as to_json
import time
from pathlib import Path
from typing import Any

from bench import inputs
from bench.api import Declined
from bench.cells import Cell, expand
from bench.cli.kernels import kernel_lines
from bench.cli.label import label, varying
from bench.cli.study import load
from bench.cli.text import duration, say, say_json, warn
from bench.compiled import Engine
from bench.spec import Spec

# What a kernel does not depend on.
_FREE = ("seed", "split", "passes", "repeats", "contract")


def warm_study(study: str, results: Path, json: bool) -> int:
    """Build, check and store what the compiled cells of ``study`` need.

    Returns 1 if something has to run in eager mode or fails, 3 if the study has no compiled cell.
    """
    cells = compiled_cells(load(study, results))
    if not cells:
        warn(f'no cell of {study} is compiled; a study asks for it with engine = "compiled"')
        return 3
    start, found, eager = time.monotonic(), {}, False
    keys = varying(cell.description for cell in cells)
    for n, cell in enumerate(cells, 1):
        name = label(cell.description, keys)
        kernels = _build(cell)
        found[name] = kernels
        eager |= any("eager" in kernel for kernel in kernels.values())
        if not json:
            say(f"{n}/{len(cells)}  {name}", "bold")
            for line in kernel_lines(kernels):
                say(line)
    if json:
        say_json(found)
    else:
        say(f"{len(cells)} kinds of cells ready in {duration(time.monotonic() - start)}", "bold")
    return 1 if eager else 0


def compiled_cells(study: Spec) -> list[Cell]:
    """Compiled cells of a study, of those that need the same kernels the one with the fewest inner steps."""
    chosen: dict[str, tuple[int, Cell]] = {}
    for cell in expand(study):
        if not inputs.is_compiled(cell.description):
            continue
        wanted = {k: v for k, v in cell.description.items() if k not in _FREE}
        method = dict(wanted["method"])
        steps = 0
        if "inner" in method:
            method["inner"] = dict(method["inner"])
            steps = method["inner"].pop("steps", 0)
        key = to_json.dumps(wanted | {"method": method}, sort_keys=True)
        if steps and (key not in chosen or steps < chosen[key][0]):
            chosen[key] = (steps, cell)
        chosen.setdefault(key, (steps or 1 << 62, cell))
    return [cell for _, cell in chosen.values()]


def _build(cell: Cell) -> dict[str, dict[str, Any]]:
    with inputs.conditions(cell.description):
        prepared = None
        try:
            prepared = inputs.prepare(cell.description)
            prepared.run()
        except Declined as declined:
            return {"nothing": {"eager": f"declined: {declined}"}}
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; `run` records it
            return {"nothing": {"eager": f"{type(error).__name__}: {error}"}}
        assert isinstance(prepared.engine, Engine)
        return prepared.engine.report()
