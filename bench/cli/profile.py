"""`metabench profile`: where the time of compiled cells goes, as a Markdown table."""

from dataclasses import asdict
from pathlib import Path

from bench import inputs
from bench.cli.text import say, say_json, warn
from bench.cli.warm import compiled_cells
from bench.compiled.profile import Profile, profile
from bench.failures import classify
from bench.start import located

BELOW = (
    "Below 1: alone, each matrix product is called from Python, and small ones take longer in that way than "
    "inside the kernel; there they are no floor of its time."
)
LEAST_FLOOR = 0.05  # of a kernel's time: below, it has no products


def show_profile(study: str, results: Path, json: bool) -> int:
    """Print a table for every kind of compiled cell; 3 if there is none, 1 if one cannot be run."""
    cells = compiled_cells(study, results)
    if not cells:
        return 3
    found = {}
    for name, cell in cells.items():
        try:
            with inputs.conditions(cell.description):
                found[name] = profile(inputs.prepare(located(cell.description, results)))
        except Exception as error:  # noqa: BLE001  a plugin may raise anything, and the others go on
            warn(f"{name} cannot be profiled: {classify(error)[1]['message']}")
            continue
        if not json:
            say(f"{name}: {1e3 * found[name].seconds:.3g} ms")
            say()
            for line in _table(found[name]):
                say(line)
            say()
    if json:
        say_json(
            {name: asdict(one) | {"rest": one.rest, "excess": one.excess} for name, one in found.items()}
        )
    return 0 if len(found) == len(cells) else 1


def _table(one: Profile) -> list[str]:
    lines = [
        "| kernel | made | calls | ms | share | its matrix products alone, ms | times |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in one.parts:
        has = part.floor > LEAST_FLOOR * part.seconds
        floors = (f"{1e3 * part.floor:.3g}", _times(part.seconds, part.floor)) if has else ("-", "-")
        share = _share(part.seconds, one)
        row = (part.kernel, part.lowering, part.calls, f"{1e3 * part.seconds:.3g}", share, *floors)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    floor = sum(part.floor for part in one.parts)
    between = ("-", "-") if one.excess else (f"{1e3 * one.rest:.3g}", _share(one.rest, one))
    rest = ("between the kernels", "", "", *between, "", "")
    whole = ("all", "", "", f"{1e3 * one.seconds:.3g}", "100%", f"{1e3 * floor:.3g}")
    lines += ["| " + " | ".join(rest) + " |"]
    lines += ["| " + " | ".join((*whole, _times(one.seconds, floor))) + " |"]
    return lines + [line for note in _notes(one) for line in ("", note)]


def _notes(one: Profile) -> list[str]:
    """What the table cannot say in numbers."""
    notes = []
    if any(part.floor > part.seconds > 0 for part in one.parts):
        notes.append(BELOW)
    if one.excess:
        notes.append(
            f"Nothing to be seen between the kernels: one by one they take {1e3 * one.excess:.3g} ms "
            f"({_share(one.excess, one)}) more than the call that they are part of, which is the error of "
            "all these times."
        )
    return notes


def _times(seconds: float, floor: float) -> str:
    return f"{seconds / floor:.2g}" if floor else "-"


def _share(seconds: float, one: Profile) -> str:
    return f"{seconds / one.seconds:.0%}"
