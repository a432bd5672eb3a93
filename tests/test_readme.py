"""The numbers of both READMEs are those of the committed records, and the commands they name exist."""

import re
import subprocess
from pathlib import Path

import pytest
import typer.main

from analysis import readme, table
from bench.cli import app
from bench.record import Store
from tests.command_line import metabench

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "results" / "reference"


def test_the_numbers_are_written_from_the_records() -> None:
    pages = readme.updated(ROOT)
    assert list(pages) == list(readme.PAGES)
    for page, text in pages.items():
        assert text == (ROOT / page).read_text(encoding="utf-8"), page


def test_a_missing_marker_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "README.md"
    broken.write_text(PAGE.replace("begin: memory", "begin: memories"), encoding="utf-8")
    with pytest.raises(ValueError, match="memory"):
        readme.update(broken, {"memory": ""})


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"^metabench (\w+)", README, flags=re.MULTILINE))
    assert {"list", "plan", "run", "status", "figures", "report"} <= named
    assert named <= set(typer.main.get_command(app.app).commands)


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_figures_are_committed(page: str) -> None:
    paths = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert paths
    for path in paths:
        assert (ROOT / page).parent.joinpath(path).stat().st_size > 10_000, path


def test_the_first_study_of_the_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (made,) = re.findall(r"^cat > my.toml <<END\n.*?\nEND\n", README, flags=re.MULTILINE | re.DOTALL)
    subprocess.run(["/bin/sh", "-e", "-c", made], check=True)
    found = metabench("plan", "my.toml")
    assert "12 cells: 12 missing" in found.out, found.err


@pytest.fixture(scope="module")
def cost():
    return table.frame(Store(REFERENCE, "cost_vs_steps").records())


def test_memory_grows_as_promised(cost) -> None:
    """Unrolled MAML linearly in K, the adjoint sweep by one iterate a step, iMAML not at all."""
    for problem, iterate, (first, middle, last) in (
        ("sinusoid", 25 * 1761 * 4, (10, 50, 100)),
        ("omniglot", 117_076 * 4, (5, 10, 20)),
    ):
        found = readme.peaks(cost, problem)
        growth = (found[last] - found[middle]) / (last - middle)
        earlier = (found[middle] - found[first]) / (middle - first)
        assert growth["MAML, adjoint"] == pytest.approx(iterate, rel=0.01)
        assert growth["MAML, unrolled"] > 1.5 * iterate
        assert growth["MAML, unrolled"] == pytest.approx(earlier["MAML, unrolled"], rel=0.01)
        for method in ("FOMAML", "iMAML, CG 1", "iMAML, CG 5", "iMAML, CG 10"):
            assert growth[method] == 0


def test_one_cg_iteration_is_worse_than_first_order_and_floors_do_not_move() -> None:
    accuracy = table.frame(Store(REFERENCE, "accuracy_vs_steps").records())
    six = readme.quadratic(accuracy, 6.0)
    assert readme.median_error(six, "iMAML, CG 1", 20) > readme.median_error(six, "FOMAML", 20)
    for method in ("iMAML, CG 1", "iMAML, CG 2", "iMAML, CG 5"):
        late = readme.median_error(six, method, 100)
        assert readme.median_error(six, method, 50) == pytest.approx(late, rel=0.01)
