"""`metabench compact`: the loose records of studies into Parquet files."""

from pathlib import Path

from bench.cli.standing import command, warn_of
from bench.cli.study import load_for_reading
from bench.cli.text import say, size, warn
from bench.record import Store

NOTHING = 3


def compact_records(studies: list[str], results: Path) -> int:
    """Move the loose records of each study into parts. Returns the exit code."""
    code = 0
    for study in studies:
        store = Store(results, load_for_reading(study, results).name)
        if not store.ids():
            warn(f"nothing is measured of {study} under {results}; first: {command('run', study, results)}")
            code = NOTHING
            continue
        paths = store.compact()
        warn_of(store)
        where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {store.folder}"
        say(f"{len(store.ids()):,} records in {where} ({size(sum(path.stat().st_size for path in paths))})")
    return code
