"""The words under a figure: question, settings, numbers, failures, statistic; all taken from the records."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import pandas as pd

from analysis import reasons, stats, style, table, training, units
from analysis.metrics import CONTROL
from analysis.units import many
from bench.record import NO_KERNEL, RAN_EAGER
from bench.spec import TRAIN

_NOT_SETTINGS = ("environment.", "time.", "tensor_bytes.", "resident.", "calls.", "pass_seconds.", "stats.")
_NOT_SETTINGS += ("error.", "cosine.", "norm_ratio.", "missing.", "how.", "numerics.", "certified.")
_NOT_SETTINGS += ("evaluation.", "test.", "train.")
_NOT_SETTINGS += ("assumptions.", "switches.")
_LABELS = {"id", "study", "status", "reason", "problem", "method", "started", "seconds", "task", "converged"}
_LABELS |= {"stationarity", "query_loss", "query_accuracy", "meta_grad_norm", "meta_grad_sha256", "contract"}
_LABELS |= {"method.inner.steps", "method.steps"}  # the column "steps" holds both
_LABELS |= {training.OUTER}
MOST_VALUES = 14
MOST_MISSING = 6
ELEMENTS = ("crosses", "rows", "shared", "floor", "turns")  # as `panels.mark` names them


def settings(frame: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """What was the same in all cells that have the setting, and what was varied: name -> values as text."""
    constant, varied = {}, {}
    for column in frame.columns:
        if column in _LABELS or column.startswith(_NOT_SETTINGS):
            continue
        values = frame[column].dropna().unique().tolist()
        if len(values) == 1:
            constant[column] = units.plain(values[0])
        elif len(values) > 1:
            texts = [units.plain(v) for v in sorted(values, key=_natural)]
            more = f", … ({len(texts)} values)" if len(texts) > MOST_VALUES else ""
            varied[column] = ", ".join(texts[:MOST_VALUES]) + more
    return constant, varied


def environment(frame: pd.DataFrame) -> dict[str, str]:
    """The environment of the cells: name -> value, or all values where cells ran in several."""
    found = {}
    for column in frame.columns:
        if column.startswith("environment."):
            values = [units.plain(v) for v in frame[column].dropna().unique()]
            if values:
                found[column.removeprefix("environment.")] = "; ".join(values)
    return found


def failures(frame: pd.DataFrame) -> str:
    """Text such as "3 timed_out (MAML, unrolled), 1 error (toy)"; "None" if all ended well."""
    found = table.failures(frame, ["method"])
    if found.empty:
        return "None"
    parts = []
    for status, group in found.groupby("status", sort=True):
        methods = style.ordered(group["method"])
        named = "; ".join(methods) if len(methods) <= 3 else f"{len(methods)} methods"
        parts.append(f"{group['n'].sum()} {status} ({named})")
    return ", ".join(parts)


def numbers(frame: pd.DataFrame) -> str:
    """How many cells, seeds, tasks, methods and problems the data have."""
    cells = table.cells(frame)
    ok, seeds = int((cells["status"] == "ok").sum()), cells["seed"].nunique()
    tasks = sorted(cells["n_tasks"].dropna().unique())
    per = "outer step" if len(cells) and (cells["passes"] == TRAIN).all() else "cell"
    return (
        f"{many(len(cells), 'cell')} ({ok} ended well), {many(seeds, 'seed')}, "
        f"{' or '.join(str(t) for t in tasks) or 'unknown'} tasks per {per}, "
        f"{many(cells['method'].nunique(), 'method')}, {many(cells['problem'].nunique(), 'problem')}"
    )


def references(frame: pd.DataFrame) -> str:
    """Which references are missing where and why, the most frequent first; "" if none is."""
    lines: list[tuple[int, str]] = []
    measured = frame[(frame["status"] == "ok") & frame["task"].notna()]
    for name in table.REFERENCES:
        known = measured[measured[f"missing.{name}"].notna() & measured[f"error.{name}"].isna()]
        for problem, group in known.groupby("problem", sort=False):
            of = int((measured["problem"] == problem).sum())
            for kind in reasons.kinds(group[f"missing.{name}"]):
                text = f"{name}: missing for {kind.n} of {of} values on {problem}: {kind.text}."
                lines.append((kind.n, text))
    lines.sort(key=lambda line: -line[0])
    rest = sum(n for n, _ in lines[MOST_MISSING:])
    more = f" And {rest:,} more, in {many(len(lines) - MOST_MISSING, 'group')} like these." if rest else ""
    return " ".join(text for _, text in lines[:MOST_MISSING]) + more


def control(frame: pd.DataFrame) -> str:
    """The A/A control of the timing; "" where nothing was timed."""
    values = table.cells(frame)[CONTROL.column].dropna()
    if values.empty:
        return ""
    low, high = stats.spread(values)
    return (
        f"FOMAML's time divided by its own, interleaved in the same way as every method's, has a median of "
        f"{values.median():.3f} and lies in {low:.3f} to {high:.3f} in 95% of {many(len(values), 'cell')}: "
        "ratios closer to 1 than that mean nothing."
    )


def axes(drawn: Collection[str]) -> str:
    """How to read the axes, as far as it takes ``drawn`` elements, beyond their scale."""
    text = ""
    if "floor" in drawn:
        text += (
            " A dotted line is a floor: what lies there is zero or at most its label, far below everything "
            "else; an error of 1e-17 or less counts as zero."
        )
    if "turns" in drawn:
        text += " Curves that coincide take turns in showing their markers."
    return text


def crosses(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """What has become of failed cells, and what their crosses mean, as far as they are ``drawn``."""
    if not {"crosses", "shared"} & set(drawn):
        return " Cells that failed are in no median." if (frame["status"] != "ok").any() else ""
    text = " Cells that failed are in no median; crosses mark them, with their number where it is not one"
    text += "; a marker beside them names the method" if "rows" in drawn else ""
    return text + ("; grey ones stand for several methods." if "shared" in drawn else ".")


def markers(frame: pd.DataFrame) -> str:
    """What the inside of a marker means, where methods ran on several engines."""
    ran = frame["engine"].dropna().unique()
    if len(ran) < 2:
        return ""
    meant = {"compiled": "filled", "eager": "hollow", RAN_EAGER: "half-filled", NO_KERNEL: "half-filled"}
    listed = "; ".join(f"{inside}: {name}" for name, inside in meant.items() if name in ran)
    return f"Of methods that ran on several engines: {listed}."


def caption(
    question: str,
    shows: str,
    frame: pd.DataFrame,
    more: Mapping[str, str] = MappingProxyType({}),
    drawn: Collection[str] = ELEMENTS,
) -> dict[str, str]:
    """Heading -> text, in reading order; empty parts are left out. ``more`` comes after what is shown,
    or in the place of a heading that every caption has.

    A "Statistic" in it stands for the usual one. Of the `ELEMENTS` of a figure only those ``drawn`` are
    explained.
    """
    constant, varied = settings(frame)
    parts = {
        "Question": question,
        "Shown": shows,
        **{heading: text for heading, text in more.items() if heading != "Statistic"},
        "Varied": _listed(varied),
        "Settings": _listed(constant),
        "Data": numbers(frame) + ".",
        "Failures": failures(frame) + ".",
        "Missing references": references(frame),
        "Statistic": more.get("Statistic", stats.STATISTIC + crosses(frame, drawn)),
        "Axes": more.get("Axes", "Linear." if "linear" in drawn else "Logarithmic.") + axes(drawn),
        "Markers": markers(frame),
        "A/A control": control(frame),
    }
    return {heading: text for heading, text in parts.items() if text}


def _listed(values: dict[str, str]) -> str:
    return "; ".join(f"{name} = {value}" for name, value in values.items())


def _natural(value: object) -> tuple[int, float, str]:
    is_number = isinstance(value, int | float)
    return (0, float(value), "") if is_number else (1, 0.0, str(value))  # type: ignore[arg-type]


def text(parts: dict[str, str], lines: Iterable[str] = ()) -> str:
    """The caption as a plain text file."""
    return "\n\n".join([*(f"{heading}: {body}" for heading, body in parts.items()), *lines]) + "\n"
