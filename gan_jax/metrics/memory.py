"""Whether a generator repeats what it was trained on: distances to the nearest training example."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gan_jax.metrics._neighbours import centred, in_blocks, squared_distances
from gan_jax.metrics._samples import require_samples


class Nearest(NamedTuple):
    """For each of N points the distance to the nearest of some others, and which it is."""

    distances: Float[np.ndarray, " N"]
    indices: Int[np.ndarray, " N"]


class Memory(NamedTuple):
    """What distances to the training set say of copying.

    ratio: the median distance of generated samples to their nearest training example over that of held-out real ones:
        1 is as far as unseen data, near 0 is copying, and well above 1 is unlike the data.
    share: of the generated samples that are as near to a training example as only `percentile` % of the held-out ones
        are: that many, as a share, for a generator of the data's law, and 1 for copies.
    nearest: of each generated sample the nearest training example, to be looked at.
    """

    ratio: float
    share: float
    nearest: Nearest


def memory(
    generated: Float[np.ndarray, "n ..."],
    train: Float[np.ndarray, "N ..."],
    held_out: Float[np.ndarray, "M ..."],
    *,
    percentile: float = 5.0,
) -> Memory:
    """Hold generated samples against the training set, as held-out real samples are held against it.

    torch-fidelity has no such measure; that of torchmetrics is of cosine distances, and a factor on a Fréchet distance.

    Args:
        generated: features [n, F] or images [n, H, W, C]; all of one shape.
        train: what was trained on, N of them.
        held_out: real ones that were not, M.
        percentile: of the held-out distances, in (0, 100), within which a sample counts as a copy.

    Raises:
        ValueError: a percentile out of its range, samples that differ in size, are not finite or are missing, or
            held-out samples half of which are training examples.
    """
    if not 0.0 < percentile < 100.0:
        raise ValueError(f"percentile={percentile} is not between 0 and 100")
    sets = {"train": train, "generated": generated, "held_out": held_out}
    flat = {name: np.reshape(each, (len(each), math.prod(each.shape[1:]))) for name, each in sets.items()}
    require_samples(**flat)
    found = nearest(np.concatenate([flat["generated"], flat["held_out"]]), flat["train"])
    distances, expected = np.split(found.distances, [len(generated)])
    typical = np.median(expected)
    if typical == 0:
        raise ValueError("half of held_out are copies of training examples: give a split that was not trained on")
    share = np.mean(distances <= np.percentile(expected, percentile))
    return Memory(
        float(np.median(distances) / typical), float(share), Nearest(distances, found.indices[: len(generated)])
    )


def nearest(points: Float[np.ndarray, "n F"], others: Float[np.ndarray, "N _F"]) -> Nearest:
    """Find the nearest of others [N, F] to each of points [n, F] in the Euclidean distance, in float64.

    A copy is at distance 0 exactly. Of others that are equally near, to rounding, it is any one.

    Raises:
        ValueError: points that differ in F, are not finite or are missing.
    """
    require_samples(points=points, others=others)
    with jax.enable_x64(True):
        return Nearest(*map(np.asarray, _nearest(*centred(others, points))))


@jax.jit
def _nearest(others: Float[Array, "N F"], points: Float[Array, "n F"]) -> tuple[Array, Array]:
    indices = in_blocks(lambda point: jnp.argmin(squared_distances(point, others)[0]), points)
    return jnp.linalg.norm(points - others[indices], axis=-1), indices
