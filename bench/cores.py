"""Cores, and CUDA devices, of their own for the workers of a sweep, as many as their cells have threads.

A library may start as many threads as its process may use cores, whatever torch was told: JAX does. A thread
keeps the cores of the thread that starts it, so the binding has to come before. A pool that one cell has
started keeps that cell's cores when a later cell of the same worker has another number of threads.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

SAMPLE_S = 0.1  # of watching which cores others keep busy


def available() -> list[int]:
    """The cores that this process may use; empty where the platform does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def deal(workers: int, threads: int) -> list[list[int]]:
    """For each worker ``threads`` cores that no other has, the idlest first.

    Nothing, an empty list each, where there are too few cores or the platform binds no process.
    """
    ours = available()
    if workers * threads > len(ours):
        return [[]] * workers
    if workers * threads < len(ours):
        busy = dict(enumerate(psutil.cpu_percent(SAMPLE_S, percpu=True)))
        ours.sort(key=lambda core: busy.get(core, 0.0))
    return [ours[i * threads : (i + 1) * threads] for i in range(workers)]


def devices(workers: int) -> list[str | None]:
    """For each worker its share of the CUDA devices of this process; None where they do not suffice."""
    ours = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    share = len(ours) // workers if workers else 0
    return [",".join(ours[i * share : (i + 1) * share]) if share else None for i in range(workers)]


@contextmanager
def bound(cores: Sequence[int], threads: int) -> Iterator[None]:
    """Run the block, and what it starts, on the first ``threads`` of ``cores``; without cores, anywhere."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
