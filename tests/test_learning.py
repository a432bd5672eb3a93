"""What is made of training cells: columns, curves, the figure, verdicts; on made-up records."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from scipy import stats as scipy_stats

from analysis import captions, figures, learning, report, stats, style, table, verdict
from tests import fake_records as fake
from tests.test_figures import texts

MAML, FOMAML = "MAML, adjoint", "FOMAML"
ADAM, ADAM_1E3 = "Adam, epsilon 1e-08", "Adam, epsilon 0.001"
SGD, MOMENTUM = "SGD, momentum 0", "SGD, momentum 0.9"


@pytest.fixture(scope="module")
def records():
    return fake.trainings([fake.SINUSOID, fake.CONV])


@pytest.fixture(scope="module")
def frame(records):
    return table.frame(records)


def items(records):
    """(problem, method, term) -> the answer."""
    return {
        (one.problem, one.setting, item.term): item.methods + item.text
        for one in verdict.verdicts(table.frame(records))
        for item in one.items
    }


def test_a_row_for_each_evaluation(records, frame):
    one = records[0]
    rows = frame[frame["id"] == one["id"]]
    evaluations = one["train"]["evaluations"]
    assert len(rows) == len(evaluations) == 7
    assert rows["evaluation.step"].tolist() == [0, 20, 40, 60, 80, 100, 100]
    assert rows["evaluation.split"].tolist() == ["val"] * 6 + ["test"]
    assert rows["evaluation.n_tasks"].tolist() == [100] * 6 + [600]
    for column, key in (("", "mean"), ("_deviation", "deviation"), ("_half_width", "half_width")):
        assert rows[f"evaluation.loss{column}"].tolist() == [e["loss"][key] for e in evaluations]
    assert rows["evaluation.accuracy"].isna().all()
    assert set(rows["test.loss"]) == {evaluations[-1]["loss"]["mean"]}
    assert rows["test.accuracy"].isna().all()
    assert set(rows["train.seconds_per_step"]) == {0.05}
    assert set(rows["train.file"]) == {one["train"]["file"]["name"]}
    assert set(rows["outer.name"]) == {"sgd"}
    glyphs = frame[frame["problem.name"] == "glyphs"]
    assert glyphs["test.accuracy"].between(0.2, 0.8).all()


def test_methods_are_told_apart_by_their_outer_optimizers(frame):
    assert set(frame["outer"]) == {SGD, MOMENTUM, ADAM, ADAM_1E3}
    assert f"{MAML}, {ADAM_1E3}" in set(frame["method"])
    runs = learning.runs(frame)
    assert set(runs["method"]) == {MAML, FOMAML}
    longer = [r | {"cell": r["cell"] | {"outer_steps": 200}, "id": r["id"][::-1]} for r in fake.trainings()]
    both = table.frame(fake.trainings() + longer)
    assert f"{ADAM}, outer steps 200" in {
        label.replace("outer_steps", "outer steps") for label in both["outer"]
    }
    swept = learning.runs(table.frame(fake.trainings() + [
        r | {"cell": r["cell"] | {"dtype": "float64"}, "id": r["id"][::-1]} for r in fake.trainings()
    ]))  # fmt: skip
    assert f"{ADAM}, float64" in set(swept["outer"])


def test_no_column_of_a_training_in_other_records():
    plain = table.frame(fake.records([fake.LINEAR], [fake.FOMAML]))
    assert not [c for c in plain.columns if c.startswith(("evaluation.", "train."))]
    assert plain["outer"].isna().all()
    assert learning.runs(plain).empty
    assert not learning.sentences(plain)


def test_students_interval():
    values = np.array([0.31, 0.42, 0.36, np.nan])
    mean = stats.student(values)
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values[:3]), scipy_stats.sem(values[:3]))
    assert mean == pytest.approx((0.363333333, low, high, 3), rel=1e-8)
    assert stats.student(np.array([2.0]))[0] == 2.0
    assert np.isnan(stats.student(np.array([2.0]))[1:3]).all()
    assert stats.student(np.array([]))[3] == 0


def test_curves_are_means_over_seeds(records, frame):
    here = learning.runs(frame)
    here = here[(here["problem.name"] == "glyphs") & (here["method"] == FOMAML)]
    found = learning.curves(here, "accuracy")
    assert list(found) == style.ordered([SGD, MOMENTUM, ADAM, ADAM_1E3])
    mine = [
        r["train"]["evaluations"][2]["accuracy"]["mean"]
        for r in records
        if r["cell"]["problem"]["name"] == "glyphs"
        and r["cell"]["method"]["name"] == "fomaml"
        and r["cell"]["outer"] == fake.ADAM_1E3
    ]
    assert found[ADAM_1E3].loc[40, "mean"] == pytest.approx(np.mean(mine))
    half = 4.302652729911275 * np.std(mine, ddof=1) / 3**0.5  # Student's t of two degrees of freedom
    assert found[ADAM_1E3].loc[40, "high"] == pytest.approx(np.mean(mine) + half)
    assert found[ADAM_1E3]["n"].tolist() == [3] * 6


def test_the_figure_has_a_panel_for_each_method_and_measure(records, frame):
    drawn = figures.draw(fake.spec("mine", figure="learning_curves"), frame)
    assert list(drawn) == ["mine", "mine-2"]
    one, two = (d.figure for d in drawn.values())
    assert (len(one.axes), len(two.axes)) == (2, 4)  # loss; loss and accuracy
    assert {MAML, FOMAML, "outer steps", ADAM, ADAM_1E3, SGD, MOMENTUM} <= set(texts(one))
    here = learning.runs(frame)
    here = here[(here["problem.name"] == "sinusoid") & (here["method"] == MAML)]
    looks = style.outers(here["outer"])
    assert len({look.color for look in looks.values()}) == 4
    assert len({look.marker for look in looks.values()}) == 4
    assert len({look.line for look in looks.values()}) == 4
    panel = next(a for a in one.axes if a.get_title() == MAML)
    for outer, curve in learning.curves(here, "loss").items():
        line = next(
            x
            for x in panel.lines
            if same_color(x.get_color(), looks[outer].color) and len(np.asarray(x.get_xdata())) == 6
        )
        assert np.asarray(line.get_ydata()).tolist() == curve["mean"].tolist()
        assert np.abs(np.asarray(line.get_xdata()) - curve.index).max() < 20 / 4  # a little apart
    assert {a.get_yscale() for a in one.axes} == {"linear"}
    caption = drawn["mine"].caption
    assert "100 tasks" in caption["Shown"]
    assert "Mean over seeds with Student's 95% interval" in caption["Statistic"]
    assert caption["Axes"].startswith("Linear, but for losses whose means span more than a factor of 10")
    assert "outer.name = " in caption["Varied"]
    assert "outer_steps = 100" in caption["Settings"]
    assert "8 tasks per outer step" in captions.numbers(frame.assign(n_tasks=8))


def test_one_curve_that_leaves_does_not_flatten_the_others(frame):
    first, column = frame["method.name"] == "maml", "evaluation.loss"
    frame = frame.assign(**{column: frame[column].where(~first, 100 * frame[column])})
    one, two = (d.figure for d in figures.draw(fake.spec("mine", figure="learning_curves"), frame).values())
    assert [a.get_yscale() for a in one.axes] == ["log", "log"]
    assert [a.get_yscale() for a in two.axes] == ["log", "log", "linear", "linear"]


def test_a_study_that_only_trains_is_drawn_so(tmp_path):
    from bench import spec

    text = 'question = "?"\nkind = "train"\nouter = "adam"\nouter_steps = 5\n'
    text += 'problem = "sinusoid"\nmethod = "maml"\n'
    (tmp_path / "mine.toml").write_text(text)
    assert figures.module(spec.load(tmp_path / "mine.toml")).__name__.endswith("learning_curves")


def test_failed_trainings_are_counted_above_their_panel():
    records = fake.trainings()
    bad = [r for r in records if r["cell"]["outer"] == fake.SGD and r["cell"]["method"] == _method("maml")]
    failed = [fake.failing(r, "non_finite") if r in bad[:2] else r for r in records]
    for one in failed:
        if one["status"] == "non_finite":
            one.pop("train", None)
    drawing = figures.draw(fake.spec("mine", figure="learning_curves"), table.frame(failed))["mine"]
    assert any(f"failed: 2 of 3 cells of {SGD}" in t.replace("\n", " ") for t in texts(drawing.figure))
    assert "in no mean" in drawing.caption["Statistic"]
    assert items(failed)["sinusoid", MAML, "Failed"] == f"2 of 3 cells of {SGD}."


def _method(name):
    return next(r["cell"]["method"] for r in fake.trainings() if r["cell"]["method"]["name"] == name)


def test_the_verdict_by_a_few_lines_of_pandas(records, frame):
    """The best optimizer, its level, and the differences within seeds, recomputed from the records."""
    flat = pd.DataFrame(
        {
            "problem": r["cell"]["problem"]["name"],
            "method": r["cell"]["method"]["name"],
            "outer": tuple(r["cell"]["outer"].get(key) for key in ("name", "momentum", "epsilon")),
            "seed": r["cell"]["seed"],
            "accuracy": (r["train"]["evaluations"][-1]["accuracy"] or {}).get("mean"),
            "loss": r["train"]["evaluations"][-1]["loss"]["mean"],
        }
        for r in records
    )
    names: dict[Any, str] = {("adam", None, 1e-8): ADAM, ("adam", None, 1e-3): ADAM_1E3}
    names |= {("sgd", 0.0, None): SGD, ("sgd", 0.9, None): MOMENTUM}
    found = items(records)
    for (problem, method), rows in flat.groupby(["problem", "method"]):
        what = {"glyphs": "accuracy", "sinusoid": "loss"}[str(problem)]
        wide = rows.pivot(index="seed", columns="outer", values=what)
        best = wide.mean().idxmax() if what == "accuracy" else wide.mean().idxmin()
        label = next(p for p in frame["problem"].unique() if p.startswith(str(problem)))
        key = (label, {"maml": MAML, "fomaml": FOMAML}[str(method)])
        said = found[(*key, "Best outer optimizer")]
        assert said.startswith(f"{names[best]}: test {what} ")
        level = wide[best].mean()
        assert (f"{100 * level:.1f} %" if what == "accuracy" else f"{level:.3g}"[:4]) in said
        assert said.endswith("after 100 outer steps, mean of 3 seeds of 600 tasks each.")
        for other in set(wide.columns) - {best}:
            difference = wide[best] - wide[other]
            ends = scipy_stats.t.interval(0.95, 2, difference.mean(), scipy_stats.sem(difference))
            said = found[(*key, f"Against {names[other]}")]
            assert ("not told apart" in said) == (ends[0] <= 0 <= ends[1])
            assert ("higher" in said) == (difference.mean() > 0)
            if what == "accuracy":
                low, high = sorted(np.sign(difference.mean()) * 100 * np.array(ends))
                assert (
                    f"by {100 * abs(difference.mean()):.1f} points [{low:.1f} points, {high:.1f} points]"
                    in said
                )
    assert {term for _, _, term in found} >= {"Learnt", f"Against {SGD}"}


def test_a_difference_between_two_adams_is_told_whichever_is_best():
    records = [
        fake.with_test(r, "loss", {0.0: 0.1, 0.9: 0.2}.get(r["cell"]["outer"].get("momentum", -1), 1.0))
        for r in fake.trainings(methods=[fake.MAMLS[0]])
    ]
    found = items(records)
    assert found["sinusoid", MAML, "Best outer optimizer"].startswith(f"{SGD}: test loss 0.100")
    said = found["sinusoid", MAML, f"{ADAM_1E3} against {ADAM}"]
    assert said == f"{ADAM_1E3}'s test loss is higher by 0 [0, 0] in 3 seeds: not told apart."
    assert ("sinusoid", MAML, f"{ADAM} against {MOMENTUM}") not in found


def test_one_seed_tells_nothing_apart():
    found = items(fake.trainings(seeds=[0]))
    said = found["sinusoid", MAML, f"Against {SGD}"]
    assert "in 1 seed: not told apart" in said
    assert "[" not in said


def test_nothing_but_failures():
    failed = [fake.failing(r, "error") for r in fake.trainings()]
    found = items([{k: v for k, v in r.items() if k != "train"} for r in failed])
    assert found["sinusoid", MAML, "No verdict"] == "No cell ended well."


def test_the_report_has_the_numbers(records):
    page = report.render([(fake.spec("mine", figure="learning_curves"), records)])
    assert "Best outer optimizer" in page
    assert "test accuracy" in page
    assert f"{MAML}, {ADAM_1E3}" in page
    mixed = report.render([(fake.spec("mine", figure="overview"), records + fake.demo())])
    assert "Closest approximation to exact MAML" in mixed
    assert "Best outer optimizer" in mixed
