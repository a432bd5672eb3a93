"""The answer of the atlas in words, every number with its interval and its n."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis import atlas, stats, stopping, style, units
from analysis.atlas import CG, IMAML_LOST, MAML_LOST, RATE, SUCCESS, Why
from analysis.metrics import COSINES, ERRORS
from analysis.stats import wilson
from analysis.table import STEPS
from analysis.verdict import Item

_WITHIN = f"within {100 * SUCCESS:g} %"


def overall(pairs: pd.DataFrame, found: pd.DataFrame) -> list[Item]:
    """Who succeeds, who is nearer, and what the loser died of; over all settings."""
    known = found[found["winner"].notna()]
    items = []
    if len(known):
        items += [Item("Who succeeds", "", _succeeds(known)), Item("Who is nearer", "", _nearer(known))]
        items += [Item(f"Why {who} loses", "", _why(known, *of)) for who, of in _SIDES.items()]
        items.append(Item("Which way a short outer step goes", "", _direction(pairs)))
    if items and (text := _memory(known)):
        items.append(Item("Memory", "", text))
    tasks = pairs.drop_duplicates([*atlas.WHERE, "seed", "task"])
    if not tasks["known"].all():
        text = (
            f"{_capital(atlas.share(~tasks['known']))} tasks (one at several settings counts for each) have "
        )
        text += "no implicit gradient (a kink, an indefinite Hessian, lambda = 0): there nobody wins."
        items.append(Item("No winner", "", text))
    return items


_SIDES: dict[str, tuple[str, Mapping[str, Why]]] = {
    "iMAML": ("maml", IMAML_LOST),
    "MAML": ("imaml", MAML_LOST),
}


def _succeeds(known: pd.DataFrame) -> str:
    which = atlas.succeeds(known)
    parts = []
    for name, reasons in (("maml", IMAML_LOST), ("imaml", MAML_LOST)):
        total = int((which == name).sum())
        top = known.loc[(which == name) & (known["winner"] == name), "why"].value_counts().sort_index()
        cause = ""
        if len(top):
            often = "always" if top.max() == total else "mostly" if 2 * top.max() > total else "most often"
            cause = f", {often} for {_short(reasons[str(top.idxmax())])} ({top.max()} of {total})"
        parts.append(atlas.share(which == name) + f" settings{cause}")
    both, none = (atlas.share(which == name) for name in ("both", "none"))
    return (
        f"MAML is {_WITHIN} of the exact implicit gradient and iMAML is not in {parts[0]}; iMAML is and MAML "
        f"is not in {parts[1]}; both are in {both}, neither in {none}. {_counts(known)}"
    )


def _short(why: Why) -> str:
    return why.words.split(":")[0]


def _nearer(known: pd.DataFrame) -> str:
    shares = {name: atlas.share(known["winner"] == name) for name in ("maml", "imaml", "neither")}
    return (
        f"MAML in {shares['maml']} settings, iMAML in {shares['imaml']}; not told apart in "
        f"{shares['neither']}."
    )


def _why(known: pd.DataFrame, winner: str, reasons: Mapping[str, Why]) -> str:
    lost = known[known["winner"] == winner]
    if lost.empty:
        return "It never does."
    parts = []
    for name, why in reasons.items():
        if (lost["why"] == name).any():
            ranges = _range(lost[lost["why"] == name])
            parts.append(f"{_short(why)} in {atlas.share(lost['why'] == name)} lost settings ({ranges})")
    return f"{_capital('; '.join(parts))}."


def _range(lost: pd.DataFrame) -> str:
    """Where in the map: the range of K, of CG and the median factor."""
    k, n = lost[STEPS], lost[CG]
    factor = units.digits(2 ** float(lost["ratio"].abs().median()))
    return f"K {_span(k)}, CG {_span(n)}, by a factor of {factor} in the median"


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _direction(pairs: pd.DataFrame) -> str:
    """The cosine is the first-order gain of an outer step, as a share of the largest."""
    texts = []
    for target, what in (("implicit", "at the minimiser"), ("maml", "after the K steps")):
        tasks = pairs[pairs["known"]] if target == "implicit" else pairs
        parts = []
        for who, name in (("maml", "MAML"), ("imaml", "iMAML")):
            own = tasks.drop_duplicates([*atlas.WHERE, "seed", "task"]) if who == "maml" else tasks
            own = own[own[f"{who}.cosine.{target}"].notna()]
            values = own[f"{who}.cosine.{target}"]
            if len(values):
                interval = stats.hierarchical(values.to_numpy(), own["seed"].to_numpy())
                text = f"{name}'s {COSINES[target].describe(*interval[:3])} (uphill in "
                parts.append(f"{text}{atlas.share(values < 0)} tasks at a setting)")
        if parts:
            texts.append(f"Of the steepest decrease of the query loss {what}, {'; '.join(parts)}.")
    return " ".join(texts)


def _memory(known: pd.DataFrame) -> str:
    equal = known[(known["winner"] == "neither") & known["bytes"].notna()]
    equal = equal[atlas.succeeds(equal) == "both"]
    if equal.empty:
        return ""
    return (
        f"Of the settings where both succeed and are not told apart, MAML takes {atlas.HEAVY:g} times the "
        f"peak tensor bytes of iMAML or more in {atlas.share(equal['bytes'] >= atlas.HEAVY)} (at most "
        f"{units.digits(equal['bytes'].max())} times)."
    )


def flips(found: pd.DataFrame) -> list[Item]:
    """For each problem at each inner step: from which K on MAML is nearer, by iterations of CG."""
    items = []
    turned = atlas.flips(found)
    for problem in sorted(turned["problem"].unique(), key=style.problem_rank):
        here = turned[turned["problem"] == problem]
        mine = found[(found["problem"] == problem) & found["winner"].notna()]
        texts = []
        for rate, curve in here.groupby(RATE, sort=True):
            parts = [
                f"{row[CG]:g} {'never' if pd.isna(row['flip']) else 'from K = ' + format(row['flip'], 'g')}"
                for row in curve.to_dict("records")
            ]
            texts.append(f"inner step {units.digits(float(str(rate)))}: with CG {', '.join(parts)}")
        text = f"{'; '.join(texts)} (K up to {here['largest'].max():g}; {_tasks(mine)})."
        items.append(Item(f"{problem}: MAML is nearer", "", _capital(text)))
    return items


def _counts(known: pd.DataFrame) -> str:
    return f"Medians over {_tasks(known)}."


def _tasks(known: pd.DataFrame) -> str:
    n, seeds = known["n"], known["seeds"]
    many = [
        f"{_span(values)} {what}{'' if values.max() == 1 else 's'}"
        for values, what in ((n, "task"), (seeds, "seed"))
    ]
    return " of ".join(many)


def beyond(frame: pd.DataFrame) -> list[Item]:
    """Early stopping, no proximal term, the inner step."""
    items = []
    if stopped := stopping.stopped(frame):
        items.append(Item("Early stopping as a regulariser", "", _stopped(stopped)))
    if texts := [_no_prox(one) for one in stopping.no_prox(frame)]:
        start = "What its inner loop minimises does not depend on theta: its exact gradient is 0. "
        items.append(Item("iMAML without proximal term", "", start + " ".join(texts)))
    if text := _zero(stopping.without_strength(frame)):
        items.append(Item("At lambda = 0", "", text))
    items += [Item("Meta-learning the inner step", "", _learned(one)) for one in stopping.learned(frame)]
    return items


def _stopped(found: list[stopping.Stopped]) -> str:
    """How often it gains and loses, then where it does."""
    gains, losses = (
        [one for one in found if sign * one.gain.low > 0 and sign * one.gain.high > 0] for sign in (1, -1)
    )
    counts = (wilson(len(some), len(found)) for some in (gains, losses))
    text = (
        "Where the most steps reach a stationary point, stopping earlier, at a K chosen on the other seeds, "
    )
    text += "lowers the query loss in {} and raises it in {} of {:,} problems and steps".format(
        *counts, len(found)
    )
    told = [
        f"on {one.problem} at step {units.digits(one.rate)}, K = {_listed(one.steps)} in place of {one.last} "
        f"lowers it by {_percent(one.gain)} ({_n(one.gain)})"
        for one in [*gains, *losses]
    ]
    return f"{text}{': ' if told else ''}{'; '.join(told)}."


def _no_prox(one: stopping.NoProx) -> str:
    beside = ""
    if one.n:
        share = wilson(one.worse, one.n)
        error = ERRORS["implicit"].describe(*one.beside[:3])
        beside = f", against {error} with the term, and farther in {share} of {one.n:,} tasks at a setting"
    text = (
        f"On {one.problem} it returns one of length {_interval(one.length)}, at a relative error of "
        f"{ERRORS['implicit'].describe(*one.error[:3])} to that of the problem with the term{beside} "
        f"({_n(one.length)})."
    )
    if one.stopped is not None:
        gain = one.stopped.gain
        told = "" if gain.low > 0 or gain.high < 0 else ", not told from 0"
        text += (
            f" Stopping after K = {_listed(one.stopped.steps)} steps, chosen on the other seeds, in place of "
            f"the term (against K = {one.stopped.last} with it) lowers the query loss by "
            f"{_percent(gain)}{told} "
            f"({_n(gain)})."
        )
    return text


def _listed(steps: Iterable[int]) -> str:
    return " or ".join(f"{k:g}" for k in sorted(set(steps)))


def _zero(tasks: pd.DataFrame) -> str:
    parts = []
    for name, who in (("imaml", "iMAML"), ("maml", "MAML")):
        mine = tasks[tasks["method.name"] == name]
        norms = mine["meta_grad_norm"].dropna()
        if len(norms):
            interval = stats.hierarchical(norms.to_numpy(), mine.loc[norms.index, "seed"].to_numpy())
            length = f"{who}'s gradient is exactly 0 in {atlas.share(norms == 0)} tasks"
            if (norms != 0).any():
                length += f" and has a median length of {_interval(interval)}"
            parts.append(f"{length} ({_n(interval)})")
    return f"{'; '.join(parts)}." if parts else ""


def _learned(one: stopping.Learned) -> str:
    losses = one.losses
    levels = []
    names = {"maml": "MAML with a learned step", "imaml": "iMAML with a learned step"}
    names |= {"maml fixed": "MAML with the step fixed", "imaml fixed": "iMAML with the step fixed"}
    for key, name in names.items():
        if key in losses:
            mean = stats.student(losses[key].to_numpy())
            levels.append(f"{name} {_triple(mean.mean, mean.low, mean.high)}")
    text = f"Test loss after training: {'; '.join(levels)} (mean of {len(losses)} seeds). "
    for who, name in (("maml", "MAML"), ("imaml", "iMAML")):
        if {who, f"{who} fixed"} <= set(losses):
            gain = losses[f"{who} fixed"] - losses[who]
            mean = stats.student(gain.dropna().to_numpy())
            if (gain.dropna() == 0).all():
                text += f"For {name} learning the step changes nothing, to the bit, in {mean.n} seeds. "
            else:
                told = "" if mean.low > 0 or mean.high < 0 else ", not told from 0"
                level = _triple(mean.mean, mean.low, mean.high)
                text += f"{name} gains {level} by learning it ({mean.n} seeds){told}. "
    return text.strip()


def _percent(interval: stats.Interval) -> str:
    ends = "" if np.isnan(interval.low) else f" [{100 * interval.low:.3g}, {100 * interval.high:.3g}]"
    return f"{100 * interval.median:.3g} %{ends}"


def _interval(interval: stats.Interval) -> str:
    return _triple(*interval[:3])


def _triple(middle: float, low: float, high: float) -> str:
    return units.interval(middle, low, high, 3)


def _n(interval: stats.Interval) -> str:
    return f"n = {interval.n:,} tasks, {units.many(interval.n_groups, 'seed')}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
