"""A profile: which operations of the program were traced, for how long, and how far that is from the ceilings."""

from types import SimpleNamespace

import jax
import pytest

from gan_jax.base import Continue, Hook
from gan_jax.training import loop, profiling
from gan_jax.training.profiling import Ceilings, Operation, Profile
from tests.training.toy import toy

PROGRAM = """
%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %t = f32[4]{0} tanh(%p), metadata={op_name="jit(advance)/layer/tanh"}
}

%body (s: f32[4]) -> f32[4] {
  %s = f32[4]{0} parameter(0)
  ROOT %named.1 = f32[4]{0} sort(%s), metadata={op_name="jit(advance)/a/b/c/sort" stack_frame_id=3}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %tanh_fusion = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %dot.2 = bf16[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={}
  ROOT %while.3 = f32[4]{0} while(%tanh_fusion), condition=%c, body=%body
}
"""


def event(name, nanoseconds, **stats):
    return SimpleNamespace(name=name, duration_ns=nanoseconds, stats=list(stats.items()))


def trace(**planes):
    return SimpleNamespace(
        planes=[
            SimpleNamespace(name=plane, lines=[SimpleNamespace(name=line, events=each) for line, each in lines.items()])
            for plane, lines in planes.items()
        ]
    )


def test_the_time_of_an_operation_is_that_of_all_its_events_on_the_first_device():
    mine, other = {"hlo_op": "dot.1", "hlo_module": "jit_advance"}, {"hlo_op": "dot.1", "hlo_module": "jit_sample"}
    host = {
        "one": [event("dot.1", 5, **mine, device_ordinal=0), event("end: dot.1", 1), event("dot.1", 1000, **other)],
        "two": [event("dot.1", 7, **mine), event("dot.1", 100, **mine, device_ordinal=1)],
    }
    tpu = {"XLA Ops": [event("%sort.2 = f32[3] sort(...)", 11)], "Steps": [event("1", 50)]}
    data = trace(**{"/host:CPU": host, "/device:TPU:0": tpu, "/device:TPU:1": tpu})
    assert profiling.durations(data, "jit_advance") == {"dot.1": 12, "sort.2": 11}


def test_operations_are_the_programs_and_containers_are_not_counted_beside_what_is_in_them():
    traced = {"tanh_fusion": 4e6, "named.1": 6e6, "while.3": 9e6, "dot.2": 2e6, "of another program": 1e9}
    assert profiling.operations(PROGRAM, traced, steps=2) == (
        Operation("named.1", "sort", "jit(advance)/a/b/c/sort", 3e-3),
        Operation("tanh_fusion", "fusion", "jit(advance)/layer/tanh", 2e-3),  # as the last of what is fused
        Operation("dot.2", "dot", "", 1e-3),
    )


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.02), ("bfloat16", 0.01)])
def test_the_roofline_is_what_the_slower_of_both_would_take(dtype, least):
    profile = Profile(10, 0.04, flops=2e9, bytes=1e8, dtype=dtype, operations=())
    assert profiling.roofline(profile, Ceilings({"float32": 1e11, "bfloat16": 4e11}, 1e10)) == pytest.approx(least)


def test_a_report_says_what_was_achieved_of_what_is_possible():
    rows = tuple(Operation(f"op.{n}", "dot", f"jit(advance)/jit(x)/p/q|r/{n}", 1e-3) for n in range(profiling.ROWS + 2))
    profile = Profile(10, 0.04, flops=2e9, bytes=1e8, dtype="float32", operations=rows)
    text = profiling.report(profile, Ceilings({"float32": 1e11}, 1e10))
    assert "takes 40 ms" in text
    assert "it would take 20 ms, 50% of that" in text
    assert "| operations, float32 | 2 GFLOP | 50 GFLOP | 100 GFLOP | 50% |" in text
    assert "| memory traffic | 0.1 GB | 2.5 GB | 10 GB | 25% |" in text
    assert "| op.0 | dot | 1 | 4.5% | p/q\\|r/0 |" in text
    assert text.splitlines()[-1] == "| 2 others | | 2 | 9.1% | |"


@pytest.mark.slow
def test_a_run_is_traced_once_it_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "SECONDS", 1e-9)  # so that as few chunks as may be are traced
    program, key = toy(chunk=2), jax.random.key(0)
    with profiling.Tracer(tmp_path) as tracer:
        result = loop.train(program, key, steps=30, hooks=tracer.around(()))
    assert tracer.steps == 2 * profiling.FEWEST
    profile = profiling.profile(tracer, program, key, result.state, 2)
    assert profile.steps == tracer.steps
    assert profile.seconds == pytest.approx(tracer.seconds / tracer.steps)
    assert profile.flops > 0
    assert profile.bytes > 0
    times = [operation.seconds for operation in profile.operations]
    assert times == sorted(times, reverse=True)
    assert times[-1] > 0
    found = profiling.ceilings(64, repeats=2)
    assert all(value > 0 for value in (*found.flops.values(), found.bandwidth))
    text = profiling.write(profile, found, tmp_path)
    assert (tmp_path / "report.md").read_text() == text + "\n"


def test_what_other_hooks_do_is_not_the_time_of_a_step(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(profiling, "SECONDS", 8.0)

    def passing(seconds):
        def run(step, state, metrics):
            clock.now += seconds
            return Continue()

        return Hook(1, run)

    with profiling.Tracer(tmp_path) as tracer:
        # A chunk takes two seconds: its time passes before the first hook of the tracer's is called.
        hooks = [passing(2.0), *tracer.around([passing(60.0)])]
        loop.train(toy(chunk=3), jax.random.key(0), steps=60, hooks=hooks)
    assert (tracer.steps, tracer.seconds) == (12, 8.0)


@pytest.mark.slow
def test_a_run_that_is_over_first_leaves_no_trace_running(tmp_path):
    for _ in range(2):  # a second trace could not begin while the first went on
        with profiling.Tracer(tmp_path) as tracer:
            loop.train(toy(), jax.random.key(0), steps=4, hooks=tracer.around(()))
        assert tracer.steps == 0
