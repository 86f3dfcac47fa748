"""Evolution strategies: gradients from losses alone, for inner loops too long or too rough to differentiate.

The gradient is that of the smoothed loss E f(θ + ε), ε ~ N(0, σ²I), which exists where f has steps, and is that of f
where f is quadratic. Perturbations come in antithetic pairs ±ε whose two members see the same random numbers, so that
all that is even in ε, and the noise that they share, cancels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan_jax.arithmetic import Scalar, require_counts, require_positive
from gan_jax.base import Key, Metrics, Params, State

Begin = Callable[[Key], State]
Unroll = Callable[[Params, Key, State], tuple[State, Array]]


class Particles(NamedTuple):
    """Where the pairs of perturbed inner problems stand; every leaf has a leading axis [pairs].

    inner: the inner states: of `pes` those of both members, [pairs, 2, ...]; of `truncated_es` one, [pairs, ...].
    perturbation: of `pes` the sum of the first member's perturbations since the inner problem began, with the leaves
        of the parameters; the other's is its negative. Of `truncated_es` zero.
    truncation: how many truncations of the inner problem are done, int32.
    """

    inner: State
    perturbation: Params
    truncation: Array


class Online(NamedTuple):
    """An estimator that moves along inner problems, a truncation a call.

    init: `(params, key) -> particles`; of the parameters it reads the shapes alone.
    estimate: `(params, key, particles) -> (gradient, particles, metrics)`, the gradient like the parameters; metrics
        are "loss", the mean over pairs and members.
    """

    init: Callable[[Params, Key], Particles]
    estimate: Callable[[Params, Key, Particles], tuple[Params, Particles, Metrics]]


def es(
    function: Callable[[Params, Key], Array], *, sigma: Scalar, pairs: int
) -> Callable[[Params, Key], tuple[Params, Metrics]]:
    """Estimate the gradient of a Gaussian-smoothed function: the mean over pairs of ε(f(θ + ε) − f(θ − ε))/(2σ²).

    Args:
        function: `(params, key) -> scalar`, of any pytree of floating arrays. Both members of a pair get the same
            key, each pair another.
        sigma: the standard deviation of the perturbations, positive. The bias shrinks with it, while the noise of a
            rough function grows.
        pairs: how many pairs are evaluated, under one vmap.

    Returns:
        `(params, key) -> (gradient, metrics)`, the gradient like the parameters; metrics are "loss", the mean over
        pairs and members.

    Raises:
        ValueError: if sigma is not positive and finite, or `pairs` not a whole number of at least 1.

    Nesterov and Spokoiny 2017 (doi 10.1007/s10208-015-9296-2); Salimans et al. 2017 (arXiv 1703.03864).
    """

    # A function is an inner problem that one unroll of no state finishes.
    def unroll(params: Params, key: Key, inner: State) -> tuple[State, Array]:
        return inner, function(params, key)

    whole = pes(lambda key: (), unroll, sigma=sigma, pairs=pairs, truncations=1)

    def estimate(params: Params, key: Key) -> tuple[Params, Metrics]:
        gradient, _, metrics = whole.estimate(params, key, whole.init(params, key))
        return gradient, metrics

    return estimate


def pes(begin: Begin, unroll: Unroll, *, sigma: Scalar, pairs: int, truncations: int, stagger: bool = False) -> Online:
    """Estimate the gradient of a whole inner problem from its truncations, without the bias of a short horizon.

    Each member of a pair carries its own inner state and ξ, the sum of its perturbations so far. After a truncation
    under a fresh ε the estimate is the mean over pairs of ξ(L⁺ − L⁻)/(2σ²): a loss is credited to all perturbations
    that led to it (Vicol et al. 2021, arXiv 2112.13835, algorithm 2). At parameters that stand still the sum of the
    estimates over the truncations of an inner problem is, in expectation, the gradient of the sum of their losses,
    each truncation smoothed by itself. The variance grows with their number.

    Args:
        begin: `key -> inner state`, where an inner problem begins. What depends on the parameters is for `unroll`.
        unroll: `(params, key, inner state) -> (inner state, loss)`, some inner steps and their scalar loss. Both
            members of a pair get the same keys, each pair others, so pairs may differ in their tasks. A loss that is
            not finite makes the estimate so: bound it.
        sigma: the standard deviation of the perturbations, positive.
        pairs: how many pairs are unrolled, under one vmap.
        truncations: how many unrolls make an inner problem; states and sums then begin anew.
        stagger: spread the pairs over the horizon, so that each estimate mixes all of it and losses do not rise and
            fall together. The first inner problem of a pair is then cut short.

    Raises:
        ValueError: if sigma is not positive and finite, or `pairs` or `truncations` not a whole number of at least 1.
    """

    def advance(params: Params, key: Key, particle: Particles) -> tuple[Params, State, Params, Array]:
        draw_key, unroll_key = jax.random.split(key)
        noise, sides = _perturb(params, draw_key, sigma)
        inner, losses = jax.vmap(unroll, (0, None, 0))(sides, unroll_key, particle.inner)
        total = jax.tree.map(jnp.add, particle.perturbation, noise)
        return _slope(total, losses, sigma), inner, total, losses.mean()

    def twins(key: Key) -> State:
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), begin(key))

    return _online(twins, advance, sigma=sigma, pairs=pairs, truncations=truncations, stagger=stagger)


def truncated_es(
    begin: Begin, unroll: Unroll, *, sigma: Scalar, pairs: int, truncations: int, stagger: bool = False
) -> Online:
    """Estimate the gradient of each truncation as if the state that it begins in were given: the biased baseline.

    A pair's state moves under the parameters themselves; both members leave from it and are forgotten after the
    truncation (Vicol et al. 2021, arXiv 2112.13835, algorithm 1). It costs three unrolls a pair, for two of `pes`.

    Args:
        begin, unroll, sigma, pairs, truncations, stagger: as `pes` takes them.

    Raises:
        ValueError: as `pes` does.
    """

    def advance(params: Params, key: Key, particle: Particles) -> tuple[Params, State, Params, Array]:
        draw_key, unroll_key = jax.random.split(key)
        noise, sides = _perturb(params, draw_key, sigma)
        _, losses = jax.vmap(unroll, (0, None, None))(sides, unroll_key, particle.inner)
        inner, _ = unroll(params, unroll_key, particle.inner)
        return _slope(noise, losses, sigma), inner, particle.perturbation, losses.mean()

    return _online(begin, advance, sigma=sigma, pairs=pairs, truncations=truncations, stagger=stagger)


def _online(
    begin: Begin,
    advance: Callable[[Params, Key, Particles], tuple[Params, State, Params, Array]],
    *,
    sigma: Scalar,
    pairs: int,
    truncations: int,
    stagger: bool,
) -> Online:
    """Lift the truncation of one pair, `-> (gradient, inner, perturbation, loss)`, to all, and begin problems anew."""
    require_positive(sigma=sigma)
    require_counts(pairs=pairs, truncations=truncations)

    def fresh(params: Params, key: Key, truncation: Array) -> Particles:
        return Particles(begin(key), jax.tree.map(jnp.zeros_like, params), truncation)

    def init(params: Params, key: Key) -> Particles:
        first = jnp.arange(pairs, dtype=jnp.int32) * truncations // pairs if stagger else jnp.zeros(pairs, jnp.int32)
        return jax.vmap(fresh, (None, 0, 0))(params, jax.random.split(key, pairs), first)

    def one(params: Params, key: Key, particle: Particles) -> tuple[Params, Particles, Array]:
        advance_key, begin_key = jax.random.split(key)
        gradient, inner, perturbation, loss = advance(params, advance_key, particle)
        moved = Particles(inner, perturbation, particle.truncation + 1)
        renew = partial(jnp.where, moved.truncation == truncations)
        return gradient, jax.tree.map(renew, fresh(params, begin_key, jnp.int32(0)), moved), loss

    def estimate(params: Params, key: Key, particles: Particles) -> tuple[Params, Particles, Metrics]:
        gradients, particles, losses = jax.vmap(one, (None, 0, 0))(params, jax.random.split(key, pairs), particles)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), gradients), particles, {"loss": losses.mean()}

    return Online(init, estimate)


def _perturb(params: Params, key: Key, sigma: Scalar) -> tuple[Params, Params]:
    """Return a perturbation, and the parameters on its two sides, stacked [2, ...]."""
    params = jax.tree.map(jnp.asarray, params)
    normal = optax.tree.random_like(key, params)
    noise = jax.tree.map(lambda leaf: (sigma * leaf).astype(leaf.dtype), normal)
    return noise, jax.tree.map(lambda leaf, push: jnp.stack([leaf + push, leaf - push]), params, noise)


def _slope(perturbation: Params, losses: Array, sigma: Scalar) -> Params:
    chex.assert_shape(losses, (2,))  # a loss that is no scalar would broadcast
    slope = (losses[0] - losses[1]) / (2 * sigma**2)
    return jax.tree.map(lambda leaf: (slope * leaf).astype(leaf.dtype), perturbation)
