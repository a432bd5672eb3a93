"""Where MAML succeeds and iMAML fails, and the reverse: the maps, and what they do not show."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import atlas, atlas_map, atlas_words, grid, panels, scales, stats, style, units
from analysis.atlas import BOTH_LOST, CG, IMAML_LOST, MAML_LOST, RATE, SUCCESS
from analysis.labels import pretty
from analysis.metrics import ERRORS
from analysis.stats import wilson
from analysis.table import STEPS
from analysis.verdict import EVERYWHERE, Item, Verdict

TABLE = (
    "Each setting: median relative error to the exact implicit gradient of both, and log2 of their ratio "
    "with its 95% interval (above 0 iMAML is nearer)."
)
WINNERS = {"maml": "#b35806", "imaml": "#542788", "neither": "#888888"}


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "Maps: a cell for each setting, inner steps K across and iterations of iMAML's CG up; a column of "
        "panels for each problem, a row for each inner step size, from the smallest. Orange and a small "
        "letter: MAML is nearer to the exact implicit gradient; violet and a bold capital: iMAML is. The "
        "letter says what the loser died of. Last figure, above: where errors differ, the share of tasks "
        "where iMAML is nearer, against the stationarity of the adapted parameters, with 95% Wilson "
        "intervals; below: the cosine of iMAML's gradient to exact MAML, which is the first-order gain of "
        "a short outer step in the query loss after K steps, as a share of the largest."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """What the caption takes from the records beyond every caption."""
    letters = [(why.letter, f"iMAML lost, {why.words}") for why in IMAML_LOST.values()]
    letters += [(why.letter, f"MAML lost, {why.words}") for why in MAML_LOST.values()]
    failed = " Cells that failed are in no median as missing, for failure is what is looked for: they count "
    failed += "with the numbers that they left, those that left none with the largest error."
    failed = failed if (frame["status"] != "ok").any() else ""
    return {
        "Winning": "The smaller relative error to the exact implicit gradient, task by task, after the same "
        "K steps of the same inner solver; a setting is won if the 95% interval of the median log2 ratio "
        f"excludes 0. Errors are cut off below at {atlas.EXACT:g} and above at {atlas.LOST:g}, where what is "
        f"not finite stands. Success is a median error up to {SUCCESS:g}. Exact MAML's error to itself is 0, "
        "so the gradient through the steps cannot be the yardstick of both. Where fewer than half of the "
        "tasks have an implicit gradient (a kink, an indefinite Hessian at the solution, lambda = 0) nobody "
        "wins. And winning says nothing of the query loss after K steps, whose gradient is exact MAML.",
        "Letters": atlas_map.lettered(letters)
        + f"; x: both diverged; {atlas_map.EQUAL}: not told apart. Too few iterations: "
        "with the most that are there iMAML is at least twice as near, or at the most the residual exceeds "
        f"the stationarity. Not stationary: |grad G| above {atlas.STATIONARY:g} of that at theta.",
        "Statistic": "Medians over tasks with hierarchical bootstrap intervals over seeds and tasks. Shares "
        "of settings have Wilson intervals as if settings were drawn at random; they describe the grid of "
        "this study." + failed,
        "Axes": "Maps: K and CG in the order of the grid; colour is log2 of the ratio.",
    }


def draw(frame: pd.DataFrame) -> list[Figure]:
    """A map for each family of problems, then stationarity and direction."""
    pairs, found = _found(frame)
    figures = [atlas_map.draw(found[found["problem.name"] == name]) for name in atlas_map.families(found)]
    if not figures or (frame["status"] != "ok").all():
        missing = grid.remark(frame, ERRORS["implicit"])
        return panels.nothing(frame, missing or "no pair of MAML and iMAML with CG")
    return [*figures, _aside(pairs, found)]


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer, where it flips on each problem, and what only one of the two can do."""
    pairs, found = _found(frame)
    items = atlas_words.overall(pairs, found)
    if not any(item.term == "Who succeeds" for item in items):
        text = "No setting has both methods and an implicit gradient."
        items = [Item("No verdict", "", text), *items]
    made = [Verdict(EVERYWHERE, "", items)]
    for name in atlas_map.families(found):
        turned = atlas_words.flips(found[found["problem.name"] == name])
        made.append(Verdict(pretty(name), "from which K on MAML is nearer", turned))
    if more := atlas_words.beyond(frame):
        made.append(Verdict("what the distance does not judge", "", more))
    return [("", made)]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each problem: a row for each setting."""
    _, found = _found(frame)
    heads = ["inner step", "K", "CG", "MAML's error", "iMAML's error", "log2 of the ratio", "stationarity"]
    heads += ["memory, MAML / iMAML", "n", "why"]
    made = []
    for problem in sorted(found["problem"].unique(), key=style.problem_rank):
        rows = found[found["problem"] == problem].sort_values([RATE, STEPS, CG]).to_dict("records")
        made.append(
            {"problem": problem, "first": "nearer", "heads": heads, "rows": [_row(row) for row in rows]}
        )
    return made


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The settings as the verdict counts them, ``success`` with `atlas.succeeds`."""
    _, found = _found(frame)
    return {"settings": found.assign(success=atlas.succeeds(found))} if len(found) else {}


def _row(row: dict[Any, Any]) -> dict[str, Any]:
    winner = row["winner"] if pd.notna(row["winner"]) else None
    names = {"maml": "MAML", "imaml": "iMAML", "neither": "not told apart", None: "no implicit gradient"}
    reasons = IMAML_LOST if winner == "maml" else MAML_LOST | BOTH_LOST
    why = reasons[row["why"]].words if pd.notna(row["why"]) else ""
    interval = "" if np.isnan(row["low"]) else f"[{row['low']:.2f}, {row['high']:.2f}]"
    known = winner is not None
    return {
        "method": names[winner], "color": WINNERS.get(str(winner), "#dddddd"),
        "axes": [units.digits(row[RATE], 3), f"{row[STEPS]:g}", f"{row[CG]:g}"],
        "values": [
            *((units.digits(row[k]) if known else "", "") for k in ("maml", "imaml")),
            (f"{row['ratio']:.2f}" if known else "", interval),
            (units.digits(row["stationarity"]) if pd.notna(row["stationarity"]) else "not finite", ""),
            (units.digits(row["bytes"]) if pd.notna(row["bytes"]) else "", ""),
        ],
        "n": f"{row['n']} of {row['tasks']} tasks, {row['seeds']} seeds", "failed": why,
    }  # fmt: skip


def _found(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    pairs = atlas.pairs(frame)
    return pairs, atlas.settings(pairs, atlas.memory(frame))


def _aside(pairs: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """Who is nearer against stationarity, and iMAML's direction against K; a column for each family."""
    known = pairs[pairs["known"]]
    names = atlas_map.families(found)
    looks = {n: style.of(f"iMAML, CG {n:g}") for n in sorted(known[CG].unique())}
    labels = {f"iMAML, CG {n:g}": look for n, look in looks.items()}
    figure, axes = panels.canvas(2, len(names), list(labels))
    for j, name in enumerate(names):
        here = known[known["problem.name"] == name]
        scales.log_axis(axes[0, j], "x", _bins(here).dropna(), "error")
        scales.step_axis(axes[1, j], here[STEPS].astype(float).tolist(), 2.0)
        for n, look in looks.items():
            _nearer(axes[0, j], here[here[CG] == n], look)
            _cosines(axes[1, j], here[here[CG] == n], look)
        axes[0, j].set(ylim=(-0.05, 1.05), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
        axes[0, j].set_xlabel("|grad G| to that at theta")
        axes[1, j].set_xlabel("inner steps K")
        panels.title(axes[0, j], pretty(name), 34)
        for panel in axes[:, j]:
            panel.tick_params(labelleft=j == 0)
    lowest = min(panel.get_ylim()[0] for panel in axes[1])
    for panel in axes[1]:
        panel.set_ylim(lowest, 1.03)
    axes[0, 0].set_ylabel("tasks where\niMAML is nearer")
    axes[1, 0].set_ylabel("cosine of iMAML\nto exact MAML")
    panels.legend(figure, labels, failed=False)
    return figure


def _bins(here: pd.DataFrame) -> pd.Series:
    """The decade of the stationarity, by its middle; the ends hold what lies beyond."""
    exponent = np.floor(np.log10(here["imaml.stationarity"].clip(1e-7, 1e3).to_numpy(dtype=float)))
    return pd.Series(10.0 ** (exponent + 0.5), index=here.index)


def _nearer(axes: Axes, here: pd.DataFrame, look: style.Style) -> None:
    x, found = [], []
    here = here[here["ratio"] != 0]
    for middle, tasks in here.groupby(_bins(here), sort=True):
        x.append(float(str(middle)))
        found.append(wilson(int((tasks["ratio"] > 0).sum()), len(tasks)))
    if found:
        axes.plot(x, [s.share for s in found], **look.options(), clip_on=False)
        axes.vlines(x, [s.low for s in found], [s.high for s in found], color=look.color, linewidth=0.7)


def _cosines(axes: Axes, here: pd.DataFrame, look: style.Style) -> None:
    rows = []
    for k, tasks in here.groupby(STEPS, sort=True):
        values = tasks["imaml.cosine.maml"].to_numpy(dtype=float)
        rows.append((float(str(k)), *stats.hierarchical(values, tasks["seed"].to_numpy())[:3]))
    if rows:
        x, middle, low, high = map(list, zip(*rows, strict=True))
        axes.plot(x, middle, **look.options(), clip_on=False)
        axes.vlines(x, low, high, color=look.color, linewidth=0.7)
