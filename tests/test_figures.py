"""Figures: what is drawn, what is said where nothing can be drawn, what is written; on made-up records."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from analysis import captions, figures, grid, panels, scales, style, table
from analysis.metrics import ERRORS, TENSOR_BYTES
from bench.errors import UsageError
from tests import fake_records as fake

METHODS = [fake.MAMLS[0], fake.FOMAML, fake.imaml()]


def drawn(records, figure, name="study"):
    return figures.draw(fake.spec(name, figure=figure), table.frame(records))


def texts(figure):
    """Everything written in a figure, once it is laid out."""
    figure.draw_without_rendering()
    legends = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return legends + [
        t.get_text()
        for axes in figure.axes
        for t in [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    ]


def ticks(axis):
    axis.figure.draw_without_rendering()
    return [t.get_text() for t in axis.get_ticklabels()]


def line(axes, label):
    """The curve of a method, found by its style: x and y of its points."""
    look = style.of(label)
    for one in axes.lines:
        if (
            one.get_marker() == look.marker
            and same_color(one.get_color(), look.color)
            and len(one.get_xdata()) > 1
        ):
            return np.asarray(one.get_xdata(), dtype=float), np.asarray(one.get_ydata(), dtype=float)
    raise AssertionError(f"no curve of {label}")


def test_accuracy_has_a_column_per_problem_and_a_row_per_reference():
    records = fake.records([fake.LINEAR, fake.SINUSOID], METHODS, [1, 10, 100], passes=["accuracy"])
    figure = drawn(records, "accuracy_vs_steps")["study"].figure
    assert len(figure.axes) == 4
    written = texts(figure)
    assert {"linear regression", "sinusoid", "inner steps K"} <= set(written)
    assert {"MAML, adjoint", "FOMAML", "iMAML, CG 5"} <= set(written)
    steps, errors = line(figure.axes[0], "FOMAML")
    assert steps.tolist() == [1, 10, 100]
    rows = table.summary(table.frame(records)).set_index(["problem", "method", "steps"])
    assert errors[1] == rows.loc[("linear regression", "FOMAML", 10), "error.implicit"]


def test_figures_are_as_wide_as_a_column_or_a_page():
    one = drawn(fake.records([fake.LINEAR], METHODS, [1, 10]), "accuracy_vs_steps")["study"].figure
    two = drawn(fake.records([fake.LINEAR, fake.SINUSOID], METHODS, [1, 10]), "accuracy_vs_steps")[
        "study"
    ].figure
    assert (one.get_figwidth(), two.get_figwidth()) == (3.3, 6.9)


def test_more_problems_than_fit_go_into_several_figures_of_equal_size():
    problems = [fake.LINEAR | {"condition": c} for c in (2.0, 3.0, 4.0, 5.0)]
    found = drawn(fake.records(problems, METHODS, [1, 10], [0]), "accuracy_vs_steps")
    assert list(found) == ["study", "study-2"]
    assert [len(d.figure.axes) for d in found.values()] == [4, 4]


def test_costs_have_a_row_per_measure_that_exists():
    records = fake.records(
        [fake.SINUSOID], METHODS, [1, 10], [0], passes=["time", "tensor_bytes", "resident"]
    )
    figure = drawn(records, "cost_vs_steps")["study"].figure
    assert len(figure.axes) == 4
    assert any("ms" in label for label in ticks(figure.axes[0].yaxis))
    assert any("B" in label for label in ticks(figure.axes[1].yaxis))
    fewer = fake.records([fake.SINUSOID], METHODS, [1, 10], [0], passes=["time"])
    assert len(drawn(fewer, "cost_vs_steps")["study"].figure.axes) == 2  # time and oracle calls


def test_missing_resident_meter_is_said():
    records = fake.records([fake.SINUSOID], METHODS, [1, 10], [0], passes=["tensor_bytes"])
    records = [r | {"resident": {"missing": "no /proc here"}} for r in records]
    assert any("no /proc here" in text for text in texts(drawn(records, "cost_vs_steps")["study"].figure))


def test_failures_are_marked_at_their_place_and_counted():
    records = fake.records([fake.LINEAR], METHODS, [1, 10], passes=["accuracy"])
    at_ten = [
        r
        for r in records
        if r["cell"]["method"]["name"] == "fomaml" and r["cell"]["method"]["inner"]["steps"] == 10
    ]
    records = [fake.failing(r, "timed_out") if r in at_ten else r for r in records]
    figure = drawn(records, "accuracy_vs_steps")["study"].figure
    axes = figure.axes[0]
    crosses = [one for one in axes.lines if one.get_marker() == "x"]
    assert [float(c.get_xdata()[0]) for c in crosses] == [10.0]
    assert same_color(crosses[0].get_color(), style.of("FOMAML").color)
    assert "3" in [t.get_text() for t in axes.texts]
    assert panels.FAILED in texts(figure)
    look = style.of("FOMAML")
    medians = [one for one in axes.lines if one.get_marker() == look.marker and len(one.get_xdata()) == 1]
    assert any(float(one.get_xdata()[0]) == 1.0 for one in medians)  # the point at one step is still there


def test_strip_of_failures_lies_above_the_data():
    records = fake.records([fake.LINEAR], METHODS, [1, 10], passes=["accuracy"])
    records = [fake.failing(r, "error") if r["cell"]["seed"] == 0 else r for r in records]
    axes = drawn(records, "accuracy_vs_steps")["study"].figure.axes[0]
    highest = max(np.nanmax(line(axes, label)[1]) for label in ("FOMAML", "MAML, adjoint"))
    low, high = axes.get_ylim()
    place = np.log(highest / low) / np.log(high / low)
    strip = min(c.get_ydata()[0] for c in axes.lines if c.get_marker() == "x")
    assert place < strip < 1


def test_many_failing_methods_share_the_last_row():
    methods = [fake.imaml(iterations=n) for n in range(1, 12)]
    records = [fake.failing(r, "error") for r in fake.records([fake.LINEAR], methods, [1, 10], [0])]
    axes = drawn(records, "accuracy_vs_steps")["study"].figure.axes[0]
    rows = {round(float(c.get_ydata()[0]), 6) for c in axes.lines if c.get_marker() == "x"}
    assert len(rows) == panels.MAX_STRIP
    assert "7" in [t.get_text() for t in axes.texts]


@pytest.mark.parametrize("figure", figures.names())
@pytest.mark.parametrize("status", ["error", "not_converged"])
def test_everything_failed(figure, status):
    records = [fake.failing(r, status) for r in fake.records([fake.LINEAR], METHODS, [1, 10], [0])]
    assert any("no cell ended well" in text for text in texts(drawn(records, figure)["study"].figure))


def test_a_missing_reference_is_said_in_its_panel():
    records = fake.records([fake.LINEAR], METHODS, [1, 10], passes=["accuracy"])
    records = [fake.without_reference(r, "maml", "no first-order solver") for r in records]
    records = [fake.without_reference(r, "implicit", "indefinite Hessian", [0]) for r in records]
    figure = drawn(records, "accuracy_vs_steps")["study"].figure
    implicit, maml = (" ".join(t.get_text() for t in axes.texts).replace("\n", " ") for axes in figure.axes)
    assert implicit == "no reference for 25% of the tasks"
    assert maml == "no reference: no first-order solver"
    caption = captions.caption("?", "", table.frame(records))["Missing references"]
    assert "maml: missing for 72 of 72 values on linear regression: no first-order solver" in caption
    assert "implicit: missing for 18 of 72" in caption


def test_zeros_stand_at_a_labelled_floor():
    records = fake.records([fake.LINEAR], METHODS, [1, 10], passes=["accuracy"])
    zero = [
        fake.with_errors(r, "maml", [0.0] * 4) if r["cell"]["method"]["name"] == "maml" else r
        for r in records
    ]
    axes = drawn(zero, "accuracy_vs_steps")["study"].figure.axes[1]
    assert "0 or <$10^{-17}$" in ticks(axes.yaxis)
    _, floor = line(axes, "MAML, adjoint")
    assert (floor == floor[0]).all()
    assert axes.get_ylim()[0] < floor[0] < np.nanmin(line(axes, "iMAML, CG 5")[1])


def test_errors_decades_below_all_others_stand_at_a_floor_that_bounds_them():
    axes = drawn(fake.records([fake.LINEAR], METHODS, [1, 10]), "accuracy_vs_steps")["study"].figure.axes[1]
    assert "≤$10^{-15}$" in ticks(axes.yaxis)
    assert axes.get_ylim()[0] > 1e-6
    groups = [np.array([1e-16, 3e-16]), np.array([1e-3, 0.5]), np.array([0.2])]
    assert scales.far_below(groups) == 1e-15
    assert scales.far_below([*groups, np.array([1e-14, 1e-4])]) == 0  # a curve that crosses the gap keeps it
    assert scales.far_below([np.array([0.0]), np.array([0.1])]) == 0


@pytest.mark.parametrize("unit", ["error", "seconds", "bytes", "count", "ratio"])
def test_log_axes_have_a_few_readable_ticks_over_any_range(unit):
    rng = np.random.default_rng(0)
    for _ in range(200):
        low = 10.0 ** rng.uniform(-16, 3)
        high = low * 10.0 ** rng.uniform(0.02, 19)
        if unit in ("bytes", "count"):
            low, high = max(low, 1.0), max(high, 3.0)
        major, _ = scales.log_ticks(low, high, unit)
        assert 1 <= len(major) <= 6, (low, high, major)
        assert high / low < 4 or len(major) >= 2, (low, high, major)
        assert all(low * 0.99 <= v <= high * 1.01 for v in major)
        names = [scales.tick_name(v, unit) for v in major]
        assert len(set(names)) == len(names), names


def test_huge_dynamic_range_and_infinite_errors():
    errors = [1e-16, 1e3, 1e-2, None]
    records = [
        fake.with_errors(r, "maml", errors) for r in fake.records([fake.LINEAR], METHODS, [1, 10, 100])
    ]
    figure = drawn(records, "accuracy_vs_steps")["study"].figure
    figure.draw_without_rendering()
    low, high = figure.axes[1].get_ylim()
    assert low < 1e-16
    assert high > 1e3


def test_a_method_without_inner_steps_is_a_level():
    dense = fake.imaml("dense", None) | {"inner": {"name": "closed_form"}}
    records = fake.records([fake.LINEAR], [fake.FOMAML, dense], [1, 10], passes=["accuracy"])
    axes = drawn(records, "accuracy_vs_steps")["study"].figure.axes[0]
    label = table.frame(records)["method"].drop_duplicates().tolist()[-1]
    assert label == "iMAML, dense, closed form"
    level = [one for one in axes.lines if same_color(one.get_color(), style.of(label).color)]
    assert level[0].get_ydata()[0] == level[0].get_ydata()[1]


def test_coinciding_curves_take_turns_with_their_markers():
    frame = table.frame(fake.records([fake.SINUSOID], METHODS, [1, 2, 5, 10], [0], passes=["tensor_bytes"]))
    axes = grid.over_steps(frame, [TENSOR_BYTES])[0].axes[0]
    every = {one.get_markevery() for one in axes.lines if len(one.get_xdata()) == 4}
    assert {(0, 2), (1, 2)} <= every


def test_overview_with_all_passes_shows_error_against_time_and_memory():
    figure = drawn(fake.records([fake.LINEAR, fake.SINUSOID], METHODS), None, "a_custom_study")[
        "a_custom_study"
    ].figure
    assert len(figure.axes) == 4
    assert {"time / FOMAML's", "peak tensor bytes", "linear regression", "sinusoid"} <= set(texts(figure))


def test_overview_joins_the_points_of_a_sweep():
    figure = drawn(fake.records([fake.LINEAR], METHODS, [1, 10, 100]), "overview")["study"].figure
    sizes = {
        one.get_markersize() for one in figure.axes[0].lines if one.get_marker() == style.of("FOMAML").marker
    }
    assert len(sizes) == 3


@pytest.mark.parametrize(
    ("passes", "steps", "columns"),
    [
        (["accuracy"], [10], 1),  # against oracle calls
        (["time", "tensor_bytes"], [10], 3),
        (["time"], [1, 10], 1),
        (["accuracy", "tensor_bytes"], [10], 1),
    ],
)
def test_overview_makes_do_with_some_passes(passes, steps, columns):
    figure = drawn(fake.records([fake.LINEAR], METHODS, steps, passes=passes), "overview")["study"].figure
    figure.draw_without_rendering()
    assert len({axes.get_position().x0 for axes in figure.axes}) == columns


def test_overview_of_errors_alone_is_a_dot_per_method():
    records = fake.records([fake.LINEAR], METHODS, passes=["accuracy"])
    records[0] = fake.failing(records[0], "killed")
    records = [{k: v for k, v in r.items() if k != "calls"} for r in records]
    figure = drawn(records, "overview")["study"].figure
    assert len(figure.axes) == 2
    assert ticks(figure.axes[0].yaxis) == ["MAML, adjoint", "FOMAML", "iMAML, CG 5"]
    assert any(one.get_marker() == "x" for one in figure.axes[0].lines)


def test_overview_uses_the_implicit_gradient_where_maml_has_no_reference():
    records = [fake.without_reference(r, "maml", "declined") for r in fake.records([fake.LINEAR], METHODS)]
    assert ERRORS["implicit"].title in texts(drawn(records, "overview")["study"].figure)


def test_two_dtypes_are_two_curves():
    records = [
        r
        for d in ("float32", "float64")
        for r in fake.records([fake.LINEAR], [fake.FOMAML], [1, 10], dtype=d, passes=["accuracy"])
    ]
    written = texts(drawn(records, "accuracy_vs_steps")["study"].figure)
    assert {"FOMAML, float32", "FOMAML, float64"} <= set(written)


def test_the_legend_never_covers_a_panel():
    methods = [fake.imaml(iterations=n) for n in range(1, 25)]
    figure = drawn(fake.records([fake.LINEAR], methods, [10], [0], passes=["accuracy"]), "accuracy_vs_steps")[
        "study"
    ].figure
    figure.draw_without_rendering()
    top = figure.legends[0].get_window_extent().y1
    assert top <= min(axes.get_tightbbox().y0 for axes in figure.axes) + 1


def test_files_are_written_and_are_the_same_every_time(tmp_path):
    records = fake.records([fake.LINEAR], METHODS, [1, 10], [0])
    spec = fake.spec("mine", figure="overview")
    for folder in ("a", "b"):
        written = figures.save(figures.draw(spec, table.frame(records)), tmp_path / folder)
        assert [p.name for p in written] == ["mine.pdf", "mine.svg", "mine.png", "mine.txt"]
    for name in ("mine.pdf", "mine.svg", "mine.png", "mine.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a" / "mine.pdf").read_bytes().startswith(b"%PDF")


def test_caption_has_the_settings_the_numbers_and_the_failures():
    records = fake.records([fake.LINEAR], METHODS, [1, 10])
    records[0] = fake.failing(records[0], "timed_out")
    caption = captions.caption("How good?", "Errors.", table.frame(records))
    assert caption["Question"] == "How good?"
    assert "dtype = float64" in caption["Settings"]
    assert "method.inner.learning_rate = 0.08" in caption["Settings"]
    assert "steps = 1, 10" in caption["Varied"]
    assert "seed = 0, 1, 2" in caption["Varied"]
    assert caption["Data"].startswith("18 cells (17 ended well), 3 seeds, 4 tasks per cell")
    assert caption["Failures"] == "1 timed_out (MAML, adjoint)."
    assert "bootstrap" in caption["Statistic"]
    assert "17 cells" in caption["A/A control"]


def test_an_unknown_figure_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown figure 'overveiw'; did you mean 'overview'"):
        drawn([], "overveiw")


def test_nothing_to_draw_is_refused():
    with pytest.raises(UsageError, match="metabench run study"):
        drawn([], "overview")


def test_a_study_is_drawn_by_the_module_of_its_name():
    assert figures.module(fake.spec("cost_vs_steps")).__name__ == "analysis.figures.cost_vs_steps"
    assert figures.module(fake.spec("other")).__name__ == "analysis.figures.overview"
    assert figures.module(fake.spec("cost_vs_steps", figure="overview")).__name__.endswith("overview")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write figures"):
        figures.save(drawn(fake.records([fake.LINEAR], METHODS), "overview"), tmp_path / "file" / "figures")
