"""What every process that the harness starts does first, and what it and its own processes hold."""

import ctypes
import signal
from contextlib import suppress
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
SCHEDULERS_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)  # Slurm sends them to every process of a job


def die_with_parent() -> None:
    """Where Linux offers it, ask to be killed with the parent, whatever a plugin is doing at that moment."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore_scheduler() -> None:
    """Leave the scheduler's signals to the parent; what this process starts ignores them too."""
    for number in SCHEDULERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SCHEDULERS_SIGNALS)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, as Slurm adds it up; pages they share count twice."""
    total = 0
    for one in _family(pid):
        with suppress(psutil.Error):  # it has ended
            total += psutil.Process(one).memory_info().rss
    return total


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():  # a kernel without it, or another system
        with suppress(psutil.Error):
            return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return [pid]
    found = [pid]
    for one in found:  # grows as it goes; far cheaper than psutil's look at every process of the machine
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, file.read_text(encoding="ascii").split())
    return found
