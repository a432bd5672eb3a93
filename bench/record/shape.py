"""What readers of records rely on; a record may hold more."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

FINISHED = r"([\w-]+)\.([0-9a-f]{16})\.npz"  # of a training: cell, and how the SHA-256 of its file begins
Values = list[bool | FiniteFloat | None]


def _moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _has(*keys: str, unless: str = "missing") -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Checks that a table holds these keys, or the one that says why it does not."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        if unless not in table and (absent := [key for key in keys if key not in table]):
            raise ValueError(f"has no {absent[0]}")
        return table

    return check


class Reason(TypedDict):
    message: str
    type: NotRequired[str | None]
    traceback: NotRequired[str | None]


class Reference(TypedDict):
    missing: NotRequired[str]
    missing_tasks: NotRequired[dict[str, str]]
    how: NotRequired[str]
    relative_error: NotRequired[Values | None]
    cosine: NotRequired[Values | None]
    norm_ratio: NotRequired[Values | None]


class Accuracy(TypedDict):
    adapted: dict[str, Values | None]
    stats: dict[str, Values]
    converged: list[bool]
    meta_grad_norm: Values
    references: dict[str, Annotated[Reference, AfterValidator(_has("how"))]]


def _per_task(accuracy: Accuracy) -> Iterator[tuple[str, list[Any] | None]]:
    yield "converged", accuracy["converged"]
    yield "meta_grad_norm", accuracy["meta_grad_norm"]
    yield from accuracy["adapted"].items()
    yield from accuracy["stats"].items()
    for reference in accuracy["references"].values():
        for key in ("relative_error", "cosine", "norm_ratio"):
            yield key, reference.get(key)


def _as_long(lists: Iterator[tuple[str, list[Any] | None]]) -> None:
    first, n = "", None
    for name, values in lists:
        if values is None:
            continue
        if n is None:
            first, n = name, len(values)
        if len(values) != n:
            raise ValueError(f"{first} has {n} values, and {name} {len(values)}")


def _one_a_task(accuracy: Accuracy) -> Accuracy:
    _as_long(_per_task(accuracy))
    return accuracy


class Named(TypedDict):
    name: str


class Time(TypedDict):
    samples_s: list[FiniteFloat]
    reference_s: list[FiniteFloat]
    control_s: list[FiniteFloat]
    cpu_s: NotRequired[list[FiniteFloat]]
    reference: Named


def _rounds(time: Time) -> Time:
    keys = ("samples_s", "reference_s", "control_s", "cpu_s")
    _as_long((key, values) for key in keys if (values := time.get(key)) is not None)
    if not time["samples_s"]:
        raise ValueError("has no samples")
    return time


class Certified(TypedDict):
    bound: float
    tasks: list[dict[str, Any]]


class Summary(TypedDict):
    mean: float | None
    deviation: float | None
    half_width: float | None


class Evaluation(TypedDict):
    step: int
    split: str
    n_tasks: int
    loss: Summary
    accuracy: Summary | None


class TrainedFile(TypedDict):
    name: Annotated[str, StringConstraints(pattern=f"^{FINISHED}$")]
    sha256: str


class Trained(TypedDict):
    steps: int
    resumed_at: int
    seconds_per_step: float | None
    curve: dict[str, list[float | None]]
    evaluations: list[Evaluation]
    file: TrainedFile | None


class Assumptions(TypedDict):
    steps: list[int]
    sizes: dict[str, list[Values]]
    violated: dict[str, list[Values]]


def _one_a_point(found: Assumptions) -> Assumptions:
    lists = {**found["sizes"], **found["violated"]}
    _as_long((name, tasks) for name, tasks in lists.items())
    points: list[tuple[str, list[Any] | None]] = [("steps", found["steps"])]
    _as_long(iter(points + [(name, row) for name, tasks in lists.items() for row in tasks]))
    return found


class Switches(TypedDict):
    distances: list[FiniteFloat]
    mismatch: list[Values]
    jump: Values
    growth: Values


def _at_each_distance(found: Switches) -> Switches:
    _as_long((name, found[name]) for name in ("mismatch", "jump", "growth"))
    _as_long(iter([("distances", found["distances"]), *(("mismatch", row) for row in found["mismatch"])]))
    return found


class Cell(TypedDict):
    problem: dict[str, Any]
    method: dict[str, Any]


class Kernel(TypedDict):
    eager: NotRequired[str]
    error: NotRequired[FiniteFloat | None]
    eager_error: NotRequired[FiniteFloat | None]
    seconds: NotRequired[FiniteFloat]
    operations: NotRequired[int]


_KERNEL = _has("error", "eager_error", "seconds", "operations", unless="eager")


class Shape(TypedDict):
    cell: Cell
    reason: Reason | None
    started: Annotated[str, AfterValidator(_moment)]
    seconds: FiniteFloat
    accuracy: NotRequired[Annotated[Accuracy, AfterValidator(_one_a_task)] | None]
    time: NotRequired[Annotated[Time, AfterValidator(_rounds)] | None]
    tensor_bytes: NotRequired[Annotated[dict[str, Any], AfterValidator(_has("peak", "meter"))] | None]
    resident: NotRequired[Annotated[dict[str, Any], AfterValidator(_has("growth_bytes"))] | None]
    certified: NotRequired[Certified | None]
    train: NotRequired[Trained | None]
    numerics: NotRequired[dict[str, Any] | None]
    assumptions: NotRequired[Annotated[Assumptions, AfterValidator(_one_a_point)] | None]
    switches: NotRequired[Annotated[Switches, AfterValidator(_at_each_distance)] | None]
    calls: NotRequired[dict[str, int] | None]
    environment: NotRequired[dict[str, Any] | None]
    engine: NotRequired[dict[str, Annotated[Kernel, AfterValidator(_KERNEL)]] | None]
    pass_seconds: NotRequired[dict[str, FiniteFloat] | None]


_SHAPE = TypeAdapter(Shape)


def shape_fault(record: dict[str, Any]) -> str | None:
    """Where a record's parts have another shape than readers expect, and why; None if nowhere."""
    try:
        _SHAPE.validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"is wrong at {'.'.join(map(str, first['loc']))} ({first['msg']})"
    return None
