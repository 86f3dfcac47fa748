"""Losses against the equilibrium: what they are where real and fake cannot be told apart, and how far a run is from it.

A low generator's loss means little and a steady one less; what both losses are at p_g = p_data is known beforehand.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from gan_jax.arithmetic import allowed
from gan_jax.base import Objective, Pair

_HALVINGS = 60  # of an interval of 64: to the last bit of a float64 near 1


def level(objective: Objective) -> Float[Array, ""]:
    """Return the logit of the best critic at p_g = p_data, which must give all examples one value.

    It is the c that minimises the discriminator's loss at (c, c): 0 for the logistic pairs, ½ for least squares, the
    logit of (1 − ε)/2 with smoothing ε. Where the loss is flat about 0 the level is free, and 0 is returned.
    It is sought in ±32, in which the loss must fall and then rise, and may be traced.
    """

    def slope(c: Array) -> Array:
        return jax.grad(lambda c: objective.discriminator(c[None], c[None])[0])(c)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        rise = slope(middle)
        return jnp.where(rise <= 0, middle, low), jnp.where(rise >= 0, middle, high)

    low, high = lax.fori_loop(0, _HALVINGS, halve, (jnp.asarray(-32.0), jnp.asarray(32.0)))
    return (low + high) / 2


def equilibrium(objective: Objective) -> Pair[Float[Array, ""]]:
    """Return both losses, without penalties, at the ideal saddle: p_g = p_data and the best critic.

    They are computed from the objective at its `level`. For the logistic pairs the discriminator's is 2 log 2, the
    generator's log 2, or −log 2 if it saturates; relativistic log 2 and log 2; hinge 2 and 0; Wasserstein 0 and 0;
    least squares ¼ and ⅛; an f-divergence's discriminator −f(1).
    Goodfellow et al. 2014 (arXiv 1406.2661), theorem 1.
    """
    logits = level(objective)[None]
    return Pair(*(loss(logits, logits)[0] for loss in objective))


def distance(objective: Objective, losses: Pair[Array | float]) -> Pair[Array]:
    """Return by how much each player's loss differs from the equilibrium's, in the losses' unit, with its sign.

    A discriminator below the equilibrium tells real from fake; above it, its errors are worse than ignorance. Zero is
    necessary for the ideal saddle and not sufficient: a critic that says the same of everything has it anywhere.

    Args:
        losses: measured, without penalties; scalars, or arrays of one shape each such as a window's [L].
    """
    return jax.tree.map(lambda mine, ideal: mine - ideal, losses, equilibrium(objective))


def undecided(
    real: Float[Array | np.ndarray, " L"], fake: Float[Array | np.ndarray, " L"], *, tolerance: float | Array = 0.05
) -> Bool[Array, ""]:
    """Return whether D(x) and D(G(z)) have both stayed within a tolerance of ½ all through a window.

    It is for discriminators whose `level` is 0, and necessary at the ideal saddle, not sufficient: an untrained
    critic is undecided too. An empty window has shown nothing, and a NaN is not near ½: both are False.

    Args:
        real, fake: means of D(x) and D(G(z)) at each of L steps, in [0, 1]: a run's "discriminator/real" and "/fake".
        tolerance: in (0, ½]; it may be traced.

    Raises:
        ValueError: a tolerance outside (0, ½].
    """
    if not allowed(tolerance, lambda size: 0 < size <= 0.5):
        raise ValueError(f"tolerance={tolerance} is outside (0, 0.5]: 0.05 asks for outputs in [0.45, 0.55]")
    window = jnp.stack([jnp.asarray(real), jnp.asarray(fake)])
    return jnp.all(jnp.abs(window - 0.5) <= tolerance) & (window.size > 0)
