"""When a run is done, and when it has gone wrong: verdicts on the series of its scores.

A verdict is a pure function of what has been recorded so far, so a run that is resumed, and one that is replayed from
its records, are judged alike. Scores are positive distances, lower is better, and ratios of them are what counts:
everything below is in their logarithms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gan_jax.diagnostics.equilibrium import undecided

Kind = Literal["going on", "plateau", "equilibrium", "collapse", "not finite"]

ALARMS: dict[str, str] = {  # what to try, by the kind of verdict
    "collapse": "lower the rates, or the generator's alone; add or raise a penalty (R1); take smaller beta1",
    "not finite": "lower the rates or add a penalty; in low precision, look for overflow",
}


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """When to stop. A level is the median of the last `window` scores, which a single bad score does not move."""

    window: int = 5
    """Scores in a level."""
    rise: float = 1.5
    """A level this many times the best one is a collapse; inf: never."""
    learnt: float = 0.5
    """A run whose best level is above this share of its first score has learnt nothing yet."""
    warmup: int = 20
    """Scores of the warm-up, in which a run that has learnt nothing wanders: for a collapse it takes `rise` squared."""
    patience: int = 0
    """Scores in a row without a better level that make a plateau; 0: never."""
    gain: float = 0.02
    """Share by which a level has to fall to count as better."""
    equilibrium: float = 0.0
    """How far from 1/2 both means of D may lie, for a whole window, to be at equilibrium; 0: never."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of its range."""
        ranges = {
            "window": (self.window >= 1, "1 or more"),
            "rise": (self.rise > 1, "more than 1: 1.5 is half as bad again as the best"),
            "learnt": (0 < self.learnt <= 1, "a share in (0, 1]"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "patience": (self.patience >= 0, "0 or more: 0 never stops"),
            "gain": (0 <= self.gain < 1, "a share in [0, 1)"),
            "equilibrium": (0 <= self.equilibrium < 0.5, "a distance in [0, 1/2): 0 never stops"),
        }
        for name, (fine, hint) in ranges.items():
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)}: give {hint}")


class Score(NamedTuple):
    """A row of the series: the steps done, the score then, and the means of D(x) and D(G(z)) if they are known."""

    step: int
    score: float
    real: float = math.nan
    fake: float = math.nan


class Verdict(NamedTuple):
    """What a series comes to.

    kind: "going on"; "plateau" or "equilibrium", which are ends; "collapse" or "not finite", which are alarms.
    reason: in one line; "" while it goes on.
    best: the row to go back to; None before there is one.
    """

    kind: Kind
    reason: str
    best: Score | None

    @property
    def alarm(self) -> bool:
        """Whether the run has gone wrong."""
        return self.kind in ALARMS

    @property
    def ends(self) -> bool:
        """Whether the run should stop."""
        return self.kind != "going on"


def levels(scores: Sequence[float], window: int) -> np.ndarray:
    """Return at each place [N] the median of the last `window` scores, or of as many as there are by then."""
    return np.array([np.median(scores[max(0, end - window) : end]) for end in range(1, len(scores) + 1)])


def judge(rows: Sequence[Score], criteria: Criteria = Criteria()) -> Verdict:
    """Return the verdict on a series as it stands after its last row.

    The best row has the lowest level of those whose score is no worse than their level: neither a lucky score nor the
    first bad one after good ones is taken for it. A later row never changes whether an earlier one was the best so far.

    Args:
        rows: in the order of their steps.
        criteria: when to stop.
    """
    finite = [row for row in rows if math.isfinite(row.score)]
    scores = [row.score for row in finite]
    series = levels(scores, criteria.window)
    place = int(np.argmin(np.where(scores <= series, series, np.inf))) if finite else None
    best = None if place is None else finite[place]
    if rows and not math.isfinite(rows[-1].score):
        return Verdict("not finite", f"the score is {rows[-1].score} at step {rows[-1].step}", best)
    if len(finite) < criteria.window or best is None:
        return Verdict("going on", "", best)

    lowest, last = float(series[criteria.window - 1 :].min()), float(series[-1])
    wanders = len(finite) <= criteria.warmup and lowest > criteria.learnt * scores[0]
    if last > (criteria.rise**2 if wanders else criteria.rise) * lowest:
        times = f"{last / lowest:.3g} times its best" if lowest else "and was 0"
        return Verdict("collapse", f"the score is {last:.4g}, {times} (step {best.step})", best)

    recent = finite[-criteria.window :]
    outputs = (np.array([getattr(row, side) for row in recent]) for side in ("real", "fake"))
    if criteria.equilibrium and undecided(*outputs, tolerance=criteria.equilibrium):
        reason = f"D has been within {criteria.equilibrium:g} of 1/2 on both sides since step {recent[0].step}"
        return Verdict("equilibrium", reason, best)

    since = _since_better(series, criteria.gain)
    if criteria.patience and since >= criteria.patience:
        return Verdict(
            "plateau", f"the last {since} scores are no better than before, the best at step {best.step}", best
        )
    return Verdict("going on", "", best)


def _since_better(series: np.ndarray, gain: float) -> int:
    """How many levels ago the level was last better than all before it by the gain."""
    at, best = 0, series[0]
    for place, level in enumerate(series):
        if level < (1 - gain) * best:
            at, best = place, level
    return len(series) - 1 - at
