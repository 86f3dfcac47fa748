"""Spectral normalisation as a pure reparametrisation: weights are read, normalised, and never written."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from gan_jax.arithmetic import require_counts
from gan_jax.base import Array, Key, Network, Params, Stats

# Enough for three digits of the norm of a random matrix, whose singular values lie close together.
_WARM_UP = 100


class Spectral(NamedTuple):
    """The statistics of a normalised network.

    network: those of the network itself.
    vectors: for each normalised kernel, by its path, the right singular vector [outputs] that is iterated.
    """

    network: Stats
    vectors: Mapping[str, Array]


def kernels(path: str, leaf: Array) -> bool:
    """Say whether a `leaf` of the parameters is normalised by `spectral`: two axes or more, no normalisation's own.

    Those are named `bias`, `scale` or `shift`, whatever their shape: a conditional batch normalisation has a row of
    each for every class. Linear maps, convolutions and embeddings remain.
    """
    return leaf.ndim >= 2 and path.rpartition("/")[2] not in ("bias", "scale", "shift")


def spectral(network: Network, *, iterations: int = 1, choose: Callable[[str, Array], bool] = kernels) -> Network:
    """Return a network whose kernels are divided by their largest singular value: W / σ(W).

    A kernel [..., inputs, outputs] is seen as the matrix of shape [...·inputs, outputs]. Its σ is estimated as vᵀWu by
    power iteration, u ← Wᵀv / ‖Wᵀv‖ and v ← Wu / ‖Wu‖. The gradient passes through σ with u and v held constant, so
    that the output does not depend on the scale of a kernel and no gradient points along it. The vector u is a
    statistic: it advances in training and is read in evaluation, where the output is that of the last training
    step. It is warm from `init` on. Everything here is float32 at least; a kernel of zeros stays as it is.

    For a convolution this bounds the matrix and not the map, whose norm is at most √(taps that see one pixel) larger
    (Tsuzuku et al. 2018, arXiv 1802.04034).

    Args:
        network: any. Its initial parameters are as they would be for the first half of the key.
        iterations: of the power method for each call in training.
        choose: which parameters to normalise: `(path, leaf) -> bool`, with a path such as "layers/0/kernel".

    Returns:
        A network whose stats are `Spectral`.

    Raises:
        ValueError: if `iterations` is no whole number of at least 1; at initialisation, if nothing is chosen, or a
            scalar or a vector.

    Miyato et al. 2018 (arXiv 1802.05957), algorithm 1.
    """
    require_counts(iterations=iterations)

    def init(key: Key) -> tuple[Params, Stats]:
        network_key, vectors_key = jax.random.split(key)
        params, stats = network.init(network_key)
        chosen = {path: leaf for path, leaf in _leaves(params).items() if choose(path, leaf)}
        if not chosen:
            raise ValueError(f"spectral() has nothing to normalise: none of {sorted(_leaves(params))} is chosen")
        for path, leaf in chosen.items():
            if leaf.ndim < 2:
                raise ValueError(f"spectral() normalises matrices, and {path} has shape {leaf.shape}: leave it out")
        vectors = {
            path: _warm(jax.random.fold_in(vectors_key, i), _matrix(leaf))
            for i, (path, leaf) in enumerate(chosen.items())
        }
        return params, Spectral(stats, vectors)

    def apply(
        params: Params,
        stats: Spectral,
        *inputs: Array,
        label: Array | None = None,
        train: bool,
        key: Key | None = None,
    ) -> tuple[Any, Spectral]:
        vectors = dict(stats.vectors)
        if train:
            leaves = lax.stop_gradient(_leaves(params))
            for path, vector in vectors.items():
                for _ in range(iterations):
                    vector = _advance(_matrix(leaves[path]), vector)
                vectors[path] = vector

        def normalised(path: Any, leaf: Array) -> Array:
            return _normalised(leaf, vectors[_name(path)]) if _name(path) in vectors else leaf

        params = jax.tree_util.tree_map_with_path(normalised, params)
        outputs, inner = network.apply(params, stats.network, *inputs, label=label, train=train, key=key)
        return outputs, Spectral(inner, vectors)

    return Network(init, apply)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaves(params: Params) -> dict[str, Array]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _matrix(kernel: Array) -> Float[Array, "N outputs"]:
    return kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32)).reshape(-1, kernel.shape[-1])


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _unit(x: Float[Array, " N"]) -> Float[Array, " N"]:
    """Return x / ‖x‖, and 0 for 0."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x)))
    return x / jnp.where(norm > 0, norm, 1.0)


def _advance(matrix: Float[Array, "N outputs"], vector: Float[Array, " outputs"]) -> Float[Array, " outputs"]:
    """Return the right singular vector after one more iteration; from a matrix of zeros it comes back."""
    new = _unit(_dot(_unit(_dot(matrix, vector)), matrix))
    return jnp.where(jnp.any(new != 0), new, vector)


def _warm(key: Key, matrix: Float[Array, "N outputs"]) -> Float[Array, " outputs"]:
    start = _unit(jax.random.normal(key, matrix.shape[1:], matrix.dtype))
    return lax.fori_loop(0, _WARM_UP, lambda _, vector: _advance(matrix, vector), start)


def _normalised(kernel: Array, vector: Float[Array, " outputs"]) -> Array:
    # A vector that was averaged over training, as the statistics of a generator are, is not of length one.
    image = _dot(_matrix(kernel), lax.stop_gradient(_unit(vector)))
    sigma = jnp.sum(lax.stop_gradient(_unit(image)) * image)
    return (kernel / jnp.where(sigma > 0, sigma, 1.0)).astype(kernel.dtype)
