"""Update rules: maps of a point of a game to the next, one family a file.

`RULES` take a pair of optimisers, any of optax's. `PLAIN_RULES` are defined for plain gradient steps alone and
take a pair of rates. `lookahead` makes a rule of a rule.
"""

from collections.abc import Callable
from typing import Any

import optax

from gan_jax.base import Pair, UpdateRule
from gan_jax.rules import gradients
from gan_jax.rules.alternating import alternating
from gan_jax.rules.competitive import competitive
from gan_jax.rules.consensus import consensus
from gan_jax.rules.extragradient import extragradient
from gan_jax.rules.lookahead import lookahead, lookahead_minmax
from gan_jax.rules.momentum import negative_momentum
from gan_jax.rules.optimistic import optimistic
from gan_jax.rules.simultaneous import simultaneous
from gan_jax.rules.symplectic import symplectic
from gan_jax.rules.unrolled import unrolled

RULES: dict[str, Callable[..., UpdateRule]] = {
    f.__name__: f for f in (simultaneous, alternating, extragradient, optimistic, lookahead_minmax, unrolled)
}
PLAIN_RULES: dict[str, Callable[..., UpdateRule]] = {
    f.__name__: f for f in (negative_momentum, consensus, symplectic, competitive)
}


def plain(name: str, rates: Pair[Any], **options: Any) -> UpdateRule:
    """Return a rule of either catalogue under plain gradient steps of the given rates: what closed forms speak of.

    Raises:
        ValueError: an unknown name, or rates that are not finite numbers of at least 0.
    """
    gradients.check_rates(rates)
    if name in RULES:
        return RULES[name](Pair(*map(optax.sgd, rates)), **options)
    if name in PLAIN_RULES:
        return PLAIN_RULES[name](rates, **options)
    raise ValueError(f"unknown rule {name!r}: there is {', '.join((*RULES, *PLAIN_RULES))}")


__all__ = [
    "PLAIN_RULES",
    "RULES",
    "alternating",
    "competitive",
    "consensus",
    "extragradient",
    "lookahead",
    "lookahead_minmax",
    "negative_momentum",
    "optimistic",
    "plain",
    "simultaneous",
    "symplectic",
    "unrolled",
]
