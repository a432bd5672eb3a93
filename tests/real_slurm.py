"""A real Slurm for tests: brought up once for all tests of a process, by our own `slurm.cluster`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm.cluster.host import INSTALL, absent, somebody_at

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0  # for a slow and busy machine
NODES = 4
GIVEN = "METABENCH_TEST_CLUSTER"  # the folder of a cluster that is up already, to be used and left alone


class RealCluster:
    """The cluster of a folder, as an administrator sees it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def script(self, command: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Run ``python -m slurm.cluster`` on the cluster's folder."""
        arguments = [
            sys.executable,
            "-m",
            "slurm.cluster",
            command,
            "--folder",
            self.folder,
            *map(str, options),
        ]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    def up(self, *options: object) -> None:
        done = self.script("up", *options)
        assert done.returncode == 0, done.stderr

    def ask(self, *command: str) -> str:
        """What a client of Slurm says; it must not fail."""
        answer = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert answer.returncode == 0, f"{command}: {answer.stderr}"
        return answer.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell script whose output lies in the cluster's folder; returns the job's id."""
        log = f"--output={self.folder}/%j.log"
        return self.ask("sbatch", "--parsable", log, "--mem=100", *options, f"--wrap={script}")

    def state(self, job: str) -> str:
        """The state of one job in squeue's words; empty if it is forgotten."""
        return self.ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")

    def wait_for(self, job: str, *states: str) -> None:
        wait_for(lambda: self.state(job) in states, f"job {job} to be {' or '.join(states)}")

    def pid(self, daemon: str) -> int:
        return int((self.folder / f"{daemon}.pid").read_text())

    def kill(self, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid(daemon), number)

    def clean(self) -> None:
        """As it was: no jobs, every daemon running, every node up."""
        assert self.script("up").returncode == 0 or self._anew()
        jobs = self.ask("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.ask("scancel", *set(jobs))
            wait_for(lambda: not self.ask("squeue", "--noheader"), "cancelled jobs to end")

    def _anew(self) -> bool:
        """A node that a test has left drained is no matter for the next test."""
        self.script("down")
        self.up()
        return True


@contextmanager
def brought_up(*options: object) -> Iterator[RealCluster]:
    """A cluster of one's own, in a folder and on ports of its own; skips the test where there is no Slurm."""
    if lacking := absent(True):
        pytest.skip(f"Slurm is not installed ({', '.join(lacking)}); as root on Debian: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own are too deep for sockets
    cluster = RealCluster(folder)
    try:
        cluster.up("--port", free_ports(), *options)
        yield cluster
    finally:
        down = cluster.script("down")
        assert down.returncode == 0, down.stderr
        shutil.rmtree(folder)


@contextmanager
def the_cluster() -> Iterator[RealCluster]:
    """The cluster that $METABENCH_TEST_CLUSTER names, else one that is brought up."""
    if given := os.environ.get(GIVEN):
        yield RealCluster(Path(given))
    else:
        with brought_up("--nodes", NODES) as cluster:
            yield cluster


def free_ports() -> int:
    """The first of enough ports for a cluster that nobody uses; each process begins elsewhere."""
    for i in range(500):
        first = 20_000 + (os.getpid() * 20 + i * 20) % 10_000
        if not any(somebody_at(first + j) for j in range(NODES + 2)):
            return first
    raise AssertionError("no free ports")


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until the condition is true; fail the test if that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.2)
