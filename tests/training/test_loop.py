"""The loop: the same run from the same key, hooks when they are due, nothing else between chunks."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Batches, Continue, Hook, Program, Stop
from gan_jax.training import loop
from gan_jax.training.loop import Result, abstract, compile_chunk, finite, init, interruption, train
from tests.training.toy import same, toy

KEY = jax.random.key(3)


def collect(every: int = 1) -> tuple[Hook, list]:
    """A hook that keeps (step, metrics) of each call."""
    seen = []

    def run(step, state, metrics):
        seen.append((step, jax.device_get(metrics)))
        return Continue()

    return Hook(every, run), seen


def counter() -> Program:
    """A program whose compilation costs next to nothing: its metric is the step it was told."""
    return Program(
        init=lambda key: jnp.zeros((), jnp.int32),
        step=lambda key, state, batch: (state + 1, {"step": batch["step"]}),
        batches=Batches({}, lambda arrays, key, step: {"step": step}),
        observe=lambda key, state: {},
    )


COUNTER, TOY = counter(), toy()


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """COUNTER and TOY are compiled once per chunk length for the whole file: compiling is most of its time."""
    remembered = {id(program): functools.cache(functools.partial(compile_chunk, program)) for program in (COUNTER, TOY)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop,
            "compile_chunk",
            lambda program, length: (remembered.get(id(program)) or functools.partial(compile_chunk, program))(length),
        )
        yield


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4])
def test_the_same_key_gives_the_same_run_and_another_key_another(chunk):
    first, second = (train(TOY, jax.random.key(0), steps=9, chunk=chunk) for _ in range(2))
    other = train(TOY, jax.random.key(1), steps=9, chunk=chunk)
    assert first.step == 9 and first.stop is None
    assert same(first.state, second.state)
    assert not same(first.state, other.state)


@pytest.mark.parametrize(("chunk", "half"), [(1, 5), (3, 6), (4, 4)])
def test_stopping_and_resuming_equals_never_stopping(chunk, half):
    whole_hook, whole = collect()
    halves_hook, halves = collect()
    straight = train(TOY, KEY, chunk=chunk, steps=11, hooks=[whole_hook])
    first = train(TOY, KEY, chunk=chunk, steps=half, hooks=[halves_hook])
    second = train(TOY, KEY, chunk=chunk, steps=11, start=(first.step, first.state), hooks=[halves_hook])
    assert same(straight.state, second.state)
    assert whole == halves


def test_a_stopped_run_resumes_as_if_it_had_not_stopped():
    def stopper(step, state, metrics):
        return Stop("enough", 75) if step == 6 else Continue()

    straight = train(TOY, KEY, chunk=3, steps=11)
    first = train(TOY, KEY, chunk=3, steps=11, hooks=[Hook(1, stopper)])
    assert (first.step, first.stop) == (6, Stop("enough", 75))
    assert same(straight.state, train(TOY, KEY, chunk=3, steps=11, start=(first.step, first.state)).state)


def test_each_step_is_told_its_number_and_no_two_share_a_draw_or_a_key():
    hook, seen = collect()
    train(COUNTER, KEY, steps=7, chunk=1, hooks=[hook])
    assert [(step, int(metrics["step"])) for step, metrics in seen] == [(i + 1, i) for i in range(7)]
    hook, seen = collect()
    train(TOY, KEY, steps=7, hooks=[hook])
    for name in ("toy/draw", "toy/noise"):
        assert len({float(metrics[name]) for _, metrics in seen}) == 7


@pytest.mark.slow
def test_a_step_sees_the_root_key_split_once_and_folded_with_its_number():
    init_key, step_key, data_key = jax.random.split(KEY, 3)
    program = TOY
    state = jax.jit(program.init)(init_key)
    for i in range(3):

        @jax.jit
        def step(state, i=i):
            batch = program.batches.draw(program.batches.arrays, data_key, i)
            return program.step(jax.random.fold_in(step_key, i), state, batch)[0]

        state = step(state)
    ours = train(program, KEY, steps=3).state
    np.testing.assert_allclose(ours.params["a"], state.params["a"], rtol=1e-6)
    np.testing.assert_allclose(ours.average["a"], state.average["a"], rtol=1e-6)


@pytest.mark.parametrize(("chunk", "steps", "lengths"), [(1, 6, {1}), (4, 12, {4}), (5, 12, {5, 2}), (20, 12, {12})])
def test_traced_once_per_chunk_length(chunk, steps, lengths):
    traces = []
    train(toy(traced=lambda: traces.append(None)), KEY, steps=steps, chunk=chunk)
    assert len(traces) == len(lengths)


@pytest.mark.parametrize("committed", ["nothing", "state", "arrays"])
def test_compiled_once_wherever_the_arguments_lie(committed, caplog):
    """A restored state is committed to its device, a fresh one is not: a jitted function tells them apart."""
    program = toy()
    state = init(program, KEY)
    if committed == "state":
        state = jax.device_put(state, jax.devices()[0])
    if committed == "arrays":
        arrays = jax.device_put(program.batches.arrays, jax.devices()[0])
        program = program._replace(batches=program.batches._replace(arrays=arrays))
    with jax.log_compiles():
        train(program, KEY, steps=4, start=(0, state))
    assert sum("Finished XLA compilation of jit(advance)" in record.message for record in caplog.records) == 1


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4])
def test_members_of_one_program_do_what_each_would_do_alone(chunk):
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = train(toy(), keys, steps=6, chunk=chunk)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), together.state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract(toy(), keys)
    )
    for member, key in enumerate(keys):
        alone = train(toy(), key, steps=6, chunk=chunk).state
        mine = jax.tree.map(lambda leaf, member=member: leaf[member], together.state)
        assert jnp.array_equal(jax.random.key_data(mine.key), jax.random.key_data(alone.key))
        for a, b in zip(*map(jax.tree.leaves, (mine._replace(key=0), alone._replace(key=0))), strict=True):
            np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=1e-5, atol=1e-6)


def test_weak_types_do_not_survive_initialisation():
    state = init(toy(), KEY)
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(state))
    shapes = abstract(toy(), KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)


@pytest.mark.parametrize("length", [1, 3])
def test_the_state_is_donated_and_the_arrays_and_the_key_are_not(length):
    program = toy()
    state = init(program, KEY)
    step = jax.device_put(np.int32(0))
    _, after, _ = compile_chunk(program, length)(KEY, state, program.batches.arrays, step)
    assert int(after) == length
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state) if leaf.size)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((KEY, program.batches.arrays)))


@pytest.mark.parametrize("length", [1, 3])
def test_the_compiled_chunk_never_talks_to_the_host(length):
    program = toy()
    state = init(program, KEY)
    chunk = compile_chunk(program, length)
    text = chunk.lower(KEY, state, program.batches.arrays, jnp.int32(0)).compile().as_text()
    for word in ("callback", "infeed", "outfeed", "recv", "send"):
        assert word not in text.lower()
    jaxpr = str(jax.make_jaxpr(chunk)(KEY, state, program.batches.arrays, jnp.int32(0)))
    assert ("scan[" in jaxpr) == (length > 1)  # a single step is a plain step


def test_no_transfer_is_implicit_between_chunks():
    program = toy(chunk=2)
    state = init(program, KEY)
    with jax.transfer_guard("disallow"):
        result = train(program, KEY, steps=6, start=(0, state), hooks=[Hook(1, lambda *_: Continue())])
    assert result.step == 6


def test_nothing_is_fetched_unless_a_hook_fetches(monkeypatch):
    monkeypatch.setattr(jax, "block_until_ready", None)
    monkeypatch.setattr(jax, "device_get", None)
    assert train(COUNTER, KEY, steps=3).step == 3


@given(
    steps=st.integers(1, 40),
    chunk=st.sampled_from([1, 2, 5, 8]),
    everies=st.lists(st.integers(1, 20), max_size=3),
    begin=st.integers(0, 12),
)
def test_hooks_run_at_the_first_boundary_at_or_past_each_multiple_and_at_the_end(steps, chunk, everies, begin):
    calls = []

    def hook(name, every):
        return Hook(every, lambda step, state, metrics: calls.append((step, name)) or Continue())

    start = (begin, jnp.full((), begin, jnp.int32))
    result = train(
        COUNTER, KEY, steps=steps, chunk=chunk, start=start, hooks=[hook(i, n) for i, n in enumerate(everies)]
    )

    boundaries = [n for n in range(begin + 1, steps + 1) if n % chunk == 0 or n == steps]
    expected = set()
    for name, every in enumerate(everies):
        for multiple in range(every, steps + 1, every):
            if multiple > begin:
                expected.add((min(b for b in boundaries if b >= multiple), name))
        if boundaries:
            expected.add((steps, name))
    assert calls == sorted(expected)
    assert result.step == max(begin, steps)
    assert int(result.state) == result.step


@given(steps=st.integers(1, 30), chunk=st.sampled_from([1, 2, 5, 8]))
def test_metrics_are_the_means_over_the_chunk(steps, chunk):
    hook, seen = collect()
    train(COUNTER, KEY, steps=steps, chunk=chunk, hooks=[hook])
    before = 0
    for step, metrics in seen:
        np.testing.assert_allclose(metrics["step"], np.mean(range(before, step)), rtol=1e-6)
        before = step
    assert before == steps


def test_the_first_stop_counts_and_the_others_still_run():
    hook, seen = collect(2)
    stops = [Hook(2, lambda *_: Stop("one", 3)), Hook(1, lambda *_: Continue()), Hook(2, lambda *_: Stop("two", 75))]
    result = train(COUNTER, KEY, steps=8, hooks=[*stops, hook])
    assert (result.step, result.stop) == (2, Stop("one", 3))
    assert [step for step, _ in seen] == [2]


def test_a_run_that_is_done_returns_at_once():
    hook, seen = collect()
    state = jnp.int32(5)
    assert train(COUNTER, KEY, steps=5, start=(7, state), hooks=[hook]) == Result(7, state, None)
    assert train(COUNTER, KEY, steps=0, hooks=[hook]).step == 0
    assert not seen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chunk": 0}, "chunk of 0"),
        ({"steps": -1}, "-1 steps"),
        ({"hooks": [Hook(0, lambda *_: Continue())]}, "every 0"),
    ],
)
def test_nonsense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        train(COUNTER, KEY, **({"steps": 4} | wrong))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_with_code_75_and_the_handlers_come_back(number):
    before = signal.getsignal(number)

    def strike(step, state, metrics):
        if step == 2:
            os.kill(os.getpid(), number)
        return Continue()

    with interruption() as hook:
        result = train(COUNTER, KEY, steps=9, hooks=[Hook(1, strike), hook])
    assert (result.step, result.stop) == (2, Stop(f"interrupted by {number.name}", 75))
    assert signal.getsignal(number) is before


def test_a_second_signal_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruption():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_stops_the_run_with_code_3(bad):
    program = counter()._replace(
        step=lambda key, state, batch: (state + 1, {"fine": state, "critic/loss": jnp.where(state < 4, 0.0, bad)})
    )
    result = train(program, KEY, steps=9, hooks=[finite(every=2)])
    assert result.step == 6
    assert result.stop == Stop(f"critic/loss is {bad} at step 6", 3)
    assert train(program, KEY, steps=4, hooks=[finite(every=2)]).stop is None
