"""Optimisers whose rates may be learned: a number, or a tree of them over the parameters.

optax's own take traced numbers already. What is here takes, besides, a tree that has the structure of the
parameters or stands for the upper part of it, of numbers or of arrays of the parameters' shapes.
"""

import math
from numbers import Real
from typing import Any

import jax
import optax

from gan_jax.arithmetic import allowed

Rate = Any  # a number, or a tree of numbers or arrays that is a prefix of the parameters


def sgd(rate: Rate) -> optax.GradientTransformation:
    """Return gradient descent at a rate: updates times -rate.

    Raises:
        ValueError: if the rate is a Python number that is negative or not finite.
    """
    if isinstance(rate, Real) and not 0.0 <= float(rate) < float("inf"):
        raise ValueError(f"rate {rate} is not a finite rate of at least 0: 2e-4 is usual for Adam, 0.01 for descent")

    def scaled(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(lambda mine, below: jax.tree.map(lambda u: -mine * u, below), rate, updates)

    return optax.stateless(scaled)


def adam(
    rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon_root: float = 0.0
) -> optax.GradientTransformation:
    """Return Adam at a rate (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

    Args:
        rate: a number or a tree.
        beta1, beta2: decays of the two moments, in [0, 1).
        epsilon_root: added under the root. Where the optimiser itself is differentiated it must be positive, for
            the slope of a root is infinite at 0: the gradient of a weight whose own gradient is 0 would be NaN.

    Raises:
        ValueError: if a Python number is out of its range.
    """
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not allowed(beta, lambda share: 0 <= share < 1):
            raise ValueError(f"{name}={beta} is not in [0, 1): 0.5 or 0.9 is usual for beta1, 0.999 for beta2")
    if not allowed(epsilon_root, lambda size: 0 <= size < math.inf):
        raise ValueError(f"epsilon_root={epsilon_root} is not finite and at least 0: 1e-8 keeps slopes finite")
    return optax.chain(optax.scale_by_adam(b1=beta1, b2=beta2, eps_root=epsilon_root), sgd(rate))
