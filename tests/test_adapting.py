"""gan-jax adapt, on a model that was meta-learned for two steps."""

import json

import numpy as np
import pytest
from PIL import Image

from gan_jax import cli, evaluation
from gan_jax.cli import process
from gan_jax.data import images
from gan_jax.divergences.integral import energy_distance
from gan_jax.metrics import features

pytestmark = pytest.mark.slow  # a model is trained first
SMALL = "--width 2 --latent 3 --shots 2 --queries 2 --tasks 2 --inner-steps 1 --steps 2 --data digits"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(process, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("meta") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "keep_compiled", lambda: None)
        assert cli.main(["train", "omniglot_maml_gan", "--run", str(directory), *SMALL.split()]) == 0
    return directory


@pytest.fixture
def pictures(tmp_path):
    """Nine drawings of a seven, which was held out."""
    folder = tmp_path / "sevens"
    folder.mkdir()
    seven = images.load("digits").test
    for index, image in enumerate(seven.image[seven.label == 7][:9]):
        Image.fromarray(image[..., 0]).resize((40, 40)).save(folder / f"{index}.png")
    return folder


def test_a_folder_of_pictures_is_adapted_to(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["adapt", str(run), "--images", str(pictures), "--shots", "4", "--n", "16", "--out", str(out)]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "adapted to 4 pictures" in said and "5 others judge" in said
    with Image.open(out / "sevens-1.png") as picture:
        assert picture.size[0] > 400
    card = json.loads((out / "sevens-1.json").read_text())
    assert card["counts"] == {"support": 4, "query": 5, "samples": 16}
    assert card["measured"]["before"] != card["measured"]["after"]
    assert card["measured"]["real"]["nearest"] > 0
    # Again the same, and with no step the same as before.
    assert cli.main([*line, "--steps", "0"]) == 0
    again = json.loads((out / "sevens-0.json").read_text())["measured"]
    assert again["after"] == again["before"] == card["measured"]["before"]


def test_the_card_holds_samples_against_the_query_and_the_support():
    test = images.load("digits").test
    support, query, other = (np.asarray(images.to_float(test.image[test.label == label][:8])) for label in (7, 7, 1))
    card = evaluation.adapted("digits", {"copies": support, "others": other}, support, query[4:])
    assert card["copies"]["nearest"] == pytest.approx(0, abs=1e-4)
    assert card["others"]["nearest"] > card["copies"]["nearest"]
    assert card["others"]["distance"] > card["copies"]["distance"]
    read = features.extractor("digits").all
    assert card["others"]["distance"] == pytest.approx(float(energy_distance(read(other)[0], read(query[4:])[0])))
    alone = evaluation.adapted("digits", {"others": other}, support, query[:0])
    assert set(alone) == {"extractor", "others"}
    assert set(alone["others"]) == {"nearest"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shots 10", "fewer than 10 shots"),
        ("--n 1", "--n 1: draw 2 or more"),
        ("--steps -1", "--steps -1: give 0 or more"),
        ("--seed -1", "--seed -1"),
        ("--images nowhere", "no folder 'nowhere'"),
    ],
)
def test_wrong_input_is_answered_in_one_line_and_nothing_is_written(run, pictures, tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert cli.main(["adapt", str(run), "--images", str(pictures), "--out", str(out), *words.split()]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
    assert not out.exists()
