"""`metabench warm`: builds the kernels of a study's compiled cells before anything is measured."""

import time
from math import inf
from pathlib import Path
from typing import Any

from bench import inputs
from bench.api import Declined
from bench.cells import Cell, canonical, expand
from bench.cli.kernels import built_lines
from bench.cli.label import label, varying
from bench.cli.study import load
from bench.cli.text import duration, say, say_json, warn
from bench.compiled import Engine
from bench.compiled.kernel import Kernel

# What a kernel does not depend on.
_FREE = ("seed", "split", "passes", "repeats", "contract", "start")


def warm_study(study: str, results: Path, json: bool) -> int:
    """Build, check and store what the compiled cells of ``study`` need.

    Returns 1 if something has to run in eager mode or fails, 3 if the study has no compiled cell.
    """
    cells = compiled_cells(study, results)
    if not cells:
        return 3
    start, found, eager = time.monotonic(), {}, False
    seen: dict[int, tuple[Kernel, str]] = {}  # a kernel with the cell that it was built for
    for n, (name, cell) in enumerate(cells.items(), 1):
        kernels = _build(cell)
        found[name] = {key: _plain(one) | {"shared": id(one) in seen} for key, one in kernels.items()}
        eager |= any(one.reason is not None for one in kernels.values())
        if not json:
            say(f"{n}/{len(cells)}  {name}", "bold")
            _say(list(kernels.values()), cell.description["dtype"], seen)
        seen |= {id(one): seen.get(id(one), (one, name)) for one in kernels.values()}
    if json:
        say_json(found)
    else:
        say(f"{len(cells)} kinds of cells ready in {duration(time.monotonic() - start)}", "bold")
    return 1 if eager else 0


def _say(kernels: list[Kernel], dtype: str, seen: dict[int, tuple[Kernel, str]]) -> None:
    """Print the kernels that are new, and which of earlier cells serve again."""
    for line in built_lines((one for one in kernels if id(one) not in seen), dtype):
        say(line)
    before: dict[str, list[str]] = {}
    for one in kernels:
        if id(one) in seen:
            before.setdefault(seen[id(one)][1], []).append(one.what)
    for name, whats in before.items():
        say(f"  as for {name}: {'; '.join(whats)}")


def _plain(kernel: Kernel) -> dict[str, Any]:
    size = dict(zip(("tasks", "parameters"), kernel.size, strict=True))
    return kernel.report() | {"what": kernel.what, **size, "cached": kernel.cached}


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


def _build(cell: Cell) -> dict[str, Kernel]:
    description = {key: value for key, value in cell.description.items() if key != "start"}
    with inputs.conditions(description):
        try:
            prepared = inputs.prepare(description)
            prepared.run()
        except Declined as declined:
            return _nothing(f"declined: {declined}")
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; `run` records it
            return _nothing(f"{type(error).__name__}: {error}")
        assert isinstance(prepared.engine, Engine)
        return prepared.engine.kernels()


def _nothing(reason: str) -> dict[str, Kernel]:
    return {"nothing": Kernel("nothing", False, reason=reason, what="nothing")}
