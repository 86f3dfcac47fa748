"""Penalties on the slope of the critic with respect to its inputs, per example: [B].

A critic maps a batch [B, ...] to logits [B], example by example: one backward pass from the whole
batch then gives each example its own gradient. That fails where examples mix, as under batch
normalisation in train mode. Gradients are squared and summed in float32 at least, whatever the
precision of the critic; differentiate through a penalty with respect to the parameters that the
critic closes over.
"""

from collections.abc import Callable
from numbers import Real

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gan_jax.base import Key, Regularizer

Critic = Callable[[Array], Array]
Weight = int | float | Float[Array, ""]


def r1(weight: Weight) -> Regularizer:
    """Penalise the slope at real examples: (γ/2)‖∇ₓD(x)‖² for a weight γ.

    Raises:
        ValueError: a negative or infinite weight.

    Mescheder et al. 2018 (arXiv 1801.04406), eq. 9.
    """
    _check_weight("r1", weight)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        return 0.5 * weight * _squared_slopes(critic, real)

    return penalty


def r2(weight: Weight) -> Regularizer:
    """Penalise the slope at fakes: (γ/2)‖∇ₓD(x)‖² for a weight γ.

    Raises:
        ValueError: a negative or infinite weight.

    Mescheder et al. 2018 (arXiv 1801.04406), eq. 10.
    """
    _check_weight("r2", weight)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        return 0.5 * weight * _squared_slopes(critic, fake)

    return penalty


def wgan_gp(weight: Weight = 10.0) -> Regularizer:
    """Pull the norm of the slope between real and fake towards one, from both sides: λ(‖∇D(x̂)‖ − 1)².

    x̂ = u·real + (1 − u)·fake, with one u ~ U[0, 1) for each example. Where the slope is zero, so is
    the gradient of its norm: a flat critic gives λ and a finite gradient, not NaN.

    Raises:
        ValueError: a negative or infinite weight.

    Gulrajani et al. 2017 (arXiv 1704.00028), eq. 3.
    """
    _check_weight("wgan_gp", weight)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        chex.assert_equal_shape([real, fake])
        mixture = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1))
        between = (mixture * real + (1.0 - mixture) * fake).astype(real.dtype)
        squares = _squared_slopes(critic, between)
        # Both branches of a `where` are differentiated, so the root must not see a zero in either.
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        return weight * jnp.square(norms - 1.0)

    return penalty


def total(*regularizers: Regularizer) -> Regularizer:
    """Add penalties, each with a key of its own: the i-th gets `fold_in(key, i)`.

    Raises:
        ValueError: no penalties.
    """
    if not regularizers:
        raise ValueError("total() has no penalties to add: give at least one, as in total(r1(10.0), r2(10.0))")

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        terms = [term(jax.random.fold_in(key, i), critic, real, fake) for i, term in enumerate(regularizers)]
        return jnp.sum(jnp.stack(terms), axis=0)

    return penalty


def _squared_slopes(critic: Critic, inputs: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Compute ‖∇ₓ critic(x)‖² of each example in one backward pass."""
    logits, pullback = jax.vjp(critic, inputs)
    chex.assert_shape(logits, (inputs.shape[0],))
    (slopes,) = pullback(jnp.ones_like(logits))
    slopes = slopes.astype(jnp.promote_types(slopes.dtype, jnp.float32))
    return jnp.sum(jnp.square(slopes), axis=tuple(range(1, slopes.ndim)))


def _check_weight(name: str, weight: Weight) -> None:
    if isinstance(weight, Real) and not 0.0 <= weight < float("inf"):
        raise ValueError(f"{name}(weight={weight}) would not be a penalty: give a finite weight of at least 0")


PENALTIES = {f.__name__: f for f in (r1, r2, wgan_gp)}
