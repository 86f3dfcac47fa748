"""A run watched as it goes: scores, the best checkpoint marked, alarms, and the end that they bring.

What is written, in a run's directory

- scores.jsonl: a row for each score: the numbers, and the seconds that they took
- best.json: the step of the best checkpoint, which is kept
- alarms.jsonl: a row for each alarm: why, what to try, and where the run was rolled back to
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.base import Continue, Hook, Key, Metrics, Program, State, Stop
from gan_jax.diagnostics import termination
from gan_jax.diagnostics.termination import ALARMS, Criteria, Score, Verdict
from gan_jax.training import records, runs
from gan_jax.training.checkpoints import Checkpoints

SCORES, ALARM_ROWS = "scores.jsonl", "alarms.jsonl"
OUTPUTS = ("discriminator/real", "discriminator/fake")  # the means of D(x) and D(G(z)), as games name them


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file. A line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def series(recorded: Sequence[Mapping[str, Any]]) -> list[Score]:
    """Return the recorded rows of scores.jsonl as what a verdict is made of; what is null or not there is NaN."""

    def number(value: float | None) -> float:
        return np.nan if value is None else value

    return [Score(row["step"], *(number(row.get(name)) for name in ("score", *OUTPUTS))) for row in recorded]


class Watch:
    """The scores of a run, and what follows from them.

    start: where it begins; rows of later steps, left by a run that was killed, are dropped first.
    key: all scores are taken with the same numbers, so that they compare.
    """

    def __init__(
        self,
        directory: Path,
        program: Program,
        key: Key,
        checkpoints: Checkpoints,
        *,
        start: int = 0,
        criteria: Criteria = Criteria(),  # noqa: B008  # frozen
    ):
        self._directory, self._program, self._key = directory, program, key
        self._checkpoints, self._criteria = checkpoints, criteria
        self._last, self._seconds = start, 0.0
        records.cut(directory / SCORES, start)
        self._series = series(rows(directory / SCORES))
        if (best := self.verdict.best) is not None:
            checkpoints.mark(best.step)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the scores so far."""
        return termination.judge(self._series, self._criteria)

    @property
    def seconds(self) -> float:
        """What scoring has cost since the start, its compilation included."""
        return self._seconds

    def hook(self, every: int) -> Hook:
        """Score every so many steps; keep the best checkpoint; stop with code 0 at an end, with 3 at an alarm.

        ValueError: the program has no score.
        """
        if self._program.score is None:
            raise ValueError("the program has no score: watch one that has")
        score: Callable[[Key, State], Mapping[str, float]] = self._program.score

        def run(step: int, state: State, metrics: Metrics) -> Continue | Stop:
            before, self._last = self._last, step
            if step // every == before // every:  # called after the last step too, which ends no interval
                return Continue()
            began = time.monotonic()
            taken = {name: float(value) for name, value in score(self._key, state).items()}
            means = jax.device_get({name: metrics[name] for name in OUTPUTS if name in metrics})
            seconds = time.monotonic() - began
            self._seconds += seconds
            name = next(iter(taken))
            row = {"step": step, "time": time.time(), "seconds": round(seconds, 3), "name": name, "score": taken[name]}
            row |= taken | {name: float(value) for name, value in means.items()}
            records.append(self._directory / SCORES, row)
            self._series += series([row])

            verdict = self.verdict
            if verdict.best is not None and verdict.best.step == step and self._checkpoints.save(step, state):
                self._checkpoints.mark(step)
                runs.write_json(self._directory / "best.json", {"step": step, "name": name, "score": taken[name]})
            return Stop(f"{verdict.kind}: {verdict.reason}", 3 if verdict.alarm else 0) if verdict.ends else Continue()

        return Hook(every, run)

    def roll_back(self, step: int, reason: str) -> int | None:
        """Return to the best checkpoint, or to the last finite one if none was scored, and write the alarm down.

        step: at which the run was ended. reason: why, as the hook's Stop has it.
        Returns the step of that checkpoint, which is the newest from now on; None if nothing was saved.
        """
        good, best = self._checkpoints.good, self.verdict.best
        back = best.step if best is not None and best.step in good else good[-1] if good else None
        if back is not None:
            self._checkpoints.roll_back(back)
        kind = self.verdict.kind if self.verdict.alarm else "not finite"
        alarm = {
            "step": step,
            "time": time.time(),
            "kind": kind,
            "reason": reason,
            "try": ALARMS[kind],
            "back_to": back,
        }
        records.append(self._directory / ALARM_ROWS, alarm)
        return back
