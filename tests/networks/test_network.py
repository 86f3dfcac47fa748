"""The waist and what passes through it: plain trees in and out, nothing hidden in a module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gan_jax.networks import dcgan, mlp
from gan_jax.networks.classifier import classifier
from gan_jax.networks.layers import BatchNorm, Projection
from gan_jax.networks.network import network

KEY = jax.random.key(0)


def widths(params):
    return [params["layers"][0]["kernel"].shape[0]] + [
        layer["kernel"].shape[1] for _, layer in sorted(params["layers"].items())
    ]


def test_the_mlp_pair_has_the_classic_widths():
    generator, _ = jax.eval_shape(mlp.generator(100, (28, 28, 1)).init, KEY)
    discriminator, _ = jax.eval_shape(mlp.discriminator((28, 28, 1)).init, KEY)
    assert widths(generator) == [100, 256, 512, 1024, 784]
    assert widths(discriminator) == [784, 1024, 512, 256, 1]


def test_the_mlp_discriminator_by_hand():
    net = mlp.discriminator((3,), widths=(4,), dropout=0.0)
    params, stats = net.init(KEY)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    (first, last) = (params["layers"][i] for i in (0, 1))
    hidden = x @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    expected = hidden @ np.asarray(last["kernel"])[:, 0] + np.asarray(last["bias"])
    np.testing.assert_allclose(net.apply(params, stats, x, train=True, key=KEY)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_dropout_is_a_function_of_the_key_and_differs_between_layers():
    net = mlp.discriminator((8,), widths=(64, 64), dropout=0.5)
    params, stats = net.init(KEY)
    params = jax.tree.map(jnp.ones_like, params)
    x = jnp.ones((1, 8))
    out = lambda key, train: net.apply(params, stats, x, train=train, key=key)[0]  # noqa: E731
    np.testing.assert_array_equal(out(KEY, True), out(KEY, True))
    assert out(KEY, True) != out(jax.random.key(1), True)
    np.testing.assert_array_equal(out(None, False), out(jax.random.key(1), False))
    with pytest.raises(ValueError, match="dropout 1.0"):
        mlp.discriminator((8,), dropout=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_dcgan_pair_maps_latents_to_images_in_range_and_images_to_logits(size, classes):
    generator = dcgan.generator(5, size, 2, width=2, classes=classes)
    discriminator = dcgan.discriminator(size, 2, width=2, classes=classes)
    label = jnp.array([0, 2, 1, 1]) if classes else None
    images, stats = generator.apply(*generator.init(KEY), jnp.ones((4, 5)), label=label, train=True)
    assert images.shape == (4, size, size, 2)
    assert jnp.abs(images).max() <= 1
    logits, _ = discriminator.apply(*discriminator.init(KEY), images, label=label, train=True)
    assert logits.shape == (4,)
    assert jax.tree.structure(stats) == jax.tree.structure(generator.init(KEY)[1])


@pytest.mark.parametrize("size", [27, 6, 3, 18])
def test_a_size_that_cannot_be_halved_is_refused(size):
    with pytest.raises(ValueError, match=f"image size {size}"):
        dcgan.generator(5, size, 1)


@pytest.mark.slow
def test_params_and_stats_are_plain_dicts_and_evaluation_leaves_the_stats():
    net = dcgan.generator(5, 28, 1, width=2)
    params, stats = net.init(KEY)
    assert {type(node) for node in (params, stats, params["norms"], params["norms"][0])} == {dict}
    z = jax.random.normal(KEY, (4, 5))
    _, same = net.apply(params, stats, z, train=False)
    _, moved = net.apply(params, stats, z, train=True)
    equal = lambda tree: all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(stats)))  # noqa: E731, B905
    assert equal(same)
    assert not equal(moved)


def test_a_module_that_keeps_a_random_stream_is_refused():
    with pytest.raises(ValueError, match="without rngs, and call it with rngs=key"):
        network(lambda rngs: nnx.Dropout(0.5, rngs=rngs))


def test_a_layer_that_overwrites_its_weights_is_harmless():
    class Overwriting(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x, *, label, train, key):
            self.linear.kernel[...] = self.linear.kernel[...] * 0.0
            return self.linear(x)

    net = network(Overwriting)
    params, stats = net.init(KEY)
    before = jax.tree.map(np.array, params)
    _, after = net.apply(params, stats, jnp.ones((1, 2)), train=True)
    assert after == {}
    jax.tree.map(np.testing.assert_array_equal, params, before)


@pytest.mark.slow
def test_batch_norm_is_each_classes_own_affine_map_of_the_normalised_batch():
    net = network(lambda rngs: _Norm(rngs))
    params, stats = net.init(KEY)
    params = {"norm": {"scale": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "shift": jnp.array([[0.0, 1.0], [-1.0, 5.0]])}}
    x = jax.random.normal(KEY, (6, 3, 3, 2)) * 4 + 1
    label = np.array([0, 1, 1, 0, 1, 0])
    out, new = net.apply(params, stats, x, label=label, train=True)
    host = np.asarray(x, np.float64)
    mean, var = host.mean((0, 1, 2)), host.var((0, 1, 2))
    normal = (host - mean) / np.sqrt(var + 1e-5)
    scale, shift = (np.asarray(params["norm"][name])[label][:, None, None] for name in ("scale", "shift"))
    np.testing.assert_allclose(out, scale * normal + shift, atol=1e-4)
    np.testing.assert_allclose(new["norm"]["normalise"]["mean"], 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(new["norm"]["normalise"]["var"], 0.9 + 0.1 * var, rtol=1e-4)
    # In evaluation each image is its own: the batch around it does not matter.
    alone, _ = net.apply(params, new, x[:1], label=label[:1], train=False)
    among, _ = net.apply(params, new, x, label=label, train=False)
    np.testing.assert_allclose(alone[0], among[0], atol=1e-6)


class _Norm(nnx.Module):
    def __init__(self, rngs):
        self.norm = BatchNorm(2, 2, rngs=rngs)

    def __call__(self, x, *, label, train, key):
        return self.norm(x, label, train=train)


def test_projection_is_an_inner_product_with_the_labels_row():
    layer = Projection(3, 4, rngs=nnx.Rngs(0))
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    rows = np.asarray(layer.embedding[...])
    np.testing.assert_allclose(layer(x, np.array([3, 1])), [x[0] @ rows[3], x[1] @ rows[1]], rtol=1e-5)


@pytest.mark.slow
def test_the_classifier_gives_features_and_logits_and_refuses_odd_sizes():
    net = classifier(8, 1, 10, width=2, features=7)
    features, logits = net.apply(*net.init(KEY), jnp.ones((3, 8, 8, 1)), train=True, key=KEY)[0]
    assert (features.shape, logits.shape) == ((3, 7), (3, 10))
    with pytest.raises(ValueError, match="image size 30"):
        classifier(30, 1, 10)


@pytest.mark.slow
def test_a_label_or_key_that_is_missing_is_asked_for():
    generator, discriminator = dcgan.generator(5, 28, 1, width=2, classes=3), mlp.discriminator((4,), widths=(2,))
    with pytest.raises(ValueError, match="needs a label"):
        generator.apply(*generator.init(KEY), jnp.ones((2, 5)), train=True)
    with pytest.raises(ValueError, match="needs a key"):
        discriminator.apply(*discriminator.init(KEY), jnp.ones((2, 4)), train=True)
