"""How long a cell is likely to take, guessed from the oracle calls that its method declares."""

from typing import Any

from bench.counts import Counts
from bench.measure import N_WARMUP
from bench.spec import TRAIN
from bench.train import TASKS_AT_ONCE

FRESH_PROCESS_S = 6.0  # that the resident pass starts
OVERHEAD_S = 0.5
CALL_S, CALL_PER_NUMBER_S = 1e-3, 2e-8  # one inner gradient of a batch: fixed, and per task and parameter
PROOF_CALL_S, PROOF_PER_NUMBER_S = 0.01, 2e-5  # of one task in balls, and of its reference
POINT_CALLS = 4_000  # of the pass assumptions, in inner gradients of the batch
MAP_CALLS = 150  # of the method, of the pass switches
DRAW_S = 1e-3  # of one task


def trains(of: dict[str, Any]) -> bool:
    """Whether a cell trains."""
    return TRAIN in of.get("passes", ())


def guess(cost: Counts, of: dict[str, Any], n_params: int) -> float:
    """Seconds of a cell whose method's calls cost ``cost`` each."""
    return _of_training(cost, of, n_params) if trains(of) else _of_passes(cost, of, n_params)


def _of_passes(cost: Counts, of: dict[str, Any], n_params: int) -> float:
    one = _weight(cost)
    rounds = N_WARMUP + of["repeats"] if "time" in of["passes"] else 0
    calls = one * (1 + rounds + ("tensor_bytes" in of["passes"]) + 2 * ("resident" in of["passes"]))
    calls += 2 * rounds * (1 + cost.inner_grads)  # first-order MAML beside it
    calls += 3 * one * ("accuracy" in of["passes"]) + 3 * one * ("numerics" in of["passes"])
    calls += POINT_CALLS * ("assumptions" in of["passes"])
    calls += MAP_CALLS * one * ("switches" in of["passes"])
    proof = one * of["n_tasks"] * ("certified" in of["passes"])
    fixed = OVERHEAD_S + FRESH_PROCESS_S * ("resident" in of["passes"])
    fixed += proof * (PROOF_CALL_S + PROOF_PER_NUMBER_S * n_params)
    return fixed + calls * _call(n_params, of["n_tasks"])


def _of_training(cost: Counts, of: dict[str, Any], n_params: int) -> float:
    """Outer steps, each on tasks of its own; and inner solves on all tasks of the evaluations."""
    step = (_weight(cost) + 0.5) * _call(n_params, of["n_tasks"]) + DRAW_S * of["n_tasks"]
    evaluated = (of["validations"] + 1) * of["validation_tasks"] + of["evaluation_tasks"]
    batches = evaluated / TASKS_AT_ONCE
    solves = batches * (cost.inner_grads + 1) * _call(n_params, TASKS_AT_ONCE) + DRAW_S * evaluated
    return OVERHEAD_S + of["outer_steps"] * step + solves


def _call(n_params: int, n_tasks: int) -> float:
    return CALL_S + CALL_PER_NUMBER_S * n_params * n_tasks


def _weight(cost: Counts) -> float:
    """Oracle calls in units of an inner gradient."""
    grads = cost.inner_grads + cost.outer_grads
    return 0.5 * (cost.inner_values + cost.outer_values) + grads + 2.5 * cost.inner_hvps
