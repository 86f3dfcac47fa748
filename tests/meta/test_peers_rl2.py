"""RL² beside PyTorch: from the same weights and trials the same loss, gradients and weights after steps of learning.

PyTorch is no dependency: GAN_JAX_PEERS names a Python that has it.
"""

import json
import os
import subprocess
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.meta import rl2
from gan_jax.meta.environments import Seen, bandits, play, trial
from gan_jax.training import lookup

PEERS = os.environ.get("GAN_JAX_PEERS")
PULLS, ARMS, TRIALS = 4, 3, 1024
VERSIONS = ("one", "loop", "vectorised", "compiled")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(PEERS is None, reason="GAN_JAX_PEERS names no Python with PyTorch"),
]


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """What both make of the same weights and trials."""
    bandit, speed = (lookup.load(lookup.find(name)) for name in ("bandit_rl2", "rl2_speed"))
    options = bandit.Config(
        pulls=(PULLS,), arms=(ARMS,), budget=7 * PULLS * TRIALS, hidden=5, trials=TRIALS, epochs=2, minibatches=4
    )
    rng, (key, next_key) = np.random.default_rng(0), jax.random.split(jax.random.key(1))
    with jax.enable_x64(True):
        environment = trial(bandits(ARMS), PULLS)
        learner = bandit.learner(options, environment)
        begun = learner.init(jax.random.key(0))
        # The heads begin near zero; larger weights let each gradient count.
        params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape), begun.params)

        def trials(key, params):
            """Those which a step with this key plays."""
            keys = jax.random.split(key, TRIALS)
            return jax.vmap(partial(play, environment, learner.agent(params)), out_axes=1)(keys)

        moments = trials(key, params)
        log_prob, value = said(params, moments.seen, moments.action)
        played = log_prob + 0.3 * rng.standard_normal(log_prob.shape)  # so that ratios are clipped on both sides
        rewards = moments.reward / sum(options.discount**step for step in range(PULLS))
        ended = jnp.concatenate([value, jnp.zeros((1, TRIALS))])
        gae = partial(rl2.gae, discount=options.discount, trace=options.trace)
        advantage = jax.vmap(gae, in_axes=1, out_axes=1)(rewards, ended, ~moments.done)
        target, advantage = advantage + value, rl2.standardised(advantage, moments.ongoing)
        lessons = rl2.Lesson(moments, played, advantage, target)
        of_loss = partial(rl2.loss, rl2.Config(), (ARMS,))
        (loss, metrics), slopes = jax.jit(jax.value_and_grad(of_loss, has_aux=True))(params, lessons, options.entropy)
        step = jax.jit(learner.step)
        between, _ = step(key, begun._replace(params=params))
        following = trials(next_key, between.params)
        after, _ = step(next_key, between)
        ours = SimpleNamespace(
            params=params,
            loss=float(loss),
            clipped=float(metrics["rl2/clipped"]),
            slopes=slopes._asdict(),
            learned=after.params._asdict(),
            made={"log_prob": log_prob, "value": value, "advantage": advantage, "target": target},
        )
    path = tmp_path_factory.mktemp("given") / "given.npz"
    both = moments, following
    actions = np.stack([np.asarray(each.action[..., 0], np.int64) for each in both])
    rewards = np.stack([each.reward for each in both])
    np.savez(path, **params._asdict(), actions=actions, rewards=rewards, played=played)
    script, setting = lookup.shipped() / "peers" / "ppo_torch.py", json.dumps(speed.setting(bandit, options))
    run = subprocess.run([PEERS, script, "check", path, setting], capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    return ours, json.loads(run.stdout)


def said(params, seen, action):
    """Log-probabilities of actions and values of trials [L, B]."""

    def one(seen, action):
        logits, values = rl2.replay(params, (ARMS,), seen, None)
        return rl2.log_prob((ARMS,), logits, action), values

    return jax.jit(jax.vmap(one, in_axes=1, out_axes=1))(seen, action)


def test_every_way_is_compared(sides):
    assert sides[1].keys() == set(VERSIONS)


@pytest.mark.parametrize("name", VERSIONS)
def test_trials_teach_the_same(sides, name):
    ours, theirs = sides[0], sides[1][name]
    for what, expected in ours.made.items():
        np.testing.assert_allclose(theirs[what], expected, rtol=1e-8, atol=1e-10, err_msg=what)
    assert 0.05 < ours.clipped < 0.9, "some ratios must be clipped, and some not"
    np.testing.assert_allclose(theirs["loss"], ours.loss, rtol=1e-8)
    assert theirs["slopes"].keys() == ours.slopes.keys()
    for part, expected in ours.slopes.items():
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(theirs["slopes"][part], expected, rtol=1e-8, atol=1e-12, err_msg=part)


@pytest.mark.parametrize("name", VERSIONS)
def test_two_steps_of_learning_end_at_the_same_weights(sides, name):
    ours, theirs = sides[0], sides[1][name]["learned"]
    assert theirs.keys() == ours.learned.keys()
    close = 1e-5 if name in ("one", "loop") else 1e-8  # PyTorch adds 1e-6 to the norm by which it clips
    for part, expected in ours.learned.items():
        assert np.abs(expected - getattr(ours.params, part)).min() > 10 * close
        np.testing.assert_allclose(theirs[part], expected, rtol=0, atol=close, err_msg=part)


@pytest.mark.parametrize("name", VERSIONS)
def test_rollouts_are_of_the_same_policy_in_bandits(sides, name):
    ours, own = sides[0], {what: np.array(found) for what, found in sides[1][name]["own"].items()}
    action, reward = own["action"].astype(np.int32), own["reward"]
    assert action.shape == (PULLS, TRIALS)
    assert set(np.unique(action)) == set(range(ARMS))
    assert set(np.unique(reward)) == {0, 1}
    ended = np.ones((PULLS, TRIALS, 1))
    ended[0] = 0
    steps = np.broadcast_to(np.arange(PULLS, dtype=np.int32)[:, None], action.shape)
    last = np.concatenate([np.full((1, TRIALS), -1, np.int32), action[:-1]])
    seen = Seen(ended, last[..., None], np.concatenate([np.zeros((1, TRIALS)), reward[:-1]]), steps)
    with jax.enable_x64(True):
        log_prob, value = said(ours.params, seen, action[..., None])
    np.testing.assert_allclose(own["log_prob"], log_prob, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(own["value"], value, rtol=1e-8, atol=1e-10)
    # An arm pays half of the time; one that has paid, and whose chance was uniform, pays again two times of three.
    np.testing.assert_allclose(reward[0].mean(), 1 / 2, atol=0.07)
    again = (action[0] == action[1]) & (reward[0] == 1)
    np.testing.assert_allclose(reward[1, again].mean(), 2 / 3, atol=0.12)
    # And actions are drawn as often as the policy says.
    expected = [np.exp(log_prob[0, action[0] == arm]).mean() for arm in range(ARMS)]
    np.testing.assert_allclose(np.bincount(action[0], minlength=ARMS) / TRIALS, expected, atol=0.06)
