"""What Slurm says of jobs: from recorded answers, and from a real one that does to jobs what Slurm does."""

import os
import signal
import time
from pathlib import Path

import pytest

from bench.errors import UsageError
from slurm import queue
from slurm.queue import JobState
from tests.real_slurm import RealCluster, wait_for

CONFIG = """\
Configuration data as of 2026-11-26T01:00:00
AccountingStorageHost   = 127.0.0.1
AccountingStorageType   = {accounting}
MaxArraySize            = 1001
"""
SQUEUE = [
    ("7_0", "RUNNING", "None", "n1", "1"),
    ("7_1", "SUSPENDED", "None", "n2", "0"),
    ("7_2", "NODE_FAIL", "NodeDown", "n3", "0"),
    ("7_3", "PENDING", "BeginTime", "", "2"),
    ("7_4", "COMPLETING", "None", "n1", "0"),
    ("8", "TIMEOUT", "TimeLimit", "n1", "0"),
    ("9", "PENDING", "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher", "", "0"),
]
SACCT = """\
7_0|NODE_FAIL|None|n1|0:0|study-7
5_0|NODE_FAIL|None|n1|0:0|study-5
5_0|COMPLETED|None|n2|0:0|study-5
5_[3,5-6%2]|CANCELLED by 0|None|None assigned|0:0|study-5
4_0|COMPLETED|None|n1|0:0|study-4
4|CANCELLED by 0|None|None assigned|0:0|study-4
6|FAILED|NonZeroExitCode|n2|3:0|an earlier | other
6|RUNNING|None|n4|0:0|study-6
66|FAILED|None|n4|0:0|study-66
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> Path:
    """A folder of clients that give recorded answers, and note how they were called in ``calls``."""
    rows = [(*row, "0", f"study-{row[0][0]}") for row in SQUEUE]
    lines = "".join("".join(cell[:64].ljust(64) for cell in row).ljust(684) + "\n" for row in rows)
    answer(tmp_path, "squeue", lines)
    answer(tmp_path, "sacct", SACCT)
    answer(tmp_path, "scontrol", CONFIG.format(accounting="accounting_storage/slurmdbd"))
    for name in ("scancel", "sbatch", "srun"):
        answer(tmp_path, name, "")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def answer(folder: Path, name: str, out: str, err: str = "", code: int = 0) -> None:
    (folder / f"{name}.out").write_text(out)
    (folder / f"{name}.err").write_text(err)
    script = folder / name
    script.write_text(
        f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\ncat {folder}/{name}.out\n'
        f"cat {folder}/{name}.err >&2\nexit {code}\n"
    )
    script.chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_what_lives_is_said_by_squeue(recorded):
    found = queue.jobs(["7_0", "7_1", "7_2", "7_3", "7_4", "8", "9"])
    assert found["7_0"] == JobState(
        "7_0", "RUNNING", "", "n1", True, 1, name="study-7"
    )  # though sacct calls it ended
    assert {job: state.alive for job, state in found.items()} == {
        "7_0": True,
        "7_1": True,  # suspended: it goes on one day
        "7_2": False,
        "7_3": True,
        "7_4": True,
        "8": False,
        "9": True,
    }
    assert found["7_3"].restarts == 2
    assert found["9"].reason.startswith("Nodes required for job are DOWN")
    (call,) = calls(recorded)  # one for all, and none of sacct
    assert "--jobs=7,8,9 " in call


def test_an_array_stands_for_its_elements(recorded):
    assert set(queue.jobs(["7"])) == {"7_0", "7_1", "7_2", "7_3", "7_4"}
    assert set(queue.jobs(["7_1"])) == {"7_1"}
    assert queue.jobs([]) == {}


def test_what_squeue_has_forgotten_is_asked_of_sacct(recorded):
    found = queue.jobs(["5", "6", "8", "99"])
    assert found["5_0"] == JobState("5_0", "COMPLETED", "", "n2", False, 1, name="study-5")  # its second run
    cancelled = [JobState(f"5_{i}", "CANCELLED", "", "", False, 0, name="study-5") for i in (3, 5, 6)]
    assert [found[f"5_{i}"] for i in (3, 5, 6)] == cancelled
    assert queue.jobs(["4_7"]) == {"4_7": JobState("4_7", "CANCELLED", "", "", False, 0, name="study-4")}
    assert found["6"].state == "RUNNING"  # the controller has lost it: sacct was never told
    assert not found["6"].alive
    assert set(found) == {"5_0", "5_3", "5_5", "5_6", "6", "8"}


def test_jobs_are_known_by_their_names(recorded):
    found = queue.named(["study-7", "study-6"], ["7_0", "8", "6", "local-77", "66"])
    assert set(found) == {"7_0", "7_1", "7_2", "7_3", "7_4", "6"}  # 8 and 66 are others'
    assert (found["6"].state, found["6"].name) == ("RUNNING", "study-6")  # not the earlier job 6
    squeue, _, sacct = calls(recorded)
    assert "--name=study-6,study-7 " in squeue
    assert "--jobs=6,66,8 " in sacct


@pytest.mark.parametrize(("status", "words"), [("768", "exit code 3"), ("9", "signal 9"), ("0", "")])
def test_how_a_job_exited(recorded, status, words):
    row = ("1", "FAILED", "NonZeroExitCode", "n1", "0", status)
    answer(recorded, "squeue", "".join(cell.ljust(64) for cell in row) + "mine".ljust(300) + "\n")
    state = queue.named(["mine"])["1"]
    assert state.code == words
    assert str(state) == ", ".join(filter(None, ["FAILED", words])) + " (NonZeroExitCode)"


def test_without_accounting_sacct_is_not_asked(recorded):
    for none in ("accounting_storage/none", "(null)"):
        answer(recorded, "scontrol", CONFIG.format(accounting=none))
        assert not queue.accounting()
        assert set(queue.jobs(["6", "8"])) == {"8"}
    assert not any(call.startswith("sacct") for call in calls(recorded))


def test_ids_that_slurm_has_never_heard_of(recorded):
    answer(recorded, "squeue", "", "slurm_load_jobs error: Invalid job id specified\n", 1)
    answer(
        recorded, "scancel", "", "scancel: error: Kill job error on job id 3: Invalid job id specified\n", 1
    )
    answer(recorded, "sacct", "")
    assert queue.jobs(["3"]) == {}
    queue.cancel(["3"])


def test_users_own_filters_are_not_heeded(recorded, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    (recorded / "squeue").write_text(f'#!/bin/sh\n[ -n "$SQUEUE_STATES" ] || cat {recorded}/squeue.out\n')
    assert queue.jobs(["7_3"])["7_3"].state == "PENDING"


def test_many_jobs_are_asked_in_few_calls(recorded):
    queue.jobs([f"7_{i}" for i in range(5000)] + [str(i) for i in range(1500)])
    assert sum(call.startswith("squeue") for call in calls(recorded)) == 2
    queue.cancel([f"7_{i}" for i in range(2500)])
    cancelled = [word for call in calls(recorded) if call.startswith("scancel") for word in call.split()[1:]]
    assert sorted(cancelled) == sorted(f"7_{i}" for i in range(2500))


def test_array_size(recorded):
    assert queue.most_array_tasks() == 1000
    answer(recorded, "scontrol", "slurm.conf speaks another language\n")
    with pytest.raises(UsageError, match=r"tells no MaxArraySize; it said: 'slurm.conf speaks"):
        queue.most_array_tasks()


def test_a_controller_that_does_not_answer(recorded, monkeypatch):
    answer(recorded, "squeue", "", "slurm_load_jobs error: Unable to contact slurm controller\n", 1)
    with pytest.raises(
        UsageError, match=r"`squeue --noheader` failed: .* Unable to contact slurm controller"
    ):
        queue.jobs(["7"])
    (recorded / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(queue, "TIMEOUT_S", 0.3)
    with pytest.raises(UsageError, match=r"Slurm does not answer: `squeue --noheader` was given 0.3 s"):
        queue.jobs(["7"])


def test_why_there_is_no_slurm(recorded, monkeypatch):
    assert queue.missing() is None
    answer(recorded, "scontrol", "Slurmctld(primary) at localhost is DOWN\n", code=1)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert queue.missing() == "Slurm does not answer: Slurmctld(primary) at localhost is DOWN"
    monkeypatch.delenv("SLURM_CONF")
    words = "scontrol: error: fetch_config: DNS SRV lookup failed\nscontrol: fatal: Could not find a source\n"
    answer(recorded, "scontrol", "", words, code=1)
    said = queue.missing() or ""
    assert said.startswith("Slurm does not answer (SLURM_CONF is not set; ")
    assert said.endswith("): fatal: Could not find a source")
    (recorded / "srun").unlink()
    monkeypatch.setenv("PATH", str(recorded))
    assert "srun not on the path" in (queue.missing() or "")
    (recorded / "scancel").unlink()
    with pytest.raises(UsageError, match=r"scancel is not on the path"):
        queue.cancel(["1"])


class TestRealSlurm:
    """The same on a real Slurm."""

    pytestmark = pytest.mark.slurm

    def test_the_life_of_a_job(self, cluster: RealCluster):
        assert queue.missing() is None
        assert queue.accounting()
        job = cluster.submit("sleep 600")
        cluster.wait_for(job, "RUNNING")
        running = queue.jobs([job])[job]
        assert (running.state, running.alive, running.restarts) == ("RUNNING", True, 0)
        assert running.node in {"n1", "n2", "n3", "n4"}
        queue.cancel([job])
        wait_for(lambda: not queue.jobs([job])[job].alive, "the cancelled job to end")
        assert queue.jobs([job])[job].state == "CANCELLED"
        queue.cancel([job])  # once more is no error
        with pytest.raises(
            UsageError, match=r"`scontrol requeue` failed: Invalid job id specified for job 99999"
        ):
            queue.requeue("99999")

    def test_ends_of_jobs(self, cluster: RealCluster):
        ends = {
            "COMPLETED": cluster.submit("true"),
            "FAILED": cluster.submit("exit 3"),
        }
        ends["OUT"] = cluster.submit("python3 -c 'import time; x = bytearray(400 << 20); time.sleep(60)'")
        wait_for(lambda: not any(job.alive for job in queue.jobs(ends.values()).values()), "all jobs to end")
        found = queue.jobs(ends.values())
        assert found[ends["COMPLETED"]].state == "COMPLETED"
        assert found[ends["FAILED"]].state == "FAILED"
        assert found[ends["OUT"]].state in ("FAILED", "OUT_OF_MEMORY", "CANCELLED")
        # What squeue has forgotten sacct still knows, some seconds late.
        jobs = set(ends.values())
        wait_for(lambda: len(queue._accounted(jobs)) == 3, "sacct to know the jobs")
        wait_for(
            lambda: (
                {queue._accounted(jobs)[ends[s]].state for s in ("COMPLETED", "FAILED")}
                == {"COMPLETED", "FAILED"}
            ),
            "sacct to know their ends",
        )

    def test_arrays(self, cluster: RealCluster):
        job = cluster.submit("sleep 600", "--array=0-5%2")
        wait_for(lambda: sum(j.state == "RUNNING" for j in queue.jobs([job]).values()) == 2, "two to run")
        found = queue.jobs([job])
        assert set(found) == {f"{job}_{i}" for i in range(6)}
        assert all(element.alive for element in found.values())
        assert set(queue.jobs([f"{job}_4"])) == {f"{job}_4"}
        queue.cancel([f"{job}_{i}" for i in range(6)])
        wait_for(lambda: not any(j.alive for j in queue.jobs([job]).values()), "all to end")
        elements = {f"{job}_{i}" for i in range(6)}
        assert set(queue.jobs(elements)) == elements
        wait_for(
            lambda: set(queue._accounted(elements)) == elements, "sacct to know those that never started"
        )
        assert {state.state for state in queue._accounted(elements).values()} == {"CANCELLED"}

    def test_the_largest_array_is_taken_and_no_larger_one(self, cluster: RealCluster):
        most = queue.most_array_tasks()
        job = cluster.submit("true", f"--array=0-{most - 1}", "--hold")
        assert len(queue.jobs([job])) == most
        queue.cancel([job])
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            cluster.submit("true", f"--array=0-{most + 1}", "--hold")

    def test_a_requeued_job_lives(self, cluster: RealCluster):
        job = cluster.submit("sleep 600")
        cluster.wait_for(job, "RUNNING")
        queue.requeue(job)
        seen = watch(job, until=lambda state: state.restarts == 1 and state.state == "RUNNING")
        assert all(state.alive for state in seen)

    def test_a_suspended_job_lives(self, cluster: RealCluster):
        job = cluster.submit("sleep 600")
        cluster.wait_for(job, "RUNNING")
        cluster.ask("scontrol", "suspend", job)
        state = queue.jobs([job])[job]
        assert (state.state, state.alive) == ("SUSPENDED", True)
        cluster.ask("scontrol", "resume", job)
        cluster.wait_for(job, "RUNNING")

    def test_a_preempted_job_lives(self, cluster: RealCluster):
        low = cluster.submit("sleep 600", "--nodelist=n1", "--exclusive")
        cluster.wait_for(low, "RUNNING")
        high = cluster.submit("sleep 20", "--nodelist=n1", "--exclusive", "--partition=high")
        seen = watch(low, until=lambda state: state.restarts == 1)
        assert all(state.alive for state in seen)
        cluster.wait_for(high, "RUNNING", "COMPLETED")

    def test_a_job_whose_node_has_died_lives_if_it_may_be_queued_again(self, cluster: RealCluster):
        """Slurm queues it again, while sacct calls it NODE_FAIL for some seconds."""
        job = cluster.submit("sleep 600", "--nodelist=n3")
        other = cluster.submit("sleep 600", "--nodelist=n3", "--no-requeue")
        cluster.wait_for(job, "RUNNING")
        cluster.wait_for(other, "RUNNING")
        cluster.kill("slurmd.n3")
        seen = watch(job, until=lambda state: state.restarts == 1)
        assert all(state.alive for state in seen)
        assert "PENDING" in {state.state for state in seen}
        assert watch(other, until=lambda state: not state.alive)[-1].state == "NODE_FAIL"

    def test_no_controller(self, cluster: RealCluster, monkeypatch: pytest.MonkeyPatch):
        cluster.kill("slurmctld", signal.SIGTERM)
        wait_for(lambda: cluster.script("status").returncode == 1, "the controller to end")
        monkeypatch.setattr(queue, "TIMEOUT_S", 20.0)
        with pytest.raises(UsageError, match=r"does not answer|Unable to contact|failed"):
            queue.jobs(["1"])
        assert queue.missing()


def watch(job: str, until) -> list[JobState]:
    """Every state of a job that was seen, up to the first that is waited for."""
    seen: list[JobState] = []
    end = time.monotonic() + 120
    while not seen or not until(seen[-1]):
        assert time.monotonic() < end, f"waited in vain; seen: {seen}"
        state = queue.jobs([job])[job]
        if not seen or state != seen[-1]:
            seen.append(state)
        time.sleep(0.1)
    return seen
