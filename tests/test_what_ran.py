"""A compiled cell whose kernels all fell back is shown as what it was, wherever its engine is named."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import captions, figures, peers, style, table
from bench.cli import standing
from bench.compiled import engine, kernel, taskwise
from bench.record import NO_KERNEL, RAN_EAGER, engine_of
from tests import fake_records as fake
from tests.command_line import TINY, metabench

FELL = {"eager": "no compiler"}
BUILT = {"seconds": 1.0, "operations": 3, "error": 1e-7, "eager_error": 1e-7}


def ran(record, **kernels):
    """The record of a compiled cell with this report of its engine."""
    return record | {"engine": kernels}


def mixture():
    """Three methods, eager, and compiled, where all of exact MAML's kernels fell back, some of the others."""
    methods = [fake.MAMLS[0], fake.FOMAML, fake.imaml()]
    eager = fake.records([fake.LINEAR], methods, [5, 10], [0])
    fast = fake.records([fake.LINEAR], methods, [5, 10], [0], engine="compiled")
    return [
        *eager,
        *(ran(r, a=FELL, b=FELL if r["cell"]["method"]["name"] == "maml" else BUILT) for r in fast),
    ]


@pytest.mark.parametrize(
    ("asked", "report", "wanted"),
    [
        (None, None, "eager"),
        ("eager", None, "eager"),
        ("compiled", None, "compiled"),  # it failed before anything was compiled
        ("compiled", {"a": BUILT, "b": BUILT}, "compiled"),
        ("compiled", {"a": FELL, "b": BUILT}, "compiled"),
        ("compiled", {"a": FELL, "b": FELL}, RAN_EAGER),
        ("compiled", {}, NO_KERNEL),
    ],
)
def test_what_a_cell_ran_on(asked, report, wanted):
    record = {"cell": {} if asked is None else {"engine": asked}}
    assert engine_of(record if report is None else record | {"engine": report}) == wanted


def test_labels_and_the_exported_table_say_it():
    frame = table.frame(mixture())
    assert set(frame["engine"]) == {"eager", "compiled", RAN_EAGER}
    assert set(frame.loc[frame["engine"] == RAN_EAGER, "method.name"]) == {"maml"}
    named = set(table.with_axes(frame)["method"])
    assert {"MAML, adjoint, compiled (ran eager)", "MAML, adjoint, eager", "FOMAML, compiled"} <= named
    assert "MAML, adjoint, compiled" not in named


def test_peers_do_not_count_it_as_compiled():
    frame = table.frame(mixture())
    found = peers.rows(frame)
    maml = found[found["method.name"] == "maml"]
    assert set(maml["library"]) == {"metabench, eager", "metabench, compiled (ran eager)"}
    head, _, *lines = peers.resource_table(frame).splitlines()
    columns = [name.strip() for name in head.split("|")]
    (line,) = ([one.strip() for one in row.split("|")] for row in lines if ", MAML, K = 5 " in row)
    assert line[columns.index("metabench, compiled")] == ""
    assert line[columns.index("metabench, compiled (ran eager)")] != ""
    drawing = figures.draw(fake.spec("mine", figure="peers"), frame)["mine"]
    legend = [t.get_text() for t in drawing.figure.legends[0].get_texts()]
    assert legend == ["metabench, compiled", "metabench, compiled (ran eager)", "metabench, eager"]


def test_a_method_without_kernels_is_no_compiled_peer_either():
    fast = fake.records([fake.LINEAR], [{"name": "my-method"}], [5], [0], engine="compiled")
    found = peers.rows(table.frame([ran(r) for r in fast]))
    assert set(found["library"]) == {"metabench, compiled (ran eager)"}


@pytest.mark.parametrize("method", ["MAML, adjoint", "FOMAML", "iMAML, CG 5", "MAML, JAX", "nobody's"])
@pytest.mark.parametrize("more", ["", ", tasks at once 4"])
def test_filled_is_compiled_and_hollow_is_eager_whatever_the_method(method, more):
    looks = style.styles(f"{method}, {e}{more}" for e in ("eager", "compiled", RAN_EAGER))
    fills = {label.split(", ")[-1 - bool(more)]: (look.filled, look.half) for label, look in looks.items()}
    assert fills == {"compiled": (True, False), "eager": (False, False), RAN_EAGER: (False, True)}
    assert len({look.marker for look in looks.values()}) == 1


def test_the_caption_says_what_a_marker_s_inside_means():
    frame = table.frame(mixture())
    text = captions.caption("?", "", frame)["Markers"]
    assert text.endswith("filled: compiled; hollow: eager; half-filled: compiled (ran eager).")
    assert "Markers" not in captions.caption("?", "", frame[frame["engine"] == "eager"])


@pytest.fixture
def fallen(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two compiled cells that ran where nothing compiles."""

    def refuse(*_):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(kernel, "lower", refuse)
    monkeypatch.setattr(taskwise, "lower", refuse)
    monkeypatch.setattr(engine, "_kernels", {})
    (fresh / "tiny.toml").write_text(TINY.replace("seeds = 2", 'engine = "compiled"'))
    return fresh


def test_the_command_line_says_it(fallen: Path):
    result = metabench("run", "tiny.toml", "--jobs", 0)
    assert result.code == 0
    said = "2 compiled (ran eager): RuntimeError: no compiler here"
    assert said in result.out
    assert said in metabench("status", "tiny").out
    (kind,) = metabench("status", "tiny", "--json").json()["not_compiled"]
    assert (kind["engine"], kind["count"]) == (RAN_EAGER, 2)
    metabench("export", "tiny", "--output", "table.csv")
    assert set(pd.read_csv("table.csv")["engine"]) == {RAN_EAGER}
    shown = metabench("show", kind["example"]).out
    assert f" {RAN_EAGER}\n" in shown


def test_of_very_many_records_some_are_read(fallen: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(standing, "MOST_READ", 1)
    metabench("run", "tiny.toml", "--jobs", 0)
    told = metabench("status", "tiny", "--json").json()
    assert [kind["count"] for kind in told["not_compiled"]] == [1]
    assert told["counted_in"] == {"failures": {"read": 0, "of": 0}, "not_compiled": {"read": 1, "of": 2}}
    assert "counted in 1 record, drawn at random from 2" in metabench("status", "tiny").out


def test_what_is_warmed_is_said_once_and_in_words(fallen: Path):
    text = (fallen / "tiny.toml").read_text()
    (fallen / "tiny.toml").write_text(text + '\n[[method]]\nname = "maml"\n')
    result = metabench("warm", "tiny.toml")
    assert result.code == 1
    assert result.out.count("in eager mode") == 3
    assert result.out.count("RuntimeError: no compiler here") == 3
    first, second = result.out.split("2/2")
    assert "  One inner step of solver, its gradient included (GradientDescent)  " in first
    again = "as for linear_regression fomaml: Gradient of the query loss in phi; One inner step of solver"
    assert again in second
    told = metabench("warm", "tiny.toml", "--json").json()
    shared = [one["shared"] for kernels in told.values() for one in kernels.values()]
    assert sorted(shared) == [False, False, False, True, True]
