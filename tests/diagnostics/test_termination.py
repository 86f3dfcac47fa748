"""Verdicts on series of scores: what stops a run, what does not, and which checkpoint it returns to."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.diagnostics.termination import Criteria, Score, judge, levels

scores = st.floats(0.01, 1000, allow_subnormal=False)


def rows(values, **outputs):
    return [Score(100 * (place + 1), value, **outputs) for place, value in enumerate(values)]


def first_end(series, criteria):
    """The number of rows after which a run would have ended, and the verdict then."""
    for count in range(1, len(series) + 1):
        verdict = judge(series[:count], criteria)
        if verdict.ends:
            return count, verdict
    return None, judge(series, criteria)


@given(values=st.lists(scores, max_size=12), window=st.integers(1, 5))
def test_a_level_is_the_median_of_the_last_scores(values, window):
    expected = [sorted(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    middle = [(part[(len(part) - 1) // 2] + part[len(part) // 2]) / 2 for part in expected]
    np.testing.assert_allclose(levels(values, window), middle, rtol=1e-12)


@given(values=st.lists(scores, min_size=1, max_size=40, unique=True))
def test_a_run_that_only_improves_goes_on_and_its_last_row_is_the_best(values):
    verdict = judge(rows(sorted(values, reverse=True)), Criteria(gain=0.0, patience=2))
    assert not verdict.ends
    assert verdict.best.step == 100 * len(values)


@given(values=st.lists(scores, min_size=1, max_size=15), power=st.integers(-20, 20))
def test_only_ratios_count(values, power):
    one, other = (judge(rows(np.array(values) * scale), Criteria(patience=4)) for scale in (1.0, 2.0**power))
    assert (one.kind, one.best.step) == (other.kind, other.best.step)


@given(values=st.lists(scores, min_size=2, max_size=20))
def test_the_best_row_so_far_never_depends_on_later_rows(values):
    """The checkpoint of a new best is kept when it is scored; one found out afterwards would be gone."""
    series = rows(values)
    bests = [judge(series[:count]).best.step for count in range(1, len(series) + 1)]
    for count, best in enumerate(bests, start=1):
        assert best == series[count - 1].step or best == bests[count - 2]


def test_a_collapse_is_called_when_the_median_of_five_is_half_as_bad_again():
    healthy = [100.0, 50.0, 30.0, 20.0, 20.0, 20.0, 20.0, 20.0]
    assert not judge(rows([*healthy, 31.0, 31.0])).ends  # the median is still 20
    count, verdict = first_end(rows([*healthy, 31.0, 31.0, 31.0, 31.0]), Criteria())
    assert (count, verdict.kind, verdict.alarm) == (len(healthy) + 3, "collapse", True)
    assert verdict.best.score == 20.0
    assert "1.55 times its best" in verdict.reason
    assert not judge(rows([*healthy, *[29.0] * 9])).ends


def test_one_bad_score_is_no_collapse_and_one_lucky_score_is_not_the_best():
    flat = [100.0, 20.0, 20.0, 20.0, 20.0, 20.0]
    assert not judge(rows([*flat, 500.0, 20.0])).ends
    lucky = judge(rows([100.0, 90.0, 80.0, 10.0, 70.0, 40.0, 30.0, 20.0, 20.0, 20.0, 20.0]))
    assert lucky.best.score == 20.0


def test_the_first_bad_score_after_good_ones_is_not_the_best():
    """The median of five does not see it yet, and may even fall as an old one leaves."""
    series = rows([100.0, 60.0, 30.0, 20.0, 20.0, 19.0, 900.0])
    assert judge(series).best.score == 19.0


def test_a_run_that_has_learnt_nothing_yet_may_wander_further():
    wandering = [10.0, 6.0, 6.0, 6.0, 6.0, 10.0, 10.0, 10.0, 10.0]
    assert not judge(rows(wandering)).ends
    assert judge(rows(wandering), Criteria(warmup=8)).kind == "collapse"
    assert judge(rows(wandering), Criteria(learnt=0.7)).kind == "collapse"
    assert judge(rows([*wandering[:5], *[13.4] * 4])).kind == "going on"
    assert judge(rows([*wandering[:5], *[13.6] * 4])).kind == "collapse"  # more than 2.25 times 6


def test_a_plateau_is_as_many_scores_without_a_better_level_as_patience_says():
    falling, flat = [100.0, 50.0, 25.0, 20.0, 15.0], [15.0] * 30
    count, verdict = first_end(rows(falling + flat), Criteria(window=1, patience=6))
    assert (count, verdict.kind, verdict.alarm) == (len(falling) + 6, "plateau", False)
    assert first_end(rows(falling + flat), Criteria(window=1))[0] is None


@given(gain=st.floats(0.01, 0.2), share=st.floats(0.1, 0.9))
def test_a_fall_by_less_than_the_gain_is_no_progress(gain, share):
    slow = 100.0 * (1 - gain * share) ** np.array([0, 0, 0, 1])
    fast = 100.0 * (1 - gain * (1 + share)) ** np.array([0, 0, 0, 1])
    criteria = Criteria(window=1, patience=3, gain=gain)
    assert judge(rows(slow), criteria).kind == "plateau"
    assert judge(rows(fast), criteria).kind == "going on"


def test_equilibrium_needs_both_outputs_near_a_half_for_a_whole_window():
    criteria = Criteria(window=3, equilibrium=0.05)
    near, far = Score(0, 1.0, 0.53, 0.47), Score(0, 1.0, 0.53, 0.3)
    assert judge([near] * 2, criteria).kind == "going on"
    assert judge([far, near, near, near], criteria).kind == "equilibrium"
    assert judge([near, near, near, far], criteria).kind == "going on"
    assert judge([near, far, near, near], criteria).kind == "going on"
    assert judge(rows([1.0] * 5), criteria).kind == "going on"  # D is not known
    assert judge([near] * 5, Criteria()).kind == "going on"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_an_alarm_and_goes_back_to_the_best(bad):
    verdict = judge(rows([9.0, 8.0, 7.0, bad]))
    assert (verdict.kind, verdict.alarm, verdict.best.score) == ("not finite", True, 7.0)
    assert judge(rows([bad])).best is None


def test_nothing_is_said_of_nothing():
    assert judge([]) == ("going on", "", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 0),
        ("rise", 1.0),
        ("learnt", 0.0),
        ("warmup", -1),
        ("patience", -1),
        ("gain", 1.0),
        ("equilibrium", 0.5),
    ],
)
def test_criteria_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}: give "):
        dataclasses.replace(Criteria(), **{field: value})
