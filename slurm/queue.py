"""What Slurm says of jobs, and what it is told: one call of a client for many jobs.

squeue is believed about what lives. sacct, where the cluster has accounting at all, lags behind by seconds
and calls a job ended that is queued again; it is asked only for what squeue has forgotten. Jobs are known by
their names: a cluster that was set up anew counts from 1 again, and an id is then somebody else's.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench.errors import UsageError

TIMEOUT_S = 60.0
MOST_IDS = 1000  # in one call: a command line has an end
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")
ENDED += ("BOOT_FAIL", "DEADLINE", "REVOKED")
UNSET = 'SLURM_CONF is not set; of a cluster of your own: eval "$(python3 -m slurm.cluster env)"'
NO_SUCH_JOB = "Invalid job id specified"

_COLUMNS = {"JobArrayID": 64, "State": 64, "Reason": 64, "NodeList": 64, "RestartCnt": 64, "exit_code": 64}
_COLUMNS["Name"] = 300  # above which it is cut, as the others
_ID = re.compile(r"\d+(_\d+)?")
# Variables by which users make the clients say less, ask sbatch for something else, or which a job or an
# interactive shell of Slurm has; and what says which Slurm is meant.
_OPTIONS = ("SBATCH_", "SLURM_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


@dataclass(frozen=True)
class JobState:
    """What Slurm knows of a job; texts are Slurm's own, empty where there are none."""

    id: str
    state: str
    reason: str
    node: str
    alive: bool  # waits, runs or will run again
    restarts: int
    code: str = ""  # how it exited, in words
    name: str = ""

    def __str__(self) -> str:
        return ", ".join([self.state, *filter(None, [self.code])]) + (
            f" ({self.reason})" if self.reason else ""
        )


def missing() -> str | None:
    """Why jobs cannot be submitted from here; None if they can."""
    if lacking := [name for name in CLIENTS if shutil.which(name) is None]:
        return (
            f"there is no Slurm on this machine ({', '.join(lacking)} not on the path). Log in to a cluster, "
            "or make one to test on: python3 -m slurm.cluster up"
        )
    try:
        _run("scontrol", "ping")
    except UsageError as error:
        first, failed, said = str(error).partition(" failed: ")
        if not failed:
            return first
        unset = "" if os.environ.get("SLURM_CONF") else f" ({UNSET})"
        return f"Slurm does not answer{unset}: {said.rpartition('scontrol: ')[2]}"
    return None


def partitions() -> set[str]:
    """The names of the cluster's partitions."""
    return set(_run("sinfo", "--noheader", "--format=%R").split())


def jobs(ids: Iterable[str]) -> dict[str, JobState]:
    """What Slurm knows of jobs such as "12" or "12_3"; "12" of an array stands for all its elements.

    A job that Slurm does not know is left out. Raises `UsageError` where the controller does not answer.
    """
    wanted = set(ids)
    found = _queued(wanted)
    arrays = {_base(job) for job in found}
    forgotten = {job for job in wanted - set(found) if "_" in job or job not in arrays}
    if forgotten and accounting():
        found = _accounted(forgotten) | found
    return found


def named(names: Iterable[str], ids: Iterable[str] = ()) -> dict[str, JobState]:
    """What Slurm knows of all jobs of these names, by id; of ``ids`` also where squeue has forgotten them.

    Raises `UsageError` where the controller does not answer.
    """
    names, wanted = set(names), {job for job in ids if _ID.fullmatch(job)}
    found: dict[str, JobState] = {}
    for some in _chunks(names):
        found |= {
            job: state for job, state in _squeue(f"--name={','.join(some)}").items() if state.name in names
        }
    found |= _among(found, wanted)
    if (forgotten := wanted - set(found)) and accounting():
        found |= _accounted(forgotten, names)
    return found


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; those that have ended stay as they are."""
    for some in _chunks(ids):
        _run("scancel", *some, forgives=NO_SUCH_JOB)


def requeue(job: str) -> None:
    """Stop a job and queue it again; one that has ended lately runs again, too."""
    _run("scontrol", "requeue", job)


@contextmanager
def own_options() -> Iterator[None]:
    """For the block, no variable of the environment says anything to a client but which Slurm is meant."""
    before, clean = dict(os.environ), _environment()
    for key in before.keys() - clean.keys():
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(before)


def most_array_tasks() -> int:
    """How many elements an array may have here."""
    return int(_setting("MaxArraySize")) - 1


def accounting() -> bool:
    """Whether the cluster keeps account of jobs, so that sacct knows those that have ended."""
    return _setting("AccountingStorageType") not in ("accounting_storage/none", "(null)")


def _queued(wanted: set[str]) -> dict[str, JobState]:
    found: dict[str, JobState] = {}
    for some in _chunks(map(_base, wanted)):
        found |= _squeue(f"--jobs={','.join(some)}")
    return _among(found, wanted)


def _squeue(which: str) -> dict[str, JobState]:
    """What squeue knows: the jobs that live, and those that have ended in the last minutes."""
    form = ",".join(f"{column}:{width}" for column, width in _COLUMNS.items())
    found = {}
    said = _run(
        "squeue", "--noheader", "--array", "--states=all", which, f"--Format={form}", forgives=NO_SUCH_JOB
    )
    for line in said.splitlines():
        cells, start = [], 0
        for width in _COLUMNS.values():
            cells.append(line[start : start + width].strip())
            start += width
        job, state, reason, node, restarts, status, name = cells
        code = _exit(int(status) >> 8, int(status) & 127)
        found[job] = JobState(job, state, _text(reason), node, state not in ENDED, int(restarts), code, name)
    return found


def _accounted(wanted: set[str], names: Collection[str] = ()) -> dict[str, JobState]:
    """What sacct knows of jobs (of certain ``names``) that squeue has forgotten: they do not live."""
    found: dict[str, JobState] = {}
    for some in _chunks(map(_base, wanted)):
        arguments = ["--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={','.join(some)}"]
        for line in _run(
            "sacct", *arguments, "--format=JobID,State,Reason,NodeList,ExitCode,JobName"
        ).splitlines():
            job_id, state, reason, node, status, name = line.split("|", 5)
            if names and name not in names:
                continue
            code = _exit(*map(int, status.split(":")))
            state = state.partition(" ")[0]  # "CANCELLED by 0"
            for job in _elements(job_id):
                restarts = found[job].restarts + 1 if job in found else 0  # a line for every run
                found[job] = JobState(job, state, _text(reason), _text(node), False, restarts, code, name)
    return _among(found, wanted)


def _among(found: dict[str, JobState], wanted: set[str]) -> dict[str, JobState]:
    """What is wanted. Elements cancelled before their start may have one line, under the array's id."""
    chosen = {job: state for job, state in found.items() if job in wanted or _base(job) in wanted}
    together = {job: found[_base(job)] for job in wanted - set(found) if _base(job) in found}
    return chosen | {job: replace(state, id=job) for job, state in together.items()}


def _base(job: str) -> str:
    return job.partition("_")[0]


def _exit(code: int, number: int) -> str:
    return f"signal {number}" if number else f"exit code {code}" if code else ""


def _text(said: str) -> str:
    return "" if said in ("None", "None assigned") else said


def _elements(job_id: str) -> Iterator[str]:
    """The jobs of a line of sacct: elements that never started may have one together, "12_[3,5-7%2]"."""
    listed = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job_id)
    if listed is None:
        yield job_id
        return
    for part in listed[2].split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield f"{listed[1]}_{number}"


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    distinct = sorted(set(ids))
    for start in range(0, len(distinct), MOST_IDS):
        yield distinct[start : start + MOST_IDS]


def _setting(name: str) -> str:
    said = _run("scontrol", "show", "config")
    found = re.search(rf"^{name}\s*=\s*(\S+)", said, re.MULTILINE)
    if found is None:
        raise UsageError(f"`scontrol show config` tells no {name}; it said: {said[:200]!r}")
    return found[1]


def _environment() -> dict[str, str]:
    """The environment for clients of Slurm."""
    return {key: v for key, v in os.environ.items() if key in _KEPT or not key.startswith(_OPTIONS)}


def _run(*command: str, forgives: str | None = None) -> str:
    """What a client of Slurm says. ``forgives`` is the complaint that counts as having nothing to say."""
    shown = " ".join(command[:2])
    try:
        answer = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise UsageError(f"there is no Slurm on this machine ({command[0]} is not on the path)") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"Slurm does not answer: `{shown}` was given {TIMEOUT_S:g} s. Try again later"
        ) from error
    if answer.returncode and not (forgives and forgives in answer.stderr):
        said = " ".join((answer.stderr or answer.stdout).split()) or f"exit code {answer.returncode}"
        raise UsageError(f"Slurm's `{shown}` failed: {said}")
    return answer.stdout
