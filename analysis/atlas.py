"""MAML against iMAML, task by task at equal settings: who is nearer to the exact implicit gradient, and why.

Both take the same K steps of the same inner solver on the same task; iMAML goes on with some iterations of
CG. What is wanted is the bilevel problem's own gradient, the exact implicit one. Errors are cut off at
`EXACT` below and at `LOST` above: nobody trains better with less, and nothing is told apart beyond.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import stats, table
from analysis.stats import wilson
from analysis.table import STEPS
from bench.spec import TRAIN

EXACT, LOST = 1e-3, 1e6
SUCCESS = 0.1  # a median error up to here is a success
STATIONARY = 1e-2  # |grad G| to that at theta, as in `bench.assumptions`
HEAVY = 2.0  # peak tensor bytes to iMAML's from which memory decides between equals
CG, RATE = "method.linear.iterations", "method.inner.learning_rate"
WHERE = ["problem", "problem.name", "method.inner.name", RATE, "dtype", "device", STEPS]
SETTING = [*WHERE, CG]


class Why(NamedTuple):
    """Why a method lost: the letter in the map (MAML's are capitals), and words."""

    letter: str
    words: str


MAML_LOST = {
    "unstable": Why("U", "unrolled instability: grad G is not finite or no smaller than at theta"),
    "few steps": Why("K", "too few inner steps for the derivative through them"),
    "memory": Why("M", f"as near, but at {HEAVY:g} times iMAML's memory or more"),
    "rounding": Why("R", "rounding"),
    "failed": Why("F", "did not end"),
}
IMAML_LOST = {
    "indefinite": Why("i", "indefinite Hessian: p'Ap <= 0 in CG"),
    "few iterations": Why("c", "too few iterations of CG"),
    "not stationary": Why("n", "phi is not stationary"),
    "rounding": Why("r", "rounding, or the end of CG"),
    "failed": Why("f", "did not end"),
}
BOTH_LOST = {"diverged": Why("x", "both diverged")}
_NUMBERS = ["error.implicit", "error.maml", "cosine.implicit", "cosine.maml", "stationarity"]
_NUMBERS += ["stats.linear_residual", "stats.linear_smallest_curvature"]
_MEASURED = [*_NUMBERS, "how.implicit", "missing.implicit"]


def measuring(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells that measure and were not declined, with every column that is looked at here."""
    columns = dict.fromkeys([*frame.columns, "passes", *SETTING, *_MEASURED])
    found = frame.reindex(columns=list(columns))
    found = found[(found["passes"] != TRAIN).fillna(True) & (found["status"] != "declined")]
    text = {column: "string" for column in [*WHERE, "passes"] if column not in (RATE, STEPS)}
    return found.astype(text | dict.fromkeys([RATE, CG, *_NUMBERS], "float64"))


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each task and number of CG iterations: columns ``maml.X`` and ``imaml.X`` for both.

    ``known``: whether the task has an implicit gradient. ``ratio`` is log2 of MAML's error to iMAML's, above
    0 where iMAML is nearer; ``why`` names, in `MAML_LOST` or `IMAML_LOST`, what the worse one died of. A cell
    that left no numbers, and an error that is not finite, are `LOST`.
    """
    here = measuring(frame)
    here = here[here["passes"].str.contains("accuracy").fillna(False).astype(bool)]
    where = [*WHERE, "seed"]
    sides = {
        "maml": (where, here[here["method.name"] == "maml"]),
        "imaml": ([*where, CG], here[(here["method.name"] == "imaml") & here[CG].notna()]),
    }
    both = pd.concat([rows for _, rows in sides.values()])
    found = both.loc[both["task"].notna(), [*where, "task"]].drop_duplicates()
    for name, (keys, rows) in sides.items():
        cells = rows[[*keys, "status"]].drop_duplicates(keys).rename(columns={"status": f"{name}.status"})
        values = rows.loc[rows["task"].notna(), [*keys, "task", *_MEASURED]]
        values = values.drop_duplicates([*keys, "task"])
        values = values.rename(columns={column: f"{name}.{column}" for column in _MEASURED})
        found = found.merge(cells, on=where).merge(values, on=[*keys, "task"], how="left")
    strength = frame.drop_duplicates("problem").set_index("problem").get("problem.strength", pd.Series())
    return _judged(found, found["problem"].map(strength).astype(float) == 0)


def _judged(found: pd.DataFrame, zero: pd.Series) -> pd.DataFrame:
    """``zero``: where lambda is 0, and with it the implicit gradient."""
    missing = found["maml.missing.implicit"].notna() | found["imaml.missing.implicit"].notna()
    there = found["maml.how.implicit"].notna() | found["imaml.how.implicit"].notna()
    found["known"] = there & ~missing & ~zero
    for name in ("maml", "imaml"):
        error = found[f"{name}.error.implicit"].astype(float)
        found[f"{name}.error"] = error.fillna(np.inf).where(found["known"])
    cut = {name: found[f"{name}.error"].clip(EXACT, LOST) for name in ("maml", "imaml")}
    found["ratio"] = np.log2(cut["maml"] / cut["imaml"])
    found["why"] = pd.Series(pd.NA, index=found.index, dtype="string")
    for lost, why in ((found["ratio"] > 0, _maml_died(found)), (found["ratio"] < 0, _imaml_died(found))):
        found["why"] = found["why"].mask(lost, why)
    return found


def _first(found: pd.DataFrame, rules: dict[str, pd.Series], otherwise: str) -> pd.Series:
    """The name of the first rule that holds."""
    names = pd.Series(otherwise, index=found.index, dtype="string")
    for name, holds in reversed(rules.items()):
        names = names.mask(holds.fillna(False).astype(bool), name)
    return names


def _maml_died(found: pd.DataFrame) -> pd.Series:
    status, stationarity = found["maml.status"], found["maml.stationarity"]
    silent = found["maml.stationarity"].isna() & found["maml.error.implicit"].isna()
    ended = status.isin(["ok", "not_converged", "non_finite"])
    unstable = stationarity.isna() | (stationarity >= 1) | ~np.isfinite(found["maml.error"])
    rules = {
        "memory": status == "out_of_memory",
        "failed": silent & ~ended,
        "unstable": unstable,
        "rounding": found["maml.error.maml"] > found["maml.error"] / 2,
    }
    return _first(found, rules, "few steps")


def _imaml_died(found: pd.DataFrame) -> pd.Series:
    """Too few iterations of CG: with the most that there are it would be twice as near, or, where there are
    no more, the residual exceeds the stationarity."""
    same = found.groupby([*WHERE, "seed", "task"], dropna=False)
    most = found[CG] == same[CG].transform("max")
    at_most = found.assign(best=found["imaml.error"].where(most))
    best = at_most.groupby([*WHERE, "seed", "task"], dropna=False)["best"]
    residual, stationarity = found["imaml.stats.linear_residual"], found["imaml.stationarity"]
    few = np.where(most, residual > stationarity, best.transform("max") <= found["imaml.error"] / 2)
    silent = found["imaml.error.implicit"].isna() & residual.isna()
    rules = {
        "failed": silent & ~found["imaml.status"].isin(["ok", "not_converged", "non_finite"]),
        "indefinite": found["imaml.stats.linear_smallest_curvature"] <= 0,
        "few iterations": pd.Series(few, index=found.index),
        "not stationary": ~(stationarity <= STATIONARY),
    }
    return _first(found, rules, "rounding")


def memory(frame: pd.DataFrame) -> pd.Series:
    """MAML's peak of the tensor bytes to iMAML's by problem and K: seed, step and CG do not alter them."""
    here = table.cells(measuring(frame))
    peaks = here.pivot_table(index=["problem", STEPS], columns="method.name", values="tensor_bytes.peak")
    peaks = peaks.reindex(columns=["maml", "imaml"])
    return (peaks["maml"] / peaks["imaml"]).dropna()


def settings(pairs: pd.DataFrame, memory: pd.Series) -> pd.DataFrame:
    """A row for each of `SETTING`: who wins, by how much, and why.

    ``ratio``, ``low``, ``high``: median over tasks and its interval; the ``winner`` is the nearer one where
    that is above or below 0 as a whole, else "neither"; NA where fewer than half of the tasks have an
    implicit gradient. ``why`` is the commonest reason of the tasks that the loser lost; between equals
    "memory" where both succeed and MAML takes `HEAVY` times iMAML's, "diverged" where both are `LOST`.
    ``maml``, ``imaml``: median errors. ``n`` tasks of ``seeds`` seeds.
    """
    rows = []
    for key, tasks in pairs.groupby(SETTING, dropna=False, sort=True):
        here = tasks[tasks["known"]]
        row: dict[str, Any] = dict(zip(SETTING, key, strict=True))
        interval = stats.hierarchical(here["ratio"].to_numpy(), here["seed"].to_numpy())
        row |= {"ratio": interval.median, "low": interval.low, "high": interval.high, "n": interval.n}
        row |= {"tasks": len(tasks), "seeds": tasks["seed"].nunique()}
        row |= {name: here[f"{name}.error"].median() for name in ("maml", "imaml")}
        row["stationarity"] = tasks["imaml.stationarity"].median()
        row["bytes"] = float(memory.get((row["problem"], row[STEPS]), np.nan))
        decided = _decided(here, interval, row) if 2 * len(here) >= len(tasks) else {}
        row |= {"winner": None, "why": None} | decided
        rows.append(row)
    columns = [*SETTING, "ratio", "low", "high", "n", "tasks", "seeds", "maml", "imaml", "stationarity"]
    return pd.DataFrame(rows, columns=[*columns, "bytes", "winner", "why"])


def _decided(here: pd.DataFrame, interval: stats.Interval, row: dict[str, Any]) -> dict[str, Any]:
    if interval.low > 0 or interval.high < 0:
        winner = "imaml" if interval.low > 0 else "maml"
        lost = here[here["ratio"] > 0] if winner == "imaml" else here[here["ratio"] < 0]
        return {"winner": winner, "why": str(lost["why"].value_counts().sort_index().idxmax())}
    least, most = sorted((row["maml"], row["imaml"]))
    heavy = row["bytes"] >= HEAVY and most <= SUCCESS
    return {"winner": "neither", "why": "diverged" if least >= LOST else "memory" if heavy else None}


def succeeds(found: pd.DataFrame) -> pd.Series:
    """Where there is an implicit gradient, "both", "maml", "imaml" or "none": whose error is a `SUCCESS`."""
    maml, imaml = (found[name] <= SUCCESS for name in ("maml", "imaml"))
    names = np.select([maml & imaml, maml, imaml], ["both", "maml", "imaml"], "none")
    return pd.Series(names, index=found.index, dtype="string").where(found["winner"].notna())


def flips(found: pd.DataFrame) -> pd.DataFrame:
    """For every curve of settings over K: ``flip``, the least K from which on MAML is the nearer one at all
    larger ones; NA where it is not at the largest K that is decided."""
    rows = []
    by = [column for column in SETTING if column != STEPS]
    for key, curve in found[found["winner"].notna()].groupby(by, dropna=False, sort=True):
        curve = curve.sort_values(STEPS)
        nearer = (curve["winner"] == "maml").to_numpy()[::-1]
        run = len(nearer) if nearer.all() else int(np.argmin(nearer))
        flip = curve[STEPS].iloc[len(nearer) - run] if run else None
        rows.append(dict(zip(by, key, strict=True)) | {"flip": flip, "largest": curve[STEPS].iloc[-1]})
    return pd.DataFrame(rows, columns=[*by, "flip", "largest"])


def share(which: pd.Series) -> str:
    """Text such as "12 % [5, 25] of 40"."""
    found = wilson(int(which.sum()), len(which))
    return f"{found} of {found.n:,}"
