"""What a game with a known answer is, and what every such game shares: its field and its trajectories.

Points are written as one vector in the order of `Pair`: the generator's coordinates, then the
discriminator's. (Texts that write (φ, θ) or (D, G) have the two blocks the other way round; the
eigenvalues are the same.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from gan_jax.base import Game, Pair, Params, Point, UpdateRule
from gan_jax.rules import gradients

KEY_SEED = 0  # games with known answers are expectations, not samples: no key changes them


class Known(NamedTuple):
    """A game and its answer.

    game: takes the empty batch {} and empty stats; its losses are exact expectations.
    solution: a pair of parameters, NumPy float64, where both gradients vanish.
    hessians: of each player's loss, penalty included, in all coordinates at the solution, [d, d] in NumPy
        float64. None where there is none: a loss has a kink there, or the game was made of traced numbers.
    """

    game: Game
    solution: Pair[Params]
    hessians: Pair[Float[np.ndarray, "d d"]] | None

    @property
    def sizes(self) -> Pair[int]:
        """How many coordinates each player has."""
        return Pair(*(sum(np.size(leaf) for leaf in jax.tree.leaves(mine)) for mine in self.solution))

    @property
    def jacobian(self) -> Float[np.ndarray, "d d"] | None:
        """The matrix A of the linearised flow ẇ = A(w − w*), where ẇ = −(∇_θ L_G, ∇_φ L_D).

        Each player follows its own loss, so A is made of its rows of minus its Hessian. None where they are.
        """
        if self.hessians is None:
            return None
        cut = self.sizes.generator
        return -np.concatenate([self.hessians.generator[:cut], self.hessians.discriminator[cut:]])


def start(known: Known, rule: UpdateRule, params: Pair[Params] | None = None) -> Point:
    """Return the point before a rule's first step, at the given parameters or else at the solution."""
    here: Pair[Params] = jax.tree.map(jnp.asarray, known.solution if params is None else params)
    return Point(here, Pair({}, {}), rule.init(here))


def velocity(game: Game, params: Pair[Params]) -> Pair[Params]:
    """Return ẇ = −(∇_θ L_G, ∇_φ L_D), penalties included: where gradient descent in continuous time goes."""

    def slope(player: str) -> Params:
        key, stats = jax.random.key(KEY_SEED), Pair({}, {})
        return gradients.gradient(game, player, key, params, stats, {}, jnp.int32(0), lazy=1)[0]

    return jax.tree.map(jnp.negative, Pair(*map(slope, Pair._fields)))


def play(known: Known, rule: UpdateRule, params: Pair[Params], steps: int) -> Float[Array, "L d"]:
    """Return the trajectory of a rule from a point: steps + 1 joint vectors, the first of them the start."""

    def step(point: Point, _: None) -> tuple[Point, Array]:
        point = rule.step(known.game, jax.random.key(KEY_SEED), point, {})[0]
        return point, ravel_pytree(point.params)[0]

    first = start(known, rule, params)
    _, rest = jax.lax.scan(step, first, length=steps)
    return jnp.concatenate([ravel_pytree(first.params)[0][None], rest])
