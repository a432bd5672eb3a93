"""`metabench submit`, `logs` and `cancel`: the jobs of a study on a Slurm cluster."""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bench.cells import expand
from bench.cli.foretell import Foretold, work_ahead
from bench.cli.label import label, varying
from bench.cli.standing import command, say_strangers
from bench.cli.study import keep_copy, load
from bench.cli.text import columns, counting, say, say_json, warn
from bench.cli.watch import last_profile
from bench.disk import StoreError
from bench.errors import UsageError, unknown
from bench.record import Store, find, studies
from slurm import claims, ends, queue
from slurm.claims import Survey
from slurm.lock import submitting
from slurm.pack import Needs, Pack
from slurm.profile import Profile
from slurm.profile import load as load_profile
from slurm.submission import submissions
from slurm.submit import SLURMS_ARRAY_TASKS, Plan, check_folder, packing, plan, scripts, send

SHOWN_PACKS = 20
SHOWN_LINES = 20
_LINE = re.compile(r"\S+Z (start|done|given_up|job) (\w+)")


def submit_study(
    study: str,
    profile: str,
    results: Path,
    *,
    cells: int | None,
    minutes: float | None,
    workers: int,
    parallelism: int | None,
    limit: int | None,
    retry: bool,
    dry_run: bool,
    json: bool,
) -> int:
    """Submit what is missing of a study, or show what would be. Returns the exit code."""
    if cells is not None and minutes is not None:
        raise UsageError(
            "--cells-per-job and --minutes-per-job both say how much a job does; give one of them"
        )
    spec, ask = load(study, results), load_profile(profile)
    how = packing(ask, minutes, cells, workers)
    store = Store(results, spec.name)
    check_folder(store.folder.absolute())
    everything = expand(spec)
    keys = varying(cell.description for cell in everything)

    def planned(held: set[str]) -> Plan:
        name = lambda cell: label(cell.description, keys)  # noqa: E731
        return plan(spec, everything, store, ask, how, retry, held, limit, name)

    if dry_run:
        made = planned(claims.survey(store.folder).taken())
        _show(made, store, parallelism, json)
        return _code(made)
    if reason := queue.missing():
        raise UsageError(f"{reason}. `metabench run` needs no Slurm, `metabench submit --dry-run` neither")
    with submitting(store.folder) as still_ours:
        standing = _settled(store)
        made = planned(standing.taken())
        for record in made.declined:
            store.write(record)
        sent = None
        if made.packs:
            keep_copy(spec, results)
            sent = send(made, store, parallelism, check=still_ours)
    if json:
        jobs = [job for array in sent[1] for job in array] if sent else []
        say_json(_plain(made) | {"jobs": jobs, "folder": str(sent[0].folder) if sent else None})
        return _code(made)
    _summary(made)
    if sent:
        submission, arrays = sent
        n = sum(map(len, arrays))
        say(f"submitted {counting(n, 'job')}: {', '.join(map(_array, arrays))}", "bold green")
        say(f"logs: {submission.logs}")
        say(f"next: {command('status', study, results, '--watch')}")
    return _code(made)


def _settled(store: Store) -> Survey:
    """The claims once what dead jobs have left is noted and told; for who has the lock."""
    standing = claims.survey(store.folder)
    if unfit := claims.adopt(standing):
        queue.cancel(unfit)
        warn(f"a submit that died has sent jobs without their task; cancelled: {', '.join(unfit)}")
        standing = claims.survey(store.folder)
    if standing.silence:
        raise UsageError(f"{standing.silence}. Nothing is sent: what live jobs have is not known")
    for record in ends.settle(store, standing):
        warn(f"{record['id']} {record['status']}: {record['reason']['message']}")
    for one in standing.alive():
        if not one.claim.cells:
            raise UsageError(
                f"which cells job {one.claim.job} has cannot be read from {one.submission.folder}; wait for "
                "its end, or `metabench cancel` it, and submit again"
            )
    for line in ends.lines(ends.noted(store.folder, store.ids(), standing.taken())):
        warn(line)
    return standing


def show_logs(prefix: str, results: Path, study: str | None) -> int:
    """Print the lines of the jobs that had a cell, from its start to its end. Returns the exit code."""
    found: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for name in [study] if study else submitted(results):
        for submission in submissions(results / name):
            try:
                jobs, packs = submission.jobs(), submission.packs()
            except StoreError as error:
                warn(str(error))
                continue
            for number, pack in packs.items():
                for cell in pack.ids:
                    if cell.startswith(prefix.lower()):
                        job = jobs.get(number)
                        found.setdefault((name, cell), []).extend([(job, submission.log(job))] if job else [])
    if not found:
        elsewhere = ""
        if any(study in (None, name) for name, _ in find(results, prefix.lower())):
            elsewhere = (
                "; there is a record of it, which was made by `metabench run` or merged: logs stay in the "
                "folder of results of the cluster that ran it"
            )
        raise UsageError(
            f"no submitted cell under {results} has an id that begins with '{prefix}'{elsewhere}"
        )
    if len(found) > 1:
        listed = "\n".join(f"  {cell} of {name}" for name, cell in list(found)[:20])
        raise UsageError(f"{len(found)} cells begin with '{prefix}'; give more of the id:\n{listed}")
    ((_, cell), places) = next(iter(found.items()))
    shown = False
    for job, path in places:
        lines = list(_between(path, cell))
        shown |= bool(lines)
        say(f"job {job}: {path}" + ("" if lines else " has no line of this cell yet"), "bold")
        for number, line in lines or _tail(path):
            say(f"{number:6d}  {line}")
    return 0 if shown else 1


def cancel_study(study: str, results: Path) -> int:
    """Cancel the live jobs of a study. Returns the exit code."""
    spec = load(study, results)
    if reason := queue.missing():
        raise UsageError(reason)
    store = Store(results, spec.name)
    standing = claims.survey(store.folder)
    if standing.silence:  # an id that squeue has not just given may be somebody else's
        raise UsageError(standing.silence)
    alive = [one for one in standing.alive() if one.state is not None]
    left = claims.unfinished(alive, store, store.ids())
    queue.cancel({one.claim.job.partition("_")[0] for one in alive})  # arrays are whole submissions of ours
    claims.withdraw(standing)
    if not alive:
        say(f"{spec.name} has no jobs to cancel")
        return 0
    cells = counting(len(left), "unfinished cell")
    say(f"cancelled {counting(len(alive), 'job')} with {cells}; finished ones are kept")
    say(f"next: {command('submit', study, results, '--profile', last_profile(store.folder) or 'NAME')}")
    return 0


def _show(made: Plan, store: Store, parallelism: int | None, json: bool) -> None:
    silent = queue.missing() is not None
    if not silent:
        _check_partition(made.profile)
    tasks = SLURMS_ARRAY_TASKS if silent else queue.most_array_tasks()
    texts = scripts(made, store, tasks, parallelism)
    if json:
        say_json(_plain(made) | {"scripts": texts})
        return
    _summary(made)
    for number, text in enumerate(texts):
        say()
        say(f"sbatch script {number + 1} of {len(texts)}", "bold")
        say(text)
    if texts:
        say(f"nothing is submitted (--dry-run); arrays have at most {tasks:,} jobs")


def _check_partition(profile: Profile) -> None:
    """Warn of partitions that Slurm does not have; nothing where it does not tell."""
    with suppress(UsageError):
        there = queue.partitions()
        for name in (profile.partition or "").split(","):
            if name and name not in there:
                warn(f"profile {profile.name}: {unknown('partition', name, there)}")


def _array(jobs: list[str]) -> str:
    number, _, task = jobs[0].partition("_")
    return f"job array {number} with {counting(len(jobs), 'task')}" if task else f"job {number}"


def _summary(made: Plan) -> None:
    n = sum(len(one.ids) for one in made.packs)
    say(f"{made.spec.name} on profile {made.profile.name}: {counting(n, 'cell')} to send", "bold")
    say_strangers(made.strangers)
    if made.held:
        say(f"  {counting(made.held, 'cell')} with live jobs already")
    for reason, count in made.left_out.items():
        say(f"  {counting(count, 'cell')} left out, which {reason}", "yellow")
    if made.declined:
        say(
            f"  {counting(len(made.declined), 'cell')} declined, for example {made.declined[0]['id']}, which",
            "yellow",
        )
        say(f"    {made.declined[0]['reason']['message']}", "yellow")
    if not made.packs:
        say("  nothing to submit")
        return
    say(f"  {work_ahead(Foretold(sum(one.seconds for one in made.packs), made.foretold))}")
    say()
    for line in columns(_table(made.packs)):
        say(line)


def _table(packs: list[Pack]) -> list[tuple[object, ...]]:
    """One row a job where they are few, else one a resource class."""
    head = ("jobs", "cells", "minutes", "workers", "memory GB", "threads", "GPUs")
    if len(packs) <= SHOWN_PACKS:
        rows = [_row(str(one.number), [one]) for one in packs]
    else:
        classes: dict[tuple[Needs, int], list[Pack]] = {}
        for one in packs:
            classes.setdefault((one.needs, one.workers), []).append(one)
        rows = [_row(f"{len(members):,}", members) for members in classes.values()]
    return [("job" if len(packs) <= SHOWN_PACKS else head[0], *head[1:]), *rows]


def _row(first: str, packs: list[Pack]) -> tuple[object, ...]:
    minutes = sorted(one.minutes for one in packs)
    span = f"{minutes[0]:.1f}" if len(packs) == 1 else f"{minutes[0]:.1f} to {minutes[-1]:.1f}"
    needs = packs[0].needs
    cells = sum(len(one.ids) for one in packs)
    return (first, f"{cells:,}", span, packs[0].workers, f"{needs.memory_gb:g}", needs.threads, needs.gpus)


def _code(made: Plan) -> int:
    return 1 if not made.packs and (made.declined or made.left_out) else 0


def _plain(made: Plan) -> dict[str, object]:
    return {
        "study": made.spec.name,
        "profile": made.profile.name,
        "packs": [asdict(one) | {"minutes": one.minutes} for one in made.packs],
        "held": made.held,
        "of_no_cell": made.strangers,
        "declined": [record["id"] for record in made.declined],
        "left_out": made.left_out,
        "predicted_by": made.foretold,
    }


def submitted(results: Path) -> list[str]:
    """The studies under ``results`` that have records or were submitted."""
    return sorted({path.parent.name for path in results.glob("*/jobs")} | set(studies(results)))


def _between(path: Path, cell: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a log from every start of a cell to its end, or to the log's."""
    if not path.is_file():
        return
    inside = False
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            mark = _LINE.match(line)
            kind, name = mark.groups() if mark else ("", "")
            if kind == "job":  # the next run of a job that was ended in the middle
                inside = False
            inside |= kind == "start" and name == cell
            if inside:
                yield number, line.rstrip("\n")
            inside &= not (kind in ("done", "given_up") and name == cell)


def _tail(path: Path) -> list[tuple[int, str]]:
    """The last lines of a log, numbered; it may tell why a job has not come to its cells."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return list(deque(((number, line.rstrip("\n")) for number, line in enumerate(file, 1)), SHOWN_LINES))
