"""Several processes on one machine: one run of theirs is one run, and one that dies takes the others along."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import gan_jax
from gan_jax import cli
from gan_jax.training import distributed
from gan_jax.training.checkpoints import Checkpoints
from tests.training.toy import same

RING = ["train", "ring", "--batch", "8", "--widths", "4", "--chunk", "2", "--score-every", "0", "--log-every", "2"]
COMMAND = "import sys; from gan_jax.cli import main; sys.exit(main())"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count, words):
    """Start processes that train together, one device each."""
    shared = {
        "GAN_JAX_COORDINATOR": f"127.0.0.1:{free_port()}",
        "GAN_JAX_PROCESSES": str(count),
        "JAX_PLATFORMS": "cpu",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, words)],
            env=os.environ | shared | {"GAN_JAX_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def end(processes, timeout=300):
    """Wait for all; their codes, and what each wrote on stderr."""
    try:
        wrote = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], wrote


def aborted(code, wrote):
    """Whether JAX ended a survivor itself: it was in no collective, and so Python could not hear of the other's end."""
    return code == -signal.SIGABRT and "another task died" in wrote


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def state(run):
    return gan_jax.load(run).state


def near(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), left, right)


@pytest.mark.slow
def test_processes_train_together_what_one_trains_alone(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = [*RING, "--steps", "4"]
    codes, wrote = end(start(2, [*words, "--run", run]))
    assert codes == [0, 0], wrote
    assert cli.main([*words, "--run", str(alone)]) == 0
    near(state(run), state(alone))
    assert [row["step"] for row in rows(run)] == [2, 4]
    assert sum("step 4/4" in text for text in wrote) == 1


@pytest.mark.full
@pytest.mark.parametrize("count", [2, 4])
def test_processes_keep_one_record_and_what_they_save_one_restores(tmp_path, count):
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = [*RING, "--checkpoint-every", "4", "--score-every", "4", "--probe-every", "4"]
    codes, wrote = end(start(count, [*words, "--steps", "6", "--run", run]))
    assert codes == [0] * count, wrote
    assert cli.main([*words, "--steps", "6", "--run", str(alone)]) == 0
    near(state(run), state(alone))
    for name in ("metrics", "scores", "probes"):
        ours, theirs = (
            [json.loads(line)["step"] for line in (path / f"{name}.jsonl").read_text().splitlines()]
            for path in (run, alone)
        )
        assert ours == theirs
    assert [path.name for path in (run / "samples").iterdir()] == ["00000006.png"]
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=run / "checkpoints" / "6", check=True)
    assert cli.main([*words, "--steps", "8", "--run", str(run), "--resume"]) == 0
    assert cli.main([*words, "--steps", "8", "--run", str(alone), "--resume"]) == 0
    near(state(run), state(alone))
    if count == 4:  # and as many others as they like
        assert end(start(2, [*words, "--steps", "10", "--run", run, "--resume"]))[0] == [0, 0]
        assert state(run).steps == 10


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_waited_for_so_long_and_no_longer():
    code = "from gan_jax.training import distributed; distributed.initialise(wait=1)"
    address = f"127.0.0.1:{free_port()}"
    words = {"GAN_JAX_COORDINATOR": address, "GAN_JAX_PROCESSES": "2", "GAN_JAX_PROCESS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 4
    (line,) = ended.stderr.splitlines()
    assert line == f"error: the coordinator at {address} did not answer, or not all processes came, within 1 s"


COMPLETE = {"GAN_JAX_COORDINATOR": "10.0.0.1:8476", "GAN_JAX_PROCESSES": "2", "GAN_JAX_PROCESS": "1"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (COMPLETE | {"GAN_JAX_COORDINATOR": "somewhere"}, "GAN_JAX_COORDINATOR=somewhere: give host:port"),
        (COMPLETE | {"GAN_JAX_PROCESS": "2"}, "GAN_JAX_PROCESS=2 of GAN_JAX_PROCESSES=2: count from 0"),
        (COMPLETE | {"GAN_JAX_PROCESSES": "two"}, "GAN_JAX_PROCESSES=two: count from 0"),
        ({"GAN_JAX_PROCESS": "0"}, "GAN_JAX_PROCESS without more: give GAN_JAX_COORDINATOR"),
        (COMPLETE | {"GAN_JAX_DISTRIBUTED": "auto"}, "or GAN_JAX_DISTRIBUTED=auto alone"),
        ({"GAN_JAX_DISTRIBUTED": "yes"}, "GAN_JAX_DISTRIBUTED=yes: give auto"),
    ],
)
def test_an_environment_that_says_too_little_or_too_much_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialise(environment)


def test_one_process_is_the_first_and_waits_for_nobody(tmp_path):
    assert distributed.initialise({}) == 1
    assert distributed.first() and not distributed.several()
    distributed.barrier("alone")
    with distributed.records(tmp_path) as directory:
        assert directory == tmp_path
    with pytest.raises(KeyError), distributed.together({KeyError: 4}):
        raise KeyError("an exception of one process is Python's affair")


def wait_for(run, step, processes):
    """Wait until a row of a step is written."""
    began = time.monotonic()
    while time.monotonic() - began < 120 and all(process.poll() is None for process in processes):
        if (run / "metrics.jsonl").exists() and rows(run) and rows(run)[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step}: {[process.communicate() for process in processes if process.poll()]}")


ENDLESS = [*RING, "--checkpoint-every", "20", "--steps", "100000"]


@pytest.mark.full
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_restart_goes_on_exactly(tmp_path, victim):
    run, whole = tmp_path / "run", tmp_path / "whole"
    processes = start(2, [*ENDLESS, "--run", run])
    wait_for(run, 60, processes)
    processes[victim].kill()
    began = time.monotonic()
    other = processes[1 - victim]
    _, wrote = other.communicate(timeout=15)
    assert time.monotonic() - began < 15
    processes[victim].communicate()
    if not aborted(other.returncode, wrote):
        assert other.returncode == 75
        (line,) = [line for line in wrote.splitlines() if line.startswith("error")]
        assert line.startswith(f"error: process {1 - victim} of 2: ")
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        steps = checkpoints.steps[-1] + 40
    assert end(start(2, [*RING, "--run", run, "--resume", "--steps", steps]))[0] == [0, 0]
    assert end(start(2, [*RING, "--checkpoint-every", "20", "--steps", steps, "--run", whole]))[0] == [0, 0]
    assert same(state(run), state(whole))
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(whole)]


@pytest.mark.full
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_saves_at_the_same_step_on_all(tmp_path, told):
    run = tmp_path / "run"
    processes = start(2, [*ENDLESS, "--run", run])
    wait_for(run, 30, processes)
    processes[told].send_signal(signal.SIGTERM)
    codes, wrote = end(processes)
    assert codes == [75, 75], wrote
    (line,) = [line for line in "".join(wrote).splitlines() if line.startswith("interrupted")]
    assert "resume with: gan-jax train ring" in line
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        last = checkpoints.steps[-1]
    assert line.startswith(f"interrupted by SIGTERM at step {last}")
    assert rows(run)[-1]["step"] == last


@pytest.mark.full
@pytest.mark.parametrize("full", [[0], [1], [0, 1]])
def test_a_full_disk_ends_them_all_and_the_last_good_step_is_gone_on_from(tmp_path, full):
    """A limit on the length of files stands for the disk: what is longer cannot be written."""
    run = tmp_path / "run"
    processes = start(2, [*ENDLESS, "--run", run])
    wait_for(run, 60, processes)
    for index in full:
        resource.prlimit(processes[index].pid, resource.RLIMIT_FSIZE, (100, 100))
    codes, wrote = end(processes, timeout=60)
    assert any(codes[index] == 4 for index in full), (codes, wrote)
    for code, text in zip(codes, wrote, strict=True):
        if not aborted(code, text):
            assert code in (4, 75)
            (line,) = [line for line in text.splitlines() if line.startswith("error")]
            assert len(line) < 400
    assert "File too large" in "".join(wrote)
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        last = checkpoints.steps[-1]
    assert state(run).steps == last
    assert end(start(2, [*RING, "--run", run, "--resume", "--steps", last + 20]))[0] == [0, 0]
    assert state(run).steps == last + 20


@pytest.mark.full
def test_what_is_wrong_is_said_and_ends_them_all(tmp_path):
    codes, wrote = end(start(2, [*RING, "--batch", "7", "--run", tmp_path / "run"]), timeout=60)
    assert codes == [2, 2]
    assert all("a batch of 7 examples cannot be divided over 2 devices" in text for text in wrote)
    assert not (tmp_path / "run").exists()
