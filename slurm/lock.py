"""One `submit` of a study at a time, by a file that its owner touches while it lives."""

import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.disk import beside, create, failed, write_new
from bench.errors import UsageError

BEAT_S = 30.0
LOCK_S = 600.0  # without a beat its owner is taken for dead


@contextmanager
def submitting(study_folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a study during the block; `UsageError` where another `submit` is under way.

    Yields what is to be called before jobs are sent: it raises `UsageError` once another has the lock, who
    took this process for dead because it stood still for long.
    """
    lock = study_folder / "jobs" / "submitting"
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    own = f"{owner}, {uuid.uuid4().hex}"  # two locks never say the same
    try:
        _remove_dead(lock)
        with beside(lock) as part:
            write_new(part, own.encode())
            create(part, lock)
    except FileExistsError:
        other = (_read(lock) or "").rpartition(",")[0] or "one that has just ended"
        raise UsageError(
            f"another `metabench submit` of this study is under way ({other}); wait for it, or delete {lock} "
            "where it has died"
        ) from None
    except OSError as error:
        raise failed("write", lock, error) from error

    def check() -> None:
        if _read(lock) != own:
            raise UsageError(
                f"another `metabench submit` of this study has taken {lock} over from this one; see what it "
                "sends, and submit again"
            )

    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, own, ended), daemon=True)
    beat.start()
    try:
        yield check
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):  # then it is dead in some minutes
            _remove(lock, own)


def _remove_dead(lock: Path) -> None:
    """Remove the lock of an owner that has died."""
    said = _read(lock)
    if said is not None and _is_silent(lock):
        _remove(lock, said, _is_silent)


def _remove(lock: Path, said: str, condition: Callable[[Path], bool] = Path.exists) -> None:
    """Remove the lock that says ``said``, and no other that has come into its place meanwhile.

    Only one process at a time has the right to it, which is a file of that lock's own; under it the lock
    cannot become another, so that a second look is enough.
    """
    name = hashlib.sha256(said.encode()).hexdigest()[:16]
    right = lock.with_name(f".{lock.name}.{name}.ending")
    try:
        right.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        if _read(lock) == said and condition(lock):
            lock.unlink()
    finally:
        right.unlink(missing_ok=True)


def _beat(lock: Path, own: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):
            if _read(lock) == own:
                os.utime(lock)


def _is_silent(lock: Path) -> bool:
    try:
        return time.time() - lock.stat().st_mtime > LOCK_S
    except FileNotFoundError:
        return False


def _read(lock: Path) -> str | None:
    """What a lock says; None if there is none."""
    try:
        return lock.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
