"""The edge of stability: the verdict against pandas on the records, and a quadratic whose growth is known."""

import copy
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures, report, stability, table
from analysis.figures import stability as drawn
from analysis.stats import wilson
from bench.cells import expand
from bench.record import Store
from bench.run import run_cell
from bench.spec import load, shipped
from tests import fake_records as fake

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "stability"
L = 12.0  # of fake.LINEAR
RATES = {0.5: 1.0, 1.5: 1.3, 2.0: 1.0, 2.5: 3e3, 4.0: np.inf}  # step times L -> growth to 100 steps
METHODS = ({"name": "maml", "backward": "adjoint"}, fake.FOMAML, fake.imaml(iterations=10))


def records(seeds=(0, 1, 2)) -> list[dict]:
    """Made-up ones whose norms grow as `RATES` says, FOMAML's by the square root of it."""
    made = []
    for times in RATES:
        for k in (1, 10, 100):
            inner = {"name": "gradient_descent", "steps": k, "learning_rate": times / L}
            methods = [m | {"inner": inner} for m in METHODS]
            made += fake.records([fake.LINEAR], methods, [k], seeds, passes=["accuracy"], dtype="float32")
    rng = np.random.default_rng(3)
    for one in made:
        inner, name = one["cell"]["method"]["inner"], one["cell"]["method"]["name"]
        growth = RATES[round(inner["learning_rate"] * L, 3)] ** ((inner["steps"] - 1) / 99)
        growth = growth if name == "maml" else growth**0.5
        norms = (growth * rng.uniform(0.5, 2.0, 4)).tolist()
        one["accuracy"]["meta_grad_norm"] = [n if np.isfinite(n) and n < 1e30 else None for n in norms]
        if None in one["accuracy"]["meta_grad_norm"]:
            one["status"], one["reason"] = "non_finite", {"message": "meta_grad is not finite in all tasks"}
    return made + curvatures(seeds)


def curvatures(seeds) -> list[dict]:
    """First-order MAML with the pass that measures L."""
    inner = {"name": "gradient_descent", "steps": 1, "learning_rate": 0.001}
    made = fake.records(
        [fake.LINEAR], [fake.FOMAML | {"inner": inner}], [1], seeds, passes=["assumptions"], dtype="float32"
    )
    sizes = {"smallest": [[2.0, 2.0]] * 4, "largest": [[L, 11.0]] * 4}
    known = {"strongly_convex": [[False, False]] * 4}
    return [one | {"assumptions": {"steps": [0, 1], "sizes": sizes, "violated": known}} for one in made]


def independent(some: list[dict]) -> pd.DataFrame:
    """One row a task, straight from the records."""
    problems = [r["cell"]["problem"] for r in some]
    largest = {
        (str(p), r["cell"]["seed"], t): row[0]
        for p, r in zip(problems, some, strict=True) if "assumptions" in r
        for t, row in enumerate(r["assumptions"]["sizes"]["largest"])
    }  # fmt: skip
    rows = [
        {
            "problem": str(p), "seed": r["cell"]["seed"], "task": t, "dtype": r["cell"]["dtype"],
            "name": r["cell"]["method"]["name"], "k": r["cell"]["method"]["inner"]["steps"],
            "rate": r["cell"]["method"]["inner"]["learning_rate"],
            "norm": np.inf if norm is None else norm, "L": largest[str(p), r["cell"]["seed"], t],
            "cosine": (r["accuracy"]["references"]["implicit"].get("cosine") or [None] * 99)[t],
        }
        for p, r in zip(problems, some, strict=True) if "accuracy" in r
        for t, norm in enumerate(r["accuracy"]["meta_grad_norm"])
    ]  # fmt: skip
    return pd.DataFrame(rows)


def growths(rows: pd.DataFrame, name: str, beyond: bool) -> pd.Series:
    """Norm with the most to the norm with the fewest steps, on one side of the edge, in float32."""
    times = rows["rate"] * rows["L"]
    side = times > 2 * 1.01 if beyond else times < 2 * 0.99
    mine = rows[side & (rows["name"] == name) & (rows["dtype"] == "float32")]
    wide = mine.pivot_table(index=["problem", "seed", "task", "rate"], columns="k", values="norm")
    return wide[wide.columns.max()] / wide[wide.columns.min()]


def said(frame: pd.DataFrame, problem: str = "all problems") -> dict[str, str]:
    ((_, found),) = drawn.verdicts(frame)
    (verdict,) = (v for v in found if v.problem == problem)
    return {item.term: item.text for item in verdict.items}


def number(text: str) -> float:
    return np.inf if text == "∞" else float(text)


def check_first_sentence(text: str, rows: pd.DataFrame) -> None:
    """Factors, counts and n of both sides are those of `independent`."""
    found = re.findall(r"factor of (\S+) .*?and ([\d,]+) of ([\d,]+) are not finite", text)
    wanted = [growths(rows, "maml", beyond) for beyond in (False, True)]
    assert len(found) == 2
    for (factor, lost, n), growth in zip(found, wanted, strict=True):
        assert number(factor) == pytest.approx(growth.median(), rel=0.05)
        assert (int(lost.replace(",", "")), int(n.replace(",", ""))) == (np.isinf(growth).sum(), len(growth))


@pytest.fixture(scope="module")
def some() -> list[dict]:
    return records()


@pytest.fixture(scope="module")
def frame(some) -> pd.DataFrame:
    return table.frame(some)


def test_the_verdict_is_what_a_few_lines_of_pandas_give(some, frame) -> None:
    rows, texts = independent(some), said(frame)
    first = texts["Is MAML's meta-gradient unstable?"]
    assert first.startswith("Only beyond the edge of stability: from K = 1 to K = 100, ")
    check_first_sentence(first, rows)
    assert "n = 24: 12 tasks of 3 seeds" in first
    grown = texts["Growth of the norm beyond the edge"]
    fomaml = float(re.findall(r"FOMAML (\S+)", grown)[0].replace("∞", "inf"))
    assert fomaml == pytest.approx(growths(rows, "fomaml", True).median(), rel=0.05)
    lost = wilson(12, 24)
    assert f"MAML, adjoint {lost}" in texts["Not finite beyond the edge"]
    last = rows[(rows["k"] == 100) & (rows["rate"] * L < 1.99)]
    norms = last.pivot_table(index=["seed", "task", "rate"], columns="name", values="norm")
    back = (norms["maml"] / norms["fomaml"]).median()
    factor = re.findall(r"below the edge (\S+)", texts["The way back alone, K = 100"])[0]
    assert float(factor) == pytest.approx(back, rel=0.05)
    foretold = texts["Does the edge foretell it?"]
    wrong = (growths(rows, "maml", True) <= 10).sum() + (growths(rows, "maml", False) > 10).sum()
    assert foretold.startswith(f"{48 - wrong} of 48 ")


def test_the_answer_follows_the_numbers(some) -> None:
    calm, wild = copy.deepcopy(some), copy.deepcopy(some)
    for one in calm + wild:
        if "accuracy" in one:
            grown = 1e9 if one["cell"]["method"]["inner"]["steps"] == 100 else 1.0
            one["accuracy"]["meta_grad_norm"] = [1.0] * 4 if one in calm else [grown] * 4
            one["status"] = "ok"
    term = "Is MAML's meta-gradient unstable?"
    assert said(table.frame(calm))[term].startswith("No, on neither side of the edge of stability: ")
    assert said(table.frame(wild))[term].startswith("Yes, on both sides of the edge of stability: ")


def test_what_overflows_in_float32_only_is_told_apart(some) -> None:
    wide = [copy.deepcopy(one) for one in some if "accuracy" in one]
    for one in wide:
        one["cell"]["dtype"], one["id"] = "float64", "f" + one["id"][1:]
        norms = one["accuracy"]["meta_grad_norm"]
        one["accuracy"]["meta_grad_norm"] = [1e90 if n is None and i else n for i, n in enumerate(norms)]
    text = said(table.frame(some + wide))["Of MAML's that are not finite in float32, finite in float64"]
    assert text.startswith("18 of 24 (75 % ")  # three of four tasks of 3 seeds, with 10 and 100 steps


def test_the_figures_and_the_page(some, frame) -> None:
    spec = fake.spec("stability", question="Is it unstable?", figure="stability")
    first, second = figures.draw(spec, frame).values()
    assert [t.get_text() for t in first.figure.legends[0].get_texts()] == list(stability.BANDS)
    looks = list(drawn.LOOKS.values())
    assert len({look.marker for look in looks}) == len({str(look.line) for look in looks}) == len(looks)
    assert len(second.figure.legends[0].get_texts()) == 3
    assert "Wilson" in first.caption["Statistic"]
    page = report.render([(spec, some)])
    assert "Only beyond the edge of stability" in page
    (made,) = drawn.tables(frame)
    rows = {(r["method"], r["axes"][0]): r for r in made["rows"]}
    growth = growths(independent(some), "maml", True).median()
    assert rows["MAML, adjoint", "beyond the edge"]["values"][0][0] == ("∞" if np.isinf(growth) else "?")


def test_little_or_nothing_is_said_as_such(some) -> None:
    failed = [fake.failing(one, "error") for one in some if "accuracy" in one]
    without = [one for one in some if "assumptions" not in one]
    for records_ in ([], failed, without):
        frame = table.frame(records_)
        ((_, (verdict,)),) = drawn.verdicts(frame)
        assert verdict.items[0].term == "No verdict"
        assert drawn.tables(frame) == []
        assert len(drawn.draw(frame)) == 1
    one_seed = table.frame([one for one in some if one["cell"]["seed"] == 0])
    assert "12 tasks" not in said(one_seed)["Is MAML's meta-gradient unstable?"]
    no_reference = [
        fake.without_reference(one, "implicit", "a kink") if "accuracy" in one else one for one in some
    ]
    frame = table.frame(no_reference)
    assert "Cosine to the implicit gradient below the edge, where finite" not in said(frame)
    assert len(drawn.draw(frame)) == 2
    only_imaml = [one for one in some if one["cell"]["method"]["name"] != "maml"]
    text = said(table.frame(only_imaml))["Is MAML's meta-gradient unstable?"]
    assert text == "Not known: no MAML with more than one number of inner steps."
    for frame in (one_seed, table.frame(only_imaml)):
        assert drawn.draw(frame)


STUDY = """
question = "Is it unstable?"
figure = "stability"
seeds = 2
n_tasks = 2
dtype = "float64"
passes = ["accuracy"]
method = ["maml", "fomaml", {name = "imaml", linear = "dense"}]
problem = {name = "linear_regression", dim = 6, support = 4, query = 3, condition = 6.0, strength = 2.0}
[[sweep]]
inner = {name = "gradient_descent", steps = [1, 40], learning_rate = [0.08, 0.1666666666666666, 0.25]}
[[sweep]]
inner = {name = "gradient_descent", steps = 1, learning_rate = 0.01}
method = "fomaml"
passes = ["assumptions"]
path_points = 2
"""


def test_on_a_quadratic_the_largest_curvature_decides(tmp_path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    some = [run_cell(cell, "small") for cell in expand(load(path))]
    frame = table.frame(some)
    here = stability.measured(frame)
    # L = strength * condition; a step of 3 / L makes what lies along it 2 times longer, there and back
    np.testing.assert_allclose(here[stability.TIMES_CURVATURE], here["method.inner.learning_rate"] * 12)
    assert sorted(here[stability.SIDE].unique()) == ["above", "at", "below"]
    beyond = here[(here[stability.SIDE] == "above") & (here["steps"] == 40)]
    there = stability.median(stability.of(beyond, "fomaml"), stability.NORM).found.median
    back = stability.median(stability.of(beyond, "maml"), stability.BACK).found.median
    assert 0.05 < there / 2.0**40 < 1e3
    assert 0.05 < back / 2.0**40 < 20
    # iMAML multiplies by lambda times the inverse of a Hessian between lambda and L, whatever the steps.
    imaml = stability.of(here, "imaml")[stability.BACK]
    assert (imaml >= 2 / 12 - 1e-12).all()
    assert (imaml <= 1 + 1e-12).all()
    below = here[(here[stability.SIDE] == "below") & (here["steps"] == 40)]
    assert stability.median(stability.of(below, "maml"), stability.COSINE).found.median > 1 - 1e-4
    text = said(frame)["Is MAML's meta-gradient unstable?"]
    assert text.startswith("Only beyond the edge of stability: ")
    assert stability.foretold(stability.longest(here))[:2] == (8, 8)


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["stability"]))
    assert len({cell.id for cell in cells}) == len(cells)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the records of this study are not in the repository")
def test_the_reference_verdict_is_that_of_its_records() -> None:
    some = list(Store(REFERENCE.parent, "stability").records())
    check_first_sentence(said(table.frame(some))["Is MAML's meta-gradient unstable?"], independent(some))
