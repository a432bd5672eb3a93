"""The cluster of one's own: what it refuses, and that it comes up, heals, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.cluster import host
from slurm.cluster.__main__ import main
from slurm.cluster.daemons import Cluster
from slurm.cluster.files import Settings
from slurm.cluster.host import ClusterError, environment_of, processes
from tests.real_slurm import NODES, RealCluster, brought_up, wait_for


def refused(*arguments: object) -> str:
    with pytest.raises(ClusterError) as caught:
        main(list(map(str, arguments)))
    return str(caught.value)


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch) -> Path:
    """A machine without Slurm: the path leads to one empty folder."""
    monkeypatch.setattr(host, "program", lambda name: shutil.which(name, path=str(tmp_path)))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """An empty folder with a path that is short enough for a cluster, as pytest's own need not be."""
    with tempfile.TemporaryDirectory(prefix="c-") as folder:
        yield Path(folder)


def test_up_says_how_to_install_what_is_missing(nothing_installed, short_folder):
    said = refused("up", "--folder", short_folder)
    assert said.startswith("munged, slurmctld, slurmd, sbatch")
    assert "mariadbd, slurmdbd, sacct not found" in said
    assert said.endswith("as root: python3 -m slurm.cluster install")


def test_up_offers_to_do_without_accounting_where_only_that_is_missing(nothing_installed, short_folder):
    for name in host.PROGRAMS:
        executable(nothing_installed / name, "")
    assert refused("up", "--folder", short_folder).endswith("(or do without accounting: --no-accounting)")


def test_install_needs_debian_and_root(nothing_installed, monkeypatch):
    assert refused("install").startswith("this is no Debian or Ubuntu (there is no apt-get): install munge")
    executable(nothing_installed / "apt-get", 'echo "$*" >> "$0.calls"; exit 1')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert refused("install") == "only root installs packages: sudo python3 -m slurm.cluster install"
    assert not (nothing_installed / "apt-get.calls").exists()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert refused("install") == "`apt-get -qq update` failed; what it said is above"


def test_a_folder_of_other_things_is_left_alone(short_folder):
    (short_folder / "thesis.tex").write_text("all of it")
    assert "holds other files, which would be removed" in refused("up", "--folder", short_folder)
    assert [path.name for path in short_folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["x" * 80, "with space", "hash#"])
def test_a_folder_that_cannot_hold_sockets_is_refused(tmp_path, name):
    assert "cannot hold a cluster" in refused("up", "--folder", tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("command", ["down", "env", "status"])
def test_no_cluster_in_the_folder(tmp_path, command):
    assert "there is no cluster in" in refused(command, "--folder", tmp_path)


@pytest.fixture
def daemon_like(tmp_path, monkeypatch) -> Iterator[dict[str, int]]:
    """Processes that look a little like the controller of a cluster in ``tmp_path / "ours"``."""
    ours = tmp_path / "ours"
    ours.mkdir()
    controller = tmp_path / "slurmctld"
    shutil.copy(shutil.which("sleep") or "", controller)
    monkeypatch.setattr("slurm.cluster.daemons.program", lambda name: str(tmp_path / name))
    own, others = ({"SLURM_CONF": f"{tmp_path}/{name}/slurm.conf"} for name in ("ours", "theirs"))
    started = {
        "ours": subprocess.Popen([controller, "600"], env=own),
        "another cluster's": subprocess.Popen([controller, "600"], env=others),
        "another program": subprocess.Popen(["sleep", "600"], env=own),
        "our job": subprocess.Popen(["sleep", "600"], env=own | {"SLURM_JOB_ID": "7"}),
        "another cluster's job": subprocess.Popen(["sleep", "600"], env=others | {"SLURM_JOB_ID": "7"}),
    }
    yield {name: process.pid for name, process in started.items()}
    for process in started.values():
        process.kill()
        process.wait()


def test_a_pid_file_that_tells_of_a_strange_process_is_not_believed(tmp_path, daemon_like):
    cluster = Cluster(tmp_path / "ours", Settings(1, 20_000, False))
    assert cluster.pid("slurmctld") is None
    for name, pid in daemon_like.items():
        (tmp_path / "ours" / "slurmctld.pid").write_text(str(pid))
        assert cluster.pid("slurmctld") == (pid if name == "ours" else None), name
    (tmp_path / "ours" / "slurmctld.pid").write_text("not a number")
    assert cluster.pid("slurmctld") is None


def test_down_ends_its_own_and_nothing_else(tmp_path, daemon_like, monkeypatch):
    (tmp_path / "ours" / "slurmctld.pid").write_text(str(daemon_like["ours"]))
    (tmp_path / "ours" / "slurmd.n1.pid").write_text(str(daemon_like["another program"]))
    (tmp_path / "ours" / "slurmctld.log").write_text("all is well")
    monkeypatch.setattr(Cluster, "ask", lambda *_: None)
    Cluster(tmp_path / "ours", Settings(1, 20_000, False)).down()
    wait_for(lambda: host.running(daemon_like["our job"]) is None, "the job to end")
    alive = {name for name, pid in daemon_like.items() if host.running(pid) is not None}
    assert alive == {"another cluster's", "another program", "another cluster's job"}
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["slurmctld.log"]


def test_down_is_not_called_from_within(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", f"{tmp_path}/slurm.conf")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(ClusterError, match="this is a job of the cluster that is to be taken down"):
        Cluster(tmp_path, Settings(1, 20_000, False)).down()


class TestRealSlurm:
    """On a real one."""

    pytestmark = pytest.mark.slurm

    def test_it_is_up(self, cluster: RealCluster):
        status = cluster.script("status")
        assert (status.returncode, status.stderr) == (0, "")
        assert f"n[1-{NODES}]" in status.stdout
        assert status.stdout.endswith("every node takes jobs\n")
        assert cluster.script("env").stdout == f"export SLURM_CONF={cluster.folder}/slurm.conf\n"
        names = cluster.ask("srun", f"--nodes={NODES}", "--mem=100", "printenv", "SLURMD_NODENAME").split()
        assert sorted(names) == [f"n{i + 1}" for i in range(NODES)]

    def test_it_heals(self, cluster: RealCluster):
        """Every sort of daemon is killed at once."""
        killed = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd.n2")
        before = {name: cluster.pid(name) for name in killed}
        kept = cluster.pid("slurmd.n1")
        for name in killed:
            cluster.kill(name)
        wait_for(lambda: cluster.script("status").returncode == 1, "the daemons to end")
        assert "slurmctld   not running" in cluster.script("status").stdout
        cluster.up()
        assert cluster.script("status").returncode == 0
        assert all(cluster.pid(name) != before[name] for name in killed)
        assert cluster.pid("slurmd.n1") == kept
        assert cluster.ask("srun", "--mem=100", "--nodelist=n2", "echo", "well") == "well"

    def test_gpus_are_pretended(self, cluster: RealCluster):
        seen = cluster.ask("srun", "--mem=100", "--gpus-per-node=1", "printenv", "CUDA_VISIBLE_DEVICES")
        assert seen in ("0", "1")
        two = cluster.ask("srun", "--mem=100", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES")
        assert two == "0,1"

    def test_two_clusters_live_side_by_side(self, cluster: RealCluster):
        """The second without accounting; its end leaves the first as it was, and nothing of itself."""
        job = cluster.submit("sleep 600")
        cluster.wait_for(job, "RUNNING")
        with brought_up("--nodes", 1, "--no-accounting") as second:
            assert second.ask("srun", "--mem=100", "printenv", "SLURM_CONF") == f"{second.folder}/slurm.conf"
            other = second.submit("trap '' TERM; sleep 600 & wait; sleep 600")
            second.wait_for(other, "RUNNING")
            pids = {name: second.pid(name) for name in ("munged", "slurmctld", "slurmd.n1")}
            assert not (second.folder / "mariadbd.pid").exists()
            # A job that its node's daemon leaves behind is ended too.
            second.kill("slurmd.n1")
            assert second.script("down").returncode == 0
            left = [
                pid for pid in processes() if f"SLURM_CONF={second.folder}/slurm.conf" in environment_of(pid)
            ]
            assert left == []
            assert not any(host.running(pid) for pid in pids.values())
            assert {path.suffix for path in second.folder.iterdir()} == {".log", ".json"}
        assert cluster.state(job) == "RUNNING"

    def test_up_refuses_ports_that_are_taken(self, cluster: RealCluster, short_folder: Path):
        done = RealCluster(short_folder).script("up", "--port", port_of(cluster))
        assert done.returncode == 1
        assert "is taken, perhaps by another cluster; this one wants" in done.stderr
        assert f"wants {port_of(cluster)} to {port_of(cluster) + NODES + 1}" in done.stderr

    def test_up_refuses_other_settings_while_it_runs(self, cluster: RealCluster):
        done = cluster.script("up", "--nodes", NODES + 1)
        assert done.returncode == 1
        assert "runs a cluster of other settings" in done.stderr

    def test_a_daemon_that_ends_by_itself_says_why(self, cluster: RealCluster):
        cluster.kill("slurmd.n4", signal.SIGTERM)
        wait_for(lambda: "slurmd.n4   not running" in cluster.script("status").stdout, "n4 to end")
        configuration = cluster.folder / "gres.conf"
        before = configuration.read_text()
        configuration.write_text("Name=gpu File=/nowhere/at/all\n")
        try:
            done = cluster.script("up")
        finally:
            configuration.write_text(before)
        assert done.returncode == 1
        assert "slurmd.n4 has ended by itself" in done.stderr
        assert "/nowhere/at/all" in done.stderr


def port_of(cluster: RealCluster) -> int:
    """The controller's port."""
    return int(cluster.ask("scontrol", "show", "config").partition("SlurmctldPort")[2].split()[1])
