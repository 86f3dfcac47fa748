"""What every measure refuses, and the order in which it splits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.metrics._samples import require_samples, shuffled


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    ("least", "real", "fake", "words"),
    [
        (1, np.zeros((2, 3)), np.zeros((2, 4)), "fake has 4 features, real 3: give features of one extractor"),
        (1, np.zeros((0, 3)), np.zeros((2, 3)), "real has 0 samples: give at least 1"),
        (3, np.zeros((3, 3)), np.zeros((2, 3)), "fake has 2 samples: give at least 3"),
        (1, np.zeros((2, 3)), np.zeros((2, 0)), r"fake has the shape \(2, 0\)"),
        (1, np.zeros(3), np.zeros((2, 3)), r"real has the shape \(3,\): give vectors"),
        (1, np.zeros((2, 3)), np.array([[0, np.nan, 0]]), "fake has values that are not finite"),
        (1, np.array([[np.inf, 0, 0]]), np.zeros((2, 3)), "real has values that are not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(array, least, real, fake, words):
    with pytest.raises(ValueError, match=words):
        require_samples(least, real=array(real), fake=array(fake))


def test_traced_samples_are_refused_by_their_shapes_alone():
    def measure(real, fake):
        require_samples(real=real, fake=fake)
        return real.sum()

    assert jnp.isnan(jax.jit(measure)(jnp.full((2, 3), jnp.nan), jnp.zeros((1, 3))))
    with pytest.raises(ValueError, match="fake has 4 features"):
        jax.jit(measure)(jnp.zeros((2, 3)), jnp.zeros((2, 4)))


def test_a_seed_and_a_number_of_samples_determine_the_order():
    rows = np.arange(20)
    np.testing.assert_array_equal(np.sort(shuffled(rows, 1)), rows)
    np.testing.assert_array_equal(shuffled(rows, 1), shuffled(-rows, 1) * -1)
    assert (shuffled(rows, 1) != shuffled(rows, 2)).any()
    assert (shuffled(rows, 0) != rows).any()
