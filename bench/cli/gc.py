"""`metabench gc`: away with what dead processes have left."""

from pathlib import Path

from bench.cli.text import say, size
from bench.errors import UsageError
from bench.record.garbage import find_garbage, remove
from slurm.claims import YOUNG_DAYS, living


def collect_garbage(results: Path, days: float, dry_run: bool) -> int:
    """Remove garbage under ``results``, or only say what it is. Returns the exit code."""
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}; --results DIR names another")
    found = find_garbage(results, days)
    kept, silence = living([one.path for one in found if one.path.parent.name == "jobs"])
    found = [one for one in found if one.path not in kept]
    for path in sorted(kept):
        why = f"its claims are younger than {YOUNG_DAYS:g} days" if silence else "Slurm lists its jobs"
        say(f"{path} is kept: {why}", "yellow")
    if kept and silence:
        say(f"whether these have jobs is not known: {silence}", "yellow")
    removed = 0
    for garbage in found:
        if dry_run or remove(garbage):
            removed += garbage.size
            say(f"{garbage.path} ({size(garbage.size)}): {garbage.why}")
    say(f"{len(found):,} {'to remove' if dry_run else 'removed'}, {size(removed)}", "bold")
    return 0
