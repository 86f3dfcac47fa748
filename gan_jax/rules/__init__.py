"""Update rules: maps of a point of a game to the next, one family a file."""

from gan_jax.rules.alternating import alternating
from gan_jax.rules.simultaneous import simultaneous

RULES = {f.__name__: f for f in (simultaneous, alternating)}

__all__ = ["RULES", "alternating", "simultaneous"]
