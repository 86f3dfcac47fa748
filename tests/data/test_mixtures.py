"""Laws of the mixtures: where centres stand, and that samples are equally many about each, with its deviation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.data import mixtures

catalogue = pytest.mark.parametrize("build", mixtures.MIXTURES.values(), ids=mixtures.MIXTURES)


@given(modes=st.sampled_from([1, 2, 8]), radius=st.sampled_from([0.5, 1.0, 3.0]))
def test_a_ring_stands_on_the_roots_of_unity(modes, radius):
    x, y = np.asarray(mixtures.ring(modes, radius).centres).T
    roots = radius * np.exp(2j * np.pi * np.arange(modes) / modes)
    np.testing.assert_allclose(x + 1j * y, roots, atol=1e-6 * modes * radius)


@given(side=st.sampled_from([1, 4, 5]), spacing=st.sampled_from([0.5, 2.0]))
def test_a_grid_is_centred_and_evenly_spaced(side, spacing):
    along = [spacing * (i - (side - 1) / 2) for i in range(side)]
    points = sorted(map(tuple, np.asarray(mixtures.grid(side, spacing).centres).tolist()))
    assert points == sorted(itertools.product(along, along))


def test_the_default_grid_is_pacgans():
    centres = np.asarray(mixtures.grid().centres)
    assert centres.shape == (25, 2) and centres.min() == -4 and centres.max() == 4


@catalogue
def test_samples_lie_about_all_centres_equally(build):
    mixture = build()
    centres = np.asarray(mixture.centres)
    x = np.asarray(jax.jit(lambda key: mixtures.sample(mixture, key, (100, 200)))(jax.random.key(0)))
    assert x.shape == (100, 200, 2) and x.dtype == np.float32
    offsets = x.reshape(-1, 1, 2) - centres
    nearest = np.argmin(np.sum(offsets**2, axis=-1), axis=1)
    share = np.bincount(nearest, minlength=len(centres)) / 20000
    np.testing.assert_allclose(share, 1 / len(centres), atol=5 * np.sqrt(1 / len(centres) / 20000))
    noise = offsets[np.arange(20000), nearest] / mixture.std
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=5 * np.sqrt(2 / 20000))
    np.testing.assert_allclose(np.corrcoef(nearest, noise[:, 0])[0, 1], 0, atol=5 / np.sqrt(20000))


@catalogue
def test_batches_are_a_function_of_key_and_step(build):
    arrays, draw = mixtures.batches(build(), 16, 3)
    draw = jax.jit(draw)
    key, other = jax.random.split(jax.random.key(1))
    batch = draw(arrays, key, 5)
    assert arrays == {} and {name: leaf.shape for name, leaf in batch.items()} == {"x": (3, 16, 2)}
    np.testing.assert_array_equal(batch["x"], draw(arrays, key, 5)["x"])
    assert len(np.unique(np.asarray(batch["x"]).reshape(-1, 2), axis=0)) == 48
    for elsewhere in (draw(arrays, key, 6), draw(arrays, other, 5)):
        assert not np.any(np.asarray(batch["x"]) == np.asarray(elsewhere["x"]))


@catalogue
def test_a_deviation_may_be_traced(build):
    spread = jax.vmap(lambda std: mixtures.sample(build(std=std), jax.random.key(2), (500,)).std(axis=0))
    small, large = np.asarray(spread(jnp.array([0.01, 100.0])))
    assert np.all(small < 5) and np.all(large > 50)


@pytest.mark.parametrize(
    "build, arguments, word",
    [
        (mixtures.ring, {"modes": 0}, "modes is 0"),
        (mixtures.ring, {"radius": 0.0}, "radius=0.0"),
        (mixtures.ring, {"std": -1.0}, "std=-1.0"),
        (mixtures.ring, {"std": float("nan")}, "std=nan"),
        (mixtures.grid, {"side": -1}, "side is -1"),
        (mixtures.grid, {"spacing": float("inf")}, "spacing=inf"),
        (mixtures.grid, {"std": 0}, "std=0"),
    ],
)
def test_numbers_without_meaning_are_refused(build, arguments, word):
    with pytest.raises(ValueError, match=word):
        build(**arguments)


@pytest.mark.parametrize("size, count", [(0, 1), (4, 0), (-1, -1)])
def test_empty_batches_are_refused(size, count):
    with pytest.raises(ValueError, match="at least 1"):
        mixtures.batches(mixtures.ring(), size, count)
