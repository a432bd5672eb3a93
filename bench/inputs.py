"""From a cell's description to its plugins and its data, the same on every machine and in every order."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from packaging.requirements import Requirement

from bench import api, registry
from bench.api import Bilevel, Declined, Estimate, Method, Problem, Tasks, Vector
from bench.at_once import asked, estimate
from bench.compiled import Engine
from bench.start import taken_over


@dataclass(frozen=True)
class Prepared:
    """A cell ready to run: its plugins, and its inputs in the cell's dtype on its device.

    at_once: how many tasks the method is given at a time.
    """

    problem: Problem
    method: Method
    tasks: Tasks
    meta: Vector
    seeds: tuple[int, ...]
    at_once: int
    engine: Engine | None = None

    @property
    def device(self) -> torch.device:
        return self.meta.device

    def bilevel(self) -> Bilevel:
        """The cell's two-level problem with counters at zero."""
        return Bilevel(self.problem, self.tasks, self.meta, seeds=self.seeds, engine=self.engine)

    def run(self, bilevel: Bilevel | None = None) -> Estimate:
        """One call of the method for all tasks, of ``bilevel`` where one is given."""
        return estimate(self.method, self.bilevel() if bilevel is None else bilevel, self.at_once)

    def versions(self) -> dict[str, str]:
        """The versions of the packages that the plugins need beyond metabench's own."""
        needs = {n for whole in (self.problem, self.method) for p in registry.parts(whole) for n in p.needs}
        return {name: version(name) for name in sorted(Requirement(need).name for need in needs)}

    def modules(self) -> list[str]:
        """The modules that define the plugins of this cell, parts included."""
        return sorted(
            {type(p).__module__ for whole in (self.problem, self.method) for p in registry.parts(whole)}
        )


def prepare(description: dict[str, Any]) -> Prepared:
    """Build the plugins and draw the inputs of a cell. Raises what the plugins raise."""
    device = torch.device(description["device"])
    if device.type == "cuda":
        _require_cuda(device)
    if description["dtype"] == "tf32" and device.type != "cuda":
        raise Declined(f"tf32 is a mode of CUDA's matrix products; this cell's device is {device}")
    problem = registry.build("problem", description["problem"])
    method = registry.build("method", description["method"])
    for part in (*registry.parts(problem), *registry.parts(method)):
        if reason := registry.unavailable(part):
            raise Declined(reason)
    drawn, tasks = draw(*_draw_key(description))
    meta, dtype = taken_over(description, drawn), dtype_of(description)
    seeds = tuple(seed_of("noise", description["seed"], task) for task in range(len(tasks)))
    # A copy: a method that writes into its input must not change what the next cell gets.
    own = meta.to(device, dtype, copy=True)
    engine = Engine() if is_compiled(description) else None
    few = asked(description, problem, method)
    return Prepared(problem, method, tasks.to(dtype, device), own, seeds, few, engine)


def _require_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise Declined("this machine has no CUDA device that torch can use")
    if (device.index or 0) >= (number := torch.cuda.device_count()):
        there = ", ".join(f"cuda:{i}" for i in range(number))
        raise Declined(f"this machine has no {device}; the CUDA devices that torch can use: {there}")


def exact(key: str) -> Bilevel:
    """The inputs that cells with this `exact_key` get, rounded to their dtype, in float64 on the CPU."""
    description = json.loads(key)
    drawn, tasks = draw(*_draw_key(description))
    meta, dtype = taken_over(description, drawn), dtype_of(description)
    problem = registry.build("problem", description["problem"])
    return Bilevel(problem, tasks.to(dtype).to(torch.float64), meta.to(dtype).to(torch.float64))


def exact_key(description: dict[str, Any]) -> str:
    """What the float64 problem of a cell depends on: cells that share it share their references."""
    names = ("problem", "seed", "n_tasks", "split", "dtype", "start")
    return json.dumps({name: description[name] for name in names if name in description}, sort_keys=True)


def _draw_key(description: dict[str, Any]) -> tuple[str, int, int, str]:
    table = json.dumps(description["problem"], sort_keys=True)
    return table, description["seed"], description["n_tasks"], description["split"]


@lru_cache(maxsize=2)  # neighbouring cells share them
def draw(problem_table: str, seed: int, n_tasks: int, split: Any) -> tuple[Vector, Tasks]:
    """Meta-parameters and tasks in float64 on the CPU.

    Each comes from a generator of its own, seeded by its name, the problem and ``seed`` alone: another cell,
    another method or more tasks never change it.
    """
    table = json.loads(problem_table)
    problem = registry.build("problem", table)
    named = {key: value for key, value in table.items() if key not in problem.later}
    meta = problem.init(generator("init", named, seed))
    rows = [problem.sample(generator("task", named, split, seed, i), 1, split) for i in range(n_tasks)]
    parts = {f.name: torch.cat([getattr(row, f.name) for row in rows]) for f in fields(Tasks)}
    return meta, Tasks(**parts)


def generator(*components: Any) -> torch.Generator:
    """A generator seeded by the sha256 of named components (JSON types)."""
    return torch.Generator().manual_seed(seed_of(*components))


def seed_of(*components: Any) -> int:
    text = json.dumps(components, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def is_compiled(description: dict[str, Any]) -> bool:
    """Whether the cell runs on compiled kernels."""
    return description.get("engine") == "compiled"


def dtype_of(description: dict[str, Any]) -> torch.dtype:
    return api.dtype_of(description["dtype"])


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run the block on ``number`` intra-op threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_cuda(device: torch.device, tf32: bool) -> Iterator[None]:
    """``device`` as the current one, and its libraries as cells want them, for the block.

    Matrix products and convolutions of float32 in TF32 or, other than by torch's default, in float32; of the
    algorithms for convolutions those that give the same bits every time. Another device changes nothing.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    wanted = [(matmul, "allow_tf32", tf32), (cudnn, "allow_tf32", tf32)]
    wanted += [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    with ExitStack() as stack:
        for module, name, value in wanted:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        if (device.index or 0) < torch.cuda.device_count():
            stack.enter_context(torch.cuda.device(device))
        yield


@contextmanager
def conditions(description: dict[str, Any]) -> Iterator[None]:
    """The cell's number of threads, its device and a global random state of its own, for the block.

    No plugin may use the global generators; one that does can neither see the caller's state nor change it.
    """
    device, tf32 = torch.device(description["device"]), description["dtype"] == "tf32"
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with threads(description["threads"]), torch.random.fork_rng(devices), on_cuda(device, tf32):
        seed = seed_of("global", description)
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        # Numbers too small for the format's full precision take a CPU many times as long as others.
        flush = is_compiled(description) and torch.set_flush_denormal(True)
        try:
            yield
        finally:
            if flush:
                torch.set_flush_denormal(False)
