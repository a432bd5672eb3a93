"""How right an estimate is: against the true meta-gradients, and where it stands in the inner problem."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.api import Bilevel, Estimate, PerTask, Vectors, finite
from bench.failures import BrokenPromiseError
from bench.reference import Reference


def check(estimate: object, bilevel: Bilevel) -> Estimate:
    """The estimate, detached. Raises `BrokenPromiseError` where it is none of this two-level problem."""
    if not isinstance(estimate, Estimate):
        raise BrokenPromiseError(f"a method returns a bench.api.Estimate; got {type(estimate).__name__}")
    shape, tasks = tuple(bilevel.start.shape), (len(bilevel.tasks),)
    dtype, device = bilevel.meta.dtype, bilevel.meta.device
    for name in ("meta_grad", "adapted"):
        _expect(f"the estimate's {name}", getattr(estimate, name), shape, dtype, device)
    _expect("the estimate's converged", estimate.converged, tasks, torch.bool)
    for name, stat in estimate.stats.items():
        _expect(f"the estimate's stats['{name}']", stat, tasks)
    stats = {name: stat.detach() for name, stat in estimate.stats.items()}
    return Estimate(estimate.meta_grad.detach(), estimate.adapted.detach(), estimate.converged, stats)


def verdict(estimate: Estimate) -> tuple[str, dict[str, Any] | None]:
    """Status and reason of a finished estimate: ok, non_finite or not_converged."""
    for name in ("meta_grad", "adapted"):
        wrong = ~finite(getattr(estimate, name))
        if wrong.any():
            return "non_finite", _reason(f"{name} is not finite in {_tasks(wrong)}")
    if not estimate.converged.all():
        missed = ~estimate.converged.cpu()
        seen = []
        for name, stat in estimate.stats.items():
            values = stat.cpu()[missed].double()
            if name.endswith("residual"):
                seen.append(f"{name} up to {values.abs().max():.2g}")
            elif name.endswith("smallest_curvature") and values.min() <= 0:
                seen.append(f"the curvature falls to {values.min():.2g}, so the Hessian is indefinite")
        return "not_converged", _reason("; ".join([f"not converged in {_tasks(missed)}", *seen]))
    return "ok", None


def assess(estimate: Estimate, bilevel: Bilevel, references: Mapping[str, Reference]) -> dict[str, Any]:
    """The accuracy part of a record; ``bilevel`` holds the cell's inputs in float64 on the CPU.

    Everything is computed in float64. Numbers without a meaning (no reference, a zero norm) are null.
    """
    digest = hashlib.sha256(estimate.meta_grad.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    meta_grad, adapted = (x.to("cpu", torch.float64) for x in (estimate.meta_grad, estimate.adapted))
    with torch.no_grad():
        first = bilevel.inner_grad(bilevel.start).norm(dim=1)
        accuracy = bilevel.outer_accuracy(adapted)
        return {
            "adapted": {
                "stationarity": _numbers(bilevel.inner_grad(adapted).norm(dim=1) / first),
                "query_loss": _numbers(bilevel.outer_value(adapted)),
                "query_accuracy": None if accuracy is None else _numbers(accuracy),
            },
            "stats": {name: _numbers(stat) for name, stat in estimate.stats.items()},
            "converged": estimate.converged.tolist(),
            "meta_grad_norm": _numbers(meta_grad.norm(dim=1)),
            "references": {name: compare(meta_grad, ref) for name, ref in references.items()},
            "meta_grad_sha256": digest.hexdigest(),
        }


def compare(meta_grad: Vectors, reference: Reference) -> dict[str, Any]:
    """Relative l2 error, cosine and norm ratio per task; `{"missing": reason}` where no task has one."""
    if len(reference.missing) == len(meta_grad):
        return {"missing": "; ".join(dict.fromkeys(reference.missing.values()))}
    size, true_size = meta_grad.norm(dim=1), reference.value.norm(dim=1)
    result: dict[str, Any] = {
        "how": reference.how,
        "relative_error": _numbers((meta_grad - reference.value).norm(dim=1) / true_size),
        "cosine": _numbers((meta_grad * reference.value).sum(dim=1) / (size * true_size)),
        "norm_ratio": _numbers(size / true_size),
    }
    if reference.missing:
        result["missing_tasks"] = {str(task): reason for task, reason in reference.missing.items()}
    return result


def _numbers(values: PerTask) -> list[float | None]:
    """As JSON has them: what is not finite is null."""
    rows = values.detach().to("cpu", torch.float64)
    return [value if finite else None for value, finite in zip(rows.tolist(), rows.isfinite(), strict=True)]


def _tasks(which: PerTask) -> str:
    numbers = which.nonzero().flatten().tolist()
    if len(numbers) == len(which):
        return "all tasks"
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"task {shown}" if len(numbers) == 1 else f"tasks {shown}"


def _reason(message: str) -> dict[str, Any]:
    return {"message": message, "type": "Estimate", "traceback": None}


def _expect(
    name: str,
    value: object,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> None:
    if not isinstance(value, Tensor):
        raise BrokenPromiseError(f"{name} must be a tensor; got {type(value).__name__}")
    for what, got, expected in (
        ("shape", tuple(value.shape), shape),
        ("dtype", value.dtype, dtype),
        ("device", value.device, device),
    ):
        if expected is not None and got != expected:
            raise BrokenPromiseError(f"{name} must have {what} {expected}, got {got}")
