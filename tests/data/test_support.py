"""A folder as a support and a query: nothing lost, nothing twice, everything as the model reads it."""

import numpy as np
import pytest
from PIL import Image

from gan_jax.data.support import read


def folder(directory, *pictures):
    for index, picture in enumerate(pictures):
        Image.fromarray(np.asarray(picture, np.uint8)).save(directory / f"{index:02}.png")
    return directory


def flat(level, size=4):
    return np.full((size, size), level)


def levels(images):
    """What identifies flat pictures."""
    return images[:, 0, 0, 0].tolist()


def test_all_pictures_are_the_support_unless_asked(tmp_path):
    given = read(folder(tmp_path, *map(flat, range(12))), (4, 4, 1))
    assert sorted(levels(given.support)) == list(range(12))
    assert (len(given.query), given.notes) == (0, ())


def test_support_and_query_share_nothing_and_lose_nothing(tmp_path):
    directory = folder(tmp_path, *map(flat, range(12)))
    drawn = [read(directory, (4, 4, 1), 5, seed=seed) for seed in (0, 0, 1)]
    for given in drawn:
        assert given.support.shape == (5, 4, 4, 1)
        assert sorted(levels(given.support) + levels(given.query)) == list(range(12))
    assert levels(drawn[0].support) == levels(drawn[1].support) != levels(drawn[2].support)


def test_equal_pictures_count_once_and_it_is_said(tmp_path):
    given = read(folder(tmp_path, flat(1), flat(2), flat(1), flat(1, 8)), (4, 4, 1), 1)
    assert sorted(levels(given.support) + levels(given.query)) == [1, 2]
    assert given.notes == ("2 of 4 pictures equal others and are left out",)


def test_sizes_and_colours_become_the_models(tmp_path):
    red = np.zeros((6, 9, 3))
    red[..., 0] = 200
    given = read(folder(tmp_path, red, flat(10, 3)), (4, 4, 1))
    assert sorted(levels(given.support)) == [10, round(0.299 * 200)]
    assert given.notes == ("pictures in colour are read as grey",)
    (tmp_path / "00.png").unlink()
    given = read(tmp_path, (2, 2, 3))
    assert given.support.shape == (1, 2, 2, 3)
    assert (given.support == 10).all()
    assert given.notes == ("pictures in grey are read as colour",)


def test_black_becomes_white_when_asked(tmp_path):
    assert levels(read(folder(tmp_path, flat(0), flat(255), flat(55)), (4, 4, 1), invert=True).support) == [255, 0, 200]


def test_what_cannot_be_a_support_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        read(tmp_path / "none", (4, 4, 1))
    with pytest.raises(ValueError, match="holds no pictures"):
        read(tmp_path, (4, 4, 1))
    folder(tmp_path, flat(1), flat(1), flat(2))
    with pytest.raises(ValueError, match="holds 2 different pictures, fewer than 3 shots"):
        read(tmp_path, (4, 4, 1), 3)
    with pytest.raises(ValueError, match="shots is 0"):
        read(tmp_path, (4, 4, 1), 0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png is not a picture"):
        read(tmp_path, (4, 4, 1))
