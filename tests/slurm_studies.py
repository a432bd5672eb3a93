"""Studies for tests on a real Slurm: submitted by the command line, from a folder of their own."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.record import Record, Store
from tests.real_slurm import PATIENCE_S, ROOT, RealCluster, wait_for
from tests.toy_faults import FOLDER

# One job a node: what happens to a node then happens to one job.
PROFILE = """\
partition = "low"
minutes = 10
memory_gb = 1
most_memory_gb = 4
cpus_per_worker = 2
requeue = true
grace_seconds = 20
"""
POINTS = "[metabench.plugins]\ntoy-faults = tests.toy_faults\n"
METADATA = "Metadata-Version: 2.1\nName: toy-faults\nVersion: 1\n"
TIMED = ("started", "seconds", "pass_seconds", "environment")  # what differs between two runs of one cell


@dataclass(frozen=True)
class Desk:
    """A folder with a study, a profile and notes, and the environment of `metabench` and its jobs."""

    folder: Path
    environment: dict[str, str]

    @property
    def study(self) -> Path:
        return self.folder / "study.toml"

    @property
    def store(self) -> Store:
        return Store(self.folder / "results", self.study.stem)

    def metabench(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.cli", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def submit(self, *arguments: object) -> str:
        """Submit the study; returns what was said."""
        done = self.metabench("submit", self.study.name, "--profile", "profile.toml", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def held(self, tag: str) -> dict[str, Any]:
        """Where the cell of that tag waits: its pid, its parent's, its job and node."""
        note = self.folder / f"{tag}.held"
        wait_for(note.exists, f"cell {tag} to start", 2 * PATIENCE_S)
        return json.loads(note.read_text())

    def let_go(self, tag: str) -> None:
        (self.folder / f"{tag}.go").touch()

    def records(self) -> dict[str, Record]:
        return {record["id"]: record for record in self.store.records()}


def desk(folder: Path, cluster: RealCluster, study: str, profile: str = PROFILE) -> Desk:
    """A desk for a study on that cluster."""
    (folder / "study.toml").write_text(study)
    (folder / "profile.toml").write_text(profile)
    # A distribution with an entry point, as a third party's; it lies where every job finds it.
    points = folder / "site" / "toy_faults-1.dist-info"
    points.mkdir(parents=True)
    (points / "entry_points.txt").write_text(POINTS)
    (points / "METADATA").write_text(METADATA)
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    return Desk(folder, cluster.environment | {"PYTHONPATH": path, FOLDER: str(folder)})


def untimed(record: Record) -> Record:
    """What two runs of a cell have in common, to the bit."""
    return {key: value for key, value in record.items() if key not in TIMED}


def idle(cluster: RealCluster, seconds: float = 5 * PATIENCE_S) -> None:
    """Wait until no job lives."""
    wait_for(lambda: not cluster.ask("squeue", "--noheader"), "all jobs to end", seconds)


@contextlib.contextmanager
def let_all_go(of: Desk, tags: list[str]):
    """Whatever happens in the test, no cell waits for ever."""
    try:
        yield
    finally:
        for tag in tags:
            of.let_go(tag)
