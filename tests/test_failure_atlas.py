"""Who is nearer to the implicit gradient and why: against records of known numbers and closed forms."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import atlas, figures, report, stopping, table
from analysis.figures import failure_atlas as drawn
from bench import inputs
from bench.cells import expand
from bench.record import Store
from bench.run import run_cell
from bench.spec import load, shipped
from tests import fake_records as fake

MAML = {"name": "maml", "backward": "unrolled"}
STEPS, ITERATIONS, SEEDS = (1, 10, 100), (1, 5), (0, 1, 2)
REFERENCE = Path(__file__).parent.parent / "results" / "reference"
# (K, CG) -> errors of MAML and of iMAML, and what the records say of the loser.
PLANTED = {
    (1, 1): (0.5, 0.2, "few steps"),
    (1, 5): (0.5, 0.05, "few steps"),
    (10, 1): (0.09, 0.3, "few iterations"),
    (10, 5): (0.09, 0.09, "memory"),
    (100, 1): (2.0, 0.5, "unstable"),
    (100, 5): (2.0, 4.0, "indefinite"),
}


def planted(problem: dict = fake.LINEAR) -> list[dict]:
    """A cell of each method for each K, CG and seed with the errors above, times a factor for each task."""
    made = []
    for seed in SEEDS:
        for k in STEPS:
            maml = fake.record(fake.describe(problem, MAML, k, seed, passes=["accuracy"]))
            made.append(numbers(maml, PLANTED[k, 1][0], stationarity=3.0 if k == 100 else 0.5))
            for n in ITERATIONS:
                one = fake.describe(problem, fake.imaml(iterations=n), k, seed, passes=["accuracy"])
                curvature = -1.0 if (k, n) == (100, 5) else 1.0
                made.append(numbers(fake.record(one), PLANTED[k, n][1], 0.5, curvature))
    for k in STEPS:
        for method, peak in ((MAML, 1000 * k), (fake.imaml(), 1000)):
            bytes_only = fake.record(fake.describe(problem, method, k, 0, passes=["tensor_bytes"]))
            made.append(bytes_only | {"tensor_bytes": {"peak": peak, "n_params": 50, "meter": "dispatch"}})
    return made


def numbers(record: dict, error: float, stationarity: float, curvature: float | None = None) -> dict:
    factor = np.array([0.98, 0.99, 1.01, 1.02])
    record = fake.with_errors(record, "implicit", (error * factor).tolist())
    record["accuracy"]["adapted"]["stationarity"] = [stationarity] * 4
    if record["cell"]["method"]["name"] == "maml":
        return fake.with_errors(record, "maml", [1e-14] * 4)
    record["accuracy"]["stats"] = {"linear_residual": [0.2] * 4, "linear_smallest_curvature": [curvature] * 4}
    return record


def found(records: list[dict]) -> pd.DataFrame:
    frame = table.frame(records)
    return atlas.settings(atlas.pairs(frame), atlas.memory(frame))


def said(records: list[dict]) -> dict[str, str]:
    ((_, verdicts),) = drawn.verdicts(table.frame(records))
    return {item.term: item.text for verdict in verdicts for item in verdict.items}


def test_planted_winners_and_mechanisms_are_found() -> None:
    rows = found(planted()).set_index(["steps", atlas.CG])
    assert len(rows) == len(PLANTED)
    for at, (maml, imaml, why) in PLANTED.items():
        row = rows.loc[at]
        winner = "neither" if maml == imaml else "maml" if maml < imaml else "imaml"
        assert (row["winner"], row["why"]) == (winner, why)
        assert row["ratio"] == pytest.approx(np.log2(maml / imaml), abs=0.05)
        assert (row["n"], row["seeds"]) == (12, 3)
        assert row["low"] <= row["ratio"] <= row["high"]


def independent(records: list[dict]) -> pd.DataFrame:
    """Median error of each setting, straight from the records: index problem, rate, K; columns MAML, CG n."""
    rows = []
    for record in records:
        cell, method = record["cell"], record["cell"]["method"]
        errors = (record.get("accuracy") or {}).get("references", {}).get("implicit", {})
        if "accuracy" not in cell["passes"] or method["name"] not in ("maml", "imaml"):
            continue
        if cell["problem"].get("strength") == 0 or "relative_error" not in errors:
            continue
        inner, problem = method["inner"], json.dumps(cell["problem"], sort_keys=True)
        who = "maml" if method["name"] == "maml" else method["linear"]["iterations"]
        where = {"problem": problem, "rate": inner["learning_rate"], "k": inner["steps"], "who": who}
        gone = errors.get("missing_tasks", {})
        rows += [
            where | {"known": str(task) not in gone, "error": np.inf if error is None else error}
            for task, error in enumerate(errors["relative_error"])
        ]
    tasks = pd.DataFrame(rows)
    setting = ["problem", "rate", "k", "who"]
    tasks = tasks[tasks["known"] & (tasks.groupby(setting)["known"].transform("mean") >= 0.5)]
    return tasks.groupby(setting)["error"].median().unstack()


def check_first_sentence(text: str, records: list[dict]) -> None:
    """Its four shares, their Wilson intervals and their n, from medians of the stored errors."""
    medians = independent(records)
    counts = {"maml": 0, "imaml": 0, "both": 0, "none": 0}
    for column in medians.columns.drop("maml"):
        pair = medians[["maml", column]].dropna() <= 0.1
        a, b = pair["maml"], pair[column]
        for name, which in (("maml", a & ~b), ("imaml", b & ~a), ("both", a & b), ("none", ~a & ~b)):
            counts[name] += int(which.sum())
    n = sum(counts.values())
    stated = re.findall(r"([\d.e-]+) % \[([\d.e-]+), ([\d.e-]+)\] of ([\d,]+)", text)
    assert len(stated) == 4
    for (share, low, high, of), k in zip(stated, counts.values(), strict=True):
        ends = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert int(of.replace(",", "")) == n
        wanted = (100 * k / n, 100 * ends.low, 100 * ends.high)
        assert tuple(map(float, (share, low, high))) == pytest.approx(wanted, rel=6e-3, abs=1e-9)


def test_the_answer_is_what_a_few_lines_of_pandas_give() -> None:
    records = planted()
    texts = said(records)
    check_first_sentence(texts["Who succeeds"], records)
    assert "always for too few iterations of CG (1 of 1)" in texts["Who succeeds"]  # K = 10, CG 1
    assert "always for too few inner steps for the derivative through them (1 of 1)" in texts["Who succeeds"]
    assert "MAML in 33.3 %" in texts["Who is nearer"]  # (10, 1) and (100, 5)
    assert "iMAML in 50 %" in texts["Who is nearer"]
    assert "indefinite Hessian in 50 %" in texts["Why iMAML loses"].replace("Indefinite", "indefinite")
    assert "33.3 % [6.15, 79.2] of 3 lost settings" in texts["Why MAML loses"]
    assert "100 % [20.7, 100] of 1 (at most 10 times)" in texts["Memory"]


def test_a_flip_is_the_least_k_from_which_on_maml_is_nearer() -> None:
    turned = atlas.flips(found(planted())).set_index(atlas.CG)["flip"]
    assert pd.isna(turned[1])  # nearer at 10, and no longer at 100
    assert turned[5] == 100
    assert "with CG 1 never, 5 from K = 100" in next(
        t for k, t in said(planted()).items() if "nearer" in k and "Who" not in k
    )


def test_what_is_not_finite_loses_and_what_has_no_reference_does_not_count() -> None:
    records = planted()
    for i, record in enumerate(records):
        method, k = record["cell"]["method"], record["cell"]["method"]["inner"]["steps"]
        if method["name"] == "maml" and k == 10 and "accuracy" in record:
            records[i] = fake.with_errors(record, "implicit", [None] * 4)
            records[i]["accuracy"]["adapted"]["stationarity"] = [None] * 4
        if k == 1 and "accuracy" in record:
            records[i] = fake.without_reference(record, "implicit", "kink", [0])
    rows = found(records).set_index(["steps", atlas.CG])
    assert rows.loc[(10, 1), "winner"] == "imaml"
    assert rows.loc[(10, 1), "why"] == "unstable"
    assert rows.loc[(1, 1), ["n", "tasks"]].tolist() == [9, 12]
    assert "10 % [" not in said(records)["No winner"]
    share = re.match(r"([\d.]+) % .* of (\d+) tasks", said(records)["No winner"])
    assert share is not None
    assert (float(share[1]), int(share[2])) == (pytest.approx(100 * 3 / 36, rel=5e-3), 36)


@pytest.mark.parametrize("status", ["out_of_memory", "timed_out", "killed"])
def test_a_cell_that_left_no_numbers_loses(status: str) -> None:
    records = [
        fake.failing(r, status) if r["cell"]["method"]["name"] == "maml" and "accuracy" in r else r
        for r in planted()
    ]
    rows = found(records)
    assert set(rows["winner"]) == {"imaml"}
    assert set(rows["why"]) == {"memory" if status == "out_of_memory" else "failed"}
    figures.draw(fake.spec("failure_atlas", figure="failure_atlas"), table.frame(records))


def nothing_but(keep) -> list[dict]:
    return [r for r in planted() if keep(r)]


@pytest.mark.parametrize(
    "records",
    [
        [],
        nothing_but(lambda r: r["cell"]["method"]["name"] == "maml"),
        nothing_but(lambda r: "accuracy" not in r),
        [fake.failing(r, "error") for r in planted()],
        [fake.failing(r, "declined") for r in planted()],
        [
            fake.without_reference(r, "implicit", "kink: the gradient jumps") if "accuracy" in r else r
            for r in planted()
        ],
    ],
    ids=["nothing", "one method", "no errors", "errors", "declined", "kinks"],
)
def test_without_an_answer_it_says_so(records: list[dict]) -> None:
    frame = table.frame(records)
    ((_, (first, *_)),) = drawn.verdicts(frame)
    assert first.items[0].text == "No setting has both methods and an implicit gradient."
    assert len(drawn.draw(frame)) == 1
    for one in drawn.tables(frame):
        assert {row["method"] for row in one["rows"]} == {"no implicit gradient"}


def test_one_seed_is_judged_over_its_tasks() -> None:
    records = nothing_but(lambda r: r["cell"]["seed"] == 0)
    rows = found(records)
    assert set(rows["seeds"]) == {1}
    assert "4 tasks of 1 seed" in said(records)["Who succeeds"]


def test_maps_are_read_without_colour_and_the_page_has_all() -> None:
    records = planted()
    spec = fake.spec("failure_atlas", question="Where?", figure="failure_atlas")
    first, last = figures.draw(spec, table.frame(records)).values()
    texts = [t.get_text() for t in first.figure.axes[0].texts]
    assert texts[:6] == ["K", "K", "c", "M", "U", "i"]  # K = 1, 10, 100 with CG 1 and 5 each
    marks = [why.letter for some in (atlas.MAML_LOST, atlas.IMAML_LOST) for why in some.values()]
    assert len(set(marks)) == len(marks)
    hatched = [p for p in first.figure.axes[0].patches if p.get_hatch()]
    assert len(hatched) == 3  # neither within 10 %: (1, 1), (100, 1), (100, 5)
    assert "Winning" in first.caption
    assert len(last.figure.axes) == 2
    (one,) = drawn.tables(table.frame(records))
    assert len(one["rows"]) == len(PLANTED)
    assert {len(r["axes"]) + len(r["values"]) for r in one["rows"]} == {len(one["heads"]) - 2}
    assert "too few iterations of CG" in report.render([(spec, records)])


def cut_down(tmp_path: Path, text: str) -> list[dict]:
    """Records of a study in float64."""
    path = tmp_path / "failure_atlas.toml"
    top = 'question = "Where?"\nfigure = "failure_atlas"\ndtype = "float64"\npasses = "accuracy"\n'
    path.write_text(top + text)
    return [run_cell(cell, "failure_atlas") for cell in expand(load(path))]


METHODS = """
[[method]]
name = "maml"
backward = "unrolled"

[[method]]
name = "imaml"
linear = {name = "conjugate_gradient", iterations = [1, 3, 8]}
"""


def errors_by_hand(description: dict) -> np.ndarray:
    """The error of a quadratic cell's method to the implicit gradient, by dense matrices and plain CG."""
    cell = inputs.prepare(description)
    x, y, u, v = (t.double().numpy() for t in vars(cell.tasks).values())
    theta, strength = cell.meta.double().numpy(), cell.problem.strength
    inner, rows = description["method"]["inner"], []
    for t in range(len(x)):
        hessian = x[t].T @ x[t] / len(x[t]) + strength * np.eye(len(theta))
        rhs = x[t].T @ y[t] / len(x[t]) + strength * theta
        phi, jacobian = theta, np.eye(len(theta))
        step = np.eye(len(theta)) - inner["learning_rate"] * hessian
        for _ in range(inner["steps"]):
            phi = step @ phi + inner["learning_rate"] * rhs
            jacobian = step @ jacobian + inner["learning_rate"] * strength * np.eye(len(theta))

        def query(at: np.ndarray, t: int = t) -> np.ndarray:
            return u[t].T @ (u[t] @ at - v[t]) / len(u[t])

        truth = strength * np.linalg.solve(hessian, query(np.linalg.solve(hessian, rhs)))
        if description["method"]["name"] == "maml":
            got = jacobian.T @ query(phi)
        else:
            b = query(phi)
            z, r, p = np.zeros_like(b), b, b
            for _ in range(description["method"]["linear"]["iterations"]):
                alpha = r @ r / (p @ hessian @ p)
                z, new = z + alpha * p, r - alpha * hessian @ p
                r, p = new, new + new @ new / (r @ r) * p
            got = strength * z
        rows.append(np.linalg.norm(got - truth) / np.linalg.norm(truth))
    return np.array(rows)


def test_on_a_quadratic_winner_flip_and_instability_are_those_of_the_closed_form(tmp_path: Path) -> None:
    smoothness = 2.0 * 20.0
    rates = [1 / smoothness, 2.2 / smoothness]
    records = cut_down(
        tmp_path,
        'problem = {name = "linear_regression", dim = 12, support = 11, condition = 20.0}\nseeds = 2\n'
        f'inner = {{name = "gradient_descent", steps = [1, 5, 20, 80], learning_rate = {rates}}}\n{METHODS}',
    )
    by_hand = {}
    for record in records:
        cell = record["cell"]
        errors = errors_by_hand(cell)
        measured = record["accuracy"]["references"]["implicit"]["relative_error"]
        assert measured == pytest.approx(errors, rel=1e-6)
        method = cell["method"]
        who = "maml" if method["name"] == "maml" else method["linear"]["iterations"]
        by_hand[method["inner"]["learning_rate"], method["inner"]["steps"], who, cell["seed"]] = errors
    for row in found(records).to_dict("records"):
        maml, imaml = (
            np.concatenate([by_hand[row[atlas.RATE], row["steps"], who, seed] for seed in (0, 1)])
            for who in ("maml", row[atlas.CG])
        )
        logs = np.log2(maml.clip(1e-3, 1e6) / imaml.clip(1e-3, 1e6))
        assert row["ratio"] == pytest.approx(np.median(logs), abs=1e-6)
        if row["winner"] != "neither":
            assert row["winner"] == ("imaml" if np.median(logs) > 0 else "maml")
        if row["winner"] == "maml":
            assert row["why"] == "few iterations"  # 11 iterations would be exact
        if row["winner"] == "imaml" and row[atlas.RATE] == rates[1] and row["steps"] == 80:
            assert row["why"] == "unstable"
    turned = atlas.flips(found(records))
    stable = turned[turned[atlas.RATE] == rates[0]].set_index(atlas.CG)["flip"]
    assert stable[1] <= stable[3] <= stable[8]
    assert turned.loc[turned[atlas.RATE] == rates[1], "flip"].isna().all()  # 2.2 / L: never


def test_an_indefinite_hessian_and_lambda_zero_are_named(tmp_path: Path) -> None:
    network = 'network = {name = "mlp", hidden = [10, 10], activation = "tanh"}'
    records = cut_down(
        tmp_path,
        f'problem = {{name = "sinusoid", strength = [0.0, 1.0], {network}}}\nseeds = 2\n'
        f'inner = {{name = "gradient_descent", steps = 3, learning_rate = 0.001}}\n{METHODS}',
    )
    frame = table.frame(records)
    pairs = atlas.pairs(frame)
    zero = pairs["problem"].str.contains("strength 0$")
    assert zero.any()
    assert not pairs.loc[zero, "known"].any()
    negative = pairs[~zero & (pairs["imaml.stats.linear_smallest_curvature"] <= 0) & (pairs["ratio"] < 0)]
    assert len(negative) > 0
    assert set(negative["why"]) == {"indefinite"}
    text = said(records)["At lambda = 0"]
    norms = [
        n for r in records for n in r["accuracy"]["meta_grad_norm"] if r["cell"]["problem"]["strength"] == 0
    ]
    n = (
        sum(r["cell"]["method"]["name"] == "imaml" for r in records if r["cell"]["problem"]["strength"] == 0)
        * 4
    )
    assert norms.count(0.0) == n
    assert f"iMAML's gradient is exactly 0 in 100 % [{100 * n / (n + 3.8415):.3g}, 100] of {n} tasks" in text
    assert "MAML's gradient is exactly 0 in 0 %" in text


def test_stopping_early_is_judged_on_seeds_that_did_not_choose() -> None:
    records = []
    losses = {0: (2.0, 1.0, 4.0), 1: (3.0, 1.5, 2.0), 2: (1.0, 5.0, 2.0)}  # by seed, at K = 1, 10, 100
    for seed, row in losses.items():
        for k, loss in zip(STEPS, row, strict=True):
            record = fake.record(fake.describe(fake.LINEAR, MAML, k, seed, passes=["accuracy"]))
            record["accuracy"]["adapted"] |= {"query_loss": [loss] * 4, "stationarity": [1e-3] * 4}
            records.append(record)
    (one,) = stopping.stopped(table.frame(records))
    chosen, gains = [], []
    for seed in losses:
        others = np.mean([losses[s] for s in losses if s != seed], axis=0)
        at = int(np.argmin(others))
        chosen.append(STEPS[at])
        gains.append(1 - losses[seed][at] / losses[seed][-1])
    assert one.steps == tuple(chosen)
    assert one.gain.median == pytest.approx(np.median(gains))
    assert (one.gain.n, one.gain.n_groups) == (12, 3)
    for record in records:
        record["accuracy"]["adapted"]["stationarity"] = [0.5] * 4
    assert stopping.stopped(table.frame(records)) == []  # the most steps are no solution


def test_imaml_without_the_term_stands_beside_imaml_with_it() -> None:
    alone = {"name": "imaml-no-prox", "steps": 10, "learning_rate": 0.08}
    alone["linear"] = {"name": "conjugate_gradient", "iterations": 5, "tolerance": 0.0}
    records = []
    for seed in SEEDS:
        bare = fake.record(fake.describe(fake.LINEAR, alone, None, seed, passes=["accuracy"]))
        bare["accuracy"]["meta_grad_norm"] = [1.0, 2.0, 3.0, 4.0]
        records.append(fake.with_errors(bare, "implicit", [0.5, 0.5, 0.5, 0.01]))
        beside = fake.record(fake.describe(fake.LINEAR, fake.imaml(), 10, seed, passes=["accuracy"]))
        records.append(fake.with_errors(beside, "implicit", [0.1] * 4))
    (one,) = stopping.no_prox(table.frame(records))
    assert (one.worse, one.n, one.length.median) == (9, 12, 2.5)
    text = said(records)["iMAML without proximal term"]
    assert "exact gradient is 0" in text
    low, high = (100 * e for e in scipy.stats.binomtest(9, 12).proportion_ci(method="wilson"))
    assert f"farther in 75 % [{low:.3g}, {high:.3g}] of 12 tasks at a setting" in text


def test_only_a_derivative_through_the_steps_learns_the_inner_step(tmp_path: Path) -> None:
    path = tmp_path / "failure_atlas.toml"
    inner = [
        f'{{name = "{n}", steps = 4, learning_rate = 0.002}}' for n in ("learned_rate", "gradient_descent")
    ]
    path.write_text(
        'question = "Where?"\nfigure = "failure_atlas"\nkind = "train"\nseeds = 2\ndtype = "float64"\n'
        'problem = {name = "learned_rate", problem = {name = "linear_regression", dim = 6}}\n'
        f'inner = [{", ".join(inner)}]\nmethod = ["maml", "imaml"]\nn_tasks = 2\n'
        'outer = {name = "adam", learning_rate = 0.1}\nouter_steps = 20\nvalidations = 1\n'
        "validation_tasks = 2\nevaluation_tasks = 20\n"
    )
    records = [run_cell(cell, "failure_atlas") for cell in expand(load(path))]
    (one,) = stopping.learned(table.frame(records))
    means = {}
    for record in records:
        method = record["cell"]["method"]
        (test,) = (e for e in record["train"]["evaluations"] if e["split"] == "test")
        key = method["name"] + ("" if method["inner"]["name"] == "learned_rate" else " fixed")
        means.setdefault(key, []).append(test["loss"]["mean"])
    for key, losses in means.items():
        assert sorted(one.losses[key]) == pytest.approx(sorted(losses))
    assert one.losses["imaml"].tolist() == one.losses["imaml fixed"].tolist()
    assert (one.losses["maml"] < 0.9 * one.losses["maml fixed"]).all()
    text = said(records)["Meta-learning the inner step"]
    assert "For iMAML learning the step changes nothing, to the bit, in 2 seeds." in text
    gain = np.mean(means["maml fixed"]) - np.mean(means["maml"])
    assert re.search(r"MAML gains ([\d.]+)", text)[1] == f"{gain:.3g}"  # type: ignore[index]


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["failure_atlas"]))
    assert len({cell.id for cell in cells}) == len(cells)
    assert {c.description["method"]["name"] for c in cells} == {"maml", "imaml", "imaml-no-prox"}


def test_the_reference_verdict_is_what_its_records_say() -> None:
    if not (REFERENCE / "failure_atlas").is_dir():
        pytest.skip("results/reference/failure_atlas is not there yet")
    records = Store(REFERENCE, "failure_atlas", moves=False).records()
    check_first_sentence(said(records)["Who succeeds"], records)
