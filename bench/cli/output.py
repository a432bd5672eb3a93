"""What is made of stored records: exports, figures, the report."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cells import expand
from bench.cli.label import label, varying
from bench.cli.standing import command
from bench.cli.study import load_for_reading, records
from bench.cli.text import say, size, warn
from bench.disk import write_whole
from bench.errors import UsageError
from bench.order import grouped
from bench.record import Store
from bench.record import studies as stored
from bench.record.parquet import is_part
from bench.spec import Spec

if TYPE_CHECKING:
    from analysis.left_out import Plan

NOTHING = 3
FORMATS = ("csv", "parquet", "json")


def export_records(study: str, format: str | None, output: str | None, results: Path, unasked: bool) -> int:
    """Write the records of a study: the tidy table (csv, parquet) or the full records (json)."""
    format = _format(format, output)
    of = load_for_reading(study, results)
    found = _records(of, study, results, unasked)
    if not found:
        return NOTHING
    content = _content(found, format)
    if output == "-":
        if format == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is no text for a terminal; give --output FILE or pipe it on")
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return 0
    path = Path(output) if output else results / of.name / f"{of.name}.{format}"
    if is_part(path.name) and path.resolve().parent == (results / of.name).resolve():
        raise UsageError(
            f"{path} is where the records of {of.name} are kept; choose another file by --output"
        )
    write_whole(path, content)
    say(f"{len(found):,} records in {path} ({size(path.stat().st_size)})")
    return 0


def draw_figures(studies: list[str], results: Path, unasked: bool) -> int:
    """Draw and save the figures of each study."""
    from analysis import figures, table

    code = 0
    for study in studies:
        of = load_for_reading(study, results)
        found = _records(of, study, results, unasked)
        if not found:
            code = NOTHING
            continue
        for path in figures.save(figures.draw(of, table.frame(found)), results / of.name / "figures"):
            say(str(path))
    return code


def build_report(
    studies: list[str], everything: bool, output: Path | None, results: Path, unasked: bool
) -> int:
    """Build one page on all ``studies`` that have records, or on ``everything`` under ``results``."""
    from analysis import report

    if everything == bool(studies):
        raise UsageError("name studies, or give --all for all that have records, not both")
    groups = grouped(stored(results)) if everything else None
    if groups is not None:
        studies = [name for names in groups.values() for name in names]
        if not studies:
            warn(f"nothing is measured under {results}; first: {command('run', 'demo', results)}")
            return NOTHING
    pairs, plans = [], {}
    for study in studies:
        of = load_for_reading(study, results)
        found = _records(of, study, results, unasked)
        if found:
            pairs.append((of, found))
            plans |= _plan(of, found, results)
    if not pairs:
        return NOTHING
    where = "" if results == Path("results") or results.is_absolute() else str(results)
    page = output or (results / "report.html" if everything else _page([of.name for of, _ in pairs], results))
    path = report.build(pairs, page, plans=plans, groups=groups, results=where)
    say(f"report on {', '.join(of.name for of, _ in pairs)}: {path} ({size(path.stat().st_size)})")
    return 0 if len(pairs) == len(studies) else NOTHING


def _plan(of: Spec, found: list[dict[str, Any]], results: Path) -> "dict[str, Plan]":
    """What the study asks for and is not on the page; nothing where it cannot be expanded here."""
    from analysis.left_out import Plan

    try:
        cells = expand(of)
    except UsageError:  # as was said when its records were read
        return {}
    shown = {record["id"] for record in found}
    keys = varying(cell.description for cell in cells)
    missing = [(cell.id, label(cell.description, keys)) for cell in cells if cell.id not in shown]
    unasked = set(Store(results, of.name).ids()) - {cell.id for cell in cells} - shown
    return {of.name: Plan(len(cells), of.time_limit, missing, len(unasked))}


def _page(studies: list[str], results: Path) -> Path:
    """Where the report on these studies lies unless one says otherwise: each has a place of its own."""
    if len(studies) == 1:
        return results / studies[0] / "report.html"
    return results / f"report-{'-'.join(studies)}.html"


def _records(of: Spec, study: str, results: Path, unasked: bool) -> list[dict[str, Any]]:
    found = records(of, results, unasked)
    if not found:
        _say_nothing(study, results)
    return found


def _say_nothing(study: str, results: Path) -> None:
    warn(f"nothing is measured of {study} under {results}; first: {command('run', study, results)}")


def _format(asked: str | None, output: str | None) -> str:
    """The format that is asked for, by option or by the output file's ending, which must not contradict."""
    ending = Path(output or "").suffix.lstrip(".")
    if output in (None, "-") or not ending:
        return asked or "csv"
    if ending not in FORMATS:
        raise UsageError(f"{output} ends in none of {', '.join(f'.{one}' for one in FORMATS)}; name it so")
    if asked not in (None, ending):
        raise UsageError(f"--format {asked} does not go with {output}; leave it out, or name it .{asked}")
    return ending


def _content(found: list[dict[str, Any]], format: str) -> bytes:
    if format == "json":
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in found)  # one record a line
        return f"[\n{lines}\n]\n".encode()
    from analysis.table import frame

    if format == "csv":
        return frame(found).to_csv(index=False).encode()
    return frame(found).to_parquet(index=False)
