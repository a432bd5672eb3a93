"""`metabench gate`: compare what the cells of a study cost with a committed baseline."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.baseline import SCHEMA, Baseline, Environment, Ratio, name_of, read
from bench.cells import expand
from bench.cli.label import label, varying
from bench.cli.progress import display
from bench.cli.standing import FINE, counted
from bench.cli.study import load
from bench.cli.text import columns, console, number, say, say_json
from bench.disk import write_whole
from bench.errors import UsageError
from bench.gate import FAILING, Difference, Measured, accepted, compare, measure
from bench.record import MEASURED
from bench.spec import Spec

PASSED, DIFFERS, NOT_JUDGED = 0, 1, 3
STYLES = {"regressed": "red", "improved": "green"}


def run_gate(study: str, path: Path, update: bool, time: bool, results: Path, json: bool) -> int:
    """Measure a study and compare it with the baseline in ``path``, or make that its baseline."""
    spec = load(study, results)
    baseline = None if update and not path.exists() else read(path)
    if baseline and baseline.study != spec.name:
        raise UsageError(
            f"{path} is the baseline of the study {baseline.study}, not of {spec.name}; "
            "name another with --baseline FILE"
        )
    now, measured = _measure(spec, time, json)
    differences = compare(baseline, now, measured, time) if baseline else []
    renewed = accepted(baseline, now, differences)
    untimed = [one.untimed for one in measured.values() if one.untimed and one.entry.status in MEASURED]
    code = _code(now, differences, untimed, update)
    target = path if update else results / spec.name / "baseline.json"
    if update or differences:
        write_whole(target, renewed.content())
    if json:
        found = [_plain(difference) for difference in differences]
        new = renewed.model_dump(by_alias=True)
        say_json({"study": spec.name, "code": code, "differences": found, "new_baseline": new})
        return code
    for line, style in _table(differences):
        say(line, style)
    if baseline and baseline.environment != now.environment:
        say(_elsewhere(baseline.environment, now.environment), "yellow")
    counts = counted(entry.status for entry in now.cells.values())
    say(f"{spec.name}: {counts}; {_summary(baseline, differences)}", "bold" if code else "bold green")
    if update:
        say(f"new baseline: {path}")
        if untimed:
            say(f"{len(untimed)} cells have no new time in it: {untimed[0]}", "yellow")
    elif differences:
        command = shlex.join(["metabench", "gate", study, "--baseline", str(path), "--update"])
        say(f"what got better fails too. If all of it is meant, copy {target} to {path},")
        say(f"or: {command}{' --time' * time}")
    return code


def _measure(spec: Spec, time: bool, quiet: bool) -> tuple[Baseline, dict[str, Measured]]:
    cells = expand(spec)
    keys = varying(cell.description for cell in cells)
    names = {cell.id: name_of(label(cell.description, keys), cell.id) for cell in cells}
    measured = {}
    if quiet:
        measured = {cell.id: measure(cell, spec.name, time) for cell in cells}
    else:
        with display(console(), len(cells)) as shown:
            for cell in cells:
                measured[cell.id] = measure(cell, spec.name, time)
                shown.step(measured[cell.id].entry.status not in FINE)
    entries = {names[cell_id]: one.entry for cell_id, one in measured.items()}
    return Baseline(schema=SCHEMA, study=spec.name, environment=Environment.here(), cells=entries), measured


def _code(now: Baseline, differences: list[Difference], untimed: list[str], update: bool) -> int:
    verdicts = {difference.verdict for difference in differences}
    if verdicts & set(FAILING) and not update:
        return DIFFERS
    nothing = not any(entry.status in MEASURED for entry in now.cells.values())
    return NOT_JUDGED if nothing or untimed or (verdicts and not update) else PASSED


def _table(differences: list[Difference]) -> list[tuple[str, str]]:
    """Lines with their styles: per cell its name, then a row for every metric that differs."""
    if not differences:
        return []
    rows = [("metric", "baseline", "now", "factor", "verdict")]
    for d in differences:
        verdict = f"{d.verdict}: {d.note}" if d.note else d.verdict
        rows.append((d.metric, _value(d.baseline), _value(d.now), number(d.factor), verdict))
    header, *lines = columns(rows)
    table, cell = [(header, "dim")], ""
    for difference, line in zip(differences, lines, strict=True):
        if difference.cell != cell:
            cell = difference.cell
            table.append((cell, "bold"))
        table.append((line, STYLES.get(difference.verdict, "yellow")))
    return table


def _value(value: Any) -> str:
    if isinstance(value, Ratio):
        return f"{value.median:.3g} ({value.low:.3g}-{value.high:.3g})"
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)


def _plain(difference: Difference) -> dict[str, Any]:
    plain = asdict(difference) | {"factor": difference.factor}
    return {key: v.model_dump() if isinstance(v, Ratio) else v for key, v in plain.items()}


def _summary(baseline: Baseline | None, differences: list[Difference]) -> str:
    if baseline is None:
        return "no baseline before"
    if not differences:
        return "as the baseline"
    cells = {difference.cell for difference in differences}
    verdicts = [verdict for _, verdict in {(d.cell, d.verdict) for d in differences}]
    words = ", ".join(f"{verdicts.count(v)} {v}" for v in (*FAILING, "not judged") if v in verdicts)
    return f"{len(cells)} cell{'s' * (len(cells) > 1)} not as the baseline ({words})"


def _elsewhere(before: Environment, now: Environment) -> str:
    """One line on a baseline from another torch or machine, and what that means for the verdict."""
    changed = [
        f"{key} {getattr(before, key)}, here {getattr(now, key)}"
        for key in ("torch", "machine", "cpu")
        if getattr(before, key) != getattr(now, key)
    ]
    meaning = (
        "counts are compared as ever, times with caution"
        if before.counts_alike(now)
        else "operators, FLOPs and bytes that differ are not judged; take a baseline here of accepted code"
    )
    return f"the baseline was taken elsewhere ({'; '.join(changed)}): {meaning}"
