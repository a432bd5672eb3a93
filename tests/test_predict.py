"""Predicted seconds and memory, against what runs of the same cells took."""

import os
import time
from pathlib import Path

import pytest
import torch

from bench import fake, inputs, measure, spec
from bench.cells import Cell, cell_id, expand
from bench.plugin import Resources
from bench.predict import DEFAULT_S, predict
from tests.toy_cells import cell, register_toys

STUDY = """
question = "How long?"
seeds = 3
n_tasks = 4
problem = {name = "sinusoid"}
inner = {name = "gradient_descent", steps = [2, 8], learning_rate = 0.01}

[[method]]
name = "maml"
backward = ["adjoint", "unrolled"]

[[method]]
name = "imaml"
linear = {name = "conjugate_gradient", iterations = 3, tolerance = [0.0, 1e-6]}
"""


faked = pytest.mark.skipif(
    torch.backends.cuda.is_built(),
    reason="of a torch built for CUDA no process that has gone backward can be forked",
)


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    (tmp_path / "study.toml").write_text(STUDY)
    return expand(spec.load(tmp_path / "study.toml"))


def record_of(of: Cell, seconds: float, **more) -> dict:
    return {"id": of.id, "status": "ok", "seconds": seconds, "cell": of.description} | more


def reading(records: dict[str, dict]):
    """As `Store.each` reads."""
    return lambda wanted: [record for cell_id, record in records.items() if wanted(cell_id)]


def nothing(wanted) -> list[dict]:
    return []


def seedless(of: Cell) -> str:
    return cell_id(of.description | {"seed": 0})


def test_a_done_cell_tells_of_the_same_with_another_seed(cells):
    done = [c for c in cells if c.description["seed"] == 0]
    pending = [c for c in cells if c.description["seed"] > 0]
    taken = {c.id: record_of(c, 10.0 + number) for number, c in enumerate(done)}
    by_kind = {seedless(c): taken[c.id]["seconds"] for c in done}
    for one, prediction in zip(pending, predict(pending, done, reading(taken)), strict=True):
        assert (prediction.seconds, prediction.how) == (by_kind[seedless(one)], "done cells")


def test_like_cells_tell_in_proportion_to_their_calls(cells):
    def steps(of: Cell) -> int:
        return of.description["method"]["inner"]["steps"]

    exact = [c for c in cells if not c.description["method"].get("linear", {}).get("tolerance")]
    done = [c for c in exact if steps(c) == 2]
    pending = [c for c in exact if steps(c) == 8]
    taken = {c.id: record_of(c, 100.0) for c in done}
    for prediction in predict(pending, done, reading(taken)):
        assert prediction.how == "like cells"
        assert 100.0 < prediction.seconds < 400.0  # something of a cell's time does not grow with its steps
    swapped = predict(done, pending, reading({c.id: record_of(c, 100.0) for c in pending}))
    assert all(25.0 < prediction.seconds < 100.0 for prediction in swapped)


@faked
def test_calls_alone_order_cells_by_their_work(cells):
    predictions = dict(zip(cells, predict(cells, [], nothing, budget_s=200.0), strict=True))
    for one, prediction in predictions.items():
        if one.description["method"]["name"] != "maml":
            continue
        assert prediction.how == "oracle calls"
        longer = {**one.description["method"]["inner"], "steps": 8}
        more = cell_id(one.description | {"method": one.description["method"] | {"inner": longer}})
        other = next(p for c, p in predictions.items() if c.id == more)
        assert prediction.seconds <= other.seconds
        assert prediction.memory <= other.memory


def test_what_cannot_be_known_gets_the_default():
    unknown = Cell(
        "x", {"problem": {"name": "no such"}, "method": {"name": "neither"}, "seed": 0, "device": "cpu"}
    )
    (prediction,) = predict([unknown], [], nothing)
    assert (prediction.seconds, prediction.memory, prediction.how) == (DEFAULT_S, None, "default")


@faked
def test_fake_tensors_have_the_peak_of_real_ones(cells):
    """To the byte, as long as all iterations are run; else no less."""
    with fake.faker() as faker:
        for one in (c for c in cells if c.description["seed"] == 0):
            prepared = inputs.prepare(one.description)
            peak = faker.peak(one.description, 60.0)
            assert peak is not None
            tasks = prepared.tasks
            given = prepared.meta.nbytes + sum(
                x.nbytes for x in (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
            )
            real = measure.tensor_bytes(prepared.run, prepared.device)["peak"]
            if one.description["method"].get("linear", {}).get("tolerance"):
                assert real <= peak - given < 1.5 * real
            else:
                assert peak - given == real


@faked
def test_the_peak_of_many_steps_follows_from_few(cells):
    """Exactly where every step adds the same, as in the adjoint sweep and the unrolled graph."""
    kinds = [
        c for c in cells if c.description["seed"] == 0 and c.description["method"]["inner"]["steps"] == 8
    ]
    with fake.faker() as faker:
        for one in kinds:
            inner = one.description["method"]["inner"] | {"steps": 20}
            long = one.description | {
                "method": one.description["method"] | {"inner": inner},
                "passes": ["time"],
            }
            (prediction,) = predict([Cell("x", long)], [], nothing, budget_s=200.0)
            assert prediction.memory == faker.peak(long, 60.0)


def test_what_asks_for_numbers_is_not_predicted(cells, monkeypatch):
    toys = register_toys(monkeypatch)
    monkeypatch.setattr(toys.ToyMethod, "__call__", lambda self, bilevel: bilevel.meta.sum().item())
    with fake.faker() as faker:
        assert faker.peak(cell().description, 60.0) is None


@faked
def test_a_fake_run_ends_in_time_and_the_next_one_works(cells):
    long = cells[0].description | {"n_tasks": 3}
    start = time.monotonic()
    with fake.faker() as faker:
        assert faker.peak(long, 0.01) is None
        assert time.monotonic() - start < 10.0
        assert faker.peak(long, 60.0) is not None


@faked
def test_a_fake_run_that_dies_is_no_prediction(cells, monkeypatch):
    monkeypatch.setattr(fake, "fake_peak", lambda description: os._exit(9))
    with fake.faker() as faker:
        assert faker.peak(cells[0].description, 60.0) is None
        monkeypatch.undo()
        assert faker.peak(cells[0].description, 60.0) is not None


def test_memory_of_done_cells_is_that_which_they_held(cells):
    done, pending = cells[:1], [c for c in cells if seedless(c) == seedless(cells[0])][1:]
    grown = {"resident": {"growth_bytes": 3 * 10**9}, "tensor_bytes": {"peak": 10**9}}
    (prediction, *_) = predict(pending, done, reading({cells[0].id: record_of(cells[0], 1.0, **grown)}))
    assert prediction.memory >= 3 * 10**9
    burst = {"status": "out_of_memory", "reason": {"type": "MemoryLimit", "resident_bytes": 8 * 10**9}}
    (prediction, *_) = predict(pending, done, reading({cells[0].id: record_of(cells[0], 1.0, **burst)}))
    assert prediction.memory == 16 * 10**9


@faked
def test_cells_on_cuda_leave_the_prediction_of_those_on_the_cpu_alone(cells):
    kinds = [c for c in cells if c.description["seed"] == 0]
    there = [Cell(f"cuda {c.id}", c.description | {"device": "cuda"}) for c in kinds]
    alone = predict(kinds, [], nothing, budget_s=60.0)
    both = predict([*there, *kinds], [], nothing, budget_s=60.0)
    assert [p.memory for p in both] == [None] * len(kinds) + [p.memory for p in alone]
    assert all(p.memory for p in alone)
    # Tensors on a device are not in the memory of the process, and its seconds are not the CPU's.
    (first, *_), record = there, record_of(there[0], 100.0, tensor_bytes={"peak": 2**40})
    mine, theirs = predict([first, kinds[0]], [first], reading({first.id: record}), budget_s=60.0)
    assert (mine.seconds, mine.memory) == (100.0, None)
    assert theirs == predict([kinds[0]], [], nothing, budget_s=60.0)[0]


def test_a_plugin_asks_for_what_it_needs(monkeypatch):
    toys = register_toys(monkeypatch)
    monkeypatch.setattr(toys.ToyMethod, "resources", Resources(gpus=2, minutes=5.0))
    monkeypatch.setattr(toys.Toy, "resources", Resources(gpus=1, memory_gb=9.0, minutes=3.0))
    (prediction,) = predict([cell()], [], nothing)
    assert prediction.resources == Resources(gpus=2, memory_gb=9.0, minutes=5.0)
    assert (prediction.seconds, prediction.how) == (300.0, "its plugins")


def test_a_budget_is_kept(cells):
    many = [
        Cell(str(i), c.description | {"n_tasks": 1 + i % 100, "method": {**c.description["method"]}})
        for i, c in enumerate(cells * 2000)
    ]
    start = time.monotonic()
    assert len(predict(many, [], nothing, budget_s=0.5)) == len(many)
    assert time.monotonic() - start < 20.0


TRAINING = """
question = "How long?"
seeds = 2
kind = "train"
problem = {name = "sinusoid"}
outer = "adam"
outer_steps = [1000, 3000]
evaluation_tasks = 600
inner = {name = "gradient_descent", steps = [2, 8], learning_rate = 0.01}
method = ["fomaml", "imaml"]
"""


@pytest.fixture
def trainings(tmp_path: Path) -> list[Cell]:
    (tmp_path / "training.toml").write_text(TRAINING)
    return expand(spec.load(tmp_path / "training.toml"))


def test_a_training_is_predicted_by_its_calls(trainings):
    """FOMAML: K inner gradients, an outer one and a value a step; K and a value a task that is evaluated."""
    predictions = dict(zip(trainings, predict(trainings, [], nothing, budget_s=200.0), strict=True))
    assert {p.how for p in predictions.values()} == {"oracle calls"}
    times = {}
    for one, prediction in predictions.items():
        of = one.description
        if of["seed"] == 0 and of["method"]["name"] == "fomaml":
            times[of["method"]["inner"]["steps"], of["outer_steps"]] = prediction.seconds
    call = 1e-3 + 2e-8 * 4 * (2 * 40 + 41 * 40 + 41)
    for steps in (2, 8):
        per_step = (times[steps, 3000] - times[steps, 1000]) / 2000
        assert per_step == pytest.approx((steps + 1.5) * call + 4e-3, rel=1e-9)
    evaluated = 600 + 11 * 100
    solves = evaluated / 25 * (1e-3 + 2e-8 * 25 * (2 * 40 + 41 * 40 + 41))
    assert times[8, 1000] - times[2, 1000] == pytest.approx(6 * (1000 * call + solves), rel=1e-9)


def test_trainings_tell_of_trainings_only(trainings, cells):
    few, many = ([c for c in trainings if c.description["outer_steps"] == n] for n in (1000, 3000))
    done = [c for c in few if c.description["seed"] == 0]
    taken = {c.id: record_of(c, 50.0) for c in done}
    measured = [c for c in cells if c.description["seed"] == 0]
    taken |= {c.id: record_of(c, 1e6) for c in measured}
    for prediction in predict(many, [*done, *measured], reading(taken), budget_s=200.0):
        assert prediction.how == "like cells"
        assert 50.0 < prediction.seconds < 151.0
    seeds = [c for c in few if c.description["seed"] == 1]
    resumed = {"train": {"resumed_at": 400, "seconds_per_step": 0.05}}
    taken = {c.id: record_of(c, 30.0, **resumed) for c in done}
    for prediction in predict(seeds, done, reading(taken)):
        assert (prediction.seconds, prediction.how) == (50.0, "done cells")  # 400 steps were taken before
    taken = {c.id: record_of(c, 1e6) for c in seeds}
    alone = predict(measured, [], nothing, budget_s=200.0)
    assert predict(measured, seeds, reading(taken), budget_s=200.0) == alone
