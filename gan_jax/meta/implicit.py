"""Implicit MAML: the inner problem is solved, and its solution is differentiated as a root, not through the steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from jax import Array, lax

from gan_jax.arithmetic import Scalar, require_counts, require_positive
from gan_jax.base import Batch, Key, Learner, MetaLearner, Metrics, Params, State, Task
from gan_jax.meta import inner
from gan_jax.meta.adaptation import Learned, inner_loop
from gan_jax.meta.outer import outer

Field = Callable[[Key, State, Batch], Params]  # (key, state, support) -> a tree like the parameters


def imaml(
    learner: Learner,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    solver: optax.GradientTransformation,
    proximity: Scalar,
    iterations: int = 10,
    field: Field | None = None,
) -> MetaLearner:
    """Learn an initialisation φ by the query's gradient at the root w of v(w) + λ (w − φ).

    Rajeswaran et al. 2019 (arXiv 1909.04630), algorithms 1 and 2. Memory does not grow with the steps, and the
    gradient is that of the exact root, as nearly as `steps` and `iterations` reach it.

    Args:
        learner: judges the query; its `step` is not used.
        optimiser: of the outer loop.
        steps: of the solver, from φ.
        solver: descends along v(w) + λ (w − φ).
        proximity: λ, positive: the larger, the nearer w stays to φ.
        iterations: at most, of conjugate gradients for the tangent system; of GMRES if `field` is given, because
            the Jacobian of a game is not symmetric.
        field: v; by default the gradient of the learner's loss on the support. For a game, both players' gradients.

    Raises:
        ValueError: if λ is not positive and finite, or `iterations` or `steps` is less than 1.

    `adapt` is `(key, state, support, steps=steps) -> state of the learner`, which stands at w.
    Metrics: "meta/loss", of the queries at the root, "meta/residual", the norm of what should be 0, and `outer`'s.
    """
    require_positive(proximity=proximity)
    require_counts(iterations=iterations, steps=steps)
    sparse = jax.scipy.sparse.linalg
    solve = (
        partial(sparse.cg, maxiter=iterations)
        if field is None
        else partial(sparse.gmres, restart=iterations, maxiter=1)
    )

    def gradient_field(key: Key, state: State, support: Batch) -> Params:
        def loss(params: Params) -> Array:
            return learner.loss(learner.hyper, key, learner.set_params(state, params), support)

        return jax.grad(loss)(learner.get_params(state))

    def problem(key: Key, learned: Learned, support: Batch) -> tuple[State, Callable[[Params], Params]]:
        begin_key, field_key = jax.random.split(key)
        begun = learner.init(learner.hyper, begin_key, learned.params)

        def residual(params: Params) -> Params:
            slope = (field or gradient_field)(field_key, learner.set_params(begun, params), support)
            return jax.tree.map(lambda v, w, phi: v + proximity * (w - phi), slope, params, learned.params)

        return begun, residual

    def adapt(key: Key, learned: Learned, support: Batch, steps: int = steps) -> State:
        begun, residual = problem(key, learned, support)

        def descend(carried: Any, _: None) -> tuple[Any, None]:
            params, state = carried
            updates, state = solver.update(residual(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        begin: Any = learned.params
        (params, _), _ = lax.scan(descend, (begin, solver.init(begin)), length=steps)
        return learner.set_params(begun, params)

    bilevel = inner_loop(learner, steps=steps, feed=inner.whole())._replace(adapt=adapt)

    def gradient(key: Key, learned: Learned, task: Task) -> tuple[Learned, Metrics]:
        adapt_key, loss_key = jax.random.split(key)
        state = adapt(adapt_key, learned, task.support)

        def judged(params: Params) -> Array:
            return bilevel.loss(loss_key, learned, learner.set_params(state, params), task.query)

        loss, slope = jax.value_and_grad(judged)(learner.get_params(state))
        # The root moves with φ by λ (∂v + λ)⁻¹: one linear system, transposed, in place of a loop's derivative.
        left, pull = jax.vjp(problem(adapt_key, learned, task.support)[1], learner.get_params(state))
        solved, _ = solve(lambda tangent: pull(tangent)[0], slope)
        metrics = {"meta/loss": loss, "meta/residual": optax.tree.norm(left)}
        return Learned(jax.tree.map(lambda x: proximity * x, solved)), metrics

    return outer(bilevel, gradient, optimiser)
