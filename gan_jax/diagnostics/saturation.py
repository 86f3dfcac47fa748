"""How much of a batch still teaches: shares of logits whose slope has vanished, and how well real and fake part."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from gan_jax.arithmetic import allowed
from gan_jax.base import Metrics, Objective

Logits = Float[Array, " B"]


def saturation(objective: Objective, real: Logits, fake: Logits, *, threshold: float | Array = 0.01) -> Metrics:
    """Return what a batch of logits says of both players' slopes, as scalars.

    An example is saturated where the slope of its own loss on its logit, not of the batch's mean, is smaller than
    `threshold` times the largest slope at an undecided critic, whose logits are all 0. So a loss may be scaled, and
    need not be bounded. That slope is ½ for the logistic pairs, and 1 for hinge, Wasserstein and least squares: at
    the default a minimax generator is saturated where D(G(z)) < .005, and least squares within .01 of its labels.
    Next to a target a slope vanishes as it should: with smoothing, real logits near log((1 − ε)/ε) count too.

    - "generator/saturated": the share of fake logits, in [0, 1], at which the generator's slope has vanished.
    - "discriminator/saturated": the share of real and fake logits at which the discriminator's has.
    - "discriminator/accuracy": how often a real logit exceeds a fake one over all pairs, ties counted half: ½ is
      undecided and 1 tells all apart. It needs no level, so it holds for critics and relativistic pairs too. NaN if a
      logit is.
    - "discriminator/margin": the mean real logit minus the mean fake one.

    Args:
        objective: the pair that is played.
        real, fake: the critic's logits, [B] each.
        threshold: in (0, 1); it may be traced.

    Raises:
        ValueError: a threshold outside (0, 1).
    """
    if not allowed(threshold, lambda share: 0 < share < 1):
        raise ValueError(f"threshold={threshold} is outside (0, 1): 0.01 asks for a hundredth of a slope")
    # Rules that differentiate a step twice would otherwise carry derivatives of what only watches.
    real, fake = lax.stop_gradient((real, fake))
    undecided = jnp.zeros_like(fake)

    def vanished(slopes: Array, full: Array) -> Array:
        return jnp.mean(jnp.abs(slopes) < threshold * jnp.max(jnp.abs(full)))

    _, on_fake = _slopes(objective.generator, real, fake)
    _, full = _slopes(objective.generator, undecided, undecided)
    on_both = jnp.stack(_slopes(objective.discriminator, real, fake))
    full_on_both = jnp.stack(_slopes(objective.discriminator, undecided, undecided))
    # Fake logits below a real one, and those not above it, by their places in order: all pairs of a large batch that is
    # divided over many devices would be most of a step.
    ordered = jnp.sort(fake)
    below, not_above = (jnp.searchsorted(ordered, real, side=side) for side in ("left", "right"))
    accuracy = jnp.mean((below + not_above) / (2 * fake.size))
    # What is not a number has a place in the order too. Counted in floats, as a step sums those over devices anyway.
    known = jnp.isnan(real).sum(dtype=jnp.float32) + jnp.isnan(fake).sum(dtype=jnp.float32) == 0
    return {
        "generator/saturated": vanished(on_fake, full),
        "discriminator/saturated": vanished(on_both, full_on_both),
        "discriminator/accuracy": jnp.where(known, accuracy, jnp.nan),
        "discriminator/margin": jnp.mean(real) - jnp.mean(fake),
    }


def _slopes(loss: Callable[[Array, Array], Array], real: Array, fake: Array) -> tuple[Array, Array]:
    """Return the slopes of the summed losses: each example's own, where it is judged by its own logits."""
    return jax.grad(lambda real, fake: jnp.sum(loss(real, fake)), argnums=(0, 1))(real, fake)
