"""A trained controller at the wheel of a training that it was not trained on.

What it watches is shown to it while a program trains, and the dials that it turns are the program's hyperparameters. It
acts inside of the compiled step, so a run that is controlled is resumed exactly, as any other. A dial that the program
lacks, or whose number lies beyond its bounds, is held: the controller sees it where its own episodes began.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Hyper, Key, Metrics, Program, State, Tunable
from gan_jax.diagnostics.gradients import gradients
from gan_jax.divergences.integral import energy_kernel, maximum_mean_discrepancy
from gan_jax.fewshot import scales
from gan_jax.meta import control
from gan_jax.meta.control import Controller
from gan_jax.meta.environments import Seen

_MOST = 256  # examples that score: all pairs of a large batch would be more work than a step
_OWN = 2**32 - 1  # folded into the key of a step, for what the step itself does not draw


class Steered(NamedTuple):
    """Where a controlled training stands.

    trained: the program's own state. memory: the agent's. numbers: on the controller's dials. action: the last one.
    totals: of the metrics that are watched, over the steps since then. score, first: the last and the first.
    clipped: how many turns of a dial were beyond its bound, int32. steps: done, int32.
    """

    trained: State
    memory: Any
    numbers: Float[Array, " heads"]
    action: Int[Array, " heads"]
    totals: Metrics
    score: Float[Array, ""]
    first: Float[Array, ""]
    clipped: Int[Array, ""]
    steps: Int[Array, ""]


def held(controller: Controller, hyper: Hyper) -> Mapping[str, str]:
    """Return why each of the controller's dials that cannot be turned here is held, by its name."""
    here, why = _named(hyper), {}
    for name, dial in zip(controller.panel.names, controller.panel.dials, strict=True):
        if name not in here:
            why[name] = "there is no such number"
        elif not dial.low <= float(here[name]) <= dial.high:
            why[name] = f"{float(here[name]):g} is not in [{dial.low:g}, {dial.high:g}]"
    return why


def steered(program: Program, controller: Controller, *, every: int) -> Program:
    """Return the program whose hyperparameters a controller turns, before the first step and each `every` steps after.

    What it sees is what `control.control` shows it. The score is the energy distance between a batch, of which it takes
    256 at most, and as many samples of the generator as it stands, always of the same latents, images at three scales.
    It is the biased estimate, as the logarithm of one that scatters around 0 would be noise; near convergence it hence
    shows less of a fall than a controller that was trained on more points has seen. The whole run is one episode, the
    first of a trial. Where it is longer than `horizon` times `every` steps, it is shown as one at its end.

    Of members each one's score is computed in every step, as a vmapped condition computes both sides. Rows of metrics
    have the numbers besides, as "control/<name>", and how many turns so far were beyond a bound, "control/clipped".

    Args:
        program: with `tunable` hyperparameters.
        controller: as `Study.controller` gives it.
        every: steps between actions, 1 or more.

    Raises:
        ValueError: the program has no hyperparameters, none of the controller's dials can be turned, or it watches
            what this program does not measure.
    """
    require_counts(every=every)
    tunable, panel = program.tunable, controller.panel
    if tunable is None:
        raise ValueError("there is nothing for a controller to turn: the program has no hyperparameters")
    stays = held(controller, tunable.hyper)
    if len(stays) == len(panel.names):
        reasons = ", ".join(f"{name}: {reason}" for name, reason in stays.items())
        raise ValueError(f"the controller can turn no dial here: {reasons}")
    probed = _probed(program, tunable, controller.watch)
    turning = jnp.array([name not in stays for name in panel.names])
    here = _named(tunable.hyper)
    first_numbers = jnp.where(
        turning,
        jnp.array([float(here[name]) if name not in stays else 0.0 for name in panel.names]),
        control.numbers(panel),
    )

    def hyper(numbers: Array) -> Hyper:
        named = {name: number for name, number in zip(panel.names, numbers, strict=True) if name not in stays}
        return jax.tree_util.tree_map_with_path(
            lambda path, value: named.get(control.dotted(path), value), tunable.hyper
        )

    def init(key: Key) -> Steered:
        return Steered(
            trained=program.init(key),
            memory=controller.agent.init(),
            numbers=first_numbers,
            action=jnp.full(len(panel.names), -1, jnp.int32),
            totals={name: jnp.zeros(()) for name in controller.watch},
            score=jnp.ones(()),
            first=jnp.ones(()),
            clipped=jnp.int32(0),
            steps=jnp.int32(0),
        )

    def act(key: Key, state: Steered, batch: Batch) -> Steered:
        agent_key, probe_key = jax.random.split(jax.random.fold_in(key, _OWN))
        now, one = hyper(state.numbers), jax.tree.map(lambda leaf: leaf[0], batch)
        metrics = {name: total / every for name, total in state.totals.items()}
        if probed:
            game, point = tunable.game(now, state.trained)
            found = gradients(game, probe_key, point, one)
            metrics |= {name: found[name] for name in probed}
        score = _score(tunable, state.trained, one)
        first = jnp.where(state.steps == 0, jnp.maximum(score, jnp.finfo(score.dtype).tiny), state.first)
        score = jnp.clip(score, first * jnp.exp(-controller.span), first * jnp.exp(controller.span))
        reward = jnp.where(state.steps == 0, 0.0, jnp.log(state.score) - jnp.log(score))
        count = state.steps // every
        progress = jnp.minimum(count / controller.horizon, 1.0)
        change = jnp.log(score / first) / controller.span
        observation = control.observation(panel, controller.watch, metrics, state.numbers, change, progress)
        flagged = jnp.append(observation, 0.0)  # no episode has ended before this one
        memory, action = controller.agent.act(agent_key, state.memory, Seen(flagged, state.action, reward, count))
        turned, beyond = control.turned(panel, state.numbers, action)
        return state._replace(
            memory=memory,
            numbers=jnp.where(turning, turned, state.numbers),
            action=action,
            totals=jax.tree.map(jnp.zeros_like, state.totals),
            score=score,
            first=first,
            clipped=state.clipped + jnp.sum(beyond & turning, dtype=jnp.int32),
        )

    def step(key: Key, state: Steered, batch: Batch) -> tuple[Steered, Metrics]:
        state = lax.cond(state.steps % every == 0, act, lambda key, state, batch: state, key, state, batch)
        trained, metrics = tunable.step(hyper(state.numbers), key, state.trained, batch)
        totals = {name: total + metrics[name] if name in metrics else total for name, total in state.totals.items()}
        shown = {f"control/{name}": state.numbers[i] for i, name in enumerate(panel.names) if name not in stays}
        shown["control/clipped"] = state.clipped.astype(float)
        return state._replace(trained=trained, totals=totals, steps=state.steps + 1), {**metrics, **shown}

    def inside(look: Callable[..., Any] | None) -> Any:
        return look and (lambda key, state, *rest, **options: look(key, state.trained, *rest, **options))

    return program._replace(
        init=init,
        step=step,
        observe=inside(program.observe),
        sample=inside(program.sample),
        measure=inside(program.measure),
        score=inside(program.score),
        game=lambda state: tunable.game(hyper(state.numbers), state.trained),
        tunable=None,
    )


def _named(hyper: Hyper) -> Mapping[str, Any]:
    """Return the hyperparameters that are one number by their names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(hyper)
    return {control.dotted(path): value for path, value in leaves if jnp.ndim(value) == 0}


def _probed(program: Program, tunable: Tunable, watch: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which of the watched metrics are of the gradients, and so not of a step. ValueError: one is of neither."""
    key = jax.random.key(0)
    state, batch = jax.eval_shape(
        lambda arrays: (program.init(key), program.batches.draw(arrays, key, jnp.int32(0))), program.batches.arrays
    )
    of_steps = jax.eval_shape(lambda *given: tunable.step(tunable.hyper, key, *given)[1], state, batch)
    lacking = tuple(name for name in watch if name not in of_steps)
    if not lacking:
        return ()

    def probe(state: State, batch: Batch) -> Metrics:
        game, point = tunable.game(tunable.hyper, state)
        return gradients(game, key, point, jax.tree.map(lambda leaf: leaf[0], batch))

    unknown = sorted(set(lacking) - jax.eval_shape(probe, state, batch).keys())
    if unknown:
        raise ValueError(f"the controller was trained for other observations: it needs {', '.join(unknown)}")
    return lacking


def _score(tunable: Tunable, state: State, batch: Batch) -> Array:
    """Return the energy distance between a batch and as many samples; not the unbiased one, which may be negative."""
    real = (batch["image"] if "image" in batch else batch["x"])[:_MOST]
    fake = tunable.sample(jax.random.key(_OWN), state, len(real))
    fake, real = (scales(x) if x.ndim == 4 else x.reshape(len(x), -1) for x in (fake, real))
    return maximum_mean_discrepancy(fake, real, energy_kernel(), unbiased=False)
