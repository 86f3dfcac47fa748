"""Games with known answers: where each converges, how fast, and under which rule, on paper.

`GAMES` holds factories that need no argument. Rules, diagnostics and meta-learners are examined on
them before they see a network.
"""

from collections.abc import Callable
from functools import partial

from gan_jax import objectives, penalties
from gan_jax.games.dirac import dirac
from gan_jax.games.known import Known, play, start, velocity
from gan_jax.games.quadratic import bilinear, quadratic, random_quadratic, saddle

GAMES: dict[str, Callable[..., Known]] = {
    "bilinear": bilinear,
    "saddle": saddle,
    "random_quadratic": random_quadratic,
    "dirac": dirac,
    "dirac_r1": partial(dirac, penalty=penalties.r1(1.0)),
    "dirac_noise": partial(dirac, noise=1.0),
    "dirac_wasserstein": partial(dirac, objectives.wasserstein()),
    "dirac_wgan_gp": partial(dirac, objectives.wasserstein(), penalties.wgan_gp()),
}

__all__ = [
    "GAMES",
    "Known",
    "bilinear",
    "dirac",
    "play",
    "quadratic",
    "random_quadratic",
    "saddle",
    "start",
    "velocity",
]
