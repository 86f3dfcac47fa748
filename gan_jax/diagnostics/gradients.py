"""Whether gradients still reach the weights: their sizes by player and by layer, and how much of them is noise."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point
from gan_jax.rules.gradients import Moves, field


def slopes(game: Game, key: Key, point: Point, batch: Batch) -> Pair[Params]:
    """Return both players' gradients at a point, penalties included, whatever the rule that plays remembers.

    Args:
        key: from which each player derives a key of its own, as rules do.
        batch: one batch, of leaves [B, ...].
    """
    # The field asks for the counts of moves, which not all rules keep; without laziness it does not read them.
    counted = point._replace(rule=Moves(Pair(None, None), Pair(jnp.int32(0), jnp.int32(0))))
    return field(game, key, counted, batch, lazy=1)[0]


def gradients(game: Game, key: Key, point: Point, batch: Batch) -> Metrics:
    """Return the sizes of both players' gradients at a point, penalties included, as scalars.

    A layer is the leaves of one parent in the tree of parameters: a kernel and its bias. Sizes scale with the loss;
    those relative to the parameters say what plain steps would change, and the ratio whether one player has stopped
    learning before the other. Where a gradient is zero all of them are, and its ratio to a zero is 0, not NaN.

    Args:
        key, batch: as `slopes` takes them.

    Returns (for each player):
        "player/gradient": the Euclidean norm. "player/gradient_relative": over that of the parameters.
        "player/gradient_rms": the root mean square over parameters, norm/√n, which compares players of unlike sizes.
        "player/gradient_weakest": the smallest root mean square of a layer: where the signal gets lost.
        And once "generator/gradient_ratio": the generator's norm over the discriminator's.
    """
    found = slopes(game, key, point, batch)
    metrics = {}
    for player, mine, params in zip(Pair._fields, found, point.params, strict=True):
        norm = optax.tree.norm(mine)
        metrics |= {
            f"{player}/gradient": norm,
            f"{player}/gradient_relative": _ratio(norm, optax.tree.norm(params)),
            f"{player}/gradient_rms": _rms(mine),
            f"{player}/gradient_weakest": jnp.min(jnp.stack([_rms(layer) for layer in _layers(mine)])),
        }
    ratio = _ratio(metrics["generator/gradient"], metrics["discriminator/gradient"])
    return metrics | {"generator/gradient_ratio": ratio}


def agreement(game: Game, key: Key, point: Point, batch: Batch) -> Metrics:
    """Return the cosine between the gradients of two halves of a batch, for each player, in [-1, 1].

    The halves have keys of their own, so real examples, latents and masks all differ: 1 is signal alone, and around
    0 a step goes nowhere in particular. With S the squared norm of the expected gradient and N its variance on half
    a batch the cosine is near S/(S + N), so S/N is about cosine/(1 − cosine). It costs about one more gradient.

    Args:
        key, batch: as `slopes` takes them; the last example of an odd batch is left out.

    Returns:
        "generator/gradient_agreement" and "discriminator/gradient_agreement"; 0 where a gradient is zero.

    Raises:
        ValueError: a batch of fewer than 2 examples.
    """
    size = min((leaf.shape[0] for leaf in jax.tree.leaves(batch)), default=2)
    if size < 2:
        raise ValueError(f"a batch of {size} has no halves: give at least 2 examples")
    half = size // 2
    first, second = (
        slopes(game, mine, point, jax.tree.map(lambda leaf, start=start: leaf[start : start + half], batch))
        for mine, start in zip(jax.random.split(key), (0, half), strict=True)
    )
    return {
        f"{player}/gradient_agreement": _ratio(
            optax.tree.vdot(one, other), optax.tree.norm(one) * optax.tree.norm(other)
        )
        for player, one, other in zip(Pair._fields, first, second, strict=True)
    }


def _layers(tree: Params) -> list[list[Array]]:
    """Group the leaves by their parents."""
    layers: dict[tuple, list[Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        layers.setdefault(path[:-1], []).append(leaf)
    return list(layers.values())


def _rms(tree: Params) -> Array:
    return optax.tree.norm(tree) / optax.tree.size(tree) ** 0.5


def _ratio(size: ArrayLike, other: ArrayLike) -> Array:
    return jnp.where(jnp.equal(size, 0), 0.0, jnp.divide(size, other))
