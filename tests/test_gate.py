"""`metabench gate`: what it finds in code that became slower, larger, faster or wrong, and lets be."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import baseline as baselines
from bench import measure
from bench.gate import Measured, _differences, same_error
from tests import toy_gate
from tests.command_line import Result, metabench

STUDY = """
question = "Is a planted fault found?"
n_tasks = 2
dtype = "float64"
repeats = 9
problem = {name = "linear_regression", dim = 6, support = 4, query = 3}

[[method]]
name = "imaml"
inner = "toy-gate-descent"
linear = "toy-gate-cg"

[[method]]
name = "fomaml"
inner = "gradient_descent"
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study and its baseline, from honest code; not to be changed."""
    folder = tmp_path_factory.mktemp("honest")
    (folder / "mine.toml").write_text(STUDY)
    with contextlib.chdir(folder):
        metabench("gate", "mine.toml", "--update")  # the type checker of the tests keeps a tensor once
        result = metabench("gate", "mine.toml", "--update")
    assert result.code == 0, result.err
    assert "new baseline: gate.json" in result.out
    return folder


@pytest.fixture(autouse=True)
def folder(honest: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder, as the current one."""
    copy = shutil.copytree(honest, tmp_path / "copy")
    with contextlib.chdir(copy):
        yield copy


def gate(*options: object) -> Result:
    return metabench("gate", "mine.toml", *options)


def found(*options: object) -> tuple[int, dict[str, str]]:
    """Exit code, and metric -> verdict of the cell with the toys."""
    told = gate("--json", *options).json()
    return told["code"], {d["metric"]: d["verdict"] for d in told["differences"] if "imaml" in d["cell"]}


def assert_found(verdicts: dict[str, str]) -> None:
    """The gate fails with these verdicts; with a single one, with nothing else."""
    code, differences = found()
    assert code == 1
    assert verdicts.items() <= differences.items()
    if len(verdicts) == 1:
        assert differences == verdicts


def edit(change: Callable[[dict[str, Any]], object]) -> None:
    """Change the baseline's JSON in place."""
    table = json.loads(Path("gate.json").read_text())
    change(table)
    Path("gate.json").write_text(json.dumps(table))


def entry(table: dict[str, Any]) -> dict[str, Any]:
    """The entry of the cell with the toys."""
    return next(one for name, one in table["cells"].items() if "imaml" in name)


def test_the_same_code_passes_again_and_again(folder: Path) -> None:
    before = Path("gate.json").read_bytes()
    for _ in range(2):
        result = gate()
        assert result.code == 0
        assert "mine: 2 ok; as the baseline" in result.out
    assert gate("--update").code == 0
    assert Path("gate.json").read_bytes() == before
    assert not Path("results/mine/baseline.json").exists()


def test_a_baseline_reads_well(folder: Path) -> None:
    names = list(json.loads(Path("gate.json").read_text())["cells"])
    assert names == sorted(names)
    assert all(name.startswith("linear_regression ") for name in names)
    assert [baselines.id_of(name) for name in names] == [name[-17:-1] for name in names]


@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [
        ("extra product", {"calls.inner_hvps": "regressed", "operators": "regressed", "flops": "regressed"}),
        ("copies", {"operators": "regressed", "peak_bytes": "regressed"}),
        ("idle operator", {"operators": "regressed"}),
        ("product saved", {"calls.inner_hvps": "improved", "operators": "improved", "flops": "improved"}),
        ("wrong sign", {"operators": "regressed", "error.maml": "regressed", "error.implicit": "regressed"}),
        ("raises", {"status": "regressed"}),
    ],
)
def test_what_is_planted_is_found(
    fault: toy_gate.Fault, verdicts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_gate, "planted", fault)
    assert_found(verdicts)


@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [
        ("extra product", {"calls.inner_hvps": "regressed", "calls_of._apply()": "regressed"}),
        ("product saved", {"calls.inner_hvps": "improved", "calls_of._apply()": "improved"}),
        ("idle operator", {"operators": "regressed"}),
    ],
)
def test_what_is_planted_beside_compiled_kernels_is_found(
    fault: toy_gate.Fault, verdicts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.toml").write_text('engine = "compiled"\n' + STUDY)
    assert gate("--update").code == 0
    metrics = entry(json.loads(Path("gate.json").read_text()))["metrics"]
    assert metrics["calls_of._apply()"] == 3
    monkeypatch.setattr(toy_gate, "planted", fault)
    assert_found(verdicts)


@pytest.mark.parametrize(
    ("before", "verdict"),
    [({}, "regressed"), ({"kernel.new()": 9}, "improved"), ({"kernel.new()": 4}, None)],
    ids=["a kernel more", "a kernel smaller", "the same"],
)
def test_kernels_that_come_and_go(before: dict[str, int], verdict: str | None) -> None:
    later = ({"kernel.new()": 4}, {"kernel.new()": None})
    entries = [baselines.Entry(status="ok", dtype="float64", metrics=m) for m in (before, *later)]
    differences = list(_differences("cell", entries[0], Measured(entries[1]), alike=True))
    assert [d.verdict for d in differences] == ([verdict] if verdict else [])
    lost = _differences("cell", entries[1], Measured(entries[2]), alike=True)
    assert [d.verdict for d in lost] == ["regressed"]


def test_a_gain_fails_until_it_is_the_baseline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_gate, "planted", "product saved")
    result = gate()
    assert result.code == 1
    assert "what got better fails too" in result.out
    assert "metabench gate mine.toml --baseline gate.json --update" in result.out
    before = json.loads(Path("gate.json").read_text())
    shutil.copy("results/mine/baseline.json", "taken.json")  # as from a CI job's artifacts
    assert gate("--baseline", "taken.json").code == 0
    assert gate("--update").code == 0
    assert Path("gate.json").read_bytes() == Path("taken.json").read_bytes()
    assert gate().code == 0
    after = json.loads(Path("gate.json").read_text())
    changed = {name for name in before["cells"] if before["cells"][name] != after["cells"][name]}
    assert len(changed) == 1


def test_the_table_says_what_and_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_gate, "planted", "extra product")
    lines = gate().out.splitlines()
    (row,) = [line.split() for line in lines if "calls.inner_hvps" in line]
    assert row == ["calls.inner_hvps", "3", "6", "2", "regressed"]
    assert lines[-3] == "mine: 2 ok; 1 cell not as the baseline (1 regressed)"
    monkeypatch.setattr(toy_gate, "planted", "raises")
    assert "regressed: two and two make five" in gate().out


def test_a_cell_that_the_baseline_lacks_fails() -> None:
    edit(lambda table: table["cells"].pop(next(name for name in table["cells"] if "imaml" in name)))
    assert found() == (1, {"cell": "missing"})


def test_a_cell_that_only_the_baseline_has_fails(folder: Path) -> None:
    (folder / "mine.toml").write_text(STUDY.partition('[[method]]\nname = "fomaml"')[0])
    told = gate("--json").json()
    assert told["code"] == 1
    assert [(d["metric"], d["verdict"]) for d in told["differences"]] == [("cell", "surplus")]
    assert gate("--update").code == 0
    assert gate().code == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"<<<<<<< HEAD", b"[]", b'{"schema": 2}', b"\xff\xfe", b'{"schema": 1, "cells": 3}'],
)
@pytest.mark.parametrize("options", [(), ("--update",)])
def test_a_damaged_baseline_is_one_clear_error(content: bytes, options: tuple[str, ...]) -> None:
    Path("gate.json").write_bytes(content)
    result = gate(*options)
    assert result.code == 2
    assert "gate.json is no baseline of schema 1" in result.err
    assert "Traceback" not in result.err
    assert Path("gate.json").read_bytes() == content


def test_no_baseline_and_that_of_another_study() -> None:
    result = gate("--baseline", "none.json")
    assert result.code == 2
    assert "metabench gate --update" in result.err
    edit(lambda table: table.update(study="other"))
    assert "is the baseline of the study other" in gate().err


def test_another_torch_judges_what_it_does_not_change() -> None:
    def elsewhere(table: dict[str, Any]) -> None:
        table["environment"]["torch"] = "1.0.0"
        entry(table)["metrics"]["operators"] += 1
        entry(table)["metrics"]["peak_bytes"] -= 1

    edit(elsewhere)
    assert found() == (3, {"operators": "not judged", "peak_bytes": "not judged"})
    assert "torch 1.0.0, here" in gate().out
    edit(lambda table: entry(table)["metrics"].update({"calls.inner_hvps": 1}))
    code, differences = found()
    assert code == 1
    assert differences["calls.inner_hvps"] == "regressed"


def test_another_build_of_the_same_torch_is_no_other_torch() -> None:
    def other_build(table: dict[str, Any]) -> None:
        release = table["environment"]["torch"].partition("+")[0]
        table["environment"].update(torch=f"{release}+cu999", cpu="another")
        entry(table)["metrics"]["operators"] += 1

    edit(other_build)
    assert found() == (1, {"operators": "improved"})


def test_errors_have_room_for_rounding_on_both_sides() -> None:
    eps = 2.0**-23
    assert same_error(1e-7, 3e-7, eps)  # both below 16 eps
    assert same_error(0.0, 1e-6, eps)
    assert same_error(2e-6, 7e-6, eps)
    assert not same_error(2e-6, 9e-6, eps)
    assert not same_error(9e-6, 2e-6, eps)
    assert same_error(0.30, 0.32, eps)
    assert not same_error(0.30, 0.34, eps)
    assert not same_error(0.34, 0.30, eps)


def timed(ratio: float, control: float, monkeypatch: pytest.MonkeyPatch, noise: float = 0.001) -> None:
    """Feed the clock: 9 pairs about ``ratio``, and the reference against itself about ``control``."""

    def fake(*_: object) -> dict[str, Any]:
        wobble = [1 + noise * number for number in range(-4, 5)]
        samples, controls = ([factor * w for w in wobble] for factor in (ratio, control))
        return {"samples_s": samples, "reference_s": [1.0] * 9, "control_s": controls, "n_warmup": 0}

    monkeypatch.setattr(measure, "time_interleaved", fake)


def test_times_are_judged_only_on_a_steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(2.0, 1.0, monkeypatch)
    assert found("--time") == (3, {"time": "not judged"})  # the baseline has none yet
    assert gate("--time", "--update").code == 0
    assert found("--time") == (0, {})
    timed(2.5, 1.0, monkeypatch)
    assert found("--time") == (0, {})
    timed(3.0, 1.0, monkeypatch)
    assert found("--time") == (1, {"time": "regressed"})
    assert found() == (0, {})
    timed(1.0, 1.0, monkeypatch)
    assert found("--time") == (1, {"time": "improved"})
    timed(3.0, 1.2, monkeypatch)
    assert found("--time") == (3, {"time": "not judged"})
    assert "the machine is too restless" in gate("--time").out
    timed(3.0, 1.0, monkeypatch, noise=0.15)
    assert found("--time") == (3, {"time": "not judged"})
    before = Path("gate.json").read_bytes()
    assert gate("--time", "--update").code == 3
    assert Path("gate.json").read_bytes() == before


def test_a_time_goes_with_the_code_that_it_was_of(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(2.0, 1.0, monkeypatch)
    assert gate("--time", "--update").code == 0
    monkeypatch.setattr(toy_gate, "planted", "product saved")
    assert gate("--update").code == 0
    cells = json.loads(Path("gate.json").read_text())["cells"]
    assert {name.split()[1].partition("(")[0]: bool(one["time"]) for name, one in cells.items()} == {
        "imaml": False,
        "fomaml": True,
    }


def test_too_few_rounds_are_said(folder: Path) -> None:
    (folder / "mine.toml").write_text(STUDY.replace("repeats = 9", "repeats = 2"))
    assert gate("--update", "--time").code == 3
    result = gate("--time")
    assert result.code == 3
    assert "2 rounds are too few" in result.out


def test_nothing_but_declined_cells_is_no_success(folder: Path) -> None:
    declined = 'linear = {name = "dense", max_size = 2}'
    study = STUDY.replace('linear = "toy-gate-cg"', declined).partition('[[method]]\nname = "fomaml"')[0]
    (folder / "mine.toml").write_text(study)
    assert gate("--update").code == 3
    assert gate().code == 3
