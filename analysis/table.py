"""Records -> one tidy frame, and the frame -> the summary that every figure and report rests on.

Rows of `frame` are tasks of cells. Columns:

- ``id study status reason started seconds`` and the cell's description, flattened with dots (``seed``,
  ``problem.name``, ``method.inner.steps``, ...); lists are text. ``problem`` and ``method`` are display
  labels, ``steps`` is the number of inner steps (of the inner solver, or the method's own), ``engine`` what
  the cell really ran on (`bench.record.engine_of`), ``device`` with the GPU's name where there are several.
- per task: ``task``, ``error.R cosine.R norm_ratio.R missing.R`` for each reference R ("maml", "implicit"),
  ``how.R``, ``stationarity query_loss query_accuracy converged meta_grad_norm``, ``stats.*`` and
  ``numerics.*`` (see `bench.numerics`).
- per task where asked for: ``certified.*``, ``missing.certified`` and ``assumptions.*``, see their modules;
  ``switches.jump``, ``switches.growth`` and ``switches.mismatch.H`` at distance H (`bench.switches`).
- per evaluation of a cell that trains: ``evaluation.*``; see `analysis.training`, also for its ``test.*`` and
  ``train.*``. ``outer`` is what figures call the outer optimizer, and stands in ``method`` too.
- per cell, repeated on each of its rows: ``time.*`` (seconds; ``ratio`` is the median over rounds of the
  method's time to the reference method's in the same round, ``control_ratio`` that of the reference method to
  itself; ``relative`` is ``ratio`` brought to one reference for all methods of a problem, see `_relative`;
  ``_low`` and ``_high`` are bootstrap intervals over rounds), ``tensor_bytes.*`` and ``resident.*``
  (bytes), ``calls.*`` per task (``derivatives``: gradients, products), ``environment.*``, ``pass_seconds``.

A cell whose accuracy pass left nothing (not asked for, or failed) has a single row, without a task.
"""

from collections.abc import Collection
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from analysis import assumptions, certified, labels, metrics, stats, style, training, units
from bench.record import engine_of

REFERENCES = ("maml", "implicit")
STEPS = "steps"
# What may be swept besides method, problem, steps, seed.
AXES = ("dtype", "device", "threads", "engine", "tasks_at_once", "n_tasks", "split")
AXES += ("start.cell", "start.stage")  # only of cells that start from a training
_BEFORE: dict[str, str] = dict.fromkeys(("dtype", "device", "engine"), "")
_BEFORE |= {"start.cell": "from ", "start.stage": "started at "}  # what stands before a value in a label

_TEXT = ["id", "study", "status", "reason", "problem", "method", "problem.name", "method.name"]
_TEXT += [training.OUTER, "dtype", "device", "engine", "split", "started"]
_TEXT += ["resident.missing", "tensor_bytes.missing", "missing.certified"]
_TEXT += [f"{kind}.{r}" for r in REFERENCES for kind in ("missing", "how")]
_NUMBERS = ["seed", "task", "threads", "tasks_at_once", "n_tasks"]
_NUMBERS += [STEPS, "stationarity", "query_loss", "query_accuracy"]
_NUMBERS += ["meta_grad_norm", "seconds"]
_NUMBERS += [f"{kind}.{r}" for r in REFERENCES for kind in ("error", "cosine", "norm_ratio")]
_RATIOS = ("ratio", "relative", "control_ratio")
_NUMBERS += [f"time.{k}{end}" for k in _RATIOS for end in ("", "_low", "_high")]
_NUMBERS += ["time.median_s", "time.low_s", "time.high_s", "time.reference_median_s", "time.rounds"]
_NUMBERS += ["time.cpu_s", "time.cpu_low_s", "time.cpu_high_s"]
_NUMBERS += ["tensor_bytes.peak", "tensor_bytes.n_params", "resident.growth_bytes", "resident.peak_bytes"]
_NUMBERS += ["calls.derivatives", "certified.rounding", *training.TESTS]
_NUMBERS += [f"certified.{part}.{r}" for part in ("rounding", "truncation") for r in REFERENCES]
_WHOLE = {"seed", "task", "threads", "tasks_at_once", "n_tasks", STEPS, *training.WHOLE}
# With whatever follows.
_NUMERIC = ("stats.", "calls.", "pass_seconds.", "numerics.", "certified.", "assumptions.", "switches.")
CORE = (*_TEXT, *_NUMBERS, "converged")  # columns that are always there


def frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The tidy frame of any number of records in any order; its `CORE` columns are there even for none."""
    rows = [row for record in records for row in _rows(record)]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*CORE, *sorted(set(table.columns) - set(CORE))])
    for column in table.columns:
        if column in _NUMBERS or column in training.NUMBERS or column.startswith(_NUMERIC):
            table[column] = pd.to_numeric(table[column]).astype("Int64" if column in _WHOLE else "float64")
        elif column == "converged":
            table[column] = table[column].astype("boolean")
        elif column in _TEXT or column in training.TEXT or _mixed(table[column]):
            table[column] = table[column].map(units.plain, na_action="ignore").astype("string")
    if records:
        table = _relative(table.assign(device=labels.devices(table)))
        table = _with_labels(table, {r["id"]: r["cell"] for r in records})
    return table


def _relative(table: pd.DataFrame) -> pd.DataFrame:
    """With the times of every method as multiples of one first-order MAML.

    A method is timed next to first-order MAML with the method's own inner solver. On each problem and setting
    the level of such a reference is its median over all cells that have it; ``ratio`` times that level, over
    the level of the most frequent reference, compares methods whose inner solvers differ.
    """
    problem = [c for c in table.columns if c.startswith("problem.")]
    where = [*problem, *axes_in(table), STEPS]
    inner = [c for c in table.columns if c.startswith("method.inner.")]
    one = table.drop_duplicates("id")
    by = one.groupby([*where, *inner], dropna=False)["time.reference_median_s"]
    level, often = by.transform("median"), by.transform("size")
    most = often.where(level.notna()).groupby([one[c] for c in where], dropna=False).transform("max")
    common = level.where(often == most).groupby([one[c] for c in where], dropna=False).transform("first")
    factor = table["id"].map(pd.Series((level / common).to_numpy(), index=one["id"]))
    for end in ("", "_low", "_high"):
        table[f"time.relative{end}"] = table[f"time.ratio{end}"] * factor
    return table


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell."""
    return table.drop_duplicates("id")


def axes_in(table: pd.DataFrame) -> list[str]:
    """Those of `AXES` that the table has."""
    return [axis for axis in AXES if axis in table]


def swept(table: pd.DataFrame) -> list[str]:
    """Which of `AXES` take several values within one problem."""
    by_problem = table.groupby("problem", dropna=False)
    return [axis for axis in axes_in(table) if by_problem[axis].nunique(dropna=False).max() > 1]


def with_axes(table: pd.DataFrame, apart: Collection[str] = ()) -> pd.DataFrame:
    """The same rows with swept `AXES` appended to the method's label, so that no curve mixes two settings.

    Those in ``apart`` are left out.
    """
    return table.assign(method=table["method"] + axes_phrase(table, apart))


def axes_phrase(table: pd.DataFrame, apart: Collection[str] = ()) -> pd.Series:
    """For every row the swept `AXES` and their values as ", float32, threads 2"; those in ``apart`` left out.

    "eager" is said only of methods that are also compiled: it would be wrong of a library that compiles by
    itself.
    """
    phrases = pd.Series("", index=table.index, dtype="string")
    for axis in swept(table):
        if axis in apart:
            continue
        name = _BEFORE.get(axis, labels.pretty(axis) + " ")
        phrase = ", " + name + table[axis].astype("string")
        if axis == "engine":
            both = table.groupby(table["method"] + phrases)["engine"].transform("nunique") > 1
            phrase = phrase.where(both | (table["engine"] != "eager"), "")
        phrases += phrase.fillna("")  # most cells leave tasks_at_once to the harness
    return phrases


def by_dtypes(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Every dtype and its rows, in the order of legends."""
    return [(dtype, table[table["dtype"] == dtype]) for dtype in style.dtypes(table["dtype"])]


def failures(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Cells that did not end well, counted: columns ``by``, ``status``, ``n``."""
    bad = cells(table)
    bad = bad[bad["status"] != "ok"]
    return bad.groupby([*by, "status"], dropna=False, sort=False).size().reset_index(name="n")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per problem, method and number of inner steps (and whatever else was swept).

    For each of `metrics.SUMMARY` the median, its interval (``.low``, ``.high``; NaN where one value gives
    none) and how many values it is of (``.n``); and ``cells``, ``seeds``, ``failed``, ``failures`` (as text).
    """
    by = ["problem", "method", STEPS, *swept(table)]
    everything = cells(table).groupby(by, dropna=False, sort=False)
    rows = everything.agg(cells=("id", "size"), seeds=("seed", "nunique")).reset_index()
    for metric in metrics.SUMMARY:
        found = stats.summarise(table, by, metric).drop(columns="n_groups")
        names = {"median": metric.column, **{k: f"{metric.column}.{k}" for k in ("low", "high", "n")}}
        rows = _join(rows, found.rename(columns=names), by)
        rows[names["n"]] = rows[names["n"]].fillna(0).astype(int)
    failed = failures(table, by)
    failed["failures"] = failed["n"].astype("str") + " " + failed["status"]
    failed = failed.groupby(by, dropna=False, sort=False).agg(
        failed=("n", "sum"), failures=("failures", ", ".join)
    )
    rows = _join(rows, failed.reset_index(), by)
    return rows.assign(failed=rows["failed"].fillna(0).astype(int), failures=rows["failures"].fillna(""))


def _mixed(column: pd.Series) -> bool:
    # One field name may be a number in one plugin and a word in another; no file format takes both.
    kinds = {type(v) for v in column.dropna()} if column.dtype == object else set()
    return len(kinds) > 1 and not kinds <= {int, float}


def _join(left: pd.DataFrame, right: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    types = {column: left[column].dtype for column in by}  # an empty or all-missing right side has lost them
    return left.merge(right.astype(types), on=by, how="left")


def _with_labels(table: pd.DataFrame, descriptions: dict[str, dict[str, Any]]) -> pd.DataFrame:
    ids = list(descriptions)
    descriptions = {i: labels.unwrapped(d) for i, d in descriptions.items()}
    problems = [descriptions[i]["problem"] for i in ids]
    names = labels.distinguish(
        [labels.problem(p) for p in problems], [labels.flatten(p) for p in problems], [None] * len(ids)
    )
    methods = [descriptions[i]["method"] for i in ids]
    flat = [labels.flatten(m) for m in methods]
    plain = labels.mixed_inner([labels.method(m) for m in methods], flat, names)
    called = labels.distinguish(plain, flat, names)
    outers = training.outers(list(descriptions.values()), names)
    called = [m if o is None else f"{m}, {o}" for m, o in zip(called, outers, strict=True)]
    for column, values in (("problem", names), ("method", called), (training.OUTER, outers)):
        table[column] = table["id"].map(dict(zip(ids, values, strict=True)))
    table[training.OUTER] = table[training.OUTER].astype("string")
    ranks = {"_problem": table["problem"].map(style.problem_rank), "_method": table["method"].map(style.rank)}
    order = table.assign(**ranks)
    keys = ["_problem", "_method", STEPS, *axes_in(table), "seed", "id", "task"]
    return table.loc[order.sort_values(keys, na_position="first", kind="stable").index].reset_index(drop=True)


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    cell = {k: v for k, v in record["cell"].items() if k != "passes"} | {"engine": engine_of(record)}
    cell = labels.unwrapped(cell)
    common: dict[str, Any] = {k: record.get(k) for k in ("id", "study", "status", "started", "seconds")}
    common["reason"] = (record.get("reason") or {}).get("message")
    common |= labels.flatten(cell) | {"passes": "+".join(record["cell"].get("passes", []))}
    common[STEPS] = common.get("method.inner.steps", common.get("method.steps"))
    common |= _time(record.get("time") or {})
    for part in ("tensor_bytes", "resident", "calls", "environment", "pass_seconds"):
        common |= {
            f"{part}.{k}": v for k, v in (record.get(part) or {}).items() if not isinstance(v, dict | list)
        }
    calls = record.get("calls")
    if calls:
        common["calls.derivatives"] = sum(
            calls.get(k, 0) for k in ("inner_grads", "inner_hvps", "outer_grads")
        )
    tasks = _tasks(record.get("accuracy") or {}, record.get("numerics") or {}, record.get("switches") or {})
    proven = certified.rows(record.get("certified") or {})
    assumed = assumptions.rows(record.get("assumptions") or {})
    if (n := max(len(proven), len(assumed))) and "task" not in tasks[0]:
        tasks = [tasks[0]] * n
    tasks = training.rows(record.get("train") or {}) or tasks
    return [common | a | b | c for a, b, c in zip_longest(tasks, proven, assumed, fillvalue={})]


def _tasks(
    accuracy: dict[str, Any], numerics: dict[str, Any], switches: dict[str, Any]
) -> list[dict[str, Any]]:
    per_task: dict[str, list[Any] | None] = {k: accuracy.get(k) for k in ("converged", "meta_grad_norm")}
    per_task |= accuracy.get("adapted") or {}
    per_task |= {f"stats.{k}": v for k, v in (accuracy.get("stats") or {}).items()}
    per_task |= {f"numerics.{k}": v for k, v in numerics.items() if isinstance(v, list)}
    per_task |= {f"switches.{k}": switches[k] for k in ("jump", "growth") if k in switches}
    for i, h in enumerate(switches.get("distances") or []):
        per_task[f"switches.mismatch.{h:g}"] = [row[i] for row in switches["mismatch"]]
    constant: dict[str, Any] = {"meta_grad_sha256": accuracy.get("meta_grad_sha256")} if accuracy else {}
    missing: dict[str, dict[str, str]] = {}
    for name, reference in (accuracy.get("references") or {}).items():
        if "missing" in reference:
            constant[f"missing.{name}"] = reference["missing"]
            continue
        constant[f"how.{name}"] = reference.get("how")
        per_task |= {
            f"{short}.{name}": reference.get(long)
            for short, long in (
                ("error", "relative_error"),
                ("cosine", "cosine"),
                ("norm_ratio", "norm_ratio"),
            )
        }
        missing[f"missing.{name}"] = reference.get("missing_tasks") or {}
    known = {k: v for k, v in per_task.items() if v is not None}
    n = max(map(len, known.values()), default=0)
    if n == 0:
        return [constant]
    return [
        constant
        | {"task": i}
        | {k: v[i] for k, v in known.items()}
        | {k: reasons[str(i)] for k, reasons in missing.items() if str(i) in reasons}
        for i in range(n)
    ]


def _time(time: dict[str, Any]) -> dict[str, float]:
    samples = np.array(time.get("samples_s") or [], dtype=float)
    reference, control = (np.array(time.get(k) or [], dtype=float) for k in ("reference_s", "control_s"))
    if len(samples) == 0:
        return {}
    own = stats.bootstrap(samples)
    found = {"time.median_s": own.median, "time.low_s": own.low, "time.high_s": own.high}
    found["time.rounds"] = len(samples)
    if cpu := time.get("cpu_s"):
        spent = stats.bootstrap(np.array(cpu, dtype=float))
        found |= {"time.cpu_s": spent.median, "time.cpu_low_s": spent.low, "time.cpu_high_s": spent.high}
    for name, values in (("ratio", samples), ("control_ratio", control)):
        if len(reference) and len(values) == len(reference):
            paired = stats.bootstrap(values / reference)
            ends = {f"time.{name}_low": paired.low, f"time.{name}_high": paired.high}
            found |= {f"time.{name}": paired.median} | ends
    if len(reference):
        found["time.reference_median_s"] = float(np.median(reference))
    return found
