"""`metabench certify`: one cell's error as rounding plus truncation; and its lines in `metabench show`."""

import math
import tomllib
from collections.abc import Sequence
from typing import Any

from bench import accuracy, inputs, registry
from bench.api import Declined
from bench.cells import CONTRACT
from bench.cli.label import short
from bench.cli.text import columns, number, say, say_json, warn
from bench.errors import UsageError, unknown
from bench.spec import DTYPES

ALL, SOME, NONE = 0, 1, 3
SHOWN_TASKS = 8


def certify_cell(
    method: str,
    problem: str,
    changes: Sequence[str],
    dtype: str,
    n_tasks: int,
    seed: int,
    bound: float,
    json: bool,
) -> int:
    """Certify one cell and print it: 0 if every task was certified, 1 if some were, 3 if none was."""
    from bench.certified import certify
    from bench.run import references

    description = _description(method, problem, changes, dtype, n_tasks, seed)
    if not 1e-300 <= bound < 1:
        raise UsageError(f"--bound {bound} is not possible; allowed: from 1e-300 to below 1, such as 1e-30")
    with inputs.conditions(description):
        try:
            cell = inputs.prepare(description)
            bilevel = cell.bilevel()
            computed = accuracy.check(cell.run(bilevel), bilevel).meta_grad
        except Declined as declined:
            warn(f"declined: {declined}")
            return NONE
        exact = inputs.exact(inputs.exact_key(description))
        found = certify(cell.method, bilevel, computed, exact, references(description), bound)
    if json:
        say_json({"cell": description, **found})
    else:
        say(short(description["method"]), "bold")
        say(f"on {short(description['problem'])}, {dtype}, seed {seed}", "bold")
        say("relative errors of the meta-gradient, between proven bounds")
        say()
        for line in certified_lines(found):
            say(line)
    done = ["missing" not in task for task in found["tasks"]]
    return ALL if all(done) else SOME if any(done) else NONE


def certified_lines(certified: dict[str, Any]) -> list[str]:
    """The certified part of a record: errors per task, then what the references are and what is missing."""
    tasks = certified["tasks"][:SHOWN_TASKS]
    rows: list[tuple[str, ...]] = [("", *(f"task {i}" for i in range(len(tasks))))]

    def row(name: str, *way: str) -> None:
        found = [_find(task, way) for task in tasks]
        if any(value is not None for value in found):
            rows.append((name, *("-" if value is None else _shown(value) for value in found)))

    if any("rounding" in task for task in tasks):
        rows.append(("rounding", *(_shown(t["rounding"]) if "rounding" in t else "-" for t in tasks)))
    names = dict.fromkeys(name for task in tasks for name in task.get("references", {}))
    for name in names:
        row(f"truncation, to {name}", "references", name, "truncation")
        row(f"total error, to {name}", "references", name, "total")
        row(f"float64 {name}'s own", "references", name, "float64_error")
    row("radius / norm", "radius")
    row("bits", "bits")
    row("operations", "nodes")
    if any(task.get("turned") for task in tasks):
        row("branches that rounding turned", "turned")
    row("seconds of balls", "seconds")
    row("seconds of tracing", "trace_seconds")
    notes = [(f"task {i}", task["missing"]) for i, task in enumerate(tasks) if "missing" in task]
    said: dict[tuple[str, str], list[int]] = {}
    for i, task in enumerate(tasks):
        for name, entry in task.get("references", {}).items():
            text = f"missing: {entry['missing']}" if "missing" in entry else entry["how"]
            said.setdefault((name, text), []).append(i)
    notes += [(name, _of(which, len(tasks)) + text) for (name, text), which in said.items()]
    return [*columns(rows), *([""] if notes else []), *columns(notes)]


def _of(which: list[int], n_tasks: int) -> str:
    return "" if len(which) == n_tasks else f"task {', '.join(map(str, which))}: "


def _find(task: dict[str, Any], way: tuple[str, ...]) -> Any:
    value: Any = task
    for key in way:
        value = None if value is None else value.get(key)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = len(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if value is None:
        return "not finite"
    low, high = value["lower"], value["upper"]
    if high is None or math.isinf(high):
        return f"> {number(low)}"
    if low is None or low == 0:
        return f"< {number(high, 2)}"
    return number(high, 4) if high - low <= 1e-4 * high else f"{number(low)} to {number(high)}"


def _description(
    method: str, problem: str, changes: Sequence[str], dtype: str, n_tasks: int, seed: int
) -> dict[str, Any]:
    """The cell of a method and a problem by name, with changed fields."""
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not possible; allowed: {', '.join(DTYPES)}")
    tables: dict[str, dict[str, Any]] = {"method": {"name": method}, "problem": {"name": problem}}
    for change in changes:
        key, equals, text = change.partition("=")
        kind, *way = key.split(".")
        if not equals or kind not in tables or not way:
            raise UsageError(
                f"--set {change} is not possible; write method.FIELD=VALUE or problem.FIELD=VALUE, "
                "such as method.inner.steps=20"
            )
        _put(tables[kind], kind, way, _value(text))
    whole = {kind: registry.describe(registry.build(kind, table)) for kind, table in tables.items()}
    return {
        **whole, "seed": seed, "n_tasks": n_tasks, "split": "train", "dtype": dtype, "device": "cpu",
        "threads": 1, "passes": ["certified"], "repeats": 1, "contract": CONTRACT,
    }  # fmt: skip


def _put(table: dict[str, Any], kind: str, way: list[str], value: Any) -> None:
    """Set a field of a part, which is that of the default unless it is named."""
    *parts, last = way
    for part in parts:
        if part not in table:
            known = registry.describe(registry.build(kind, table))
            if part not in known:
                raise unknown(f"field of {kind} '{table['name']}'", part, known)
            table[part] = known[part]
        if isinstance(table[part], str):
            table[part] = {"name": table[part]}
        if not isinstance(table[part], dict):
            raise UsageError(f"'{part}' of {kind} '{table['name']}' is no part with fields")
        table, kind = table[part], part if part in registry.KINDS else kind
    table[last] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a name, without the quotes that a shell takes away
