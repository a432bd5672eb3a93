"""What tests of the launcher use in Slurm's place: a queue that says what it is told to, and clients."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.cells import Cell
from bench.record import Store
from slurm.pack import Item, Needs, Packing, pack
from slurm.queue import JobState
from slurm.submission import Planned, Submission, Terms, new

TERMS = Terms("demo", "test", minutes=10.0, grace_seconds=4.0, requeue=True, time_limit=300.0)


@dataclass
class FakeQueue:
    """Job id -> state; jobs in a state of `slurm.queue.ENDED` are dead."""

    states: dict[str, str] = field(default_factory=dict)
    silence: str | None = None
    asked: list[list[str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # of jobs that have not the first name asked for

    def missing(self) -> str | None:
        return self.silence

    def named(self, names: Iterable[str], ids: Iterable[str] = ()) -> dict[str, JobState]:
        self.asked.append(list(ids))
        found = {job: self._state(job, next(iter(names))) for job in self.states}
        return {job: state for job, state in found.items() if state.name in set(names)}

    def _state(self, job: str, name: str) -> JobState:
        state, alive = self.states[job], ("PENDING", "RUNNING", "NODE_FAIL")
        return JobState(job, state, "", "n1", state in alive, 0, name=self.names.get(job, name))


def submitted(
    store: Store, cells: list[Cell], terms: Terms = TERMS, per_job: int = 100, **needs
) -> Submission:
    """A submission of ``cells`` as `slurm.submit.send` writes it, without any job."""
    submission = new(store.folder.absolute())
    items = [Item(cell.id, 1.0, Needs(**needs)) for cell in cells]
    submission.write(terms, [Planned(cell) for cell in cells], pack(items, Packing(cells=per_job)))
    return submission


def install_clients(folder: Path, state: str = "RUNNING") -> Path:
    """squeue and the others as scripts in ``folder``, for which every job is ``state``. Returns their log.

    Asked for a name, squeue tells of one job, 5.
    """
    folder.mkdir()
    log = folder / "log"
    job = "job=5; for a; do case $a in --jobs=*) job=${a#--jobs=};; --name=*) name=${a#--name=};; esac; done"
    row = f'printf \'%-64s%-64s%-64s%-64s%-64s%-64s%-300s\\n\' "$job" {state} None n1 0 0 "$name"'
    settings = "AccountingStorageType = accounting_storage/none\\nMaxArraySize = 1001\\n"
    refusal = (
        "printf 'sbatch: error: invalid partition specified: cpu\\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\\n'"
    )
    scripts = {
        "squeue": f"{job}\n{row}",
        "scontrol": f'case $1 in show) printf "{settings}";; esac',
        "scancel": "true",
        "sbatch": f"{refusal} >&2; exit 1",
        "sinfo": "printf 'low\\nhigh\\n'",
        "srun": "true",
    }
    for name, body in scripts.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{body}\n')
        path.chmod(0o755)
    return log
