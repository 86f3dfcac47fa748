"""Controlled training against plain training, on a quadratic whose every score is known, and what ends it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.meta import control, inner
from gan_jax.meta.control import Dial, Signature, panel
from gan_jax.meta.environments import Agent, play, trial
from gan_jax.meta.tasks import Tasks
from tests.meta.quadratic import quadratic, task

KEY = jax.random.key(5)
UPDATES, HORIZON, HIGH = 3, 4, 100.0
RATE = 0.1
PANEL = panel({"rate": RATE}, {"rate": Dial(0.05, 0.8)})
played = jax.jit(play, static_argnums=(0, 1))


def centres(_, key):
    """A task whose support and query agree, so that training ends at a score of 0."""
    c = 1 + jax.random.uniform(key, (2,))
    return task(c, c)


def noisy(batches):
    """A quadratic whose steps see their key, so that a key used otherwise would show."""
    plain = quadratic(RATE)

    def step(hyper, key, state, batch):
        state, metrics = plain.step(hyper, key, state, batch)
        return (state[0] + 0.01 * jax.random.normal(key, (2,)), state[1]), metrics

    return plain._replace(step=step)


def environment(learner=None, **options):
    learner = noisy(1) if learner is None else learner
    given = {"updates": UPDATES, "horizon": HORIZON, "feed": inner.whole(), "limits": (1e-3, HIGH)} | options
    actions = given.pop("actions", PANEL)
    watch = given.pop("watch", {"loss": jax.nn.soft_sign})
    return control.control(learner, Tasks({}, centres), learner.loss, watch, actions, **given)


PLAIN = environment()


def always(*action):
    return Agent(lambda: (), lambda key, memory, seen: (memory, jnp.array(action, jnp.int32)))


@jax.jit
def episode(key, actions):
    """Play given actions [L, heads], and return the first and all later episodes, observations and the rest."""
    draw_key, reset_key = jax.random.split(key)
    start = PLAIN.draw(draw_key)
    observation, first = PLAIN.reset(reset_key, start)

    def one(state, action):
        seen, state, reward, done = PLAIN.step(KEY, start, state, action)
        return state, (state, seen, reward, done)

    return start, first, observation, jax.lax.scan(one, first, actions)[1]


@pytest.mark.slow
def test_an_episode_that_keeps_everything_is_plain_training():
    start, first, _, (states, *_) = episode(KEY, jnp.full((HORIZON, 1), control.KEEP))
    learner, train_key = noisy(1), jax.random.split(first.key)[0]
    begun = learner.init({"rate": RATE}, start.key)
    run = jax.jit(inner.loop(learner, UPDATES * HORIZON, feed=inner.whole()))
    w, _ = run({"rate": jnp.float32(RATE)}, train_key, begun, start.task.support)[0]
    np.testing.assert_array_equal(states.learner[0][-1], w)
    np.testing.assert_array_equal(states.numbers, np.full((HORIZON, 1), np.float32(RATE)))
    assert not states.clipped.any()


@pytest.mark.slow
@given(st.integers(0, 99), st.lists(st.integers(0, 2), min_size=HORIZON, max_size=HORIZON))
def test_scores_rewards_and_observations_are_those_of_descent_at_the_rates_by_hand(seed, turns):
    start, first, seen, (states, observed, rewards, done) = episode(jax.random.key(seed), jnp.array(turns)[:, None])
    centre = np.asarray(start.task.query["x"][0], float)
    train_key = jax.random.split(first.key)[0]
    w, rate, scores, rates, losses = np.zeros(2), RATE, [0.5 * centre @ centre], [RATE], [None]
    for index, turn in enumerate(turns):
        rate = np.clip(rate * (0.5, 1, 2)[turn], 0.05, 0.8)
        mine = []
        for update in range(index * UPDATES, (index + 1) * UPDATES):
            mine.append(0.5 * (w - centre) @ (w - centre))
            noise = jax.random.normal(jax.random.split(jax.random.fold_in(train_key, update))[1], (2,))
            w = w - rate * (w - centre) + 0.01 * np.asarray(noise)
        scores.append(max(0.5 * (w - centre) @ (w - centre), 1e-3))
        rates.append(rate)
        losses.append(np.mean(mine))
    np.testing.assert_allclose([first.score, *states.score], scores, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(states.numbers[:, 0], rates[1:], rtol=1e-5)
    np.testing.assert_allclose(rewards, -np.diff(scores), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(rewards.sum(), first.score - states.score[-1], atol=1e-5)
    np.testing.assert_array_equal(done, np.arange(HORIZON) == HORIZON - 1)
    for index, row in enumerate([seen, *observed]):
        place = 2 * np.log(rates[index] / 0.05) / np.log(16) - 1
        score = np.log(scores[index] / scores[0]) / np.log(HIGH / 1e-3)
        loss = losses[index] / (1 + losses[index]) if index else 0
        np.testing.assert_allclose(row, [loss, place, score, index / HORIZON], atol=2e-3)


@given(st.lists(st.integers(-3, 5), min_size=HORIZON, max_size=HORIZON))
def test_no_actions_leave_the_bounds_and_what_was_clipped_is_counted(turns):
    _, _, _, (states, *_) = episode(KEY, jnp.array(turns)[:, None])
    exponent, clipped = 1, 0  # the rate is .05 · 2^exponent, of 0...4
    for turn in turns:
        wanted = exponent + np.clip(turn, 0, 2) - 1
        exponent = np.clip(wanted, 0, 4)
        clipped += wanted != exponent or not 0 <= turn <= 2
    assert states.clipped[-1, 0] == clipped
    assert ((states.numbers >= np.float32(0.05)) & (states.numbers <= np.float32(0.8))).all()
    np.testing.assert_allclose(states.numbers[-1, 0], 0.05 * 2.0**exponent, rtol=1e-5)


class Three(NamedTuple):
    rates: Pair
    weight: float
    count: float


def test_each_head_turns_its_own_number_on_its_own_scale():
    dials = Three(Pair(None, Dial(1e-4, 1.0, 3.0)), None, Dial(1, 4, 1, log=False))
    mine = panel(Three(Pair(0.5, 0.01), 0.3, 2), dials)
    assert mine.names == ("rates.discriminator", "count")
    now = control.numbers(mine)
    np.testing.assert_allclose(now, [0.01, 2])
    for action, expected in (((0, 2), (0.01 / 3, 3)), ((2, 1), (0.03, 2)), ((1, 0), (0.01, 1))):
        found, clipped = control.turned(mine, now, jnp.array(action))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert not clipped.any()
    made = control.hyper(mine, jnp.array([0.2, 3.0]))
    assert (made.rates.generator, made.weight) == (0.5, 0.3)
    np.testing.assert_allclose([made.rates.discriminator, made.count], [0.2, 3])


@given(st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)))
def test_numbers_and_their_places_are_inverse(where):
    mine = panel((0.01, 2.0), (Dial(1e-3, 10.0), Dial(1.0, 4.0, 1.0, log=False)))
    found = control.at(mine, jnp.array(where))
    np.testing.assert_allclose(found, [1e-3 * 1e4 ** ((where[0] + 1) / 2), 2.5 + 1.5 * where[1]], rtol=1e-4)
    np.testing.assert_allclose(control.places(mine, found), where, atol=1e-5)


def breaking(at_rate):
    """A quadratic whose numbers become NaN at rates above a limit."""
    plain = quadratic(RATE)

    def step(hyper, key, state, batch):
        (w, moments), metrics = plain.step(hyper, key, state, batch)
        return (jnp.where(hyper["rate"] > at_rate, jnp.nan, w), moments), metrics

    return plain._replace(step=step)


@pytest.mark.slow
def test_a_run_that_is_not_finite_ends_alone():
    breaks = environment(breaking(0.3), penalty=2.0)
    start = breaks.draw(KEY)
    resets = jax.vmap(breaks.reset, (0, None))(jax.random.split(KEY, 3), start)
    step = jax.jit(jax.vmap(breaks.step, (None, None, 0, 0)))
    numbers = resets[1]._replace(numbers=jnp.array([[0.1], [0.2], [0.1]]))
    found = step(KEY, start, numbers, jnp.array([[1], [2], [2]]))
    quiet = step(KEY, start, numbers, jnp.array([[1], [1], [2]]))
    for leaf, other in zip(*map(jax.tree.leaves, (found, quiet)), strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, other = map(jax.random.key_data, (leaf, other))
        elif jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(np.delete(leaf, 1, axis=0), np.delete(other, 1, axis=0))
    observation, state, reward, done = found
    np.testing.assert_array_equal(done, [False, True, False])
    # The last finite state, the worst score, and the fall to it with the penalty.
    np.testing.assert_array_equal(state.learner[0][1], resets[1].learner[0][1])
    assert state.score[1] == HIGH
    assert reward[1] == pytest.approx(float(resets[1].score[1]) - HIGH - 2, rel=1e-6)
    assert observation[1, -2] == pytest.approx(np.log(HIGH / state.first[1]) / np.log(HIGH / 1e-3))


def test_a_state_that_is_not_finite_ends_an_episode_though_nothing_that_is_watched_tells():
    plain = quadratic(RATE)

    def step(hyper, key, state, batch):
        inside, metrics = plain.step(hyper, key, state[0], batch)
        return (inside, state[1] + jnp.where(hyper["rate"] > 0.15, jnp.nan, 1)), metrics

    hiding = plain._replace(
        init=lambda hyper, key: (plain.init(hyper, key), jnp.zeros(())),
        step=step,
        loss=lambda hyper, key, state, batch: plain.loss(hyper, key, state[0], batch),
    )
    breaks = environment(hiding)
    start = breaks.draw(KEY)
    step = jax.jit(breaks.step)
    for action, ends, seen in ((1, False, UPDATES), (2, True, 0)):
        _, state, _, done = step(KEY, start, breaks.reset(KEY, start)[1], jnp.array([action]))
        assert (bool(done), float(state.learner[1])) == (ends, seen)


def test_a_score_beyond_its_limit_is_a_collapse_and_the_trial_goes_on_anew():
    # Descent at a rate of 2.1 multiplies the distance by 1.1: of the scores .5·|c|²·1.21ⁿ some pass 5.
    wild = panel({"rate": 2.1}, {"rate": Dial(0.1, 4.0)})
    ends = environment(quadratic(2.1), actions=wild, limits=(1e-3, 5.0), horizon=8)
    moments = played(trial(ends, 2), always(control.KEEP), KEY)
    flags = np.flatnonzero(moments.seen.observation[:, -1])
    scores = moments.seen.observation[:, 2]
    assert len(flags) > 0
    for flag in flags[: np.sum(moments.ongoing) // flags[0]]:
        assert scores[flag] == scores[0]  # begun anew, from the key of the task
    episode_return = moments.reward[: flags[0]].sum()
    assert scores[0] == 0
    first = float(moments.reward[0] / (1 - np.exp(scores[1] * np.log(5e3))))  # how much, of what share
    assert episode_return == pytest.approx(first - 5.0, rel=1e-3)


def test_other_rewards_by_hand():
    before, after, metrics = jnp.float32(2.0), jnp.float32(0.5), {"accuracy": jnp.float32(0.7)}
    assert control.difference(before, after, metrics) == 1.5
    assert control.log_ratio(before, after, metrics) == pytest.approx(np.log(4))
    assert control.error("accuracy")(before, after, metrics) == pytest.approx(0.3)


def test_a_collapse_earns_nothing_even_where_the_score_is_not_looked_at():
    breaks = environment(breaking(0.05), reward=lambda before, after, metrics: jnp.ones(()))
    start = breaks.draw(KEY)
    *_, reward, done = jax.jit(breaks.step)(KEY, start, breaks.reset(KEY, start)[1], jnp.array([1]))
    assert (float(reward), bool(done)) == (0.0, True)


@pytest.mark.slow
def test_a_probe_is_measured_once_and_starting_numbers_are_drawn_between_their_bounds():
    def probe(hyper, key, state, batch):
        return {"probe/distance": jnp.abs(state[0] - batch["x"][0]).sum()}

    watch = {"probe/distance": lambda x: x}
    made = environment(quadratic(RATE), probe=probe, watch=watch, start=partial(control.anywhere, PANEL))
    starts = jax.vmap(made.draw)(jax.random.split(KEY, 200))
    place = np.log(starts.numbers[:, 0] / 0.05) / np.log(16)
    assert ((place >= 0) & (place <= 1 + 1e-6)).all()
    assert 0.4 < place.mean() < 0.6
    assert place.std() == pytest.approx(12**-0.5, rel=0.2)
    start = jax.tree.map(lambda x: x[0], starts)
    observation, state, *_ = jax.jit(made.step)(KEY, start, made.reset(KEY, start)[1], jnp.array([1]))
    rate, c = float(start.numbers[0]), np.asarray(start.task.support["x"][0])
    np.testing.assert_allclose(observation[0], (np.abs(c) * (1 - rate) ** UPDATES).sum(), rtol=1e-4)
    np.testing.assert_allclose(state.metrics["probe/distance"], observation[0])


def test_a_learner_may_begin_as_its_task_says_at_the_numbers_of_its_start():
    learner = noisy(1)

    def begin(hyper, key, task):
        return learner.init(hyper, key, hyper["rate"] * task.support["x"][0])

    begun = environment(learner, begin=begin)
    start = begun.draw(KEY)._replace(numbers=jnp.array([0.4]))
    _, first = begun.reset(KEY, start)
    c = np.asarray(start.task.support["x"][0])
    np.testing.assert_allclose(first.learner[0], 0.4 * c, rtol=1e-6)
    np.testing.assert_allclose(first.score, 0.5 * np.sum(np.square(0.6 * c)), rtol=1e-5)


def test_an_environment_is_traced_once_for_all_its_steps_and_tasks():
    traces, plain = [], quadratic(RATE)

    def step(*arguments):
        traces.append(None)
        return plain.step(*arguments)

    made = environment(plain._replace(step=step))
    built = len(traces)
    jax.block_until_ready(jax.jit(jax.vmap(partial(play, made, always(2))))(jax.random.split(KEY, 3)))
    assert len(traces) - built <= 2  # a scan may look at its body twice


def test_a_controller_for_something_else_is_refused_and_the_difference_named():
    here = control.signature(PANEL, ["loss"])
    assert here == Signature(("loss", "rate", "score", "progress"), ("rate × 2 in [0.05, 0.8]",))
    control.require_same(Signature(*map(list, here)), here)
    other = control.signature(PANEL, ["gap", "loss"])
    with pytest.raises(ValueError, match="^the controller was trained for other observed: it needs gap$"):
        control.require_same(other, here)
    with pytest.raises(ValueError, match="other observed: here is gap$"):
        control.require_same(here, other)
    with pytest.raises(ValueError, match="observed in another order: gap, loss"):
        control.require_same(other, control.signature(PANEL, ["loss", "gap"]))
    wider = panel({"rate": RATE}, {"rate": Dial(0.05, 0.9)})
    with pytest.raises(ValueError, match=r"other actions: it needs rate × 2 in \[0.05, 0.9\]; here is rate × 2"):
        control.require_same(control.signature(wider, ["loss"]), here)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: environment(updates=0), "updates=0"),
        (lambda: environment(horizon=0), "horizon=0"),
        (lambda: environment(limits=(0.0, 1.0)), r"limits=\(0.0, 1.0\)"),
        (lambda: environment(limits=(1.0, 1.0)), r"limits=\(1.0, 1.0\)"),
        (lambda: environment(penalty=-1.0), "penalty=-1.0"),
        (lambda: environment(watch={"gap": jnp.tanh}), "there is no metric 'gap' to watch: there is loss"),
        (lambda: panel({"rate": 0.1}, {"rate": None}), "there is no dial"),
        (lambda: panel({"rate": 0.1}, {"other": Dial(0, 1)}), "dials are in the place of hyperparameters"),
        (lambda: panel({"rate": 0.1}, {"rate": 3.0}), "the dial of rate is 3.0"),
        (lambda: panel({"rate": 0.1}, {"rate": Dial(0.0, 1.0)}), "low=0.0 and high=1.0 of rate"),
        (lambda: panel({"rate": 0.1}, {"rate": Dial(0.1, 1.0, 1.0)}), "by=1.0 of rate"),
        (lambda: panel({"rate": 0.1}, {"rate": Dial(0.0, 1.0, -1.0, log=False)}), "by=-1.0 must be positive"),
        (lambda: panel({"rate": 0.1}, {"rate": Dial(0.2, 1.0)}), "rate=0.1 is not between 0.2 and 1"),
        (lambda: panel({"rate": Pair(0.1, 0.1)}, {"rate": Dial(0.01, 1.0)}), "rate is no number but a Pair"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
