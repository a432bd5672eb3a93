"""Figures and sentences about precision; labels of parts in another one."""

import numpy as np
import pandas as pd
import pytest

from analysis import figures, labels, rounding, stats, style, table, verdict
from analysis.figures.mixed import choice
from analysis.metrics import OWN_ROUNDING
from bench.cells import expand
from bench.cli.label import label, varying
from bench.kinds import steps_of, with_steps
from bench.spec import load, shipped
from tests import fake_records as fake

STUDIES = ("precision", "data_scale", "unrolling", "mixed")
DTYPES = ("float64", "float32", "bfloat16")
MAML = {"name": "maml", "backward": "adjoint"}
GD = {"name": "gradient_descent", "steps": 10, "learning_rate": 0.08}


METHODS = (MAML, fake.FOMAML, fake.imaml())


def records(methods=METHODS, steps=(1, 10, 100), problems=(fake.LINEAR,)):
    return [r for d in DTYPES for r in fake.records(problems, methods, steps, dtype=d)]


def certified(record: dict, rounds: list, truncated: list) -> dict:
    tasks = []
    for rounded, truncation in zip(rounds, truncated, strict=True):
        if rounded is None or truncation is None:
            tasks.append({"missing": "an undecided kink", "kind": "kink"})
            continue
        against = {"certified": True, "rounding": bounds(rounded), "truncation": bounds(truncation)}
        exact = {"certified": True, "rounding": bounds(rounded), "truncation": bounds(0.0)}
        tasks.append({"rounding": bounds(rounded), "references": {"implicit": against, "maml": exact}})
    return record | {"certified": {"bound": 1e-30, "tasks": tasks}}


def bounds(value: float) -> dict:
    return {"lower": value, "upper": value}


def drawn(some: list, figure: str) -> dict:
    return figures.draw(fake.spec("study", figure=figure), table.frame(some))


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_can_be_planned_and_their_figures_are_there(name: str) -> None:
    study = load(shipped()[name])
    assert figures.module(study).__name__.endswith(name)
    cells = expand(study)
    assert len({cell.id for cell in cells}) == len(cells) > 100
    keys = varying(cell.description for cell in cells)
    names = {label(cell.description, keys) for cell in cells}
    assert len(names) == len(cells)  # told apart on the command line


@pytest.mark.parametrize("figure", STUDIES)
def test_no_difference_by_colour_alone(figure: str) -> None:
    looks = list(style.DTYPES.values())
    assert len({look.marker for look in looks}) == len({str(look.line) for look in looks}) == len(looks)
    (drawing,) = drawn(records(), figure).values()
    names = [t.get_text() for t in drawing.figure.legends[0].get_texts()]
    assert names == list(DTYPES)


def test_a_panel_shows_the_medians_of_its_method_and_dtype() -> None:
    some = records()
    drawing = drawn(some, "precision")["study"]
    axes = drawing.figure.axes
    assert [a.get_title() for a in axes[:3]] == ["MAML, adjoint", "FOMAML", "iMAML, CG 5"]
    frame = table.frame(some)
    mine = frame[(frame["method"] == "FOMAML") & (frame["dtype"] == "float32")]
    wanted = mine.groupby("steps")["error.implicit"].median()
    line = next(x for x in axes[1].lines if x.get_marker() == style.DTYPES["float32"].marker)
    assert line.get_xdata().tolist() == [1, 10, 100]
    np.testing.assert_allclose(line.get_ydata(), wanted.to_numpy(dtype=float))
    assert len({a.get_ylim() for a in axes[:3]}) == 1  # one scale for a row


def test_certified_parts_get_rows_of_their_own() -> None:
    some = [certified(r, [1e-7] * 4, [1e-2] * 4) for r in records()]
    titles = [a.get_ylabel() for a in drawn(some, "precision")["study"].figure.axes[::3]]
    assert titles[1:3] == ["of it rounding", "of it truncation"]
    plain = [a.get_ylabel() for a in drawn(records(), "precision")["study"].figure.axes[::3]]
    assert len(plain) == 2


def test_failed_cells_are_marked_in_the_row_that_all_panels_keep_free() -> None:
    some = records()
    some[-1] = fake.failing(some[-1], "non_finite")
    drawing = drawn(some, "precision")["study"]
    assert len({a.get_ylim() for a in drawing.figure.axes[:3]}) == 1
    assert "cells that failed (number)" in [t.get_text() for t in drawing.figure.legends[0].get_texts()]


def test_scales_left_out_at_one_have_their_place_on_the_axis_and_a_label() -> None:
    problems = [fake.LINEAR, *(fake.LINEAR | {"input_scale": s} for s in (0.1, 10.0))]
    some = records(problems=problems, steps=(10,))
    frame = table.frame(some)
    assert set(frame["problem"]) == {
        "linear regression", "linear regression, input scale 0.1", "linear regression, input scale 10"
    }  # fmt: skip
    drawings = drawn(some, "data_scale")
    assert list(drawings) == ["study"]  # one problem at three scales
    line = drawings["study"].figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [0.1, 1, 10]


# Labels


def test_parts_in_another_precision_are_named_and_keep_their_steps() -> None:
    inner = {"name": "in_dtype", "dtype": "float64", "inner": GD}
    solver = {"name": "conjugate_gradient", "iterations": 5, "tolerance": 0.0}
    linear = {"name": "in_dtype", "dtype": "float64", "linear": solver | {"dots": "float32"}}
    products = {"name": "in_dtype", "dtype": "bfloat16", "loss_scale": 8.0, "curvature": {"name": "exact"}}
    method = {"name": "imaml", "inner": inner, "linear": linear, "curvature": products}
    frame = table.frame([fake.record(fake.describe(fake.LINEAR, method))])
    (name,) = frame["method"].unique()
    assert name == ("iMAML, CG 5, inner float64, solve float64, products bfloat16, scale 8, dots float32")
    assert frame["steps"].tolist() == [10] * 4
    assert frame["method.inner.precision"].tolist() == ["float64"] * 4
    gradients = {"name": "gradients_in", "dtype": "float16", "dynamic": True, "loss_scale": 8.0}
    both = {"name": "in_dtype", "dtype": "float32", "inner": gradients | {"inner": GD}}
    found = labels.unwrapped({"name": "maml", "inner": both})
    assert found["inner"] == GD | {"precision": "float32, gradients float16, scale dynamic"}


def test_curves_of_a_field_left_out_at_its_default_are_told_apart() -> None:
    with_dots = fake.imaml()
    with_dots["linear"] = with_dots["linear"] | {"dots": "float64"}
    frame = table.frame(fake.records([fake.LINEAR], [fake.imaml(), with_dots]))
    assert set(frame["method"]) == {"iMAML, CG 5", "iMAML, CG 5, dots float64"}


def test_choices_are_behind_a_bar() -> None:
    assert choice("iMAML, CG 20, inner float64, dots float64") == "iMAML, CG 20 | inner, dots float64"
    assert choice("MAML, adjoint") == "MAML, adjoint"
    gradients = "iMAML, CG 20, inner gradients float16, scale 64"
    assert choice(gradients) == "iMAML, CG 20 | gradients float16, scale 64"


def test_steps_are_found_and_set_inside_wrappers() -> None:
    inner = {"name": "in_dtype", "dtype": "float64", "inner": GD}
    of = {"method": {"name": "maml", "inner": {"name": "gradients_in", "inner": inner}}}
    assert steps_of(of) == 10
    assert steps_of(with_steps(of, 3)) == 3
    assert steps_of(of) == 10


# Sentences


def test_the_share_of_rounding_is_that_of_the_two_distances() -> None:
    some = []
    for number, record in enumerate(fake.records([fake.LINEAR], [MAML], [1, 10], dtype="float32")):
        share = 0.25 if record["cell"]["method"]["inner"]["steps"] == 10 else 1e-6
        scale = 1 + number
        some.append(certified(record, [share * scale] * 4, [(1 - share) * scale] * 4))
    frame = table.frame(some)
    points = rounding.over_steps(frame, "implicit")
    np.testing.assert_allclose(points["median"].to_numpy(), [1e-6, 0.25])
    (sentence,) = rounding.sentences(table.with_axes(frame))
    assert sentence == (
        "Rounding and truncation",
        "MAML, adjoint",
        "'s gap to the exact implicit gradient at 1 step is 0.0001 % rounding, 99.9999 % truncation; "
        "at 10 steps is 25 % rounding, 75 % truncation.",
    )


def test_its_interval_is_the_bootstraps() -> None:
    some = fake.records([fake.LINEAR], [MAML], [10], dtype="float32")
    shares = np.random.default_rng(0).uniform(0.1, 0.4, (len(some), 4))
    some = [certified(r, s.tolist(), (1 - s).tolist()) for r, s in zip(some, shares, strict=True)]
    (point,) = rounding.over_steps(table.frame(some), "implicit").itertuples(index=False)
    wanted = stats.hierarchical(shares.ravel(), np.repeat([0, 1, 2], 4))
    np.testing.assert_allclose(point, wanted[:3])
    (sentence,) = rounding.sentences(table.with_axes(table.frame(some)))
    assert f"[{100 * wanted.low:.2g}, {100 * wanted.high:.2g}]" in sentence[2]


def test_the_verdict_says_it_of_every_dtype_and_of_nothing_uncertified() -> None:
    some = [certified(r, [1e-7] * 4, [1e-2] * 4) for r in records(methods=[MAML, fake.FOMAML])]
    found = [v for v in verdict.verdicts(table.frame(some)) if v.setting == "rounding and truncation"]
    assert [item.methods for item in found[0].items] == [f"MAML, adjoint, {d}" for d in sorted(DTYPES)]
    plain = verdict.verdicts(table.frame(records()))
    assert not [v for v in plain if v.setting == "rounding and truncation"]


def test_tasks_that_could_not_be_certified_are_left_out() -> None:
    (record,) = fake.records([fake.LINEAR], [MAML], seeds=[0])
    frame = table.frame([certified(record, [None, 0.5, None, 0.5], [0.1, 0.5, None, 0.5])])
    assert frame[OWN_ROUNDING.column].isna().tolist() == [True, False, True, False]
    assert rounding.over_steps(frame, "implicit")["median"].tolist() == [0.5]
    reason = table.frame([record | {"certified": {"missing": "no"}}])
    assert reason[OWN_ROUNDING.column].isna().all()


def test_counts_of_the_pass_numerics_are_columns_of_the_frame() -> None:
    (record,) = fake.records([fake.LINEAR], [MAML], seeds=[0])
    frame = table.frame([record | {"numerics": {"stagnation": [0.1, 0.2, None, 0.4]}}])
    pd.testing.assert_series_equal(
        frame["numerics.stagnation"], pd.Series([0.1, 0.2, None, 0.4]), check_names=False
    )
