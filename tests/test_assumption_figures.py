"""Shares, intervals, verdict, tables and figures of the assumptions, against an independent calculation."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import assumptions, figures, report, stats, table
from analysis.figures import assumptions as drawn
from bench.assumptions import ASSUMPTIONS
from bench.cells import expand
from bench.record import Store
from bench.spec import STAGES, load, shipped
from tests import fake_records as fake
from tests.command_line import metabench

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
    found = stats.wilson(k, n)
    wanted = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert found[2:] == pytest.approx((k / n, wanted.low, wanted.high), abs=1e-12)
    z = scipy.stats.norm.ppf(0.975)
    for end in found[3:]:  # the ends solve (share - p)^2 = z^2 p (1 - p) / n
        assert (k / n - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)
    assert np.isnan(stats.wilson(0, 0).share)


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
            "network": r["cell"]["problem"].get("network", {}).get("activation", "linear"),
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
    names = tasks.index.get_level_values("name")
    jumps = tasks[names.isin(assumptions.CONTINUITY)].groupby(["cell", "task"]).any()
    texts = said(frame)
    for (share, n), of in zip(
        percent(texts["all problems", "Any assumption"]), (jumps, anything), strict=True
    ):
        assert (share, n) == (pytest.approx(100 * of.mean(), rel=5e-3), len(of))
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
    text = next(i.text for i in everything.items if "correlation with the error to implicit" in i.text)
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
    assert names == ["linear", "relu", "tanh"]
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


CELL = "0123456789abcdef"
BROKEN = {"start": 2, "half": 9, "end": 17}  # of 20 tasks: those that violate "strongly_convex"


def staged() -> list[dict]:
    """A network at initialisation and at three stages of a training: the more trained, the less convex."""
    network = {"name": "mlp", "hidden": [40, 40], "activation": "tanh"}
    made = []
    for start in (None, *BROKEN):
        settings = {"n_tasks": 4, "passes": ["accuracy", "assumptions"]}
        settings |= {"start": {"cell": CELL, "stage": start}} if start else {}
        for seed in range(5):
            problem = fake.SINUSOID | {"strength": 1.0, "network": network}
            one = fake.record(fake.describe(problem, fake.imaml(), 10, seed, **settings), "assumptions")
            n = BROKEN.get(start or "", 20)
            bad = [[False, 4 * seed + task < n] for task in range(4)]
            fine = [[False, False]] * 4
            violated = dict.fromkeys(ASSUMPTIONS, fine) | {"strongly_convex": bad}
            names = ("smallest", "condition", "stationarity", "inner_smooth.jump")
            sizes = {name: [[0.5, 0.5]] * 4 for name in names}
            made.append(one | {"assumptions": {"steps": [0, 10], "sizes": sizes, "violated": violated}})
    return made


def test_stages_of_a_training_are_told_apart_and_compared_on_the_same_tasks() -> None:
    frame = table.frame(staged())
    texts = said(frame)
    text = texts["sinusoid", "By training stage"]
    shares = [f"{stage} {100 * k / 20:.3g} % [" for stage, k in zip(
        ("at initialisation", "half-trained", "trained"), BROKEN.values(), strict=True
    )]  # fmt: skip
    assert text.startswith(": trained, it violates more often G strongly convex (at initialisation")
    assert [text.index(share) for share in shares] == sorted(text.index(share) for share in shares)
    assert text.count("of 20 tasks") == 3  # those drawn anew, without a training, are no pairs
    assert "as often" not in text  # nothing else is violated
    convex = texts["sinusoid", "G strongly convex"]
    assert "tanh: 55 % " in convex  # 20 of 20 drawn and 2 of 20 at the start of the training
    assert "tanh, half-trained: 45 % " in convex
    assert "tanh, trained: 85 % " in convex
    (sinusoid,) = drawn.tables(frame)
    assert [row["method"] for row in sinusoid["rows"]] == ["tanh", "tanh, half-trained", "tanh, trained"]
    spec = fake.spec("assumptions", question="How often?", figure="assumptions")
    first = next(iter(figures.draw(spec, frame).values()))
    names = [t.get_text() for t in first.figure.legends[0].get_texts()]
    assert names == ["tanh", "tanh, half-trained", "tanh, trained"]


@pytest.mark.parametrize(
    ("more", "less", "wanted"),
    [
        (6, 0, "more often"),
        (5, 0, "as often"),
        (0, 6, "less often"),
        (15, 5, "more often"),
        (9, 3, "as often"),
    ],
)
def test_a_change_is_one_by_the_exact_test_of_mcnemar(more: int, less: int, wanted: str) -> None:
    some = [r for r in staged() if r["cell"].get("start", {}).get("stage") in ("start", "end")]
    for record in some:
        end = record["cell"]["start"]["stage"] == "end"
        numbers = range(4 * record["cell"]["seed"], 4 * record["cell"]["seed"] + 4)
        bad = [(i < more) if end else (more <= i < more + less) for i in numbers]
        record["assumptions"]["violated"]["strongly_convex"] = [[one] for one in bad]
    ((_, tasks),) = assumptions.at_all_stages(assumptions.measured(table.frame(some)))
    assert assumptions.change(tasks, "strongly_convex") == wanted
    n = more + less  # under the null hypothesis either side of a discordant pair is as likely
    chance = min(1.0, 2 * sum(scipy.stats.binom.pmf(k, n, 0.5) for k in range(max(more, less), n + 1)))
    assert (chance <= 0.05) == (wanted != "as often")


def test_stages_of_other_tasks_are_no_pairs() -> None:
    some = [r for r in staged() if r["cell"].get("start", {}).get("stage") != "start" or r["cell"]["seed"]]
    ((network, tasks),) = assumptions.at_all_stages(assumptions.measured(table.frame(some)))
    assert network == "tanh"
    assert len(tasks) == 3 * 16  # seed 0 is not measured at the start
    alone = [r for r in staged() if r["cell"].get("start", {}).get("stage") in (None, "end")]
    assert assumptions.at_all_stages(assumptions.measured(table.frame(alone))) == []


def test_the_study_starts_from_trainings_of_the_other_study_on_the_same_network() -> None:
    trainings = {cell.id: cell.description for cell in expand(load(shipped()["outer_optimizers"]))}
    started = [c.description for c in expand(load(shipped()["assumptions"])) if "start" in c.description]
    assert {(d["problem"]["name"], d["start"]["stage"]) for d in started} == {
        (problem, stage) for problem in ("sinusoid", "glyphs") for stage in STAGES
    }
    for description in started:
        training = trainings[description["start"]["cell"]]
        assert (training["method"]["name"], training["outer"]["name"], training["seed"]) == (
            "maml",
            "adam",
            0,
        )
        for key in ("name", "network"):
            assert description["problem"][key] == training["problem"][key]


TRAINING = """
question = "Does it learn?"
kind = "train"
dtype = "float64"
n_tasks = 4
outer_steps = 60
outer = {name = "adam", learning_rate = 0.02}
evaluation_tasks = 4
validations = 1
validation_tasks = 4
problem = {name = "sinusoid", strength = 1.0, network = {name = "mlp", hidden = [8], activation = "tanh"}}
inner = {name = "gradient_descent", steps = 3, learning_rate = 0.01}
method = "maml"
"""
FROM_IT = """
question = "What does training change?"
figure = "assumptions"
dtype = "float64"
passes = ["accuracy", "assumptions"]
path_points = 2
seeds = 2
inner = {name = "gradient_descent", steps = 3, learning_rate = 1e-4}
method = "imaml"
[problem]
name = "sinusoid"
strength = [1.0, 1e4]
network = {name = "mlp", hidden = [8], activation = "tanh"}
[[sweep]]
[[sweep]]
start = {cell = "ID", stage = ["start", "half", "end"]}
"""


def test_a_real_training_is_measured_at_its_stages_and_declined_without_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("learn.toml").write_text(TRAINING)
    (training,) = expand(load("learn.toml"))
    Path("stages.toml").write_text(FROM_IT.replace("ID", training.id))
    result = metabench("run", "stages.toml", "--jobs", 0, "--results", "without")
    assert "12 cells will be declined: the training" in result.err.replace("\n", " ")
    declined = [r for r in Store("without", "stages").each() if r["status"] == "declined"]
    assert len(declined) == 12
    assert all(f"the training {training.id} is not under" in r["reason"]["message"] for r in declined)
    assert metabench("run", "learn.toml", "--jobs", 0).code == 0
    assert metabench("run", "stages.toml", "--jobs", 0).err == ""
    some = list(Store("results", "stages").each())
    assert len(some) == 16
    assert {r["status"] for r in some} <= {"ok", "not_converged"}  # at a lambda of 1 G is not convex
    ((network, tasks),) = assumptions.at_all_stages(assumptions.measured(table.frame(some)))
    assert (network, len(tasks)) == ("tanh", 3 * 2 * 2 * 4)
    # With lambda far above any curvature of so small a network G is strongly convex, trained or not.
    convex = [
        bad
        for r in some
        if r["cell"]["problem"]["strength"] == 1e4
        for points in r["assumptions"]["violated"]["strongly_convex"]
        for bad in points
    ]
    assert not any(convex)
    ((_, found),) = drawn.verdicts(table.frame(some))
    assert [i.methods for v in found for i in v.items if i.term == "By training stage"] == ["tanh"]
