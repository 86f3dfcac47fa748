"""Strategies against what their rules say by hand: counts, indices, bounds, plans, and the published table."""

import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize

from gan_jax.meta.environments import MDP, Seen, bandits, evaluate, mdps, play, total, trial
from gan_jax.meta.strategies import (
    Belief,
    Counts,
    certainty_equivalent,
    epsilon_greedy,
    gittins,
    gittins_index,
    mean,
    plan,
    psrl,
    sample,
    thompson,
    ucb1,
    uniform,
)

KEY = jax.random.key(11)
ARMS, PULLS = 3, 6
BANDITS = {
    "greedy": epsilon_greedy(ARMS),
    "thompson": thompson(ARMS),
    "optimistic": thompson(ARMS, optimistic=True),
    "ucb1": ucb1(ARMS, 0.2),
    "gittins": gittins(ARMS, PULLS),
}
TABLE = gittins_index(PULLS)
act_thompson = jax.jit(BANDITS["thompson"].act)
act_ucb1 = jax.jit(lambda width, key, counts, seen: ucb1(ARMS, width).act(key, counts, seen))
planned = jax.jit(plan, static_argnums=1)


def seen(arm, reward, step, observation=()):
    return Seen(np.asarray(observation, np.float32), np.array([arm], np.int32), np.float32(reward), np.int32(step))


def chosen(agent, counts, step=5, samples=2000):
    """How often each arm is pulled at given counts: what is seen adds nothing."""

    def act(key, counts):
        return agent.act(key, counts, seen(-1, 0.0, step))[1][0]

    arms = jax.jit(jax.vmap(act, (0, None)))(jax.random.split(KEY, samples), counts)
    return np.bincount(arms, minlength=len(counts.successes)) / samples


def counts(*pairs):
    return Counts(*np.asarray(pairs, np.float32).T)


@pytest.mark.slow
@pytest.mark.parametrize("name", BANDITS)
def test_where_arms_always_or_never_pay(name):
    """An arm that pays is kept; one that does not is left for one that is unknown."""
    played = jax.jit(
        jax.vmap(lambda p: total(play(trial(bandits(ARMS)._replace(draw=lambda key: p), PULLS), BANDITS[name], KEY)))
    )
    ps = np.array(list(itertools.product([0.0, 1.0], repeat=ARMS)), np.float32)
    rewards = np.asarray(played(ps))
    assert rewards[0] == 0
    assert rewards[-1] == PULLS
    if name in ("greedy", "ucb1", "gittins"):
        np.testing.assert_array_equal(rewards[1:], PULLS - ps[1:].argmax(axis=1))


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, ARMS - 1), st.integers(0, 1)), min_size=4, max_size=4))
def test_the_posterior_counts_what_was_seen_and_nothing_of_the_trial_before(pulls):
    memory = counts((5, 1), (0, 2), (3, 3))  # of another trial
    expected = np.zeros((ARMS, 2))
    for step, (arm, reward) in enumerate([(-1, 0), *pulls]):
        memory, _ = act_thompson(KEY, memory, seen(arm, reward, step))
        if step:
            expected[arm, 1 - reward] += 1
        np.testing.assert_array_equal(np.stack(memory, axis=1), expected)


@pytest.mark.slow
def test_thompson_sampling_pulls_an_arm_as_often_as_it_is_the_best():
    error = 4 / math.sqrt(4 * 2000)
    # P(Beta(2, 1) > Beta(1, 1)) = 2/3, and P(max(Beta(1, 2), 1/3) > max(U, 1/2)) = 1/6.
    assert chosen(thompson(2), counts((1, 0), (0, 0)))[0] == pytest.approx(2 / 3, abs=error)
    assert chosen(thompson(2), counts((0, 1), (0, 0)))[0] == pytest.approx(1 / 3, abs=error)
    assert chosen(thompson(2, optimistic=True), counts((0, 1), (0, 0)))[0] == pytest.approx(1 / 6, abs=error)
    # Of three samples two at least.
    assert chosen(thompson(2, samples=3), counts((1, 0), (0, 0)))[0] == pytest.approx(20 / 27, abs=error)


@pytest.mark.slow
def test_epsilon_greedy_explores_with_its_probability_and_uniform_always():
    known = counts((0, 3), (4, 1), (1, 1))
    error = 4 / math.sqrt(4 * 2000)
    np.testing.assert_allclose(chosen(epsilon_greedy(3, 0.3), known), [0.1, 0.8, 0.1], atol=error)
    np.testing.assert_array_equal(chosen(epsilon_greedy(3), known), [0, 1, 0])
    drawn = jax.vmap(lambda key: uniform((2, 3)).act(key, (), seen(-1, 0, 0))[1])(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 2000, np.ones(2) / 2, atol=error)
    np.testing.assert_allclose(np.bincount(drawn[:, 1]) / 2000, np.ones(3) / 3, atol=error)


@given(arrays(np.int8, (ARMS, 2), elements=st.integers(0, 5)), st.integers(1, 40), st.floats(0, 3))
@example(np.array([[5, 1], [0, 0], [0, 1]]), 1, 0.54)  # log 2 says the first arm, log 3 would say the second
@example(np.array([[5, 1], [0, 0], [0, 1]]), 1, 0.7)  # 2 log 2 says the second arm, log 2 would say the first
def test_ucb1_pulls_the_arm_of_the_highest_bound(pairs, step, width):
    _, arm = act_ucb1(width, KEY, counts(*pairs), seen(-1, 0.0, step))
    successes, failures = pairs.astype(float).T
    pulled = successes + failures + 2
    bound = (successes + 1) / pulled + width * np.sqrt(2 * np.log(step + 1) / pulled)
    assert bound[arm[0]] == pytest.approx(bound.max(), rel=1e-5)


def index(left, successes, failures):
    """The price at which the best way of giving up is worth nothing, by recursion over what may happen."""

    def worth(price, left, s, f):
        if not left:
            return 0.0
        p = (s + 1) / (s + f + 2)
        return (
            p
            - price
            + p * max(worth(price, left - 1, s + 1, f), 0)
            + (1 - p) * max(worth(price, left - 1, s, f + 1), 0)
        )

    return optimize.brentq(lambda price: worth(price, left, successes, failures), 0, 1)


def test_the_gittins_index_is_the_mean_for_one_pull_and_follows_the_recursion():
    s, f = np.meshgrid(range(PULLS), range(PULLS), indexing="ij")
    known = s + f < PULLS
    np.testing.assert_allclose(TABLE[0][known], ((s + 1) / (s + f + 2))[known], atol=1e-6)
    # For two, a second pull is worth it after a success alone: (p + p p') / (1 + p).
    p, then = (s + 1) / (s + f + 2), (s + 2) / (s + f + 3)
    known = s + f < PULLS - 1
    np.testing.assert_allclose(TABLE[1][known], ((p + p * then) / (1 + p))[known], atol=1e-3)
    for left, successes, failures in ((3, 0, 0), (4, 1, 1), (5, 0, 1), (6, 0, 0), (3, 2, 0)):
        assert TABLE[left - 1, successes, failures] == pytest.approx(index(left, successes, failures), abs=1e-3)


def test_gittins_pulls_by_the_pulls_that_are_left():
    known = counts((3, 2), (0, 0), (0, 0))  # mean 4/7 against unknown arms
    assert TABLE[5, 0, 0] > 4 / 7 > TABLE[0, 0, 0]
    assert chosen(gittins(ARMS, PULLS), known, step=PULLS - 1, samples=1)[0] == 1
    long = gittins_index(20)
    assert long[13, 0, 0] > long[13, 3, 2]  # with fourteen left, an unknown arm is worth more
    assert chosen(gittins(ARMS, 20), known, step=6, samples=1)[0] == 0


small = {"elements": st.floats(-2, 2, width=32, allow_subnormal=False)}


@given(arrays(np.float32, (2, 2), **small), arrays(np.float32, (2, 2), elements=st.floats(0, 1, width=32)))
def test_a_plan_is_the_best_of_all_policies(rewards, right):
    transitions = np.stack([1 - right, right], axis=-1)
    best = np.full(2, -np.inf)
    for policy in itertools.product(range(2), repeat=6):  # an action for each of three steps and two states
        value = np.zeros(2)
        for actions in np.reshape(policy, (3, 2))[::-1]:
            value = np.array([rewards[s, a] + transitions[s, a] @ value for s, a in enumerate(actions)])
        best = np.maximum(best, value)
    values = planned(MDP(rewards, transitions), 3)
    assert values.shape == (3, 2, 2)
    np.testing.assert_allclose(values[0].max(axis=-1), best, atol=1e-5)
    np.testing.assert_allclose(values[-1], rewards)


BELIEF = Belief(
    rewards=jnp.array([[3.0, 0.0], [-2.0, 8.0]]),
    visits=jnp.array([[2.0, 0.0], [1.0, 3.0]]),
    moves=jnp.array([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]),
    state=jnp.int32(0),
    values=jnp.zeros((2, 2, 2)),
)


@pytest.mark.slow
def test_samples_of_a_belief_have_its_means_and_deviations():
    samples = jax.vmap(sample, (0, None))(jax.random.split(KEY, 2000), BELIEF)
    rewards, transitions = mean(BELIEF)
    np.testing.assert_allclose(rewards, [[4 / 3, 1], [-1 / 2, 9 / 4]], rtol=1e-6)
    np.testing.assert_allclose(mean(BELIEF, 0.0).rewards, [[1, 0], [-1, 2]])
    np.testing.assert_allclose(
        transitions, [[[3 / 4, 1 / 4], [1 / 2, 1 / 2]], [[1 / 3, 2 / 3], [1 / 2, 1 / 2]]], rtol=1e-6
    )
    deviation = np.array([[3**-0.5, 1], [2**-0.5, 1 / 2]])
    np.testing.assert_allclose(samples.rewards.mean(axis=0), rewards, atol=0.1)
    np.testing.assert_allclose(samples.rewards.std(axis=0), deviation, rtol=0.1)
    np.testing.assert_allclose(samples.transitions.mean(axis=0), transitions, atol=0.03)
    # A Beta(a, b) has variance a b / ((a + b)² (a + b + 1)).
    variance = np.array([[3 / (16 * 5), 1 / (4 * 3)], [2 / (9 * 4), 1 / (4 * 5)]])
    np.testing.assert_allclose(samples.transitions[..., 0].var(axis=0), variance, rtol=0.15)


def test_a_belief_counts_rewards_and_moves_within_episodes():
    agent = certainty_equivalent(2, 2, horizon=2)
    act = jax.jit(agent.act)
    memory = BELIEF  # of another trial
    #      action and reward before, state now, whether an episode has ended
    story = [(-1, 0.0, 0, 0), (1, 3.0, 1, 0), (0, 2.0, 0, 1), (1, 5.0, 0, 0)]
    for step, (action, reward, state, ended) in enumerate(story):
        memory, _ = act(KEY, memory, seen(action, reward, step, (*np.eye(2)[state], ended)))
    np.testing.assert_array_equal(memory.rewards, [[0, 8], [2, 0]])
    np.testing.assert_array_equal(memory.visits, [[0, 2], [1, 0]])
    moves = np.zeros((2, 2, 2))
    moves[0, 1] = [1, 1]  # once to 1, once to 0; the move that ended an episode was not seen
    np.testing.assert_array_equal(memory.moves, moves)
    # The plan is that of the beginning of the second episode, when 5 was not known yet.
    then = Belief(jnp.array([[0.0, 3], [2, 0]]), jnp.array([[0.0, 1], [1, 0]]), jnp.zeros((2, 2, 2)), 0, 0)
    then = then._replace(moves=then.moves.at[0, 1, 1].set(1))
    np.testing.assert_allclose(memory.values, plan(mean(then), 2), rtol=1e-6)


@pytest.mark.slow
def test_posterior_sampling_plans_once_an_episode_and_optimism_raises_the_plan():
    def values(agent):
        act, memory, found = jax.jit(agent.act), agent.init(), []
        for step in range(4):
            shown = seen(-1 if step == 0 else 0, 1.0, step, (1, 0, step == 2))
            memory, _ = act(jax.random.fold_in(KEY, step), memory, shown)
            found.append(np.asarray(memory.values))
        return found

    one, many = values(psrl(2, 2, 2)), values(psrl(2, 2, 2, samples=50))
    np.testing.assert_array_equal(one[0], one[1])
    np.testing.assert_array_equal(one[2], one[3])
    assert not np.allclose(one[1], one[2])
    # The largest of 50 standard normal draws is 2.25 on average.
    assert many[0][-1].mean() - 1 == pytest.approx(2.25, abs=0.8)


@pytest.mark.slow
def test_more_is_known_more_is_earned():
    environment = trial(mdps(3, 2, horizon=3), 8)
    agents = {
        "uniform": uniform((2,)),
        "psrl": psrl(3, 2, 3),
        "greedy": certainty_equivalent(3, 2, 3),
    }
    found = {name: jax.jit(partial(evaluate, environment, agent, trials=300))(KEY) for name, agent in agents.items()}
    assert found["uniform"].mean == pytest.approx(24, abs=2 * float(found["uniform"].interval))
    for name in ("psrl", "greedy"):
        assert found[name].mean > 24 + 5


@pytest.mark.full
@pytest.mark.parametrize(
    ("pulls", "arms", "agent", "published", "deviation"),
    [
        (10, 5, uniform((5,)), 5.0, 1.9),
        (10, 5, thompson(5), 5.7, 2.2),
        (10, 5, thompson(5, samples=10), 6.5, 2.2),
        (10, 10, thompson(10, samples=10), 6.2, 2.2),
        (10, 5, epsilon_greedy(5), 6.6, 2.4),
        (10, 5, ucb1(5, 0.2), 6.7, 2.2),
        (10, 5, gittins(5, 10), 6.6, 2.3),
        (10, 50, epsilon_greedy(50), 6.5, 2.4),
        (10, 50, ucb1(50, 0.1), 6.6, 2.3),
        (100, 10, uniform((10,)), 49.9, 11),
        (100, 10, thompson(10), 76.7, 11),
        (100, 10, epsilon_greedy(10), 77.1, 14),
        (100, 10, ucb1(10, 0.2), 82.4, 11),
        (100, 10, gittins(10, 100), 82.8, 11),
    ],
)
def test_the_published_table(pulls, arms, agent, published, deviation):
    """Means over 1,000 instances, rounded to a tenth (Duan et al. 2016): their noise and ours, at four deviations."""
    found = jax.jit(partial(evaluate, trial(bandits(arms), pulls), agent, trials=2000))(KEY)
    noise = 4 * math.hypot(deviation / math.sqrt(1000), float(found.interval) / 1.96)
    assert found.mean == pytest.approx(published, abs=noise + 0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(()), "choices=()"),
        (lambda: uniform((2, 0)), "choices=(2, 0)"),
        (lambda: epsilon_greedy(0), "arms=0"),
        (lambda: epsilon_greedy(2, 1.5), "epsilon=1.5"),
        (lambda: thompson(0), "arms=0"),
        (lambda: thompson(2, samples=0), "samples=0"),
        (lambda: ucb1(2, -1.0), "width=-1.0"),
        (lambda: ucb1(2, math.nan), "width=nan"),
        (lambda: gittins(2, 0), "pulls=0"),
        (lambda: gittins_index(2, prices=1), "prices=1"),
        (lambda: certainty_equivalent(2, 2, 0), "horizon=0"),
        (lambda: certainty_equivalent(2, 2, 2, -0.1), "epsilon=-0.1"),
        (lambda: psrl(0, 2, 2), "states=0"),
        (lambda: psrl(2, 2, 2, samples=0), "samples=0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
