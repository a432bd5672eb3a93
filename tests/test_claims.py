"""Claims: who has which cells, who lives, and what is left of those who do not."""

import os
import time

import pytest

from bench.record import Store, timestamp
from slurm import claims, ends
from slurm.claims import Claim, adopt, lay, read, survey
from slurm.ends import settle
from slurm.submission import submissions
from tests.fake_slurm import FakeQueue, submitted
from tests.toy_plugins import toy_cell, toy_record

CELLS = [toy_cell(seed) for seed in range(6)]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", "demo")


@pytest.fixture
def submission(store):
    """Three jobs of two cells each."""
    made = submitted(store, CELLS, per_job=2)
    made.add_jobs({0: "5_0", 1: "5_1", 2: "5_2"})
    lay(made, made.jobs())
    return made


def running(submission, job: str, *cells, since: float | None = None, **more) -> None:
    """The job says that it runs these cells."""
    claim = read(submission.claims / f"{job}.json")
    claim.running = {cell.id: since or time.time() for cell in cells}
    claim.node = "n1"
    for name, value in more.items():
        setattr(claim, name, value)
    claim.write(submission.claims / f"{job}.json")


def ids(*cells) -> set[str]:
    return {cell.id for cell in cells}


def test_live_jobs_have_their_cells_and_dead_ones_have_none(store, submission):
    queue = FakeQueue({"5_0": "RUNNING", "5_1": "PENDING", "5_2": "CANCELLED"})
    of = survey(store.folder, queue)
    assert of.taken() == ids(*CELLS[:4])
    assert settle(store, of) == []  # it ran nothing
    assert [path.stem for path in sorted(submission.claims.iterdir())] == ["5_0", "5_1"]
    assert sorted(queue.asked[0]) == ["5_0", "5_1", "5_2"]
    assert len(queue.asked) == 1  # one question for all
    assert store.ids() == {}


def test_a_job_that_waits_to_run_again_lives(store, submission):
    """Slurm says NODE_FAIL for seconds, and then queues it again."""
    running(submission, "5_0", CELLS[0])
    of = survey(store.folder, FakeQueue({"5_0": "NODE_FAIL"}))
    assert of.taken() == ids(*CELLS[:2])
    assert settle(store, of) == []
    assert store.ids() == {}


def test_what_a_dead_job_was_running_is_killed_with_slurms_word(store, submission):
    running(submission, "5_1", CELLS[2], CELLS[3], since=time.time() - 60)
    (first, second) = settle(store, survey(store.folder, FakeQueue({"5_1": "TIMEOUT"})))
    assert ids(CELLS[2], CELLS[3]) == {first["id"], second["id"]}
    record = store.read(CELLS[2].id)
    assert record["status"] == "killed"
    assert record["reason"]["message"] == "job 5_1 ended on n1 while it ran this cell: TIMEOUT"
    assert record["reason"]["type"] == "TIMEOUT"
    assert record["cell"] == CELLS[2].description
    assert 50 < record["seconds"] < 70
    assert settle(store, survey(store.folder, FakeQueue())) == []  # once


def test_slurm_may_have_forgotten_the_job(store, submission):
    running(submission, "5_1", CELLS[2])
    (record,) = settle(store, survey(store.folder, FakeQueue()))
    assert "Slurm no longer knows the job" in record["reason"]["message"]


def test_the_only_cell_of_a_job_out_of_memory_is_to_blame(store, submission):
    running(submission, "5_0", CELLS[0])
    running(submission, "5_1", CELLS[2], CELLS[3])
    states = {"5_0": "OUT_OF_MEMORY", "5_1": "OUT_OF_MEMORY"}
    settle(store, survey(store.folder, FakeQueue(states)))
    assert store.ids() == {CELLS[0].id: "out_of_memory", CELLS[2].id: "killed", CELLS[3].id: "killed"}


def test_what_was_told_to_stop_has_given_up_its_cells(store, submission):
    running(submission, "5_0", CELLS[0], signal="TERM")
    assert settle(store, survey(store.folder, FakeQueue({"5_0": "CANCELLED"}))) == []
    assert store.ids() == {}


@pytest.mark.parametrize("status", ["ok", "error"])
def test_what_was_finished_at_the_last_moment_is_no_loss(store, submission, status):
    running(submission, "5_0", CELLS[0], since=time.time() - 60)
    store.write(toy_record(CELLS[0], "demo") | {"status": status, "started": timestamp(30)})
    assert settle(store, survey(store.folder, FakeQueue())) == []
    assert store.ids() == {CELLS[0].id: status}


def test_an_older_failure_does_not_hide_the_loss(store, submission):
    running(submission, "5_0", CELLS[0])
    store.write(toy_record(CELLS[0], "demo") | {"status": "error", "started": timestamp(3600)})
    assert len(settle(store, survey(store.folder, FakeQueue()))) == 1


def test_a_job_that_ends_properly_meanwhile_leaves_nothing(store, submission):
    running(submission, "5_0", CELLS[0])
    of = survey(store.folder, FakeQueue())
    (submission.claims / "5_0.json").unlink()
    assert settle(store, of) == []
    assert store.ids() == {}


def test_without_an_answer_the_heartbeat_counts_and_nothing_is_settled(store, submission):
    running(submission, "5_1", CELLS[2])
    silent = submission.claims / "5_1.json"
    past = time.time() - 2 * claims.SILENCE_S
    os.utime(silent, (past, past))
    of = survey(store.folder, FakeQueue(silence="no Slurm here"))
    assert of.taken() == ids(*CELLS[:2], *CELLS[4:])
    assert of.silence == "no Slurm here"
    assert settle(store, of) == []
    assert silent.exists()


DAMAGED = [
    '{"job": "5_1"',
    "[]",
    '{"job": 5, "pack": 1, "cells": ["a"]}',
    '{"job": "5_2", "pack": 1, "cells": ["a"]}',
    '{"job": "5_1", "pack": 1, "cells": []}',
    '{"job": "5_1", "pack": "1", "cells": ["a"]}',
    '{"job": "5_1", "pack": 1, "cells": ["a"], "running": {"a": "now"}}',
    '{"job": "5_1", "pack": 1, "cells": ["a"], "running": ["a"]}',
    '{"job": "5_1", "pack": 1, "cells": ["a"], "given_up": {"a": null}}',
]


@pytest.mark.parametrize("damaged", [*DAMAGED, None])
def test_claims_may_be_deleted_or_damaged(store, submission, damaged):
    """What a job has is then what was written before it was sent."""
    (submission.claims / "5_0.json").unlink()
    place = submission.claims / "5_1.json"
    if damaged is None:
        place.unlink()
        place.mkdir()
    else:
        place.write_text(damaged)
    live = FakeQueue({"5_0": "RUNNING", "5_1": "PENDING"})
    of = survey(store.folder, live)
    assert of.taken() == ids(*CELLS[:4])
    assert settle(store, of) == []
    assert survey(store.folder, live).taken() == ids(*CELLS[:4])
    assert survey(store.folder, FakeQueue()).taken() == set()


def test_what_a_submit_that_died_has_sent_is_held(store):
    """sbatch had taken the second array when `submit` died: no id of it is noted anywhere."""
    made = submitted(store, CELLS, per_job=2)
    made.announce([2])
    made.add_jobs({2: "5"})
    made.announce([1, 0])
    of = survey(store.folder, FakeQueue({"6_0": "PENDING", "6_1": "RUNNING"}))
    assert {one.claim.job: set(one.claim.cells) for one in of.held} == {
        "6_0": ids(*CELLS[2:4]),
        "6_1": ids(*CELLS[:2]),
    }
    assert settle(store, of) == []


def test_where_a_submission_is_damaged_its_jobs_hold_all_that_it_has(store, submission):
    (submission.folder / "submission.json").write_text('{"study": "demo", "jo')
    for claim in submission.claims.iterdir():
        claim.unlink()
    live = FakeQueue({"5_0": "PENDING"})
    assert survey(store.folder, live).taken() == ids(*CELLS)
    (submission.folder / "packs.json").write_text("{")
    (held,) = survey(store.folder, live).alive()
    assert held.claim.cells == []  # `submit` refuses
    assert adopt(survey(store.folder, live)) == ["5_0"]


def test_waiting_jobs_get_their_claims_back_and_unfit_ones_are_named(store, submission):
    for claim in submission.claims.iterdir():
        claim.unlink()
    submission.task("5_0").touch()
    submission.task("5_2").touch()
    live = FakeQueue({"5_0": "PENDING", "5_1": "PENDING", "5_2": "RUNNING"})
    assert adopt(survey(store.folder, live)) == ["5_1"]
    assert [path.stem for path in submission.claims.iterdir()] == ["5_0"]  # who runs writes its own
    assert set(read(submission.claims / "5_0.json").cells) == ids(*CELLS[:2])


def test_a_job_of_others_that_has_the_id_now_is_not_ours(store, submission):
    running(submission, "5_0", CELLS[0])
    foreign = dict.fromkeys(("5_0", "5_1"), "somebody-elses")
    of = survey(
        store.folder, FakeQueue({"5_0": "RUNNING", "5_1": "PENDING", "5_2": "RUNNING"}, names=foreign)
    )
    assert of.taken() == ids(*CELLS[4:])
    assert [one.claim.job for one in of.alive()] == ["5_2"]
    (record,) = settle(store, of)
    assert "Slurm no longer knows the job" in record["reason"]["message"]


def test_an_id_that_a_later_submission_has_now_does_not_bring_the_earlier_one_to_life(store, submission):
    later = submitted(store, CELLS[4:])
    later.add_jobs({0: "5_0"})
    live = FakeQueue({"5_0": "RUNNING"}, names={"5_0": later.job_name})
    (held,) = survey(store.folder, live).alive()  # though the later one's has no claim yet
    assert (held.submission, set(held.claim.cells)) == (later, ids(*CELLS[4:]))


def test_a_job_outside_of_slurm_lives_as_long_as_it_beats(store, submission):
    path = submission.claims / "local-77.json"
    Claim("local-77", 0, [cell.id for cell in CELLS[:2]]).write(path)
    assert survey(store.folder, FakeQueue()).taken() == ids(*CELLS[:2])
    past = time.time() - 2 * claims.SILENCE_S
    os.utime(path, (past, past))
    assert survey(store.folder, FakeQueue()).taken() == set()


@pytest.mark.parametrize("fault", ["truncated", "gone", "other cells"])
def test_without_a_description_a_lost_cell_is_missing(store, submission, fault):
    running(submission, "5_1", CELLS[2] if fault != "other cells" else toy_cell(99))
    if fault == "truncated":
        submission.plan.write_bytes(submission.plan.read_bytes()[:50])
    elif fault == "gone":
        submission.plan.unlink()
    assert settle(store, survey(store.folder, FakeQueue({"5_1": "FAILED"}))) == []
    assert not (submission.claims / "5_1.json").exists()
    assert store.ids() == {}


def test_ends_of_jobs_are_told_until_their_cells_are_done(store, submission):
    submission.log("5_1").write_text("module: command not found")
    states = {"5_0": "FAILED", "5_1": "FAILED", "5_2": "PENDING"}
    running(submission, "5_0", CELLS[0], signal="TERM")  # told to stop, and says so in its log
    for _ in range(2):
        settle(store, survey(store.folder, FakeQueue(states)))
    (end,) = ends.noted(store.folder, set(), set())
    assert (end.job, end.words, set(end.cells)) == ("5_1", "FAILED", ids(*CELLS[2:4]))
    assert ends.lines([end]) == [
        "1 job has ended and left 2 cells undone: FAILED",
        f"  job 5_1, which wrote {submission.log('5_1')}",
    ]
    assert ends.noted(store.folder, ids(CELLS[2]), set())[0].cells == [CELLS[3].id]
    assert ends.noted(store.folder, ids(CELLS[2]), ids(CELLS[3])) == []
    next((submission.folder / "ended").iterdir()).write_text("[{}]")
    assert ends.noted(store.folder, set(), set()) == []


def test_a_job_that_fails_without_a_claim_is_told_too(store, submission):
    for claim in submission.claims.iterdir():
        claim.unlink()
    states = {"5_0": "FAILED", "5_1": "COMPLETED", "5_2": "CANCELLED"}
    settle(store, survey(store.folder, FakeQueue(states)))
    assert [end.job for end in ends.noted(store.folder, set(), set())] == ["5_0"]
    lines = ends.lines(ends.noted(store.folder, set(), set()))
    assert "wrote nothing (there is no" in lines[1]


def test_a_job_that_has_begun_keeps_its_own_claim(store, submission):
    running(submission, "5_0", CELLS[0])
    lay(submission, {0: "5_0"})
    assert set(read(submission.claims / "5_0.json").running) == ids(CELLS[0])


def test_a_study_that_was_never_submitted(store):
    queue = FakeQueue(silence="must not be asked")
    assert survey(store.folder, queue).held == []
    assert submissions(store.folder) == []


def test_claim_files_hold_one_job(submission):
    claim = read(submission.claims / "5_1.json")
    assert claim == Claim("5_1", 1, [cell.id for cell in CELLS[2:4]])
