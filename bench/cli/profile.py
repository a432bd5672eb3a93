"""`metabench profile`: where the time of compiled cells goes, as a Markdown table."""

from dataclasses import asdict
from pathlib import Path

from bench import inputs
from bench.cli.text import say, say_json, warn
from bench.cli.warm import compiled_cells
from bench.compiled.profile import Profile, profile
from bench.failures import classify

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
                found[name] = profile(inputs.prepare(cell.description))
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
        say_json({name: asdict(one) | {"rest": one.rest} for name, one in found.items()})
    return 0 if len(found) == len(cells) else 1


def _table(one: Profile) -> list[str]:
    lines = [
        "| kernel | made | calls | ms | share | its matrix products alone, ms | times |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in one.parts:
        has = part.floor > LEAST_FLOOR * part.seconds
        floors = (f"{1e3 * part.floor:.3g}", f"{part.seconds / part.floor:.2g}") if has else ("-", "-")
        share = f"{part.seconds / one.seconds:.0%}"
        row = (part.kernel, part.lowering, part.calls, f"{1e3 * part.seconds:.3g}", share, *floors)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    floor = sum(part.floor for part in one.parts)
    rest = (
        "between the kernels",
        "",
        "",
        f"{1e3 * one.rest:.3g}",
        f"{round(100 * one.rest / one.seconds)}%",
        "",
        "",
    )
    whole = ("all", "", "", f"{1e3 * one.seconds:.3g}", "100%", f"{1e3 * floor:.3g}")
    times = f"{one.seconds / floor:.2g}" if floor else "-"
    return [*lines, "| " + " | ".join(rest) + " |", "| " + " | ".join((*whole, times)) + " |"]
