"""Environments against the distributions that they are drawn from, and trials against the episodes they are made of."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gan_jax.base import Environment
from gan_jax.meta.environments import MDP, Agent, bandits, evaluate, mdps, play, total, trial

KEY = jax.random.key(3)
played = jax.jit(play, static_argnums=(0, 1))


def constant(action):
    return Agent(lambda: (), lambda key, memory, seen: (memory, jnp.asarray(action, jnp.int32)))


def counting(length):
    """An environment of known episodes: it observes and pays the steps done, and its parameter ends it early."""

    def step(key, end, state, action):
        state = state + 1
        return state.astype(float)[None], state, state.astype(float), state == end

    def reset(key, end):
        return jnp.zeros(1), jnp.int32(0)

    return Environment(lambda key: jnp.int32(length), reset, step, (2,), 1, length)


def test_an_arm_pays_1_as_often_as_its_parameter_says():
    environment = bandits(3)
    p = np.array([0.1, 0.5, 0.8], np.float32)

    def pull(key, arm):
        return environment.step(key, jnp.asarray(p), (), arm[None])[2:]

    for arm in range(3):
        rewards, done = map(np.asarray, jax.vmap(pull, (0, None))(jax.random.split(KEY, 2000), jnp.int32(arm)))
        assert set(np.unique(rewards)) == {0.0, 1.0}
        assert stats.binomtest(int(rewards.sum()), 2000, float(p[arm])).pvalue > 1e-3
        assert done.all()


@pytest.mark.slow
def test_tasks_are_drawn_from_the_distributions_of_the_paper():
    p = jax.vmap(bandits(5).draw)(jax.random.split(KEY, 400))
    assert stats.kstest(np.ravel(p), "uniform").pvalue > 1e-3
    mdp = jax.vmap(mdps(4, 2, 3).draw)(jax.random.split(KEY, 200))
    assert stats.kstest(np.ravel(mdp.rewards), "norm", (1, 1)).pvalue > 1e-3
    np.testing.assert_allclose(mdp.transitions.sum(axis=-1), 1, rtol=1e-5)
    # A coordinate of a flat Dirichlet of four is Beta(1, 3).
    assert stats.kstest(np.ravel(mdp.transitions[..., 0]), "beta", (1, 3)).pvalue > 1e-3


def test_an_mdp_moves_and_pays_as_its_parameters_say():
    environment = mdps(3, 2, horizon=4)
    mdp, count = environment.draw(KEY), 4000
    rewards, transitions = (np.asarray(table, float) for table in mdp)

    def step(key, state, action):
        _, place = environment.reset(key, mdp)
        observation, place, reward, done = environment.step(key, mdp, place._replace(state=state), action[None])
        return observation, reward, done

    steps = jax.jit(jax.vmap(step, (0, None, None)))
    for state in range(3):
        for action in range(2):
            found = steps(jax.random.split(KEY, count), jnp.int32(state), jnp.int32(action))
            observation, reward, done = map(np.asarray, found)
            assert stats.kstest(reward, "norm", (rewards[state, action], 1)).pvalue > 1e-3
            expected = count * transitions[state, action] / transitions[state, action].sum()
            assert stats.chisquare(observation.sum(axis=0, dtype=float), expected).pvalue > 1e-3
            assert not done.any()


def test_an_episode_of_an_mdp_begins_in_state_0_and_ends_at_the_horizon():
    environment = mdps(3, 2, horizon=4)
    moments = played(environment, constant([1]), KEY)
    np.testing.assert_array_equal(moments.seen.observation[0], [1, 0, 0])
    np.testing.assert_array_equal(moments.done, [False, False, False, True])
    assert environment.choices == (2,)
    assert moments.seen.observation.shape == (4, environment.observation)


@given(st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_a_trial_is_episodes_in_one_task(length, episodes):
    moments = played(trial(counting(length), episodes), constant([1]), KEY)
    steps = length * episodes
    within = np.arange(steps) % length
    np.testing.assert_array_equal(moments.seen.observation[:, 0], within)
    np.testing.assert_array_equal(moments.reward, within + 1)
    # The flag is up at the first step of each episode but the first.
    np.testing.assert_array_equal(moments.seen.observation[:, 1], (within == 0) & (np.arange(steps) > 0))
    np.testing.assert_array_equal(moments.done, np.arange(steps) == steps - 1)
    np.testing.assert_array_equal(moments.seen.step, np.arange(steps))


@pytest.mark.slow
def test_the_task_outlives_the_episode_and_not_the_trial():
    def draw(key):
        return jnp.int32(1) + jax.random.bernoulli(key)  # how long episodes are

    environment = trial(counting(2)._replace(draw=draw), 4)
    rewards = jax.vmap(lambda key: total(play(environment, constant([0]), key)))(jax.random.split(KEY, 64))
    # Four episodes of one step that pays 1, or four of two that pay 1 and 2.
    assert set(np.asarray(rewards)) == {4.0, 12.0}


def test_what_comes_after_the_end_of_a_trial_does_not_count():
    environment = counting(5)._replace(draw=lambda key: jnp.int32(2))
    moments = played(environment, constant([0]), KEY)
    np.testing.assert_array_equal(moments.ongoing, [True, True, False, False, False])
    assert total(moments) == 1 + 2


def test_an_agent_is_shown_its_last_action_and_reward_and_at_first_none():
    def act(key, memory, seen):
        return memory + 1, jnp.stack([memory % 2, memory % 3])

    environment = trial(counting(3)._replace(choices=(2, 3)), 2)
    moments = played(environment, Agent(lambda: jnp.int32(0), act), KEY)
    np.testing.assert_array_equal(moments.action, [[0, 0], [1, 1], [0, 2], [1, 0], [0, 1], [1, 2]])
    np.testing.assert_array_equal(moments.seen.action[0], [-1, -1])
    np.testing.assert_array_equal(moments.seen.action[1:], moments.action[:-1])
    np.testing.assert_array_equal(moments.seen.reward, [0, *moments.reward[:-1]])


@pytest.mark.slow
def test_agents_of_one_key_act_in_the_same_tasks():
    environment = trial(bandits(2)._replace(draw=lambda key: jnp.round(jax.random.uniform(key, (2,)))), 3)
    one, other = (
        jax.vmap(lambda key, arm=arm: total(play(environment, constant([arm]), key)))(jax.random.split(KEY, 64))
        for arm in (0, 1)
    )
    tasks = {(float(a), float(b)) for a, b in zip(one, other, strict=True)}
    assert tasks == {(0.0, 0.0), (0.0, 3.0), (3.0, 0.0), (3.0, 3.0)}


def test_an_estimate_is_the_mean_and_its_interval():
    environment = trial(bandits(1), 10)
    mean, interval = map(float, jax.jit(partial(evaluate, environment, constant([0]), trials=2000))(KEY))
    # The reward of ten pulls at p ~ U(0, 1) is uniform over 0, ..., 10.
    assert interval == pytest.approx(1.96 * math.sqrt(10 / 2000), rel=0.05)
    assert mean == pytest.approx(5, abs=2 * interval)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bandits(0), "arms=0"),
        (lambda: mdps(horizon=0), "horizon=0"),
        (lambda: mdps(states=0), "states=0"),
        (lambda: trial(bandits(2), 0), "episodes=0"),
        (lambda: evaluate(bandits(2), constant([0]), KEY, 1), "trials=1"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_parameters_are_a_plain_tree_that_can_be_handed_in():
    """A task need not be drawn: this MDP goes round, and pays 1 in its last state alone."""
    mdp = MDP(jnp.array([[0.0], [0.0], [1.0]]), jnp.roll(jnp.eye(3), 1, axis=1)[:, None])
    environment = mdps(3, 1, horizon=6)._replace(draw=lambda key: mdp)
    moments = played(environment, constant([0]), KEY)
    np.testing.assert_array_equal(jnp.argmax(moments.seen.observation, axis=1), [0, 1, 2, 0, 1, 2])
