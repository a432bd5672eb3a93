"""Shares, intervals, verdict, tables and figures of the assumptions, against an independent calculation."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import assumptions, figures, report, table
from analysis.figures import assumptions as drawn
from bench.assumptions import ASSUMPTIONS
from bench.cells import expand
from bench.spec import load, shipped
from tests import fake_records as fake

STRENGTHS = (0.1, 1.0, 10.0)
NETWORKS = ("relu", "tanh")
POINTS = [0, 5, 10]


def records() -> list[dict]:
    """Made-up ones: violations by chance, more of them at a small lambda; errors that grow with them."""
    rng = np.random.default_rng(5)
    made = []
    problems = [fake.LINEAR | {"strength": s} for s in STRENGTHS]
    for activation in NETWORKS:
        network = {"name": "mlp", "hidden": [40, 40], "activation": activation}
        problems += [fake.SINUSOID | {"strength": s, "network": network} for s in STRENGTHS]
    for record in fake.records(problems, [fake.imaml()], passes=["accuracy", "assumptions"]):
        strength, n = record["cell"]["problem"]["strength"], record["cell"]["n_tasks"]
        chance = 0.6 / (1 + strength)
        violated = {name: (rng.random((n, len(POINTS))) < chance).tolist() for name in ASSUMPTIONS}
        for name in ("stationary", "invertible", "curvature"):
            violated[name] = [[None, None, row[-1]] for row in violated[name]]
        violated["outer_lipschitz"] = [[False] * len(POINTS)] * n
        smallest = strength * (1 - rng.exponential(1.0, (n, len(POINTS))))
        sizes = {
            "smallest": smallest.tolist(),
            "condition": rng.exponential(10.0, (n, len(POINTS))).tolist(),
            "stationarity": rng.random((n, len(POINTS))).tolist(),
            "inner_smooth.jump": rng.random((n, len(POINTS))).tolist(),
        }
        errors = (np.exp(-smallest[:, -1] / strength) * rng.uniform(0.5, 2.0, n)).tolist()
        one = fake.with_errors(record, "implicit", errors)
        made.append(one | {"assumptions": {"steps": POINTS, "sizes": sizes, "violated": violated}})
    made[-1] = made[-1] | {"status": "not_converged", "reason": {"message": "the curvature falls to -1"}}
    return made


@pytest.fixture(scope="module")
def some() -> list[dict]:
    return records()


@pytest.fixture(scope="module")
def frame(some) -> pd.DataFrame:
    return table.frame(some)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (7, 24), (480, 1440), (1, 100_000)])
def test_wilson_is_that_of_scipy_and_of_the_closed_form(k: int, n: int) -> None:
    found = assumptions.wilson(k, n)
    wanted = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert found[2:] == pytest.approx((k / n, wanted.low, wanted.high), abs=1e-12)
    z = scipy.stats.norm.ppf(0.975)
    for end in found[3:]:  # the ends solve (share - p)^2 = z^2 p (1 - p) / n
        assert (k / n - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)
    assert np.isnan(assumptions.wilson(0, 0).share)


def test_the_rank_correlation_is_that_of_scipy_and_leaves_out_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    x = pd.Series(rng.integers(0, 8, 60).astype(float))  # with ties
    y = x + pd.Series(rng.normal(0, 3, 60))
    y[:5], x[5:9] = np.nan, np.inf
    found = assumptions.correlation(x, y)
    assert found is not None
    assert found.n == 51
    assert found.rho == pytest.approx(scipy.stats.spearmanr(x[9:], y[9:])[0], rel=1e-12)
    assert found.low < found.rho < found.high
    assert assumptions.correlation(x[:12], y[:12]) is None
    assert assumptions.correlation(x, 0 * y) is None


def test_columns_count_the_points_of_each_task(some, frame) -> None:
    first = frame[(frame["id"] == some[0]["id"])].sort_values("task")
    wanted = some[0]["assumptions"]["violated"]
    assert first["assumptions.violating.inner_smooth"].tolist() == [sum(r) for r in wanted["inner_smooth"]]
    assert first["assumptions.points.inner_smooth"].tolist() == [3.0] * 4
    assert first["assumptions.points.stationary"].tolist() == [1.0] * 4
    assert first["assumptions.smallest"].tolist() == [
        r[-1] for r in some[0]["assumptions"]["sizes"]["smallest"]
    ]


def independent(some: list[dict]) -> pd.DataFrame:
    """One row a task, point and assumption, straight from the records."""
    return pd.DataFrame(
        {
            "data": r["cell"]["problem"]["name"],
            "network": r["cell"]["problem"].get("network", {}).get("activation", "none"),
            "strength": r["cell"]["problem"]["strength"],
            "cell": r["id"], "task": t, "name": name, "bad": bad,
        }
        for r in some for name, tasks in r["assumptions"]["violated"].items()
        for t, points in enumerate(tasks) for bad in points if bad is not None
    )  # fmt: skip


def said(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    ((_, found),) = drawn.verdicts(frame)
    return {(v.problem, item.term): item.text for v in found for item in v.items}


def percent(text: str) -> list[tuple[float, int]]:
    """Every share and its n in a sentence: "12 % [..] of 1,440 tasks"."""
    parts = re.findall(r"([\d.e+-]+) % \[[^\]]*\] of ([\d,]+) (?:tasks|steps)", text)
    return [(float(share), int(n.replace(",", ""))) for share, n in parts]


def test_the_verdict_is_what_a_few_lines_of_pandas_give(some, frame) -> None:
    points = independent(some)
    tasks = points.groupby(["data", "network", "cell", "task", "name"])["bad"].any()
    anything = tasks.groupby(["cell", "task"]).any()
    texts = said(frame)
    ((share, n),) = percent(texts["all problems", "Any assumption"])
    assert (share, n) == (pytest.approx(100 * anything.mean(), rel=5e-3), len(anything))
    for name in ASSUMPTIONS:
        for network in NETWORKS:
            mine = tasks.xs(("sinusoid", network, name), level=("data", "network", "name"))
            text = texts["sinusoid", assumptions.NAMES[name]]
            (part,) = (p for p in text.split("; ") if p.startswith(f"{network}: "))
            found = percent(part)
            assert found[0] == (pytest.approx(100 * mine.mean(), rel=5e-3), len(mine))
            low, high = scipy.stats.binomtest(int(mine.sum()), len(mine)).proportion_ci(method="wilson")
            assert f"[{100 * low:.3g}, {100 * high:.3g}]" in part or mine.sum() in (0, len(mine))
            if len(found) > 1:
                here = points[(points["network"] == network) & (points["name"] == name)]["bad"]
                assert found[1] == (pytest.approx(100 * here.mean(), rel=5e-3), len(here))


def test_whether_it_matters_is_spearman_over_the_stored_tasks(some, frame) -> None:
    sizes, errors = [], []
    for r in some:
        strength = r["cell"]["problem"]["strength"]
        sizes += [1 - row[-1] / strength for row in r["assumptions"]["sizes"]["smallest"]]
        errors += r["accuracy"]["references"]["implicit"]["relative_error"]
    rho = float(np.asarray(scipy.stats.spearmanr(sizes, errors))[0])
    ((_, (everything, *_)),) = drawn.verdicts(frame)
    text = next(item.text for item in everything.items if "error to implicit gradient" in item.text)
    assert f"-smallest eigenvalue of H / lambda {rho:.2f} [" in text
    assert f"of {len(sizes)} tasks" in text
    assert rho > 0.5


def test_tables_have_a_row_for_each_network_and_lambda(some, frame) -> None:
    linear, sinusoid = drawn.tables(frame)
    assert (linear["problem"], sinusoid["problem"]) == ("linear regression", "sinusoid")
    assert [(r["method"], r["axes"][0]) for r in sinusoid["rows"]] == [
        (network, f"{s:g}") for network in NETWORKS for s in STRENGTHS
    ]
    points = independent(some)
    here = points[(points["network"] == "relu") & (points["strength"] == 0.1)]
    share = here.groupby(["name", "cell", "task"])["bad"].any().groupby("name").mean()
    column = sinusoid["heads"].index(assumptions.NAMES["inner_smooth"]) - 1
    assert sinusoid["rows"][0]["values"][column][0] == f"{100 * share['inner_smooth']:.3g} %"


def test_figures_show_the_shares_and_the_page_has_verdict_and_tables(some, frame) -> None:
    spec = fake.spec("assumptions", question="How often?", figure="assumptions")
    first, second = figures.draw(spec, frame).values()
    assert len(first.figure.axes) == len(ASSUMPTIONS) * 2
    assert len(second.figure.axes) == 2 * 4
    names = [t.get_text() for t in first.figure.legends[0].get_texts()]
    assert names == ["none", "relu", "tanh"]
    looks = [drawn.LOOKS[name] for name in drawn.LOOKS]
    assert len({look.marker for look in looks}) == len(looks)  # readable without colour
    row = list(assumptions.NAMES).index("strongly_convex")
    curve = first.figure.axes[2 * row + 1].lines[0]
    here = assumptions.measured(frame)
    relu = here[here["network"] == "relu"]
    wanted = [
        (group["assumptions.violating.strongly_convex"] > 0).mean()
        for _, group in relu.groupby("problem.strength")
    ]
    assert np.asarray(curve.get_ydata()) == pytest.approx(wanted)
    assert "Rank correlation" in first.caption
    assert "Wilson" in first.caption["Statistic"]
    page = report.render([(spec, some)])
    assert "Wilson" in page
    assert "I + H/lambda invertible" in page


def test_a_frame_without_the_pass_says_so() -> None:
    bare = table.frame(fake.records([fake.LINEAR], [fake.imaml()], passes=["accuracy"]))
    (figure,) = drawn.draw(bare)
    assert "no assumptions measured" in [t.get_text() for t in figure.axes[0].texts]
    ((_, (verdict,)),) = drawn.verdicts(bare)
    assert verdict.items[0].text == "No assumptions were measured."
    assert drawn.tables(bare) == []


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["assumptions"]))
    assert len({cell.id for cell in cells}) == len(cells)
    assert {c.description["problem"]["strength"] for c in cells} == {0.01, 0.1, 1.0, 10.0, 100.0}
