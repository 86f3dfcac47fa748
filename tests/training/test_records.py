"""Records: one row for each logged step, whatever happened to the run before."""

import io
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Hook
from gan_jax.training import records
from gan_jax.training.loop import train
from gan_jax.training.records import Records, duration, headline, pictures
from tests.training.toy import toy

GAME = {"generator/loss": 0.6931, "discriminator/loss": 1.3863, "discriminator/real": 0.5, "discriminator/fake": 0.25}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    clock = types.SimpleNamespace(now=100.0)
    clock.monotonic = clock.time = lambda: clock.now
    monkeypatch.setattr(records, "time", clock)
    return clock


def rows(directory):
    def strict(word):
        raise AssertionError(f"{word} is not JSON")

    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=strict) for line in lines]


def drive(hook: Hook, clock, seconds, steps, metrics=GAME, chunk=1, start=0):
    """Call a hook as the loop does, each chunk taking so many seconds."""
    for step in range(start + chunk, steps + 1, chunk):
        clock.now += seconds
        hook.run(step, None, {name: jnp.float32(value) for name, value in metrics.items()})


def test_a_row_for_each_multiple_and_the_end(tmp_path, clock):
    with Records(tmp_path, steps=10, images_per_step=32, stream=io.StringIO()) as kept:
        drive(kept.hook(4), clock, 2.0, 10)
    assert [row["step"] for row in rows(tmp_path)] == [4, 8, 10]
    assert [row["time"] for row in rows(tmp_path)] == [108, 116, 120]
    for row in rows(tmp_path):
        assert list(row) == ["step", "time", "images_per_second", *sorted(GAME)]
        assert row["images_per_second"] == 16
        assert row["generator/loss"] == pytest.approx(0.6931)


def test_the_first_chunk_does_not_count_in_the_rate(tmp_path, clock):
    with Records(tmp_path, steps=6, images_per_step=10, stream=io.StringIO()) as kept:
        hook = kept.hook(3)
        drive(hook, clock, 60.0, 1)  # compiling
        drive(hook, clock, 0.5, 6, start=1)
    assert [row["images_per_second"] for row in rows(tmp_path)] == [20, 20]


def test_a_rate_that_was_not_measured_is_null(tmp_path, clock):
    with Records(tmp_path, steps=4, images_per_step=10, stream=io.StringIO()) as kept:
        drive(kept.hook(4), clock, 1.0, 4, chunk=4)
    assert [row["images_per_second"] for row in rows(tmp_path)] == [None]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_are_strict_json(tmp_path, clock, bad):
    with Records(tmp_path, steps=1, images_per_step=1, stream=io.StringIO()) as kept:
        drive(kept.hook(1), clock, 1.0, 1, {"loss": bad, "fine": 1.0})
    assert [(row["loss"], row["fine"]) for row in rows(tmp_path)] == [(None, 1.0)]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path, clock):
    with Records(tmp_path, steps=8, images_per_step=1, stream=io.StringIO()) as kept:
        drive(kept.hook(1), clock, 1.0, 8)
    with Records(tmp_path, steps=8, start=5, images_per_step=1, stream=io.StringIO()) as kept:
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
        drive(kept.hook(1), clock, 1.0, 8, start=5)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 9))
    assert [row["time"] for row in rows(tmp_path)] == [*range(101, 106), *range(109, 112)]
    assert not list(tmp_path.glob(".*"))


def test_a_torn_last_line_is_dropped_and_no_other(tmp_path):
    *before, last = [json.dumps({"step": step, "time": 0.5, "loss": 1.25}) + "\n" for step in range(1, 5)]
    for length in range(len(last) + 1):
        (tmp_path / "metrics.jsonl").write_text("".join(before) + last[:length])
        with Records(tmp_path, steps=9, start=9, images_per_step=1, stream=io.StringIO()):
            pass
        whole = [*before, last] if length == len(last) else before
        assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole)


def test_metrics_are_fetched_at_once_and_only_when_needed(tmp_path, clock, monkeypatch):
    fetched = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or device_get(tree))
    with Records(tmp_path, steps=9, images_per_step=1, interval=1e9, stream=io.StringIO()) as kept:
        drive(kept.hook(4), clock, 1.0, 9)
    assert [len(tree) for tree in fetched] == [len(GAME)] * 4  # after the first chunk, at 4, at 8, at the end


def test_one_line_for_each_interval_the_first_and_the_last_always(tmp_path, clock):
    stream = io.StringIO()
    with Records(tmp_path, steps=12, images_per_step=100, interval=5, stream=stream) as kept:
        drive(kept.hook(100), clock, 2.0, 12)
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == [
        f"step {step}/12" for step in (1, 4, 7, 10, 12)
    ]


def test_a_line_says_the_rate_since_the_line_before_and_the_last_one_that_of_the_run(tmp_path, clock):
    stream = io.StringIO()
    with Records(tmp_path, steps=9, images_per_step=100, interval=5, stream=stream) as kept:
        hook = kept.hook(3)
        for step, now in enumerate((101, 102, 103, 108, 109, 110, 118, 119, 121), 1):  # a row takes time to write
            clock.now = now
            hook.run(step, None, {"loss": jnp.float32(1)})
    assert [line.split("  ")[:2] for line in stream.getvalue().splitlines()] == [
        ["step 1/9", "loss 1"],
        ["step 4/9", "43 images/s"],  # three steps in seven seconds
        ["step 7/9", "30 images/s"],  # three in ten
        ["step 9/9", "40 images/s"],  # eight in twenty
    ]


def test_a_line_says_where_the_game_stands(tmp_path, clock):
    stream = io.StringIO()
    with Records(tmp_path, steps=1200, images_per_step=617, stream=stream) as kept:
        hook = kept.hook(400)
        drive(hook, clock, 1.0, 200, chunk=200)
        drive(hook, clock, 100.0, 400, chunk=200, start=200)
    assert stream.getvalue().splitlines() == [
        "step 200/1200  G 0.693  D 1.386  D(x) 0.50  D(G(z)) 0.25",
        "step 400/1200  1,234 images/s  G 0.693  D 1.386  D(x) 0.50  D(G(z)) 0.25  eta 6m40s",
    ]


def test_another_program_shows_its_first_metrics():
    assert headline({"a/x": 1.0, "a/y": 23456.7, "b": -0.125, "c": 1e-9, "d": 5.0}) == (
        "a/x 1  a/y 2.346e+04  b -0.125  c 1e-09"
    )
    assert headline({}) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (360000, "100h00m")],
)
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words


def test_a_terminal_gets_a_bar(tmp_path, clock):
    stream = Terminal()
    with Records(tmp_path, steps=2, images_per_step=10, stream=stream) as kept:
        drive(kept.hook(1), clock, 1.0, 2, {"a[b]": 1.5})
    assert "2/2" in stream.getvalue() and "10 images/s" in stream.getvalue() and "a[b] 1.5" in stream.getvalue()


def test_tensorboard_gets_every_logged_metric_and_forgets_what_was_dropped(tmp_path, clock):
    with Records(tmp_path, steps=3, images_per_step=1, stream=io.StringIO()) as kept:
        drive(kept.hook(1), clock, 1.0, 3)
    with Records(tmp_path, steps=3, start=2, images_per_step=1, stream=io.StringIO()) as kept:
        drive(kept.hook(1), clock, 1.0, 3, start=2)
    first, second = (list(events(path)) for path in sorted(tmp_path.glob("events.out.tfevents.*")))
    for name in GAME:
        assert [event.step for event in first for value in event.summary.value if value.tag == name] == [1, 2, 3]
        assert [event.step for event in second for value in event.summary.value if value.tag == name] == [3]
    assert [event.step for event in second if event.HasField("session_log")] == [3]  # hides steps 3 and later before it


def events(path):
    """The events of a TFRecord file: length, checksum, payload, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_nonsense_is_refused(tmp_path):
    with Records(tmp_path, steps=1, images_per_step=1) as kept, pytest.raises(ValueError, match="every 0 steps"):
        kept.hook(0)


def test_records_of_a_run(tmp_path):
    with Records(tmp_path, steps=6, images_per_step=4, stream=io.StringIO()) as kept:
        program = toy(chunk=2)
        look = pictures(tmp_path, program.observe, jax.random.key(0), 4)
        train(program, jax.random.key(0), steps=6, hooks=[kept.hook(2), look])
    assert [(row["step"], row["toy/count"]) for row in rows(tmp_path)] == [(2, 1.5), (4, 3.5), (6, 5.5)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00000004.png", "00000006.png"]


def test_pictures_of_nothing_are_no_files(tmp_path):
    pictures(tmp_path, lambda key, state: {}, jax.random.key(0), 1).run(1, {"a": jnp.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []
