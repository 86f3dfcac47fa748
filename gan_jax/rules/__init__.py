"""Update rules: maps of a point of a game to the next, one family a file.

`RULES` take a pair of optimisers, any of optax's. `PLAIN_RULES` are defined for plain gradient steps alone and
take a pair of rates.
"""

from collections.abc import Callable
from typing import Any

import optax

from gan_jax.base import Pair, UpdateRule
from gan_jax.rules.alternating import alternating
from gan_jax.rules.simultaneous import simultaneous

RULES: dict[str, Callable[..., UpdateRule]] = {f.__name__: f for f in (simultaneous, alternating)}
PLAIN_RULES: dict[str, Callable[..., UpdateRule]] = {f.__name__: f for f in ()}


def plain(name: str, rates: Pair[Any], **options: Any) -> UpdateRule:
    """Return a rule of either catalogue under plain gradient steps of the given rates: what closed forms speak of.

    Raises:
        ValueError: an unknown name.
    """
    if name in RULES:
        return RULES[name](Pair(*map(optax.sgd, rates)), **options)
    if name in PLAIN_RULES:
        return PLAIN_RULES[name](rates, **options)
    raise ValueError(f"unknown rule {name!r}: there is {', '.join((*RULES, *PLAIN_RULES))}")


__all__ = ["PLAIN_RULES", "RULES", "alternating", "plain", "simultaneous"]
