"""A graph as a function of tensors: planned, written, compiled, loaded, called."""

import ctypes
import platform
import struct
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor
from torch.fx import GraphModule

from bench import native
from bench.compiled.lower import Call
from bench.compiled.taskwise.emit import source
from bench.compiled.taskwise.plan import plan
from bench.compiled.taskwise.terms import UnsupportedError

MOST_BYTES = (
    1 << 20
)  # of one task: its inputs and its scratch; larger products are better taken from a library
FLAGS = ("-fno-math-errno", "-fopenmp-simd")


def lower(graph: GraphModule, inputs: Sequence[Tensor], shared: Sequence[bool], n_tasks: int) -> Call:
    """``graph`` compiled for tensors like ``inputs``, of ``n_tasks`` tasks; the ``shared`` have no rows.

    Raises `UnsupportedError` for a graph that is not for this lowering, by its operations and sizes alone,
    and `Declined` without a compiler.
    """
    if any(x.device.type != "cpu" for x in inputs):
        raise UnsupportedError("tensors on another device")
    steps = plan(graph, inputs, shared, n_tasks)
    text, scratch = source(steps)
    results = [(shape, memory.dtype) for memory, shape in steps.results]
    size = scratch + sum(x.numel() * x.element_size() // n_tasks for x in inputs)
    if size > MOST_BYTES:
        raise UnsupportedError(f"{size} bytes a task, where {MOST_BYTES} is the most")
    threads = min(torch.get_num_threads(), n_tasks)
    flags = (*FLAGS, *(("-fopenmp",) if threads > 1 else ()), *_vector_math())
    run = native.made("kernel", (_runtime() + text).encode(), flags).run
    run.argtypes, run.restype = (ctypes.c_char_p, ctypes.c_int), None
    pack = struct.Struct(f"{len(inputs) + len(results)}P").pack
    like = [torch.empty(shape, dtype=dtype) for shape, dtype in results]
    empty, place = torch.empty_like, Tensor.data_ptr  # half the time of torch.empty

    def call(values: list[Tensor]) -> list[Tensor]:
        made = [empty(x) for x in like]
        run(pack(*map(place, values), *map(place, made)), threads)
        return made

    return call


@cache
def _runtime() -> str:
    return files("bench.compiled.taskwise").joinpath("runtime.h").read_text(encoding="utf-8")


def _vector_math() -> tuple[str, ...]:
    """Where the C library has exp, tanh and others of a whole vector: glibc's, on x86."""
    name, version = platform.libc_ver()
    known = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    if known and platform.machine() in ("x86_64", "AMD64"):
        return ("-DVECTOR_MATH", "-Wl,--as-needed", "-lmvec")
    return ()
