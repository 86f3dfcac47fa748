"""Provenance: it tells one state of the code from another, and nothing of whose machine it was."""

import getpass
import json
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from gan_jax import provenance as subject
from gan_jax.provenance import digest, provenance


@pytest.fixture
def package(tmp_path) -> Path:
    """A package of two files."""
    package = tmp_path / "tree" / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    (package / "inner" / "two.py").write_text("two = 2\n")
    return package


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_versions_and_device_are_those_that_run():
    found = provenance()
    assert found["versions"]["jax"] == jax.__version__
    assert {"python", "jaxlib", "flax", "optax", "numpy", "gan-jax"} < found["versions"].keys()
    assert found["device"] == {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
    }


def test_it_is_json_and_names_no_path_and_no_person():
    text = json.dumps(provenance())
    for private in (str(Path.home()), str(Path(subject.__file__).parent), str(Path.cwd()), f'"{getpass.getuser()}"'):
        assert private not in text


@pytest.mark.parametrize("change", ["content", "name", "addition"])
def test_a_change_of_the_code_changes_the_digest(package, change):
    before = digest(package)
    two = package / "inner" / "two.py"
    if change == "content":
        two.write_text("two = 3\n")
    elif change == "name":
        two.rename(two.with_name("three.py"))
    else:
        two.with_name("three.py").touch()
    assert digest(package) != before


def test_the_digest_is_of_python_files_wherever_they_lie(package, tmp_path):
    before = digest(package)
    (package / "notes.txt").write_text("no code")
    assert digest(shutil.copytree(package, tmp_path / "elsewhere")) == before


def test_a_checkout_has_a_commit_and_may_be_dirty(package, monkeypatch):
    monkeypatch.setattr(subject, "PACKAGE", package)
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "A package.")
    code = provenance()["code"]
    assert code == {"sha256": digest(package), "commit": git(package, "rev-parse", "HEAD"), "clean": True}
    (package / "__init__.py").write_text("one = 2\n")
    assert provenance()["code"] == {"sha256": digest(package), "commit": code["commit"], "clean": False}


def test_a_package_installed_inside_another_checkout_is_no_checkout(package, monkeypatch):
    monkeypatch.setattr(subject, "PACKAGE", package)
    git(package.parent, "init", "-q")
    git(package.parent, "commit", "-qm", "Something else.", "--allow-empty")
    assert provenance()["code"] == {"sha256": digest(package)}


def test_a_machine_without_git_is_none_either(package, monkeypatch):
    monkeypatch.setattr(subject, "PACKAGE", package)
    monkeypatch.setenv("PATH", "")
    assert provenance()["code"] == {"sha256": digest(package)}
