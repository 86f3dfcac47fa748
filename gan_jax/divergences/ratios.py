"""f-divergences, which compare densities by their ratio, and the games that they yield."""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax.nn import softplus
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float

from gan_jax.base import Objective
from gan_jax.divergences import gaussians
from gan_jax.divergences.gaussians import Normal
from gan_jax.objectives import checked

Elementwise = Callable[[Array], Array]


class Divergence(NamedTuple):
    """An f-divergence and what a critic needs to bound it.

    f: a convex function of the density ratio u ≥ 0; f(1) = 0 but for `gan`.
    conjugate: f*(t), the supremum over u ≥ 0 of ut − f(u); +∞ outside its domain.
    activation: g, increasing, from raw outputs in R into the domain of the conjugate.
    composed: f*∘g of raw outputs, in a closed form that neither cancels nor overflows before its value does.
    optimal: the tight T = f'(p/q), as a function of log p/q.
    between: `(p, q) -> D_f(p‖q)` of two Gaussians on the line; a ValueError if a deviation is not positive.
    limit: raw outputs in ±limit have finite values and slopes in float32.
    """

    f: Elementwise
    conjugate: Elementwise
    activation: Elementwise
    composed: Elementwise
    optimal: Elementwise
    between: Callable[[Normal, Normal], Float[Array, ""]]
    limit: float = math.inf


def kl() -> Divergence:
    """Make KL(p‖q): f = u log u, f* = e^(t−1), g = v, f*∘g = e^(v−1), tight at 1 + log r."""
    return Divergence(
        f=lambda u: xlogy(u, u),
        conjugate=lambda t: jnp.exp(t - 1.0),
        activation=lambda v: v,
        composed=lambda v: jnp.exp(v - 1.0),
        optimal=lambda log_ratio: 1.0 + log_ratio,
        between=gaussians.kl,
        limit=80.0,
    )


def reverse_kl() -> Divergence:
    """Make KL(q‖p): f = −log u, f* = −1 − log(−t) for t < 0, g = −e^(−v), f*∘g = v − 1, tight at −1/r."""
    return Divergence(
        f=lambda u: -jnp.log(u),
        conjugate=_extended(lambda t: -1.0 - jnp.log(-t), upper=0.0),
        activation=lambda v: -jnp.exp(-v),
        composed=lambda v: v - 1.0,
        optimal=lambda log_ratio: -jnp.exp(-log_ratio),
        between=lambda p, q: gaussians.kl(q, p),
        limit=80.0,
    )


def pearson() -> Divergence:
    """Make Pearson's χ², E_q (r − 1)²: f = (u − 1)², f* = t²/4 + t, g = v, tight at 2(r − 1).

    Below t = −2 no ratio u ≥ 0 attains the parabola and f* stays −f(0) = −1. The branch that the paper's table omits
    matters to the generator: the parabola's slope there would push fakes that are found out the wrong way.
    """

    def conjugate(t: Array) -> Array:
        clipped = jnp.maximum(t, -2.0)
        return jnp.square(clipped) / 4.0 + clipped

    return Divergence(
        f=lambda u: jnp.square(u - 1.0),
        conjugate=conjugate,
        activation=lambda v: v,
        composed=conjugate,
        optimal=lambda log_ratio: 2.0 * jnp.expm1(log_ratio),
        between=gaussians.chi_square,
        limit=1e18,
    )


def neyman() -> Divergence:
    """Make Neyman's χ², Pearson's of (q, p): f = (1 − u)²/u, f* = 2 − 2√(1 − t) for t ≤ 1.

    g = 1 − e^(−v), f*∘g = 2 − 2e^(−v/2), tight at 1 − 1/r².
    """
    return Divergence(
        f=lambda u: jnp.square(1.0 - u) / u,
        conjugate=_extended(lambda t: 2.0 - 2.0 * jnp.sqrt(1.0 - t), upper=1.0),
        activation=lambda v: -jnp.expm1(-v),
        composed=lambda v: -2.0 * jnp.expm1(-v / 2.0),
        optimal=lambda log_ratio: -jnp.expm1(-2.0 * log_ratio),
        between=lambda p, q: gaussians.chi_square(q, p),
        limit=80.0,
    )


def squared_hellinger() -> Divergence:
    """Make the squared Hellinger distance ∫(√p − √q)²: f = (√u − 1)², f* = t/(1 − t) for t < 1.

    g = 1 − e^(−v), f*∘g = e^v − 1, tight at 1 − 1/√r. Without the factor ½ of some authors: at most 2.
    """
    return Divergence(
        f=lambda u: jnp.square((u - 1.0) / (jnp.sqrt(u) + 1.0)),
        conjugate=_extended(lambda t: t / (1.0 - t), upper=1.0),
        activation=lambda v: -jnp.expm1(-v),
        composed=jnp.expm1,
        optimal=lambda log_ratio: -jnp.expm1(-log_ratio / 2.0),
        between=gaussians.squared_hellinger,
        limit=80.0,
    )


def jensen_shannon() -> Divergence:
    """Make 2·JS(p, q), the scale of Nowozin et al.: f = u log u − (u + 1) log((1 + u)/2).

    f* = −log(2 − e^t) for t < log 2, g = log 2 − softplus(−v), f*∘g = softplus(v) − log 2, tight at log(2r/(1 + r)).
    At most 2 log 2, reached by all distributions of disjoint supports, whatever lies between them. Gaussians are
    compared by quadrature, to 1e-6 unless one is over 20 times as wide as the other; slopes by differentiation are
    right only up to about 15 deviations between the means, see `gaussians.gan`.
    """
    return Divergence(
        # u log(2u/(1 + u)) − log((1 + u)/2), by the excess over one: the definition cancels about u = 1.
        f=lambda u: xlog1py(u, (u - 1.0) / (u + 1.0)) - jnp.log1p((u - 1.0) / 2.0),
        conjugate=_extended(lambda t: -math.log(2.0) - jnp.log(-jnp.expm1(t - math.log(2.0))), upper=math.log(2.0)),
        activation=lambda v: math.log(2.0) - softplus(-v),
        composed=lambda v: softplus(v) - math.log(2.0),
        optimal=lambda log_ratio: math.log(2.0) - softplus(-log_ratio),
        between=lambda p, q: gaussians.gan(p, q) + 2.0 * math.log(2.0),
    )


def gan() -> Divergence:
    """Make 2·JS(p, q) − log 4, the value of the game of Goodfellow et al.: f = u log u − (u + 1) log(u + 1).

    f* = −log(1 − e^t) for t < 0, g = −softplus(−v), the logarithm of D = σ(v), f*∘g = softplus(v), tight at
    log(r/(1 + r)). It yields `objectives.minimax`, or `objectives.non_saturating`. Not zero between equals, but −log 4.
    Gaussians are compared as by `jensen_shannon`.
    """
    return Divergence(
        f=lambda u: -xlog1py(u, 1.0 / u) - jnp.log1p(u),
        conjugate=_extended(lambda t: -jnp.log(-jnp.expm1(t)), upper=0.0),
        activation=lambda v: -softplus(-v),
        composed=softplus,
        optimal=lambda log_ratio: -softplus(-log_ratio),
        between=gaussians.gan,
    )


def total_variation() -> Divergence:
    """Make the total variation ½∫|p − q|: f = ½|u − 1|, f* = t for |t| ≤ ½, g = ½ tanh v, tight at ½ sign(r − 1).

    Below t = −½ the conjugate stays −½. No finite raw output reaches the optimum.
    """
    return Divergence(
        f=lambda u: 0.5 * jnp.abs(u - 1.0),
        conjugate=_extended(lambda t: jnp.maximum(t, -0.5), upper=0.5),
        activation=lambda v: 0.5 * jnp.tanh(v),
        composed=lambda v: 0.5 * jnp.tanh(v),
        optimal=lambda log_ratio: 0.5 * jnp.sign(log_ratio),
        between=gaussians.total_variation,
    )


DIVERGENCES = {
    f.__name__: f for f in (kl, reverse_kl, pearson, neyman, squared_hellinger, jensen_shannon, gan, total_variation)
}


def divergence(name: str) -> Divergence:
    """Return the f-divergence of a name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"unknown divergence {name!r}: there is {', '.join(DIVERGENCES)}")
    return DIVERGENCES[name]()


def objective(divergence: Divergence, *, saturating: bool = True) -> Objective:
    """Make the pair of an f-divergence: the critic minimises −g(real) + f*(g(fake)), the generator −f*(g(fake)).

    The saturating pair is zero-sum, and the negated mean of the critic's loss is the bound of `variational`. Both
    losses are finite for raw outputs in ±divergence.limit, and beyond it as far as their exponentials: real outputs
    may fall to −88 where g is one, and fakes rise to 88 where f*∘g is.

    Args:
        divergence: one of the catalogue's, or your own.
        saturating: False lets the generator minimise −g(fake) instead, as it does in `objectives.non_saturating`.

    Nowozin et al. 2016 (arXiv 1606.00709), sections 2.3 and 2.4, and 3.2 for the alternative.
    """
    believed = divergence.composed if saturating else divergence.activation
    return checked(
        generator=lambda real, fake: -believed(fake),
        discriminator=lambda real, fake: divergence.composed(fake) - divergence.activation(real),
    )


def variational(
    divergence: Divergence,
    real: Float[Array, " N"],
    fake: Float[Array, " M"],
    *,
    real_weights: Float[Array, " N"] | None = None,
    fake_weights: Float[Array, " M"] | None = None,
) -> Float[Array, ""]:
    """Compute the bound E_p g(v) − E_q f*(g(v)) from raw outputs of a critic.

    It is below D_f(p‖q) as an expectation; an average over samples scatters to both sides of its own.

    Args:
        divergence: the f-divergence that is bounded.
        real: outputs [N] under p.
        fake: outputs [M] under q; of any other number than N.
        real_weights, fake_weights: of a quadrature, each summing to one; equal unless given.
    """
    chex.assert_rank([real, fake], 1)
    real_mean = jnp.average(divergence.activation(real), weights=real_weights)
    return real_mean - jnp.average(divergence.composed(fake), weights=fake_weights)


def _extended(formula: Elementwise, *, upper: float) -> Elementwise:
    """Extend a conjugate by +∞ above the end of its domain."""

    def conjugate(t: Array) -> Array:
        inside = t <= upper
        # Both branches of a `where` are differentiated, so the formula must see nothing but its domain.
        return jnp.where(inside, formula(jnp.where(inside, t, upper - 1.0)), jnp.inf)

    return conjugate
