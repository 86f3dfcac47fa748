"""Quadratic games of vectors, in JAX for a rule and in NumPy for what it is compared with."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax.base import Game, Pair, Point
from gan_jax.rules.simultaneous import simultaneous

SHAPES = [(1, 1), (2, 3), (3, 2)]  # how many parameters the generator has, and the discriminator
KEY = jax.random.key(0)


class Quadratic(NamedTuple):
    """Losses ½wᵀMw + b·w of the joint point w = (generator, discriminator), a symmetric M and a b for each player."""

    matrices: Pair
    offsets: Pair


def random(seed, shape, kind="general"):
    """Draw a "general" game, or a "linear" (no offset), "zero_sum", "bilinear" (no curvature) or "potential" one."""
    rng, n = np.random.default_rng(seed), sum(shape)
    mine, other = ((m + m.T) / 2 for m in rng.normal(size=(2, n, n)))
    offset = rng.normal(size=(2, n)) * (kind != "linear")
    if kind == "bilinear":
        mine[: shape[0], : shape[0]] = mine[shape[0] :, shape[0] :] = offset[:] = 0
    sign = {"general": None, "linear": None, "zero_sum": -1, "bilinear": -1, "potential": 1}[kind]
    if sign is None:
        return Quadratic(Pair(mine, other), Pair(*offset))
    return Quadratic(Pair(mine, sign * mine), Pair(offset[0], sign * offset[0]))


def place(seed, shape):
    return np.random.default_rng([seed, 1]).normal(size=sum(shape))


def field(quadratic, shape, w):
    """Return both gradients as one vector, and their Jacobian: each player's rows of its own matrix."""
    m = shape[0]
    jacobian = np.concatenate([quadratic.matrices.generator[:m], quadratic.matrices.discriminator[m:]])
    offset = np.concatenate([quadratic.offsets.generator[:m], quadratic.offsets.discriminator[m:]])
    return jacobian @ w + offset, jacobian


def sgd(rates):
    return Pair(*map(optax.sgd, rates))


def adams(settings):
    return Pair(*(optax.adam(*each) for each in settings))


def plain(rates):
    return simultaneous(sgd(rates))


def spread(rates, shape):
    """Return the rate of each coordinate of the joint point."""
    return np.repeat(np.array(rates, np.float64), shape)


def game(quadratic, penalty=None):
    """Return the game of vectors; a penalty is the discriminator's, and as quadratic as the losses."""

    def loss(matrix, offset, name):
        def value(params, stats, key, batch):
            w = jnp.concatenate(params)
            result = w @ (matrix @ w) / 2 + offset @ w
            return result, (stats, {name: result})

        return value

    losses = Pair(*map(loss, quadratic.matrices, quadratic.offsets, Pair("generator/loss", "discriminator/loss")))
    return Game(losses, Pair(None, penalty and loss(*penalty, "discriminator/penalty")))


def start(rule, w, shape):
    params = Pair(w[: shape[0]], w[shape[0] :])
    return Point(params, Pair({}, {}), rule.init(params))


@cache
def _runner(make, shape, steps, penalised):
    """Compile steps of `make(rates, *options)`: everything is traced, so that examples share the compilation."""

    def run(rates, options, quadratic, penalty, w):
        rule, scene = make(Pair(*rates), *options), game(quadratic, penalty if penalised else None)

        def step(point, _):
            point, _ = rule.step(scene, KEY, point, {})
            return point, jnp.concatenate(point.params)

        return jax.lax.scan(step, start(rule, w, shape), length=steps)[1]

    return jax.jit(run)


def path(make, shape, rates, quadratic, w, steps, options=(), penalty=None):
    """Return the places [steps, size] through which a rule leads, in float64."""
    with jax.enable_x64(True):
        # Arrays of one type, or each Python number would be another trace.
        numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (rates, options, quadratic, penalty, w))
        return np.asarray(_runner(make, shape, steps, penalty is not None)(*numbers))


def step(make, shape, rates, quadratic, w, options=()):
    """Return where one step leads."""
    return path(make, shape, rates, quadratic, w, 1, options)[0]


def modulus(make, rates, quadratic, shape, options=()):
    """Return the largest modulus of the eigenvalues of one step, linearised at a place of no meaning."""
    origin = step(make, shape, rates, quadratic, np.zeros(sum(shape)), options)
    columns = [step(make, shape, rates, quadratic, unit, options) - origin for unit in np.eye(sum(shape))]
    return np.abs(np.linalg.eigvals(np.stack(columns, axis=1))).max()


BILINEAR = Quadratic(
    Pair(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, -1.0], [-1.0, 0.0]])), Pair(np.zeros(2), np.zeros(2))
)
HALF = np.diag([0, 0.5]), np.zeros(2)  # a penalty: a quarter of the discriminator's square
