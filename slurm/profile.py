"""Profiles: what a cluster's partition is called and what its jobs may ask for. TOML to `Profile`.

A profile says nothing about a study, and a study nothing about a cluster: the same study runs anywhere.
"""

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.errors import unknown
from bench.toml_files import Fault, find, impossible, read
from bench.toml_lines import Way

PROFILES = Path(__file__).parent / "profiles"
MOST_MINUTES = 366 * 24 * 60.0
DRIVER_GB = 0.5  # of a job: the process that watches the workers
BASE_GB = 0.8  # of a worker without a cell, and of the fresh process of the resident pass beside it
MOST_GRACE_S = 65_535.0  # what sbatch takes with --signal

# Options of sbatch that the launcher or submitit sets itself: what stands instead of them in a profile.
TAKEN = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_worker",
    "gpus": "gpus_per_worker",
    "gpus-per-node": "gpus_per_worker",
    "gpus-per-task": "gpus_per_worker",
    "mem": "memory_gb",
    "mem-per-cpu": "memory_gb",
    "mem-per-gpu": "memory_gb",
    "no-requeue": "requeue",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "signal": "grace_seconds",
    "time": "minutes",
    "wckey": None,
    **dict.fromkeys(
        ["array", "error", "export", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"]
    ),
}


@dataclass(frozen=True)
class Profile:
    """One way of asking a cluster for jobs. What is None is left to the cluster."""

    name: str
    minutes: float  # time limit of a job
    memory_gb: float  # of a worker, where nothing better is predicted
    most_memory_gb: float  # the largest that a job may ask
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    array_parallelism: int = 256  # jobs of one submission at the same time
    requeue: bool = True  # whether Slurm may queue a job again after preemption or the death of its node
    grace_seconds: float = 60.0  # from the warning of a job to its end
    setup: tuple[str, ...] = ()  # shell lines before the job starts
    extra: dict[str, str | int | bool] = field(default_factory=dict)  # further options of sbatch
    source: str = field(default="", compare=False)  # what --profile says to mean this one


def shipped() -> dict[str, Path]:
    """The profiles that come with the package: name -> file."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.toml"))}


def load(profile: str | Path) -> Profile:
    """Read a shipped profile (by name) or a TOML file (by path); the profile's name is the file's stem.

    Raises `UsageError` naming file, line and key for whatever is wrong, with the nearest allowed key.
    """
    path = find("profile", profile, shipped())
    made = read("profile", path, lambda _, raw: _profile(path.stem, raw))
    return replace(made, source=made.name if path in shipped().values() else str(path))


def _profile(name: str, raw: dict[str, Any]) -> Profile:
    for key in raw:
        if key not in _CHECKS:
            raise Fault(str(unknown("key of a profile", key, _CHECKS)), (key,))
    for entry in fields(Profile):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in raw and entry.name != "name":
            raise Fault(f"a profile has {entry.name}; write for example {_EXAMPLES[entry.name]}", ())
    values = {key: _CHECKS[key](key, value) for key, value in raw.items()}
    made = Profile(name, **values)
    if made.most_memory_gb < DRIVER_GB + BASE_GB:
        allowed = (
            f"at least {DRIVER_GB + BASE_GB:g}: {DRIVER_GB:g} GB of a job are its own process's, and "
            f"{BASE_GB:g} GB a worker's before it has a cell"
        )
        raise impossible(raw["most_memory_gb"], allowed, ("most_memory_gb",))
    if made.memory_gb > made.most_memory_gb:
        allowed = f"at most most_memory_gb, which is {made.most_memory_gb:g}"
        raise impossible(raw["memory_gb"], allowed, ("memory_gb",))
    if made.grace_seconds >= made.minutes * 60:
        allowed = f"less than the job's time limit, which is {made.minutes * 60:g} s"
        way: Way = ("grace_seconds",) if "grace_seconds" in raw else ("minutes",)
        raise Fault(f"grace_seconds = {made.grace_seconds!r} is not possible; allowed: {allowed}", way)
    return made


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise impossible(value, "a name that the cluster knows; leave the key out for its default", (key,))
    return value


def _number(least: float, most: float) -> Callable[[str, Any], float]:
    def check(key: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or math.isnan(value) or not least <= value <= most:
            raise impossible(value, f"a number from {least:g} to {most:g}", (key,))
        return float(value)

    return check


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise impossible(value, f"a whole number, {least} or more", (key,))
        return value

    return check


def _yes_or_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise impossible(value, "true, false", (key,))
    return value


def _lines(key: str, value: Any) -> tuple[str, ...]:
    lines = value if isinstance(value, list) else [value]
    for i, line in enumerate(lines):
        if not isinstance(line, str) or not line.strip() or "\n" in line:
            raise impossible(line, "one line of shell, or a list of such lines", (key, i))
    return tuple(lines)


def _options(key: str, value: Any) -> dict[str, str | int | bool]:
    if not isinstance(value, dict):
        raise impossible(value, "a table of sbatch's options, such as exclude = 'node7'", (key,))
    for option, setting in value.items():
        plain, way = option.replace("_", "-"), (key, option)
        if plain in TAKEN:
            instead = f"write {TAKEN[plain]} above [extra]" if TAKEN[plain] else "leave it out"
            raise Fault(f"'{option}' is set by metabench itself; {instead}", way)
        if not re.fullmatch(r"[a-z][a-z0-9-]+", plain):
            raise Fault(f"'{option}' is no long option of sbatch; write it without dashes before it", way)
        if not isinstance(setting, str | int) or "\n" in str(setting) or setting is False:
            raise impossible(setting, "a text, a whole number, or true for an option without value", way)
    return dict(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "partition": _word,
    "account": _word,
    "qos": _word,
    "constraint": _word,
    "minutes": _number(1.0, MOST_MINUTES),
    "memory_gb": _number(0.1, 1e5),
    "most_memory_gb": _number(0.1, 1e5),
    "cpus_per_worker": _whole(1),
    "gpus_per_worker": _whole(0),
    "array_parallelism": _whole(1),
    "requeue": _yes_or_no,
    "grace_seconds": _number(1.0, MOST_GRACE_S),
    "setup": _lines,
    "extra": _options,
}
_EXAMPLES = {
    "minutes": "minutes = 60",
    "memory_gb": "memory_gb = 4",
    "most_memory_gb": "most_memory_gb = 180",
}
