"""A job: what it runs, what it says, and what it does when it is told to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.record import Store
from slurm import job
from slurm.claims import Claim, read, survey
from slurm.job import run_pack
from slurm.submission import Planned, Submission
from tests.fake_slurm import TERMS, FakeQueue, install_clients, submitted
from tests.toy_plugins import toy_cell, toy_record, toy_runner

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0

DRIVER = """
import sys
from slurm.job import run_pack
from tests.toy_plugins import toy_runner

if __name__ == "__main__":
    plan, root = sys.argv[1:]
    print(run_pack(plan, root, "demo", 0, toy_runner))
"""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", "demo")


class Running:
    """A job as Slurm runs it, but for Slurm."""

    def __init__(self, submission: Submission, store: Store, folder: Path, restarts: int = 0):
        (folder / "driver.py").write_text(DRIVER)
        if not (folder / "bin").exists():
            install_clients(folder / "bin")
        self.slurm_log = folder / "bin" / "log"
        self.log = folder / f"job-{restarts}.log"
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, folder / "driver.py", submission.plan, store.root], env=environment,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> str:
        try:
            assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()
        finally:
            self.kill()
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def asked(self, client: str) -> list[str]:
        lines = self.slurm_log.read_text().splitlines() if self.slurm_log.exists() else []
        return [line for line in lines if line.startswith(client)]


def claim_of(submission: Submission, name: str = "7") -> Claim | None:
    return read(submission.claims / f"{name}.json")


def test_a_job_runs_what_is_missing_and_says_so(store, tmp_path, capfd):
    cells = [toy_cell(seed) for seed in range(3)] + [toy_cell(9, "raise", tmp_path)]
    submission = submitted(store, cells)
    store.write(toy_record(cells[1], "demo"))
    store.write(toy_record(cells[2], "demo") | {"status": "killed"})
    counts = run_pack(str(submission.plan), str(store.root), "demo", 0, toy_runner)
    assert counts == {"ok": 2, "error": 1}
    assert {store.ids()[cell.id] for cell in cells[:3]} == {"ok"}
    assert not list(submission.claims.iterdir())
    lines = capfd.readouterr().out.splitlines()
    assert "3 of 4 cells to do, 1 at a time" in lines[0]
    marks = [line.split()[1:3] for line in lines[1:-1]]
    order = [cells[0], cells[2], cells[3]]
    assert marks == [[kind, cell.id] for cell in order for kind in ("start", "done")]
    assert "two and two make five" in lines[-2]


def test_a_retried_cell_runs_once(store, tmp_path, capfd):
    """While its record is the one that it had at submission; not again after that."""
    cell = toy_cell(0)
    old = toy_record(cell, "demo") | {"status": "error", "started": "2026-01-01T00:00:00Z"}
    store.write(old)
    submission = submitted(store, [cell])
    assert run_pack(str(submission.plan), str(store.root), "demo", 0, toy_runner) == {}
    submission.write(TERMS, [Planned(cell, old["started"])], list(submission.packs().values()))
    assert run_pack(str(submission.plan), str(store.root), "demo", 0, toy_runner) == {"ok": 1}


def test_usr2_gives_up_what_does_not_end_and_queues_the_job_again(store, tmp_path):
    sleeper = toy_cell(1, "sleep", tmp_path)
    cells = [toy_cell(0), sleeper, toy_cell(2)]
    submission = submitted(store, cells)
    first = Running(submission, store, tmp_path)
    first.wait_for(f"start {sleeper.id}")
    assert set(claim_of(submission).running) == {sleeper.id}
    first.process.send_signal(signal.SIGUSR2)
    log = first.end()
    assert f"given_up {sleeper.id}" in log
    assert f"start {cells[2].id}" not in log
    assert store.ids() == {cells[0].id: "ok"}
    assert first.asked("scontrol requeue") == ["scontrol requeue 7"]
    claim = claim_of(submission)
    assert (claim.running, claim.signal, claim.given_up) == ({}, "USR2", {})  # no time limit was near

    sleeper_ends = tmp_path / "sleep-1"
    sleeper_ends.unlink()
    second = Running(submission, store, tmp_path, restarts=1)
    second.wait_for(f"start {sleeper.id}")
    assert "run 2" in second.log.read_text()
    assert "2 of 3 cells to do" in second.log.read_text()
    second.kill()


def test_usr2_lets_a_cell_end_that_can(store, tmp_path):
    cells = [toy_cell(0, "nap", tmp_path)]
    submission = submitted(store, cells)
    running = Running(submission, store, tmp_path)
    running.wait_for("start")
    running.process.send_signal(signal.SIGUSR2)
    assert "given_up" not in running.end()
    assert store.ids() == {cells[0].id: "ok"}
    assert running.asked("scontrol requeue") == []  # nothing is left
    assert claim_of(submission) is None


def test_term_leaves_the_end_to_slurm(store, tmp_path):
    """A cancelled job must not come back; a preempted one comes back only if Slurm has to end it."""
    cells = [toy_cell(0, "sleep", tmp_path), toy_cell(1)]
    submission = submitted(store, cells)
    running = Running(submission, store, tmp_path)
    running.wait_for("start")
    running.process.send_signal(signal.SIGTERM)
    running.wait_for("0 cells done, 2 left")
    time.sleep(1.0)
    assert running.process.poll() is None
    running.kill()
    assert running.asked("scontrol requeue") == []
    assert store.ids() == {}
    assert claim_of(submission).running == {}


def test_a_cell_that_never_fits_into_a_job_is_told_so(store, tmp_path):
    """The first time it may have begun late; the second time it had the whole run."""
    terms = TERMS.__class__(**(vars(TERMS) | {"minutes": 0.1}))
    sleeper, other = toy_cell(1, "sleep", tmp_path), toy_cell(2)
    submission = submitted(store, [toy_cell(0), sleeper, other], terms)
    for restarts in range(2):
        running = Running(submission, store, tmp_path, restarts)
        running.wait_for(f"start {sleeper.id}")
        running.process.send_signal(signal.SIGUSR2)
        running.end()
        if restarts == 0:
            assert claim_of(submission).given_up == {sleeper.id: 1}
            assert sleeper.id not in store.ids()
    record = store.read(sleeper.id)
    assert record["status"] == "timed_out"
    assert record["reason"]["type"] == "JobTimeLimit"
    assert "did not end in 2 runs of job 7" in record["reason"]["message"]
    assert "has 0.1 min" in record["reason"]["message"]
    last = Running(submission, store, tmp_path, 2)
    assert f"done {other.id} ok" in last.end()
    assert claim_of(submission) is None


def test_a_job_is_not_queued_again_where_the_profile_forbids(store, tmp_path):
    terms = TERMS.__class__(**(vars(TERMS) | {"requeue": False}))
    submission = submitted(store, [toy_cell(0, "sleep", tmp_path)], terms)
    running = Running(submission, store, tmp_path)
    running.wait_for("start")
    running.process.send_signal(signal.SIGUSR2)
    assert "requeue = false" in running.end()
    assert running.asked("scontrol requeue") == []


def test_a_cancelled_job_is_not_queued_again(store, tmp_path):
    """USR2 came first, then somebody cancelled it."""
    install_clients(tmp_path / "bin", state="CANCELLED")
    submission = submitted(store, [toy_cell(0, "sleep", tmp_path)])
    running = Running(submission, store, tmp_path)
    running.wait_for("start")
    running.process.send_signal(signal.SIGUSR2)
    running.end()
    assert running.asked("scontrol requeue") == []


def test_the_run_of_a_lost_node_sees_that_it_is_an_orphan(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    cells = [toy_cell(seed) for seed in range(2)]
    submission = submitted(store, cells)
    Claim("7", 0, [c.id for c in cells], restarts=1).write(submission.claims / "7.json")
    monkeypatch.setattr(job, "BEAT_S", -1.0)
    monkeypatch.setattr(job._Job, "_take_over", lambda self, earlier: None)
    assert run_pack(str(submission.plan), str(store.root), "demo", 0, toy_runner) == {}
    assert "started again elsewhere" in capsys.readouterr().out
    assert claim_of(submission).restarts == 1  # left to the run that owns it


def test_a_job_that_cannot_write_records_frees_its_cells(store, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    submission = submitted(store, [toy_cell(0)])
    store.folder.joinpath("records").write_text("a file where a folder must be")
    with pytest.raises(ValueError, match="Not a directory"):
        run_pack(str(submission.plan), str(store.root), "demo", 0, toy_runner)
    (claim,) = submission.claims.iterdir()  # it has failed, as Slurm will say, and was running nothing
    assert read(claim).running == {}
    assert survey(store.folder, FakeQueue({claim.stem: "FAILED"})).taken() == set()


def test_names_of_jobs(monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job.job_id() == f"local-{os.getpid()}"
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert job.job_id() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job.job_id() == "12_3"


def test_a_plan_is_as_it_was_frozen(store, tmp_path):
    cells = [toy_cell(seed) for seed in range(5)]
    submission = submitted(store, cells, per_job=2)
    assert submission.terms() == TERMS
    packs = submission.packs()
    assert [packs[n].ids for n in sorted(packs)] == [tuple(c.id for c in cells[i : i + 2]) for i in (0, 2, 4)]
    for number, one in packs.items():
        planned = submission.cells(number)
        assert [p.cell.id for p in planned] == list(one.ids)
        assert [p.cell.description for p in planned] == [c.description for c in cells if c.id in one.ids]
    submission.add_jobs({0: "3_0", 1: "3_1"})
    submission.add_jobs({2: "4"})
    assert submission.jobs() == {0: "3_0", 1: "3_1", 2: "4"}
    assert submission.terms() == TERMS
    assert json.loads((submission.folder / "packs.json").read_text())["2"]["cells"] == [cells[4].id]
