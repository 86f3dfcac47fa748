"""No ratio to PyTorch falls by a third below the one that stands in docs/gan_speed, on the machine that it names."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gan_jax.training import launch, lookup, turns

STORED = Path(__file__).parents[1] / "docs" / "gan_speed" / "cells"
FALLEN = 2 / 3


@cache
def parts() -> ModuleType:
    return lookup.load(lookup.find("gan_speed"))


def best(rates: dict[str, list[float]], names) -> str:
    """The fastest of those named, by the median of its rounds."""
    return max(rates.keys() & set(names), key=lambda name: np.median(rates[name]))


@pytest.mark.full
@pytest.mark.parametrize("work", ["mlp", "dcgan", "dcgan_r1", "sngan"])
def test_no_ratio_falls_by_a_third(work, tmp_path):
    """The best way of ours over PyTorch's best one of then, in fewer and shorter turns than those of the table."""
    if not os.environ.get(turns.PEERS):
        pytest.skip(f"{turns.PEERS} does not name a Python with PyTorch")
    stored = json.loads((STORED / f"{work}.json").read_text())["result"]
    if stored["machine"] != turns.machine():
        pytest.skip(f"the ratio is of {stored['machine']}, not of {turns.machine()}: measure anew by make bench")
    ours, theirs = best(stored["rates"], parts().WAYS), best(stored["rates"], parts().PEERS)
    # In a process of its own: the programs of tests are hardly optimised.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [*launch.HERE, "train", "gan_speed", "--run", str(tmp_path / "run")]
    command += ["--cells", work, "--peers", theirs, "--rounds", "3", "--seconds", "1"]
    subprocess.run(command, check=True, env=environment)
    found = json.loads((tmp_path / "run" / "cells" / f"{work}.json").read_text())["result"]["rates"]
    ratios = [turns.ratio(rates[ours], rates[theirs]).median for rates in (found, stored["rates"])]
    assert ratios[0] > FALLEN * ratios[1], f"{ours} over {theirs}: {ratios[0]:.3g} now, {ratios[1]:.3g} stored"
