"""What CONTRIBUTING and the README promise to people who add something of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

NEW_METHOD = '''from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bench.api import Estimate, InnerSolver, Method, Target
from bench.api import Bilevel
from bench.registry import register
from methods.inner import GradientDescent


@register("method", "{name}")
@dataclass(frozen=True)
class Half(Method):
    """Half of the query gradient at the adapted parameters; exact for nothing."""

    inner: InnerSolver = field(default_factory=GradientDescent)
    factor: float = 0.5

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        return Estimate({body}, phi, converged, stats)
'''


def copy_of_the_tree(target: Path) -> None:
    for folder in ("bench", "methods", "analysis", "slurm", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def add_a_method(tree: Path, body: str) -> None:
    """One file, one re-export line, one row: what CONTRIBUTING says."""
    (tree / "methods" / "half.py").write_text(NEW_METHOD.format(name="half", body=body))
    exports = tree / "methods" / "__init__.py"
    exports.write_text(exports.read_text() + "from methods.half import Half as Half  # noqa: E402\n")
    cases = tree / "tests" / "cases.py"
    text = cases.read_text()
    assert "METHODS = [\n" in text
    cases.write_text(text.replace("METHODS = [\n", 'METHODS = [\n    MethodCase("half"),\n', 1))


def run_the_tests_of(tree: Path, *which: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *which]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)


def test_adding_a_method_takes_one_file_one_line_and_one_row(tmp_path: Path) -> None:
    copy_of_the_tree(tmp_path)
    add_a_method(tmp_path, "self.factor * bilevel.outer_grad(phi)")
    which = ["tests/test_methods.py", "-k", "half or registered"]
    done = run_the_tests_of(tmp_path, *which)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_wrong_new_method_fails_the_battery(tmp_path: Path) -> None:
    copy_of_the_tree(tmp_path)
    mixes_tasks = "self.factor * bilevel.outer_grad(phi).mean(dim=0, keepdim=True).expand_as(phi)"
    add_a_method(tmp_path, mixes_tasks)
    done = run_the_tests_of(tmp_path, "tests/test_methods.py", "-k", "half")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "one task at a time equals all at once" in done.stdout


TOY_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "toy-metabench-plugin"
version = "1.0"

[project.entry-points."metabench.plugins"]
toy = "toy_metabench_plugin"
toy-broken = "toy_metabench_plugin.no_such_module"

[tool.setuptools]
py-modules = ["toy_metabench_plugin"]
"""

TOY_SOLVER = '''

from bench.api import LinearSolver, Matvec, Solution, Vectors


@register("linear", "toy-richardson")
@dataclass(frozen=True)
class ToyRichardson(LinearSolver):
    """Richardson iteration, a third party's."""

    iterations: int = 3
    step: float = 0.05

    def __call__(self, matvec: Matvec, rhs: Vectors, start=None, noise=None) -> Solution:
        x = torch.zeros_like(rhs) if start is None else start
        for _ in range(self.iterations):
            x = x + self.step * (rhs - matvec(x))
        size = torch.linalg.vector_norm(rhs, dim=1)
        left = torch.linalg.vector_norm(rhs - matvec(x), dim=1) / torch.where(size > 0, size, 1)
        stats = {"residual": left, "iterations": torch.full_like(size, self.iterations)}
        return Solution(x, left <= 1e-2, stats)
'''

TOY_STUDY = """
question = "Does a third party's package run?"
seeds = 1
n_tasks = 2
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 6}

[[method]]
name = "toy-half"
factor = [0.5, 1.0]

[[method]]
name = "imaml"
linear = {name = "toy-richardson", iterations = [50, 80]}
"""


def metabench(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "bench.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_a_third_partys_package_is_listed_checked_and_swept(tmp_path: Path) -> None:
    project, site, work = tmp_path / "project", tmp_path / "site", tmp_path / "work"
    project.mkdir()
    work.mkdir()
    (project / "pyproject.toml").write_text(TOY_PROJECT)
    method = NEW_METHOD.format(name="toy-half", body="self.factor * bilevel.outer_grad(phi)")
    (project / "toy_metabench_plugin.py").write_text(method + TOY_SOLVER)
    # Into a folder of its own, so that the test leaves the environment as it was.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(project)], check=True, timeout=300)

    listed = metabench("list", "--json", path=site, cwd=work)
    assert listed.returncode == 0, listed.stderr
    text = json.dumps(json.loads(listed.stdout))
    assert "toy-half" in text
    assert "toy-richardson" in text
    assert "toy-broken" in text  # a broken plugin is shown and kills nothing

    for target in ("toy-half", "linear:toy-richardson"):
        checked = metabench("check", target, path=site, cwd=work)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    (work / "toy.toml").write_text(TOY_STUDY)
    swept = metabench("run", "toy.toml", "--jobs", "1", path=site, cwd=work)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    status = json.loads(metabench("status", "toy.toml", "--json", path=site, cwd=work).stdout)
    assert "4" in json.dumps(status)
