"""Graph to machine code by torch's compiler: the only module that touches its inside.

`torch._inductor`'s own entry point skips the guards that `torch.compile` evaluates at every call, which take
as long as a small kernel: whoever calls a kernel has to see to shapes and dtypes himself. Where this torch
has no such entry point, `torch.compile` does the same more slowly.
"""

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from bench import data

FOLDER = "TORCHINDUCTOR_CACHE_DIR"

log = logging.getLogger(__name__)

Call = Callable[[list[Tensor]], Sequence[Any]]


def lower(graph: GraphModule, inputs: Sequence[Tensor]) -> Call:
    """``graph`` compiled for tensors like ``inputs``; the result takes a list of tensors and empties it.

    Where that fails, it is done once more without the kernels kept on disk, which may be damaged.
    """
    inner = _entry()
    if inner is None:
        compiled = torch.compile(graph, fullgraph=True, dynamic=False)
        return lambda values: compiled(*values)
    from torch._inductor.utils import fresh_cache

    try:
        return _compile(inner, deepcopy(graph), inputs)
    except Exception as error:  # noqa: BLE001  whatever a damaged file makes of it
        with fresh_cache():
            made = _compile(inner, graph, inputs)
        told = (str(error).splitlines() or [""])[0]
        log.warning(
            "kernels in %s cannot be used (%s: %s); compiled without them. Delete the folder if this goes on",
            os.environ[FOLDER], type(error).__name__, told,
        )  # fmt: skip
        return made


def _compile(inner: Callable, graph: GraphModule, inputs: Sequence[Tensor]) -> Call:
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())  # the cache asks for one
    fakes = [mode.from_tensor(x, static_shapes=True) for x in inputs]
    # A wrong shape never gets here, see above; asking again takes microseconds of every call. The processor's
    # word on its vectors is enough: trial builds take seconds, and every kernel is built and checked anyway.
    settings = {"size_asserts": False, "cpp.vec_isa_ok": True}
    with config.patch(settings), tracing(TracingContext(mode)), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on speed, such as to take TF32 for float32
        return inner(graph, fakes, cpp_wrapper=all(x.device.type == "cpu" for x in inputs))


def found_on_disk() -> int:
    """How many graphs this process has found compiled on the disk so far."""
    counting = sys.modules.get("torch._dynamo.utils")  # not there, it has compiled nothing
    return 0 if counting is None else counting.counters["inductor"]["fxgraph_cache_hit"]


def in_transform() -> bool:
    """Whether a `torch.func` transform is at work, whose tensors a kernel cannot read."""
    return torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]


@cache
def decompositions() -> dict[Any, Callable]:
    """Operations that are better compiled as several simpler ones."""
    _prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, to itself
        from torch._inductor.decomposition import select_decomp_table

        return dict(select_decomp_table())


@cache
def _entry() -> Callable | None:
    """`torch._inductor`'s entry point, or None."""
    _prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, to itself
        try:
            from torch._guards import TracingContext, tracing  # noqa: F401
            from torch._inductor.compile_fx import compile_fx_inner
            from torch._inductor.utils import fresh_cache  # noqa: F401
        except ImportError:
            return None
    return compile_fx_inner


@cache
def _prepare() -> None:
    """See that kernels of `torch._inductor`, which asks when imported, outlive the process."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = _writable(data.cache_root() / "kernels")


def _writable(folder: Path) -> str:
    """``folder``; where it cannot be made or written, one that ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
        reason = "it is read-only"
    except OSError as error:
        reason = str(error)
    log.warning("kernels cannot be kept in %s (%s): every process compiles its own", folder, reason)
    passing = TemporaryDirectory(prefix="metabench-kernels-")
    atexit.register(passing.cleanup)
    return passing.name
