"""`metabench warm`: builds the kernels of a study's compiled cells before anything is measured."""

import time
from math import inf
from pathlib import Path
from typing import Any

from bench import inputs
from bench.api import Declined
from bench.cells import Cell, canonical, expand
from bench.cli.kernels import kernel_lines
from bench.cli.label import label, varying
from bench.cli.study import load
from bench.cli.text import duration, say, say_json, warn
from bench.compiled import Engine

# What a kernel does not depend on.
_FREE = ("seed", "split", "passes", "repeats", "contract")


def warm_study(study: str, results: Path, json: bool) -> int:
    """Build, check and store what the compiled cells of ``study`` need.

    Returns 1 if something has to run in eager mode or fails, 3 if the study has no compiled cell.
    """
    cells = compiled_cells(study, results)
    if not cells:
        return 3
    start, found, eager = time.monotonic(), {}, False
    for n, (name, cell) in enumerate(cells.items(), 1):
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


def compiled_cells(study: str, results: Path) -> dict[str, Cell]:
    """Compiled cells of a study by name: of those that need the same kernels the one with the fewest steps.

    Warns where there is none.
    """
    chosen: dict[str, tuple[float, Cell]] = {}
    for cell in expand(load(study, results)):
        if not inputs.is_compiled(cell.description):
            continue
        wanted = {key: value for key, value in cell.description.items() if key not in _FREE}
        inner = dict(wanted["method"].get("inner", {}))
        steps = inner.pop("steps", None) or inf  # of no step nothing is compiled
        key = canonical(wanted | {"method": wanted["method"] | {"inner": inner}})
        if key not in chosen or steps < chosen[key][0]:
            chosen[key] = (steps, cell)
    if not chosen:
        warn(f'no cell of {study} is compiled; a study asks for it with engine = "compiled"')
    cells = [cell for _, cell in chosen.values()]
    keys = varying(cell.description for cell in cells)
    return {label(cell.description, keys): cell for cell in cells}


def _build(cell: Cell) -> dict[str, dict[str, Any]]:
    with inputs.conditions(cell.description):
        try:
            prepared = inputs.prepare(cell.description)
            prepared.run()
        except Declined as declined:
            return {"nothing": {"eager": f"declined: {declined}"}}
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; `run` records it
            return {"nothing": {"eager": f"{type(error).__name__}: {error}"}}
        assert isinstance(prepared.engine, Engine)
        return prepared.engine.report()
