"""A study on a cluster gives what it gives here."""

import pytest

from bench.cells import expand
from bench.record import Store
from bench.spec import load
from tests.real_slurm import RealCluster
from tests.slurm_studies import desk, idle, untimed

pytestmark = pytest.mark.slurm

STUDY = """\
question = "Is a cluster the same as a laptop?"
seeds = 10
n_tasks = 2
dtype = ["float64", "float32"]
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 4, support = 3, query = 3}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.05}
method = ["fomaml", "maml", {name = "imaml", linear = {name = "conjugate_gradient", iterations = 2}}]
"""


def test_sixty_cells_on_several_nodes_are_those_of_a_local_run(cluster: RealCluster, tmp_path):
    there = desk(tmp_path, cluster, STUDY)
    there.submit("--cells-per-job", 8)
    (job,) = set(cluster.ask("squeue", "--noheader", "--format=%F").split())  # one array
    idle(cluster)
    nodes = cluster.ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T %N")
    assert len(nodes.splitlines()) == 8
    assert len(set(nodes.splitlines())) >= 3, nodes  # (COMPLETED, node): several nodes, one state
    assert {line.split()[0] for line in nodes.splitlines()} == {"COMPLETED"}

    here = there.metabench("run", there.study.name, "--results", "here", "--jobs", 1)
    assert here.returncode == 0, here.stderr
    ours = {r["id"]: r for r in Store(tmp_path / "here", there.study.stem).records()}
    theirs = there.records()
    assert set(theirs) == set(ours) == {cell.id for cell in expand(load(there.study))}
    assert len(theirs) == 60
    assert {record["status"] for record in theirs.values()} == {"ok"}
    for cell, record in theirs.items():
        assert untimed(record) == untimed(ours[cell])

    said = there.submit()
    assert cluster.ask("squeue", "--noheader") == "", said  # nothing is missing, so nothing was sent


def test_a_dry_run_sends_nothing(cluster: RealCluster, tmp_path):
    there = desk(tmp_path, cluster, STUDY)
    before = cluster.ask("squeue", "--noheader", "--states=all", "--format=%A")
    said = there.submit("--dry-run")
    assert "#SBATCH" in said
    after = cluster.ask("squeue", "--noheader", "--states=all", "--format=%A")
    assert set(after.split()) <= set(before.split())
    assert there.records() == {}
