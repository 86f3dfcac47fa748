"""Linear games of vectors, on which a rule is a matrix; NumPy's float64 is the judge."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Game, Pair, Point

SHAPES = ((1, 1), (2, 3), (3, 1), (2, 2))


class Linear(NamedTuple):
    """The game of losses ½ xᵀPx + xᵀBy and ½ yᵀQy + xᵀCy: own (P, Q), cross (B, C), and a penalty of the second player.

    Its joint field of gradients is F(w) = field @ w, in the order (generator, discriminator). The parameters of the
    players are trees of unlike structure.
    """

    own: tuple
    cross: tuple
    penalty: float = 0.0  # of ½ yᵀy

    @property
    def field(self):
        (mine, theirs), (first, second) = self.own, self.cross
        return np.block([[mine, first], [second.T, theirs]])

    @property
    def sizes(self):
        return self.cross[0].shape

    def rates(self, h, k):
        """Return the diagonal matrix of the players' rates."""
        return np.diag(np.repeat([h, k], self.sizes))

    def params(self, w):
        x, y = jnp.split(jnp.asarray(w), self.sizes[:1])
        return Pair({"x": x}, (y[:1], y[1:]))

    def game(self):
        def loss(index, player):
            def value(params, stats, key, batch):
                x, y = params.generator["x"], jnp.concatenate(params.discriminator)
                z = (x, y)[index]
                value = z @ self.own[index] @ z / 2 + x @ self.cross[index] @ y
                return value, (stats, {f"{player}/loss": value})

            return value

        def penalty(params, stats, key, batch):
            y = jnp.concatenate(params.discriminator)
            return self.penalty * y @ y / 2, (stats, {})

        return Game(Pair(loss(0, "generator"), loss(1, "discriminator")), Pair(None, penalty))

    def start(self, rule, w):
        params = self.params(w)
        return Point(params, Pair({}, {}), rule.init(params))

    def run(self, make, numbers, w, steps):
        """Return the joint vectors [steps, size] that the rule `make(*numbers)` goes through, in float64."""
        with jax.enable_x64(True):
            # Arrays of one type: all examples of a shape then share a compilation, if they share `make`.
            arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (self, numbers, w))
            return np.asarray(_compiled(make, steps)(*arguments))


@cache
def _compiled(make, steps):
    def run(linear, numbers, w):
        rule, game = make(*numbers), linear.game()

        def step(point, _):
            point, _ = rule.step(game, jax.random.key(0), point, {})
            return point, vector(point.params)

        return jax.lax.scan(step, linear.start(rule, w), length=steps)[1]

    return jax.jit(run)


def vector(params):
    return jnp.concatenate([params.generator["x"], *params.discriminator])


@pytest.fixture(scope="session")
def random_game():
    """Make, of a seed, a general-sum game with curvatures, of one of a few SHAPES, and a place in it."""

    def make(seed):
        random = np.random.default_rng(seed)
        m, n = SHAPES[seed % len(SHAPES)]
        own = tuple((a + a.T) / 2 for a in (random.uniform(-1, 1, (m, m)), random.uniform(-1, 1, (n, n))))
        return Linear(own, tuple(random.uniform(-1, 1, (2, m, n)))), random.uniform(-1, 1, m + n)

    return make


@pytest.fixture(scope="session")
def bilinear():
    """The game f = xy of two numbers, which the generator descends and the discriminator ascends."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    return Linear((zero, zero), (one, -one))
