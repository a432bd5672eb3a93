"""Libraries next to jitted JAX, and growth along one axis at a time: numbers, figures, README texts."""

import numpy as np
import pandas as pd
import pytest

from analysis import figures, peers, readme, scaling, style, table
from analysis.figures.peers import LOOKS
from analysis.metrics import ERRORS, RESIDENT
from tests import fake_records as fake
from tests.test_figures import texts, ticks


@pytest.fixture(scope="module")
def speed():
    return table.frame(fake.peers())


@pytest.fixture(scope="module")
def growth():
    return table.frame(fake.scaling())


def ratio(name: str, engine: str = "eager") -> np.ndarray:
    """Every round's ratio to first-order MAML, of one method on sinusoids at 50 steps, from the record."""
    (found,) = [
        r["time"]
        for r in fake.peers()
        if r["cell"]["problem"] == fake.SINUSOID
        and r["cell"]["method"]["name"] == name
        and r["cell"]["method"]["inner"]["steps"] == 50
        and r["cell"].get("engine", "eager") == engine
    ]
    return np.array(found["samples_s"]) / np.array(found["reference_s"])


def test_times_to_jax_go_over_the_shared_reference(speed) -> None:
    rows = table.cells(peers.rows(speed)).set_index(["problem", "row", "library"]).sort_index()
    for name, engine, library in (
        ("maml", "compiled", "metabench, compiled"),
        ("maml", "eager", "metabench, eager"),
        ("maml-torchopt", "eager", "TorchOpt"),
        ("maml-jax", "eager", "JAX"),
    ):
        (row,) = rows.loc[[("sinusoid", "MAML, K = 50", library)]].to_dict("records")
        expected = np.median(ratio(name, engine)) / np.median(ratio("maml-jax"))
        assert row["time.to_jax"] == pytest.approx(expected)
        assert row["time.to_jax_low"] <= row["time.to_jax"] <= row["time.to_jax_high"]


def test_every_library_computes_in_a_common_row(speed) -> None:
    rows = peers.rows(speed)
    order = peers.ordered(rows[rows["problem"] == "sinusoid"])
    assert list(order) == [
        *("MAML, K = 5", "MAML, K = 50", "FOMAML, K = 5", "FOMAML, K = 50"),
        *("iMAML, 5 CG, K = 5", "iMAML, 5 CG, K = 50"),
    ]
    ours = ["metabench, compiled", "metabench, eager"]
    assert order["MAML, K = 5"] == [*ours, "JAX", "jaxopt", "TorchOpt", "higher", "C++"]
    assert order["iMAML, 5 CG, K = 50"] == [*ours, "JAX", "jaxopt", "TorchOpt", "hypergrad", "C++"]


def test_what_one_library_computes_twice_gets_rows_of_its_own() -> None:
    methods = [*fake.MAMLS, fake.imaml(), fake.imaml("neumann"), {"name": "reptile"}]
    rows = peers.rows(table.frame(fake.records([fake.LINEAR], methods)))
    assert list(peers.ordered(rows)) == [
        *("MAML, K = 10", "MAML, checkpointed, K = 10", "MAML, unrolled, K = 10"),
        *("iMAML, 5 CG, K = 10", "iMAML, Neumann 5, K = 10", "Reptile, K = 10"),
    ]
    assert rows.groupby(["row", "library"])["method"].nunique().max() == 1
    assert rows["time.to_jax"].isna().all()


def test_peers_are_drawn_with_a_lane_for_each_library(speed) -> None:
    drawings = figures.draw(fake.spec("peers"), speed)
    assert list(drawings) == ["peers", "peers-2"]
    figure = drawings["peers"].figure
    time, memory, error = figure.axes
    titles = ["time / jitted JAX's", RESIDENT.title, ERRORS["maml"].title]
    assert [axes.get_xlabel() for axes in (time, memory, error)] == titles
    assert ticks(time.yaxis)[0] == "MAML, K = 5"
    assert set(peers.libraries(peers.rows(speed))) <= set(texts(figure))
    lanes = [float(one.get_ydata()[0]) for one in time.lines if len(one.get_xdata()) == 1]
    assert len(lanes) == len(set(lanes)) == 36  # nothing on top of each other
    jax = [one.get_xdata()[0] for one in time.lines if one.get_marker() == LOOKS["JAX"].marker]
    assert jax == pytest.approx([1.0] * 6)
    figure.draw_without_rendering()
    top = figure.legends[0].get_window_extent().y1
    assert top <= min(axes.get_tightbbox().y0 for axes in figure.axes) + 1


def test_no_two_libraries_share_a_marker() -> None:
    assert list(LOOKS) == list(peers.ORDER)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)


def test_a_failed_library_has_a_cross_in_its_lane(speed) -> None:
    records = fake.peers()
    records = [
        fake.failing(r, "timed_out") if r["cell"]["method"]["name"] == "maml-higher" else r for r in records
    ]
    figure = figures.draw(fake.spec("peers"), table.frame(records))["peers"].figure
    crosses = [one for one in figure.axes[0].lines if one.get_marker() == "x"]
    assert [(c.get_color(), len(c.get_xdata())) for c in crosses] == [(LOOKS["higher"].color, 1)] * 2


def test_without_jax_times_are_those_of_first_order_maml() -> None:
    found = figures.draw(fake.spec("mine", figure="peers"), table.frame(fake.demo()))
    assert "time / FOMAML's" in texts(found["mine"].figure)


def test_tables_of_peers(speed) -> None:
    lines = peers.ratio_table(speed).splitlines()
    assert lines[0].startswith(
        "| time / jitted JAX's | metabench, compiled | metabench, eager | JAX | jaxopt"
    )
    assert len(lines) == 2 + 6 + 6  # every row of the figures
    fifty = next(line for line in lines if line.startswith("| sinusoid, MAML, K = 50 |")).split(" | ")
    assert fifty[3].startswith("1.00 (")
    assert float(fifty[1].split()[0]) == pytest.approx(
        np.median(ratio("maml", "compiled")) / np.median(ratio("maml-jax")), rel=0.02
    )
    assert fifty[7] == ""  # hypergrad has no exact MAML
    more = peers.resource_table(speed).splitlines()
    assert len(more) == len(lines)
    worst = speed[(speed["method"] == "MAML, JAX") & (speed["problem"] == "sinusoid") & (speed["steps"] == 5)]
    assert more[2].split(" | ")[3].endswith(f"; {worst['error.maml'].max():.1e}".replace("e-0", "e-"))


def test_a_point_is_on_an_axis_only_if_all_else_is_at_the_base(growth) -> None:
    found = scaling.rows(growth)
    assert len(found) == growth["id"].nunique()
    swept = scaling.axes(found)
    values = {axis.column: sorted(here[axis.column].astype(int).unique()) for axis, here in swept.items()}
    assert values == {
        "steps": [1, 2, 5, 10, 20, 50, 100],
        "n_tasks": [1, 4, 16, 25, 64, 256],
        "parameters": [1021, 1761, 10401, 91201, 1004001],
        "iterations": [1, 2, 5, 10, 20],
    }
    for axis, here in swept.items():
        assert here.groupby(["line", axis.column]).size().max() == 1, axis
        fixed = {"steps": [10], "n_tasks": [4 if axis.column == "parameters" else 25]}
        fixed |= {"parameters": [1761], "iterations": [5]}
        for column in set(fixed) - {axis.column}:
            assert here[column].dropna().unique().tolist() == fixed[column], (axis, column)
    (last,) = (here for axis, here in swept.items() if axis.column == "iterations")
    assert set(last["line"]) == {"iMAML, CG, compiled", "iMAML, CG, eager", "iMAML, JAX"}


def test_a_slow_hour_drops_out_of_the_steady_time() -> None:
    records = fake.scaling()
    slow = next(i for i, r in enumerate(records) if r["cell"].get("engine") == "compiled")

    def times() -> pd.Series:
        found = scaling.rows(table.frame(records)).set_index("id")
        return found.loc[records[slow]["id"], ["time.median_s", "time.steady_s"]].astype(float)

    before = times()
    kinds = ("samples_s", "reference_s", "control_s")
    tripled = {kind: [3 * s for s in records[slow]["time"][kind]] for kind in kinds}
    records[slow] = records[slow] | {"time": records[slow]["time"] | tripled}
    after = times()
    assert after["time.median_s"] == pytest.approx(3 * before["time.median_s"])
    assert after["time.steady_s"] == pytest.approx(before["time.steady_s"], rel=0.1)


def test_exponents_are_those_of_power_laws() -> None:
    x = np.array([1.0, 2, 5, 10, 20, 50, 100])
    assert scaling.exponent(pd.Series(3 * x**1.7, index=x), 1) == pytest.approx(1.7)
    bent = pd.Series(np.where(x < 10, 1.0, x**0.5), index=x)
    assert scaling.exponent(bent, 10) == pytest.approx(0.5)
    assert scaling.exponent(bent, 1) != pytest.approx(0.5, rel=0.05)
    assert np.isnan(scaling.exponent(pd.Series(0.0, index=x), 1))  # no power law of zeros
    assert np.isnan(scaling.exponent(bent, 100))


def test_the_upper_half_of_an_axis_is_meant_on_its_log_scale(growth) -> None:
    swept = scaling.axes(scaling.rows(growth))
    assert [scaling.upper(here, axis) for axis, here in swept.items()] == [10, 16, 91201, 5]


def test_scaling_is_drawn_with_a_column_for_each_axis_and_every_exponent_in_the_caption(growth) -> None:
    drawing = figures.draw(fake.spec("scaling"), growth)["scaling"]
    assert len(drawing.figure.axes) == 8
    written = texts(drawing.figure)
    assert {"inner steps K", "tasks", "parameters", "iterations of CG"} <= set(written)
    lines = set(scaling.rows(growth)["line"])
    assert len(lines) == 8
    assert lines <= set(written)
    said = drawing.caption["Exponents"]
    assert "K from 10 on, tasks from 16 on, parameters from 91,201 on, CG iterations from 5 on" in said
    for metric in (scaling.STEADY, RESIDENT):
        for axis, fitted in scaling.exponents(growth, metric).items():
            assert set(fitted) == set(scaling.axes(scaling.rows(growth))[axis]["line"])
            for line, fit in fitted.items():
                assert f"{line} {fit.slope:.2f}".replace("-0.00", "0.00") in said
    assert list(drawing.caption)[:3] == ["Question", "Shown", "Exponents"]


def test_a_study_without_an_axis_is_drawn_all_the_same() -> None:
    frame = table.frame(fake.records([fake.LINEAR], [fake.FOMAML, {"name": "reptile"}], passes=["time"]))
    drawing = figures.draw(fake.spec("mine", figure="scaling"), frame)["mine"]
    assert len(drawing.figure.axes) == 1
    assert "Exponents" not in drawing.caption


def test_engines_and_libraries_are_told_apart_by_more_than_colour(growth) -> None:
    looks = style.styles(scaling.rows(growth)["line"])
    assert len({(look.marker, look.line, look.filled) for look in looks.values()}) == len(looks)
    assert style.of("MAML, adjoint, eager") == style.of("MAML, adjoint")
    assert style.of("MAML, adjoint, compiled").color == style.of("MAML, adjoint").color


def test_readme_says_what_is_measured_and_what_is_not(speed, growth) -> None:
    empty = table.frame([])
    assert readme.peers_section(empty) == readme.not_yet("peers")
    assert "metabench run scaling" in readme.scaling_section(empty)
    text = readme.peers_section(speed)
    assert "| sinusoid, MAML, K = 5 |" in text
    assert text.endswith("(reference/peers/figures/peers-2.png)")
    text = readme.scaling_section(growth)
    head, _, *lines = text.partition("\n\n")[0].splitlines()
    assert head == (
        "| exponent of | time, K >= 10 | time, tasks >= 16 | time, parameters >= 91,201 | "
        "time, CG iterations >= 5 | memory, K >= 10 | memory, tasks >= 16 | "
        "memory, parameters >= 91,201 | memory, CG iterations >= 5 |"
    )
    assert len(lines) == scaling.rows(growth)["line"].nunique()
    (maml,) = (line.split(" | ") for line in lines if line.startswith("| MAML, adjoint, compiled |"))
    slopes = {
        a.column: f["MAML, adjoint, compiled"].slope
        for a, f in scaling.exponents(growth, scaling.STEADY).items()
        if "MAML, adjoint, compiled" in f
    }
    assert maml[3].endswith(scaling.TWO)  # 91,201 and 1,004,001 parameters
    assert [float(x.strip(scaling.TWO)) for x in maml[1:4]] == pytest.approx(list(slopes.values()), abs=0.005)
    assert maml[4] == ""  # no iterations of CG
    assert text.endswith("(reference/scaling/figures/scaling.png)")


def test_exponents_say_what_they_rest_on_and_gaps_why_they_are_there() -> None:
    def large(r: dict) -> bool:
        return r["cell"]["problem"]["network"]["hidden"][0] >= 300 and r["cell"]["method"]["name"] == "imaml"

    lost = [fake.failing(r, "not_converged") if large(r) else r for r in fake.scaling()]
    frame = table.frame(lost)
    (fits,) = (f for a, f in scaling.exponents(frame, scaling.STEADY).items() if a.column == "parameters")
    assert (fits["iMAML, CG, eager"].points, fits["iMAML, CG, eager"].text) == (0, "")
    assert (fits["iMAML, JAX"].points, fits["iMAML, JAX"].text[-1]) == (2, scaling.TWO)
    text = scaling.exponent_table(frame)
    (line,) = (one.split(" | ") for one in text.splitlines() if one.startswith("| iMAML, CG, eager |"))
    assert line[3] == "none"
    assert line[4] not in ("", "none")
    notes = " ".join(text.partition("\n\n")[2].split())
    assert f"{scaling.TWO}: through two points only" in notes
    assert (
        "iMAML, CG, compiled and iMAML, CG, eager at 91,201 and 1,004,001 parameters: not_converged, for "
        "example made to end as not_converged." in notes
    )
    assert notes in figures.draw(fake.spec("scaling"), frame)["scaling"].caption["Exponents"]
    whole = scaling.footnotes(table.frame(fake.scaling()))
    assert len(whole) == 1  # nothing failed


def crossed(**settings: list) -> list[dict]:
    """Exact MAML, first-order MAML and JAX's exact MAML, at every value of one setting."""
    ((key, values),) = settings.items()
    methods = [fake.MAMLS[0], fake.FOMAML, {"name": "maml-jax"}]
    return [
        r
        for value in values
        for r in fake.records([fake.SINUSOID], methods, [1, 5, 25], [0], "mine", **{key: value})
    ]


@pytest.mark.parametrize("setting", [{"tasks_at_once": [1, 4]}, {"dtype": ["float32", "float64"]}])
def test_whatever_is_swept_has_lines_of_its_own(setting) -> None:
    frame = table.frame(crossed(**setting))
    (axis,) = scaling.axes(scaling.rows(frame))
    drawn = scaling.curves(scaling.along(scaling.rows(frame), axis), axis, scaling.STEADY)
    assert len(drawn) == 6
    assert all(len(curve) == 3 for curve in drawn.values())
    drawing = figures.draw(fake.spec("mine", figure="scaling"), frame)["mine"]
    assert {t.get_text() for t in drawing.figure.legends[0].get_texts()} == set(drawn)
    assert "not shown" not in drawing.caption["Shown"]


def test_a_legend_names_only_lines_that_are_drawn_and_the_caption_what_is_left_out() -> None:
    other = fake.records([fake.LINEAR], [{"name": "reptile"}], [10], [0], "scaling", passes=["time"])
    drawing = figures.draw(fake.spec("scaling"), table.frame([*fake.scaling(), *other]))["scaling"]
    assert not any("Reptile" in t.get_text() for t in drawing.figure.legends[0].get_texts())
    assert "1 of " in drawing.caption["Shown"]
    assert "lie off these axes and are not shown" in drawing.caption["Shown"]


def test_swept_tasks_at_once_are_part_of_a_common_row() -> None:
    rows = peers.rows(table.frame(crossed(tasks_at_once=[1, 4])))
    order = peers.ordered(rows)
    assert order["MAML, K = 5, tasks at once 4"] == ["metabench, eager", "JAX"]
    assert len(order) == 2 * 2 * 3
    assert rows.groupby(["row", "library"])["id"].nunique().max() == 1


def test_jax_is_what_has_the_same_inner_solver() -> None:
    adam = {"name": "adam", "steps": 10, "learning_rate": 0.01}
    both = [{"name": n, **more} for n in ("maml-jax", "maml") for more in ({}, {"inner": adam})]
    records = fake.records([fake.SINUSOID], both, [10], [0], "peers")
    slow = next(
        i for i, r in enumerate(records) if r["cell"]["method"] == {"name": "maml-jax", "inner": adam}
    )
    time = records[slow]["time"]
    records[slow] = records[slow] | {"time": time | {"samples_s": [50 * s for s in time["samples_s"]]}}
    rows = table.cells(peers.rows(table.frame(records)))
    jax = rows[rows["method.name"] == "maml-jax"]
    assert jax["time.to_jax"].tolist() == pytest.approx([1.0, 1.0])


def test_captions_speak_of_jax_only_where_it_is_drawn(speed) -> None:
    drawn = {"peers": speed, "mine": table.frame(fake.demo())}
    said = {name: figures.draw(fake.spec(name, figure="peers"), f)[name].caption for name, f in drawn.items()}
    assert "vertical line" in said["peers"]["Shown"]
    assert "jitted JAX" in said["peers"]["Shown"]
    assert "JAX" not in said["mine"]["Shown"]
    assert "One figure for each problem" in said["mine"]["Shown"]
