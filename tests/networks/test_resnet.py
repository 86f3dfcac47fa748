"""The residual pair against its table: parameters counted by hand, and the whole of it computed again in NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Network
from gan_jax.networks import resnet
from gan_jax.networks.lowerings import LOWERINGS
from gan_jax.networks.spectral import Spectral, spectral

KEY = jax.random.key(0)
SIZES = [28, 32, 64]
UPS, DOWNS = {10: 1, 28: 2, 32: 3, 64: 4}, {10: 1, 28: 2, 32: 2, 64: 3}


def count(network):
    params, _ = jax.eval_shape(network.init, KEY)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def started(network):
    """Return parameters and statistics of a network, none at zero or one; nothing is compiled."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, KEY))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.uniform(-0.5, 1.0, leaf.shape), jnp.float32) for leaf in leaves])


def applied(network, params, stats, inputs, label=None):
    return jax.jit(lambda params, inputs: network.apply(params, stats, inputs, label=label, train=True)[0])(
        params, inputs
    )


# The same in NumPy, in the order of the paper's figure: resampling and convolutions one after the other.


def relu(x):
    return np.maximum(x, 0)


def conv(x, p):
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = itertools.product(range(3), range(3))
    return sum(padded[:, i : i + height, j : j + width] @ p["kernel"][i, j] for i, j in taps) + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def up(x):
    return np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)


def pool(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def norm(x, p, label):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    scale, shift = (p[name][label][:, None, None] for name in ("scale", "shift"))
    return scale * (x - mean) / np.sqrt(var + 1e-5) + shift


def generated(p, z, side, label):
    x = linear(z, p["stem"]).reshape(len(z), side, side, -1)
    for _, block in sorted(p["blocks"].items()):
        h = conv(up(relu(norm(x, block["norms"][0], label))), block["first"])
        x = conv(relu(norm(h, block["norms"][1], label)), block["second"]) + linear(up(x), block["shortcut"])
    return np.tanh(conv(relu(norm(x, p["norm"], label)), p["head"]))


def judged(p, x, label):
    for i, block in sorted(p["blocks"].items()):
        h = conv(relu(conv(relu(x) if i else x, block["first"])), block["second"])
        x = pool(h) + pool(linear(x, block["shortcut"])) if "shortcut" in block else h + x
    x = relu(x).sum((1, 2))
    return linear(x, p["head"])[:, 0] + (x * p["projection"]["embedding"][label]).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 28])
def test_both_networks_are_the_papers_in_numpy(size):
    rng, label = np.random.default_rng(1), np.array([0, 2, 1, 1])
    made = {"width": 3, "classes": 3}
    for network, shape, again in (
        (resnet.generator(5, size, 2, **made), (4, 5), partial(generated, side=size // 2 ** UPS[size])),
        (resnet.discriminator(size, 2, **made), (4, size, size, 2), judged),
    ):
        inputs = rng.normal(size=shape).astype(np.float32)
        params, stats = started(network)
        expected = again(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), inputs, label=label)
        np.testing.assert_allclose(applied(network, params, stats, inputs, label), expected, rtol=1e-3, atol=1e-3)


# Counts: of each layer weights and biases, of each normalisation a scale and a shift.


def test_the_papers_pair_for_32x32_by_hand():
    # Linear 128 to 4·4·256; three blocks of two 3x3, one 1x1 and two normalisations; a normalisation and a 3x3 to RGB.
    blocks = 3 * (2 * (3 * 3 * 256 * 256 + 256) + (256 * 256 + 256) + 2 * 512)
    assert count(resnet.generator(128, 32, 3)) == (128 + 1) * 4096 + blocks + 512 + (3 * 3 * 256 * 3 + 3) == 4_276_739
    same = 3 * 3 * 128 * 128 + 128
    first, down = (3 * 3 * 3 * 128 + 128) + same + (3 * 128 + 128), 2 * same + (128 * 128 + 128)
    assert count(resnet.discriminator(32, 3)) == first + down + 2 * (2 * same) + (128 + 1) == 1_053_825


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [0, 3])
def test_parameters_in_closed_form(size, classes, latent=7, channels=2, w=5):
    rows, conv, side = max(classes, 1), 9 * w * w + w, size // 2 ** UPS[size]
    block = 2 * conv + (w * w + w) + 2 * 2 * w * rows
    total = (latent + 1) * side**2 * w + UPS[size] * block + 2 * w * rows + (9 * w + 1) * channels
    assert count(resnet.generator(latent, size, channels, width=w, classes=classes)) == total
    first = (9 * channels + 1) * w + conv + (channels + 1) * w
    total = first + (DOWNS[size] - 1) * (2 * conv + w * w + w) + 2 * 2 * conv + (w + 1) + classes * w
    assert count(resnet.discriminator(size, channels, width=w, classes=classes)) == total


# What any pair here does.


@pytest.mark.parametrize("size", SIZES)
def test_latents_become_images_and_images_logits(size):
    generator, discriminator = resnet.generator(5, size, 2, width=2), resnet.discriminator(size, 2, width=2)

    def played(key):
        images, _ = generator.apply(*generator.init(key), jnp.ones((3, 5)), train=True)
        return images, discriminator.apply(*discriminator.init(key), images, train=True)[0]

    images, logits = jax.eval_shape(played, KEY)
    assert images.shape == (3, size, size, 2) and logits.shape == (3,)


def pair(lowering="auto"):
    made = {"width": 3, "lowering": LOWERINGS[lowering]()}
    return resnet.generator(5, 10, 1, **made), resnet.discriminator(10, 1, **made)


def played(generator, discriminator, params, stats):
    """Return images [3, 10, 10, 1] and their logits."""
    z = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    images, _ = generator.apply(params[0], stats, z, train=True)
    return images, discriminator.apply(params[1], {}, images, train=True)[0]


@pytest.mark.slow
def test_images_lie_in_range_and_slopes_are_finite_and_reach_all_of_the_discriminator():
    @jax.jit
    def slopes(key):
        generator, discriminator = pair()
        (mine, stats), (theirs, _) = generator.init(key), discriminator.init(key)

        def squares(params):
            images, logits = played(generator, discriminator, params, stats)
            return jnp.sum(jnp.square(logits)), images

        return jax.grad(squares, has_aux=True)((mine, theirs))

    slopes, images = slopes(KEY)
    assert jnp.abs(images).max() <= 1
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOWERINGS if name != "xla"])
def test_lowerings_agree(name):
    (mine, stats), (theirs, _) = (started(network) for network in pair())
    values, reference = (jax.jit(partial(played, *pair(lowering)))((mine, theirs), stats) for lowering in (name, "xla"))
    for one, other in zip(values, reference, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_normalised_each_kernel_of_the_discriminator_has_norm_one():
    network = resnet.discriminator(10, 1, width=6, classes=3)
    params, stats = started(network)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    matrices = {path: leaf.reshape(-1, leaf.shape[-1]) for path, leaf in leaves.items() if leaf.ndim > 1}
    # Three blocks of two convolutions, one of them with a shortcut, the last layer and the embedding.
    assert len(matrices) == 3 * 2 + 1 + 2
    echo = Network(network.init, lambda params, stats, **_: (params, stats))
    normalised = spectral(echo)
    vectors = jax.eval_shape(normalised.init, KEY)[1].vectors
    assert set(vectors) == set(matrices)
    known = {path: jnp.asarray(np.linalg.svd(matrix)[2][0], jnp.float32) for path, matrix in matrices.items()}
    seen, _ = jax.jit(partial(normalised.apply, train=True))(params, Spectral(stats, known))
    for leaf in jax.tree.leaves(seen):
        if leaf.ndim > 1:
            matrix = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1])
            np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False)[0], 1.0, rtol=1e-5)


@pytest.mark.slow
def test_a_critic_judges_each_example_alone():
    """As gradient penalties need it: there is no batch normalisation."""
    network = resnet.discriminator(10, 1, width=2)
    params, stats = started(network)
    x = np.random.default_rng(0).normal(size=(3, 10, 10, 1)).astype(np.float32)
    both = jnp.stack([x, np.concatenate([x[:1], -x[1:]])])
    first, again = jax.lax.map(lambda images: network.apply(params, stats, images, train=True)[0], both)
    assert first[0] == again[0] and first[1] != again[1]


@pytest.mark.parametrize(
    ("make", "shape"),
    [(partial(resnet.generator, 5, 28, 1), (2, 5)), (partial(resnet.discriminator, 28, 1), (2, 28, 28, 1))],
    ids=["generator", "discriminator"],
)
def test_labels_are_asked_for_and_widths_of_nothing_refused(make, shape):
    network = make(width=2, classes=3)
    with pytest.raises(ValueError, match="needs a label"):
        jax.eval_shape(lambda key: network.apply(*network.init(key), jnp.ones(shape), train=True)[0], KEY)
    with pytest.raises(ValueError, match="at least 1"):
        make(width=0)


@pytest.mark.parametrize("size", [27, 6, 36])
def test_sizes_that_cannot_be_halved_are_refused(size):
    for make in (lambda: resnet.generator(5, size, 1), lambda: resnet.discriminator(size, 1)):
        with pytest.raises(ValueError, match=f"image size {size}"):
            make()
