"""Checkpoints: what comes back is what was saved, or the one before with a word about why."""

import shutil
import subprocess
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Continue, Stop
from gan_jax.training.checkpoints import Checkpoints, checksum
from gan_jax.training.loop import abstract, train
from tests.training.toy import same, toy

KEY = jax.random.key(5)
TOY = toy(chunk=2)
LIKE = abstract(TOY, KEY)


def copy(state):
    """A copy that donation cannot take away."""
    return jax.tree.map(jnp.copy, state)


def grown(state, by):
    """Another state of the same structure."""
    return state._replace(params=jax.tree.map(lambda x: x + by, state.params))


@pytest.fixture(scope="module")
def state():
    return train(TOY, KEY, steps=4).state


@pytest.fixture(scope="module")
def two(state, tmp_path_factory):
    """A directory with two checkpoints, not to be changed, and their states."""
    directory = tmp_path_factory.mktemp("two")
    states = {2: grown(state, 2), 4: grown(state, 4)}
    with Checkpoints(directory) as checkpoints:
        for step, held in states.items():
            assert checkpoints.save(step, held)
    return directory, states


@pytest.fixture
def broken(two, tmp_path):
    """A copy of the same to be damaged."""
    shutil.copytree(two[0], tmp_path / "broken")
    return tmp_path / "broken", two[1]


@pytest.mark.slow
def test_a_state_comes_back_bit_for_bit_with_its_types(two):
    directory, states = two
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore(LIKE)
        assert (restored.step, restored.notes) == (4, ())
        assert same(restored.state, states[4])
        assert same(checkpoints.restore(LIKE, step=2).state, states[2])
        assert type(restored.state.optimizer[0]) is type(states[4].optimizer[0])


@pytest.mark.slow
def test_a_run_resumed_from_a_checkpoint_equals_one_that_never_stopped(tmp_path):
    straight = train(TOY, KEY, steps=10)
    with Checkpoints(tmp_path) as checkpoints:
        train(TOY, KEY, steps=6, hooks=[checkpoints.hook(4)])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == (4, 6)
        for start in (4, 6):
            step, state, _ = checkpoints.restore(LIKE, step=start)
            assert same(straight.state, train(TOY, KEY, steps=10, start=(step, state)).state)


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    """The save copies before it returns: what training does to the buffers afterwards is not seen."""
    big = {"a": jnp.arange(1_000_000, dtype=jnp.float32)}
    change = jax.jit(lambda state: {"a": -state["a"]}, donate_argnums=0)
    expected = copy(big)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, big)
        for _ in range(21):
            big = change(big)
        jax.block_until_ready(big)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert same(checkpoints.restore(jax.eval_shape(lambda: expected)).state, expected)


def test_a_restore_waits_for_the_save_before_it(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state)
        restored = checkpoints.restore(LIKE)
    assert (restored.step, restored.notes) == (2, ())
    assert same(restored.state, state)


def test_only_the_newest_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 10):
            checkpoints.save(step, state)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == (3, 10)


def test_a_step_that_is_there_is_left_as_it_is(broken):
    directory, states = broken
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.save(4, grown(states[4], 1))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert same(checkpoints.restore(LIKE).state, states[4])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved_and_stops_the_run(tmp_path, state, bad):
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.save(2, grown(state, bad))
        hook = checkpoints.hook(2)
        assert hook.run(2, grown(state, bad), {}) == Stop("the state is not finite at step 2", 3)
        assert checkpoints.steps == ()
        assert hook.run(2, state, {}) == Continue()
        assert checkpoints.steps == (2,)


def test_there_may_be_none(tmp_path):
    absent = tmp_path / "absent"
    with Checkpoints(absent, read_only=True) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert not absent.exists()
    with Checkpoints(absent) as checkpoints:
        assert checkpoints.restore(LIKE) is None


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


DAMAGES = {"flipped": flipped, "truncated": lambda data: data[: len(data) // 2], "emptied": lambda data: b""}


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
def test_damage_to_any_file_is_harmless_or_noticed(broken, damage):
    directory, states = broken
    noticed = 0
    for path in sorted(path for path in (directory / "4").rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.unlink() if damage == "deleted" else path.write_bytes(DAMAGES[damage](whole))
        with Checkpoints(directory, read_only=True) as checkpoints:
            restored = checkpoints.restore(LIKE)
        assert same(restored.state, states[restored.step]), path
        if restored.step == 2:
            (note,) = restored.notes
            assert note.startswith("checkpoint 4 is damaged and passed over: "), path
            assert "\n" not in note
            noticed += 1
        else:
            assert not path.is_relative_to(directory / "4" / "state"), path
        path.write_bytes(whole)
    assert noticed > 5


def test_the_seal_is_in_the_format_of_sha256sum(two):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=two[0] / "4", check=True)


def test_whole_files_that_hold_another_state_are_noticed(broken):
    """What a seal cannot see: the files are as they were written, but not of the state that was described."""
    directory, states = broken
    shutil.rmtree(directory / "4" / "state")
    shutil.copytree(directory / "2" / "state", directory / "4" / "state")
    lines = (directory / "4" / "SHA256SUMS").read_text().splitlines()[:2]
    lines += (directory / "2" / "SHA256SUMS").read_text().splitlines()[2:]
    (directory / "4" / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore(LIKE)
    assert restored.notes == ("checkpoint 4 is damaged and passed over: .params['a'] is not what was saved",)
    assert same(restored.state, states[2])


def test_all_damaged_is_an_error(broken):
    directory, _ = broken
    for step in (2, 4):
        (directory / str(step) / "meta" / "metadata").write_bytes(b"{")
    with Checkpoints(directory) as checkpoints, pytest.raises(ValueError, match="no good checkpoint") as error:
        checkpoints.restore(LIKE)
    assert "checkpoint 2 is" in str(error.value) and "checkpoint 4 is" in str(error.value)


def test_a_damaged_checkpoint_that_was_asked_for_is_an_error(broken):
    directory, _ = broken
    (directory / "4" / "meta" / "metadata").write_bytes(b"{")
    with Checkpoints(directory) as checkpoints, pytest.raises(ValueError, match="checkpoint 4 is damaged"):
        checkpoints.restore(LIKE, step=4)


def test_a_step_without_a_checkpoint_is_an_error_that_names_those_there_are(two):
    with Checkpoints(two[0], read_only=True) as checkpoints, pytest.raises(ValueError, match="step 3: there is 2, 4"):
        checkpoints.restore(LIKE, step=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x._replace(params=x.params | {"a": jax.ShapeDtypeStruct((4,), jnp.float32)}), r"float32\[4\]"),
        (lambda x: x._replace(params=x.params | {"a": jax.ShapeDtypeStruct((3,), jnp.int32)}), r"int32\[3\]"),
        (lambda x: x._replace(params=x.params | {"c": x.params["a"]}), r"nothing at .params\['c'\]"),
        (lambda x: x._replace(seen={"flag": x.seen["flag"]}), r".seen\['byte'\] where the program has nothing"),
        (lambda x: x._replace(key=jax.ShapeDtypeStruct((2,), jnp.uint32)), r"key<fry>\[\] at .key"),
    ],
)
def test_another_structure_is_an_error_that_does_not_speak_of_damage(two, change, message):
    with Checkpoints(two[0], read_only=True) as checkpoints, pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(change(LIKE))
    assert "damaged" not in str(error.value) and "code and configuration" in str(error.value)


def test_training_goes_on_after_a_fallback_and_saves_at_the_damaged_step_again(broken):
    directory, states = broken
    (directory / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
    with Checkpoints(directory, keep=2) as checkpoints:
        assert checkpoints.restore(LIKE).step == 2
        assert checkpoints.steps == (2, 4)  # restoring deletes nothing
        checkpoints.save(3, grown(states[2], 3))
        checkpoints.save(4, grown(states[2], 7))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps == (3, 4)
        restored = checkpoints.restore(LIKE)
        assert (restored.step, restored.notes) == (4, ())
        assert same(restored.state, grown(states[2], 7))


def test_going_back_replaces_what_came_after(broken):
    directory, states = broken
    with Checkpoints(directory) as checkpoints:
        checkpoints.restore(LIKE, step=2)
        assert checkpoints.save(2, states[2])  # nothing new: nothing is replaced
        assert checkpoints.steps == (2, 4)
        checkpoints.save(4, grown(states[2], 7))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert same(checkpoints.restore(LIKE).state, grown(states[2], 7))


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_killed_save_is_ignored_and_its_remains_are_removed_by_a_writer_only(broken):
    directory, states = broken
    shutil.copytree(directory / "4", directory / "6.orbax-checkpoint-tmp")
    (directory / "6.orbax-checkpoint-tmp" / "meta" / "metadata").unlink()
    before = tree(directory)
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored = checkpoints.restore(LIKE)
        assert (restored.step, restored.notes) == (4, ())
        with pytest.raises(ValueError, match="read-only"):
            checkpoints.save(6, states[4])
    assert tree(directory) == before
    with Checkpoints(directory) as checkpoints:
        checkpoints.restore(LIKE)
        assert checkpoints.save(6, grown(states[4], 6))
    assert sorted(path.name for path in directory.iterdir()) == ["2", "4", "6"]
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert same(checkpoints.restore(LIKE).state, grown(states[4], 6))


def test_nothing_is_printed_or_logged(broken, capfd, caplog):
    directory, states = broken
    (directory / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
    with Checkpoints(directory) as checkpoints:
        checkpoints.restore(LIKE)
        checkpoints.save(6, states[4])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 checkpoints"):
        Checkpoints(tmp_path, keep=0)


TYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32", "complex64"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_the_checksum_sees_every_bit(dtype, shape):
    dtype = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(jnp.bfloat16)
    raw = np.zeros(shape, dtype)
    examine = jax.jit(checksum)
    seen, count = {int(examine(raw))}, 1
    for byte in range(raw.nbytes):
        for bit in range(1 if dtype.name == "bool" else 8):
            data = bytearray(raw.tobytes())
            data[byte] ^= 1 << bit
            seen.add(int(examine(np.frombuffer(bytes(data), dtype).reshape(shape))))
            count += 1
    assert len(seen) == count


@pytest.mark.slow
def test_the_checksum_takes_keys_empty_arrays_and_64_bits():
    assert int(checksum(jax.random.key(0))) != int(checksum(jax.random.key(1)))
    assert int(checksum(jnp.zeros((0, 3)))) == 0
    with jax.enable_x64(True):
        for dtype in (jnp.int64, jnp.uint64, jnp.float64):
            words = np.asarray([1, 2**33], np.uint64).view(dtype)
            high = words.view(np.uint64) ^ np.uint64(1 << 40)
            assert int(checksum(jnp.asarray(words))) != int(checksum(jnp.asarray(high.view(dtype))))


EXAMINE = jax.jit(checksum)


@given(st.permutations(range(16)))
def test_the_checksum_sees_places(order):
    """A sum over values alone could not tell a permutation."""
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    moved = values.ravel()[list(order)].reshape(4, 4)
    assert (int(EXAMINE(values)) == int(EXAMINE(moved))) == (list(order) == list(range(16)))


def test_the_checksum_is_one_number_for_every_device_and_compilation():
    values = jax.random.normal(KEY, (3, 5))
    chex.assert_trees_all_equal(checksum(values), EXAMINE(values), EXAMINE(np.asarray(values)))


def test_what_cannot_be_written_is_an_oserror(tmp_path, monkeypatch):
    """Orbax says a full disk as a ValueError, which the command line would take for wrong input."""
    with Checkpoints(tmp_path) as checkpoints:

        def full(*_, **__):
            raise ValueError("OUT_OF_RANGE: Error writing: no space\nand more lines")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(OSError, match="could not be written: OUT_OF_RANGE: Error writing: no space$"):
            checkpoints.save(1, {"x": jnp.ones(2)})
