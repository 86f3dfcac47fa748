"""A GAN under control that is no longer finite, among others that are: its episode ends, and no other notices."""

import jax
import numpy as np
import pytest

from gan_jax import fewshot
from gan_jax.base import Pair
from gan_jax.meta import control, inner
from gan_jax.training import lookup
from tests.training.toy import same

STUDY = lookup.load(lookup.find("gan_control_rl2"))
SMALLEST = STUDY.SMALLEST
WORST = STUDY.LIMITS["mixtures"][1]


@pytest.fixture(scope="module")
def three():
    """What begins three of the study's smallest GANs, whose rates have next to no bound, and a step of them."""
    gan, rate = STUDY.perceptrons(SMALLEST), control.Dial(1e-4, 1e35)
    judge = fewshot.distance(gan, SMALLEST.points)
    environment = control.control(
        gan.learner(judge),
        STUDY.shapes(SMALLEST),
        judge,
        {"discriminator/loss": jax.nn.soft_sign},
        control.panel(gan.hyper, STUDY.Numbers(Pair(rate, rate), None, None, None)),
        updates=3,
        horizon=3,
        feed=inner.resampled(1, SMALLEST.batch),
        limits=STUDY.LIMITS["mixtures"],
        reward=control.log_ratio,
    )

    @jax.jit
    @jax.vmap
    def begun(key):
        start = environment.draw(key)
        return start, environment.reset(key, start)[1]

    @jax.jit
    @jax.vmap
    def step(start, episode):
        return environment.step(start.key, start, episode, np.full(2, control.KEEP))

    return begun(jax.random.split(jax.random.key(4), 3)), step


def rates(start, episode):
    return start, episode._replace(numbers=episode.numbers.at[1].set(1e30))


def points(start, episode):
    support = {"x": start.task.support["x"].at[1, 0].set(np.nan)}
    return start._replace(task=start.task._replace(support=support)), episode


def weights(start, episode):
    """Finite ones, of which nothing finite is computed."""
    point = episode.learner.point
    point = point._replace(params=jax.tree.map(lambda leaf: leaf.at[1].multiply(1e25), point.params))
    return start, episode._replace(learner=episode.learner._replace(point=point))


def rows(tree, *which):
    return jax.tree.map(lambda leaf: leaf[np.array(which)], tree)


@pytest.mark.slow
@pytest.mark.parametrize("poison", [rates, points, weights])
def test_a_gan_that_is_not_finite_ends_its_episode_and_no_other(three, poison):
    (start, episode), step = three
    bad_start, bad = poison(start, episode)
    found, quiet = step(bad_start, bad), step(start, episode)
    _, state, reward, done = found
    np.testing.assert_array_equal(done, [False, True, False])
    assert not quiet[-1].any()
    # What is left of it is what it was before, at the worst score and for what that earns.
    assert same(rows(state.learner, 1), rows(bad.learner, 1))
    assert state.score[1] == WORST
    np.testing.assert_allclose(reward[1], np.log(episode.score[1] / WORST), rtol=1e-5)
    # The others learn what they would have learned without it, in this step and the next.
    for here, there in ((found, quiet), (step(bad_start, state), step(start, quiet[1]))):
        assert same(rows(here, 0, 2), rows(there, 0, 2))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(here) if leaf.dtype == np.float32)
    params = (jax.tree.leaves(rows(each.learner.point.params, 0, 2)) for each in (state, episode))
    assert all((np.asarray(after) != np.asarray(before)).any() for after, before in zip(*params, strict=True))
