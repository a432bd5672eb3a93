"""The verbs on a real Slurm: what live jobs have is theirs, what is cancelled stays so, what dies is told."""

import json
import os
import re
import signal

import pytest

from tests.real_slurm import RealCluster, wait_for
from tests.slurm_studies import Desk, desk, idle, let_all_go

pytestmark = pytest.mark.slurm

STUDY = """\
question = "Who has which cells?"
n_tasks = 2
dtype = "float64"
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 4, support = 3, query = 3}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.05}

[[method]]
name = "toy-faults"
tag = ["first", "last"]

[[method]]
name = "toy-faults"
fault = "hold"
tag = "held"
"""


def status(at: Desk) -> dict:
    return json.loads(at.metabench("status", at.study.name, "--json").stdout)


def cell_of(at: Desk, tag: str) -> str:
    cells = json.loads(at.metabench("plan", at.study.name, "--json").stdout)["cells"]
    return next(one["id"] for one in cells if one["cell"]["method"]["tag"] == tag)


def test_a_study_submitted_seen_cancelled_and_submitted_again(cluster: RealCluster, tmp_path):
    at = desk(tmp_path, cluster, STUDY)
    dry = at.submit("--cells-per-job", 3, "--dry-run")
    with let_all_go(at, ["held"]):
        at.submit("--cells-per-job", 3)
        job = at.held("held")["SLURM_JOB_ID"]
        script = next(at.folder.glob("results/study/jobs/*/logs/*.sh")).read_text()
        submission = next(at.folder.glob("results/study/jobs/*")).name
        for line in script.splitlines():  # what was sent is what was shown
            assert line.replace(submission, "SUBMISSION") in dry

        again = at.submit()
        assert "with live jobs already" in again
        assert "nothing to submit" in again
        seen = status(at)["jobs"]
        assert (seen["states"], seen["slurm"], seen["lost"]) == ({"running": 1}, "answers", [])
        assert [one["job"] for one in seen["jobs"]] == [job]
        held = cell_of(at, "held")
        assert seen["jobs"][0]["running"] == [held]
        told = at.metabench("logs", held[:8])
        assert told.returncode == 0
        assert f"start {held}" in told.stdout
        assert f"done {held}" not in told.stdout

        cancelled = at.metabench("cancel", at.study.name)
        assert "cancelled 1 job" in cancelled.stdout, cancelled.stderr
        idle(cluster)
    after = status(at)
    assert after["jobs"]["jobs"] == []
    assert after["jobs"]["lost"] == []  # given up, and no failure
    assert set(after["states"]) <= {"ok", "missing"}
    assert after["states"]["missing"] >= 1
    at.submit("--cells-per-job", 1)
    idle(cluster)
    assert status(at)["states"] == {"ok": 3}


def test_what_a_killed_job_was_running_has_slurms_word_for_it(cluster: RealCluster, tmp_path):
    at = desk(tmp_path, cluster, STUDY)
    with let_all_go(at, ["held"]):
        at.submit("--cells-per-job", 3)
        note = at.held("held")
        os.kill(note["parent"], signal.SIGKILL)  # the process that watches the workers, and is the job
        idle(cluster)
    held = cell_of(at, "held")
    assert status(at)["jobs"]["lost"] == [held]
    record = at.records()[held]
    assert record["status"] == "killed"
    assert re.search(
        rf"job {note['SLURM_JOB_ID']} ended on \S+ while it ran this cell: FAILED",
        record["reason"]["message"],
    )
    at.submit()
    idle(cluster)
    wait_for(lambda: status(at)["states"] == {"ok": 3}, "the killed cell to be run again")
