"""What readers of records rely on; a record may hold more."""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

Values = list[bool | float | None]
Samples = list[float]


class Accuracy(TypedDict, total=False):
    adapted: dict[str, Values | None]
    stats: dict[str, Values]
    converged: list[bool]
    meta_grad_norm: Values
    references: dict[str, dict[str, Any]]


class Time(TypedDict, total=False):
    samples_s: Samples
    reference_s: Samples
    control_s: Samples


class Certified(TypedDict):
    bound: float
    tasks: list[dict[str, Any]]


class Cell(TypedDict):
    problem: dict[str, Any]
    method: dict[str, Any]


class Shape(TypedDict, total=False):
    cell: Cell
    reason: dict[str, Any] | None
    accuracy: Accuracy | None
    certified: Certified | None
    time: Time | None
    tensor_bytes: dict[str, Any] | None
    resident: dict[str, Any] | None
    numerics: dict[str, Any] | None
    calls: dict[str, int] | None
    environment: dict[str, Any] | None
    engine: dict[str, dict[str, Any]] | None
    pass_seconds: dict[str, float] | None


_SHAPE = TypeAdapter(Shape)


def shape_fault(record: dict[str, Any]) -> str | None:
    """Where a record's parts have another shape than readers expect, and why; None if nowhere."""
    try:
        _SHAPE.validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"is wrong at {'.'.join(map(str, first['loc']))} ({first['msg']})"
    return None
