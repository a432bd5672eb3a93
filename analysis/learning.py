"""What meta-training teaches: learning curves over seeds, and which outer optimizer does best.

Seeds are what is averaged over. Every cell of a seed starts from the same meta-parameters and meets the same
tasks, so that two optimizers are compared by the differences within seeds.
"""

from itertools import combinations

import pandas as pd

from analysis import stats, style, table, training, units
from analysis.labels import pretty
from analysis.metrics import TESTS, Metric
from analysis.training import OUTER

ON_THE_WAY = "val"
Sentence = tuple[str, str, str]  # the question, what answers it, the rest of the sentence


def runs(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of training cells; ``method`` without the outer optimizer, ``outer`` with what was swept."""
    found = training.trainings(frame)
    return found.assign(**{OUTER: found[OUTER] + table.axes_phrase(found)}) if len(found) else found


def curves(here: pd.DataFrame, kind: str) -> dict[str, pd.DataFrame]:
    """Outer optimizer -> mean, low, high and n over seeds by step, on the tasks of the validations.

    ``here`` are `runs` of one problem and method, ``kind`` is "loss" or "accuracy".
    """
    column = f"evaluation.{kind}"
    rows = here[(here["status"] == "ok") & (here["evaluation.split"] == ON_THE_WAY) & here[column].notna()]
    found = {}
    for outer in style.ordered(rows[OUTER]):
        mine = rows[rows[OUTER] == outer]
        steps = sorted(int(step) for step in mine["evaluation.step"].unique())
        values = {step: mine.loc[mine["evaluation.step"] == step, column] for step in steps}
        means = {step: stats.student(v.to_numpy(dtype=float)) for step, v in values.items()}
        found[outer] = pd.DataFrame.from_dict(means, orient="index", columns=list(stats.Mean._fields))
    return found


def measured(here: pd.DataFrame) -> Metric:
    """What decides: the accuracy on the test tasks, or their loss where nothing is classified."""
    return TESTS["accuracy" if here[TESTS["accuracy"].column].notna().any() else "loss"]


def tested(here: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The measure of every seed (rows) by every outer optimizer (columns); NaN where its cell failed."""
    ok = here[here["status"] == "ok"].drop_duplicates("id")
    return ok.pivot_table(index="seed", columns=OUTER, values=metric.column, aggfunc="mean")


def sentences(frame: pd.DataFrame) -> list[tuple[str, list[Sentence]]]:
    """For every method of the training cells of one problem: its name, and what its records say."""
    found = runs(frame)
    return [
        (method, _sentences(found[found["method"] == method])) for method in style.ordered(found["method"])
    ]


def answer(frame: pd.DataFrame) -> str:
    """In how many pairs of problem and method the outer optimizer decides, or settings of one optimizer."""
    found = runs(frame)
    swept, alike = [], []
    for (problem, method), here in found.groupby(["problem", "method"], sort=False):
        metric = measured(here)
        values = tested(here, metric)
        if values.shape[1] < 2:
            continue
        worst, best = values.mean().sort_values(ascending=metric.unit != "loss").index[[0, -1]]
        text = (
            f"on {problem}, {method}, with {best} a {metric.short} of {metric.format(values[best].mean())}, "
            f"with {worst} of {metric.format(values[worst].mean())}"
        )
        swept.append((_certain(values, best, worst), text))
        pairs = [p for p in combinations(values.columns, 2) if _name(here, p[0]) == _name(here, p[1])]
        alike += [(_name(here, one), _certain(values, one, other)) for one, other in pairs]
    if found[OUTER].nunique() == 1:
        return f"One outer optimizer only, {found[OUTER].iloc[0]}: what it reaches is below."
    if not swept:
        return "No two outer optimizers ended well on one problem with one method."
    sure = [text for certain, text in swept if certain]
    seeds = _seeds(found.loc[found["status"] == "ok", "seed"].nunique())
    parts = [
        f"The best outer optimizer certainly beats the worst in {len(sure)} of {len(swept)} pairs of "
        f"problem and method ({stats.LEVEL:.0%} interval of the difference within {seeds}, not corrected for "
        "the choice of the two)"
    ]
    for name in dict.fromkeys(name for name, _ in alike):
        mine = [certain for other, certain in alike if other == name]
        parts.append(f"two settings of {pretty(name)} differ in {sum(mine)} of {len(mine)}")
    return f"{'; '.join(parts)}. In particular {'; '.join(sure)}." if sure else f"{'; '.join(parts)}."


def _certain(values: pd.DataFrame, one: str, other: str) -> bool:
    """Whether the interval of the difference within seeds is on one side of zero."""
    mean = stats.student((values[one] - values[other]).dropna().to_numpy(dtype=float))
    return mean.n > 1 and (mean.low > 0 or mean.high < 0)


def _sentences(here: pd.DataFrame) -> list[Sentence]:
    metric = measured(here)
    values = tested(here, metric)
    if values.empty:
        return [("No verdict", "", "No cell ended well.")]
    sign = -1.0 if metric.unit == "loss" else 1.0
    best = max(values.columns, key=lambda outer: sign * values[outer].mean())
    found = [("Best outer optimizer", best, f": {_level(here, values[best], metric)}.")]
    others = [outer for outer in style.ordered(values.columns) if outer != best]
    found += [(f"Against {outer}", "", _against(values, best, outer, metric)) for outer in others]
    found += [
        (f"{one} against {other}", "", _against(values, one, other, metric))
        for one, other in combinations(others, 2)
        if _name(here, one) == _name(here, other)
    ]
    if learnt := _learnt(here, best, "accuracy" if metric.unit == "share" else "loss"):
        found.append(("Learnt", best, learnt))
    cells = here.drop_duplicates("id")
    bad = cells[cells["status"] != "ok"]
    if len(bad):
        parts = [
            f"{(bad[OUTER] == outer).sum()} of {(cells[OUTER] == outer).sum()} cells of {outer}"
            for outer in style.ordered(bad[OUTER])
        ]
        found.append(("Failed", "", f"{'; '.join(parts)}."))
    return found


def _level(here: pd.DataFrame, values: pd.Series, metric: Metric) -> str:
    tests = here[here["evaluation.split"] == "test"]
    tasks = " or ".join(f"{n:,}" for n in sorted(tests["evaluation.n_tasks"].dropna().unique()))
    steps = " or ".join(f"{n:,}" for n in sorted(tests["evaluation.step"].dropna().unique()))
    mean = stats.student(values.to_numpy(dtype=float))
    text = metric.describe(mean.mean, mean.low, mean.high)
    return f"{metric.short} {text} after {steps} outer steps, mean of {_seeds(mean.n)} of {tasks} tasks each"


def _against(values: pd.DataFrame, one: str, other: str, metric: Metric) -> str:
    """By how much the mean of ``one`` is better than that of ``other``, and whether that is certain."""
    both = values[[one, other]].dropna()
    mean = stats.student((both[one] - both[other]).to_numpy(dtype=float))
    if mean.n == 0:
        return "No seed ended well with both."
    sign, word = (-1.0, "lower") if mean.mean < 0 else (1.0, "higher")
    low, high = sorted((sign * mean.low, sign * mean.high))
    interval = f" [{_points(low, metric)}, {_points(high, metric)}]" if mean.n > 1 else ""
    tail = "" if low > 0 else ": not told apart"
    level = f"{_points(sign * mean.mean, metric)}{interval}"
    return f"{one}'s {metric.short} is {word} by {level} in {_seeds(mean.n)}{tail}."


def _points(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f} points" if metric.unit == "share" else metric.format(value)


def _learnt(here: pd.DataFrame, outer: str, kind: str) -> str:
    found = curves(here, kind).get(outer)
    if found is None or len(found) < 2:
        return ""
    ends = (TESTS[kind].describe(*found.iloc[i][["mean", "low", "high"]]) for i in (0, -1))
    first, last = (f"{text} at step {step:,}" for text, step in zip(ends, found.index[[0, -1]], strict=True))
    return f": the {kind} on validation tasks goes from {first} to {last}."


def _name(here: pd.DataFrame, outer: str) -> str:
    return str(here.loc[here[OUTER] == outer, "outer.name"].iloc[0])


def _seeds(n: int) -> str:
    return units.many(n, "seed")
