"""Every library's time next to jitted JAX's: rows, ratios and tables for the study `peers`.

A method and its JAX twin are timed in cells of their own, each next to the same first-order MAML in eager
mode. So the ratio of the two is that of their ratios to it, and the speed of the machine drops out.
"""

from collections.abc import Callable

import pandas as pd

from analysis import labels, style, table, units
from analysis.metrics import ERRORS, RATIO, RESIDENT, Metric
from bench.record import NO_KERNEL, RAN_EAGER

FAMILIES = ("maml", "fomaml", "imaml")
BASELINE = "JAX"
LIBRARIES = {  # the end of a method's name -> the library
    "jax": BASELINE,
    "jaxopt": "jaxopt",
    "torchopt": "TorchOpt",
    "higher": "higher",
    "hypergrad": "hypergrad",
    "betty": "betty",
    "learn2learn": "learn2learn",
    "cpp": "C++",
}
OURS = "metabench, "
ORDER = (f"{OURS}compiled", f"{OURS}{RAN_EAGER}", f"{OURS}eager", *LIBRARIES.values())
TO_JAX = Metric(
    "time.to_jax", "time / jitted JAX's", "times JAX", "ratio",
    low="time.to_jax_low", high="time.to_jax_high", words="time as a multiple of jitted JAX's",
)  # fmt: skip


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns ``row`` (what is computed), ``library`` (by whom), and those of `TO_JAX`.

    Whatever else is swept, but the engine, is part of the row. Where several methods of one library compute
    the same, as two backward passes do, only the first stands in the common row; each other has a row of its
    own. JAX is what computes the same with the same inner solver at the same settings.
    """
    found = frame.copy()
    split = [_family(name) for name in found["method.name"]]
    known = pd.Series([library is not None for _, library in split], index=found.index)
    ran = found["engine"].replace(NO_KERNEL, RAN_EAGER)  # neither is what a compiled cell promises
    ours = OURS + ran.astype(str)
    found["library"] = pd.Series([library or "" for _, library in split], index=found.index)
    found["library"] = found["library"].where(found["library"] != "", ours)
    number = iterations(found)
    family = pd.Series([labels.pretty(name) for name, _ in split], index=found.index)
    cg = (", " + number.astype("Int64").astype(str) + " CG").where(number.notna(), "")
    row = (family + cg).where(known, found["method"])
    steps = (", K = " + found[table.STEPS].astype(str)).where(found[table.STEPS].notna(), "")
    end = steps + table.axes_phrase(frame, apart=("engine",))
    found["row"] = (row + end).where(~_crowded(found.assign(row=row + end)), found["method"] + end)
    same = [c for c in found if (c in table.AXES and c != "engine") or str(c).startswith("method.inner.")]
    key = [found["problem"], family, number.fillna(0), *(found[c] for c in (*same, table.STEPS))]
    jax = found[RATIO.column].where((found["library"] == BASELINE) & (found["status"] == "ok"))
    level = jax.groupby(key, dropna=False).transform("median")
    for end in ("", "_low", "_high"):
        found[TO_JAX.column + end] = found[RATIO.column + end] / level
    return found


def iterations(frame: pd.DataFrame) -> pd.Series:
    """Of the linear solve, whether the method or its solver has them; NaN where there is none."""
    columns = [c for c in ("method.linear.iterations", "method.iterations") if c in frame]
    numbers = frame[columns].apply(pd.to_numeric, errors="coerce").astype("float64")
    return numbers.bfill(axis=1).iloc[:, 0] if columns else pd.Series(float("nan"), index=frame.index)


def _family(name: str) -> tuple[str, str | None]:
    """A method's family and library: "" is ours, None says that its name is of no known form."""
    first, _, rest = str(name).partition("-")
    if first in FAMILIES and (not rest or rest in LIBRARIES):
        return first, LIBRARIES.get(rest, "")
    return str(name), None


def _crowded(found: pd.DataFrame) -> pd.Series:
    """Whether another method comes before in the same row and library."""
    by = found.groupby(["problem", "row", "library"], dropna=False)["method"]
    return found["method"] != by.transform(lambda names: style.ordered(names)[0])


def ordered(found: pd.DataFrame) -> dict[str, list[str]]:
    """Row -> the libraries in it; MAML, FOMAML, iMAML, others, each from the plainest on, few steps first."""
    families = [labels.pretty(name) for name in FAMILIES]

    def rank(row: str) -> tuple[int, int, object]:
        head, *rest = row.split(",")
        return families.index(head) if head in families else len(families), len(rest), style.rank(row)[1]

    order = sorted(found["row"].unique(), key=rank)
    return {row: libraries(found[found["row"] == row]) for row in order}


def libraries(found: pd.DataFrame) -> list[str]:
    """The libraries in ``found``, ours first, the floor last."""
    return sorted(found["library"].unique(), key=ORDER.index)


def ratio_table(frame: pd.DataFrame) -> str:
    """Markdown: a line for each computation, a column for each library, times as multiples of JAX's."""

    def entry(cells: pd.DataFrame) -> str:
        value, low, high = (cells[TO_JAX.column + end].median() for end in ("", "_low", "_high"))
        return f"{_ratio(value)} ({_ratio(low)}-{_ratio(high)})" if pd.notna(value) else ""

    return _markdown(frame, "time / jitted JAX's", entry)


def resource_table(frame: pd.DataFrame) -> str:
    """Markdown, as `ratio_table`: growth of the resident peak in MiB; the worst error to exact MAML."""

    def entry(cells: pd.DataFrame) -> str:
        growth, worst = cells[RESIDENT.column].median(), cells[ERRORS["maml"].column].max()
        memory = units.digits(growth / 2**20) if pd.notna(growth) else "?"
        return f"{memory}; {units.digits(worst) if pd.notna(worst) else '?'}"

    return _markdown(frame, "resident growth, MiB; worst error to exact MAML", entry)


def _ratio(value: float) -> str:
    return units.digits(value, 2 if value < 0.995 else 3)


def _markdown(frame: pd.DataFrame, corner: str, entry: Callable[[pd.DataFrame], str]) -> str:
    found = rows(frame)
    found = found[found["status"] == "ok"]
    columns = libraries(found)
    lines = [f"| {corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for problem, some in found.groupby("problem", sort=False):
        for row in ordered(some):
            by_library = dict(iter(some[some["row"] == row].groupby("library")))
            entries = [entry(by_library[name]) if name in by_library else "" for name in columns]
            lines.append(f"| {str(problem).partition(',')[0]}, {row} | " + " | ".join(entries) + " |")
    return "\n".join(lines)
