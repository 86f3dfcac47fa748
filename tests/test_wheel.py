"""The wheel, installed where there is no checkout, has the experiments and trains a file of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan_jax.training import launch

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "tests" / "experiment_file.py"


@pytest.mark.full
def test_it_trains_a_file_of_ones_own(tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (work / "mine.py").write_text(EXPERIMENT.read_text())

    def gan_jax(*words):
        environment = os.environ | {"PYTHONPATH": str(site)}  # which comes before an editable install
        command = [*launch.HERE, *words]
        return subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True, text=True).stdout

    assert "mnist_dcgan: " in gan_jax("list")
    gan_jax("train", "mine.py", "--steps", "20")
    gan_jax("evaluate", "runs/mine-0", "--n", "100")
    gan_jax("sample", "runs/mine-0", "--n", "5", "--out", "five.npz")
    assert (work / "five.npz").exists()
    code = json.loads((work / "runs" / "mine-0" / "config.json").read_text())["provenance"]["code"]
    assert set(code) == {"sha256"}, "there is no commit where there is no checkout"
