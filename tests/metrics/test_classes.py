"""Few-shot measures on classes whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.metrics import frechet
from gan_jax.metrics.classes import few_shot


def classes(seed, count=3, size=12, features=5, apart=10.0, noise=1.0):
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(count, 1, features))
    return [(centres + noise * rng.normal(size=(count, size, features))).astype(np.float32) for _ in range(3)]


@given(st.integers(0, 1000))
def test_the_classes_themselves_are_right_and_no_copies(seed):
    found = few_shot(*classes(seed))
    assert found.accuracy == 1.0
    assert 0.5 < found.memory < 2.0
    assert found.frechet < 40 and abs(found.kid) < 1e5


def test_copies_are_told_and_cover_what_is_near():
    _, query, support = classes(0)
    found = few_shot(support, query, support)
    assert found.memory == 0.0
    assert few_shot(query, query, support).coverage == 1.0
    assert few_shot(query, query, support).frechet == pytest.approx(0.0, abs=1e-3)
    assert few_shot(query, query, support).memory == pytest.approx(1.0)


def test_classes_that_are_swapped_are_wrong_but_as_good_all_together():
    samples, query, support = classes(1)
    swapped = few_shot(np.roll(samples, 1, axis=0), query, support)
    right = few_shot(samples, query, support)
    assert (swapped.accuracy, swapped.coverage) == (0.0, 0.0)
    assert swapped.frechet == pytest.approx(right.frechet, rel=1e-6)
    assert swapped.kid > right.kid + 1


def test_the_kernel_distance_is_the_mean_of_the_classes_by_hand():
    samples, query, support = classes(2, size=4, apart=1.0)

    def distance(x, y):
        def gram(a, b):
            return (a.astype(float) @ b.astype(float).T / a.shape[1] + 1) ** 3

        def within(a):
            g = gram(a, a)
            return (g.sum() - np.trace(g)) / (len(a) * (len(a) - 1))

        return within(x) + within(y) - 2 * gram(x, y).mean()

    expected = np.mean([distance(x, y) for x, y in zip(samples, query, strict=True)])
    found = few_shot(samples, query, support)
    assert found.kid == pytest.approx(expected, rel=1e-4)
    pooled = [frechet.moments(each.reshape(-1, 5)) for each in (samples, query)]
    assert found.frechet == pytest.approx(frechet.distance(*pooled))


def test_too_few_or_not_finite_is_refused():
    samples, query, support = classes(3)
    with pytest.raises(ValueError, match="3"):
        few_shot(samples[:, :3], query, support)
    samples[1, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        few_shot(samples, query, support)
