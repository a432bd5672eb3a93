"""From the missing cells of a study to jobs: predict, decline what cannot fit, pack, submit by submitit."""

import io
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from bench.cells import Cell
from bench.errors import UsageError
from bench.inputs import is_compiled
from bench.launch import AGAIN, some
from bench.predict import LOOKED_AT, Prediction, predict
from bench.record import Record, Store, timestamp, unmeasured
from bench.spec import Spec
from slurm import claims, queue
from slurm.job import run_pack
from slurm.pack import Item, Needs, Pack, Packing, arrays, bucket, pack
from slurm.profile import BASE_GB, DRIVER_GB, Profile
from slurm.submission import Planned, Submission, Terms, new

COMPILER_GB = 1.0  # more where kernels are compiled
SLACK = 1.25  # of predicted tensors: what allocators keep
GB = 2**30
TOO_LARGE = "MemoryLimit"
SLURMS_ARRAY_TASKS = 1000  # of a cluster that nobody asks: Slurm's default


@dataclass(frozen=True)
class Plan:
    """What a submission would send, and what it leaves out and why."""

    spec: Spec
    profile: Profile
    planned: list[Planned]
    packs: list[Pack]
    declined: list[Record]  # too large for any job of the profile
    held: int  # cells that live jobs have
    left_out: dict[str, int] = field(default_factory=dict)  # why -> how many cells stay for another profile
    foretold: dict[str, int] = field(default_factory=dict)  # by what the time is predicted -> how many cells
    strangers: int = 0  # records that belong to no cell of the study


def plan(
    spec: Spec,
    cells: Sequence[Cell],
    store: Store,
    profile: Profile,
    how: Packing,
    retry: bool = False,
    held: frozenset[str] | set[str] = frozenset(),
    limit: int | None = None,
    name: Callable[[Cell], str] = lambda cell: "",
) -> Plan:
    """Pack the cells of a study that are missing and not ``held``; ``retry`` adds all that are not ok.

    At most ``limit`` of them, see `bench.launch.some`; logs call each as ``name`` does. Cells that an earlier
    profile was too small for are tried again. Writes nothing. Raises `UsageError` where the packing cannot
    be.
    """
    _check(how, profile)
    status = store.ids()
    failed = {cell.id for cell in cells if status.get(cell.id, "ok") != "ok"} - set(held)
    failed = {i for i in failed if status[i] == "declined" or (retry and status[i] not in AGAIN)}
    records = {record["id"]: record for record in store.each(failed.__contains__)} if failed else {}
    planned, n_held = [], 0
    for cell in cells:
        state = status.get(cell.id)
        if cell.id in held:
            n_held += state in AGAIN
        elif state in AGAIN:
            planned.append(Planned(cell, name=name(cell)))
        elif cell.id in records and (retry or _is_too_large(records[cell.id])):
            planned.append(Planned(cell, records[cell.id]["started"], name(cell)))
    if limit is not None:
        chosen = set(some([one.cell for one in planned], limit))
        planned = [one for one in planned if one.cell in chosen]
    done = (cell for cell in cells if status.get(cell.id) in LOOKED_AT)
    foretold = predict([one.cell for one in planned], done, store.each)
    fitting, items, declined = [], [], []
    left_out: dict[str, int] = {}
    by: dict[str, int] = {}
    demands: dict[int, _Demand] = {}  # cells that differ in the seed alone have one prediction
    for one, prediction in zip(planned, foretold, strict=True):
        if id(prediction) not in demands:
            demands[id(prediction)] = _demand(one.cell, prediction, profile)
        demand = demands[id(prediction)]
        if demand.elsewhere is not None:
            left_out[demand.elsewhere] = left_out.get(demand.elsewhere, 0) + 1
        elif demand.needs is None:
            declined.append(_too_large(spec.name, one.cell, demand, profile))
        else:
            by[prediction.how] = by.get(prediction.how, 0) + 1
            fitting.append(one)
            items.append(Item(one.cell.id, prediction.seconds, demand.needs))
    strangers = len(status.keys() - {cell.id for cell in cells})
    return Plan(spec, profile, fitting, pack(items, how), declined, n_held, left_out, by, strangers)


def packing(
    profile: Profile, minutes: float | None = None, cells: int | None = None, workers: int = 1
) -> Packing:
    """How much goes into a job of a profile; by default 15 minutes, or less where its time limit is short."""
    most = profile.minutes - profile.grace_seconds / 60
    goal = minutes if minutes is not None else min(Packing.minutes, most)
    return Packing(goal, cells, workers, profile.most_memory_gb - DRIVER_GB)


def send(
    of: Plan,
    store: Store,
    parallelism: int | None = None,
    executor: Callable[[Path], Any] = SlurmExecutor,
    most_tasks: Callable[[], int] = queue.most_array_tasks,
    check: Callable[[], None] = lambda: None,
) -> tuple[Submission, list[list[str]]]:
    """Freeze a plan, submit its jobs, lay their claims. Returns the submission and the job ids of each array.

    Raises `UsageError` where sbatch refuses; the arrays before stay submitted, with their claims, and where
    there are none nothing stays. So it does where ``check`` does, which is called before each array.
    """
    submission = new(store.folder.absolute())
    submission.write(_terms(of), of.planned, of.packs)
    sent = []
    for group in arrays(of.packs, most_tasks()):
        check()
        numbers = [one.number for one in group]
        submission.announce(numbers)
        runner = executor(submission.logs)
        runner.update_parameters(**parameters(of, group[0], submission.job_name, parallelism))
        where = [[str(x)] * len(group) for x in (submission.plan, store.root.absolute(), store.study)]
        try:
            # submitit prints what it then raises
            with queue.own_options(), redirect_stderr(io.StringIO()):
                jobs = runner.map_array(run_pack, *where, numbers)
        except (RuntimeError, OSError) as error:  # submitit's errors are RuntimeErrors, with what sbatch said
            if not sent:
                shutil.rmtree(submission.folder, ignore_errors=True)
            raise UsageError(_refusal(of.profile, error, sum(map(len, sent)))) from error
        ids = {number: job.job_id for number, job in zip(numbers, jobs, strict=True)}
        submission.add_jobs(ids)
        claims.lay(submission, ids)
        sent.append(list(ids.values()))
    return submission, sent


def _refusal(profile: Profile, error: Exception, n_before: int) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
    said = f"sbatch refuses a job of profile {profile.name}: {'; '.join(lines)}"
    if "partition" in said:
        said += (
            f". Its partition is {profile.partition or 'the default one'}; `sinfo` lists those of the cluster"
        )
    return said + (f". {n_before} jobs were submitted before" if n_before else "")


def parameters(of: Plan, one: Pack, name: str, parallelism: int | None = None) -> dict[str, Any]:
    """What submitit's executor is told of the jobs of an array; ``one`` of their packs stands for all.

    They are known by their ``name``, which no other submission has.
    """
    profile, needs = of.profile, one.needs
    cpus = one.workers * max(needs.threads, profile.cpus_per_worker)
    memory = DRIVER_GB + one.workers * needs.memory_gb
    requeue = {"requeue": True} if profile.requeue else {"no-requeue": True}
    given = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": math.ceil(profile.minutes),
        "mem": f"{math.ceil(1024 * min(memory, profile.most_memory_gb))}M",
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": one.workers * needs.gpus or None,
        "signal_delay_s": math.ceil(profile.grace_seconds),
        "array_parallelism": parallelism or profile.array_parallelism,
        "setup": list(profile.setup) or None,
        "stderr_to_stdout": True,  # one log, with what plugins print between a cell's lines
        "srun_args": [f"--cpus-per-task={cpus}", "--open-mode=append"],  # srun takes neither from sbatch
        "additional_parameters": {key.replace("_", "-"): v for key, v in profile.extra.items()}
        | requeue
        | {"export": "ALL"},
    }
    return {key: value for key, value in given.items() if value is not None} | {
        "wckey": None
    }  # not submitit's


def scripts(of: Plan, store: Store, most_tasks: int, parallelism: int | None = None) -> list[str]:
    """What would be given to sbatch, one script an array."""
    submission = Submission(store.folder.absolute() / "jobs" / "SUBMISSION")
    folder = submission.logs
    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    made = []
    for group in arrays(of.packs, most_tasks):
        given = parameters(of, group[0], submission.job_name, parallelism)
        count = len(group) if len(group) > 1 else None
        made.append(_make_sbatch_string(command=command, folder=folder, map_count=count, **given))
    return made


def check_folder(folder: Path) -> None:
    """Raise `UsageError` where sbatch would write the logs elsewhere, or could not read the folder's name."""
    if bad := sorted({letter for letter in str(folder) if letter in "%\\" or not letter.isprintable()}):
        raise UsageError(
            f"the folder {str(folder)!r} has {', '.join(map(repr, bad))} in its path, which sbatch takes for "
            "something else; choose one without, by --results DIR"
        )


def _check(how: Packing, profile: Profile) -> None:
    most = profile.minutes - profile.grace_seconds / 60
    if not 0 < how.minutes <= most:
        raise UsageError(
            f"--minutes-per-job {how.minutes:g} does not fit into the {profile.minutes:g} min of profile "
            f"{profile.name} less {profile.grace_seconds:g} s of grace; allowed: above 0, at most {most:g}"
        )


@dataclass(frozen=True)
class _Demand:
    """What a cell takes of a profile: ``needs``, None where no job can hold its memory, or why it is left."""

    needs: Needs | None
    memory_gb: float
    how: str
    elsewhere: str | None


def _demand(cell: Cell, prediction: Prediction, profile: Profile) -> _Demand:
    memory, how = _memory_gb(cell, prediction, profile)
    most = profile.most_memory_gb - DRIVER_GB
    gpus = max(prediction.resources.gpus, profile.gpus_per_worker if _is_on_gpu(cell) else 0)
    needs = Needs(gpus, bucket(memory, most), cell.description["threads"]) if memory <= most else None
    return _Demand(needs, memory, how, _elsewhere(cell, prediction, profile))


def _elsewhere(cell: Cell, prediction: Prediction, profile: Profile) -> str | None:
    """Why a cell is left for another profile; None if it is not."""
    asked = prediction.resources
    if (_is_on_gpu(cell) or asked.gpus) and profile.gpus_per_worker == 0:
        return f"need a GPU, which profile {profile.name} does not ask for (gpus_per_worker)"
    if asked.minutes is not None and asked.minutes > profile.minutes:
        return f"need {asked.minutes:g} min by what their plugins say, and a job has {profile.minutes:g}"
    return None


def _memory_gb(cell: Cell, prediction: Prediction, profile: Profile) -> tuple[float, str]:
    """What a worker holds at its peak with this cell, and how that is known."""
    if prediction.resources.memory_gb is not None:
        return prediction.resources.memory_gb, "asked for by its plugins"
    if prediction.memory is None:
        return min(profile.memory_gb, profile.most_memory_gb - DRIVER_GB), "the profile's"
    base = BASE_GB + COMPILER_GB * is_compiled(cell.description)
    return base + SLACK * prediction.memory / GB, "predicted"


def _is_on_gpu(cell: Cell) -> bool:
    return str(cell.description["device"]).startswith("cuda")


def _too_large(study: str, cell: Cell, demand: _Demand, profile: Profile) -> Record:
    most = profile.most_memory_gb - DRIVER_GB
    message = (
        f"needs {demand.memory_gb:.1f} GB ({demand.how}), and a worker gets at most {most:.1f} GB in a job "
        f"of profile {profile.name} (most_memory_gb = {profile.most_memory_gb:g}); a profile with more takes "
        "it up again"
    )
    reason = {"message": message, "type": TOO_LARGE, "traceback": None}
    return unmeasured(study, cell.id, cell.description, "declined", reason, 0.0)


def _is_too_large(record: Record) -> bool:
    return (record["reason"] or {}).get("type") == TOO_LARGE


def _terms(of: Plan) -> Terms:
    profile, limit = of.profile, of.spec.time_limit
    named = (of.spec.name, profile.name, profile.minutes, profile.grace_seconds, profile.requeue, limit)
    return Terms(*named, time=timestamp(), source=profile.source)
