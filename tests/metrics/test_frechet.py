"""The Fréchet distance against its closed forms, and moments in a stream against NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from gan_jax.metrics import frechet
from gan_jax.metrics.frechet import Moments, between, distance, moments

seeds = st.integers(0, 2**32 - 1)
traced = jax.jit(between)
add, merge = jax.jit(frechet.add), jax.jit(frechet.merge)


def gaussian(rng, dim, rank=None, decay=0.0):
    root = rng.normal(size=(dim, rank or dim)) * np.exp(-decay * np.arange(dim) / dim)[:, None]
    turn, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return Moments(10, rng.normal(size=dim), turn @ root @ root.T @ turn.T)


@given(seeds, st.sampled_from([1, 2, 5]))
def test_of_diagonal_gaussians(seed, dim):
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, dim)), rng.uniform(0, 3, size=(2, dim))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    pair = [Moments(10, mean, np.diag(deviation**2)) for mean, deviation in zip(means, deviations, strict=True)]
    assert distance(*pair) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert traced(*pair) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(seeds, st.sampled_from([None, 2]))
def test_is_symmetric_zero_on_itself_and_blind_to_rotations(seed, rank):
    rng = np.random.default_rng(seed)
    one, two = gaussian(rng, 4, rank), gaussian(rng, 4)  # of rank 2 in four dimensions: singular
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    turned = [Moments(10, turn @ m.mean, turn @ m.covariance @ turn.T) for m in (one, two)]
    assert distance(one, one) == pytest.approx(0, abs=1e-20)
    assert distance(one, two) == pytest.approx(distance(two, one), rel=1e-6)
    assert distance(*turned) == pytest.approx(distance(one, two), rel=1e-6)
    assert traced(one, one) == pytest.approx(0, abs=1e-9)
    assert traced(one, two) == pytest.approx(distance(one, two), rel=1e-3)


@given(seeds)
def test_a_translation_adds_the_square_of_its_length(seed):
    rng = np.random.default_rng(seed)
    one, shift = gaussian(rng, 4), rng.normal(size=4)
    two = gaussian(rng, 4)._replace(mean=one.mean)
    moved = two._replace(mean=two.mean + shift)
    assert distance(one, moved) == pytest.approx(distance(one, two) + shift @ shift, rel=1e-9)
    assert distance(one, one._replace(mean=moved.mean)) == pytest.approx(shift @ shift, rel=1e-9)


@given(seeds)
def test_equals_the_general_matrix_root(seed):
    rng = np.random.default_rng(seed)
    one, two = gaussian(rng, 6), gaussian(rng, 6)
    cross = np.trace(np.real(sqrtm(one.covariance @ two.covariance)))
    traces = np.trace(one.covariance) + np.trace(two.covariance)
    expected = np.square(one.mean - two.mean).sum() + traces - 2 * cross
    assert distance(one, two) == pytest.approx(expected, rel=1e-8)
    with jax.enable_x64(True):
        assert traced(one, two) == pytest.approx(expected, rel=1e-8)


@given(seeds)
def test_of_the_line_and_the_plane_that_it_lies_in(seed):
    """Between N(0, σ²) on two lines through the origin, at an angle: σ²·2(1 − |cos|)."""
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    lines = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    pair = [Moments(10, np.zeros(2), 4 * np.outer(line, line)) for line in lines]
    assert distance(*pair) == pytest.approx(8 * (1 - abs(np.cos(angle))), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("ranks", [(None, None), (20, 20), (20, None)])
@pytest.mark.parametrize("decay", [0.0, 6.0, 12.0])
def test_on_a_device_it_is_the_hosts_to_a_thousandth(ranks, decay):
    """Spectra as wide as those of a classifier's features, and fewer samples than features."""
    rng = np.random.default_rng(0)
    pair = [gaussian(rng, 64, rank, decay) for rank in ranks]
    near = pair[0]._replace(covariance=pair[0].covariance * 1.05)
    for other in (pair[1]._replace(mean=pair[0].mean), near):
        assert traced(pair[0], other) == pytest.approx(distance(pair[0], other), rel=1e-3)


def test_moments_are_the_unbiased_ones_in_double_precision():
    features = np.array([[1e6, 0.0], [1e6 + 1, 2.0], [1e6 + 2, 4.0]], np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, [1e6 + 1, 2])
    np.testing.assert_allclose(found.covariance, [[1, 2], [2, 4]])
    assert found.count == 3


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="1 samples"):
        moments(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="features has values that are not finite"):
        moments(np.array([[0.0], [np.nan]]))
    one, two = Moments(3, np.zeros(2), np.eye(2)), Moments(3, np.zeros(3), np.eye(3))
    for function in (distance, between):
        with pytest.raises(ValueError, match="the first moments are of 2 features, the second of 3"):
            function(one, two)
    for broken in (one._replace(mean=np.full(2, np.nan)), one._replace(covariance=np.full((2, 2), np.inf))):
        with pytest.raises(ValueError, match="of the second has values that are not finite"):
            distance(one, broken)


# --- in a stream ---


def far_off(seed, count, dim=4, offset=1e3):
    """Features with a mean of a thousand deviations, in float32, and what NumPy makes of them in float64."""
    rng = np.random.default_rng(seed)
    features = np.float32(offset + rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)))
    return features, Moments(count, features.mean(axis=0, dtype=np.float64), np.cov(features.astype(float).T))


def assert_same(accumulator, expected, rel=1e-6):
    found = frechet.finish(accumulator)
    assert found.count == expected.count
    assert found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-10, atol=3e-7)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=rel * expected.covariance.max(), rtol=0)


@given(seeds, st.sampled_from([0.0, 1e3, 1e6]))
def test_batches_of_any_sizes_make_the_moments_of_all(seed, offset):
    features, expected = far_off(seed, 1 + 100 + 7 + 300, offset=offset)
    accumulator = frechet.empty(4)
    for batch in np.split(features, np.cumsum([1, 100, 7])):
        accumulator = add(accumulator, batch)
    assert_same(accumulator, expected)


def test_many_batches_in_a_scan_cost_no_digits():
    features, expected = far_off(0, 200_000)

    @jax.jit
    def scanned(start, batches):
        return jax.lax.scan(lambda total, batch: (frechet.add(total, batch), None), start, batches)[0]

    assert_same(scanned(frechet.empty(4), features.reshape(2000, 100, 4)), expected, rel=1e-7)


@given(seeds)
def test_merging_is_associative_and_symmetric_and_empty_is_its_unit(seed):
    features, expected = far_off(seed, 300)
    one, two, three = (add(frechet.empty(4), part) for part in np.split(features, [100, 150]))
    for accumulator in (
        merge(merge(one, two), three),
        merge(one, merge(two, three)),
        merge(merge(three, one), two),
        merge(merge(frechet.empty(4), merge(one, frechet.empty(4))), merge(two, three)),
    ):
        assert_same(accumulator, expected)
    for same in (merge(frechet.empty(4), one), merge(one, frechet.empty(4))):
        for leaf, kept in zip(same, one, strict=True):
            np.testing.assert_array_equal(leaf, kept)


@pytest.mark.slow
def test_sets_that_are_far_apart_are_merged():
    features = np.float32([[0.0], [1.0], [1e4], [1e4 + 1]])
    halves = [add(frechet.empty(1), part) for part in np.split(features, 2)]
    assert_same(merge(*halves), Moments(4, features.mean(0), np.cov(features.astype(float).T)[None, None]))


def test_over_eight_shards_some_of_which_are_empty():
    features, expected = far_off(0, 600)
    shards = features.reshape(6, 100, 4)

    def of_shard(index, batch):
        mine = frechet.add(frechet.empty(4), batch)
        mine = jax.tree.map(lambda full, none: jnp.where(index < 6, full, none), mine, frechet.empty(4))
        return frechet.over(mine, "shards")

    padded = np.concatenate([shards, shards[:2]])
    found = jax.jit(jax.vmap(of_shard, axis_name="shards"))(np.arange(8), padded)
    for shard in range(8):
        assert_same(jax.tree.map(lambda leaf: leaf[shard], found), expected)  # noqa: B023
        for leaf in found:
            np.testing.assert_array_equal(leaf[shard], leaf[0])


@pytest.mark.slow
def test_current_moments_are_the_finished_ones_in_the_accumulators_precision():
    features, expected = far_off(0, 500)
    accumulator = add(frechet.empty(4), features)
    found = jax.jit(frechet.current)(accumulator)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-5)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    shifted = add(frechet.empty(4), features + np.float32(0.5))
    assert traced(found, frechet.current(shifted)) == pytest.approx(1.0, rel=1e-3)  # 4 features, each moved by ½


def test_in_double_precision_it_is_numpys():
    rng = np.random.default_rng(0)
    features = 1e3 + rng.normal(size=(300, 4))
    with jax.enable_x64(True):
        accumulator = frechet.empty(4, jnp.float64)
        for batch in np.split(features, 3):
            accumulator = add(accumulator, jnp.asarray(batch))
        found = frechet.finish(accumulator)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-14)


def test_a_stream_without_a_covariance_is_refused():
    with pytest.raises(ValueError, match="features has 0 samples"):
        frechet.finish(frechet.empty(3))
    with pytest.raises(ValueError, match="features has 1 samples"):
        frechet.finish(add(frechet.empty(3), np.zeros((1, 3), np.float32)))
    with pytest.raises(ValueError, match="features has values that are not finite"):
        frechet.finish(add(frechet.empty(3), np.full((2, 3), np.nan, np.float32)))
    with pytest.raises(ValueError, match="features has 2 features, accumulator 3"):
        frechet.add(frechet.empty(3), jnp.zeros((2, 2)))
