"""The verbs on a real Slurm: what live jobs have is theirs, what is cancelled stays so, what dies is told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.real_slurm import RealCluster, wait_for
from tests.slurm_studies import PROFILE, Desk, desk, idle, let_all_go

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


# As a shell within a job has them, and users who set options once and for all.
OPTIONS = {
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_ARRAY_JOB_ID": "999",
    "SLURM_ARRAY_TASK_ID": "5",
    "SBATCH_EXPORT": "NONE",
    "SRUN_EXPORT_ENV": "NONE",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_PARTITION": "high",
    "SBATCH_ARRAY_INX": "0-0",
}


def test_jobs_that_fail_before_their_first_cell_are_told_and_the_users_options_do_not_count(
    cluster: RealCluster, tmp_path
):
    at = desk(tmp_path, cluster, STUDY, PROFILE + 'setup = ["echo no such module", "exit 3"]\n')
    at.submit("--cells-per-job", 2)
    idle(cluster)
    for _ in range(2):  # not once only
        ended = status(at)["jobs"]["ended"]
        assert [one["words"] for one in ended] == ["FAILED, exit code 3 (NonZeroExitCode)"] * 2
        assert sum(len(one["cells"]) for one in ended) == 3
    held = cell_of(at, "held")
    told = at.metabench("logs", held[:8])
    assert (told.returncode, "no such module" in told.stdout) == (1, True)

    (tmp_path / "profile.toml").write_text(PROFILE)
    at.let_go("held")
    at = replace(at, environment=at.environment | OPTIONS)
    at.submit("--cells-per-job", 2)
    rows = cluster.ask("squeue", "--noheader", "--array", "--states=all", "--format=%P %l %T %j")
    jobs = [row.split() for row in rows.splitlines() if "FAILED" not in row and " study-" in row]
    assert ["low", "10:00"] in [job[:2] for job in jobs]
    assert "high" not in {job[0] for job in jobs}
    idle(cluster)
    assert status(at)["states"] == {"ok": 3}
    assert status(at)["jobs"]["ended"] == []


def test_jobs_of_a_submit_that_died_are_found(cluster: RealCluster, tmp_path):
    """It was killed once sbatch had taken them: they hold their cells until the next submit."""
    at = desk(tmp_path, cluster, STUDY, PROFILE + "[extra]\nbegin = 'now+1hour'\n")
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\ntouch {tmp_path}/taken\nsleep 600\n')
    sbatch.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{at.environment['PATH']}"
    command = [sys.executable, "-m", "bench.cli", "submit", "study.toml", "--profile", "profile.toml"]
    dying = subprocess.Popen(
        command, cwd=tmp_path, env=at.environment | {"PATH": path}, start_new_session=True
    )
    wait_for((tmp_path / "taken").exists, "sbatch to take the jobs")
    os.killpg(dying.pid, signal.SIGKILL)
    dying.wait()
    (first,) = {one["job"]: one["cells"] for one in status(at)["jobs"]["jobs"]}.items()
    assert len(first[1]) == 3
    assert "delete" in at.metabench("submit", "study.toml", "--profile", "profile.toml").stderr
    (at.store.folder / "jobs" / "submitting").unlink()
    again = at.metabench("submit", "study.toml", "--profile", "profile.toml")
    assert f"cancelled: {first[0]}" in again.stderr
    (second,) = (one["job"] for one in status(at)["jobs"]["jobs"])
    assert second != first[0]
    for claim in at.store.folder.glob("jobs/*/claims/*.json"):
        claim.unlink()
    assert "with live jobs already" in at.submit()
    for claim in at.store.folder.glob("jobs/*/claims/*.json"):
        claim.unlink()
    assert "cancelled 1 job" in at.metabench("cancel", "study.toml").stdout
    idle(cluster)
