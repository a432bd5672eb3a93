"""One `submit` at a time, also where one has died, stands still, or ends while another looks."""

import os
import time
from pathlib import Path

import pytest

from bench.errors import UsageError
from slurm import lock as locks
from slurm.lock import submitting

PATIENCE_S = 60.0


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "jobs" / "submitting"


def make_old(lock: Path, text: str | None = None) -> None:
    """As if its owner had not touched it for long."""
    lock.parent.mkdir(exist_ok=True)
    if text is not None:
        lock.write_text(text)
    past = time.time() - 2 * locks.LOCK_S
    os.utime(lock, (past, past))


def test_one_submit_at_a_time(tmp_path, lock):
    with submitting(tmp_path) as check:
        said = rf"under way \(process {os.getpid()} on [^,]*\); .*delete .*submitting"
        with pytest.raises(UsageError, match=said), submitting(tmp_path):
            pass
        check()
        assert lock.exists()
    assert list(lock.parent.iterdir()) == []


def test_the_lock_of_one_that_died_gives_way(tmp_path, lock):
    make_old(lock, "one that died")
    with submitting(tmp_path):
        pass
    assert list(lock.parent.iterdir()) == []


def test_a_lock_that_comes_while_a_dead_one_is_looked_at_stays(tmp_path, lock, monkeypatch):
    make_old(lock, "one that died")
    stat, others = Path.stat, []

    def stat_and_let_another_in(path: Path, **options):
        seen = stat(path, **options)
        if path == lock and not others:
            others.append(submitting(tmp_path))
            others[0].__enter__()
        return seen

    monkeypatch.setattr(Path, "stat", stat_and_let_another_in)
    with pytest.raises(UsageError, match="under way"), submitting(tmp_path):
        pass
    assert lock.exists()
    others[0].__exit__(None, None, None)
    assert list(lock.parent.iterdir()) == []


def test_who_was_taken_for_dead_sends_nothing_more_and_leaves_the_lock_of_the_other(tmp_path, lock):
    first = submitting(tmp_path)
    check = first.__enter__()
    make_old(lock)
    with submitting(tmp_path) as check_other:
        with pytest.raises(UsageError, match=r"taken .* over from this one"):
            check()
        first.__exit__(None, None, None)
        check_other()
    assert list(lock.parent.iterdir()) == []


def test_a_lock_is_touched_while_its_owner_waits(tmp_path, lock, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    with submitting(tmp_path):
        make_old(lock)
        end = time.monotonic() + PATIENCE_S
        while time.time() - lock.stat().st_mtime > locks.LOCK_S:
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(UsageError, match="under way"), submitting(tmp_path):
            pass


@pytest.mark.parametrize("there", ["file", "folder"])
def test_where_no_lock_can_be(tmp_path, lock, there):
    if there == "file":
        lock.parent.write_text("a file where a folder must be")
    else:
        lock.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot write .*submitting"), submitting(tmp_path):
        pass
