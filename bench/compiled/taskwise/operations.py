"""The operations that have a task-by-task form, and their C++ on single numbers."""

import math
from typing import Any

import torch

from bench.compiled.taskwise.terms import NAMES

aten, prims = torch.ops.aten, torch.ops.prims

VIEWS = {
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default,
    aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.slice.Tensor, aten.select.int, aten.alias.default,
    aten.detach.default, aten.unfold.default, aten.diagonal.default,
}  # fmt: skip
# In place, which is the same where nobody else sees the tensor; decompositions leave some.
FUNCTIONAL = {
    aten.squeeze_.dims: aten.squeeze.dims, aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.default: aten.squeeze.default, aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.add_.Tensor: aten.add.Tensor, aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor, aten.div_.Tensor: aten.div.Tensor,
}  # fmt: skip
SPLITS = {aten.split_with_sizes.default, aten.split.Tensor, aten.unbind.int}
SAME = {aten.clone.default}
NUMBERS = {aten.full.default: 1, aten.scalar_tensor.default: 0}  # the place of the number in the arguments
PRODUCTS = {aten.bmm.default, aten.mm.default}
REDUCTIONS = {aten.sum.dim_IntList: "sum", aten.amax.default: "larger", aten.amin.default: "smaller"}

_TWO = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}",
    "maximum": "larger({0}, {1})", "minimum": "smaller({0}, {1})",
    "clamp_min": "larger({0}, {1})", "clamp_max": "smaller({0}, {1})",
}  # fmt: skip
_ONE = {
    "neg": "-{0}", "reciprocal": "1 / {0}", "sign": "({0} > 0) - ({0} < 0)",
    "abs": "std::fabs({0})", "relu": "relu({0})", "sigmoid": "1 / (1 + std::exp(-{0}))",
    "sqrt": "std::sqrt({0})", "rsqrt": "1 / std::sqrt({0})",
    "exp": "std::exp({0})", "expm1": "std::expm1({0})", "log": "std::log({0})", "log1p": "std::log1p({0})",
    "tanh": "std::tanh({0})", "sin": "std::sin({0})", "cos": "std::cos({0})",
}  # fmt: skip
_COMPARED = {"le": "<=", "lt": "<", "ge": ">=", "gt": ">", "eq": "==", "ne": "!="}
_LOGICAL = {"and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "!{0}"}
_POWERS = {0: "1", 1: "{0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "std::sqrt({0})", -1: "1 / {0}"}


def _of(name: str) -> list[Any]:
    """The forms of an operation: of tensors, of a tensor and a number."""
    packet = getattr(aten, name)
    return [getattr(packet, form) for form in ("Tensor", "Scalar", "default") if form in packet.overloads()]


ARITHMETIC = {form: text for name, text in {**_TWO, **_ONE}.items() for form in _of(name)}
COMPARISONS = {form: f"{{0}} {sign} {{1}}" for name, sign in _COMPARED.items() for form in _of(name)}
LOGIC = {
    form: text
    for name, text in _LOGICAL.items()
    for way in ("bitwise_", "logical_")
    for form in _of(way + name)
}
WHERE, CONVERT, POWER = aten.where.self, prims.convert_element_type.default, aten.pow.Tensor_Scalar
POINTWISE = {*ARITHMETIC, *COMPARISONS, *LOGIC, WHERE, CONVERT, POWER}
CHEAP = {*COMPARISONS, *NUMBERS, CONVERT}  # rather done again than kept

Described = tuple[str, tuple[Any, ...], tuple[torch.dtype, ...]]


def described(node: Any, target: Any) -> Described | None:
    """Of a node with a pointwise ``target``: C++, arguments, and the types that these are converted to.

    None if it has no form with such arguments.
    """
    args, dtype = node.args, node.meta["val"].dtype
    values = [arg.meta["val"] if hasattr(arg, "meta") else arg for arg in args]
    if node.kwargs:
        return None
    if target is CONVERT:
        return "{0}", args[:1], (dtype,)
    if target is WHERE:
        return "{0} ? {1} : {2}", args, (torch.bool, dtype, dtype)
    if target is POWER:
        text = _POWERS.get(args[1]) if isinstance(args[1], int | float) else None
        return None if text is None or not dtype.is_floating_point else (text, args[:1], (dtype,))
    if target in COMPARISONS:
        return COMPARISONS[target], args, (torch.result_type(*values),) * 2
    if target in LOGIC:
        fits = all(isinstance(x, torch.Tensor) and x.dtype is torch.bool for x in values)
        return (LOGIC[target], args, (dtype,) * len(args)) if fits else None
    fits = dtype.is_floating_point or target in _of("add") + _of("sub") + _of("mul")
    return (ARITHMETIC[target], args, (dtype,) * len(args)) if fits else None


def literal(value: float, dtype: torch.dtype) -> str:
    """A number as C++."""
    if dtype is torch.bool:
        return "true" if value else "false"
    if dtype is torch.int64:
        return f"int64_t({int(value)})"
    value = float(value)
    if math.isnan(value):
        text = '__builtin_nan("")'
    else:
        text = f"{'-' if value < 0 else ''}__builtin_inf()" if math.isinf(value) else repr(value)
    return f"{NAMES[dtype]}({text})"
