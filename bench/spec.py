"""Study files: TOML to `Spec`. The plugins in it are checked in `bench.cells`.

A study asks one question. Its top level is one sweep, a crossing of problems, methods, seeds and settings;
with ``[[sweep]]`` blocks it is the union of several, each of which overrides keys of the top level.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UsageError, unknown
from bench.toml_files import Fault, find, impossible, located, read
from bench.toml_lines import Way

STUDIES = Path(__file__).parent / "studies"
SPLITS, ENGINES = ("train", "val", "test"), ("eager", "compiled")
DTYPES = ("float64", "float32", "tf32", "bfloat16", "float16")
# The modules of analysis/figures, which nothing here may import; a test compares the two.
FIGURES = ("accuracy_vs_steps", "assumptions", "cost_vs_steps", "data_scale", "estimators")
FIGURES += ("failure_atlas", "inner_optimizers", "inner_steps", "learning_curves", "libraries")
FIGURES += ("line_search", "mixed", "overview", "peers", "precision", "scaling", "stability", "unrolling")
USUAL_PASSES = ("accuracy", "time", "tensor_bytes", "resident")
# A new pass goes to the end: ids hold them in this order.
PASSES = (*USUAL_PASSES, "certified", "numerics", "assumptions", "switches")
STAGES = ("start", "half", "end")  # of a training, whose meta-parameters are kept
TRAIN = "train"  # the pass of a training cell, in place of all others
KINDS = ("measure", TRAIN)
DEFAULT_TIME_LIMIT, PATH_POINTS, MOST_SEEDS = 600.0, 5, 100_000
EVALUATION_TASKS, VALIDATIONS, VALIDATION_TASKS = 600, 10, 100  # the field reports means over 600 tasks

_Check = Callable[[Any, Way], Any]

_DEFAULTS: dict[str, Any] = {
    "inner": (),
    "seeds": (0,),
    "n_tasks": (4,),
    "split": ("train",),
    "dtype": ("float32",),
    "device": ("cpu",),
    "threads": (1,),
    "engine": ("eager",),
    "tasks_at_once": (None,),
    "passes": USUAL_PASSES,
    "repeats": 10,
    "start": (None,),
    "kind": "measure",
    "outer": (),
    "outer_steps": (),
    "evaluation_tasks": EVALUATION_TASKS,
    "validations": VALIDATIONS,
    "validation_tasks": VALIDATION_TASKS,
    "path_points": PATH_POINTS,
}
# What only cells of one kind have.
_MEASURING = ("passes", "repeats", "path_points", "split")
_TRAINING = ("outer", "outer_steps", "evaluation_tasks", "validations", "validation_tasks")
_TOP_ONLY = ("question", "figure", "time_limit", "sweep")
SWEEP_KEYS = ("problem", "method", *_DEFAULTS)
KEYS = (*_TOP_ONLY, *SWEEP_KEYS)


@dataclass(frozen=True)
class Sweep:
    """One crossing. Fields that are tuples list alternatives; but ``passes`` are all run for every cell.

    ``problem``, ``method``, ``inner`` and ``outer`` hold plugin tables as written, lists inside them not yet
    crossed; ``where`` says for every key where it stands in the file. A sweep of ``kind`` "train" has the one
    pass `TRAIN`, and one of kind "measure" no outer optimizer.
    """

    problem: tuple[dict[str, Any], ...]
    method: tuple[dict[str, Any], ...]
    inner: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    n_tasks: tuple[int, ...]
    split: tuple[str, ...]
    dtype: tuple[str, ...]
    device: tuple[str, ...]
    threads: tuple[int, ...]
    engine: tuple[str, ...]
    tasks_at_once: tuple[int | None, ...]
    passes: tuple[str, ...]
    repeats: int
    start: tuple[dict[str, Any] | None, ...]
    kind: str
    outer: tuple[dict[str, Any], ...]
    outer_steps: tuple[int, ...]
    evaluation_tasks: int
    validations: int
    validation_tasks: int
    path_points: int
    where: dict[str, Way] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Spec:
    """A study: its question, and the sweeps whose union are its cells. ``time_limit`` is seconds a cell."""

    name: str
    path: Path
    question: str
    figure: str | None
    time_limit: float
    sweeps: tuple[Sweep, ...]
    text: str = field(repr=False)

    def error(self, message: str, way: Way = ()) -> UsageError:
        """The error for the value at ``way``: names the file and the line."""
        return located(self.path, self.text, message, way)


def shipped() -> dict[str, Path]:
    """The studies that come with the package: name -> file."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.toml"))}


def load(study: str | Path) -> Spec:
    """Read a shipped study (by name) or a TOML file (by path); the study's name is the file's stem.

    Raises `UsageError` naming file, line and key for whatever is wrong, with the nearest allowed key.
    """
    path = find("study", study, shipped())
    if not re.fullmatch(r"\w[\w.-]*", path.stem, re.ASCII):
        raise UsageError(
            f"{path}: a study's name is also its folder's; rename the file with letters, digits, _ . - only"
        )
    return read("study", path, lambda text, raw: _spec(path, text, raw))


def _spec(path: Path, text: str, raw: dict[str, Any]) -> Spec:
    _refuse_unknown(raw, KEYS, "key of a study", ())
    if "question" not in raw:
        raise Fault('a study has a question; write question = "..." as the first line', ())
    question, figure = raw["question"], raw.get("figure")
    if not isinstance(question, str) or not question.strip():
        raise impossible(question, "one sentence", ("question",))
    if figure is not None:
        _one_of(FIGURES, "figure")(figure, ("figure",))
    limit = raw.get("time_limit", DEFAULT_TIME_LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= 1e9:
        raise impossible(limit, "a number of seconds, more than 0 and at most 1e9", ("time_limit",))
    return Spec(path.stem, path, question, figure, float(limit), _sweeps(raw), text)


def _sweeps(raw: dict[str, Any]) -> tuple[Sweep, ...]:
    values, where = _checked({key: raw[key] for key in SWEEP_KEYS if key in raw}, ())
    if "sweep" not in raw:
        return (_sweep(values, where, ()),)
    blocks = raw["sweep"]
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise impossible(blocks, "one or more [[sweep]] blocks", ("sweep",))
    sweeps = []
    for i, block in enumerate(blocks):
        for key in block:
            if key in _TOP_ONLY:
                raise Fault(f"'{key}' belongs to the top of the file, not in a sweep", ("sweep", i, key))
        _refuse_unknown(block, SWEEP_KEYS, "key of a sweep", ("sweep", i))
        own_values, own_where = _checked(block, ("sweep", i))
        sweeps.append(_sweep(values | own_values, where | own_where, ("sweep", i)))
    return tuple(sweeps)


def _sweep(values: dict[str, Any], where: dict[str, Way], way: Way) -> Sweep:
    for key, example in (("problem", 'problem = "sinusoid"'), ("method", '[[method]] with name = "maml"')):
        if key not in values:
            raise Fault(
                f"{'this sweep' if way else 'this study'} has no {key}; write for example {example}", way
            )
    trains = values.get("kind") == TRAIN
    for key in _MEASURING if trains else _TRAINING:
        if key in values:
            raise Fault(f"'{key}' is no key of a sweep that {'trains' if trains else 'measures'}", where[key])
    if trains:
        for key, example in (("outer", 'outer = "adam"'), ("outer_steps", "outer_steps = 1000")):
            if key not in values:
                raise Fault(f"a sweep that trains has no {key}; write for example {example}", where["kind"])
        values = values | {"passes": (TRAIN,), "repeats": 1}
    return Sweep(**(_DEFAULTS | values), where=where)


def _checked(raw: dict[str, Any], way: Way) -> tuple[dict[str, Any], dict[str, Way]]:
    where = {key: (*way, key) for key in raw}
    return {key: _CHECKS[key](value, where[key]) for key, value in raw.items()}, where


def _refuse_unknown(table: dict[str, Any], allowed: Iterable[str], what: str, way: Way) -> None:
    for key in table:
        if key not in allowed:
            raise Fault(str(unknown(what, key, allowed)), (*way, key))


def _whole(least: int) -> _Check:
    def check(value: Any, way: Way) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise impossible(value, f"a whole number, {least} or more", way)
        return value

    return check


def _one_of(allowed: tuple[str, ...], what: str) -> _Check:
    def check(value: Any, way: Way) -> str:
        if value not in allowed:
            raise Fault(str(unknown(what, str(value), allowed)), way)
        return value

    return check


def _device(value: Any, way: Way) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|mps|cuda(:\d+)?", value):
        raise impossible(value, "cpu, cuda, cuda:N, mps", way)
    return value


def _plugin(value: Any, way: Way) -> dict[str, Any]:
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise impossible(value, "a name, a table with a name, or a list of these", way)
    return table


def _many(one: _Check) -> _Check:
    """A value or a list of values, as a tuple."""

    def check(value: Any, way: Way) -> tuple[Any, ...]:
        items = value if isinstance(value, list) else [value]
        if not items:
            raise impossible(value, "at least one value; an empty list leaves no cell", way)
        return tuple(one(item, (*way, i)) for i, item in enumerate(items))

    return check


def _starts(value: Any, way: Way) -> tuple[dict[str, Any], ...]:
    return tuple(one for stages in _many(_start)(value, way) for one in stages)


def _start(value: Any, way: Way) -> list[dict[str, Any]]:
    """The id of a training cell, or a table of its id and stages."""
    table = {"cell": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or "cell" not in table:
        raise impossible(value, 'the id of a training cell, or {cell = "ID", stage = "half"}', way)
    _refuse_unknown(table, ("cell", "stage"), "key of start", way)
    if not re.fullmatch(r"[0-9a-f]{16}", str(table["cell"])):
        raise impossible(value, "the 16 digits that `metabench plan STUDY --cells` shows", way)
    stages = _many(_one_of(STAGES, "stage"))(table.get("stage", STAGES[-1]), (*way, "stage"))
    return [{"cell": table["cell"], "stage": stage} for stage in stages]


def _plugins(value: Any, way: Way) -> tuple[dict[str, Any], ...]:
    tables = _many(_plugin)(value, way)
    for i, table in enumerate(tables):
        if table in tables[:i]:
            first = tables.index(table) + 1
            raise Fault(f"{way[-1]} number {i + 1} says the same as number {first}; delete one", (*way, i))
    return tables


def _seeds(value: Any, way: Way) -> tuple[int, ...]:
    if isinstance(value, list):
        return _many(_whole(0))(value, way)
    count = _whole(1)(value, way)
    if count > MOST_SEEDS:
        raise impossible(value, f"a list of seeds, or their number up to {MOST_SEEDS}", way)
    return tuple(range(count))


def _passes(value: Any, way: Way) -> tuple[str, ...]:
    given = _many(_one_of(PASSES, "pass"))(value, way)
    # In one order, so that it does not alter the cell's id.
    return tuple(name for name in PASSES if name in given)


_CHECKS: dict[str, _Check] = {
    "problem": _plugins,
    "method": _plugins,
    "inner": _plugins,
    "seeds": _seeds,
    "n_tasks": _many(_whole(1)),
    "split": _many(_one_of(SPLITS, "split")),
    "dtype": _many(_one_of(DTYPES, "dtype")),
    "device": _many(_device),
    "threads": _many(_whole(1)),
    "engine": _many(_one_of(ENGINES, "engine")),
    "tasks_at_once": _many(_whole(1)),
    "passes": _passes,
    "repeats": _whole(1),
    "start": _starts,
    "kind": _one_of(KINDS, "kind"),
    "outer": _plugins,
    "outer_steps": _many(_whole(1)),
    "evaluation_tasks": _whole(2),
    "validations": _whole(1),
    "validation_tasks": _whole(2),
    "path_points": _whole(2),
}
