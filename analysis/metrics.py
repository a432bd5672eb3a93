"""What can be put on an axis or into the summary: column, name and unit of every measure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis import units

Unit = Literal["error", "cosine", "ratio", "seconds", "bytes", "count", "loss", "share"]

FORMATS: dict[Unit, Callable[[float], str]] = {
    "error": units.digits,
    "cosine": units.cosine,
    "ratio": units.ratio,
    "seconds": units.seconds,
    "bytes": units.nbytes,
    "count": units.count,
    "loss": units.ratio,
    "share": units.share,
}


@dataclass(frozen=True)
class Metric:
    """One measure of the tidy frame: ``title`` for axes, ``short`` for tables, ``words`` for captions.

    ``per_task`` measures differ between the tasks of a cell, the others belong to the cell. ``low`` and
    ``high`` are columns with the cell's own interval, where it has one; ``missing`` is the column with the
    reason why there is no value. ``zero`` is the value up to which a log axis shows the measure at its floor.
    """

    column: str
    title: str
    short: str
    unit: Unit
    per_task: bool = False
    low: str | None = None
    high: str | None = None
    missing: str | None = None
    zero: float = 0.0
    words: str = ""

    @property
    def kind(self) -> str:
        """What is measured, in a word: "no memory measured"."""
        return {"bytes": "memory", "seconds": "time", "ratio": "time", "count": "calls"}.get(
            self.unit, self.unit
        )

    def format(self, value: float) -> str:
        """``value`` with its unit."""
        return FORMATS[self.unit](value)

    def describe(self, median: float, low: float, high: float) -> str:
        """Text such as "2.9e-5 [1.1e-5, 4.0e-5]"; without an interval where it is NaN."""
        text = self.format(median)
        return text if math.isnan(low) or low == high else f"{text} [{self.format(low)}, {self.format(high)}]"


ERRORS = {
    name: Metric(
        f"error.{name}",
        f"relative error to\n{to}",
        short,
        "error",
        True,
        missing=f"missing.{name}",
        zero=1e-17,
        words=f"relative l2 error to {words}",
    )
    for name, to, short, words in (
        ("maml", "exact K-step MAML", "error to exact MAML", "exact MAML through the same K steps"),
        (
            "implicit",
            "exact implicit gradient",
            "error to implicit gradient",
            "the exact implicit gradient (at the inner minimiser)",
        ),
    )
}
# Parts of these errors, by their proven upper bounds; and rounding alone, relative to the exact result.
ROUNDING = {
    name: Metric(
        f"certified.rounding.{name}",
        "of it rounding",
        "rounding",
        "error",
        True,
        zero=1e-17,
        words="its distance to the result in exact arithmetic (rounding)",
    )
    for name in ERRORS
}
TRUNCATION = {
    name: Metric(
        f"certified.truncation.{name}",
        "of it truncation",
        "truncation",
        "error",
        True,
        zero=1e-17,
        words="the distance of that to the exact gradient (truncation)",
    )
    for name in ERRORS
}
OWN_ROUNDING = Metric(
    "certified.rounding", "rounding error", "rounding", "error", True, zero=1e-17,
    words="relative l2 distance to the method's result in exact arithmetic",
)  # fmt: skip
COSINES = {
    name: Metric(
        f"cosine.{name}", f"cosine to {to}", f"cosine to {to}", "cosine", True, missing=f"missing.{name}"
    )
    for name, to in (("maml", "exact MAML"), ("implicit", "implicit gradient"))
}
SECONDS = Metric(
    "time.median_s", "time of one\nmeta-gradient", "time", "seconds", low="time.low_s", high="time.high_s",
    words="wall time",
)  # fmt: skip
CPU_SECONDS = Metric(
    "time.cpu_s", "CPU time of one\nmeta-gradient", "CPU time", "seconds",
    low="time.cpu_low_s", high="time.cpu_high_s", words="seconds of CPU over all threads",
)  # fmt: skip
RATIO = Metric(
    "time.ratio", "time / FOMAML's", "times FOMAML", "ratio", low="time.ratio_low", high="time.ratio_high",
    words="time as a multiple of first-order MAML's with the same inner solver",
)  # fmt: skip
RELATIVE = Metric(
    "time.relative", "time / FOMAML's", "times FOMAML", "ratio",
    low="time.relative_low", high="time.relative_high",
    words="time as a multiple of first-order MAML's with the inner solver of most methods",
)  # fmt: skip
CONTROL = Metric(
    "time.control_ratio", "A/A control", "A/A control", "ratio",
    low="time.control_ratio_low", high="time.control_ratio_high",
)  # fmt: skip
TENSOR_BYTES = Metric(
    "tensor_bytes.peak", "peak tensor bytes", "peak tensor bytes", "bytes", missing="tensor_bytes.missing",
    words="peak of the tensor bytes above what existed before the call",
)  # fmt: skip
RESIDENT = Metric(
    "resident.growth_bytes",
    "growth of the\nresident peak",
    "resident growth",
    "bytes",
    missing="resident.missing",
    words="growth of the resident peak of a fresh process",
)
CALLS = Metric(
    "calls.derivatives", "gradients +\nHessian products", "oracle calls", "count",
    words="oracle calls per task (gradients plus Hessian-vector products)",
)  # fmt: skip
TESTS = {
    "loss": Metric("test.loss", "test loss", "test loss", "loss"),
    "accuracy": Metric("test.accuracy", "test accuracy", "test accuracy", "share"),
}
COSTS = (SECONDS, TENSOR_BYTES, RESIDENT, CALLS)
SUMMARY = (*ERRORS.values(), *COSINES.values(), *TESTS.values())
SUMMARY += (SECONDS, RATIO, CONTROL, TENSOR_BYTES, RESIDENT, CALLS)


def listed(metrics: Sequence[Metric]) -> str:
    """What is measured, in words: "a, b and c"."""
    *most, last = (m.words or m.title.replace("\n", " ") for m in metrics)
    return f"{', '.join(most)} and {last}" if most else last
