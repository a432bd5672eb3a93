"""What records say of iMAML's inner steps, in sentences."""

import math

import pandas as pd

from analysis import inner_steps, stats, style, table, units
from analysis.inner_steps import CG, DATA, IMAML, STRENGTH
from analysis.metrics import TESTS
from analysis.verdict import EVERYWHERE, Item, Verdict

NOTHING = "No error of iMAML with CG to a reference, and no training."


def verdicts(here: pd.DataFrame, trained: pd.DataFrame) -> list[Verdict]:
    """Of `inner_steps.measured` and `inner_steps.trained`: the answer, then each problem, then trainings."""
    overall = [*_answer(here), *_accuracy_answer(trained)]
    if not overall:
        return [Verdict(EVERYWHERE, "", [Item("No verdict", "", NOTHING)])]
    found = [Verdict(EVERYWHERE, "", overall)]
    for data in inner_steps.ordered(here[DATA]):
        mine = here[here[DATA] == data]
        for strength, group in mine.groupby(STRENGTH, sort=True):
            if items := _items(group):
                found.append(Verdict(data, f"lambda {strength:g}", items))
    for data in inner_steps.ordered(trained[DATA]):
        for strength, group in trained[trained[DATA] == data].groupby(STRENGTH, sort=True):
            found.append(Verdict(data, f"lambda {strength:g}, meta-trained", _trained(group)))
    return found


def _answer(here: pd.DataFrame) -> list[Item]:
    """How many steps until more are in vain, for each number of iterations; and who is the limit then."""
    parts, every = [], []
    for n, group in here.groupby(CG, sort=True):
        found = [s for _, one in group.groupby([DATA, STRENGTH]) if (s := inner_steps.settled(one))]
        if found:
            least, last = min(s.steps for s in found), max(s.steps for s in found)
            parts.append(f"after K = {least if least == last else f'{least} to {last}'} with CG {n}")
            every += found
    if not parts:
        return []
    known = here[here[inner_steps.IMPLICIT].notna()]
    settings = len(known.drop_duplicates([DATA, STRENGTH]))
    over = f"over {settings} pair{'s' if settings > 1 else ''} of problem and lambda, with intervals below"
    within = f"within {inner_steps.CLOSE - 1:.0%} of that with K = {max(s.most for s in every)}"
    text = (
        f"Its error to the implicit gradient stops falling {'; '.join(parts)} ({over}; {_tasks(known)}): "
        f"from there on it is {within}, or below {units.digits(inner_steps.TINY, 1)}."
    )
    items = [Item("How many inner steps does iMAML need?", "", text)]
    ratios = inner_steps.to_most_iterations(here)
    if len(ratios) > 1:
        top = max(ratios)
        parts = [f"CG {n} {_interval(r)}" for n, r in ratios.items() if n != top and not math.isnan(r.median)]
        limits = [n for n, r in ratios.items() if r.low > inner_steps.CLOSE]
        head = f"CG up to {max(limits)}" if limits else "No number of iterations"
        listed = f"{'; '.join(parts)} ({_n_of(next(iter(ratios.values())))})"
        text = f"{head}: with the most inner steps the error is that of CG {top} times {listed}."
        items.append(Item("Which number of iterations of CG is the limit there?", "", text))
    shares = [(n, group) for n, group in here.groupby(CG, sort=True) if _compared(group)]
    if shares:
        parts = [f"CG {n} {_share(group)}" for n, group in shares]
        text = f"Of tasks, over all K and lambda: {'; '.join(parts)}."
        items.append(Item("Nearer to the implicit gradient than to exact MAML", "", text))
    return items


def _items(here: pd.DataFrame) -> list[Item]:
    """Of one problem at one lambda."""
    items, parts = [], []
    for n, group in here.groupby(CG, sort=True):
        if (found := inner_steps.settled(group)) is not None:
            fall = "falls up to" if found.steps == found.most else "stops falling after"
            floor = f"with K = {found.most} it is {_interval(found.error)}"
            at = f"K = {found.steps} [{found.low}, {found.high}]"
            parts.append(f"CG {n} {fall} {at} ({floor}, {_n_of(found.error)})")
    if parts:
        items.append(Item("Error to the implicit gradient", "", f"{'; '.join(parts)}."))
    enough = inner_steps.enough_iterations(here)
    ratios = inner_steps.to_most_iterations(here)
    if enough is not None and len(ratios) > 1:
        top = max(ratios)
        parts = [f"CG {n} {_interval(r)}" for n, r in ratios.items() if n != top]
        ended = (
            f"CG {enough} is enough" if enough != top else f"CG {top} is the limit, or the inner steps are"
        )
        text = f"{ended}: errors to that of CG {top} are {'; '.join(parts)} ({_n_of(ratios[top])})."
        items.append(Item("With the most inner steps", "", text))
    parts = []
    for n, group in here.groupby(CG, sort=True):
        shares = {
            k: inner_steps.nearer(one).implicit.share for k, one in group.groupby(table.STEPS, sort=True)
        }
        ks = [str(k) for k, share in shares.items() if share > 0.5]
        if _compared(group):
            where = f"at K = {', '.join(ks)}" if ks else "at no K"
            parts.append(f"CG {n} {where} (over all K {_share(group)})")
    if parts:
        text = f"Most tasks: {'; '.join(parts)}."
        items.append(Item("Nearer to the implicit gradient than to exact MAML", "", text))
    return items


def _accuracy_answer(trained: pd.DataFrame) -> list[Item]:
    """Whether more steps buy accuracy, of every problem, lambda and method that was trained."""
    items = []
    for (data, strength, method), group in _settings(trained):
        accuracies = inner_steps.by_steps(group)
        if accuracies.shape[1] < 2:
            continue
        few, *_, many = inner_steps.numbers(accuracies)
        mean = inner_steps.gain(accuracies, few, many)
        verb = "lowers" if mean.high < 0 else "raises" if mean.low > 0 else "does not for certain change"
        _, fewest = inner_steps.enough_steps(accuracies)
        tail = "" if fewest is None else f"; K = {fewest} is the fewest not told apart from the best"
        text = (
            f" (lambda {strength:g}, {data}): K = {many} instead of {few} in training and test {verb} the "
            f"accuracy on held-out tasks: {_gain(mean)}{tail}."
        )
        items.append(Item("Do more inner steps buy accuracy?", method, text))
    return items


def _trained(here: pd.DataFrame) -> list[Item]:
    """Each K of each method against its best."""
    items = []
    for (_, _, method), group in _settings(here):
        accuracies = inner_steps.by_steps(group)
        best, fewest = inner_steps.enough_steps(accuracies)
        level = stats.student(accuracies[best].to_numpy())
        text = f" reaches {TESTS['accuracy'].describe(level.mean, level.low, level.high)} with K = {best}"
        text += f" ({_seeds(level.n)})"
        others = [
            f"K = {k} {_gain(inner_steps.gain(accuracies, k, best))}"
            for k in inner_steps.numbers(accuracies)
            if k != best
        ]
        text += f"; less {'; '.join(others)}" if others else ""
        tail = "" if fewest is None else f" Fewest not told apart from it: K = {fewest}."
        items.append(Item("Test accuracy", method, f"{text}.{tail}"))
    return items


def _settings(trained: pd.DataFrame) -> list[tuple[tuple[str, float, str], pd.DataFrame]]:
    """iMAML first, for it is asked about."""
    found = []
    for data in inner_steps.ordered(trained[DATA]):
        mine = trained[trained[DATA] == data]
        for strength, at in mine.groupby(STRENGTH, sort=True):
            names = sorted(style.ordered(at["method"]), key=lambda m, at=at: not _is_imaml(at, m))
            found += [((data, float(str(strength)), m), at[at["method"] == m]) for m in names]
    return found


def _is_imaml(here: pd.DataFrame, method: str) -> bool:
    return bool((here.loc[here["method"] == method, "method.name"] == IMAML).all())


def _gain(mean: stats.Mean) -> str:
    interval = f" [{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]" if mean.n > 1 else ""
    return f"{100 * mean.mean:+.1f} points{interval} ({_seeds(mean.n)})"


def _interval(found: stats.Interval) -> str:
    return units.interval(*found[:3])


def _compared(group: pd.DataFrame) -> bool:
    return inner_steps.nearer(group).implicit.n > 0


def _share(group: pd.DataFrame) -> str:
    implicit, maml = inner_steps.nearer(group)
    return f"{implicit.k:,} of {implicit.n:,} ({implicit}), nearer to MAML {maml.k:,} ({maml})"


def _tasks(here: pd.DataFrame) -> str:
    tasks = len(here.drop_duplicates([DATA, STRENGTH, "seed", "task"]))
    return f"n = {tasks:,} tasks of {_seeds(here['seed'].nunique())}"


def _n_of(found: stats.Interval) -> str:
    return f"n = {found.n:,} tasks of {_seeds(found.n_groups)}"


def _seeds(n: int) -> str:
    return units.many(n, "seed")
