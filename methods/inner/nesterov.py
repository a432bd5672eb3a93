from dataclasses import dataclass, replace

from bench.api import FirstOrderSolver, State, Vectors, require
from bench.registry import register


@register("inner", "nesterov")
@dataclass(frozen=True)
class Nesterov(FirstOrderSolver):
    """Accelerated gradient (Nesterov 1983; "Introductory lectures on convex optimization", 2004).

    x_{k+1} = y_k - learning_rate * grad G(y_k);  y_{k+1} = x_{k+1} + beta_k (x_{k+1} - x_k), from
    y_0 = x_0 = start. beta is ``momentum``; None takes the sequence for convex G that is not strongly so:
    t_0 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2, beta_k = (t_k - 1) / t_{k+1}.
    ``phi`` of `update` is y, where gradients are taken; the last step returns x itself. One gradient a
    step; the state is the previous x. On mu-strongly convex, L-smooth G with learning_rate 1 / L and
    beta = (sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)), G falls by 1 - sqrt(mu / L) a step.
    """

    steps: int = 10
    learning_rate: float = 0.01
    momentum: float | None = 0.9

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        usable = self.momentum is None or 0 <= self.momentum < 1
        require(usable, "momentum", self.momentum, "0 up to, but not, 1, or None for Nesterov's sequence")

    def rule(self) -> "Nesterov":
        return replace(self, steps=1)

    def init(self, start: Vectors) -> State:
        return (start,)

    def schedule(self, step: int) -> tuple[float]:
        return (0.0 if step == self.steps - 1 else self._beta(step),)  # the last step returns x itself

    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        (beta,) = numbers
        x = phi - self.learning_rate * grad
        return x + beta * (x - state[0]), (x,)

    def _beta(self, step: int) -> float:
        if self.momentum is not None:
            return self.momentum
        t = after = 1.0
        for _ in range(step + 1):
            t, after = after, (1 + (1 + 4 * after * after) ** 0.5) / 2
        return (t - 1) / after
