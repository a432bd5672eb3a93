"""Figures and their words: what is not drawn is not explained, what is not measured has no axis."""

import itertools
import random
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from analysis import figures, labels, panels, report, scales, style, table
from analysis.metrics import TENSOR_BYTES
from bench.spec import FIGURES
from tests import fake_records as fake
from tests.test_figures import texts, ticks

METHODS = [fake.MAMLS[0], fake.FOMAML, fake.imaml()]


def drawing(records, figure="overview"):
    return figures.draw(fake.spec("mine", figure=figure), table.frame(records))["mine"]


def without_bytes(record, reason="out of the meter's sight"):
    return record | {"tensor_bytes": {"n_params": 50, "missing": reason}}


def test_the_figures_that_a_study_may_name_are_those_there_are():
    assert list(FIGURES) == figures.names()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_caption_explains_no_element_that_is_not_drawn(figure):
    fine = fake.records([fake.LINEAR], METHODS, [1, 10], [0])
    assert "cross" not in drawing(fine, figure).caption["Statistic"].lower()
    failed = [fake.failing(fine[0], "error"), *fine[1:]]
    assert "Cells that failed are in no median" in drawing(failed, figure).caption["Statistic"]
    for records in (fine, failed):
        one = drawing(records, figure)
        elements = panels.elements([one.figure])
        assert ("crosses" in elements) == ("crosses mark them" in one.caption["Statistic"])
        assert ("floor" in elements) == ("dotted line is a floor" in one.caption["Axes"])
        assert ("turns" in elements) == ("take turns" in one.caption["Axes"])
        assert ("control" in elements) == ("grey band" in one.caption["Shown"])
        assert ("front" in elements) == ("Pareto" in one.caption["Shown"])
        assert ("jax" in elements) == ("vertical line" in one.caption["Shown"])


def test_a_caption_names_the_measures_that_are_drawn():
    all_passes = drawing(fake.records([fake.LINEAR], METHODS, [1, 10], [0]), "cost_vs_steps").caption["Shown"]
    assert "resident peak" in all_passes
    timed = fake.records([fake.LINEAR], METHODS, [1, 10], [0], passes=["time"])
    shown = drawing(timed, "cost_vs_steps").caption["Shown"]
    assert "wall time" in shown
    assert "resident peak" not in shown
    assert "tensor bytes" not in shown
    assert "Joined points" in drawing(fake.records([fake.LINEAR], METHODS, [1, 10], [0])).caption["Shown"]
    assert "Joined points" not in drawing(fake.records([fake.LINEAR], METHODS, [10], [0])).caption["Shown"]


def test_an_overview_without_memory_has_no_panel_for_it():
    records = [without_bytes(r) for r in fake.records([fake.LINEAR], METHODS, [1, 10], [0])]
    one = drawing(records)
    assert len(one.figure.axes) == 1
    assert TENSOR_BYTES.title not in texts(one.figure)
    assert "tensor bytes" not in one.caption["Shown"]


def test_a_panel_without_data_says_so_and_invents_no_axis():
    bare = fake.records([fake.LINEAR], METHODS, [1, 10], [0], passes=["accuracy", "time"])
    records = [*bare, *fake.records([fake.SINUSOID], METHODS, [1, 10], [0])]
    one = drawing(records)
    empty = one.figure.axes[1]
    assert "no memory measured" in [t.get_text() for t in empty.texts]
    assert ticks(empty.xaxis) == ticks(empty.yaxis) == []
    reasons = [without_bytes(r) if r["cell"]["problem"] == fake.LINEAR else r for r in records]
    written = [t.get_text() for t in drawing(reasons).figure.axes[1].texts]
    assert any("out of the meter's sight" in text.replace("\n", " ") for text in written)


@pytest.mark.parametrize(("values", "names"), [([], []), ([0.0, 0.0], ["0"])])
def test_an_axis_has_ticks_at_values_only(values, names):
    axes = Figure().subplots()
    scales.log_axis(axes, "y", values, "bytes")
    assert ticks(axes.yaxis) == names
    plt.close("all")


def test_ticks_of_a_narrow_range_of_bytes_are_round_numbers_of_their_unit():
    major, _ = scales.log_ticks(270 * 1024.0, 450 * 1024.0, "bytes")
    assert len(major) >= 2
    assert all(value / 1024 == round(value / 1024, -1) for value in major)


def test_points_of_two_settings_never_look_alike():
    settings = (
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "tasks at once 1",
        "tasks at once 4",
        "threads 2",
    )
    heads = ("MAML, adjoint", "FOMAML", "iMAML, CG 5", "MAML, JAX", "nobody's")
    looks = style.styles(f"{head}, {more}" for head in heads for more in settings)
    assert len({look.point for look in looks.values()}) == len(looks)


def test_two_dtypes_have_two_markers_in_a_scatter():
    records = [
        r for d in ("float32", "float64") for r in fake.records([fake.LINEAR], METHODS, [10], [0], dtype=d)
    ]
    handles = drawing(records).figure.legends[0].legend_handles
    looks = {(h.get_marker(), h.get_color(), str(h.get_markerfacecolor())) for h in handles}
    assert len(looks) == len(handles) == 6


DESCRIPTIONS = [
    {"name": "maml", "inner": {"name": "gradient_descent", "learning_rate": 0.1}},
    {"name": "maml", "inner": {"name": "gradient_descent", "learning_rate": 0.1000001}},
    {"name": "maml", "inner": {"name": "momentum", "learning_rate": 0.1, "momentum": 0.9}},
    {"name": "maml", "inner": {"name": "momentum", "learning_rate": 0.1, "momentum": 0.5}},
    {"name": "maml", "inner": {"name": "nesterov", "learning_rate": 0.1, "momentum": 0.9}},
    {"name": "my momentum", "inner": {"name": "momentum", "learning_rate": 0.1}},
    {"name": "my momentum", "inner": {"name": "gradient_descent", "learning_rate": 0.1}},
    {"name": "mine", "first": {"name": "a", "size": 1}},
    {"name": "mine", "second": {"name": "a", "size": 1}},
    {"name": "mine", "first": {"name": "a", "size": 1}, "second": {"name": "b", "size": 2}},
    {"name": "mine", "first": {"name": "b", "size": 2}, "second": {"name": "a", "size": 1}},
    {
        "name": "imaml",
        "inner": {"name": "lbfgs", "tolerance": 0.1},
        "linear": {"name": "cg", "tolerance": 0.2},
    },
    {
        "name": "imaml",
        "inner": {"name": "lbfgs", "tolerance": 0.2},
        "linear": {"name": "cg", "tolerance": 0.1},
    },
]


def test_no_two_methods_share_a_label_whichever_meet():
    draws = random.Random(0)
    some = [draws.sample(DESCRIPTIONS, draws.randrange(2, len(DESCRIPTIONS) + 1)) for _ in range(100)]
    for met in [DESCRIPTIONS, *map(list, itertools.combinations(DESCRIPTIONS, 2)), *some]:
        flat = [labels.flatten(one) for one in met]
        same = ["problem"] * len(met)
        base = labels.mixed_inner([labels.method(one) for one in met], flat, same)
        named = labels.distinguish(base, flat, same)
        assert len(set(named)) == len(met), named


def test_fields_of_one_name_are_told_apart_by_their_part():
    met = DESCRIPTIONS[-2:]
    named = labels.distinguish(["iMAML"] * 2, [labels.flatten(one) for one in met], ["problem"] * 2)
    assert named[0] == "iMAML, inner tolerance 0.1, linear tolerance 0.2"


def test_the_report_says_how_diverged_and_finite_cells_are_shown():
    records = fake.records([fake.LINEAR], METHODS, [1, 10], [0])
    spec = SimpleNamespace(**vars(fake.spec("mine", figure="accuracy_vs_steps")))
    assert "Diverged" not in report.render([(spec, records)])
    far = [fake.with_errors(records[0], "maml", [1e7, 0.1, 0.1, 0.1]), *records[1:]]
    page = report.render([(spec, far)])
    failures = page.partition("<h2>Failures</h2>")[2].partition("</section>")[0]
    assert "1 cell has a task with a relative error above 100, the largest 1.0e7." in failures
    assert "clip none of them" in failures
    high = drawing([fake.with_errors(r, "maml", [1e7] * 4) for r in far], "accuracy_vs_steps").figure.axes[1]
    assert high.get_ylim()[1] > 1e7
