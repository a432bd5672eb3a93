"""What the distance to the implicit gradient does not judge: stopping early, lambda, the step."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import atlas, stats, training
from analysis.atlas import CG, RATE, STATIONARY
from analysis.table import STEPS


class Stopped(NamedTuple):
    """Early stopping on one problem at one inner step: the gain in query loss, relative to the end's."""

    problem: str
    rate: float
    steps: tuple[int, ...]  # the K that were chosen, one for each seed
    last: int
    gain: stats.Interval


def stopped(frame: pd.DataFrame) -> list[Stopped]:
    """Where the most inner steps reach a stationary point: what the query loss gains by stopping before.

    The K of a seed is the best one by the mean query loss of the *other* seeds' tasks, the last one among the
    choices; the gain of a task is 1 - its query loss there to that after the last K.
    """
    here = atlas.measuring(frame)
    here = here[(here["method.name"] == "maml") & here["query_loss"].notna()]
    found = []
    for (problem, rate), curve in here.groupby(["problem", RATE], sort=False):
        losses = _losses(curve)
        last = int(curve[STEPS].max())
        end = curve.loc[curve[STEPS] == last, "stationarity"].median()
        if end <= STATIONARY and losses.shape[1] > 1:
            found += _chosen(str(problem), float(str(rate)), losses, losses[last], last)
    return found


def _losses(curve: pd.DataFrame) -> pd.DataFrame:
    """Query losses: rows are tasks of seeds, columns are K."""
    return curve.pivot_table(index=["seed", "task"], columns=STEPS, values="query_loss").dropna()


def _chosen(problem: str, rate: float, losses: pd.DataFrame, end: pd.Series, last: int) -> list[Stopped]:
    """What ``losses`` at the K chosen on other seeds gain on ``end``; nothing of a single seed."""
    seeds = losses.index.get_level_values("seed")
    if seeds.nunique() < 2:
        return []
    gains, steps = pd.Series(np.nan, index=losses.index), []
    for seed in seeds.unique():
        mine = seeds == seed
        best = losses[~mine].mean().idxmin()
        steps.append(int(str(best)))
        gains[mine] = 1 - losses.loc[mine, best] / end.reindex(losses.index[mine])
    interval = stats.hierarchical(gains.to_numpy(), seeds.to_numpy())
    return [Stopped(problem, rate, tuple(steps), last, interval)]


class NoProx(NamedTuple):
    """iMAML without the proximal term on one problem, beside iMAML with it at the same settings."""

    problem: str
    length: stats.Interval
    error: stats.Interval
    beside: stats.Interval
    worse: int
    n: int
    stopped: Stopped | None  # early stopping in place of the term, against the last K with it


def no_prox(frame: pd.DataFrame) -> list[NoProx]:
    """Its length, its error to the implicit gradient of the problem with the term, and how often it is the
    farther one."""
    here = atlas.measuring(frame)
    alone = here[(here["method.name"] == "imaml-no-prox") & here["meta_grad_norm"].notna()]
    if alone.empty:
        return []
    alone = alone.assign(**{RATE: alone["method.learning_rate"].astype(float)})
    with_it = here[here["method.name"] == "imaml"]
    keys = ["problem", RATE, "dtype", STEPS, CG, "seed", "task"]
    both = [*keys, "error.implicit", "query_loss"]
    pairs = alone.merge(with_it[both], on=keys, how="left", suffixes=("", ".with"))
    found = []
    for problem, tasks in pairs.groupby("problem", sort=False):
        columns = ("meta_grad_norm", "error.implicit", "error.implicit.with")
        seeds = tasks["seed"].to_numpy()
        length, error, beside = (
            stats.hierarchical(tasks[column].to_numpy(dtype=float), seeds) for column in columns
        )
        told = tasks.dropna(subset=list(columns[1:]))
        worse = int((told["error.implicit"] > told["error.implicit.with"]).sum())
        last = int(tasks[STEPS].max())
        end = tasks[tasks[STEPS] == last].set_index(["seed", "task"])["query_loss.with"]
        early = []
        if end.notna().any() and tasks[RATE].nunique() == tasks[CG].nunique() == 1:
            early = _chosen(str(problem), float(tasks[RATE].iloc[0]), _losses(tasks), end, last)
        first = early[0] if early else None
        found.append(NoProx(str(problem), length, error, beside, worse, len(told), first))
    return found


def without_strength(frame: pd.DataFrame) -> pd.DataFrame:
    """Tasks of cells at lambda = 0: ``method.name``, ``seed``, ``meta_grad_norm``."""
    here = atlas.measuring(frame)
    strength = pd.to_numeric(here.get("problem.strength", pd.Series(dtype=float)), errors="coerce")
    here = here[(strength == 0) & here["method.name"].isin(["maml", "imaml"]) & here["task"].notna()]
    return here[["id", "problem", "method.name", "seed", "task", "meta_grad_norm"]]


class Learned(NamedTuple):
    """Test losses after training with a learned and with a fixed inner step: [seeds] each, by seed."""

    problem: str
    losses: pd.DataFrame


def learned(frame: pd.DataFrame) -> list[Learned]:
    """Of trainings on `learned_rate`: columns "maml", "maml fixed", "imaml", "imaml fixed" where they are."""
    found = training.trainings(frame)
    if "problem.name" not in found or found.empty:
        return []
    found = found[(found["problem.name"] == "learned_rate") & (found["status"] == "ok")].drop_duplicates("id")
    fixed = found["method.inner.name"].ne("learned_rate").map({True: " fixed", False: ""})
    found = found.assign(who=found["method.name"].astype(str) + fixed.astype(str))
    return [
        Learned(str(problem), runs.pivot_table(index="seed", columns="who", values="test.loss"))
        for problem, runs in found.groupby("problem", sort=False)
    ]
