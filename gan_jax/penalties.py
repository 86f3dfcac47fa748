"""Penalties on the slope of the critic with respect to its inputs, per example: [B]; and the clipping of weights.

A critic maps a batch [B, ...] to logits [B], example by example: one backward pass from the whole
batch then gives each example its own gradient. That fails where examples mix, as under batch
normalisation in train mode. Gradients are squared and summed in float32 at least, whatever the
precision of the critic; differentiate through a penalty with respect to the parameters that the
critic closes over.

A weight γ multiplies ½‖∇‖² (R1, R2), a weight λ the square itself: each as it was published.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gan_jax.arithmetic import allowed, safe_sqrt
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
        return weight * jnp.square(_slopes(critic, _between(key, real, fake)) - 1.0)

    return penalty


def wgan_lp(weight: Weight = 10.0) -> Regularizer:
    """Push the norm of the slope between real and fake below one, from above only: λ max(0, ‖∇D(x̂)‖ − 1)².

    The one-sided variant of `wgan_gp`, at the same points x̂: a critic of slope at most 1 is 1-Lipschitz and pays
    nothing.

    Raises:
        ValueError: a negative or infinite weight.

    Petzka et al. 2018 (arXiv 1709.08894).
    """
    _check_weight("wgan_lp", weight)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        return weight * jnp.square(jax.nn.relu(_slopes(critic, _between(key, real, fake)) - 1.0))

    return penalty


def zero_centred(weight: Weight) -> Regularizer:
    """Penalise the slope between real and fake: λ‖∇D(x̂)‖², where λ is not halved.

    x̂ lies on the segment between a real example and a fake, as in `wgan_gp`.

    Raises:
        ValueError: a negative or infinite weight.

    Thanh-Tung et al. 2019 (arXiv 1902.03984), whose name for it is 0-GP.
    """
    _check_weight("zero_centred", weight)

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        return weight * _squared_slopes(critic, _between(key, real, fake))

    return penalty


def dragan(weight: Weight = 10.0, scale: Weight = 0.5) -> Regularizer:
    """Pull the norm of the slope around real examples towards one: λ(‖∇D(x̂)‖ − 1)².

    x̂ = x + u·s·σ·v, with the scale s, the standard deviation σ of all numbers of the real batch together, one
    u ~ U[0, 1) for each example and one v ~ U[0, 1) for each of its coordinates. This is the perturbation of the
    authors' published code and of most others; the paper's own is Gaussian, N(0, cI). Fakes do not matter.

    Raises:
        ValueError: a negative or infinite weight or scale.

    Kodali et al. 2017 (arXiv 1705.07215).
    """
    _check_weight("dragan", weight)
    if not allowed(scale, lambda size: 0 <= size < math.inf):
        raise ValueError(f"dragan(scale={scale}) is no size of a perturbation: give a finite scale of at least 0")

    def penalty(key: Key, critic: Critic, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Array:
        mixture_key, noise_key = jax.random.split(key)
        deviation = jnp.std(real.astype(jnp.promote_types(real.dtype, jnp.float32)))
        noise = _mixture(mixture_key, real) * jax.random.uniform(noise_key, real.shape)
        around = (real + scale * deviation * noise).astype(real.dtype)
        return weight * jnp.square(_slopes(critic, around) - 1.0)

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


def weight_clipping(optimiser: optax.GradientTransformation, bound: Weight) -> optax.GradientTransformationExtraArgs:
    """Clip every weight to [−bound, bound] after each update of an optimiser: w ← clip(w + update, −c, c).

    The bound is on each weight alone and says little of the critic's slope: it was the first way to keep that
    finite. The update that results lands in the interval to the last bit; weights outside of it enter with the
    first update. Unlike `optax.clip` it acts on weights and not on their gradients.

    Args:
        optimiser: any; its state is unchanged, and is all the state there is.
        bound: c, in the precision of the weights.

    Raises:
        ValueError: a bound that is not positive, or an update without the params.

    Arjovsky et al. 2017 (arXiv 1701.07875), algorithm 1.
    """
    if not allowed(bound, lambda size: 0 < size < math.inf):
        raise ValueError(f"weight_clipping(bound={bound}) leaves no weights: give a finite bound above 0, such as 0.01")
    optimiser = optax.with_extra_args_support(optimiser)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("weight_clipping acts on the weights: call update(gradients, state, params)")
        updates, state = optimiser.update(updates, state, params, **extra)
        return jax.tree.map(lambda change, weight: _clipped(change, weight, bound), updates, params), state

    return optax.GradientTransformationExtraArgs(optimiser.init, update)


def _clipped(change: Array, weight: Array, bound: Weight) -> Array:
    """Return the change that takes a weight to where `change` would, or to the bound next to it."""
    limit = jnp.asarray(bound, weight.dtype)
    change = jnp.clip((weight + change).astype(weight.dtype), -limit, limit) - weight
    # Rounded, the change may land the weight one unit of its last place outside: then it is one unit too long.
    landed = weight + change
    unit = jnp.finfo(change.dtype).eps * jnp.abs(change)
    return jnp.where(jnp.abs(landed) > limit, change - jnp.sign(landed) * unit, change)


def _mixture(key: Key, examples: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Draw one number of U[0, 1) for each example, of shape [B, 1, ...]."""
    return jax.random.uniform(key, (examples.shape[0],) + (1,) * (examples.ndim - 1))


def _between(key: Key, real: Float[Array, "B ..."], fake: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Draw a point of the segment between each real example and its fake, uniformly."""
    chex.assert_equal_shape([real, fake])
    mixture = _mixture(key, real)
    return (mixture * real + (1.0 - mixture) * fake).astype(real.dtype)


def _squared_slopes(critic: Critic, inputs: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Compute ‖∇ₓ critic(x)‖² of each example in one backward pass."""
    logits, pullback = jax.vjp(critic, inputs)
    chex.assert_shape(logits, (inputs.shape[0],))
    (slopes,) = pullback(jnp.ones_like(logits))
    slopes = slopes.astype(jnp.promote_types(slopes.dtype, jnp.float32))
    return jnp.sum(jnp.square(slopes), axis=tuple(range(1, slopes.ndim)))


def _slopes(critic: Critic, inputs: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Compute ‖∇ₓ critic(x)‖ of each example; where it is zero, its gradient is zero and not NaN."""
    return safe_sqrt(_squared_slopes(critic, inputs))


def _check_weight(name: str, weight: Weight) -> None:
    if not allowed(weight, lambda size: 0 <= size < math.inf):
        raise ValueError(f"{name}(weight={weight}) would not be a penalty: give a finite weight of at least 0")


PENALTIES = {f.__name__: f for f in (r1, r2, wgan_gp, wgan_lp, zero_centred, dragan)}
