"""RL² beside rlax: the same advantages, entropies, clipped losses and slopes, though neither knows the other's code.

rlax is no dependency: where it is installed these tests run, and elsewhere they are skipped.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gan_jax.meta import rl2
from gan_jax.meta.environments import bandits, play, trial

rlax = pytest.importorskip("rlax", reason="rlax, which is no dependency, is not installed", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:Rlax softmax:PendingDeprecationWarning")

KEY = jax.random.key(3)
CHOICES, LENGTH, TRIALS = (3, 2), 5, 16
numbers = {"elements": st.floats(-3, 3)}
shares = st.floats(0, 1)
advantages = jax.jit(rl2.gae)
their_advantages = jax.jit(rlax.truncated_generalized_advantage_estimation)


@jax.jit
@jax.value_and_grad
def clipped(log_prob, played, advantage, clip):
    return rl2.ppo_loss(log_prob, played, advantage, clip).mean()


@jax.jit
@jax.value_and_grad
def their_clipped(log_prob, played, advantage, clip):
    return rlax.clipped_surrogate_pg_loss(jnp.exp(log_prob - played), advantage, clip)


@given(arrays(float, LENGTH, **numbers), arrays(float, LENGTH + 1, **numbers), arrays(bool, LENGTH), shares, shares)
def test_advantages(rewards, values, goes_on, discount, trace):
    with jax.enable_x64(True):
        found = advantages(rewards, values, goes_on, discount, trace)
        expected = their_advantages(rewards, discount * goes_on, trace, values)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(arrays(float, (3, LENGTH), **numbers), st.sampled_from([0.1, 0.2, 0.5]))
def test_the_clipped_loss_and_its_slope(given, clip):
    with jax.enable_x64(True):
        found, expected = (each(*given, clip) for each in (clipped, their_clipped))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@jax.jit
def said(logits, action):
    return rl2.log_prob(CHOICES, logits, action), rl2.entropy(CHOICES, logits)


@jax.jit
def their_said(logits, action):
    softmax, heads = rlax.softmax(), (logits[:, :3], logits[:, 3:])
    log_probs = [softmax.logprob(action[:, index], head) for index, head in enumerate(heads)]
    return sum(log_probs), sum(map(softmax.entropy, heads))


@pytest.mark.slow
@given(arrays(float, (LENGTH, sum(CHOICES)), **numbers), st.integers(0, 99))
def test_log_probabilities_and_entropies_of_several_heads(logits, seed):
    action = np.random.default_rng(seed).integers(CHOICES, size=(LENGTH, 2))
    with jax.enable_x64(True):
        found, expected = (each(logits, action) for each in (said, their_said))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_whole_loss_and_its_slope_by_the_weights():
    """Of trials of which some end early, played by a policy that was another."""
    rng, stay = np.random.default_rng(0), np.arange(LENGTH)[:, None] < 1 + np.arange(TRIALS) % LENGTH
    config = rl2.Config(clip=0.15, value_weight=0.7)

    def theirs(params, lessons):
        """Of the steps that are part of their trials, one after another."""
        logits, values = jax.vmap(lambda seen: rl2.replay(params, (4,), seen, None), 1, 1)(lessons.moments.seen)
        action, old, advantage, target = (x[stay] for x in (lessons.moments.action, *lessons[1:]))
        log_prob = rlax.softmax().logprob(action[:, 0], logits[stay])
        policy = rlax.clipped_surrogate_pg_loss(jnp.exp(log_prob - old), advantage, 0.15)
        value = rlax.l2_loss(values[stay], target).mean()
        return policy + 0.7 * value + 0.01 * rlax.entropy_loss(logits[stay], jnp.ones(stay.sum()))

    def ours(params, lessons):
        return rl2.loss(config, (4,), params, lessons, 0.01)[0]

    with jax.enable_x64(True):
        environment = trial(bandits(4), LENGTH)
        agent = rl2.rl2(environment, optax.sgd(1.0), config).agent
        begun = jax.jit(lambda: rl2.weights(KEY, environment, 3))()
        params = jax.tree.map(lambda leaf: leaf + 0.5 * rng.standard_normal(leaf.shape), begun)
        trials = jax.jit(jax.vmap(lambda key: play(environment, agent(params), key), out_axes=1))
        moments = trials(jax.random.split(KEY, TRIALS))._replace(ongoing=stay)
        # An arm of four has a probability of about a quarter: some ratios are clipped on either side.
        made = rng.standard_normal((3, LENGTH, TRIALS))
        lessons = rl2.Lesson(moments, np.log(1 / 4) + made[0], *made[1:])
        (found, slope), (expected, their_slope) = (
            jax.jit(jax.value_and_grad(each))(params, lessons) for each in (ours, theirs)
        )
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    for name, one, other in zip(rl2.Weights._fields, slope, their_slope, strict=True):
        assert np.abs(other).max() > 1e-4
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12, err_msg=name)
