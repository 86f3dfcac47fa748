"""The Dirac-GAN: data a point, a generator that is a point, a critic that is a line.

The smallest GAN there is, and one on which the regularisers of the literature can be told apart on
paper: what converges here may fail at scale, but what fails here has no reason to converge there.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan_jax import objectives
from gan_jax.arithmetic import allowed
from gan_jax.base import Batch, Game, Key, Metrics, Objective, Pair, Params, Regularizer, Stats
from gan_jax.games.known import KEY_SEED, Known

MINIMAX = objectives.minimax()
NEAR = 1e-6  # how near to the kink of a penalty its two slopes are compared


def dirac(
    objective: Objective = MINIMAX,
    penalty: Regularizer | None = None,
    *,
    noise: float = 0.0,
    level: float = 0.0,
    nodes: int = 32,
) -> Known:
    """Make the Dirac-GAN: data δ_0, the generator's distribution δ_θ, the critic D(x) = ψx + c.

    Instance noise adds N(0, σ²) to both sides. With ℓ the discriminator's function of (real, fake) logits, g the
    generator's, all derivatives taken at (c, c), and κ the curvature of the penalty in ψ, the flow at (θ, ψ) = 0 is

        A = [[0, −g_f], [−ℓ_f, −σ²(ℓ_rr + ℓ_ff) − κ]].

    For `minimax`, `non_saturating` and `relativistic` the slopes are ∓½ and ℓ_rr = ℓ_ff = ¼: eigenvalues
    −s ± √(s² − ¼) with 2s = σ²/2 + κ, and κ = γ for `r1` or `r2` of weight γ. Without either that is ±½i, a centre
    of the flow. `wasserstein` and `hinge` have slopes ∓1 and no curvature: to first order noise does nothing, and
    ±i stays without a penalty. `least_squares` regresses labels, and its undecided critic says ½: at that level its
    slopes are ∓½ and ℓ_rr = ℓ_ff = 1, and noise damps it four times as much as minimax. At the level 0 the critic
    is wrong at the data and no slope can mend it: ℓ_f = 0, and every θ with ψ = 0 is an equilibrium.

    With `wgan_gp`, λ(|ψ| − 1)², there is no flow to linearise: the critic's speed jumps from −2λ to 2λ at ψ = 0, so
    that it is pushed off the equilibrium, and `hessians` is None. Nor does it converge from afar: under `wasserstein`
    θ̇ = ψ and ψ̇ = −θ − 2λ(ψ − sign ψ), whose critic cannot change its sign before |θ| = 2λ. For λ ≥ 1 the flow comes
    to rest there, on a wrong point; for less it tends to a cycle of amplitude 2λ·coth(πλ/(2√(1 − λ²))) around the data.

    Args:
        objective: a pair of functions of logits, twice differentiable at the level.
        penalty: on the critic's slope. It is called with noisy inputs [B, 1].
        noise: σ, the deviation of the instance noise, not learned here. Expectations are Gauss-Hermite sums over
            the product of both sides' nodes, since an objective may pair real with fake: exact for polynomials
            in the noise, hence A is exact, and the rest is to rounding where |ψ|σ is at most about 1.
        level: c, the critic's logit at the data, which is not learned.
        nodes: of the quadrature, for each side.

    Raises:
        ValueError: a negative or infinite noise, an infinite level, or fewer than 2 nodes.

    Mescheder et al. 2018 (arXiv 1801.04406), sections 2 and 3; instance noise of Sønderby et al. 2017
    (arXiv 1610.04490).
    """
    if not allowed(noise, lambda size: 0 <= size < math.inf):
        raise ValueError(f"noise={noise} is not a deviation: give a finite one of at least 0, 0 is none")
    if not allowed(level, math.isfinite):
        raise ValueError(f"level={level} is not a logit: 0 is undecided, 0.5 for least squares")
    if nodes < 2:
        raise ValueError(f"nodes={nodes} cannot hold a variance: give at least 2, 32 is plenty")
    quiet = isinstance(noise, Real) and noise == 0
    draws, weights = (np.zeros(1), np.ones(1)) if quiet else np.polynomial.hermite_e.hermegauss(nodes)
    on_real, on_fake = (axis.reshape(-1, 1) for axis in np.meshgrid(draws, draws, indexing="ij"))
    chances = np.outer(weights, weights).ravel() / np.sum(weights) ** 2

    def expected(params: Pair[Params], function: Callable[[Callable, Array, Array], Array]) -> Array:
        """Average a function of the critic and both sides' examples [B, 1] over the noise."""
        theta, psi = params
        real = noise * jnp.asarray(on_real, theta.dtype)
        fake = theta + noise * jnp.asarray(on_fake, theta.dtype)
        values = function(lambda x: psi * x[:, 0] + level, real, fake)
        return jnp.sum(values * jnp.asarray(chances, values.dtype))

    def loss_of(player: str) -> Any:
        of_logits = getattr(objective, player)

        def loss(
            params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
        ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
            value = expected(params, lambda critic, real, fake: of_logits(critic(real), critic(fake)))
            return value, (stats, {f"{player}/loss": value})

        return loss

    def charge(key: Key, params: Pair[Params]) -> Array:
        regularizer: Regularizer = _free if penalty is None else penalty
        return expected(params, lambda critic, real, fake: regularizer(key, critic, real, fake))

    def discriminator_penalty(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        value = charge(key, params)
        return value, (stats, {"discriminator/penalty": value})

    def derivatives() -> tuple[Array, Array, Array, Array]:
        """Return both losses' Hessians at the solution and the penalty's, and the penalty's slopes on either side."""

        def of(player: str) -> Array:
            def value(logits: Array) -> Array:
                return getattr(objective, player)(logits[:1], logits[1:])[0]

            here = jnp.full(2, level, float)
            slope, second = jax.grad(value)(here), jax.hessian(value)(here)
            # E over the noise: the cross term averages to 0, and at θ = ψ = 0 a logit has no other slope than x.
            return jnp.array([[0.0, slope[1]], [slope[1], noise**2 * jnp.trace(second)]])

        def price(w: Array) -> Array:
            return charge(jax.random.key(KEY_SEED), Pair(w[0], w[1]))

        sides = jnp.array([[0.0, -NEAR], [0.0, NEAR]])
        slopes = jax.vmap(jax.grad(price))(sides)[:, 1]
        return of("generator"), of("discriminator"), jax.hessian(price)(jnp.zeros(2)), slopes

    def hessians() -> Pair[np.ndarray] | None:
        # What the answer is made of is computed here and now, in float64, whoever traces or computes in float32.
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            found = jax.jit(derivatives)()
        if any(isinstance(leaf, jax.core.Tracer) for leaf in found):
            return None
        generator, discriminator, own, (below, above) = map(np.asarray, found)
        # The slopes of a smooth penalty meet at ψ = 0; those of a kink keep their distance however near one looks.
        smooth = np.isclose(above - below, 2 * NEAR * own[1, 1], rtol=1e-2, atol=NEAR**1.5)
        return Pair(generator, discriminator + own) if smooth else None

    losses = Pair(loss_of("generator"), loss_of("discriminator"))
    game = Game(losses, Pair(None, None if penalty is None else discriminator_penalty))
    return Known(game, Pair(np.zeros(()), np.zeros(())), hessians())


def _free(key: Key, critic: Callable[[Array], Array], real: Array, fake: Array) -> Array:
    """Charge nothing."""
    return jnp.zeros_like(critic(real))
