"""The command line: start, help, errors, and the verbs that measure nothing."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from rich.console import Console

from bench import cli, registry, testing
from bench.cli import app, catalogue
from bench.cli import text as writing
from bench.cli.label import label, varying
from tests.command_line import TINY, metabench

VERBS = sorted(typer.main.get_command(app.app).commands.keys() - {"data"})  # type: ignore[attr-defined]


def test_help_is_fast_because_it_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from bench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("verb", [*VERBS, "data get"])
def test_help_of_every_verb_has_examples(verb: str):
    result = metabench(*verb.split(), "--help")
    assert result.code == 0
    assert "Examples" in result.out
    assert f"metabench {verb}" in result.out


def test_version():
    assert re.match(r"metabench \d+\.\d+\.\d+ \(torch \d", metabench("--version").out)


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["run", "x", "--jobs", "-1"], ["plan", "--no"]])
def test_wrong_usage_exits_with_2(arguments: list[str]):
    result = metabench(*arguments)
    assert result.code == 2
    assert result.out == ""


def test_usage_errors_are_one_block_without_traceback(fresh: Path):
    (fresh / "tiny.toml").write_text(TINY.replace("seeds", "seed"))
    result = metabench("plan", "tiny.toml")
    assert result.code == 2
    assert result.out == ""
    assert "tiny.toml:3" in result.err
    assert "'seeds'" in result.err
    assert "Traceback" not in result.err


def test_unexpected_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(catalogue, "show_catalogue", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--json"]])
def test_a_reader_that_leaves_early_causes_no_noise(arguments: list[str]):
    program = [sys.executable, "-c", f"from bench.cli import main; main({arguments})"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == app.BROKEN_PIPE


def test_list_shows_plugins_with_fields_defaults_and_choices():
    found = metabench("list", "--json").json()
    assert set(found) == {*registry.KINDS, "study", "broken"}
    maml = found["method"]["maml"]
    assert maml["fields"]["backward"]["default"] in maml["fields"]["backward"]["allowed"]
    assert maml["fields"]["inner"]["default"]["name"] in maml["fields"]["inner"]["allowed"]
    assert "MAML" in maml["summary"]
    text = metabench("list").out
    for kind in registry.KINDS:
        assert all(re.search(rf"^  {name} ", text, re.M) for name in found[kind])
    assert re.search(r"backward +=.*adjoint \| unrolled", text)
    assert re.search(r"inner += gradient_descent.* any inner solver$", text, re.M)
    assert not re.search(r"adam \| armijo", text)


def test_list_in_a_narrow_terminal_is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch):
    narrow = Console(file=io.StringIO(), force_terminal=True, width=80)
    whole = metabench("list", "linear").out
    monkeypatch.setattr(writing, "console", lambda stderr=False: narrow)
    metabench("list", "linear")
    written = narrow.file.getvalue()  # type: ignore[attr-defined]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert max(map(len, plain.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    assert plain.split() == whole.split()


@pytest.mark.parametrize("verb", sorted(typer.main.get_command(app.app).commands))  # type: ignore[attr-defined]
def test_no_example_wraps_at_80_columns(verb: str):
    command = typer.main.get_command(app.app).commands[verb]  # type: ignore[attr-defined]
    examples = re.findall(r"^- `(.*)`$", command.epilog or "", re.M)
    assert all(len(example) <= 74 for example in examples), examples
    if any(option.name == "results" for option in command.params) and verb in ("cancel", "compact", "logs"):
        assert any("--results" in example for example in examples)


def test_list_of_one_kind_takes_singular_and_plural_and_refuses_others():
    assert list(metabench("list", "linear", "--json").json()) == ["linear", "broken"]
    assert metabench("list", "problems").out == metabench("list", "problem").out
    result = metabench("list", "methid")
    assert result.code == 2
    assert "did you mean 'method'" in result.err


def test_list_shows_broken_plugins_with_their_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "load_plugins", lambda: {"toy": "ImportError: no module named x"})
    result = metabench("list", "method")
    assert result.code == 0
    assert "toy is broken: ImportError: no module named x" in result.err
    assert metabench("list", "--json").json()["broken"] == {"toy": "ImportError: no module named x"}


def test_plan_counts_cells_and_runs_nothing(fresh: Path):
    result = metabench("plan", "tiny.toml")
    assert result.code == 0
    assert "4 cells: 4 missing" in result.out
    assert "metabench run tiny.toml" in result.out
    assert not (fresh / "results").exists()
    planned = metabench("plan", "tiny.toml", "--json").json()
    assert planned["count"] == len(planned["cells"]) == 4
    assert {c["cell"]["method"]["inner"]["steps"] for c in planned["cells"]} == {1, 2}


def test_plan_of_cells_tells_them_apart(measured: Path):
    rows = [line for line in metabench("plan", "tiny", "--cells").out.splitlines() if "fomaml" in line]
    assert len({line.split("  ", 2)[2] for line in rows}) == len(rows) == 4
    assert all(" ok " in row for row in rows)


def test_status_before_in_the_middle_and_after(fresh: Path, measured_once: Path):
    assert metabench("status", "tiny.toml").code == 3
    shutil.copytree(measured_once / "results", fresh / "results")
    result = metabench("status", "tiny.toml")
    assert result.code == 0
    assert "4 cells: 4 ok" in result.out
    assert "metabench report tiny" in result.out
    next((fresh / "results/tiny/records").iterdir()).unlink()
    result = metabench("status", "tiny.toml", "--json")
    assert result.code == 1
    assert result.json()["states"] == {"ok": 3, "missing": 1}


def test_an_unknown_study_names_the_nearest(measured: Path):
    result = metabench("status", "tinny")
    assert result.code == 2
    assert "did you mean 'tiny'" in result.err


def test_check_of_one_plugin_and_of_a_kind():
    one = metabench("check", "linear:dense")
    assert one.code == 0
    assert "passed  frozen" in one.out
    several = metabench("check", "curvature:all", "linear:dense", "--json").json()
    assert set(several) == {*(f"curvature:{name}" for name in registry.names("curvature")), "linear:dense"}
    assert all(check["passed"] for checks in several.values() for check in checks)


def test_a_failed_check_exits_with_1(monkeypatch: pytest.MonkeyPatch):
    failed = testing.Check("adds up", False, "1 + 1 = 3")
    monkeypatch.setitem(testing.CHECKS, "linear", lambda name: [failed])
    result = metabench("check", "linear:dense", "linear:neumann")
    assert result.code == 1
    assert re.search(r"FAILED +adds up +1 \+ 1 = 3", result.out)


def test_a_plugin_that_declines_has_neither_passed_nor_failed(monkeypatch: pytest.MonkeyPatch):
    declined = testing.Check("draws tasks", False, "no such data here", declined=True)
    monkeypatch.setitem(testing.CHECKS, "problem", lambda name: [declined])
    result = metabench("check", "problem:sinusoid")
    assert result.code == 3
    assert "no such data here" in result.out
    assert metabench("check", "problem:sinusoid", "linear:dense").code == 0


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("dense", "linear:dense"),
        ("linear:densa", "'dense'"),
        ("linea:dense", "'linear'"),
        ("mamll", "'maml'"),
    ],
)
def test_check_of_an_unknown_plugin(target: str, hint: str):
    result = metabench("check", target)
    assert result.code == 2
    assert hint in result.err


def test_unknown_data():
    result = metabench("data", "get", "omniglut")
    assert result.code == 2
    assert "'omniglot'" in result.err


def test_labels_tell_what_varies_and_nothing_else():
    cells = [
        {"problem": {"name": "p", "dim": 3}, "method": {"name": "m", "inner": {"steps": k}}, "seed": 0}
        for k in (1, 2)
    ]
    keys = varying(cells)
    assert keys == {"method:m.inner.steps"}
    assert [label(cell, keys) for cell in cells] == ["p m(inner.steps=1)", "p m(inner.steps=2)"]


@pytest.mark.parametrize("verb", ["warm", "profile"])
def test_without_a_compiled_cell_there_is_no_kernel_to_speak_of(verb: str, fresh: Path):
    result = metabench(verb, "tiny.toml")
    assert result.code == 3
    assert 'engine = "compiled"' in result.err
    assert not result.out


def test_the_help_of_export_is_no_list_of_bullets():
    options = " ".join(metabench("export", "--help").out.partition("Examples")[0].replace("│", " ").split())
    assert "- is stdout" in options
    assert "•" not in options
