"""From missing cells to jobs: what is sent, what is declined, and the verbs around it. No Slurm is needed."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import submitit

from bench import spec
from bench.cells import expand
from bench.cli import jobs
from bench.errors import UsageError
from bench.launch import some
from bench.plugin import Resources
from bench.record import Store, timestamp, unmeasured
from slurm import claims, queue
from slurm.claims import survey
from slurm.pack import Item, Packing, pack
from slurm.profile import Profile
from slurm.submission import Planned, new, submissions
from slurm.submit import packing, parameters, plan, scripts, send
from tests.command_line import TINY, metabench
from tests.fake_slurm import TERMS, FakeQueue, install_clients, submitted
from tests.toy_cells import cell as toy
from tests.toy_cells import register_toys

CPU = Profile("cpu", minutes=30.0, memory_gb=2.0, most_memory_gb=16.0)
GPU = Profile("gpu", minutes=30.0, memory_gb=2.0, most_memory_gb=16.0, gpus_per_worker=1, cpus_per_worker=4)
PATIENCE_S = 180.0


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The tiny study of four cells in an empty current folder, without Slurm on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    Path("tiny.toml").write_text(TINY)
    return spec.load("tiny.toml")


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """What is predicted must not depend on how busy the machine is."""
    monkeypatch.setattr("bench.predict.BUDGET_S", 600.0)


@pytest.fixture
def store(tiny) -> Store:
    return Store(Path("results"), "tiny")


def planned(of, store, profile=CPU, cells=None, **options):
    return plan(of, expand(of) if cells is None else cells, store, profile, packing(profile), **options)


def ids(made) -> set[str]:
    return {cell for one in made.packs for cell in one.ids}


def test_only_what_is_missing_and_not_with_live_jobs_is_sent(tiny, store):
    ok, killed, failed, held = cells = expand(tiny)
    for cell, status in ((ok, "ok"), (killed, "killed"), (failed, "error")):
        store.write(unmeasured("tiny", cell.id, cell.description, status, {"message": "", "type": None}, 1.0))
    made = planned(tiny, store, held={held.id, ok.id})
    assert (ids(made), made.held) == ({killed.id}, 1)
    made = planned(tiny, store, held={held.id}, retry=True)
    assert ids(made) == {killed.id, failed.id}
    before = {one.cell.id: one.before for one in made.planned}
    assert before == {killed.id: "", failed.id: store.read(failed.id)["started"]}
    assert planned(tiny, store, held={cell.id for cell in cells}).packs == []


def test_a_cell_that_no_job_can_hold_is_declined_with_both_numbers_until_one_can(tiny, store, monkeypatch):
    toys = register_toys(monkeypatch)
    monkeypatch.setattr(toys.ToyMethod, "resources", Resources(memory_gb=20.0))
    cells = [toy(seed=0), toy("raise", problem={"name": "toy", "strength": 1.0})]
    made = planned(tiny, store, cells=cells)
    assert made.packs == []
    record = made.declined[0]
    assert record["status"] == "declined"
    assert re.match(
        r"needs 20.0 GB \(asked for by its plugins\), and a worker gets at most 15.5 GB in a job of profile "
        r"cpu \(most_memory_gb = 16\)",
        record["reason"]["message"],
    )
    for one in made.declined:
        store.write(one)
    larger = Profile("big", minutes=30.0, memory_gb=2.0, most_memory_gb=64.0)
    made = planned(tiny, store, larger, cells)
    assert ids(made) == {one.id for one in cells}
    assert {one.needs.memory_gb for one in made.packs} == {32.0}
    assert all(one.before for one in made.planned)
    refusal = unmeasured(
        "tiny", cells[0].id, cells[0].description, "declined", {"message": "no", "type": "Declined"}, 0
    )
    store.write(refusal)  # by its method, for good
    assert ids(planned(tiny, store, larger, cells)) == {cells[1].id}


def test_cells_on_gpus_wait_for_a_profile_with_some(tiny, store, monkeypatch):
    toys = register_toys(monkeypatch)
    cpu, cuda = toy(), toy(device="cuda")
    made = planned(tiny, store, cells=[cpu, cuda])
    assert ids(made) == {cpu.id}
    assert list(made.left_out.values()) == [1]
    made = planned(tiny, store, GPU, [cpu, cuda])
    assert {one.ids: one.needs.gpus for one in made.packs} == {(cpu.id,): 0, (cuda.id,): 1}
    monkeypatch.setattr(toys.ToyMethod, "resources", Resources(gpus=2, minutes=20.0))
    made = planned(tiny, store, GPU, [cpu])
    assert [(one.needs.gpus, one.seconds) for one in made.packs] == [(2, 1200.0)]
    monkeypatch.setattr(toys.ToyMethod, "resources", Resources(minutes=40.0))
    made = planned(tiny, store, GPU, [cpu])
    assert (made.packs, len(made.left_out)) == ([], 1)


def test_what_sbatch_is_asked_for(tiny, store):
    profile = Profile(
        "long", minutes=29.5, memory_gb=2.0, most_memory_gb=16.0, partition="p", account="a", qos="q",
        constraint="c", cpus_per_worker=3, array_parallelism=7, requeue=False, grace_seconds=45.0,
        setup=("module load x", "export A='b c'"), extra={"exclude": "n7", "reservation": "r"},
    )  # fmt: skip
    made = plan(tiny, expand(tiny), store, profile, packing(profile, cells=2, workers=2))
    (script,) = scripts(made, store, 1000)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE))
    expected = {
        "partition": "p", "account": "a", "qos": "q", "constraint": "c", "time": "30", "cpus-per-task": "6",
        "array": "0-1%2", "signal": "USR2@45", "exclude": "n7", "reservation": "r", "no-requeue": "",
        "mem": "2560M", "nodes": "1", "job-name": "tiny-SUBMISSION", "export": "ALL", "open-mode": "append",
    }  # fmt: skip
    assert expected.items() <= options.items()
    assert not {"requeue", "error", "wckey", "gpus-per-node"} & set(options)
    assert script.index("module load x") < script.index("export A='b c'") < script.index("srun")
    assert "--cpus-per-task=6" in script.split("srun")[1]
    assert parameters(made, made.packs[0], "name", 3)["array_parallelism"] == 3
    assert len(scripts(made, store, 1)) == 2  # arrays of one are plain jobs
    assert "--array" not in scripts(made, store, 1)[0]


@pytest.mark.parametrize(("minutes", "allowed"), [(30.0, "at most 29"), (0.0, "above 0")])
def test_a_job_must_fit_its_time_limit(tiny, store, minutes, allowed):
    with pytest.raises(
        UsageError, match=rf"--minutes-per-job {minutes:g} .*30 min of profile cpu.*{allowed}"
    ):
        plan(tiny, expand(tiny), store, CPU, packing(CPU, minutes))
    short = Profile("short", minutes=5.0, memory_gb=2.0, most_memory_gb=16.0)
    assert packing(short).minutes == 4.0  # not 15


class Local:
    """submitit's executor of processes on this machine, for every array one."""

    def __init__(self, folder: Path):
        self._executor = submitit.LocalExecutor(folder)
        self.jobs: list = []

    def update_parameters(self, **given) -> None:
        self._executor.update_parameters(**given)

    def map_array(self, *arguments) -> list:
        self.jobs = self._executor.map_array(*arguments)
        return self.jobs


def test_jobs_run_what_was_planned_and_nothing_twice(tiny, store, monkeypatch):
    """From the plan through submitit's pickle and its own process to the store."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    executors: list[Local] = []

    def local(folder: Path) -> Local:
        executors.append(Local(folder))
        return executors[-1]

    made = plan(tiny, expand(tiny), store, CPU, Packing(cells=3))
    submission, arrays = send(made, store, executor=local, most_tasks=lambda: 1)
    assert [len(array) for array in arrays] == [1, 1]
    assert [[job] for job in submission.jobs().values()] == arrays
    counts = [job.result() for executor in executors for job in executor.jobs]
    assert counts == [{"ok": 3}, {"ok": 1}]  # and no records: those are in the store
    for executor in executors:
        for job in executor.jobs:
            job._process.wait(PATIENCE_S)
    assert set(store.ids().values()) == {"ok"}
    assert set(store.ids()) == {cell.id for cell in expand(tiny)}
    texts = [path.read_text() for path in submission.logs.glob("*_0_log.out")]
    for cell in expand(tiny):
        assert sum(f"start {cell.id}" in text for text in texts) == 1
        assert sum(f"done {cell.id} ok" in text for text in texts) == 1
    assert survey(store.folder, FakeQueue()).held == []


def test_a_refusal_of_sbatch_is_one_error(tiny, store, monkeypatch):
    install_clients(Path("bin"))
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    done = metabench("submit", "tiny.toml", "--profile", "cpu")
    assert done.code == 2
    told = (
        "sbatch refuses a job of profile cpu: invalid partition specified: cpu; Batch job submission failed"
    )
    assert told in done.err
    assert "`sinfo` lists" in done.err
    assert done.err.count("invalid partition") == 1
    assert list((store.folder / "jobs").iterdir()) == []


def test_a_dry_run_where_slurm_answers_looks_at_the_partition(tiny, monkeypatch):
    install_clients(Path("bin"))
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    Path("mine.toml").write_text('partition = "hihg"\nminutes = 9\nmemory_gb = 1\nmost_memory_gb = 4\n')
    done = metabench("submit", "tiny.toml", "--profile", "mine.toml", "--dry-run")
    assert done.code == 0, done.err
    assert "profile mine: unknown partition 'hihg'; did you mean 'high'?" in done.err
    assert "partition" not in metabench("submit", "tiny.toml", "--profile", "test", "--dry-run").err


def test_what_sbatch_is_asked_for_is_not_changed_by_the_environment(tiny, store, monkeypatch):
    """Variables of sbatch's own, and those that a shell within a job has."""
    install_clients(Path("bin"))
    seen = Path("seen").absolute()
    (Path("bin") / "sbatch").write_text(f"#!/bin/sh\nenv > {seen}\necho Submitted batch job 5\n")
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    given = {
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_ARRAY_JOB_ID": "9",
        "SBATCH_EXPORT": "NONE",
        "SRUN_DEBUG": "3",
    }
    kept = {"SLURM_CONF": "/etc/one", "SLURM_CLUSTERS": "one", "OWN": "variable"}
    for name, value in (given | kept).items():
        monkeypatch.setenv(name, value)
    done = metabench("submit", "tiny.toml", "--profile", "cpu")
    assert done.code == 0, done.err
    environment = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert not set(given) & set(environment)
    assert kept.items() <= environment.items()
    assert {name: os.environ[name] for name in given} == given  # ours is as it was
    (submission,) = submissions(store.folder)
    assert submission.job_name == f"tiny-{submission.folder.name}"
    assert f"#SBATCH --job-name={submission.job_name}\n" in next(submission.logs.glob("*.sh")).read_text()
    assert submission.jobs() == {0: "5"}
    assert [path.stem for path in submission.claims.iterdir()] == ["5"]


def test_the_packs_of_an_array_are_noted_before_sbatch_takes_it(tiny, store):
    """Whatever happens then, what its jobs have can be told from their name."""

    class Dying(Local):
        def map_array(self, *arguments) -> list:
            raise KeyboardInterrupt

    made = plan(tiny, expand(tiny), store, CPU, Packing(cells=3))
    with pytest.raises(KeyboardInterrupt):
        send(made, store, executor=Dying, most_tasks=lambda: 1000)
    (submission,) = submissions(store.folder)
    assert submission.packs_of(["8_0", "8_1"]) == {"8_0": 0, "8_1": 1}
    of = survey(store.folder, FakeQueue({"8_0": "PENDING", "8_1": "PENDING"}))
    assert of.taken() == {cell.id for cell in expand(tiny)}


def test_nothing_is_sent_once_another_submit_has_the_lock(tiny, store):
    def taken_over() -> None:
        raise UsageError("taken over")

    made = plan(tiny, expand(tiny), store, CPU, Packing(cells=3))
    with pytest.raises(UsageError, match="taken over"):
        send(made, store, executor=Local, most_tasks=lambda: 1, check=taken_over)
    assert submissions(store.folder)[0].jobs() == {}


@pytest.mark.parametrize("name", ["res %j", "100%", "back\\slash", "new\nline"])
def test_a_folder_that_sbatch_would_misread_is_refused(tiny, name):
    for options in ([], ["--dry-run"]):
        done = metabench("submit", "tiny.toml", "--profile", "cpu", "--results", name, *options)
        assert (done.code, "sbatch takes for something else" in done.err) == (2, True), done.err
    assert not Path(name).exists()


def test_where_slurm_falls_silent_nothing_is_sent_or_cancelled(tiny, store, monkeypatch):
    """A job that waits gives no sign of life but in squeue; an id of a claim may be somebody else's now."""
    install_clients(Path("bin"))
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    claims.lay(submitted(store, expand(tiny)), {0: "5"})
    answers = iter([None, "no answer", None, "no answer"])
    monkeypatch.setattr("slurm.queue.missing", lambda: next(answers))
    for verb in (["submit", "tiny.toml", "--profile", "cpu"], ["cancel", "tiny.toml"]):
        done = metabench(*verb)
        assert (done.code, "no answer" in done.err) == (2, True), done.err
    assert not (Path("bin") / "log").exists()


def test_jobs_of_others_are_not_cancelled(tiny, store, monkeypatch):
    """The cluster was set up anew, and has given our job's id to somebody else."""
    install_clients(Path("bin"))
    squeue = Path("bin") / "squeue"
    squeue.write_text(squeue.read_text().replace('"$name"', '"of-somebody-else"'))
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    claims.lay(submitted(store, expand(tiny)), {0: "5"})
    done = metabench("cancel", "tiny.toml")
    assert (done.code, done.out.strip()) == (0, "tiny has no jobs to cancel")
    assert "scancel" not in (Path("bin") / "log").read_text()


def test_a_job_that_failed_early_is_told_with_its_log(tiny, store, monkeypatch):
    install_clients(Path("bin"), state="FAILED")
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    submission = submitted(store, expand(tiny))
    submission.add_jobs({0: "5"})
    claims.lay(submission, {0: "5"})
    submission.log("5").write_text("\n".join(f"line {i}" for i in range(50)) + "\nmodule: not found\n")
    for _ in range(2):
        shown = metabench("status", "tiny.toml")
        assert "1 job has ended and left 4 cells undone: FAILED\n" in shown.out
        assert f"job 5, which wrote {submission.log('5').relative_to(Path.cwd())}" in shown.out
    (ended,) = metabench("status", "tiny.toml", "--json").json()["jobs"]["ended"]
    assert (ended["job"], len(ended["cells"])) == ("5", 4)
    told = metabench("logs", expand(tiny)[0].id)
    assert told.code == 1
    assert told.out.splitlines()[-1].split() == ["51", "module:", "not", "found"]
    assert len(told.out.splitlines()) == 21
    assert "FAILED" in metabench("submit", "tiny.toml", "--profile", "cpu").err


def test_a_damaged_submission_does_not_hide_the_logs_of_others(tiny, store):
    cells = expand(tiny)
    damaged, sound = submitted(store, cells), submitted(store, cells)
    sound.add_jobs({0: "5"})
    (damaged.folder / "submission.json").write_text('{"study": "ti')
    told = metabench("logs", cells[0].id)
    assert f"cannot read {damaged.folder.relative_to(Path.cwd())}/submission.json: it is damaged" in told.err
    assert "job 5" in told.out


def test_dry_run_needs_no_slurm_and_writes_nothing(tiny, store):
    done = metabench("submit", "tiny.toml", "--profile", "cpu", "--cells-per-job", 3, "--dry-run")
    assert done.code == 0, done.err
    assert "4 cells to send" in done.out
    assert re.search(r"^ +job +cells +minutes +workers +memory GB", done.out, re.MULTILINE)
    assert re.search(r"^ +0 +3 ", done.out, re.MULTILINE)
    assert re.search(r"^ +1 +1 ", done.out, re.MULTILINE)
    assert "#SBATCH --array=0-1%2" in done.out
    assert "nothing is submitted" in done.out
    assert not Path("results").exists()
    told = metabench("submit", "tiny.toml", "--profile", "cpu", "--dry-run", "--json").json()
    assert [len(one["ids"]) for one in told["packs"]] == [4]
    assert told["scripts"][0].startswith("#!/bin/bash")


def test_wrong_usage(tiny):
    for arguments, message in [
        (["--profile", "cup", "--dry-run"], r"unknown profile 'cup'; did you mean 'cpu'\?"),
        (["--profile", "none.toml"], "there is no profile file none.toml"),
        (["--profile", "cpu"], r"no Slurm .*--dry-run"),
        (["--profile", "cpu", "--cells-per-job", "2", "--minutes-per-job", "3"], "give one of them"),
        (["--profile", "cpu", "--cells-per-job", "0"], "cells-per-job"),
    ]:
        done = metabench("submit", "tiny.toml", *arguments)
        assert done.code == 2, done.out
        assert re.search(message, re.sub(r"\s+", " ", done.err)), done.err
    done = metabench("cancel", "tiny.toml")
    assert (done.code, "no Slurm" in done.err) == (2, True)


def test_nothing_to_submit_is_said_and_no_error(tiny, store, monkeypatch):
    install_clients(Path("bin"))
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    cells = expand(tiny)
    for cell in cells[:2]:
        store.write(unmeasured("tiny", cell.id, cell.description, "ok", {"message": "", "type": None}, 1.0))
    submission = submitted(store, cells[2:])
    claims.lay(submission, {0: "5"})  # the script says RUNNING of any job
    done = metabench("submit", "tiny.toml", "--profile", "cpu")
    assert done.code == 0, done.err
    assert "2 cells with live jobs already" in done.out
    assert "nothing to submit" in done.out
    status = metabench("status", "tiny.toml", "--json").json()
    assert status["jobs"]["states"] == {"running": 1}
    assert status["jobs"]["slurm"] == "answers"
    shown = metabench("status", "tiny.toml")
    assert "jobs: 1 running; 2 of their cells are still to do" in shown.out
    assert "--watch" in shown.out
    assert re.search(r"^about .* left, as predicted$", shown.out, re.MULTILINE)
    write(store, cells[2], "ok")
    done = metabench("cancel", "tiny.toml")
    cancelled = "cancelled 1 job with 1 unfinished cell; finished ones are kept"
    following = "next: metabench submit tiny.toml --profile test"
    assert (done.code, done.out.splitlines()) == (0, [cancelled, following])
    assert "scancel 5" in (Path("bin") / "log").read_text()
    assert not (submission.claims / "5.json").exists()
    shutil.rmtree("bin")
    install_clients(Path("bin"), "CANCELLED")
    assert following in metabench("status", "tiny.toml").out


def write(store: Store, cell, status: str) -> None:
    reason = {"message": "", "type": None, "traceback": None}
    store.write(unmeasured(store.study, cell.id, cell.description, status, reason, 1.0), replace=True)


def test_the_exit_code_of_status_while_jobs_wait(tiny, store, monkeypatch):
    """1 is "not all is done", 3 is "and nothing will be"."""
    install_clients(Path("bin"), "PENDING")
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    assert metabench("status", "tiny.toml").code == 3
    submission = submitted(store, expand(tiny))
    claims.lay(submission, {0: "5"})
    assert metabench("status", "tiny.toml").code == metabench("status", "tiny.toml", "--json").code == 1
    (submission.claims / "5.json").unlink()
    assert metabench("status", "tiny.toml").code == 1  # its name tells whose it is
    shutil.rmtree("bin")
    install_clients(Path("bin"), "CANCELLED")
    assert metabench("status", "tiny.toml").code == 3


def test_what_is_unfinished_of_cells_that_were_sent_again(tiny, store):
    """A failure of before the submission is still to be done, one of after it is done."""
    cells = expand(tiny)
    for cell, status in zip(cells, ("error", "error", "ok", "killed"), strict=True):
        write(store, cell, status)
    submission = new(store.folder)
    started = {cell.id: store.read(cell.id)["started"] for cell in cells}
    sent = [Planned(cells[0], started[cells[0].id]), Planned(cells[1], "earlier"), *map(Planned, cells[2:])]
    submission.write(TERMS, sent, pack([Item(cell.id, 1.0) for cell in cells], Packing(cells=4)))
    claims.lay(submission, {0: "5"})
    held = survey(store.folder, FakeQueue({"5": "RUNNING"})).alive()
    assert claims.unfinished(held, store, store.ids()) == {cells[0].id, cells[3].id}


def test_one_of_every_kind_is_sent_first(tiny, store):
    cells = expand(tiny)  # two kinds of two seeds
    steps = {cell.id: cell.description["method"]["inner"]["steps"] for cell in cells}
    for limit, kinds in ((1, [1]), (2, [1, 2]), (3, [1, 1, 2]), (9, [1, 1, 2, 2])):
        made = planned(tiny, store, limit=limit)
        assert sorted(steps[cell] for cell in ids(made)) == kinds
        assert [one.cell for one in made.planned] == some(cells, limit)
    done = metabench("submit", "tiny.toml", "--profile", "cpu", "--limit", 2, "--dry-run")
    assert "2 cells to send" in done.out
    assert "of work in 2 cells: 2 by declared oracle calls" in done.out


def test_logs_call_a_cell_as_plan_does(tiny, store, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    listed = metabench("plan", "tiny.toml", "--cells").out
    sent = []
    monkeypatch.setattr(
        jobs, "send", lambda made, *_, **__: sent.append(made) or (new(store.folder), [["5_0", "5_1"]])
    )
    monkeypatch.setattr(queue, "missing", lambda: None)
    said = metabench("submit", "tiny.toml", "--profile", "cpu").out
    assert "submitted 2 jobs: job array 5 with 2 tasks" in said
    (made,) = sent
    assert made.profile.source == "cpu"
    for one in made.planned:
        assert re.search(rf"^ *{one.cell.id} .* {re.escape(one.name)}$", listed, re.MULTILINE)
    assert len({one.name for one in made.planned}) == 4
    submission = new(store.folder)
    submission.write(TERMS, made.planned, made.packs)
    assert {one.cell.id: one.name for one in submission.cells(0)} == {
        one.cell.id: one.name for one in made.planned
    }


def test_logs_of_a_cell_that_another_cluster_has_run(tiny, store):
    write(store, expand(tiny)[0], "ok")
    said = metabench("logs", expand(tiny)[0].id)
    assert said.code == 2
    assert "logs stay in the folder of results of the cluster that ran it" in said.err


def test_status_of_all_studies(tiny, store):
    assert metabench("status").code == 3
    write(store, expand(tiny)[0], "ok")
    Path("results/tiny/tiny.toml").write_text(TINY)
    write(Store("results", "gone"), expand(tiny)[0], "ok")
    done = metabench("status")
    assert done.code == 1
    assert re.search(r"^ *tiny +4 cells +1 ok, 3 missing$", done.out, re.MULTILINE)
    assert re.search(r"^ *gone +0 cells +none; 1 record belongs to no cell", done.out, re.MULTILINE)
    assert [one["count"] for one in metabench("status", "--json").json()] == [0, 4]
    assert metabench("status", "--watch").code == 2


def test_status_by_claims_where_slurm_is_silent(tiny, store):
    cells = expand(tiny)
    submission = submitted(store, cells)
    claims.lay(submission, {0: "5"})
    shown = metabench("status", "tiny.toml")
    assert "Slurm is not asked: there is no Slurm on this machine" in shown.out
    assert "jobs: 1 waiting; 4 of their cells are still to do" in shown.out
    assert (submission.claims / "5.json").exists()


def test_watch_ends_with_the_jobs(tiny, store, monkeypatch):
    from bench.cli import watch

    submission = submitted(store, expand(tiny))
    claims.lay(submission, {0: "5"})
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        (submission.claims / "5.json").unlink()

    monkeypatch.setattr(watch.time, "sleep", nap)
    shown = metabench("status", "tiny.toml", "--watch")
    assert naps == [watch.WATCH_S]
    assert shown.out.count("tiny: 4 cells") == 2
    assert "--watch" not in shown.out  # it is what runs
    assert shown.code == 3


def test_logs_of_a_cell_over_the_runs_of_its_jobs(tiny, store):
    cells = expand(tiny)
    one, other = cells[0].id, cells[1].id
    submission = submitted(store, cells, per_job=2)
    submission.add_jobs({0: "5_0"})
    stamp = timestamp()
    lines = [
        "submitit says something", f"{stamp} job 5_0, run 1, on n1: 2 of 2 cells to do, 1 at a time",
        f"{stamp} start {one} x", "a plugin says this", f"{stamp} job 5_0, run 2, on n2: 2 of 2 cells to do",
        "not in any cell", f"{stamp} start {one} x", "and that", f"{stamp} done {one} ok",
        f"{stamp} start {other} x", "of another",
    ]  # fmt: skip
    submission.log("5_0").write_text("\n".join(lines) + "\n")
    shown = metabench("logs", one[:8])
    assert shown.code == 0
    assert [line[:6].strip() for line in shown.out.splitlines()[1:]] == ["3", "4", "7", "8", "9"]
    assert str(submission.log("5_0").relative_to(Path.cwd())) in shown.out
    assert metabench("logs", cells[3].id).code == 1  # its job is not submitted
    assert "no submitted cell" in metabench("logs", "zz").err
    assert "give more of the id" in metabench("logs", "").err


def test_submissions_sort_by_time(store):
    names = []
    for number in range(2):
        submission = submitted(store, [toy_like(number)])
        names.append(submission.folder.name)
    assert [one.folder.name for one in submissions(store.folder)] == sorted(names)
    assert json.loads((submission.folder / "submission.json").read_text())["jobs"] == {}


def toy_like(seed: int):
    from tests.toy_plugins import toy_cell

    return toy_cell(seed)
