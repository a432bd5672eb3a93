"""`metabench merge`: the records of several folders into one."""

from dataclasses import asdict, dataclass
from pathlib import Path

from bench import spec
from bench.cells import expand
from bench.cli.standing import agreement, command, of_no_cell, warn_of
from bench.cli.study import copy_of
from bench.cli.text import counting, say, say_json, warn
from bench.disk import write_whole
from bench.errors import UsageError
from bench.record import Store, studies
from bench.record.merge import Merged, merge

SHOWN = 20


def merge_records(sources: list[Path], results: Path, json: bool) -> int:
    """Bring the records of ``sources`` into ``results``. Returns the exit code."""
    found = [store for source in sources for store in _stores(source, results)]
    plain, code = [], 0
    for store in found:
        target = Store(results, store.study)
        merged = merge(store, target)
        for one in (store, target):
            warn_of(one)
        files = _merge_files(store, results)
        code |= bool(merged.differ or merged.untrained or (files.differ and files.strangers))
        if json:
            head = {"from": str(store.folder), "into": str(target.folder), "study": store.study}
            told = {"study_files_differ": files.differ, "of_no_cell": files.strangers}
            plain.append(head | asdict(merged) | told)
        else:
            _say(store, merged, files, results)
    if json:
        say_json(plain)
    return code


@dataclass(frozen=True)
class _Files:
    """The study files of a source and of the target: whether they ``differ``, and how many of the source's
    records belong to no cell of the target's."""

    source: Path
    target: Path
    differ: bool
    strangers: int


def _merge_files(store: Store, results: Path) -> _Files:
    """Copy the study file of a source where the target has none; what it has is kept."""
    own, kept = copy_of(store.study, store.root), copy_of(store.study, results)
    if own.is_file() and not kept.exists():
        write_whole(kept, own.read_bytes())
    # A shipped study goes by the shipped file.
    kept = spec.shipped().get(store.study, kept)
    differ = own.is_file() and own.read_bytes() != kept.read_bytes()
    strangers = 0
    if kept.is_file():
        try:
            strangers = len(store.ids().keys() - {cell.id for cell in expand(spec.load(kept))})
        except UsageError as error:
            warn(f"whether the records are of {kept} is not known, for it cannot be read here: {error}")
    return _Files(own, kept, differ, strangers)


def _stores(source: Path, results: Path) -> list[Store]:
    """The stores in a folder of results, or the one in the folder of a study."""
    if not source.is_dir():
        raise UsageError(f"there is no folder {source}")
    source = source.resolve()
    is_study = source.name in studies(source.parent)
    places = [(source.parent, source.name)] if is_study else [(source, s) for s in studies(source)]
    found = [Store(*place, moves=False) for place in places]
    if not found:
        raise UsageError(f"there are no records in {source}; give a folder of results, or of a study in one")
    if any(store.folder == (results / store.study).resolve() for store in found):
        raise UsageError(
            f"{source} is itself what is to be merged into; name another folder by --results DIR"
        )
    return found


def _say(store: Store, merged: Merged, files: _Files, results: Path) -> None:
    second = f" ({agreement(len(merged.differ))})" if merged.repeated else ""
    say(
        f"{store.study}: {merged.new:,} new, {merged.same:,} the same, {merged.repeated:,} of cells with "
        f"another record{second}, from {store.folder} into {results / store.study}"
    )
    for cell, keys in merged.differ[:SHOWN]:
        say(f"  {cell} has other results: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}", "red")
    if len(merged.differ) > SHOWN:
        say(f"  and {len(merged.differ) - SHOWN:,} more; --json lists all", "red")
    if merged.trained:
        say(f"  {counting(merged.trained, 'file')} of trained meta-parameters and checkpoints came too")
    for cell in merged.untrained[:SHOWN]:
        say(f"  {cell} comes without its trained meta-parameters: neither folder has them sound", "red")
    if len(merged.untrained) > SHOWN:
        say(f"  and {len(merged.untrained) - SHOWN:,} more; --json lists all", "red")
    if merged.repeated:
        say(f"  the other records: {results / store.study / 'repeated'}")
    if files.differ:
        say(f"  the study files differ: {files.target} is kept, not {files.source}", "yellow")
    if not files.strangers:
        say(f"  next: {command('status', store.study, results)}")
        return
    say(f"  {of_no_cell(files.strangers)}, {files.target}", "yellow")
    say("  they are kept; a file that asks for what both do makes one study of them")
    say(f"  next: {command('report', store.study, results)} --unasked")
    if files.differ:
        say(f"    or: {command('status', str(files.source), results)}")
