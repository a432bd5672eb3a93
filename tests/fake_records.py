"""Made-up records in the schema of `bench.record`, always the same ones, for tests of figures and reports.

They look like real ones: errors fall with inner steps and CG iterations down to rounding, costs grow.
Nothing here is measured.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.spec import Spec

Record = dict[str, Any]
STATUSES = ("not_converged", "non_finite", "error", "out_of_memory", "timed_out", "killed", "declined")
ALL_PASSES = ("accuracy", "time", "tensor_bytes", "resident")
STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
FOMAML = {"name": "fomaml"}
MAMLS = [{"name": "maml", "backward": b} for b in ("adjoint", "unrolled", "checkpointed")]
LINEAR = {"name": "linear_regression", "dim": 50, "condition": 6.0, "strength": 2.0}
HARD = LINEAR | {"condition": 100.0, "strength": 0.12}
SINUSOID = {
    "name": "sinusoid", "shots": 10, "strength": 40.0,
    "network": {"name": "mlp", "hidden": [40, 40], "activation": "relu"},
}  # fmt: skip
OMNIGLOT = {"name": "omniglot", "ways": 20, "shots": 5, "strength": 2.0, "rotations": True}
CONV = {"name": "glyphs", "ways": 5, "shots": 1, "strength": 200.0, "network": {"name": "conv4"}}
PARAMETERS = {"linear_regression": 50, "omniglot": 112000, "glyphs": 112000}
# How long a library takes for what eager mode does in 1, and bytes of its resident growth to the tensors'.
LIBRARIES = {"jax": (0.3, 1.5), "jaxopt": (0.35, 1.6), "torchopt": (4.0, 1.2), "higher": (5.0, 1.3)}
LIBRARIES |= {"hypergrad": (6.0, 1.1), "cpp": (0.1, 0.1), "compiled": (0.2, 0.8)}


def spec(
    name: str = "study",
    question: str = "Which method is closest to exact MAML, at what time and memory?",
    figure: str | None = None,
    path: Path = Path("study.toml"),
) -> Spec:
    """A study without sweeps: what figures and reports read of it."""
    return Spec(name, path, question, figure, 600.0, (), "")


def imaml(linear: str = "conjugate_gradient", iterations: int | None = 5) -> dict[str, Any]:
    """The table of an iMAML without its inner solver."""
    solver: dict[str, Any] = {"name": linear, "tolerance": 0.0}
    if iterations is not None:
        solver["iterations"] = iterations
    return {"name": "imaml", "linear": solver, "curvature": {"name": "exact"}}


def describe(
    problem: dict[str, Any], method: dict[str, Any], steps: int | None = 10, seed: int = 0, **settings: Any
) -> dict[str, Any]:
    """The description of a cell; ``steps`` None leaves the method without an inner solver."""
    inner = {"name": "gradient_descent", "steps": steps, "learning_rate": 0.08}
    with_inner = method | ({"inner": method.get("inner", inner)} if steps is not None else {})
    return {
        "problem": problem, "method": with_inner, "seed": seed, "n_tasks": 4, "split": "train",
        "dtype": "float64", "device": "cpu", "threads": 1, "passes": list(ALL_PASSES), "repeats": 10,
        "contract": 1,
    } | settings  # fmt: skip


def record(cell: dict[str, Any], study: str = "demo", status: str = "ok") -> Record:
    """The record of one cell, with the passes that it asks for; every number follows from the description."""
    key = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()
    made: Record = {
        "schema": 1, "id": key[:16], "study": study, "cell": cell, "status": status, "reason": None,
        "started": "2026-01-01T00:00:00Z", "seconds": 1.5, "pass_seconds": dict.fromkeys(cell["passes"], 0.5),
        "environment": {
            "metabench": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "platform": "Linux", "cores": 2,
            "cpu": "A processor", "data": None,
        },
    }  # fmt: skip
    if status != "ok":
        made["reason"] = {"message": f"made to end as {status}", "type": "FakeError", "traceback": None}
    if status not in ("ok", "not_converged", "non_finite"):
        return made
    rng = np.random.default_rng(int(key[:15], 16))
    if "accuracy" in cell["passes"]:
        made["accuracy"] = _accuracy(cell, rng)
        if status == "not_converged":
            made["accuracy"]["converged"][0] = False
        if status == "non_finite":
            made["accuracy"]["references"]["maml"]["relative_error"][0] = None
    return made | (_costs(cell, rng) if status == "ok" else {})


def records(
    problems: Iterable[dict[str, Any]],
    methods: Iterable[dict[str, Any]],
    steps: Iterable[int | None] = (10,),
    seeds: Sequence[int] = (0, 1, 2),
    study: str = "demo",
    **settings: Any,
) -> list[Record]:
    """All cells of a crossing, as `record` makes them."""
    problems, methods, steps = list(problems), list(methods), list(steps)
    return [
        record(describe(p, m, k, s, **settings), study)
        for p in problems
        for m in methods
        for k in steps
        for s in seeds
    ]


def failing(record_: Record, status: str) -> Record:
    """The record as it were had its cell ended with ``status``."""
    return record(record_["cell"], record_["study"], status)


def without_reference(record_: Record, name: str, reason: str, tasks: Iterable[int] | None = None) -> Record:
    """The record with a reference missing, for some ``tasks`` or (None) for all."""
    references = dict(record_["accuracy"]["references"])
    if tasks is None:
        references[name] = {"missing": reason}
    else:
        gone = set(tasks)
        columns = {
            k: [None if i in gone else v for i, v in enumerate(values)]
            for k, values in references[name].items()
            if k != "how"
        }
        missing = {"missing_tasks": {str(i): reason for i in sorted(gone)}}
        references[name] = {"how": references[name]["how"], **columns, **missing}
    return record_ | {"accuracy": record_["accuracy"] | {"references": references}}


def with_errors(record_: Record, name: str, errors: list[float | None]) -> Record:
    """The record with these relative errors to a reference, one per task."""
    references = dict(record_["accuracy"]["references"])
    references[name] = references[name] | {"relative_error": errors}
    return record_ | {"accuracy": record_["accuracy"] | {"references": references}}


def demo(study: str = "demo") -> list[Record]:
    """Ten methods on two problems with all passes."""
    methods = [
        *MAMLS,
        FOMAML,
        {"name": "reptile"},
        imaml(iterations=1),
        imaml(iterations=5),
        imaml(iterations=10),
    ]
    methods += [imaml("neumann", 5)]
    some = records([LINEAR, SINUSOID], methods, study=study)
    authors = {"name": "imaml-authors-code", "steps": 10, "iterations": 5, "damping": 10.0}
    return some + records([LINEAR, SINUSOID], [authors], [None], study=study)


def accuracy(study: str = "accuracy_vs_steps") -> list[Record]:
    """The accuracy study: three problems, eight methods, inner steps 1 to 100."""
    methods = [{"name": "maml", "backward": "adjoint"}, FOMAML, {"name": "reptile"}]
    methods += [imaml(iterations=n) for n in (1, 2, 5, 10, 20)]
    return records([LINEAR, HARD, SINUSOID], methods, STEPS, study=study, passes=["accuracy"])


def peers(study: str = "peers") -> list[Record]:
    """The study of peers: two problems, two numbers of steps, ours eager and compiled, other libraries."""
    cg = {"linear": "cg", "iterations": 5}
    ours = [MAMLS[0], FOMAML, imaml()]
    jax = [{"name": "maml-jax"}, {"name": "fomaml-jax"}, {"name": "imaml-jax", "iterations": 5}]
    others = [{"name": "maml-jaxopt"}, {"name": "imaml-jaxopt", "iterations": 5}, {"name": "maml-higher"}]
    others += [{"name": "maml-torchopt"}, {"name": "imaml-torchopt"} | cg, {"name": "imaml-hypergrad"} | cg]
    floor = [{"name": "maml-cpp"}, {"name": "fomaml-cpp"}, {"name": "imaml-cpp", "iterations": 5}]
    made = []
    for problem, steps, more in ((SINUSOID, (5, 50), floor), (CONV, (5, 16), [])):
        same: dict[str, Any] = {"seeds": [0], "study": study, "dtype": "float32"}
        made += records([problem], [*ours, *jax, *others, *more], steps, **same)
        made += records([problem], ours, steps, **same, engine="compiled")
    return made


def scaling(study: str = "scaling") -> list[Record]:
    """The study of growth: one setting after another away from 25 tasks, 10 steps, 5 iterations of CG."""
    engines: tuple[dict[str, Any], ...] = ({}, {"engine": "compiled"})
    passes = ["time", "tensor_bytes", "resident"]

    def at(iterations: int = 5, steps: int = 10, n_tasks: int = 25, hidden: int = 40) -> list[Record]:
        problem = SINUSOID | {"network": SINUSOID["network"] | {"hidden": [hidden, hidden]}}
        jax = [{"name": "maml-jax"}, {"name": "imaml-jax", "iterations": iterations}]
        sets = [([MAMLS[0], FOMAML, imaml(iterations=iterations)], e) for e in engines] + [(jax, {})]
        return [
            r
            for methods, engine in sets
            for r in records(
                [problem], methods, [steps], [0], study, passes=passes, n_tasks=n_tasks, **engine
            )
        ]

    made = [r for k in (1, 2, 5, 10, 20, 50, 100) for r in at(steps=k)]
    made += [r for n in (1, 4, 16, 64, 256) for r in at(n_tasks=n)]
    made += [r for width in (30, 100, 300, 1000) for r in at(hidden=width, n_tasks=4)]
    made += [r for n in (1, 2, 10, 20) for r in at(iterations=n) if "imaml" in r["cell"]["method"]["name"]]
    return made


def cost(study: str = "cost_vs_steps") -> list[Record]:
    """The cost study: two problems, eight methods, inner steps 1 to 100, one seed, no accuracy."""
    methods = [*MAMLS, {"name": "maml-higher"}, FOMAML, *(imaml(iterations=n) for n in (1, 5, 10))]
    passes = ["time", "tensor_bytes", "resident"]
    return records([SINUSOID, OMNIGLOT], methods, (1, 2, 5, 10, 20, 50, 100), [0], study, passes=passes)


SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0}
MOMENTUM = SGD | {"momentum": 0.9}
ADAM = {"name": "adam", "learning_rate": 1e-3, "epsilon": 1e-8}
ADAM_1E3 = ADAM | {"epsilon": 1e-3}
OUTERS = [SGD, MOMENTUM, ADAM, ADAM_1E3]
FASTER = {"sgd": 0.6, "adam": 1.0}  # how quickly what is left to learn goes, by outer optimizer


def trainings(
    problems: Iterable[dict[str, Any]] = (SINUSOID,),
    methods: Iterable[dict[str, Any]] = (MAMLS[0], FOMAML),
    outers: Iterable[dict[str, Any]] = OUTERS,
    seeds: Sequence[int] = (0, 1, 2),
    study: str = "outer_optimizers",
) -> list[Record]:
    """Meta-trainings of 100 steps, validated every 20."""
    problems, methods, outers = list(problems), list(methods), list(outers)
    lengths = {"outer_steps": 100, "evaluation_tasks": 600, "validations": 5, "validation_tasks": 100}
    made = []
    for problem, method, outer, seed in itertools.product(problems, methods, outers, seeds):
        settings = {"passes": ["train"], "repeats": 1, "outer": outer, "dtype": "float32", **lengths}
        one = record(describe(problem, method, 5, seed, **settings), study)
        made.append(one | {"train": _training(one["cell"], one["id"])})
    return [{k: v for k, v in one.items() if k != "calls"} for one in made]


def with_test(record_: Record, kind: str, mean: float) -> Record:
    """A training with this mean of "loss" or "accuracy" on the tasks of the test."""
    *others, test = record_["train"]["evaluations"]
    test = test | {kind: test[kind] | {"mean": mean}}
    return record_ | {"train": record_["train"] | {"evaluations": [*others, test]}}


def _training(cell: dict[str, Any], cell_id: str) -> dict[str, Any]:
    outer, steps = cell["outer"], cell["outer_steps"]
    rng = np.random.default_rng(int(cell_id[:15], 16))
    rate = FASTER[outer["name"]] * (1.2 if outer.get("momentum") else 1.0) / 40
    classifies = "ways" in cell["problem"]

    def summary(mean: float, n: int) -> dict[str, float]:
        return {"mean": mean, "deviation": 0.5 * mean, "half_width": 1.96 * 0.5 * mean / n**0.5}

    def evaluation(step: int, split: str, n: int) -> dict[str, Any]:
        left = math.exp(-rate * step) * float(np.exp(rng.normal(0, 0.05)))
        accuracy = summary(0.2 + 0.6 * (1 - min(left, 1.0)), n) if classifies else None
        loss = summary(0.5 + 3.5 * left, n)
        return {"step": step, "split": split, "n_tasks": n, "loss": loss, "accuracy": accuracy}

    n = cell["validations"]
    at = [steps * i // n for i in range(n + 1)]
    return {
        "steps": steps,
        "resumed_at": 0,
        "seconds_per_step": 0.05,
        "curve": {"step": list(range(1, steps + 1)), "loss": [1.0] * steps, "norm": [0.1] * steps},
        "evaluations": [
            *(evaluation(step, "val", cell["validation_tasks"]) for step in at),
            evaluation(steps, "test", cell["evaluation_tasks"]),
        ],
        "file": {"name": f"{cell_id}.{'0' * 16}.npz", "sha256": "0" * 64},
    }


def _errors(cell: dict[str, Any], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    method, tasks = cell["method"], cell["n_tasks"]
    steps = method.get("inner", method).get("steps", 10)
    condition = cell["problem"].get("condition", 20.0)
    rounding = {"float64": 1e-16, "float32": 1e-7}.get(cell["dtype"], 1e-3)
    noise = np.exp(rng.normal(0, 0.4, (3, tasks)))
    inner = 0.5 * math.exp(-2.0 * steps / condition) * noise[0]
    if method["name"].startswith("maml"):
        return rounding * noise[1], inner + rounding * noise[2]
    linear = _linear(method)
    if not linear:
        level = {"fomaml": 0.45, "reptile": 0.97}.get(method["name"].split("-")[0], 0.7)
        return level * noise[1] ** 0.2, level * noise[2] ** 0.2
    rate = math.sqrt(condition) if linear.get("name") == "conjugate_gradient" else condition
    solve = 0.6 * math.exp(-1.6 * linear.get("iterations", 60) / rate) * noise[1]
    return 0.5 * inner + solve + rounding, 0.8 * inner + solve * noise[2] + rounding


def _linear(method: dict[str, Any]) -> dict[str, Any]:
    """The linear solver of iMAML, ours or a library's; empty if the method has none."""
    family, _, library = method["name"].partition("-")
    if family != "imaml":
        return {}
    if library in LIBRARIES:
        return {"name": "conjugate_gradient", "iterations": method["iterations"]}
    return method.get("linear", {"name": "dense"}) if not library else {}


def _parameters(problem: dict[str, Any]) -> int:
    if "hidden" not in problem.get("network", {}):
        return PARAMETERS.get(problem["name"], 100)
    sizes = [1, *problem["network"]["hidden"], 1]
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def _accuracy(cell: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    tasks = cell["n_tasks"]
    to_maml, to_implicit = _errors(cell, rng)
    return {
        "adapted": {
            "stationarity": (0.1 * rng.random(tasks)).tolist(),
            "query_loss": rng.random(tasks).tolist(),
            "query_accuracy": None,
        },
        "stats": {"linear_residual": rng.random(tasks).tolist()},
        "converged": [True] * tasks,
        "meta_grad_norm": rng.random(tasks).tolist(),
        "references": {
            "maml": _reference("reverse sweep in float64", to_maml),
            "implicit": _reference("closed form", to_implicit),
        },
        "meta_grad_sha256": "0" * 64,
    }


def _reference(how: str, error: np.ndarray) -> dict[str, Any]:
    cosine = 1 / np.sqrt(1 + error**2)
    return {
        "how": how, "relative_error": error.tolist(), "cosine": cosine.tolist(),
        "norm_ratio": (1 / cosine).tolist(),
    }  # fmt: skip


def _costs(cell: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    method, n_params = cell["method"], _parameters(cell["problem"])
    steps = method.get("inner", method).get("steps", 10)
    iterations = _linear(method).get("iterations", 0)
    is_maml = method["name"].startswith("maml")
    products = steps if is_maml else iterations
    one = 1e-4 * n_params**0.4
    library = "compiled" if cell.get("engine") == "compiled" else method["name"].partition("-")[2]
    speed, growing = LIBRARIES.get(library, (1.0, 1.1))
    backward = method.get("backward", "higher" if is_maml else "")
    slow = speed * {"unrolled": 1.1, "checkpointed": 1.6, "higher": 1.8}.get(backward, 1.0)
    slow *= (1 + cell["n_tasks"] / 30) / (1 + 4 / 30)
    clean, rounds = one * (steps + 2.2 * products) * slow, cell["repeats"]
    state = 8 * n_params * cell["n_tasks"]
    graphs = {
        "unrolled": 12 * steps,
        "higher": 14 * steps,
        "checkpointed": 12 * math.sqrt(steps),
        "adjoint": steps,
    }
    peak = int(state * (30 + graphs.get(backward, 0)))
    drift = np.exp(rng.normal(0, 0.05, rounds))
    passes: dict[str, Any] = {
        "calls": {
            "inner_values": 0, "inner_grads": steps + (iterations > 0), "inner_hvps": products,
            "outer_values": 0, "outer_grads": 1,
        },
    }  # fmt: skip
    if "time" in cell["passes"]:
        samples, reference, control = np.exp(rng.normal(0, 0.03, (3, rounds))) * drift
        passes["time"] = {
            "cpu_s": (0.9 * clean * samples).tolist(),
            "samples_s": (clean * samples).tolist(), "reference_s": (one * steps * reference).tolist(),
            "control_s": (one * steps * control).tolist(), "reference": FOMAML, "n_warmup": 2,
        }  # fmt: skip
    if "tensor_bytes" in cell["passes"]:
        passes["tensor_bytes"] = {"n_params": n_params}
        in_torch = library not in ("compiled", "jax", "jaxopt", "cpp")
        seen = {"peak": peak, "meter": "dispatch"} if in_torch else {"missing": "out of the meter's sight"}
        passes["tensor_bytes"] |= seen
    if "resident" in cell["passes"]:
        growth = int(peak * growing) if peak > 100_000 else 0
        passes["resident"] = {
            "peak_bytes": 3 * 10**8 + growth,
            "before_bytes": 3 * 10**8,
            "growth_bytes": growth,
        }
    return passes
