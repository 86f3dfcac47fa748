"""The studies of bandits and MDPs: what they play in a step, and what they refuse before anything is computed."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.meta.environments import bandits, trial
from gan_jax.training import lookup

BANDITS, MDPS = (lookup.load(lookup.find(name)) for name in ("bandit_rl2", "mdp_rl2"))
SMALL = st.integers(1, 40)
WRONG = [
    *(("tested", 1), ("budget", 0), ("budget", -5), ("rate", math.nan), ("rate", -1.0), ("entropy", -1.0)),
    *(("hidden", 0), ("epochs", 0), ("trials", 0), ("discount", 1.5), ("value_weight", math.inf), ("span", 1)),
]


@given(st.integers(1, 600), st.integers(1, 4000), st.integers(1, 9), SMALL)
def test_a_step_has_trials_for_each_minibatch_and_no_more_than_both_bounds(trials, batch, minibatches, pulls):
    config = dataclasses.replace(BANDITS.SMALLEST, trials=trials, batch=batch, minibatches=minibatches)
    found = BANDITS.trials(config, trial(bandits(2), pulls))
    assert found % minibatches == 0
    # A multiple more would be too many, but one multiple there is always.
    assert found == minibatches or (found <= trials and found * pulls <= batch)
    assert found + minibatches > min(trials, batch / pulls)


@given(st.integers(1, 10**6), SMALL)
def test_the_steps_come_closest_to_the_budget(budget, pulls):
    config = dataclasses.replace(BANDITS.SMALLEST, budget=budget)
    environment = trial(bandits(2), pulls)
    each = BANDITS.trials(config, environment) * pulls
    steps = BANDITS.updates(config, environment)
    assert steps >= 1
    assert abs(steps * each - budget) <= each / 2 or steps == 1


@pytest.mark.parametrize("study", [BANDITS, MDPS])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_be_is_refused(study, name, value):
    with pytest.raises(ValueError, match=f"^{name}={value}"):
        study.build(dataclasses.replace(study.SMALLEST, **{name: value}))
