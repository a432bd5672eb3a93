"""Everything goes wrong in one study on a real Slurm, and one more `submit` makes it whole."""

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from slurm import queue
from slurm.cluster.host import running
from tests.real_slurm import PATIENCE_S, RealCluster, wait_for
from tests.slurm_studies import Desk, desk, idle, let_all_go

pytestmark = pytest.mark.slurm

# In the order of the jobs: what happens in the second of the four cells of each.
MISFORTUNES = ("requeued", "preempted", "overdue", "orphaned", "worker", "driver", "raise", "exhaust")
HEAD = """\
question = "What is left when everything goes wrong?"
n_tasks = 2
dtype = "float64"
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 4, support = 3, query = 3}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.05}
"""
SWEEP = """
[[sweep]]
seeds = [{seed}]
[[sweep.method]]
name = "toy-faults"
tag = ["before-{tag}"]
[[sweep.method]]
name = "toy-faults"
fault = "{fault}"
tag = "{tag}"
[[sweep.method]]
name = "toy-faults"
tag = ["after-{tag}", "last-{tag}"]
"""


def study() -> str:
    sweeps = []
    for seed, tag in enumerate(MISFORTUNES):
        fault = tag if tag in ("raise", "exhaust") else "hold"
        sweeps.append(SWEEP.format(seed=seed, tag=tag, fault=fault))
    return HEAD + "".join(sweeps)


def test_whatever_goes_wrong_one_more_submit_makes_it_whole(cluster: RealCluster, tmp_path):
    at = desk(tmp_path, cluster, study())
    with let_all_go(at, list(MISFORTUNES)):
        at.submit("--cells-per-job", 4)
        # The first four run at once, each on a node of its own; all have done one cell and hold the second.
        jobs = {tag: job_of(at, tag) for tag in MISFORTUNES[:4]}
        assert len(set(jobs.values())) == len({at.held(tag)["SLURMD_NODENAME"] for tag in jobs}) == 4

        make_overdue(cluster, jobs["overdue"])
        queue.requeue(jobs["requeued"])
        node = at.held("preempted")["SLURMD_NODENAME"]
        guest = cluster.submit("sleep 15", "--partition=high", f"--nodelist={node}", "--exclusive")
        cluster.kill(f"slurmd.{at.held('orphaned')['SLURMD_NODENAME']}")
        orphan = at.held("orphaned")["pid"]
        for tag, job in jobs.items():
            wait_for(
                lambda job=job: restarts(job) > 0, f"job {job} ({tag}) to be queued again", 3 * PATIENCE_S
            )
            if tag != "orphaned":
                at.let_go(tag)
        assert queue.jobs([guest])[guest].state in ("RUNNING", "COMPLETED")

        # The others come as nodes are free.
        for tag, whose in (("worker", "pid"), ("driver", "parent")):
            os.kill(at.held(tag)[whose], signal.SIGKILL)
            wait_for(lambda tag=tag: not alive(at.held(tag)["pid"]), f"the {tag} to end, and its worker")
            at.let_go(tag)

        # The orphan and the second run of its job have the same cell, and go on at the same moment.
        wait_for(
            lambda: at.held("orphaned")["pid"] != orphan, "the second run of the orphan's job", 3 * PATIENCE_S
        )
        at.let_go("orphaned")
        idle(cluster)
        wait_for(lambda: not alive(orphan), "the orphan to end")
    cluster.up()  # the node whose daemon was killed
    before = statuses(at)
    assert before["worker"] == "killed"
    assert not {"driver", "after-driver", "last-driver"} & set(before)
    at.submit("--cells-per-job", 4)
    idle(cluster)

    records = at.records()
    failed = {tag_of(record): record for record in records.values() if record["status"] != "ok"}
    told = "\n".join(f"{tag}: {record['status']}, {record['reason']}" for tag, record in failed.items())
    assert len(records) == 4 * len(MISFORTUNES), (before, statuses(at))
    assert set(failed) == {"raise", "exhaust"}, told
    assert failed["raise"]["status"] == "error"
    assert failed["raise"]["reason"]["message"] == "two and two make five"
    assert failed["exhaust"]["status"] == "out_of_memory", told
    assert "memory" in failed["exhaust"]["reason"]["message"]
    assert all(agrees for _, agrees in at.store.repeated())
    repeated = Counter(tag_of(records[cell]) for cell, _ in at.store.repeated())
    once = Counter(tag_of(record) for record in records.values() if record["status"] == "ok")
    assert finished(at) == once + repeated  # whatever ran twice is told
    said = at.metabench("status", at.study.name)
    assert said.returncode == 1, said.stdout  # two cells have failed
    assert bool(repeated) == ("with a second record" in said.stdout), said.stdout


def test_a_submit_that_is_killed_is_made_good_by_the_next(cluster: RealCluster, tmp_path):
    at = desk(tmp_path, cluster, HEAD + 'seeds = 12\nmethod = "fomaml"\n')
    command = [sys.executable, "-m", "bench.cli", "submit", at.study.name, "--profile", "profile.toml"]
    driver = subprocess.Popen([*command, "--cells-per-job", "3"], cwd=at.folder, env=at.environment)
    try:
        wait_for(
            lambda: cluster.ask("squeue", "--noheader") or driver.poll() is not None, "the jobs to be sent"
        )
    finally:
        driver.kill()
        driver.wait()
    idle(cluster)
    at.submit()
    idle(cluster)
    assert Counter(r["status"] for r in at.records().values()) == Counter(ok=12)


def job_of(at: Desk, tag: str) -> str:
    note = at.held(tag)
    return f"{note['SLURM_ARRAY_JOB_ID']}_{note['SLURM_ARRAY_TASK_ID']}"


def restarts(job: str) -> int:
    return queue.jobs([job])[job].restarts


def alive(pid: int) -> bool:
    return running(pid) is not None


def make_overdue(cluster: RealCluster, job: str) -> None:
    """Leave a running job a minute or two, whole minutes being all that Slurm knows."""
    said = cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%M")
    minutes = int(said.split(":")[-2])
    cluster.ask("scontrol", "update", f"jobid={job}", f"timelimit={minutes + 2}")


def tag_of(record: dict) -> str:
    return record["cell"]["method"]["tag"]


def statuses(at: Desk) -> dict[str, str]:
    return {tag_of(record): record["status"] for record in at.records().values()}


def finished(at: Desk) -> Counter[str]:
    """Tag -> how many runs of that cell came to their end."""
    return Counter(path.name.partition(".")[0] for path in at.folder.glob("*.finished"))
