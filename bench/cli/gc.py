"""`metabench gc`: away with what dead processes have left."""

from pathlib import Path

from bench.cli.text import say, size
from bench.errors import UsageError
from bench.record.garbage import find_garbage, remove


def collect_garbage(results: Path, days: float, dry_run: bool) -> int:
    """Remove garbage under ``results``, or only say what it is. Returns the exit code."""
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}; --results DIR names another")
    found = find_garbage(results, days)
    removed = 0
    for garbage in found:
        if dry_run or remove(garbage):
            removed += garbage.size
            say(f"{garbage.path} ({size(garbage.size)}): {garbage.why}")
    say(f"{len(found):,} {'to remove' if dry_run else 'removed'}, {size(removed)}", "bold")
    return 0
