"""Whether the assumptions of iMAML's Theorem 1 hold along the inner path, task by task, in float64.

The theorem (Rajeswaran, Finn, Kakade, Levine 2019) bounds the error of the implicit gradient where the outer
loss is Lipschitz and smooth, G is smooth and strongly convex with a Lipschitz Hessian, phi minimises G
nearly, and I + H / lambda is invertible, H the Hessian of the support loss at phi. Each is measured at some
points of the path, of which the first is theta and the last the adapted phi, and is violated where

    outer_lipschitz    the query loss jumps on a segment at the point: the rule of `quotients`
    outer_smooth       the gradient of the query loss jumps there
    inner_smooth       the gradient of G jumps there
    hessian_lipschitz  the Hessian of G, times a fixed random vector, jumps there
    one_piece          ReLUs, maxima or comparisons in the support loss switch within the step: see `pieces`
    strongly_convex    the smallest eigenvalue of the Hessian of G is not positive: see `spectrum`
    stationary         at the last point |grad G| is above 1 % of that at theta
    invertible         at the last point the condition of I + H / lambda is above 1 / roundoff of the dtype
    curvature          a direction p of the linear solve has p'Ap <= 0, as the method's own statistics tell

Segments are the inner step at the point (the next one, for the last point the one before) and two random
ones with the point in their middle and of the length of that step: what the assumptions are worth where the
inner solver goes. Random directions depend on the cell's seed, the task and the number of the step alone.
"""

from bench.assumptions.observe import ASSUMPTIONS, observe

__all__ = ["ASSUMPTIONS", "observe"]
