"""Study files: what they mean, and that every fault is named with its file, its line and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import spec
from bench.cells import expand
from bench.errors import UsageError
from bench.toml_lines import line_of

GOOD = """\
question = "How?"
problem = "sinusoid"

[[method]]
name = "maml"
"""


def study(tmp_path: Path, text: str, name: str = "mine.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str) -> str:
    """The error for this text, which names the file."""
    path = study(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        spec.load(path)
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value).removeprefix(str(path))


def test_defaults(tmp_path):
    loaded = spec.load(study(tmp_path, GOOD))
    assert (loaded.name, loaded.question, loaded.figure, loaded.time_limit) == ("mine", "How?", None, 600.0)
    (sweep,) = loaded.sweeps
    assert sweep.problem == ({"name": "sinusoid"},)
    assert sweep.method == ({"name": "maml"},)
    assert sweep.inner == ()
    assert (sweep.seeds, sweep.n_tasks, sweep.split) == ((0,), (4,), ("train",))
    assert (sweep.dtype, sweep.device, sweep.threads) == (("float32",), ("cpu",), (1,))
    assert (sweep.passes, sweep.repeats) == (spec.USUAL_PASSES, 10)


def test_everything_is_read(tmp_path):
    text = """\
question = "How?"
figure = "overview"
time_limit = 12
seeds = 3
n_tasks = [2, 4]
split = ["val", "test"]
dtype = ["float64", "float16"]
device = ["cpu", "cuda:1"]
threads = [1, 2]
passes = ["resident", "accuracy"]
repeats = 3
problem = [{name = "linear_regression", condition = [6.0, 100.0]}, "sinusoid"]
inner = {name = "gradient_descent", steps = [1, 2]}
method = ["maml", {name = "imaml"}]
"""
    loaded = spec.load(study(tmp_path, text))
    (sweep,) = loaded.sweeps
    assert (loaded.figure, loaded.time_limit) == ("overview", 12.0)
    assert sweep.seeds == (0, 1, 2)
    assert sweep.n_tasks == (2, 4)
    assert sweep.split == ("val", "test")
    assert sweep.dtype == ("float64", "float16")
    assert sweep.device == ("cpu", "cuda:1")
    assert sweep.threads == (1, 2)
    assert sweep.passes == ("accuracy", "resident")  # in the order in which they are run
    assert sweep.repeats == 3
    assert sweep.problem == ({"name": "linear_regression", "condition": [6.0, 100.0]}, {"name": "sinusoid"})
    assert sweep.inner == ({"name": "gradient_descent", "steps": [1, 2]},)
    assert sweep.method == ({"name": "maml"}, {"name": "imaml"})


def test_sweeps_override_the_top_level(tmp_path):
    text = GOOD.replace('problem = "sinusoid"\n', "seeds = [7]\n")
    text += """\
[[sweep]]
problem = "sinusoid"
[[sweep]]
problem = "glyphs"
seeds = 2
[[sweep.method]]
name = "reptile"
"""
    one, two = spec.load(study(tmp_path, text)).sweeps
    assert (one.problem, one.method, one.seeds) == (({"name": "sinusoid"},), ({"name": "maml"},), (7,))
    assert (two.problem, two.method, two.seeds) == (({"name": "glyphs"},), ({"name": "reptile"},), (0, 1))
    assert (one.where["seeds"], two.where["seeds"]) == (("seeds",), ("sweep", 1, "seeds"))


@pytest.mark.parametrize(
    ("line", "where", "says"),
    [
        ("sedes = 3", 2, "unknown key of a study 'sedes'; did you mean 'seeds'?"),
        ("question = 3", 2, "question = 3 is not possible; allowed: one sentence"),
        ('question = " "', 2, "question = ' ' is not possible; allowed: one sentence"),
        ("n_tasks = -3", 2, "n_tasks = -3 is not possible; allowed: a whole number, 1 or more"),
        ("n_tasks = 0", 2, "n_tasks = 0 is not possible"),
        ("n_tasks = true", 2, "n_tasks = True is not possible"),
        ("n_tasks = 4.0", 2, "n_tasks = 4.0 is not possible"),
        ("n_tasks = [\n  2,\n  -4,\n]", 4, "n_tasks = -4 is not possible"),
        ("n_tasks = []", 2, "n_tasks = [] is not possible; allowed: at least one value"),
        ("seeds = 0", 2, "seeds = 0 is not possible; allowed: a whole number, 1 or more"),
        ("seeds = [0, -1]", 2, "seeds = -1 is not possible; allowed: a whole number, 0 or more"),
        ('seeds = "two"', 2, "seeds = 'two' is not possible"),
        ("threads = 0", 2, "threads = 0 is not possible"),
        ("repeats = [1, 2]", 2, "repeats = [1, 2] is not possible"),
        ('dtype = "float46"', 2, "unknown dtype 'float46'; did you mean 'float64'?"),
        ("dtype = 64", 2, "unknown dtype '64'"),
        ('split = "training"', 2, "unknown split 'training'; did you mean 'train'?"),
        ('passes = ["acuracy"]', 2, "unknown pass 'acuracy'; did you mean 'accuracy'?"),
        ("passes = []", 2, "passes = [] is not possible"),
        ('device = "gpu"', 2, "device = 'gpu' is not possible; allowed: cpu, cuda, cuda:N, mps"),
        ("time_limit = 0", 2, "time_limit = 0 is not possible"),
        ("time_limit = inf", 2, "time_limit = inf is not possible"),
        ('time_limit = "1h"', 2, "time_limit = '1h' is not possible"),
        ('figure = "overveiw"', 2, "unknown figure 'overveiw'; did you mean 'overview'? Allowed: accuracy_"),
        ("figure = 3", 2, "unknown figure '3'"),
        ("problem = []", 2, "problem = [] is not possible"),
        ('problem = ["sinusoid", 3]', 2, "problem = 3 is not possible; allowed: a name, a table with a name"),
        ('problem = ["sinusoid", {name = "sinusoid"}]', 2, "problem number 2 says the same as number 1"),
        ("sweep = 3", 2, "sweep = 3 is not possible"),
    ],
)
def test_fault(tmp_path, line, where, says):
    good = GOOD
    for key in ("question", "problem"):
        if line.startswith(key):
            good = "\n".join(g for g in GOOD.splitlines() if not g.startswith(key))
    message = refused(tmp_path, "# a study\n" + line + "\n" + good)
    assert message.startswith(f":{where}: {says}")


@pytest.mark.parametrize(
    ("block", "where", "says"),
    [
        ('[[method]]\nname = "maml"', 6, "method number 2 says the same as number 1; delete one"),
        (
            '[[sweep]]\nseed = 3\n[[sweep.method]]\nname = "imaml"',
            7,
            "unknown key of a sweep 'seed'; did you mean",
        ),
        ("[[sweep]]\nseeds = 3\n[[sweep]]\nn_tasks = -1", 9, "n_tasks = -1 is not possible"),
        ('[[sweep]]\nquestion = "Why?"', 7, "'question' belongs to the top of the file, not in a sweep"),
        ("[[sweep]]\ntime_limit = 3", 7, "'time_limit' belongs to the top of the file, not in a sweep"),
        (
            "[sweep]\nseeds = 3",
            6,
            "sweep = {'seeds': 3} is not possible; allowed: one or more [[sweep]] blocks",
        ),
    ],
)
def test_fault_in_a_block(tmp_path, block, where, says):
    assert refused(tmp_path, GOOD + block + "\n").startswith(f":{where}: {says}")


def test_what_is_missing_is_named(tmp_path):
    assert "a study has a question" in refused(tmp_path, 'problem = "sinusoid"\nmethod = "maml"')
    assert "this study has no problem" in refused(tmp_path, 'question = "How?"\nmethod = "maml"')
    text = 'question = "How?"\nproblem = "sinusoid"\n[[sweep]]\nmethod = "maml"\n[[sweep]]\nseeds = 2\n'
    assert refused(tmp_path, text).startswith(":5: this sweep has no method")


def test_syntax_error_has_tomllibs_line(tmp_path):
    assert refused(tmp_path, GOOD + "seeds = = 3\n").startswith(":6: this is not valid TOML")
    assert refused(tmp_path, GOOD + 'name = "imaml"\n').startswith(
        ":6: this is not valid TOML"
    )  # a key twice
    assert refused(tmp_path, GOOD + "x = [1,").startswith(":6: this is not valid TOML")  # at the end


def test_a_file_that_is_no_study(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'question = "\xff"')
    with pytest.raises(UsageError, match=r"latin\.toml cannot be read"):
        spec.load(tmp_path / "latin.toml")
    with pytest.raises(UsageError, match=r"there is no study file .*none\.toml"):
        spec.load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="rename the file"):
        spec.load(study(tmp_path, GOOD, "my study.toml"))


def test_a_name_is_a_shipped_study(tmp_path, monkeypatch):
    monkeypatch.setattr(spec, "STUDIES", tmp_path)
    study(tmp_path, GOOD, "accuracy_vs_steps.toml")
    assert spec.load("accuracy_vs_steps").name == "accuracy_vs_steps"
    assert list(spec.shipped()) == ["accuracy_vs_steps"]
    with pytest.raises(
        UsageError, match="unknown study 'acuracy_vs_steps'; did you mean 'accuracy_vs_steps'"
    ):
        spec.load("acuracy_vs_steps")


def test_every_shipped_study_expands():
    for name in spec.shipped():
        assert expand(spec.load(name))


LINES = """\
question = "steps = 3"
inner = {name = "gradient_descent", steps = 1}
problem = [
    {name = "a", x = [
        1,
        2]},
    "b",  # name = "c"
]
[[method]]
name = "a"
inner.steps = 3
[[method]]
name = "b"
[method.inner]
steps = 4
[[sweep]]
seeds = 1
[[sweep.method]]
steps = 5
"""


@pytest.mark.parametrize(
    ("way", "line"),
    [
        (("question",), 1),
        (("inner", "steps"), 2),
        (("inner", 0, "steps"), 2),  # a lone table is a list of one
        (("problem",), 3),
        (("problem", 0, "x", 1), 6),
        (("problem", 1), 7),
        (("method", 0, "inner", "steps"), 11),
        (("method", 1, "inner", "steps"), 15),
        (("method", 1, "linear", "iterations"), 12),  # not there: the table around it
        (("sweep", 0, "method", 0, "steps"), 19),
        (("sweep", 0), 16),
        (("nowhere",), None),
        ((), None),
    ],
)
def test_line_of(way, line):
    assert line_of(LINES, way) == line


def test_reading_needs_no_torch():
    code = "import sys, bench.spec, bench.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
