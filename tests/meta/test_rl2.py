"""RL² against closed forms: advantages, ratios, gradients; and what its memory keeps and forgets."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gan_jax.base import Environment
from gan_jax.meta.environments import Seen, bandits, evaluate, mdps, play, total, trial
from gan_jax.meta.rl2 import (
    Config,
    Lesson,
    Weights,
    entropy,
    features,
    fresh,
    gae,
    heads,
    log_prob,
    loss,
    ppo_loss,
    recall,
    replay,
    rl2,
    standardised,
    weights,
)

KEY = jax.random.key(7)
CHOICES = (3, 2)  # an action of two heads
played = jax.jit(play, static_argnums=(0, 1))
advantages = jax.jit(gae)
centred = jax.jit(standardised)
clipped = jax.jit(jax.value_and_grad(ppo_loss))
replayed = jax.jit(replay, static_argnums=(1, 3))
SMALL = Config(hidden=4, trials=8, epochs=1, minibatches=2)
LENGTH, BATCH = 4, 3
numbers = {"elements": st.floats(-3, 3, width=32, allow_subnormal=False)}
shares = st.floats(0, 1)


def two_headed(horizon=LENGTH):
    """An environment that observes noise and pays for both heads of an action."""

    def step(key, parameters, state, action):
        observation = jax.random.normal(key, (2,))
        return observation, state + 1, observation[0] + parameters[action].sum(), state + 1 == horizon

    def reset(key, parameters):
        return jax.random.normal(key, (2,)), jnp.int32(0)

    return Environment(lambda key: jax.random.normal(key, (3,)), reset, step, CHOICES, 2, horizon)


def uneven():
    """The same in trials of one to four steps, as their tasks say."""
    even = two_headed()

    def draw(key):
        return even.draw(key), jax.random.randint(key, (), 1, LENGTH + 1)

    def reset(key, parameters):
        return even.reset(key, parameters[0])

    def step(key, parameters, state, action):
        observation, state, reward, _ = even.step(key, parameters[0], state, action)
        return observation, state, reward, state == parameters[1]

    return even._replace(draw=draw, reset=reset, step=step)


def scaled(params, scale=1.0):
    """Weights of which none is near zero, as those of the heads are at first."""
    keys = jax.random.split(jax.random.key(5), len(params))
    return Weights(*(scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, params, strict=True)))


def float64(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


# --- advantages


@given(arrays(np.float32, LENGTH, **numbers), arrays(np.float32, LENGTH + 1, **numbers), shares, st.booleans())
def test_at_lambda_1_the_advantage_is_the_return_minus_the_value(rewards, values, discount, ends):
    ongoing = np.array([True] * (LENGTH - 1) + [not ends])
    after, returns = (0.0 if ends else float(values[-1])), []
    for reward in rewards[::-1]:
        after = reward + discount * after
        returns.insert(0, after)
    found = advantages(rewards, values, ongoing, discount, 1.0)
    np.testing.assert_allclose(found, np.array(returns) - values[:-1], atol=1e-4)


@given(arrays(np.float32, LENGTH, **numbers), arrays(np.float32, LENGTH + 1, **numbers), shares, shares)
def test_at_lambda_0_it_is_the_error_and_between_their_sum(rewards, values, discount, trace):
    ongoing = np.array([True, False, True, True])
    errors = rewards + discount * ongoing * values[1:] - values[:-1]
    np.testing.assert_allclose(advantages(rewards, values, ongoing, discount, 0.0), errors, atol=1e-5)
    decay = discount * trace
    summed = [errors[0] + decay * errors[1], errors[1], errors[2] + decay * errors[3], errors[3]]
    np.testing.assert_allclose(advantages(rewards, values, ongoing, discount, trace), summed, atol=1e-5)


@given(
    arrays(np.float32, (LENGTH, BATCH), **numbers),
    arrays(bool, (LENGTH, BATCH)).filter(np.any),
    st.sampled_from([1e-3, 1.0]),
)
def test_advantages_are_standardised_by_the_steps_that_are_part_of_their_trials(advantage, ongoing, size):
    known = size * advantage[ongoing].astype(float)
    assume(known.std() > 0.05 * size)  # and not only by rounding
    found = np.asarray(centred(np.where(ongoing, size * advantage, 1e3).astype(np.float32), ongoing))
    np.testing.assert_allclose(found[ongoing], (known - known.mean()) / known.std(), rtol=1e-3, atol=1e-3)


# --- losses


@given(st.floats(-1, 1), st.floats(-2, 2), st.sampled_from([0.1, 0.3]))
def test_the_clipped_loss_and_its_slope(difference, advantage, clip):
    ratio = np.exp(np.float32(difference))
    bounded = np.clip(ratio, 1 - clip, 1 + clip)
    value, slope = clipped(jnp.float32(difference), 0.0, advantage, clip)
    assert value == pytest.approx(-min(ratio * advantage, bounded * advantage), abs=1e-5)
    # Beyond the clip nothing pushes further, but all pushes back.
    beyond = (ratio > 1 + clip and advantage > 0) or (ratio < 1 - clip and advantage < 0)
    if abs(abs(ratio - 1) - clip) > 1e-3:
        assert slope == pytest.approx(0 if beyond else -ratio * advantage, abs=1e-5)


def test_heads_are_independent():
    logits = jax.random.normal(KEY, (1, 5))
    first, second = (np.exp(part) / np.exp(part).sum() for part in np.split(np.asarray(logits[0], float), [3]))
    joint = np.outer(first, second)
    found = [[np.exp(log_prob(CHOICES, logits, jnp.array([[i, j]]))[0]) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(found, joint, rtol=1e-5)
    assert entropy(CHOICES, logits)[0] == pytest.approx(-(joint * np.log(joint)).sum(), rel=1e-5)


@jax.jit
def lessons(params):
    """Lessons [L, B] that the policy itself has played, of which one trial ends early."""
    environment = two_headed()
    agent = rl2(environment, optax.sgd(1.0), SMALL).agent(params)
    moments = jax.vmap(lambda key: play(environment, agent, key), out_axes=1)(jax.random.split(KEY, BATCH))
    moments = moments._replace(ongoing=moments.ongoing.at[2:, 0].set(False))

    def played(moments):
        return log_prob(CHOICES, replay(params, CHOICES, moments.seen, None)[0], moments.action)

    advantage, target = jax.random.normal(KEY, (2, LENGTH, BATCH))
    return Lesson(moments, jax.vmap(played, 1, 1)(moments), advantage, target)


@pytest.mark.slow
def test_the_recurrent_gradient_is_that_of_central_differences():
    with jax.enable_x64(True):
        params = scaled(float64(weights(KEY, two_headed(), 4)), 0.5)
        batch = float64(lessons(params))
        # Away from where it was played, so that some ratios are clipped.
        batch = batch._replace(log_prob=batch.log_prob + 0.3 * jax.random.normal(KEY, (LENGTH, BATCH)))

        def value(params):
            return loss(Config(clip=0.2, value_weight=0.7), CHOICES, params, batch, 0.1)[0]

        @jax.jit
        def both(way):
            """The slope along a way, and its central difference."""
            ahead, behind = (value(optax.tree.add_scale(params, h, way)) for h in (1e-6, -1e-6))
            return optax.tree.vdot(jax.grad(value)(params), way), (ahead - behind) / 2e-6

        ways = [float64(optax.tree.random_like(jax.random.key(seed), params)) for seed in range(4)]
        # One for each leaf too, so that no small one hides among the others.
        zeros = jax.tree.map(jnp.zeros_like, params)
        ways += [zeros._replace(**{name: getattr(ways[0], name)}) for name in Weights._fields]
        for way in ways:
            np.testing.assert_allclose(*both(way), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_in_the_first_epoch_the_slope_is_the_policy_gradient():
    params = scaled(weights(KEY, two_headed(), 4), 0.5)
    batch = lessons(params)
    config = Config(value_weight=0.0)

    def reinforce(params):
        def one(moments, advantage):
            log = log_prob(CHOICES, replay(params, CHOICES, moments.seen, None)[0], moments.action)
            return (log * advantage * moments.ongoing).sum()

        return -jax.vmap(one, 1)(batch.moments, batch.advantage).sum() / batch.moments.ongoing.sum()

    found, metrics = jax.jit(jax.grad(lambda params: loss(config, CHOICES, params, batch, 0.0), has_aux=True))(params)
    assert metrics["rl2/clipped"] == 0
    chex.assert_trees_all_close(found, jax.jit(jax.grad(reinforce))(params), atol=1e-5)


def test_what_comes_after_a_trial_is_in_no_loss():
    params = scaled(weights(KEY, two_headed(), 4), 0.5)
    batch = lessons(params)
    out = ~batch.moments.ongoing
    assert out.any()
    other = batch._replace(advantage=jnp.where(out, 1e3, batch.advantage), target=jnp.where(out, -1e3, batch.target))
    parts = jax.jit(lambda batch: loss(Config(), CHOICES, params, batch, 0.1)[1])
    chex.assert_trees_all_close(parts(batch), parts(other), rtol=1e-6)


@pytest.mark.slow
def test_the_parts_of_the_loss_and_their_weights():
    params = scaled(weights(KEY, two_headed(), 4), 0.5)
    batch = lessons(params)
    value, parts = jax.jit(lambda batch: loss(Config(value_weight=0.7), CHOICES, params, batch, 0.1))(batch)
    logits, values = jax.vmap(lambda seen: replay(params, CHOICES, seen, None), 1, 1)(batch.moments.seen)
    stay = np.asarray(batch.moments.ongoing)
    # Ratios are 1 where the policy itself has played.
    policy = -np.asarray(batch.advantage)[stay].mean()
    error = 0.5 * np.asarray((values - batch.target) ** 2)[stay].mean()
    uncertain = np.asarray(entropy(CHOICES, logits))[stay].mean()
    found = [float(parts[f"rl2/{name}"]) for name in ("policy", "value", "entropy")]
    np.testing.assert_allclose(found, [policy, error, uncertain], rtol=1e-5)
    assert value == pytest.approx(policy + 0.7 * error - 0.1 * uncertain, rel=1e-5)


# --- memory


@pytest.mark.slow
def test_the_gates_are_those_of_a_gated_recurrent_unit():
    params = scaled(weights(KEY, bandits(2), 3))
    memory, inputs = np.array([0.3, -0.2, 0.9]), np.array([1.0, 0.0, 0.5])
    w, u, b = (np.asarray(x, float) for x in params[:3])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    reset = sigmoid(inputs @ w[:, :3] + memory @ u[:, :3] + b[:3])
    update = sigmoid(inputs @ w[:, 3:6] + memory @ u[:, 3:6] + b[3:6])
    candidate = np.tanh(inputs @ w[:, 6:] + reset * (memory @ u[:, 6:]) + b[6:])
    found = recall(params, jnp.asarray(memory, jnp.float32), jnp.int32(1), jnp.asarray(inputs, jnp.float32))
    np.testing.assert_allclose(found, update * memory + (1 - update) * candidate, rtol=1e-5)


@pytest.mark.slow
def test_the_memory_survives_an_episode_and_dies_with_the_trial():
    """What follows the end of an episode depends on what came before it; what follows the end of a trial does not."""
    environment = trial(mdps(2, 3, horizon=2), 3)
    params = scaled(weights(KEY, environment, 4))

    def logits(past, steps):
        """Two steps that are the same in all that is seen, after a past of four."""
        memory = jax.random.normal(jax.random.key(past), (4,))
        for step in steps:
            seen = Seen(jnp.array([1.0, 0.0, 1.0]), jnp.array([2]), jnp.float32(0.7), jnp.int32(step))
            memory = recall(params, memory, seen.step, features((3,), seen))
        return heads(params, memory)[0]

    assert not np.allclose(logits(0, (4, 5)), logits(1, (4, 5)), atol=1e-3)
    np.testing.assert_array_equal(logits(0, (0, 1)), logits(1, (0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("truncation", [None, 2])
def test_a_replayed_trial_is_the_one_that_was_played(truncation):
    environment = trial(mdps(2, 3, horizon=2), 2)
    learner = rl2(environment, optax.sgd(1.0), dataclasses.replace(SMALL, truncation=truncation))
    params = scaled(weights(KEY, environment, 4))
    moments = played(environment, learner.agent(params), KEY)
    memory, found, act = jnp.full(4, 9.0), [], jax.jit(learner.act)
    for step in range(environment.horizon):
        seen = jax.tree.map(lambda x, step=step: x[step], moments.seen)
        memory, _ = act(params, memory, seen, KEY)
        found.append(heads(params, memory))
    logits, values = replayed(params, (3,), moments.seen, truncation)
    np.testing.assert_allclose(logits, [logit for logit, _ in found], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, [value for _, value in found], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradients_reach_back_to_the_last_multiple_of_the_truncation():
    environment = trial(bandits(2), LENGTH)
    params = scaled(weights(KEY, environment, 3))
    seen = played(environment, rl2(environment, optax.sgd(1.0), SMALL).agent(params), KEY).seen

    def reach(truncation):
        def last(rewards):
            return replay(params, (2,), seen._replace(reward=rewards), truncation)[1][-1]

        return np.asarray(jax.grad(last)(seen.reward)) != 0

    np.testing.assert_array_equal(reach(None), [True, True, True, True])
    np.testing.assert_array_equal(reach(2), [False, False, True, True])
    np.testing.assert_array_equal(reach(1), [False, False, False, True])


# --- what it learns


def permuted(params, order):
    """The policy of bandits whose arm i does what arm order[i] did."""
    order = jnp.asarray(order)
    rows = jnp.concatenate([jnp.array([0]), 1 + order, jnp.array([len(order) + 1])])  # flag, arms, reward
    return params._replace(
        inputs=params.inputs[rows], policy=params.policy[:, order], policy_bias=params.policy_bias[order]
    )


@pytest.mark.slow
@given(st.permutations(range(3)))
def test_permuted_arms_and_weights_give_permuted_probabilities(order):
    """One-hot actions enter by rows of the input's weights, and leave by columns of the policy's."""
    environment, order = trial(bandits(3), 4), jnp.array(order)
    params = scaled(weights(KEY, environment, 4))
    actions, rewards = jnp.array([[-1], [0], [2], [1]]), jnp.array([0.0, 1.0, 0.0, 1.0])
    seen = Seen(jnp.array([[0.0], [1.0], [1.0], [1.0]]), actions, rewards, jnp.arange(4))
    renamed = seen._replace(action=jnp.where(actions < 0, -1, jnp.argsort(order)[actions]))
    logits, values = replayed(params, (3,), seen, None)
    found, same = replayed(permuted(params, order), (3,), renamed, None)
    np.testing.assert_allclose(found, logits[:, order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same, values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_permuted_arms_give_permuted_behaviour_in_law():
    """The renamed policy pulls renamed arms as often at each pull, and is paid as often, in trials of its own."""
    arms, pulls, trials, order = 4, 4, 4000, np.array([1, 3, 0, 2])
    p = np.array([0.95, 0.6, 0.3, 0.05], np.float32)
    environment = trial(bandits(arms), pulls)
    learner, params = rl2(environment, optax.sgd(1.0), SMALL), scaled(weights(KEY, environment, 4))
    params = params._replace(inputs=params.inputs.at[-1].multiply(4))  # what was paid is to matter

    @jax.jit
    def moments(key, p, params):
        known, agent = trial(bandits(arms)._replace(draw=lambda key: p), pulls), learner.agent(params)
        return jax.vmap(lambda key: play(known, agent, key))(jax.random.split(key, trials))

    def frequencies(seed, p, params, names):
        """How often each arm is pulled, and any pays, at each pull: [pulls, arms + 1]."""
        found = moments(jax.random.key(seed), p, params)
        pulled = names[np.asarray(found.action)] == np.arange(arms)
        return np.concatenate([pulled, np.asarray(found.reward)[..., None]], axis=-1).mean(axis=0)

    def differ(one, other):
        """Whether two binomials lie five deviations of their difference apart: by chance one time in 1.7 million."""
        pooled = (one + other) / 2
        return np.abs(one - other) > 5 * np.sqrt(2 * pooled * (1 - pooled) / trials)

    same, renamed = np.arange(arms), permuted(params, order)
    plain = frequencies(1, p, params, same)
    assert not differ(plain, frequencies(2, p[order], renamed, order)).any()
    # As many trials tell the arms apart at each pull, and the bandits by what is done after the first.
    assert differ(plain, frequencies(2, p[order], renamed, same))[:, :arms].any(axis=1).all()
    assert differ(plain, frequencies(2, p, renamed, order))[1:, :arms].any(axis=1).all()


@pytest.mark.slow
def test_who_knows_the_arm_that_pays_regrets_nothing_and_who_pulls_another_regrets_every_pull():
    arms, pulls = 3, 5
    environment = trial(bandits(arms), pulls)
    learner, params = rl2(environment, optax.sgd(1.0), SMALL), scaled(weights(KEY, environment, 4))

    def reward(p, bias):
        """Of a policy whose bias leaves the rest of its weights no say."""
        known = trial(bandits(arms)._replace(draw=lambda key: p), pulls)
        return total(play(known, learner.agent(params._replace(policy_bias=bias)), KEY))

    p, biases = np.eye(arms, dtype=np.float32), 1e4 * np.eye(arms, dtype=np.float32)
    rewards = jax.jit(jax.vmap(jax.vmap(reward, (None, 0)), (0, None)))(p, biases)
    regret = pulls * p.max(axis=1)[:, None] - rewards
    np.testing.assert_array_equal(regret, [[0, 5, 5], [5, 0, 5], [5, 5, 0]])


@pytest.mark.slow
def test_where_there_is_one_arm_the_policy_has_neither_gradient_nor_entropy():
    environment = trial(bandits(1), 5)
    learner = rl2(environment, optax.sgd(1.0), dataclasses.replace(SMALL, value_weight=0.0))
    state = learner.init(KEY)
    after, metrics = jax.jit(learner.step)(KEY, state)
    chex.assert_trees_all_close(after.params, state.params, atol=1e-7)
    assert metrics["rl2/entropy"] == pytest.approx(0)


@pytest.mark.slow
def test_a_policy_begins_almost_uniform_with_orthogonal_recurrent_maps():
    params = weights(KEY, trial(bandits(5), 3), 8)
    for part in np.split(np.asarray(params.recurrent, float), 3, axis=1):
        np.testing.assert_allclose(part.T @ part, np.eye(8), atol=1e-5)
    logits, value = heads(params, jnp.ones(8))
    assert np.abs(logits).max() < 0.1
    assert value == 0
    assert not fresh(params).any()


@pytest.mark.slow
@pytest.mark.parametrize("span", [None, 10, 2])
def test_a_memory_begins_by_lasting_as_long_as_its_span(span):
    environment, hidden = trial(bandits(5), 30), 400
    params = weights(KEY, environment, hidden, span)
    # Driven by nothing, so that what is left after a step is what the gate keeps.
    still = jax.tree.map(jnp.zeros_like, params)._replace(bias=params.bias)
    kept = np.asarray(recall(still, jnp.ones(hidden), jnp.int32(1), jnp.zeros(params.inputs.shape[0])), float)
    lasting, longest = 1 / (1 - kept), 30 if span is None else span
    assert lasting.min() >= 2 - 1e-4
    assert lasting.max() <= longest + 1e-2
    # Uniform between 2 and the span: its mean, and its deviation to about three standard errors.
    assert lasting.mean() == pytest.approx((2 + longest) / 2, abs=0.045 * (longest - 2) + 1e-4)
    assert lasting.std() == pytest.approx((longest - 2) / 12**0.5, rel=0.09, abs=1e-4)


def test_a_trial_of_one_step_needs_no_lasting_memory():
    params = weights(KEY, trial(bandits(2), 1), 4)
    assert not params.bias.any()


@pytest.mark.slow
def test_a_step_is_traced_once_and_moves_all_weights():
    learner = rl2(trial(mdps(2, 2, 2), 2), optax.adam(1e-2), SMALL)
    step = jax.jit(chex.assert_max_traces(learner.step, n=1))
    state = first = learner.init(KEY)
    for index in range(3):
        state, metrics = step(jax.random.fold_in(KEY, index), state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, state.params)
    assert all(moved), moved
    assert all(jnp.isfinite(value) for value in metrics.values())


@pytest.mark.slow
def test_a_step_is_its_epochs_of_updates_by_every_part_of_its_trials():
    """Advantages, parts and updates by loops of the test's own; of the learner's own only the trials and the loss."""
    discount, trace, epochs, parts = 0.9, 0.8, 3, (slice(0, 3), slice(3, 6))
    config = dataclasses.replace(SMALL, trials=6, epochs=epochs, discount=discount, trace=trace)
    config = dataclasses.replace(config, entropy_weight=lambda steps: steps / 9)
    environment, optimiser = uneven(), optax.adam(0.05)
    learner = rl2(environment, optimiser, config)
    begun = learner.init(KEY)._replace(params=scaled(weights(KEY, environment, 4), 0.5), step=jnp.int32(2))

    @jax.jit
    def said(params):
        """Trials, and what the policy says of them."""
        keys = jax.random.split(KEY, config.trials)
        moments = jax.vmap(lambda key: play(environment, learner.agent(params), key), out_axes=1)(keys)
        logits, values = jax.vmap(lambda seen: replay(params, CHOICES, seen, None), 1, 1)(moments.seen)
        return moments, values, jax.vmap(lambda *given: log_prob(CHOICES, *given), 1, 1)(logits, moments.action)

    @jax.jit
    def update(params, moved, part):
        slope = jax.grad(lambda params: loss(config, CHOICES, params, part, 2 / 9)[0])(params)
        updates, moved = optimiser.update(slope, moved)
        return optax.apply_updates(params, updates), moved

    moments, values, log_probs = jax.tree.map(np.asarray, said(begun.params))
    ongoing, rewards = moments.ongoing, moments.reward / sum(discount**step for step in range(LENGTH))
    assert ongoing[0].all() and ongoing[1:].any() and not ongoing[1:].all()
    advantage = np.zeros(ongoing.shape)
    for one, length in enumerate(ongoing.sum(axis=0)):
        value, later = 0.0, 0.0  # of what comes next
        for step in reversed(range(length)):
            later = rewards[step, one] + discount * value - values[step, one] + discount * trace * later
            value, advantage[step, one] = values[step, one], later
    target, known = advantage + values, advantage[ongoing]
    lessons = Lesson(moments, log_probs, *np.float32([(advantage - known.mean()) / known.std(), target]))
    params, moved = begun.params, begun.optimiser
    for part in parts * epochs:
        params, moved = update(params, moved, jax.tree.map(lambda x, part=part: x[:, part], lessons))

    after, _ = jax.jit(learner.step)(KEY, begun)
    assert after.optimiser[0].count == epochs * len(parts)
    chex.assert_trees_all_close(after.params, params, atol=1e-5)
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(params, begun.params, strict=True))


@pytest.mark.slow
def test_it_learns_which_arm_pays():
    """Of two arms one always pays and the other never; whoever remembers the first pull earns 5.5 of 6."""
    known = bandits(2)._replace(draw=lambda key: jax.random.permutation(key, jnp.array([0.0, 1.0])))
    environment = trial(known, 6)
    fades = optax.linear_schedule(0.02, 0.0, 40)
    config = Config(hidden=8, trials=128, minibatches=2, discount=1.0, entropy_weight=fades)
    learner = rl2(environment, optax.adam(0.02), config)

    def learn(state, key):
        return learner.step(key, state)

    state, metrics = jax.jit(lambda state, keys: jax.lax.scan(learn, state, keys))(
        learner.init(KEY), jax.random.split(KEY, 40)
    )
    assert metrics["rl2/reward"][0] == pytest.approx(3, abs=0.6)
    assert evaluate(environment, learner.agent(state.params), KEY, 200).mean > 5.2


@pytest.mark.slow
def test_values_learn_what_is_still_to_come_before_the_end_of_the_trial():
    """Two rewards of 1 and the end, after which 9 would be paid: values are 2 and 1, in units of the horizon."""

    def step(key, parameters, state, action):
        state = state + 1
        return jax.nn.one_hot(state, 4), state, jnp.where(state > 2, 9.0, 1.0), state == 2

    def reset(key, parameters):
        return jax.nn.one_hot(0, 4), jnp.int32(0)

    environment = Environment(lambda key: (), reset, step, (1,), 4, 4)
    config = dataclasses.replace(SMALL, trials=2, discount=1.0, trace=0.5, value_weight=1.0)
    learner = rl2(environment, optax.adam(0.03), config)
    state = jax.lax.fori_loop(0, 200, lambda index, state: learner.step(KEY, state)[0], learner.init(KEY))
    seen = played(environment, learner.agent(state.params), KEY).seen
    np.testing.assert_allclose(4 * replayed(state.params, (1,), seen, None)[1][:2], [2, 1], atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"trials": 9}, "9 trials do not divide into 2 minibatches"),
        ({"epochs": 0}, "epochs=0"),
        ({"minibatches": 0}, "minibatches=0"),
        ({"discount": 1.1}, "discount=1.1"),
        ({"trace": -0.1}, "trace=-0.1"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"value_weight": -1.0}, "value_weight=-1.0"),
        ({"entropy_weight": float("nan")}, "entropy_weight=nan"),
        ({"span": 1}, "span=1"),
        ({"truncation": 0}, "truncation=0"),
        ({"truncation": 3}, "a trial of 4 steps does not divide into truncations of 3"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rl2(two_headed(), optax.sgd(1.0), dataclasses.replace(SMALL, **change))
