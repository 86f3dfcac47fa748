"""Tuners on a quadratic whose final score at any rate is known, and by one loop that is the agents' own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.meta import control, inner, tuners
from gan_jax.meta.control import KEEP, Dial, panel
from gan_jax.meta.environments import Agent, evaluate, play, trial
from gan_jax.meta.tasks import Tasks
from tests.meta.quadratic import quadratic, task

KEY = jax.random.key(11)
UPDATES, HORIZON, LOW, HIGH = 2, 4, 1e-6, 50.0
RATE = 0.2
PANEL = panel({"rate": RATE, "weight": 2.0}, {"rate": Dial(0.01, 4.0), "weight": Dial(1.0, 3.0, 1.0, log=False)})
follow = jax.jit(tuners.follow, static_argnums=(0, 1, 4))


def telling():
    """The quadratic, whose other number is all that two more metrics tell."""
    plain = quadratic(RATE)

    def step(hyper, key, state, batch):
        state, metrics = plain.step(hyper, key, state, batch)
        return state, {**metrics, "one": jnp.float32(hyper["weight"]), "two": jnp.float32(2.7)}

    return plain._replace(step=step)


def centres(_, key):
    c = 1 + jax.random.uniform(key, (2,))
    return task(c, c)


def made(updates=UPDATES, horizon=HORIZON, limits=(LOW, HIGH)):
    learner = telling()
    watch = {"loss": jax.nn.soft_sign}
    options = {"updates": updates, "horizon": horizon, "feed": inner.whole(), "limits": limits}
    return control.control(learner, Tasks({}, centres), learner.loss, watch, PANEL, **options)


ENVIRONMENT = made()
START = ENVIRONMENT.draw(KEY)


def by_hand(rates, updates=UPDATES, start=START):
    """The scores along training at given rates, a step each."""
    c = np.asarray(start.task.query["x"][0], float)
    shares = np.cumprod([1.0, *((1 - np.asarray(rates, float)) ** updates)])
    return np.maximum(0.5 * (c @ c) * shares**2, LOW)


def agent(trial_length=None):
    """What it does depends on all that it is given: its memory, the last action and reward, a flag if it sees one."""

    def act(key, memory, seen):
        wanted = memory + seen.step + seen.action[0] + (seen.reward > 0.1) + seen.observation[-1].astype(int)
        return memory + 1, jnp.stack([wanted % 3, (wanted // 2) % 3]).astype(jnp.int32)

    return Agent(lambda: jnp.int32(0), act)


@pytest.mark.slow
def test_an_agent_is_followed_as_it_is_played():
    mine = agent()
    moments = jax.jit(partial(play, trial(ENVIRONMENT, 3), mine))(KEY)
    start = ENVIRONMENT.draw(jax.random.split(KEY, 3)[0])
    course = follow(ENVIRONMENT, tuners.of_agent(mine, trial=True), KEY, start, 3)
    np.testing.assert_allclose(course.reward.ravel(), moments.reward, rtol=1e-5, atol=1e-6)
    assert len(set(np.asarray(course.numbers[..., 0]).ravel())) > 2
    assert course.ongoing.all()
    np.testing.assert_allclose(course.score[:, :-1] - course.score[:, 1:], course.reward, atol=1e-6)


def test_a_constant_tuner_is_an_agent_that_keeps_everything_and_trains_at_the_numbers_that_it_is_given():
    keep = Agent(lambda: (), lambda key, memory, seen: (memory, jnp.full(2, KEEP, jnp.int32)))
    kept, constant = (follow(ENVIRONMENT, tuner, KEY, START, 1) for tuner in (tuners.of_agent(keep), tuners.constant()))
    jax.tree.map(np.testing.assert_array_equal, kept, constant)
    np.testing.assert_allclose(constant.score[0], by_hand([RATE] * HORIZON), rtol=1e-4)
    given = follow(ENVIRONMENT, tuners.constant(jnp.array([0.5, 1.5])), KEY, START, 1)
    np.testing.assert_allclose(given.score[0], by_hand([0.5] * HORIZON), rtol=1e-4)
    np.testing.assert_array_equal(given.numbers[0], [[0.5, 1.5]] * HORIZON)


def test_what_follows_a_collapse_is_left_out():
    wild = made(limits=(LOW, 20.0))
    # A rate of 4 multiplies the distance by -3: 9 in a step of two updates, so the second ends it at the latest.
    # What it does once it has collapsed would help, and is not done.
    tuner = tuners.setting(lambda first, episode: jnp.where(episode.score < 20, jnp.array([4.0, 2.0]), first))
    course = follow(wild, tuner, KEY, START, 2)
    steps = np.argmax(0.5 * np.sum(np.square(START.task.query["x"][0])) * 81.0 ** np.arange(4) >= 20)
    for episode in range(2):
        np.testing.assert_array_equal(course.ongoing[episode], np.arange(HORIZON) < steps)
        assert course.score[episode, -1] == 20
        assert float(course.reward[episode].sum()) == pytest.approx(float(course.score[episode, 0]) - 20, rel=1e-5)


@given(st.sampled_from([0.0, 0.3, 1.0]))
def test_the_rates_of_a_cosine_by_hand(final):
    course = follow(ENVIRONMENT, tuners.cosine(PANEL, ["rate"], HORIZON, final), KEY, START, 1)
    factor = [final + (1 - final) * (1 + np.cos(np.pi * step / HORIZON)) / 2 for step in range(HORIZON)]
    expected = np.maximum(RATE * np.array(factor), 0.01)
    np.testing.assert_allclose(course.numbers[0, :, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(course.numbers[0, :, 1], [2.0] * HORIZON)
    np.testing.assert_allclose(course.score[0], by_hand(expected), rtol=1e-4)


@pytest.mark.slow
@given(st.sampled_from([("one", "two", -0.7), ("two", "one", 0.7)]), st.sampled_from([0.2, 0.9]))
def test_a_balance_multiplies_a_rate_by_the_exponential_of_the_gap(case, gain):
    discriminator, generator, gap = case
    tuner = tuners.balance(PANEL, "rate", Pair(generator, discriminator), gain)
    course = follow(ENVIRONMENT, tuner, KEY, START, 1)
    expected = RATE * np.exp(gain * gap * np.arange(HORIZON))  # before the first step nothing is known
    np.testing.assert_allclose(course.numbers[0, :, 0], np.clip(expected, 0.01, 4.0), rtol=1e-4)
    np.testing.assert_array_equal(course.numbers[0, :, 1], [2.0] * HORIZON)


@pytest.mark.slow
def test_a_grid_is_every_combination_and_what_is_not_named_stays():
    points = tuners.grid(PANEL, {"rate": 3, "weight": 2})
    rates, others = 0.01 * 400.0 ** (np.array([1, 3, 5]) / 6), [1.5, 2.5]
    expected = [[rate, other] for rate in rates for other in others]
    np.testing.assert_allclose(sorted(np.asarray(points).tolist()), expected, rtol=1e-5)
    np.testing.assert_allclose(tuners.grid(PANEL, {"rate": 1}), [[0.2, 2.0]], rtol=1e-5)


@pytest.mark.slow
def test_a_search_finds_the_best_of_a_grid_and_says_what_each_point_comes_to():
    points = tuners.grid(PANEL, {"rate": 8})
    found = jax.jit(partial(tuners.search, ENVIRONMENT, seeds=2))(points, KEY, START)
    expected = [by_hand([rate] * HORIZON)[-1] for rate in np.asarray(points)[:, 0]]
    np.testing.assert_allclose(found.score, np.minimum(expected, HIGH), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.numbers, points[np.argmin(expected)])


def test_candidates_are_drawn_between_the_bounds():
    drawn = np.asarray(tuners.random(PANEL, KEY, 200))
    assert ((drawn >= np.float32([0.01, 1])) & (drawn <= np.float32([4, 3]))).all()
    assert np.log(drawn[:, 0]).mean() == pytest.approx(np.log(0.2), abs=0.4)
    assert drawn[:, 1].mean() == pytest.approx(2, abs=0.15)
    assert abs(np.corrcoef(np.log(drawn[:, 0]), drawn[:, 1])[0, 1]) < 0.2


@pytest.mark.slow
def test_a_population_goes_on_with_the_best_and_turns_their_dials():
    size, few = 8, 2
    found = jax.jit(partial(tuners.population, ENVIRONMENT, PANEL, size=size))(KEY, START)
    numbers, score, donor = map(np.asarray, found[:3])
    c = np.asarray(START.task.query["x"][0], float)
    np.testing.assert_allclose(score[0], 0.5 * (c @ c), rtol=1e-5)
    for step in range(HORIZON):
        # Who is trained on the state of a donor, at the numbers of the row, comes to the score by hand.
        before = score[step] if step == 0 else score[step][donor[step - 1]]
        expected = np.clip(before * (1 - numbers[step, :, 0]) ** (2 * UPDATES), LOW, HIGH)
        expected[before >= HIGH] = HIGH  # who has collapsed, and is not replaced, stays where it is
        np.testing.assert_allclose(score[step + 1], expected, rtol=1e-3, atol=1e-6)
    for step in range(HORIZON - 1):
        order = np.argsort(score[step + 1], kind="stable")
        worst, best = order[-few:], order[:few]
        assert set(donor[step][worst]) <= set(best)
        others = np.delete(np.arange(size), worst)
        np.testing.assert_array_equal(donor[step][others], others)
        np.testing.assert_array_equal(numbers[step + 1][others], numbers[step][others])
        copied = numbers[step][donor[step][worst]]
        down, up = (
            np.clip(found, [0.01, 1], [4, 3]) for found in (copied * [0.5, 1] - [0, 1], copied * [2, 1] + [0, 1])
        )
        turned = numbers[step + 1][worst]
        assert (np.isclose(turned, down) | np.isclose(turned, up)).all()
    np.testing.assert_array_equal(found.final.score, score[-1])
    apart = 0.5 * np.sum((np.asarray(found.final.learner[0]) - c) ** 2, axis=1)
    np.testing.assert_allclose(apart, score[-1], rtol=1e-2, atol=1e-5)
    assert score[-1].max() < score[1].max()


@pytest.mark.slow
def test_a_linear_policy_learns_to_turn_the_rate_up():
    environment = made(updates=1, horizon=3)
    program = tuners.schedule(environment, optax.sgd(1.0), pairs=24, steps=12, sigma=0.3)
    step, state = jax.jit(program.step), program.init(KEY)
    for index in range(program.steps):
        state, metrics = step(jax.random.fold_in(KEY, index), state, {})
    test = jax.jit(
        lambda key, weights: evaluate(environment, tuners.linear_agent(environment, weights), key, 500),
    )
    before, after = (test(KEY, weights) for weights in (tuners.linear(environment), state[0]))
    assert after.mean - after.interval > before.mean + before.interval
    assert np.isfinite(metrics["schedule/reward"])


@pytest.mark.slow
def test_a_linear_policy_is_a_softmax_of_what_it_observes():
    weights = tuners.linear(ENVIRONMENT)._replace(bias=jnp.array([0.0, 0, 1, 0, 0, 0]))
    weights = weights._replace(kernel=weights.kernel.at[0, 3].set(2.0))
    seen = tuners.Seen(
        jnp.zeros(ENVIRONMENT.observation).at[0].set(0.5), jnp.zeros(2, int), jnp.zeros(()), jnp.int32(0)
    )
    act = tuners.linear_agent(ENVIRONMENT, weights).act
    drawn = np.asarray(jax.vmap(lambda key: act(key, (), seen)[1])(jax.random.split(KEY, 3000)))
    for head, logits in enumerate(([0, 0, 1], [1, 0, 0])):
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(np.bincount(drawn[:, head], minlength=3) / 3000, expected, atol=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tuners.follow(ENVIRONMENT, tuners.constant(), KEY, START, 0), "episodes=0"),
        (lambda: tuners.cosine(PANEL, ["rat"], 4), "there is no dial 'rat': there is rate, weight"),
        (lambda: tuners.cosine(PANEL, ["rate"], 4, 2.0), r"final=2.0 is not in \[0, 1\]"),
        (lambda: tuners.cosine(PANEL, ["rate"], 0), "horizon=0"),
        (lambda: tuners.balance(PANEL, "rate", Pair("one", "two"), 0.0), "gain=0.0"),
        (lambda: tuners.balance(PANEL, "beta", Pair("one", "two"), 1.0), "there is no dial 'beta'"),
        (lambda: tuners.grid(PANEL, {"beta": 2}), "there is no dial 'beta'"),
        (lambda: tuners.grid(PANEL, {"rate": 0}), "points of rate=0"),
        (lambda: tuners.search(ENVIRONMENT, jnp.ones((1, 2)), KEY, START, seeds=0), "seeds=0"),
        (lambda: tuners.population(ENVIRONMENT, PANEL, KEY, START, 1), "size=1 and share=0.25"),
        (lambda: tuners.population(ENVIRONMENT, PANEL, KEY, START, 4, share=0.6), "size=4 and share=0.6"),
        (lambda: tuners.schedule(ENVIRONMENT, optax.sgd(1.0), pairs=0, steps=1), "pairs=0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
