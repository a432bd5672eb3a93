"""Fixtures that several test files share."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.record.fallback import VARIABLE
from tests.command_line import TINY, metabench
from tests.real_slurm import RealCluster, the_cluster

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # on a GPU that it finds it would take most of the memory


@pytest.fixture(scope="session")
def measured_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny study's file and its four records; not to be changed."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(TINY)
    with contextlib.chdir(folder):
        assert metabench("run", "tiny.toml", "--jobs", 0).code == 0
    return folder


@pytest.fixture
def measured(measured_once: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder, as the current one."""
    folder = shutil.copytree(measured_once, tmp_path / "measured")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """An empty current folder with the tiny study's file."""
    (tmp_path / "tiny.toml").write_text(TINY)
    with contextlib.chdir(tmp_path):
        yield tmp_path


@pytest.fixture(autouse=True)
def own_fallback(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Records that cannot be written go to a folder of this test run."""
    monkeypatch.setenv(VARIABLE, str(tmp_path_factory.getbasetemp() / "fallback"))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, so that a test's numbers do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def slurm_once() -> Iterator[RealCluster]:
    """A real Slurm; skips where it is not installed."""
    with the_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_once: RealCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCluster]:
    """That Slurm without jobs, for this test's process and whatever it starts."""
    monkeypatch.setenv("SLURM_CONF", slurm_once.environment["SLURM_CONF"])
    yield slurm_once
    slurm_once.clean()
