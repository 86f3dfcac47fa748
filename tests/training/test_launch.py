"""Launch: what is handed to vendors, word for word; how it is carried out against vendors that are scripted; `local`.

No slice was ever rented for these tests: the vendors' own parsers look at the vectors, a real shell at what hosts run.
"""

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.cli import launching, process, words
from gan_jax.training import launch
from gan_jax.training.launch import BACKENDS, Commands, Job, Slice

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parents[1] / "experiment_file.py"
WHEEL = Path("gan_jax-0.1.0-py3-none-any.whl")
# Chips and hosts as Google's pages of v4, v5e, v5p and v6e have them.
TABLE = {
    **{"v4-8": (4, 1), "v4-16": (8, 2), "v4-32": (16, 4), "v4-128": (64, 16), "v4-4096": (2048, 512)},
    **{"v5e-1": (1, 1), "v5e-4": (4, 1), "v5e-8": (8, 1), "v5e-16": (16, 4), "v5e-256": (256, 64)},
    **{"v5p-8": (4, 1), "v5p-16": (8, 2), "v5p-256": (128, 32)},
    **{"v6e-1": (1, 1), "v6e-4": (4, 1), "v6e-8": (8, 1), "v6e-16": (16, 4), "v6e-256": (256, 64)},
}

every_backend = pytest.mark.parametrize("backend", BACKENDS)
texts = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ;$'\"\\&|<>(){}!~`"), max_size=12)
runs = texts.filter(lambda run: run not in ("", ".", "..") and not set(run) & set("/*?[]#"))
options = st.lists(texts.filter(lambda word: word.partition("=")[0] not in ("--run", "--resume")), max_size=3)


def rented(**changes) -> Slice:
    return Slice(**{"type": "v6e-8", "name": "a-b", "bucket": "gs://some-bucket", "zone": "us-central1-a"} | changes)


def job(**changes) -> Job:
    return Job(**{"experiment": "mnist_dcgan", "run": "runs/one", "wheel": WHEEL} | changes)


def stages(commands: Commands) -> dict[str, tuple]:
    """The vectors of each stage, where there are any."""
    named = commands._asdict()
    del named["files"]
    many = {name: value if not value or isinstance(value[0], tuple) else (value,) for name, value in named.items()}
    return {name: value for name, value in many.items() if value}


def vectors(commands: Commands) -> list[tuple[str, ...]]:
    return [vector for stage in stages(commands).values() for vector in stage]


def documented(program: str) -> list[str]:
    """The commands of docs/tpu.md."""
    blocks = (ROOT / "docs/tpu.md").read_text().split("```")[1::2]
    return [line for block in blocks for line in block.splitlines() if line.startswith(f"{program} ")]


# What is described.


@pytest.mark.parametrize(("name", "expected"), TABLE.items())
def test_a_slice_has_the_chips_and_hosts_of_the_vendors_table(name, expected):
    known = launch.shape(name)
    assert (known.chips, known.hosts) == expected
    assert launch.shape(known.accelerator) == known  # Google's own name is one too


def test_google_calls_v5e_lite():
    assert launch.shape("v5e-16").accelerator == "v5litepod-16"
    assert launch.shape("v5p-16").accelerator == "v5p-16"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("v5e-12", "v5e-8, v5e-16"),
        ("v5e-2", "v5e-1, v5e-4"),
        ("v5litepod-3", "v5e-4"),
        ("v4-4", "v4-8"),
        ("v6e-08", "v6e-8"),
        ("v5e", "v5e-1, v5e-4"),
        ("v3-8", "v4-8 to v4-4096, v5e-1 to v5e-256"),
        ("", "v6e-1 to v6e-256"),
    ],
)
def test_an_unknown_slice_is_answered_with_those_that_there_are(name, known):
    with pytest.raises(ValueError, match=f"unknown slice '{name}': .*{known}"):
        rented(type=name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("name", value) for value in ("", "A", "a b", "a;b", "1a", "a-", "-a", "a_b", "a" * 64, "a\n", "é")),
        *(("bucket", value) for value in ("some-bucket", "gs://", "gs://a/b", "gs://A-b", "gs://a$b", "gs://ab\n")),
        *(("zone", value) for value in ("", "us-central1", "us-central1-a b", "--zone=a")),
        *(("project", value) for value in ("", "p", "my project", "$(id)")),
        *(("runtime", value) for value in ("", "a b", "-a")),
    ],
)
def test_a_name_that_google_would_not_take_is_refused_in_a_line(option, value):
    with pytest.raises(ValueError, match=f"^--{option} .*: give ") as error:
        rented(**{option: value})
    assert "\n" not in str(error.value)


def test_names_that_google_takes_are_taken():
    rented(name="a", project="example.com:my-project", zone="us-central1-ai1a", runtime="v2-alpha-tpuv6e")
    rented(name="a" + "-" * 61 + "9", bucket="gs://a_b.example.com")


@pytest.mark.parametrize("run", ["", ".", "/tmp/a", "../a", "a/../b", "a//b", "a/", "a*", "a[0]", "a#1", "a\nb", "a\0"])
def test_a_run_is_a_directory_of_the_bucket(run):
    with pytest.raises(ValueError, match="directory|printed"):
        job(run=run)


@pytest.mark.parametrize("word", ["a\nb", "\0", "\x1b[2J", "--run", "--run=a", "--resume", "\ud800"])
def test_words_that_are_not_passed_on_are_refused(word):
    with pytest.raises(ValueError, match="printed|before the --"):
        job(words=("--steps", "2", word))
    with pytest.raises(ValueError, match="printed|before the --"):
        launch.local("ring", (word,), processes=1, port=1)


def test_a_file_that_copying_would_take_for_a_machine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="machine"):
        job(wheel=tmp_path / "host:gan_jax.whl")


# What is executed.


@every_backend
@given(run=runs, after=options)
def test_no_word_is_changed_on_its_way_to_the_trainer(backend, run, after):
    """A shell runs what hosts would run, where the trainer is a script that shows its arguments."""
    commands = BACKENDS[backend](rented(), job(run=run, words=tuple(after)))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        trainer = home / "gan_jax/venv/bin/gan-jax"
        trainer.parent.mkdir(parents=True)
        trainer.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nexit 3\n')
        trainer.chmod(0o755)

        def said(command: str) -> list[str]:
            environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
            done = subprocess.run(["bash", "-c", command], cwd=home, env=environment, capture_output=True)
            assert done.returncode == 3, done.stderr
            return done.stdout.decode().split("\0")[:-1]

        start = ["train", "mnist_dcgan", "--run", f"gan_jax/bucket/{run}", *after]
        resume = [*start[:4], "--resume", *after]
        if backend == "sky":
            yaml = pytest.importorskip("yaml")
            command = yaml.safe_load(commands.files["a-b.yaml"])["run"]
            assert said(command) == start
            (home / "gan_jax/bucket" / run).mkdir(parents=True)
            (home / "gan_jax/bucket" / run / "config.json").touch()
            assert said(command) == resume
        else:
            for vector, expected in ((commands.start, start), (commands.resume, resume)):
                (command,) = (word for word in vector if word.startswith("--command="))
                assert said(command.removeprefix("--command=")) == expected
            kept = (home / "gan_jax/log").read_bytes().decode().split("\0")
            assert kept[:-1] == [*start, *resume]


@every_backend
@given(run=runs, after=options)
def test_a_dry_run_is_the_vectors_a_line_each(backend, run, after):
    commands = BACKENDS[backend](rented(spot=True), job(run=run, words=tuple(after)))
    shown = [line for line in launch.script(commands).splitlines() if not line.startswith("#")]
    assert [tuple(shlex.split(line)) for line in shown] == vectors(commands)
    assert all(type(word) is str for vector in vectors(commands) for word in vector)


@pytest.mark.parametrize(("type", "several"), [("v5e-8", False), ("v5e-16", True), ("v4-8", False), ("v4-16", True)])
def test_hosts_are_told_to_find_each_other_where_there_are_several(type, several):
    for command in (launch.queued(rented(type=type), job()).start[-4], launch.task(rented(type=type), job())):
        assert ("GAN_JAX_DISTRIBUTED=auto" in command) == several


def test_a_slice_is_asked_for_as_described():
    (create,) = launch.queued(rented(type="v5e-16", spot=True, project="my-project"), job()).create
    assert create[:6] == ("gcloud", "compute", "tpus", "queued-resources", "create", "a-b")
    assert {
        *("--node-id=a-b", "--zone=us-central1-a", "--project=my-project", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
    } < set(create)
    (create,) = launch.gce(rented(type="v5p-8", runtime="mine"), job()).create
    assert {"--machine-type=ct5p-hightpu-4t", "--image-family=mine", "--scopes=cloud-platform"} < set(create)
    assert not any("SPOT" in word or "--spot" in word or "--project" in word for word in create)


@pytest.mark.parametrize("type", ["v5e-8", "v4-8", "v6e-16", "v5p-16"])
def test_compute_engine_takes_single_hosts_only(type):
    with pytest.raises(ValueError, match=f"--slice {type}: .*v5p-8, v6e-1, v6e-4, v6e-8.*queued"):
        launch.gce(rented(type=type), job())


def test_sky_takes_no_project():
    with pytest.raises(ValueError, match="--project my-project"):
        launch.sky(rented(project="my-project"), job())


@every_backend
def test_all_files_are_copied_and_only_what_was_copied_is_used(backend, tmp_path):
    files = {name: tmp_path / name for name in ("my own;.py", WHEEL.name, "my lock.txt")}
    mine, wheel, lock = files.values()
    commands = BACKENDS[backend](rented(), job(experiment=mine, wheel=wheel, requirements=lock))
    shown = launch.script(commands)
    assert all(str(file) in shown for file in files.values())
    quoted = shown.replace("'\"'\"'", "'")  # once, and not twice, as they are inside a vector that is shown
    assert "train 'gan_jax/my own;.py'" in quoted
    assert "--require-hashes --requirement 'gan_jax/my lock.txt'" in quoted
    unlocked = launch.script(BACKENDS[backend](rented(), job(wheel=wheel)))
    assert f"gan_jax/{WHEEL.name}[tpu]" in unlocked
    assert "--require-hashes" not in unlocked


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_the_vendors_linter_passes_all_vectors(tmp_path):
    """It knows commands and their flags, and neither zones nor types."""
    own = job(experiment=Path("mine.py"), words=("--steps", "20"))
    rights = [
        vector
        for backend in (launch.queued, launch.gce)
        for vector in vectors(backend(rented(spot=True, project="my-project"), own))
    ]
    rights += [tuple(shlex.split(line)) for line in documented("gcloud")]
    wrong = (*rights[0], "--no-such-flag")
    listed = [{"command_string": shlex.join(vector)} for vector in dict.fromkeys((*rights, wrong))]
    (tmp_path / "commands.json").write_text(json.dumps(listed))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"]
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    answer = subprocess.run(lint, env=environment, capture_output=True, text=True, check=True)
    *passed, refused = json.loads(answer.stdout)
    assert [result["error_message"] for result in passed] == [None] * (len(listed) - 1)
    assert "--no-such-flag" in refused["error_message"]


@given(zone=st.sampled_from(["us-central1-a", "europe-west4-b"]), spot=st.booleans(), after=options)
def test_the_task_file_says_what_was_meant(zone, spot, after):
    yaml = pytest.importorskip("yaml")
    text = launch.task(rented(zone=zone, spot=spot, type="v5e-16"), job(words=tuple(after)))
    read = yaml.safe_load(text)
    assert read["name"] == "a-b"
    assert read["resources"] == {
        "infra": f"gcp/{zone[:-2]}/{zone}",
        "accelerators": "tpu-v5litepod-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
        "use_spot": spot,
    }
    assert read["file_mounts"]["~/gan_jax/bucket"] == {"source": "gs://some-bucket", "mode": "MOUNT"}
    assert read["file_mounts"][f"~/gan_jax/{WHEEL.name}"] == str(WHEEL.absolute())
    assert text == launch.task(rented(zone=zone, spot=spot, type="v5e-16"), job(words=tuple(after)))


@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="SkyPilot is not installed")
@pytest.mark.parametrize("right", [True, False])
def test_sky_reads_the_task_file(tmp_path, right):
    (tmp_path / WHEEL).touch()
    text = launch.task(rented(type="v5e-16", spot=True), job(wheel=tmp_path / WHEEL))
    (tmp_path / "task.yaml").write_text(text if right else text.replace("use_spot", "use_spott"))
    read = "import sky, sys; print(sky.Task.from_yaml(sys.argv[1]).resources)"
    environment = os.environ | {"HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", read, str(tmp_path / "task.yaml")], env=environment, capture_output=True, text=True
    )
    assert (answer.returncode == 0) == right, answer.stderr
    assert ("tpu-v5litepod-16" in answer.stdout) == right


# How it is carried out: vendors that answer from a script.

FOUND, LOST = ("state", 0, "ACTIVE\n"), ("state", 0, "SUSPENDED\n")
SETUP, NEW, OLD, GONE = [("setup", 0)] * 4, ("begun", 1), ("begun", 0), ("delete", 0)


def play(answers: list[tuple], commands: Commands | None = None, **options) -> int:
    """Execute against answers (stage, code or exception, output), each of which must be asked for, in this order."""
    commands = commands or launch.queued(rented(), job())
    stage = {vector: name for name, of_stage in stages(commands).items() for vector in of_stage}
    expected = iter(answers)

    def call(argv, show=False):
        name, code, *output = next(expected, ("nothing more", 0))
        assert stage[argv] == name
        if isinstance(code, type):
            raise code
        return code, "".join(output)

    code = launching.execute(commands, **{"call": call, "sleep": lambda seconds: None} | options)
    assert next(expected, None) is None
    return code


def test_a_slice_is_created_awaited_set_up_used_and_deleted():
    waiting = [("state", 0, f"{state}\n") for state in ("WAITING_FOR_RESOURCES", "PROVISIONING")]
    assert play([("create", 0), *waiting, FOUND, *SETUP, NEW, ("start", 0), GONE]) == 0


def test_a_run_that_exists_is_resumed():
    assert play([("create", 0), FOUND, *SETUP, OLD, ("resume", 0), GONE]) == 0


@pytest.mark.parametrize("end", [[("start", 1), LOST], *([("start", code)] for code in (75, 128 + 6, 128 + 15, 255))])
def test_after_a_preemption_a_new_slice_goes_on(end):
    first = [("create", 0), FOUND, *SETUP, NEW, *end, GONE]
    assert play([*first, ("create", 0), FOUND, *SETUP, OLD, ("resume", 0), GONE]) == 0


def test_a_slice_may_be_taken_away_before_it_is_ready_or_set_up():
    early = [("create", 0), LOST, GONE]
    half = [("create", 0), FOUND, SETUP[0], *[("setup", 1)] * 4, LOST, GONE]
    assert play([*early, *half, ("create", 0), FOUND, *SETUP, NEW, ("start", 0), GONE]) == 0


@given(retries=st.integers(0, 3))
def test_retries_are_bounded(retries):
    assert play([("create", 0), LOST, GONE] * (retries + 1), retries=retries) == 75


def test_what_could_not_be_created_is_deleted_all_the_same(capsys):
    assert play([("create", 1, "QUOTA"), GONE]) == 4
    assert "error: not created: gcloud compute tpus" in capsys.readouterr().err


def test_what_has_the_name_already_is_not_deleted(capsys):
    assert play([("create", 1, "ALREADY_EXISTS: Resource already exists")]) == 4
    assert play([("create", 1, "ERROR: The resource 'a' already exists")], keep=True) == 4
    assert "give another --name" in capsys.readouterr().err
    # After a first slice the name is this command's.
    assert play([("create", 0), LOST, GONE, ("create", 1, "already exists"), GONE]) == 4


def test_a_slice_that_will_not_be_is_given_up():
    assert play([("create", 0), ("state", 0, "FAILED\n"), GONE]) == 4
    assert play([("create", 0), *[("state", 1, "ACTIVE\n")] * 4, GONE]) == 4
    assert play([("create", 0), *[("state", 1, "")] * 3, FOUND, *SETUP, NEW, ("start", 0), GONE]) == 0


def test_waiting_is_bounded_and_backs_off():
    slept = []
    looks = 12
    answers = [("create", 0), *[("state", 0, "PROVISIONING\n")] * looks, GONE]
    assert play(answers, wait=550, sleep=slept.append) == 4
    assert slept == [10, 20, 40, *[60] * (looks - 4)]
    assert sum(slept) >= 550 > sum(slept[:-1])


def test_the_state_is_found_among_warnings():
    noisy = ("state", 0, "WARNING: an update is available\nACTIVE\n\nUpdates are available for some components\n")
    assert play([("create", 0), noisy, *SETUP, NEW, ("start", 0), GONE]) == 0


@pytest.mark.parametrize(("ended", "code"), [(2, 2), (3, 3), (1, 4), (4, 4), (137, 4)])
def test_training_that_ends_by_itself_gives_the_code(ended, code):
    assert play([("create", 0), FOUND, *SETUP, NEW, ("start", ended), FOUND, ("logs", 0), GONE]) == code


def test_setting_up_is_tried_again():
    setup = [SETUP[0], ("setup", 255), SETUP[1], SETUP[2], SETUP[3]]
    assert play([("create", 0), FOUND, *setup, NEW, ("start", 0), GONE]) == 0
    assert play([("create", 0), FOUND, *[("setup", 1)] * 4, FOUND, GONE]) == 4


@pytest.mark.parametrize("at", range(8))
def test_an_interruption_deletes_whenever_it_comes(at):
    life = [("create", 0), FOUND, *SETUP, NEW, ("start", 0)]
    assert play([*life[:at], (life[at][0], KeyboardInterrupt), GONE]) == 75


def test_an_interruption_while_creating_waits_for_what_is_to_be_deleted():
    slept = []
    assert play([("create", KeyboardInterrupt), GONE], sleep=slept.append) == 75
    assert slept == [10]


def test_an_interruption_while_deleting_does_not_stop_it():
    life = [("create", 0), FOUND, *SETUP, NEW]
    assert play([*life, ("start", 0), ("delete", KeyboardInterrupt), GONE]) == 0
    # Between two slices no other one is created.
    assert play([*life, ("start", 75), ("delete", KeyboardInterrupt), GONE, ("delete", 1, "NOT_FOUND")]) == 75


def test_deleting_is_tried_again_and_a_failure_says_what_to_do(capsys):
    life = [("create", 0), FOUND, *SETUP, NEW, ("start", 0)]
    assert play([*life, ("delete", 1, "UNAVAILABLE"), GONE]) == 0
    assert play([*life, ("delete", 1, "The resource was not found")]) == 0
    capsys.readouterr()
    assert play([*life, *[("delete", 1, "UNAVAILABLE")] * 4]) == 4
    said = capsys.readouterr().err
    assert "not deleted" in said
    assert "gcloud compute tpus queued-resources delete a-b --zone=us-central1-a --force --quiet" in said


def test_what_is_to_be_kept_is_kept(capsys):
    life = [("create", 0), FOUND, *SETUP, NEW, ("start", 0)]
    assert play(life, keep=True) == 0
    assert "paid for until: gcloud compute tpus queued-resources delete a-b" in capsys.readouterr().err


def test_an_error_of_this_machine_deletes_too():
    with pytest.raises(OSError):
        play([("create", 0), FOUND, ("setup", OSError), GONE])


def test_sky_watches_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = launch.sky(rented(), job())
    assert play([("start", 0), GONE], commands) == 0
    assert Path("a-b.yaml").read_text() == launch.task(rented(), job())
    assert play([("start", 100), GONE], commands) == 4
    assert play([("start", KeyboardInterrupt), GONE], commands) == 75


# Real processes.


def sh(text: str) -> tuple[str, ...]:
    return "sh", "-c", text


def test_a_command_is_carried_out_without_a_shell(capfd):
    assert launching.carry_out(("printf", "%s|", "a b", "$HOME", ";'\"", "*")) == (0, "a b|$HOME|;'\"|*|")
    assert capfd.readouterr().out == ""
    assert launching.carry_out(sh("echo one; echo two >&2; exit 3"), True) == (3, "one\ntwo\n")
    assert capfd.readouterr().out == "one\ntwo\n"
    assert launching.carry_out(sh("kill -9 $$"))[0] == 137
    with pytest.raises(FileNotFoundError):
        launching.carry_out(("no-such-command-as-this",))


def alive(number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, 0)
        return "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2] if Path("/proc").is_dir() else True
    return False


def interrupting(after: Callable[[], bool]):
    """A thread that interrupts this process when something has become true."""

    def wait() -> None:
        while not after():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    return threading.Thread(target=wait, daemon=True)


def test_processes_run_at_the_same_time_and_their_lines_are_told_apart(tmp_path, capsys):
    """Each waits for the other, so one after the other would never end."""
    meet = "touch {0}; while ! test -e {1}; do sleep .02; done; echo 'I am' {2}"
    argvs = [sh(meet.format(tmp_path / f"{me}", tmp_path / f"{1 - me}", me)) for me in (0, 1)]
    assert launching.together(argvs) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["[0] I am 0", "[1] I am 1"]


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_when_one_dies_all_end_and_its_code_is_returned(tmp_path, end, code):
    note = tmp_path / "number"
    dies = sh(f"while ! test -s {note}; do sleep .02; done; {end}")
    stays = sh(f"trap 'exit 75' TERM; sleep 60 & echo $! > {note}; wait")
    begun = time.monotonic()
    assert launching.together([stays, dies]) == code
    assert time.monotonic() - begun < 15
    assert not alive(int(note.read_text()))  # what it had begun has ended with it


def test_the_worst_code_is_returned():
    assert launching.together([sh("exit 0"), sh("sleep .3; exit 3")]) == 3


def test_one_that_does_not_listen_is_killed():
    assert launching.together([sh("trap '' TERM; sleep 60 & wait; sleep 60"), sh("sleep .2; exit 1")], grace=0.3) == 1


def test_an_interruption_is_passed_on_and_the_last_words_are_shown(tmp_path, capsys):
    ready = [tmp_path / str(index) for index in range(2)]
    argvs = [sh(f"trap 'echo saved; exit 75' TERM; touch {file}; sleep 60 & wait") for file in ready]
    with launching.interruptible():
        interrupting(lambda: all(file.exists() for file in ready)).start()
        assert launching.together(argvs) == 75
    assert sorted(capsys.readouterr().out.splitlines()) == ["[0] saved", "[1] saved"]


def test_only_the_first_signal_interrupts_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with launching.interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# The command.

CLOUD = ("--slice", "v6e-8", "--zone", "us-central1-a", "--bucket", "gs://some-bucket")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with a wheel."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / WHEEL).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gan_jax_launch(*typed: str) -> int:
    """Do as the command line does."""
    cut = typed.index("--") if "--" in typed else len(typed)
    command = words.parse(tyro.cli, typed[:cut], f=launching.Launch, prog="gan-jax launch")
    return launching.launch(command, typed[cut + 1 :])


@pytest.mark.parametrize("backend", [*BACKENDS, "local:2"])
def test_a_dry_run_executes_and_writes_nothing(here, monkeypatch, capsys, backend):
    def executed(*_, **__):
        raise AssertionError("executed")

    monkeypatch.setattr(subprocess, "Popen", executed)
    monkeypatch.setattr(shutil, "which", executed)
    before = sorted(here.rglob("*"))
    options = () if backend == "local:2" else CLOUD
    assert gan_jax_launch(str(TOY), "--backend", backend, *options, "--dry-run", "--", "--steps", "2") == 0
    shown = capsys.readouterr().out
    assert "--steps 2" in shown
    assert sorted(here.rglob("*")) == before


def test_local_processes_are_told_where_and_who_they_are(here, capsys):
    assert gan_jax_launch(str(TOY), "--backend", "local:3", "--run", "a b;c", "--dry-run", "--", "--steps", "2") == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    environments = [dict(word.split("=") for word in line[1:4]) for line in lines]
    assert [each.pop("GAN_JAX_PROCESS") for each in environments] == ["0", "1", "2"]
    assert all(each == environments[0] for each in environments)
    assert environments[0]["GAN_JAX_PROCESSES"] == "3"
    assert environments[0]["GAN_JAX_COORDINATOR"].startswith("127.0.0.1:")
    assert all(line[0] == "env" and line[4] == sys.executable for line in lines)
    assert all(line[7:] == ["train", str(TOY), "--run", "a b;c", "--steps", "2"] for line in lines)


def test_local_resumes_a_run_that_is_there(here, capsys):
    Path("run").mkdir()
    Path("run/config.json").touch()
    assert gan_jax_launch(str(TOY), "--backend", "local:1", "--run", "run", "--dry-run") == 0
    assert shlex.split(capsys.readouterr().out)[-4:] == [str(TOY), "--run", "run", "--resume"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("no_such_experiment", "--backend", "queued", *CLOUD), "unknown experiment"),
        ((str(TOY), "--backend", "aws", *CLOUD), "unknown backend 'aws'"),
        ((str(TOY), "--backend", "queued:2", *CLOUD), "unknown backend 'queued:2'"),
        ((str(TOY), "--backend", "queued", *CLOUD[2:]), "needs --slice"),
        ((str(TOY), "--backend", "gce", *CLOUD[:4]), "needs --bucket"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--name", "a b"), "--name 'a b'"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--retries", "-1"), "--retries -1"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--wheel", "none.whl"), "--wheel"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--", "--run", "a"), "before the --"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--", "--controller", "runs/study"), "no study"),
        ((str(TOY), "--backend", "queued", *CLOUD, "--", "--controller=runs/study"), "no study"),
        ((str(TOY), "--backend", "local:2", "--slice", "v6e-8"), "--slice v6e-8 means nothing"),
        ((str(TOY), "--backend", "local:0"), "local:0"),
        ((str(TOY), "--backend", "local"), "as in local:2"),
        ((str(TOY), "--backend", "local:-1"), "as in local:2"),
        ((str(TOY),), "--backend"),
    ],
)
def test_wrong_input_is_answered_in_a_line(here, typed, message):
    with pytest.raises(ValueError if typed == (str(TOY),) else process.WrongInput, match=message) as error:
        gan_jax_launch(*typed)
    assert "\n" not in str(error.value)


def test_an_experiment_that_is_not_shipped_is_copied(here, capsys):
    gan_jax_launch(str(TOY), "--backend", "queued", *CLOUD, "--dry-run")
    assert f"{TOY} gan-jax-experiment-file:gan_jax/" in capsys.readouterr().out
    gan_jax_launch("mnist_dcgan", "--backend", "queued", *CLOUD, "--dry-run")
    assert "gan-jax train mnist_dcgan --run gan_jax/bucket/runs/gan-jax-mnist-dcgan" in capsys.readouterr().out


def test_a_tool_that_is_missing_is_named(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(here))
    assert gan_jax_launch(str(TOY), "--backend", "queued", *CLOUD) == 4
    assert "error: gcloud is not installed" in capsys.readouterr().err


def test_a_killed_command_leaves_no_slice(here, monkeypatch, capsys):
    """The whole of it, against a vendor that is a script: SIGTERM while training."""
    log = here / "log"
    vendor = here / "bin" / "gcloud"
    vendor.parent.mkdir()
    vendor.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in\n'
        "*describe*) echo ACTIVE;;\n*storage*) exit 1;;\n*gan-jax\\ train*) echo training; sleep 60;;\nesac\n"
    )
    vendor.chmod(0o755)
    monkeypatch.setenv("PATH", f"{vendor.parent}:{os.environ['PATH']}")
    interrupting(lambda: log.exists() and "gan-jax train" in log.read_text()).start()
    assert gan_jax_launch(str(TOY), "--backend", "queued", *CLOUD) == 75
    calls = log.read_text().splitlines()
    assert ["create" in calls[0], "delete" in calls[-1]] == [True, True]
    assert len(calls) == 9
    assert "interrupted" in capsys.readouterr().err


def test_the_documented_commands_are_understood(here, capsys):
    commands = [shlex.split(line) for line in documented("gan-jax launch")]
    assert {command[command.index("--backend") + 1] for command in commands} == {"queued", "gce", "sky", "local:2"}
    for _, _, *typed in commands:
        cut = typed.index("--")
        assert gan_jax_launch(*typed[:cut], *([] if "--dry-run" in typed else ["--dry-run"]), *typed[cut:]) == 0
    assert "gan_jax/bucket/runs/gan-jax-mnist-dcgan" in capsys.readouterr().out


def test_help_does_not_wait_for_jax():
    ask = "import sys; from gan_jax.cli import launching; assert 'jax' not in sys.modules, 'JAX is imported'"
    subprocess.run([sys.executable, "-c", ask], check=True)


@pytest.mark.full
def test_a_process_of_this_machine_trains(here):
    assert gan_jax_launch("ring", "--backend", "local:1", "--run", "run", "--", "--steps", "2", "--chunk", "1") == 0
    assert json.loads(Path("run/config.json").read_text())["steps"] == 2
