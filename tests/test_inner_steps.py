"""iMAML's own sweep: the verdict against pandas on the records, and a quadratic whose floor is known."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from analysis import figures, inner_steps, report, table
from analysis.figures import inner_steps as drawn
from bench import inputs
from bench.cells import expand
from bench.record import Store
from bench.run import run_cell
from bench.spec import load, shipped
from tests import fake_records as fake

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "inner_steps"
STEPS = (1, 5, 20, 100)
FLOORS = {1: 0.3, 5: 1e-3, 20: 1e-9}  # by iterations of CG
GAINS = {1: 0.3, 5: 0.5, 10: 0.505}  # accuracy by K


def records(seeds=(0, 1, 2)) -> list[dict]:
    """Made-up ones: the error falls as exp(-K / 4) to a floor that CG sets; and trainings."""
    made = fake.records(
        [fake.LINEAR], [fake.imaml(iterations=n) for n in FLOORS], STEPS, seeds, passes=["accuracy"]
    )
    rng = np.random.default_rng(1)
    some = []
    for one in made:
        method = one["cell"]["method"]
        floor = FLOORS[method["linear"]["iterations"]]
        implicit = (np.exp(-method["inner"]["steps"] / 4) + floor) * rng.uniform(0.99, 1.01, 4)
        maml = implicit * rng.choice([0.5, 1.0, 2.0], 4)
        one = fake.with_errors(one, "implicit", implicit.tolist())
        some.append(fake.with_errors(one, "maml", maml.tolist()))
    return some + trainings(seeds)


def trainings(seeds) -> list[dict]:
    made = []
    for k, level in GAINS.items():
        inner = {"name": "gradient_descent", "steps": k, "learning_rate": 0.1}
        methods = [m | {"inner": inner} for m in (fake.MAMLS[0], fake.imaml())]
        for one in fake.trainings([fake.CONV], methods, [fake.ADAM], seeds, "inner_steps"):
            seed = one["cell"]["seed"]
            made.append(fake.with_test(one, "accuracy", level + 0.02 * seed + 0.01 * ((seed + k) % 3)))
    return made


def independent(some: list[dict]) -> pd.DataFrame:
    """One row a task of iMAML with CG, straight from the records."""
    rows = []
    for r in some:
        method = r["cell"]["method"]
        if "accuracy" not in r or method["name"] != "imaml":
            continue
        references = r["accuracy"]["references"]
        for t in range(r["cell"]["n_tasks"]):
            errors = {name: (references[name].get("relative_error") or [None] * 99)[t] for name in references}
            where = {"problem": r["cell"]["problem"]["name"], "strength": r["cell"]["problem"]["strength"]}
            where |= {"seed": r["cell"]["seed"], "task": t, "k": method["inner"]["steps"]}
            rows.append(where | {"cg": method["linear"]["iterations"]} | errors)
    return pd.DataFrame(rows).astype({"implicit": float, "maml": float})


def where_it_stops(rows: pd.DataFrame) -> dict[int, list[int]]:
    """By iterations of CG, of every problem and lambda: the K from which on the error falls no more."""
    found: dict[int, list[int]] = {}
    for (_, _, n), group in rows.groupby(["problem", "strength", "cg"]):
        wide = group.pivot_table(index=["seed", "task"], columns="k", values="implicit").dropna()
        if wide.empty:
            continue
        wide = wide.clip(lower=1e-7)
        ratio = wide.div(wide[wide.columns.max()], axis=0).median()
        above = [k for k in ratio.index if ratio[k] > 1.1]
        found.setdefault(int(n), []).append(min(k for k in ratio.index if k > max(above, default=0)))
    return found


def accuracies(some: list[dict]) -> pd.DataFrame:
    """Test accuracy of each training."""
    return pd.DataFrame(
        {
            "method": r["cell"]["method"]["name"], "k": r["cell"]["method"]["inner"]["steps"],
            "strength": r["cell"]["problem"]["strength"], "seed": r["cell"]["seed"],
            "accuracy": r["train"]["evaluations"][-1]["accuracy"]["mean"],
        }
        for r in some if "train" in r
    )  # fmt: skip


def said(frame: pd.DataFrame) -> dict[tuple[str, str, str, str], str]:
    ((_, found),) = drawn.verdicts(frame)
    return {(v.problem, v.setting, i.term, i.methods): i.text for v in found for i in v.items}


def check_the_answers(some: list[dict]) -> None:
    """The first sentence and the gains are those of `where_it_stops` and `accuracies`."""
    texts = said(table.frame(some))
    first = texts["all problems", "", "How many inner steps does iMAML need?", ""]
    parts = re.findall(r"after K = (\d+)(?: to (\d+))? with CG (\d+)", first)
    wanted = where_it_stops(independent(some))
    got = {int(n): (int(low), int(high or low)) for low, high, n in parts}
    assert got == {n: (min(ks), max(ks)) for n, ks in wanted.items()}
    gains = {key: text for key, text in texts.items() if key[2] == "Do more inner steps buy accuracy?"}
    rows = accuracies(some)
    assert len(gains) == len(rows[["method", "strength"]].drop_duplicates())
    for (_, _, _, method), text in gains.items():
        mine = rows[rows["method"] == ("imaml" if method.startswith("iMAML") else "maml")]
        wide = mine.pivot_table(index="seed", columns="k", values="accuracy")
        gain = wide[wide.columns.max()] - wide[wide.columns.min()]
        half = scipy.stats.t.ppf(0.975, len(gain) - 1) * gain.sem()
        low, high = 100 * (gain.mean() - half), 100 * (gain.mean() + half)
        assert f"{100 * gain.mean():+.1f} points [{low:+.1f}, {high:+.1f}] ({len(gain)} seeds)" in text


@pytest.fixture(scope="module")
def some() -> list[dict]:
    return records()


@pytest.fixture(scope="module")
def frame(some) -> pd.DataFrame:
    return table.frame(some)


def test_the_verdict_is_what_a_few_lines_of_pandas_give(some, frame) -> None:
    check_the_answers(some)
    texts = said(frame)
    first = texts["all problems", "", "How many inner steps does iMAML need?", ""]
    assert "after K = 20 with CG 1; " in first  # exp(-5 / 4) is as large as CG 1's floor
    assert "n = 12 tasks of 3 seeds" in first
    limit = texts["all problems", "", "Which number of iterations of CG is the limit there?", ""]
    assert limit.startswith("CG up to 5: ")
    rows = independent(some)
    last = rows[rows["k"] == 100].pivot_table(index=["seed", "task"], columns="cg", values="implicit")
    ratio = (last[5] / last[20].clip(lower=1e-7)).median()
    assert float(re.findall(r"CG 5 (\S+) \[", limit)[0]) == pytest.approx(ratio, rel=0.05)
    near = texts["all problems", "", "Nearer to the implicit gradient than to exact MAML", ""]
    mine = rows[rows["cg"] == 1]
    k = int((mine["implicit"] * 1.1 < mine["maml"]).sum())
    m = int((mine["maml"] * 1.1 < mine["implicit"]).sum())
    assert f"CG 1 {k} of {len(mine)} (" in near
    assert f"nearer to MAML {m} (" in near


def test_the_bounds_of_the_steps_hold_them_and_errors_stay_unrounded(frame) -> None:
    here = inner_steps.measured(frame)
    found = inner_steps.settled(here[here["method.linear.iterations"] == 20])
    assert found is not None
    assert (found.steps, found.most) == (100, 100)
    assert found.low <= found.steps <= found.high
    assert found.error.median == pytest.approx(1e-9, rel=0.05)
    assert inner_steps.enough_iterations(here) == 20


def test_what_is_not_certain_is_said_so(frame) -> None:
    texts = said(frame)
    text = next(
        t for key, t in texts.items() if key[2:] == ("Do more inner steps buy accuracy?", "iMAML, CG 5")
    )
    assert "raises the accuracy" in text
    assert text.endswith("; K = 5 is the fewest not told apart from the best.")
    wide = inner_steps.by_steps(inner_steps.trained(frame)[lambda f: f["method.name"] == "imaml"])
    assert inner_steps.enough_steps(wide) == (10, 5)
    assert inner_steps.enough_steps(wide.iloc[:1])[1] is None


def test_the_figures_and_the_page(some, frame) -> None:
    spec = fake.spec("inner_steps", question="How many?", figure="inner_steps")
    implicit, maml, trained = figures.draw(spec, frame).values()
    names = [t.get_text() for t in implicit.figure.legends[0].get_texts()]
    assert names == ["iMAML, CG 1", "iMAML, CG 5", "iMAML, CG 20"]
    assert len({line.get_marker() for line in implicit.figure.axes[0].lines[:3]}) == 3
    curve = implicit.figure.axes[0].lines[0]
    rows = independent(some)
    wanted = rows[rows["cg"] == 1].groupby("k")["implicit"].median()
    np.testing.assert_allclose(np.asarray(curve.get_ydata(), dtype=float), wanted)
    assert len(maml.figure.axes) == 1
    assert len(trained.figure.legends[0].get_texts()) == 2
    page = report.render([(spec, some)])
    assert "How many inner steps does iMAML need?" in page
    assert "lambda 2: error to implicit gradient" in page
    made = {t["problem"]: t for t in drawn.tables(frame)}
    first = made["linear regression, lambda 2: error to implicit gradient"]["rows"][0]
    assert float(first["values"][0][0]) == pytest.approx(wanted[1], rel=0.05)


def test_little_or_nothing_is_said_as_such(some) -> None:
    failed = [fake.failing(one, "error") for one in some if "accuracy" in one]
    for records_ in ([], failed, fake.records([fake.LINEAR], [fake.FOMAML], passes=["accuracy"])):
        frame = table.frame(records_)
        ((_, (verdict,)),) = drawn.verdicts(frame)
        assert verdict.items[0].term == "No verdict"
        assert drawn.tables(frame) == []
        assert len(drawn.draw(frame)) == 1
    one_seed = table.frame([one for one in some if one["cell"]["seed"] == 0])
    text = next(t for key, t in said(one_seed).items() if key[2] == "Do more inner steps buy accuracy?")
    assert "does not for certain change" in text
    assert "fewest" not in text
    measured = [one for one in some if "accuracy" in one]
    gone = table.frame([fake.without_reference(one, "implicit", "a kink") for one in measured])
    assert drawn.verdicts(gone)[0][1][0].items[0].term == "No verdict"
    assert len(drawn.draw(gone)) == 1  # the error to MAML is there
    only_trained = table.frame([one for one in some if "train" in one])
    assert len(drawn.draw(only_trained)) == 1
    assert len(drawn.tables(only_trained)) == 1


STUDY = """
question = "How many?"
figure = "inner_steps"
seeds = 2
n_tasks = 3
dtype = "float64"
passes = ["accuracy"]
problem = {name = "linear_regression", dim = 8, support = 3, query = 4, condition = 6.0, strength = 2.0}
inner = {name = "gradient_descent", steps = [1, 10, 400], learning_rate = 0.08}
method = {name = "imaml", linear = {name = "conjugate_gradient", iterations = [1, 2, 4, 8]}}
"""


def test_on_a_quadratic_the_floor_is_that_of_the_iterations(tmp_path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    cells = expand(load(path))
    frame = table.frame([run_cell(cell, "small") for cell in cells])
    here = inner_steps.measured(frame)
    # Three support points give the Hessian four different eigenvalues: CG ends with the fourth iteration.
    assert inner_steps.enough_iterations(here) == 4
    last = inner_steps.longest(here)
    assert (last[last[inner_steps.CG] >= 4][inner_steps.IMPLICIT] < 1e-12).all()
    # The floor of one iteration from its closed form x = (g'g / g'Ag) g, against A^-1 g.
    for cell in cells:
        method = cell.description["method"]
        if method["linear"]["iterations"] != 1 or method["inner"]["steps"] != 400:
            continue
        exact = inputs.exact(inputs.exact_key(cell.description))
        phi = exact.inner_solution()
        assert phi is not None
        g, product = exact.outer_grad(phi), exact.inner_hvp(phi)
        a = torch.stack([product(torch.eye(8, dtype=phi.dtype)[i].expand_as(phi)) for i in range(8)], dim=2)
        x = (g.square().sum(1) / (g * (a @ g[:, :, None])[:, :, 0]).sum(1))[:, None] * g
        true = torch.linalg.solve(a, g)
        wanted = ((x - true).norm(dim=1) / true.norm(dim=1)).numpy()
        found = here[here["id"] == cell.id].sort_values("task")[inner_steps.IMPLICIT]
        np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["inner_steps"]))
    assert len({cell.id for cell in cells}) == len(cells)
    assert {"train", "accuracy"} == {p for c in cells for p in c.description["passes"]}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the records of this study are not in the repository")
def test_the_reference_verdict_is_that_of_its_records() -> None:
    check_the_answers(Store(REFERENCE.parent, "inner_steps").records())
