"""From studies to cells: crossing, full descriptions, ids, order, and faults with their line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry, spec
from bench.cells import Cell, canonical, cell_id, expand
from bench.errors import UsageError
from tests.toy_plugins import TOYS

HEAD = 'question = "How?"\n'


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    """The toy plugins, and no others."""
    monkeypatch.setattr(registry, "_classes", {kind: {} for kind in registry.KINDS})
    monkeypatch.setattr(registry, "_names", {})
    monkeypatch.setattr(registry, "load_plugins", dict)
    for kind, classes in TOYS.items():
        for name, cls in classes.items():
            registry.register(kind, name)(cls)


def cells(tmp_path: Path, text: str) -> list[Cell]:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    return expand(spec.load(path))


def values(found: list[Cell], *keys: str) -> list:
    """One value of every cell's description."""
    got = []
    for cell in found:
        value = cell.description
        for key in keys:
            value = value[key]
        got.append(value)
    return got


def test_description_is_full(tmp_path):
    (cell,) = cells(tmp_path, 'problem = "toy"\nmethod = "parts"\n')
    assert cell.description == {
        "problem": {
            "name": "toy",
            "condition": 6.0,
            "size": 3,
            "hidden": [4, 4],
            "strength": 1.0,
            "noisy": False,
        },
        "method": {
            "name": "parts",
            "inner": {"name": "descent", "steps": 10, "rate": None},
            "linear": {"name": "krylov", "iterations": 5},
            "backward": "adjoint",
        },
        "seed": 0,
        "n_tasks": 4,
        "split": "train",
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "passes": ["accuracy", "time", "tensor_bytes", "resident"],
        "repeats": 10,
        "contract": 1,
    }
    assert json.loads(json.dumps(cell.description)) == cell.description
    assert (
        registry.describe(registry.build("method", cell.description["method"])) == cell.description["method"]
    )
    assert cell.id == cell_id(cell.description)


def test_lists_are_crossed(tmp_path):
    text = """\
problem = [{name = "toy", condition = [6.0, 100.0]}, {name = "toy", size = 9}]
seeds = 2
dtype = ["float64", "float32"]
[[method]]
name = "parts"
backward = ["adjoint", "unrolled"]
linear = [{name = "krylov", iterations = [1, 2]}, {name = "krylov", iterations = 9}]
"""
    found = cells(tmp_path, text)
    assert len(found) == len({c.id for c in found}) == 3 * 2 * 2 * 2 * 3
    assert set(values(found, "method", "linear", "iterations")) == {1, 2, 9}
    assert {(p["condition"], p["size"]) for p in values(found, "problem")} == {(6.0, 3), (100.0, 3), (6.0, 9)}


def test_names_are_crossed(tmp_path):
    found = cells(tmp_path, 'problem = "toy"\nmethod = {name = ["parts", "plain"]}\n')
    assert values(found, "method", "name") == ["parts", "plain"]


def test_a_list_is_one_value_for_a_tuple(tmp_path):
    one = cells(tmp_path, 'problem = {name = "toy", hidden = [8, 8, 8]}\nmethod = "plain"\n')
    assert values(one, "problem", "hidden") == [[8, 8, 8]]
    two = cells(tmp_path, 'problem = {name = "toy", hidden = [[8], [2, 2]]}\nmethod = "plain"\n')
    assert values(two, "problem", "hidden") == [[8], [2, 2]]


def test_inner_is_given_to_methods_that_have_none_of_their_own(tmp_path):
    text = """\
problem = "toy"
inner = {name = "descent", steps = [1, 2]}
[[method]]
name = "parts"
[[method]]
name = "parts"
inner = {name = "descent", steps = 7}
[[method]]
name = "plain"
"""
    methods = values(cells(tmp_path, text), "method")
    assert [(m["name"], m.get("inner", {}).get("steps")) for m in methods] == [
        ("parts", 1),
        ("parts", 2),
        ("parts", 7),
        ("plain", None),
    ]


def test_sweeps_are_united_and_duplicates_merged(tmp_path):
    text = """\
method = "plain"
[[sweep]]
problem = {name = "toy", size = [1, 2]}
[[sweep]]
problem = {name = "toy", size = [2, 3]}
seeds = 2
"""
    found = cells(tmp_path, text)
    assert [(c.description["problem"]["size"], c.description["seed"]) for c in found] == [
        (1, 0),
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 1),
    ]


def test_order_keeps_what_shares_references_together(tmp_path):
    text = """\
problem = {name = "toy", size = [2, 1]}
seeds = [5, 3]
inner = {name = "descent", steps = [20, 10]}
[[method]]
name = "parts"
backward = ["adjoint", "unrolled"]
"""
    order = [
        (d["problem"]["size"], d["seed"], d["method"]["inner"]["steps"], d["method"]["backward"])
        for d in values(cells(tmp_path, text))
    ]
    assert order == [
        (size, seed, steps, backward)
        for size in (2, 1)
        for seed in (5, 3)
        for steps in (20, 10)
        for backward in ("adjoint", "unrolled")
    ]


def test_id_is_exact_and_independent_of_key_order():
    assert cell_id({"a": 0.1, "b": [1, {"c": 2, "d": 3}]}) == cell_id({"b": [1, {"d": 3, "c": 2}], "a": 0.1})
    assert cell_id({"a": 0.1}) != cell_id({"a": 0.1 + 2**-56})
    assert cell_id({"a": 1}) != cell_id({"a": True})
    assert canonical({"b": 0.1, "a": [True, None, 1]}) == '{"a":[true,null,1],"b":"0x1.999999999999ap-4"}'
    # Written down: a stored record is found again by any version of Python and metabench.
    assert cell_id({"b": 0.1, "a": [True, None, 1]}) == "8cb5a757568ef150"


def test_id_does_not_depend_on_how_the_study_is_written(tmp_path):
    (one,) = cells(tmp_path, 'problem = {name = "toy", condition = 6}\nmethod = "plain"\n')
    (two,) = cells(
        tmp_path, '[[method]]\nscale = 1\nname = "plain"\n[problem]\ncondition = 6.0\nname = "toy"\n'
    )
    assert one == two
    assert one.description == two.description
    (three,) = cells(tmp_path, 'passes = ["time", "accuracy"]\nproblem = "toy"\nmethod = "plain"\n')
    (four,) = cells(tmp_path, 'passes = ["accuracy", "time"]\nproblem = "toy"\nmethod = "plain"\n')
    assert three.id == four.id != one.id


def test_id_is_the_same_in_another_process(tmp_path):
    description = {"problem": {"name": "toy", "condition": 1e-3}, "seed": 1}
    code = f"from bench.cells import cell_id; print(cell_id({description!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cell_id(description)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('problem = "toi"\nmethod = "plain"', 2, "unknown problem 'toi'; did you mean 'toy'?"),
        (
            'problem = "toy"\n[[method]]\nname = "plain"\n[[method]]\nname = "prats"',
            6,
            "unknown method 'prats'",
        ),
        ('problem = "toy"\n[[method]]\nscale = 3', 3, "this method has no name"),
        ('problem = "toy"\n[[method]]\nname = 3', 3, "this method has no name"),
        (
            'problem = "toy"\n[[method]]\nname = "plain"\nscael = 3',
            5,
            "unknown field of method 'plain' 'scael'; did you mean 'scale'?",
        ),
        (
            'problem = "toy"\n[[method]]\nname = "plain"\n\nseeds = 3',
            6,
            "unknown field of method 'plain' 'seeds'",
        ),
        (
            'problem = [\n  "toy",\n  {name = "toy", condition = [3,\n   0.5]},\n]\nmethod = "plain"',
            5,
            "problem 'toy': condition = 0.5 is not possible; allowed: at least 1",
        ),
        (
            'problem = {name = "toy", size = 2.5}\nmethod = "plain"',
            2,
            "problem 'toy': size is of type int, got 2.5",
        ),
        (
            'problem = {name = "toy", size = true}\nmethod = "plain"',
            2,
            "problem 'toy': size is of type int, got True",
        ),
        (
            'problem = {name = "toy", noisy = 1}\nmethod = "plain"',
            2,
            "problem 'toy': noisy is of type bool, got 1",
        ),
        ('problem = {name = "toy", size = []}\nmethod = "plain"', 2, "size is an empty list"),
        ('problem = {name = "toy", condition = inf}\nmethod = "plain"', 2, "inf is no setting"),
        (
            'problem = {name = "toy", hidden = ["a"]}\nmethod = "plain"',
            2,
            "problem 'toy': hidden is of type int",
        ),
        (
            'problem = "toy"\nmethod = "parts"\n[inner]\nname = "descent"\nsteps = [1, "two"]',
            6,
            "inner 'descent': steps is of type int, got 'two'",
        ),
        # No method takes the inner solver: still no silence about its fault.
        (
            'problem = "toy"\ninner = "ascent"\nmethod = "plain"',
            3,
            "unknown inner 'ascent'; did you mean 'descent'",
        ),
        (
            'problem = "toy"\n[[method]]\nname = "parts"\n[[method.linear]]\nname = "krylov"\n'
            '[[method.linear]]\nname = "krylov"\niterationz = 3',
            9,
            "unknown field of linear 'krylov' 'iterationz'; did you mean 'iterations'?",
        ),
        ('problem = "toy"\n[[method]]\nname = "parts"\nlinear = 3', 5, "a linear is a name or a table"),
        (
            'method = "parts"\n[[sweep]]\nproblem = "toy"\n[[sweep]]\nproblem = "toy"\n'
            '[[sweep.method]]\nname = "parts"\nbackward = ["adjoint", "adjiont"]',
            9,
            "unknown value of method 'parts': backward: 'adjiont'; did you mean 'adjoint'?",
        ),
    ],
)
def test_fault_has_its_line(tmp_path, text, line, says):
    with pytest.raises(UsageError) as caught:
        cells(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}:{line}: {says}")


def test_a_setting_below_a_method_gets_a_hint(tmp_path):
    with pytest.raises(UsageError, match=r"'seeds' stands above the first \[\[method\]\]"):
        cells(tmp_path, 'problem = "toy"\n[[method]]\nname = "plain"\nseeds = 3')


@pytest.mark.parametrize("text", ['engine = ["eager", "compiled"]\n', "repeats = 3\n", "threads = [2, 1]\n"])
def test_the_id_is_that_of_the_description(tmp_path, text):
    """`expand` puts it together from texts of the values."""
    crossed = 'problem = {name = "toy", condition = [6.0, 0.1e2]}\nmethod = ["parts", "plain"]\nseeds = 2\n'
    found = cells(tmp_path, text + crossed)
    assert len(found) >= 8
    assert all(cell.id == cell_id(cell.description) for cell in found)
    assert all(("engine" in c.description) == (c.description.get("engine") == "compiled") for c in found)


def test_cells_with_the_same_id_are_equal():
    one, two = Cell("a", {"x": 1}), Cell("a", {"x": 1})
    assert len({one, two}) == 1
