"""The maxout critic and its generator, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.networks import maxout

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_unit_is_the_largest_of_its_linear_maps(pieces):
    network = maxout.discriminator((2, 3), widths=(4,), pieces=pieces)
    params, stats = network.init(KEY)
    params = jax.tree.map(lambda leaf: jax.random.normal(jax.random.fold_in(KEY, leaf.size), leaf.shape), params)
    x = jax.random.normal(KEY, (7, 2, 3))
    logits, _ = network.apply(params, stats, x, train=True)
    layer, last = params["layers"][0], params["last"]
    maps = np.asarray(x).reshape(7, 6) @ layer["kernel"] + np.asarray(layer["bias"])[None]
    hidden = maps.reshape(7, pieces, 4).max(axis=1)
    np.testing.assert_allclose(logits, (hidden @ last["kernel"] + np.asarray(last["bias"])[None])[:, 0], rtol=1e-4)


@pytest.mark.slow
def test_the_critic_judges_each_example_alone():
    network = maxout.discriminator((2,), widths=(8, 8), pieces=3)
    params, stats = network.init(KEY)
    x = jax.random.normal(KEY, (5, 2))
    slopes = jax.jacobian(lambda x: network.apply(params, stats, x, train=True)[0])(x)
    assert (np.abs(np.asarray(slopes)[~np.eye(5, dtype=bool)]) == 0).all()


@pytest.mark.slow
def test_the_generator_normalises_over_the_batch_in_training_and_by_its_moments_afterwards():
    network = maxout.generator(2, 3, widths=(16, 8))
    params, stats = network.init(KEY)
    z = jax.random.normal(KEY, (64, 2))
    trained, moved = network.apply(params, stats, z, train=True)
    assert trained.shape == (64, 3)
    # A scale of the first weights does not survive the normalisation.
    layers = {**params["layers"], 0: {"kernel": 100.0 * params["layers"][0]["kernel"]}}
    scaled, _ = network.apply({**params, "layers": layers}, stats, z, train=True)
    np.testing.assert_allclose(scaled, trained, atol=0.05)
    still, kept = network.apply(params, moved, z, train=False)
    assert not np.allclose(still, trained)
    assert all(jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (kept, moved)), strict=True))


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="widths"):
        maxout.generator(2, 2, widths=(0,))
    with pytest.raises(ValueError, match="widths"):
        maxout.discriminator((2,), widths=(4, -1))
    with pytest.raises(ValueError, match="pieces=0"):
        maxout.discriminator((2,), pieces=0)
