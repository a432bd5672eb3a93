"""What pages quote of the reference studies: the answers of their verdicts, and their figures."""

import textwrap
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import figures, report, rounding, table
from analysis.verdict import Verdict
from bench.order import GROUPS
from bench.record import Store
from bench.spec import load, shipped

REFERENCE = Path("results/reference")


@cache
def frame_of(results: Path, study: str) -> pd.DataFrame:
    """The tidy frame of a reference study; without rows where it has no records."""
    return table.frame(Store(results, study).records())


@cache
def answers(results: Path, study: str) -> list[Verdict]:
    """The verdicts of a reference study; none where it has no records."""
    frame = frame_of(results, study)
    if frame.empty:
        return []
    own = figures.module(load(results / study / f"{study}.toml"))
    return [verdict for _, group in report.verdicts(own, frame) for verdict in group]


def group_section(results: Path, heading: str) -> str:
    """Question, answer and figure of each study of a group; of one without records, how to get them."""
    parts = []
    for study in GROUPS[heading]:
        found = answers(results, study)
        question = load(shipped()[study]).question
        parts.append(f"### {question}")
        if found:
            parts += [textwrap.fill(found[0].items[0].text.strip(), 110), picture(study, 0, question)]
        else:
            parts.append(not_yet(study))
    return "\n\n".join(parts)


def rounding_section(results: Path) -> str:
    """The answer of `precision`, and how MAML's gap splits, by dtype and number of inner steps."""
    found = answers(results, "precision")
    if not found:
        return not_yet("precision")
    frame = frame_of(results, "precision")
    frame = frame[frame["method.name"] == "maml"]
    steps = sorted(int(k) for k in frame["steps"].unique())
    lines = [
        "| % rounding | " + " | ".join(f"K = {k}" for k in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for problem in frame["problem"].unique():
        for dtype, here in table.by_dtypes(frame[frame["problem"] == problem]):
            points = rounding.over_steps(here, "implicit").reindex(steps)
            shares = [rounding.percent(*point) for point in points.itertuples(index=False)]
            lines.append(f"| {problem}, {dtype} | " + " | ".join(shares) + " |")
    return textwrap.fill(found[0].items[0].text, 110) + "\n\n" + "\n".join(lines)


def picture(study: str, number: int, words: str) -> str:
    """Markdown that shows a study's figure of that number."""
    name = study if number == 0 else f"{study}-{number + 1}"
    return f"![{words}]({REFERENCE.name}/{study}/figures/{name}.png)"


def not_yet(study: str) -> str:
    """What stands where a reference study has no records."""
    return (
        f"Not measured yet: `metabench run {study} --results {REFERENCE}`, then `python -m analysis.readme`."
    )
