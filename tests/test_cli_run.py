"""`metabench run` and `show`: what is run, what is kept, what is told, and the exit code."""

import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.cli import run
from bench.cli.progress import LINES, Bar, Lines
from bench.record import Store
from tests.command_line import TINY, metabench


def first_id() -> str:
    return min(Store("results", "tiny").ids())


def test_run_says_what_it_did_and_where(fresh: Path):
    result = metabench("run", "tiny.toml", "--results", "else where")
    assert result.code == 0, result.err
    assert "4 cells, 0 done already, 4 to run" in result.out
    assert "4/4 (100 %)" in result.out
    assert "tiny: 4 ok" in result.out
    (command,) = re.findall("next: metabench (report .*)", result.out)
    assert shlex.split(command) == ["report", "tiny.toml", "--results", "else where"]
    assert len(Store("else where", "tiny").ids()) == 4


def test_run_resumes(measured: Path):
    store = Store("results", "tiny")
    before = {record["id"]: record["started"] for record in store.records()}
    gone = min(before)
    (measured / f"results/tiny/records/{gone}.json").unlink()
    result = metabench("run", "tiny.toml", "--jobs", 0)
    assert result.code == 0
    assert "3 done already (3 ok), 1 to run" in result.out
    after = {record["id"]: record["started"] for record in store.records()}
    assert [i for i in before if before[i] != after[i]] == [gone]
    assert "0 to run" in metabench("run", "tiny.toml", "--jobs", 0).out


def test_run_again_by_force_of_one_cell(measured: Path):
    store = Store("results", "tiny")
    before = {record["id"]: record["started"] for record in store.records()}
    chosen = first_id()
    assert "0 to run" in metabench("run", "tiny.toml", "--cell", chosen[:8], "--jobs", 0).out
    assert metabench("run", "tiny.toml", "--cell", chosen[:8], "--force", "--jobs", 0).code == 0
    after = {record["id"]: record["started"] for record in store.records()}
    assert [i for i in before if before[i] != after[i]] == [chosen]
    assert metabench("run", "tiny.toml", "--cell", "").code == 2
    assert metabench("run", "tiny.toml", "--cell", "zz").code == 2


def test_failures_are_shown_and_decide_the_exit_code(fresh: Path):
    # Steps this long overflow; FOMAML's sibling of one step does not.
    (fresh / "tiny.toml").write_text(TINY.replace("steps = [1, 2]", "steps = [1, 9]").replace("0.05", "1e90"))
    result = metabench("run", "tiny.toml", "--jobs", 0)
    assert result.code == 1
    assert "non_finite" in result.out
    state = metabench("status", "tiny.toml", "--json")
    assert state.code == 1
    (kind,) = state.json()["failures"]
    assert (kind["status"], kind["count"]) == ("non_finite", 2)
    text = metabench("status", "tiny.toml").out
    assert f"metabench show {kind['example']}" in text
    assert "--retry-failed" in text
    assert "0 to run" in metabench("run", "tiny.toml", "--jobs", 0).out
    assert text.index("--retry-failed") < text.index("metabench report")  # first what is to be mended
    retried = metabench("run", "tiny.toml", "--jobs", 0, "--retry-failed").out
    assert "4 done already (2 ok, 2 non_finite), 2 to run again in this process" in retried
    assert "--retry-failed" not in retried  # has just been tried


def test_declined_cells_are_no_failure_but_nothing_measured_is(fresh: Path):
    declined = '\n[[method]]\nname = "imaml"\nlinear = {name = "dense", max_size = 2}\n'
    (fresh / "tiny.toml").write_text(TINY + declined)
    assert metabench("run", "tiny.toml", "--jobs", 0).code == 0
    assert metabench("status", "tiny.toml", "--json").json()["states"] == {"ok": 4, "declined": 4}
    (fresh / "none.toml").write_text(TINY.partition("[[method]]")[0] + declined)
    assert metabench("run", "none.toml", "--jobs", 0).code == 3


def test_one_cell_of_every_kind_first(fresh: Path):
    result = metabench("run", "tiny.toml", "--jobs", 0, "--limit", 2)
    assert result.code == 1
    assert "2 to run" in result.out
    assert "next: metabench run tiny.toml" in result.out
    records = Store("results", "tiny").records()
    assert sorted(record["cell"]["method"]["inner"]["steps"] for record in records) == [1, 2]
    plan = metabench("plan", "tiny.toml").out
    assert re.search(r"^about .* of work in 2 cells: 2 as with other seeds$", plan, re.M)


def test_times_of_workers_that_share_a_gpu_are_warned_of(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "run_cells", lambda *_, **__: None)
    timed = TINY.replace('passes = ["accuracy"]', 'passes = ["time"]')
    on_cuda = timed.replace("seeds = 2", 'seeds = 2\ndevice = ["cpu", "cuda:1"]')
    for text, jobs, warned in ((on_cuda, 2, True), (on_cuda, 1, False), (timed, 2, False)):
        Path("tiny.toml").write_text(text)
        assert ("share the GPU" in metabench("run", "tiny.toml", "--jobs", jobs).err) == warned


def test_ctrl_c_keeps_what_is_finished(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(cells: list, store: Store, *rest: Any, **options: Any) -> None:
        real(cells[:1], store, *rest, **options)
        raise KeyboardInterrupt

    real = run.run_cells
    monkeypatch.setattr(run, "run_cells", interrupted)
    result = metabench("run", "tiny.toml", "--jobs", 0)
    assert result.code == 130
    assert "interrupted" in result.out
    assert "metabench run tiny.toml" in result.out
    assert len(Store("results", "tiny").ids()) == 1


def test_a_damaged_record_is_told_and_run_again(measured: Path):
    (measured / f"results/tiny/records/{first_id()}.json").write_text('{"half": ')
    result = metabench("run", "tiny.toml", "--jobs", 0)
    assert result.code == 0
    assert "set_aside" in result.err
    assert "1 to run" in result.out


def test_progress_in_a_log_is_few_lines(capsys: pytest.CaptureFixture[str]):
    with Lines(1000) as shown:
        for number in range(1000):
            shown.step(failed=number % 100 == 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == LINES
    assert lines[0].startswith("50/1000 (5 %)")
    assert "10 failed" in lines[-1]


def test_progress_in_a_terminal_is_a_bar():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bar(terminal, 3) as shown:
        shown.step(failed=False)
        shown.step(failed=True)
    written = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "2/3" in written
    assert "1 failed" in written


def test_show_is_readable_and_its_command_runs_the_cell_again(measured: Path):
    chosen = first_id()
    result = metabench("show", chosen[:6])
    assert result.code == 0
    for text in ("method.inner.steps", "relative_error to maml", "query_loss", "inner_grads", "torch"):
        assert text in result.out
    (command,) = re.findall(r"^  metabench (run .*)", result.out, re.M)
    before = Store("results", "tiny").read(chosen)
    assert metabench(*shlex.split(command), "--jobs", 0).code == 0
    after = Store("results", "tiny").read(chosen)
    assert before is not None
    assert after is not None
    assert after["started"] > before["started"]
    assert after["accuracy"]["meta_grad_sha256"] == before["accuracy"]["meta_grad_sha256"]


def test_show_says_in_words_what_is_many(measured: Path):
    """Tasks that lack a reference for one reason have one line; lists are words; noise is marked."""
    store = Store("results", "tiny")
    record = store.records()[0]
    assert re.search(r"^ *passes +accuracy$", metabench("show", record["id"]).out, re.M)
    implicit = {"missing_tasks": {"0": "a kink", "1": "a kink", "2": "a saddle"}}
    record["accuracy"]["references"]["implicit"] |= implicit
    record["time"] = {
        "reference": {"name": "fomaml"},
        "reference_s": [1.0] * 12,
        "samples_s": [3.0] * 12,
        "control_s": [1.0] * 12,
    }
    for factor, noisy in (1.0, False), (1.5, True):
        record["time"]["control_s"] = [factor] * 12
        store.write(record, replace=True)
        said = metabench("show", record["id"]).out
        assert "missing for tasks 0, 1: a kink" in said
        assert "missing for task 2: a saddle" in said
        assert re.search(rf"fomaml against itself +{factor:.3g} x{' .noisy' * noisy}", said)
        assert ("noisy" in said) == noisy


def test_the_command_holds_when_the_study_file_is_gone_and_its_copy_has_changed(measured: Path):
    chosen = first_id()
    (measured / "tiny.toml").write_text(TINY.replace("steps = [1, 2]", "steps = [7]"))
    assert metabench("run", "tiny.toml", "--jobs", 0).code == 0
    (measured / "tiny.toml").unlink()
    command = metabench("show", chosen, "--json").json()["run_again"]
    before = Store("results", "tiny").read(chosen)
    assert metabench(*shlex.split(command)[1:], "--jobs", 0).code == 0
    after = Store("results", "tiny").read(chosen)
    assert before is not None
    assert after is not None
    assert after["started"] > before["started"]


def test_show_of_a_failure_has_the_traceback(measured: Path):
    store = Store("results", "tiny")
    record = store.records()[0]
    reason = {"message": "no such luck", "type": "ValueError", "traceback": "Traceback: line 7"}
    store.write(record | {"status": "error", "reason": reason, "accuracy": None}, replace=True)
    result = metabench("show", record["id"])
    assert "ValueError: no such luck" in result.out
    assert "Traceback: line 7" in result.out


def test_show_of_too_little_or_nothing(measured: Path):
    assert metabench("show", "").code == 2
    result = metabench("show", "zz")
    assert result.code == 2
    assert "metabench plan" in result.err


def test_show_finds_the_study_it_is_told(measured: Path):
    chosen = first_id()
    shutil.copytree("results/tiny", "results/other")
    result = metabench("show", chosen)
    assert result.code == 2
    assert f"{chosen} of other" in result.err
    assert metabench("show", chosen, "--study", "tiny").code == 0
