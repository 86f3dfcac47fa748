"""Negative momentum: alternating steps that remember their last move with the opposite sign."""

import optax
from jax import Array

from gan_jax.arithmetic import allowed
from gan_jax.base import Pair, UpdateRule
from gan_jax.rules import gradients
from gan_jax.rules.alternating import alternating


def negative_momentum(
    rates: Pair[float | Array], *, momentum: float | Array = -0.5, d_steps: int = 1, lazy: int = 1
) -> UpdateRule:
    """Move the players in turn by heavy-ball steps whose momentum is negative.

    With F a player's gradient at the present point of both, s its rate and β the momentum,

        w⁺ = w − s F + β (w − w⁻)

    (Polyak's heavy ball, with β below 0: Gidel et al. 2019, arXiv 1807.04740), the discriminator first. On the
    bilinear game, where alternating steps without momentum circle for ever, it converges for small rates.
    What is carried is (w⁻ − w)/s: if a rate changes between steps, the memory of the last move scales with it.

    Args:
        rates: a learning rate for each player.
        momentum: β, of both players, in (-1, 0]; 0 is `alternating`.
        d_steps: how many steps of the discriminator precede one of the generator, each with its momentum.
        lazy: penalties are added on every `lazy`-th move of their player, times `lazy`.

    Raises:
        ValueError: if `rates` is no pair of finite numbers of at least 0, if `momentum` is not in (-1, 0], or if
            `d_steps` or `lazy` is not a whole number of at least 1.
    """
    gradients.check_rates(rates)
    if not allowed(momentum, lambda share: -1 < share <= 0):
        raise ValueError(f"momentum={momentum!r} is not a number in (-1, 0]: -0.5 is usual")
    return alternating(Pair(*(optax.sgd(rate, momentum=momentum) for rate in rates)), d_steps=d_steps, lazy=lazy)
