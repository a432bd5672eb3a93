"""How often each assumption of Theorem 1 is violated, and the error of the meta-gradient against how much."""

import textwrap
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import assumptions, grid, panels, scales, stats, style
from analysis.assumptions import DATA, NAMES, NETWORK, STAGE, STAGES, STRENGTH
from analysis.metrics import ERRORS
from analysis.style import Style
from analysis.verdict import EVERYWHERE, Item, Verdict

ZERO = 1e-9  # a size up to which a violation is none
ROW = 0.62  # inches of height of one assumption
LOOKS = {
    "linear": Style("#000000", "o", "-", filled=False),
    "relu": Style("#D55E00", "^", (0, (6, 1.5))),
    "tanh": Style("#0072B2", "s", (0, (4, 1.2, 1, 1.2)), filled=False),
    "tanh, half-trained": Style("#56B4E9", "X", (0, (3, 1, 1, 1))),
    "tanh, trained": Style("#0B2A66", "*", "-"),
    "softplus": Style("#009E73", "D", (0, (1, 1.2))),
    "conv4, batch norm": Style("#882255", "v", (0, (2, 1))),
    "conv4, no norm": Style("#8C510A", "P", (0, (5, 1, 1, 1, 1, 1)), filled=False),
}
DATA_SETS = ("linear regression", "sinusoid", "glyphs", "omniglot", "CIFAR-FS")
TABLE = "Shares of tasks that violate an assumption anywhere on their inner path, with 95% Wilson intervals."


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "First figure: the share of tasks that violate an assumption at a point or more of their inner path, "
        "against lambda, a curve for each network (at initialisation unless it says otherwise); a row for "
        "each assumption, a column for each data set; bars are 95% Wilson intervals. Second figure: a point "
        "for each task, the relative error of its meta-gradient against how much an assumption is violated "
        "at the adapted parameters; filled where G is strongly convex there, hollow where it is not."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """What the caption takes from the records beyond every caption."""
    here = assumptions.measured(frame)
    if here.empty:
        return {}
    more = {
        "Statistic": "Wilson score intervals of shares. A task counts once for each setting that it is "
        "measured at, and tasks of one seed share their meta-parameters: the intervals take for independent "
        "what is not quite. Cells that did not converge count here, for that is what a violation leads to.",
        "Axes": "Logarithmic but for the shares; what is 0 or negative stands at the floor.",
    }
    found = [
        f"{title} and {ERRORS[name].short}: {rank} (n = {rank.n:,})"
        for title, x in assumptions.violation_sizes(here).items()
        for name in ERRORS
        if (rank := assumptions.correlation(x, here[ERRORS[name].column])) is not None
    ]
    return more | (
        {"Rank correlation": "; ".join(found) + ". Spearman's, over all tasks that have both."}
        if found
        else {}
    )


def draw(frame: pd.DataFrame) -> list[Figure]:
    """The shares, then the scatter."""
    here = assumptions.measured(frame)
    if here.empty:
        return panels.nothing(frame, "no assumptions measured")
    looks = _looks(here)
    return [_shares(here, looks), _scatter(here, looks)]


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words: over everything, then for each data set."""
    here = assumptions.measured(frame)
    if here.empty:
        return [("", [Verdict(EVERYWHERE, "", [Item("No verdict", "", "No assumptions were measured.")])])]
    names = assumptions.names(here)
    matters = _matters(here)
    continuity = [name for name in assumptions.CONTINUITY if name in names]
    shares = (_share(assumptions.of_tasks(here, *some), "tasks") for some in (continuity, names))
    matter = "".join(f"; {text[0].lower()}{text[1:].rstrip('.')}" for text in matters[-1:])
    text = "{} violate an assumption of continuity somewhere on their inner path ({}), {} any assumption{}."
    listed = ", ".join(NAMES[name] for name in continuity)
    overall = [Item("Any assumption", "", text.format(next(shares), listed, next(shares), matter))]
    overall += [Item("Does violating matter?", "", text) for text in matters[:-1]]
    found = [Verdict(EVERYWHERE, "", overall)]
    for data in assumptions.ordered(here[DATA].tolist(), DATA_SETS):
        mine = here[here[DATA] == data]
        items = [Item(NAMES[name], "", _by_network(mine, name)) for name in names]
        drawn = mine[mine[STAGE] == STAGES["start"]]
        items += [Item("G strongly convex, by lambda", "", _by_strength(drawn))] if len(drawn) else []
        items += [
            Item("By training stage", network, _by_stage(tasks, names))
            for network, tasks in assumptions.at_all_stages(mine)
        ]
        found.append(Verdict(data, "tasks that violate each assumption", items))
    return [("", found)]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each data set: rows are networks and lambdas, columns the shares of tasks."""
    here = assumptions.measured(frame)
    names, looks = assumptions.names(here), _looks(here)
    made = []
    for data in assumptions.ordered(here[DATA].tolist(), DATA_SETS):
        mine = here[here[DATA] == data]
        body = []
        for (network, strength), group in mine.groupby([NETWORK, STRENGTH], sort=True):
            shares = [assumptions.of_tasks(group, name) for name in names]
            body.append(
                {
                    "method": str(network), "color": looks[str(network)].color, "axes": [f"{strength:g}"],
                    "values": [_cell(share) for share in shares], "failed": "",
                    "n": f"{len(group)} tasks, {group['seed'].nunique()} seeds",
                }
            )  # fmt: skip
        heads = ["lambda", *(NAMES[name] for name in names), "n", ""]
        made.append({"problem": data, "first": "network", "heads": heads, "rows": body})
    return made


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the verdict's numbers are read from."""
    return assumptions.evidence(assumptions.measured(frame))


def _cell(share: stats.Share) -> tuple[str, str]:
    text, _, interval = str(share).partition(" [")
    return text, f"[{interval}" if interval else ""


def _share(share: stats.Share, what: str) -> str:
    return f"{share} of {share.n:,} {what}"


def _by_network(frame: pd.DataFrame, name: str) -> str:
    """Text such as "relu 100 % [96, 100] of 120 tasks (98 % of 600 steps); tanh never, of 120 tasks"."""
    parts = []
    for network in assumptions.ordered(frame[NETWORK].tolist(), tuple(LOOKS)):
        mine = frame[frame[NETWORK] == network]
        share, steps = assumptions.of_tasks(mine, name), assumptions.of_steps(mine, name)
        text = _share(share, "tasks")
        if share.k > 0 and steps.n > share.n:
            text += f" ({steps} of {steps.n:,} steps)"
        parts.append(f"{network}: {text}")
    return "; ".join(parts) + "."


def _by_strength(frame: pd.DataFrame) -> str:
    """Text such as "at 0.01 100 % [96, 100] of 120 tasks; at 0.1 ..."."""
    parts = [
        f"at {strength:g} {_share(assumptions.of_tasks(group, 'strongly_convex'), 'tasks')}"
        for strength, group in frame.groupby(STRENGTH, sort=True)
    ]
    return "; ".join(parts) + "."


def _by_stage(frame: pd.DataFrame, names: list[str]) -> str:
    """What training changes: the shares at all stages, of each assumption that is violated at one."""
    changes: dict[str, list[str]] = {"more often": [], "less often": [], "as often": []}
    for name in names:
        shares = {
            stage: assumptions.of_tasks(frame[frame[STAGE] == stage], name)
            for stage in STAGES.values()
            if (frame[STAGE] == stage).any()
        }
        if any(share.k for share in shares.values()):
            listed = ", ".join(f"{stage} {_share(share, 'tasks')}" for stage, share in shares.items())
            changes[assumptions.change(frame, name)].append(f"{NAMES[name]} ({listed})")
    last = [stage for stage in STAGES.values() if (frame[STAGE] == stage).any()][-1]
    said = [f"{last}, it violates {how} {'; '.join(some)}" for how, some in changes.items() if some]
    return f": {'. '.join(said)}." if said else ": no assumption is violated at any stage."


def _matters(frame: pd.DataFrame) -> list[str]:
    """How the size of each violation ranks with the error of the meta-gradient."""
    texts = []
    for metric in ERRORS.values():
        ranks = {
            title: rank
            for title, x in assumptions.violation_sizes(frame).items()
            if (rank := assumptions.correlation(x, frame[metric.column])) is not None
        }
        if ranks:
            listed = "; ".join(f"{title} {rank} of {rank.n:,} tasks" for title, rank in ranks.items())
            texts.append(f"Rank correlation with the {metric.short}: {listed}.")
        convex = frame["assumptions.violating.strongly_convex"] == 0
        medians = [frame.loc[where, metric.column].dropna() for where in (convex, ~convex)]
        if all(len(some) for some in medians):
            fine, bad = (f"{some.median():.2g} ({len(some):,} tasks)" for some in medians)
            texts.append(
                f"The median {metric.short} is {fine} where G is strongly convex all along, {bad} elsewhere."
            )
    return texts


def _looks(frame: pd.DataFrame) -> Mapping[str, Style]:
    networks = assumptions.ordered(frame[NETWORK].tolist(), tuple(LOOKS))
    return {name: LOOKS.get(name) or style.of(name) for name in networks}


def _shares(frame: pd.DataFrame, looks: Mapping[str, Style]) -> Figure:
    names = assumptions.names(frame)
    data_sets = assumptions.ordered(frame[DATA].tolist(), DATA_SETS)
    figure, axes = panels.canvas(len(names), len(data_sets), list(looks), row=ROW)
    strengths = sorted(frame[STRENGTH].astype(float).unique())
    for j, data in enumerate(data_sets):
        mine = frame[frame[DATA] == data]
        for i, name in enumerate(names):
            _curves(axes[i, j], mine, name, looks, strengths)
            axes[i, j].tick_params(labelleft=j == 0, labelbottom=i == len(names) - 1)
        panels.title(axes[0, j], data, 24)
        axes[-1, j].set_xlabel("lambda")
    for i, name in enumerate(names):
        axes[i, 0].set_ylabel(textwrap.fill(NAMES[name], 14), rotation=0, ha="right", va="center")
    figure.suptitle("share of tasks that violate each assumption", fontsize=8)
    panels.legend(figure, dict(looks), failed=False)
    return figure


def _curves(
    axes: Axes, frame: pd.DataFrame, name: str, looks: Mapping[str, Style], strengths: list[float]
) -> None:
    scales.step_axis(axes, strengths, 1.2)
    axes.set(ylim=(-0.08, 1.08), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
    here = [network for network in looks if (frame[NETWORK] == network).any()]
    for k, network in enumerate(here):
        mine = frame[frame[NETWORK] == network]
        aside = 1.13 ** (k - (len(here) - 1) / 2)  # so that intervals stand side by side
        x, found = [], []
        for strength, group in mine.groupby(STRENGTH, sort=True):
            share = assumptions.of_tasks(group, name)
            if share.n:
                x.append(float(str(strength)) * aside)
                found.append(share)
        if found:
            look = looks[network]
            axes.plot(
                x, [s.share for s in found], **look.options(markersize=3.2, linewidth=0.7), clip_on=False
            )
            axes.vlines(x, [s.low for s in found], [s.high for s in found], color=look.color, linewidth=0.9)


def _scatter(frame: pd.DataFrame, looks: Mapping[str, Style]) -> Figure:
    metrics = grid.measured_or_first(frame, list(ERRORS.values()))
    sizes = assumptions.violation_sizes(frame)
    looks = {name: replace(look, filled=True) for name, look in looks.items()}  # hollow: not convex
    figure, axes = panels.canvas(len(metrics), len(sizes), list(looks), row=1.7)
    for i, metric in enumerate(metrics):
        for j, (title, x) in enumerate(sizes.items()):
            _points(axes[i, j], frame, x.astype(float), frame[metric.column].astype(float), looks)
            if rank := assumptions.correlation(x, frame[metric.column]):
                panels.note(axes[i, j], f"rank correlation {rank.rho:.2f}, n = {rank.n:,}", empty=False)
            axes[i, j].tick_params(labelleft=j == 0)
            if i == len(metrics) - 1:
                axes[i, j].set_xlabel(textwrap.fill(title, 22))
        axes[i, 0].set_ylabel(metric.title)
    panels.legend(figure, dict(looks), failed=False, lines=False)
    return figure


def _points(axes: Axes, frame: pd.DataFrame, x: pd.Series, y: pd.Series, looks: Mapping[str, Style]) -> None:
    known = np.isfinite(x) & np.isfinite(y)
    across = scales.log_axis(axes, "x", x[np.isfinite(x)], "error", ZERO, ticks=4)
    up = scales.log_axis(axes, "y", y[np.isfinite(y)], "error", 1e-17, ticks=5)
    convex = frame["assumptions.smallest"] > 0
    for network, look in looks.items():
        for where, inside in ((convex, look.color), (~convex, "white")):
            here = known & where & (frame[NETWORK] == network)
            axes.plot(
                across.place(x[here]), up.place(y[here]),
                **look.options(linestyle="None", markersize=2.6, markerfacecolor=inside, markeredgewidth=0.5),
            )  # fmt: skip
    if not known.any():
        panels.note(axes, "no task has both", empty=True)
