"""A cache returns what was made, keeps apart what differs, and never fails."""

import numpy as np
import pytest

from gan_jax.data import cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Makes an array of a number and counts how often."""

    def __init__(self, number=1):
        self.number, self.calls = number, 0

    def __call__(self):
        self.calls += 1
        return {"image": np.full((2, 3), self.number, np.uint8), "label": np.arange(2, dtype=np.int32)}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_was_made_is_made_once(home):
    make = Maker()
    for _ in range(3):
        assert_same(cache.remember("folder:/a b/ü", ("1.0", None), make), Maker()())
    assert make.calls == 1
    assert [path.suffix for path in home.iterdir()] == [".npz"]


@pytest.mark.parametrize("name, key", [("b", ("1", 2)), ("a", ("1", 3)), ("a", (1, 2)), ("a", ("1", None))])
def test_another_name_or_key_is_another_entry(home, name, key):
    cache.remember("a", ("1", 2), Maker(1))
    assert_same(cache.remember(name, key, Maker(2)), Maker(2)())
    assert_same(cache.remember("a", ("1", 2), Maker(3)), Maker(1)())


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "pickle", "array", "folder"])
def test_a_damaged_entry_is_made_again(home, damage):
    cache.remember("a", 1, Maker())
    (path,) = home.iterdir()
    whole = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        path.write_bytes(whole.replace(b"\x01" * 6, b"\x02" * 6))
    elif damage == "pickle":
        np.savez(path, image=np.array([{}], object))
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.unlink()
        path.mkdir()
    make = Maker()
    assert_same(cache.remember("a", 1, make), Maker()())
    assert make.calls == 1
    if damage != "folder":
        assert path.read_bytes() == whole
    assert list(home.iterdir()) == [path]


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "file"))
    assert_same(cache.remember("a", 1, Maker()), Maker()())


def test_a_full_disk_leaves_nothing_behind(home, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_same(cache.remember("a", 1, Maker()), Maker()())
    assert list(home.iterdir()) == []


def test_an_error_while_making_is_raised_and_not_kept(home):
    def fail():
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        cache.remember("a", 1, fail)
    assert not home.exists()


def test_the_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GAN_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.directory() == tmp_path / ".cache" / "gan_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "gan_jax"
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "own"))
    assert cache.directory() == tmp_path / "own"
