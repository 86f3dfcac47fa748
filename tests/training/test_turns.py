"""Turns: each takes as many steps as asked, one after another, and what they are compared by is what it is called."""

import sys
import types

import jax
import pytest

from gan_jax.training import turns
from gan_jax.training.turns import Runner
from tests.training.toy import toy

ANSWERS = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    print(int(line) / 8, flush=True)
"""


@pytest.fixture
def script(tmp_path):
    def written(text):
        path = tmp_path / "peer.py"
        path.write_text(text)
        return path

    return written


def test_all_take_a_turn_in_each_round_of_about_as_long():
    order = []

    def runner(name, unit, pace):
        return Runner(unit, lambda steps: order.append((name, steps)) or steps / pace)

    found = turns.rates({"slow": runner("slow", 2, 10.0), "fast": runner("fast", 5, 80.0)}, rounds=3, seconds=1.0)
    # To judge by, as many as take a tenth of a turn.
    assert order == [("slow", 2), ("fast", 5), ("fast", 10)] + 3 * [("slow", 10), ("fast", 80)]
    assert found == {"slow": [10.0] * 3, "fast": [80.0] * 3}


def test_one_that_is_slower_than_a_turn_takes_one_unit():
    found = turns.rates({"slow": Runner(4, lambda steps: 100.0 * steps)}, rounds=2, seconds=1.0)
    assert found == {"slow": [0.01, 0.01]}


def test_the_ratio_is_that_of_medians_and_its_spread_that_of_turns():
    ratio = turns.ratio([2.0, 4.0, 6.0], [1.0, 1.0, 2.0])
    assert (ratio.median, ratio.low, ratio.high) == (4.0, 2.5, 3.5)  # turn by turn 2, 4 and 3
    assert str(ratio) == "4 (2.5 to 3.5)"


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_a_program_takes_the_steps_that_are_asked_for(chunk):
    taken = []
    program = toy()

    def step(key, state, batch):
        jax.debug.callback(lambda: taken.append(1))
        return program.step(key, state, batch)

    runner = turns.compiled(program._replace(step=step), chunk)
    assert runner.unit == (chunk or program.chunk)
    jax.effects_barrier()
    assert len(taken) == runner.unit  # it has been run once, which compiles
    assert runner.run(4 * runner.unit) > 0
    jax.effects_barrier()
    assert len(taken) == 5 * runner.unit


def test_a_peer_answers_with_its_seconds(script):
    with turns.peer(sys.executable, script(ANSWERS)) as runner:
        assert (runner.unit, runner.run(16), runner.run(4)) == (1, 2.0, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", r"cannot run peer.py dcgan: ModuleNotFoundError.*nothing_of_this_name"),
        ("", "cannot run peer.py dcgan: no word of why"),
        ("print('hello')", "peer.py dcgan says 'hello' where it should say 'ready'"),
        ("print('ready', flush=True); input(); 1 / 0", "cannot run peer.py dcgan: ZeroDivisionError"),
    ],
)
def test_a_peer_that_cannot_run_says_why(script, text, message):
    with pytest.raises(ValueError, match=message), turns.peer(sys.executable, script(text), "dcgan"):
        pass


def test_a_peer_that_dies_between_turns_says_why(script):
    mortal = ANSWERS + "    if int(line) == 5: 1 / 0\n"
    with (
        pytest.raises(ValueError, match="cannot run peer.py : ZeroDivisionError"),
        turns.peer(sys.executable, script(mortal)) as runner,
    ):
        assert runner.run(5) == 0.625
        while True:  # it is gone, now or soon
            runner.run(1)


def test_a_peer_may_complain_as_much_as_it_likes(script):
    loud = ANSWERS.replace("import sys", "import sys; sys.stderr.write('x' * 200_000 + chr(10))")
    with turns.peer(sys.executable, script(loud)) as runner:
        assert runner.run(16) == 2.0


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, 600.0), (1, float("nan"))])
def test_turns_are_counted_and_take_time(rounds, seconds):
    turns.require_pace(1, 599.0)
    with pytest.raises(ValueError, match=f"{rounds} rounds of {seconds} s: give 1 or more"):
        turns.require_pace(rounds, seconds)


def test_peers_need_an_interpreter(monkeypatch, tmp_path):
    monkeypatch.delenv(turns.PEERS, raising=False)
    assert turns.interpreter(()) is None
    with pytest.raises(ValueError, match="GAN_JAX_PEERS is not set: name a Python that has the libraries of a, b"):
        turns.interpreter(("a", "b"))
    monkeypatch.setenv(turns.PEERS, str(tmp_path / "python"))
    with pytest.raises(ValueError, match="there is no such file"):
        turns.interpreter(("a",))
    monkeypatch.setenv(turns.PEERS, sys.executable)
    assert turns.interpreter(("a",)) == sys.executable


def test_a_machine_is_its_processor_and_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(turns, "Path", lambda _: types.SimpleNamespace(read_text=lambda: "a: b\nmodel name\t: Z80 \n"))
    monkeypatch.setattr(turns.os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert turns.machine() == "Z80, 3 cores"
    gpu = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")
    monkeypatch.setattr(jax, "devices", lambda: [gpu, gpu])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert turns.machine() == "2 x NVIDIA H100"
