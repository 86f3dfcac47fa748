"""Who steers a training: by hand the same steps at the same numbers, and what is seen is what was."""

import json
import math
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan_jax
from gan_jax import cli
from gan_jax.base import Pair
from gan_jax.diagnostics.gradients import gradients
from gan_jax.divergences import energy_distance
from gan_jax.fewshot import scales
from gan_jax.meta import control
from gan_jax.meta.control import Controller, Dial
from gan_jax.meta.environments import Agent
from gan_jax.training import loop, steering
from tests.training.gans import program
from tests.training.toy import same, toy

KEY = jax.random.key(3)
EVERY, HORIZON, SPAN = 2, 3, math.log(1e3)
UP = control.KEEP + 1


class Numbers(NamedTuple):
    """The hyperparameters of the GANs on which the controllers here were trained, so to speak."""

    rates: Pair
    penalty: float
    d_steps: float


RATE = Dial(1e-4, 1e-2)
DIALS = Numbers(Pair(RATE, None), None, Dial(1.0, 3.0, 1.0, log=False))
WATCH = {"discriminator/loss": jnp.tanh, "generator/gradient": lambda size: size / (1 + size)}
WIDTH = 2 + 2 + 2 + 1  # what is watched, dials, score and progress, and the flag of a trial


def agent(*actions):
    """An agent that always does the same and writes down all that it sees, with the reward and the last action."""

    def act(key, memory, seen):
        row = jnp.concatenate([seen.observation, seen.reward[None], seen.action.astype(float)])
        return memory.at[seen.step].set(row), jnp.array(actions)

    return Agent(lambda: jnp.full((2 * HORIZON, WIDTH + 1 + len(actions)), jnp.nan), act)


def controller(*actions, tree=DIALS, default=None, watch=WATCH):
    panel = control.panel(default or Numbers(Pair(1e-3, 1e-3), 0.1, 2.0), tree)
    return Controller(agent(*actions), panel, watch, SPAN, HORIZON)


def by_hand(made, steps, rate):
    """Train step by step at the generator's rate `rate(step)`; the end, and of each step metrics, batch and state."""
    init_key, step_key, data_key = jax.random.split(KEY, 3)
    state, found = jax.jit(made.init)(init_key), []
    step = jax.jit(made.tunable.step)
    for i in range(steps):
        hyper = made.tunable.hyper
        hyper = hyper._replace(rates=hyper.rates._replace(generator=jnp.float32(rate(i))))
        batch = made.batches.draw(made.batches.arrays, data_key, i)
        after, metrics = step(hyper, jax.random.fold_in(step_key, i), state, batch)
        found.append((metrics, batch, state))
        state = after
    return state, found


def assert_near(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), left, right)


@pytest.mark.slow
def test_a_controller_that_keeps_everything_is_plain_training():
    made = program(d_steps=1)
    state = loop.train(steering.steered(made, controller(control.KEEP, control.KEEP), every=EVERY), KEY, steps=5).state
    assert_near(state.trained, loop.train(made, KEY, steps=5).state)
    np.testing.assert_allclose(state.numbers, [made.tunable.hyper.rates.generator, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.full), 4])
def test_dials_are_turned_before_the_first_step_and_each_so_many_steps_up_to_their_bounds(chunk):
    made = program(d_steps=1)
    view = steering.steered(made, controller(UP, UP), every=EVERY)
    begins = made.tunable.hyper.rates.generator

    def rate(step):
        return min(begins * 2 ** (step // EVERY + 1), RATE.high)

    state = loop.train(view, KEY, steps=12, chunk=chunk).state
    expected, _ = by_hand(made, 12, rate)
    assert_near(state.trained, expected)
    # The number of discriminator steps is not there to be turned, and stays where the controller's episodes began.
    np.testing.assert_allclose(state.numbers, [RATE.high, 2.0])
    # Turns beyond a bound are counted, of the dials that are turned; 6 doublings were wanted.
    assert state.clipped == 6 - math.floor(math.log2(RATE.high / begins))


@pytest.mark.slow
def test_what_is_seen_is_what_was():
    made, steps = program(d_steps=1), 2 * HORIZON * EVERY
    begins = made.tunable.hyper.rates.generator
    state = loop.train(steering.steered(made, controller(UP, control.KEEP), every=EVERY), KEY, steps=steps).state
    seen = np.asarray(state.memory)
    loss, gradient, rate, held, change, progress, flag, reward, first, second = seen.T
    _, found = by_hand(made, steps, lambda step: min(begins * 2 ** (step // EVERY + 1), RATE.high))
    losses = np.array([metrics["discriminator/loss"] for metrics, _, _ in found]).reshape(-1, EVERY).mean(axis=1)
    np.testing.assert_allclose(loss, [0, *np.tanh(losses[:-1])], rtol=1e-4)
    assert gradient[0] == 0
    step_key = jax.random.split(KEY, 3)[1]
    for place, (_, batch, begun) in enumerate(found[EVERY::EVERY], start=1):
        game, point = made.tunable.game(made.tunable.hyper, begun)
        probe_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(step_key, place * EVERY), 2**32 - 1))[1]
        size = gradients(game, probe_key, point, jax.tree.map(lambda leaf: leaf[0], batch))["generator/gradient"]
        np.testing.assert_allclose(gradient[place], size / (1 + size), rtol=1e-3)
    numbers = np.minimum(begins * 2.0 ** np.arange(2 * HORIZON), RATE.high)
    np.testing.assert_allclose(rate, 2 * np.log(numbers / RATE.low) / np.log(RATE.high / RATE.low) - 1, atol=1e-5)
    np.testing.assert_allclose(held, 0, atol=1e-6)  # half way between its bounds
    np.testing.assert_allclose(progress, np.minimum(np.arange(2 * HORIZON) / HORIZON, 1), atol=1e-6)
    assert not flag.any()
    np.testing.assert_array_equal(first, [-1, *[UP] * (2 * HORIZON - 1)])
    np.testing.assert_array_equal(second, [-1, *[control.KEEP] * (2 * HORIZON - 1)])
    # What is rewarded is the fall of the score's logarithm, and what is seen of it is its share of the span.
    assert change[0] == reward[0] == 0 and len(set(change)) == len(change)
    np.testing.assert_allclose(reward[1:], -SPAN * np.diff(change), atol=1e-4)


@pytest.mark.full
def test_images_of_two_batches_a_step_are_scored_by_the_generator_as_it_stands():
    """And not by its average, which is what samples are drawn from."""
    made = program("dcgan", d_steps=2, batch=4)
    view = steering.steered(made, controller(UP, UP), every=EVERY)
    begun = jax.jit(made.init)(jax.random.split(KEY, 3)[0])
    far = jax.tree.map(lambda leaf: leaf + 1, begun.average)
    start = loop.init(view, KEY)._replace(trained=begun._replace(average=far))
    current = made.sample(jax.random.key(2**32 - 1), begun.current(), 4, None)
    batch = made.batches.draw(made.batches.arrays, jax.random.split(KEY, 3)[2], 0)
    expected = energy_distance(scales(current), scales(batch["image"][0]), unbiased=False)
    state = loop.train(view, KEY, steps=1, start=(0, start)).state
    np.testing.assert_allclose(state.score, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_score_is_the_energy_distance_of_the_generator_as_it_stands():
    """Samples of a generator at the origin: the distance follows from the batch alone."""
    made = program(d_steps=1)
    zero = made.tunable._replace(sample=lambda key, state, n: jnp.zeros((n, 2)))
    view = steering.steered(made._replace(tunable=zero), controller(UP, UP), every=EVERY)
    state = loop.train(view, KEY, steps=1).state
    ((_, batch, _),) = by_hand(made, 1, lambda step: 1e-3)[1]
    x = np.asarray(batch["x"][0], np.float64)
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
    expected = 2 * np.linalg.norm(x, axis=1).mean() - apart.mean()
    np.testing.assert_allclose([state.first, state.score], expected, rtol=1e-4)


def test_dials_that_cannot_be_turned_are_held_with_the_reason():
    hyper = program().tunable.hyper._replace(penalty=5.0)
    tree = Numbers(Pair(RATE, Dial(1e-2, 1.0)), Dial(1e-3, 1.0), Dial(1.0, 3.0, 1.0, log=False))
    made = controller(UP, UP, UP, UP, tree=tree, default=Numbers(Pair(1e-3, 0.1), 0.1, 2.0))
    assert steering.held(made, hyper) == {
        "rates.discriminator": "0.0002 is not in [0.01, 1]",
        "penalty": "5 is not in [0.001, 1]",
        "d_steps": "there is no such number",
    }


def test_what_does_not_fit_is_refused():
    made = program()
    with pytest.raises(ValueError, match="no hyperparameters"):
        steering.steered(toy(), controller(UP, UP), every=1)
    with pytest.raises(ValueError, match="every"):
        steering.steered(made, controller(UP, UP), every=0)
    lone = controller(UP, tree=Numbers(Pair(None, None), None, Dial(1.0, 3.0, 1.0, log=False)))
    with pytest.raises(ValueError, match="can turn no dial here: d_steps: there is no such number"):
        steering.steered(made, lone, every=1)
    other = controller(UP, UP, watch={"discriminator/loss": jnp.tanh, "weather": jnp.tanh, "luck": jnp.tanh})
    with pytest.raises(ValueError, match="trained for other observations: it needs luck, weather$"):
        steering.steered(made, other, every=1)


STUDY = '''
"""A controller that always turns the generator's rate up."""
import dataclasses
import jax.numpy as jnp
from gan_jax.base import Pair, Report, Study
from gan_jax.gan import Hypers
from gan_jax.meta import control
from gan_jax.meta.environments import Agent

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    learns: bool = True

def build(config, data=None, data_dir=None):
    def controller(results):
        if not results:
            raise ValueError("nothing is learned yet: compute the cell up")
        action = jnp.array([results["up"]["action"]])
        def act(key, memory, seen):  # up at first, and then as the last reward says, which it remembers
            memory = 0.5 * memory + seen.reward + seen.observation.sum()
            return memory, jnp.where(seen.step == 0, action, jnp.where(memory > jnp.round(memory), 2, 0))
        agent = Agent(lambda: jnp.zeros(()), act)
        panel = control.panel(Hypers(), Hypers(Pair(control.Dial(1e-5, 1.0), None), None, None, None))
        return control.Controller(agent, panel, {"generator/loss": jnp.tanh}, 5.0, 4)
    made = Study({"up": lambda directory: {"action": 2}}, lambda results: Report("done"))
    return made._replace(controller=controller) if config.learns else made
'''
RING = ["train", "ring", "--batch", "8", "--widths", "4", "--chunk", "2", "--log-every", "2", "--score-every", "4"]


@pytest.fixture
def study(tmp_path):
    (tmp_path / "up.py").write_text(STUDY)
    assert cli.main(["train", str(tmp_path / "up.py"), "--run", str(tmp_path / "study")]) == 0
    return tmp_path / "study"


@pytest.mark.slow
def test_a_study_controls_a_run_which_is_resumed_exactly_and_needs_the_study_no_more(tmp_path, study, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = [*RING, "--controller", str(study)]
    assert cli.main([*words, "--steps", "8", "--run", str(whole)]) == 0
    rates = [json.loads(line)["control/rates.generator"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(np.abs(np.log2(np.divide(rates[1:], rates[:-1]))), 1, rtol=1e-4)  # every 2 of 8 steps
    kept = json.loads((whole / "controller.json").read_text())
    assert kept["every"] == 2 and kept["results"] == {"up": {"action": 2}}
    # Interrupted in the middle of an action, and gone on with when the study is no more.
    between = [*words, "--chunk", "1", "--checkpoint-every", "3", "--steps", "8"]
    assert cli.main([*between, "--run", str(tmp_path / "without")]) == 0
    assert cli.main([*between, "--run", str(run)]) == 0
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / str(step))
    capsys.readouterr()
    shutil.rmtree(study)
    assert cli.main(["train", "ring", "--resume", "--run", str(run)]) == 0
    assert "note" not in capsys.readouterr().err
    assert same(gan_jax.load(run).state, gan_jax.load(tmp_path / "without").state)
    assert cli.main([*RING, "--steps", "8", "--run", str(tmp_path / "plain")]) == 0
    assert not same(gan_jax.load(tmp_path / "plain").state, gan_jax.load(whole).state)
    assert cli.main(["train", "ring", "--resume", "--run", str(tmp_path / "plain"), "--controller", "x"]) == 2
    assert "was begun with controller none" in capsys.readouterr().err
    assert cli.main(["train", "ring", "--resume", "--run", str(whole), "--steps", "12"]) == 0
    assert "note: the controller acts every 2 steps, as it did when" in capsys.readouterr().err
    trained = gan_jax.load(whole)
    assert trained.step == 12 and trained.sample(5).shape == (5, 2)
    assert cli.main(["diagnose", str(whole)]) == 0
    file = tmp_path / "up.py"
    file.write_text(file.read_text() + "# another version")
    capsys.readouterr()
    assert cli.main(["train", "ring", "--resume", "--run", str(whole), "--steps", "14"]) == 0
    assert "up.py, from which the controller comes, has changed" in capsys.readouterr().err
    (run / "controller.json").write_text('{"study": {"a": 1}, "sha256": "", "results": {}, "every": 1}')
    assert cli.main(["train", "ring", "--resume", "--run", str(run), "--steps", "8"]) == 2
    assert "controller.json is not what a controlled run keeps" in capsys.readouterr().err


@pytest.mark.slow
def test_what_controls_nothing_is_refused_with_a_line(tmp_path, study, capsys):
    def refused(*words):
        assert cli.main([*RING, "--steps", "2", "--run", str(tmp_path / "run"), *words]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    capsys.readouterr()
    assert "does not exist" in refused("--controller", str(tmp_path / "nothing"))
    assert "only jit shows it the whole batch" in refused("--controller", str(study), "--parallel", "shard_map")
    (study / "cells" / "up.json").unlink()
    assert "nothing is learned yet" in refused("--controller", str(study))
    assert cli.main(["train", str(tmp_path / "up.py"), "--run", str(tmp_path / "other"), "--no-learns"]) == 0
    assert "up learns no controller" in refused("--controller", str(tmp_path / "other"))
    assert cli.main([*RING, "--steps", "2", "--run", str(tmp_path / "trained")]) == 0
    assert "is a run of ring" in refused("--controller", str(tmp_path / "trained"))


@pytest.mark.full
def test_what_rl2_has_learned_drives_another_gan(tmp_path, capsys):
    study = tmp_path / "study"
    small = ["--updates", "1", "--horizon", "2", "--budget", "16", "--hidden", "2", "--trials", "4", "--tested", "2"]
    small += ["--tuners", "rl2", "--lattice", "2", "1", "1", "1", "--d-steps", "2", "--shots", "4", "--points", "4"]
    assert cli.main(["train", "gan_control_rl2", "--run", str(study), "--batch", "2", "--widths", "3", *small]) == 0
    assert cli.main([*RING, "--steps", "8", "--run", str(tmp_path / "run"), "--controller", str(study)]) == 0
    assert "note: the controller's d_steps is not turned: there is no such number" in capsys.readouterr().err
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"control/rates.generator", "control/beta1", "control/clipped"} <= json.loads(rows[-1]).keys()
    assert gan_jax.load(tmp_path / "run").step == 8
