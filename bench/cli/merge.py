"""`metabench merge`: the records of several folders into one."""

from dataclasses import asdict
from pathlib import Path

from bench.cli.standing import command, warn_of
from bench.cli.study import copy_of
from bench.cli.text import say, say_json
from bench.disk import write_whole
from bench.errors import UsageError
from bench.record import Store, studies
from bench.record.merge import Merged, merge

SHOWN = 20


def merge_records(sources: list[Path], results: Path, json: bool) -> int:
    """Bring the records of ``sources`` into ``results``. Returns the exit code."""
    found = [store for source in sources for store in _stores(source, results)]
    done: list[tuple[Store, Merged]] = []
    for store in found:
        target = Store(results, store.study)
        merged = merge(store, target)
        for one in (store, target):
            warn_of(one)
        own = copy_of(store.study, store.root)
        if own.is_file() and not copy_of(store.study, results).exists():
            write_whole(copy_of(store.study, results), own.read_bytes())
        done.append((store, merged))
        if not json:
            _say(store, merged, results)
    if json:
        say_json(
            [{"from": str(store.folder), "study": store.study} | asdict(merged) for store, merged in done]
        )
    return 1 if any(merged.differ for _, merged in done) else 0


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


def _say(store: Store, merged: Merged, results: Path) -> None:
    say(
        f"{store.study}: {merged.new:,} new, {merged.same:,} the same, {merged.repeated:,} of cells with "
        f"another record, from {store.folder}"
    )
    for cell, keys in merged.differ[:SHOWN]:
        say(f"  {cell} has other results: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}", "red")
    if len(merged.differ) > SHOWN:
        say(f"  and {len(merged.differ) - SHOWN:,} more; --json lists all", "red")
    if merged.repeated:
        say(f"  the other records: {results / store.study / 'repeated'}")
    say(f"  next: {command('status', store.study, results)}")
