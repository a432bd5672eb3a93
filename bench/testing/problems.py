"""The battery of problems."""

from typing import Any, get_args

import torch

from bench.api import Bilevel, Declined, Problem, Split
from bench.testing.battery import Battery, battery
from bench.testing.samples import central, draw, same_tasks


@battery
def check_problem(run: Battery, plugin: Problem | str | dict[str, Any]) -> None:
    """The battery of a problem: determinism, task independence, derivatives against finite differences."""
    problem = run.construct("problem", plugin)
    if problem is None:
        return
    drawn = run.attempt("draws tasks", lambda: draw(problem, n_tasks=2))
    if drawn is None:
        return
    run.add("has a strength of 0 or more", problem.strength >= 0, f"strength {problem.strength}")
    run.add(
        "meta-parameters are a float64 vector", drawn.meta.ndim == 1 and drawn.meta.dtype == torch.float64
    )
    run.add("same seed, same tasks", same_tasks(drawn, draw(problem, n_tasks=2)))
    run.add("another seed, other tasks", not same_tasks(drawn, draw(problem, n_tasks=2, seed=1)))
    state = torch.get_rng_state()
    draw(problem, n_tasks=1)
    run.add("global random state untouched", torch.equal(state, torch.get_rng_state()))
    phi = drawn.start
    direction = torch.randn(phi.shape, generator=torch.Generator().manual_seed(7), dtype=phi.dtype)
    direction = direction / direction.norm(dim=1, keepdim=True)
    for name, value, grad in (
        ("support", drawn.inner_value, drawn.inner_grad),
        ("query", drawn.outer_value, drawn.outer_grad),
    ):
        slope = central(value, phi, direction, 1e-6)
        run.close(
            f"{name} gradient against finite differences", (grad(phi) * direction).sum(dim=1), slope, 1e-5
        )
    curve = central(drawn.inner_grad, phi, direction, 1e-6)
    run.close("Hessian product against finite differences", drawn.inner_hvp(phi)(direction), curve, 1e-4)
    alone = torch.cat([drawn.one(t).inner_grad(phi[t : t + 1]) for t in range(2)])
    run.close("one task at a time equals all at once", alone, drawn.inner_grad(phi), 1e-10)
    solution = drawn.inner_solution()
    if solution is not None:
        left = drawn.inner_grad(solution).norm() / drawn.inner_grad(phi).norm()
        run.add(
            "closed-form solution is stationary", left.item() < 1e-10, f"relative gradient {left.item():.1e}"
        )
    _check_outputs(run, problem, drawn)
    _check_splits(run, problem)


def _check_outputs(run: Battery, problem: Problem, drawn: Bilevel) -> None:
    """A loss that is split into outputs and a loss of them (what Gauss-Newton needs) is the same loss."""
    t = drawn.tasks
    try:
        rows = zip(drawn.start, t.support_x, t.support_y, strict=True)
        split = [problem.output_loss(problem.outputs(phi, x), y) for phi, x, y in rows]
    except Declined:
        return
    rows = zip(drawn.start, t.support_x, t.support_y, strict=True)
    whole = [problem.support_loss(phi, x, y) for phi, x, y in rows]
    run.close("support loss is the loss of the outputs", torch.stack(split), torch.stack(whole), 1e-12)


def _check_splits(run: Battery, problem: Problem) -> None:
    """No example of one split turns up in another: with classes of examples, the classes are disjoint.

    But for the share that the problem declares of its data: `Problem.duplicates`.
    """
    seen: dict[Split, set[bytes]] = {}
    for split in get_args(Split):
        generator = torch.Generator().manual_seed(3)
        try:
            tasks = problem.sample(generator, 20, split)
        except Declined:
            continue
        both = torch.cat([tasks.support_x.flatten(0, 1), tasks.query_x.flatten(0, 1)])
        seen[split] = {example.numpy().tobytes() for example in both}
    names = list(seen)
    common = {
        f"{a} and {b}": (len(seen[a] & seen[b]), min(len(seen[a]), len(seen[b])))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if seen[a] & seen[b]
    }
    shared = [pair for pair, (number, drawn) in common.items() if number > problem.duplicates * drawn]
    if shared and _same_draws(problem, names):
        run.add(
            "splits have no example in common", True, "no splits: endless tasks, whatever the split's name"
        )
        return
    text = f"shared by {', '.join(shared)}" if shared else f"splits: {', '.join(names)}"
    if common and not shared:
        text += "; " + ", ".join(f"{n} of {drawn} twice in {pair}" for pair, (n, drawn) in common.items())
    run.add("splits have no example in common", not shared, text)


def _same_draws(problem: Problem, splits: list[Split]) -> bool:
    """Whether a problem has no splits at all: endless tasks, the same ones whatever the split's name."""
    draws = [problem.sample(torch.Generator().manual_seed(5), 1, split).query_x for split in splits]
    return problem.fingerprint() is None and all(torch.equal(one, draws[0]) for one in draws)
