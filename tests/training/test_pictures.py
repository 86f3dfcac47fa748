"""Pictures: every pixel where it belongs, and files that are whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_jax.training.pictures import MARGIN, animate, grid, save


def test_an_animation_shows_the_pictures_in_their_order(tmp_path):
    paths = [save({"image": jnp.full((1, 4, 4, 1), level)}, tmp_path / f"{level}.png") for level in (-1.0, 0.0, 1.0)]
    animate(paths, tmp_path / "film.gif", seconds=3.0)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        for index, path in enumerate(paths):
            film.seek(index)
            np.testing.assert_allclose(np.asarray(film.convert("L"), int), pixels(path), atol=1)
            assert film.info["duration"] == (1000 if index < 2 else 1500)  # the last one stays for a while


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.slow
@given(
    count=st.integers(1, 10),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_a_grid_holds_each_image_in_its_place_and_grey_elsewhere(count, height, width, channels, columns, seed):
    levels = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels))
    tiled = grid((levels / 127.5 - 1).astype(np.float32), columns)

    if columns is None:
        columns = next(n for n in range(1, count + 1) if n * n >= count)
    rows = -(-count // columns)
    assert tiled.dtype == np.uint8
    assert tiled.shape == (MARGIN + rows * (height + MARGIN), MARGIN + columns * (width + MARGIN), channels)
    expected = np.full(tiled.shape, 128)
    for index in range(count):
        top = MARGIN + index // columns * (height + MARGIN)
        left = MARGIN + index % columns * (width + MARGIN)
        expected[top : top + height, left : left + width] = levels[index]
    np.testing.assert_array_equal(tiled, expected)


def test_values_outside_are_clipped_and_nan_is_grey():
    values = np.asarray([-9, -1, 0, 1, 9, np.nan, np.inf, -np.inf], np.float32)
    inside = grid(values.reshape(1, 1, -1, 1))[MARGIN, MARGIN:-MARGIN, 0]
    assert inside.tolist() == [0, 0, 128, 255, 255, 128, 255, 0]


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (np.zeros((2, 3, 3)), None, "shape (2, 3, 3)"),
        (np.zeros((0, 3, 3, 1)), None, "shape (0, 3, 3, 1)"),
        (np.zeros((1, 3, 3, 1)), 0, "0 columns"),
    ],
)
def test_a_grid_refuses_what_it_cannot_tile(images, columns, message):
    with pytest.raises(ValueError) as error:
        grid(images, columns)
    assert message in str(error.value)


@pytest.mark.parametrize(("size", "channels", "factor"), [(28, 1, 2), (28, 3, 2), (8, 1, 7), (64, 3, 1), (100, 1, 1)])
def test_small_images_are_enlarged_pixel_by_pixel(tmp_path, size, channels, factor):
    images = np.random.default_rng(0).uniform(-1, 1, (5, size, size, channels)).astype(np.float32)
    path = save({"image": jnp.asarray(images)}, tmp_path / "new" / "grid.png")
    drawn = pixels(path).reshape(*pixels(path).shape[:2], channels)
    np.testing.assert_array_equal(drawn, np.kron(grid(images), np.ones((factor, factor, 1), np.uint8)))
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("labelled", [False, True])
def test_points_are_drawn_where_they_lie(tmp_path, labelled):
    corner = jax.random.normal(jax.random.key(0), (50, 2)) * 0.01
    points = jnp.concatenate([corner, corner + jnp.asarray([[4.0, 4.0]])])
    batch = {"x": points} | ({"label": jnp.arange(100) % 10} if labelled else {})
    picture = pixels(save(batch, tmp_path / "points.png"))[..., :3].astype(np.int32)
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    inked = (picture.max(axis=-1) - picture.min(axis=-1)) > 60  # axes and grid are grey
    quarters = [inked[:height, :width], inked[:height, width:], inked[height:, :width], inked[height:, width:]]
    assert [bool(quarter.any()) for quarter in quarters] == [False, True, True, False]


def test_points_leave_no_global_figures(tmp_path):
    from matplotlib import pyplot

    save({"x": jnp.zeros((3, 2))}, tmp_path / "points.png")
    assert pyplot.get_fignums() == []


def test_nothing_to_see_is_nothing_written(tmp_path):
    assert save({}, tmp_path / "nothing.png") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": np.zeros((2, 3, 3))}, '"image" of shape (2, 3, 3)'),
        ({"image": np.zeros((2, 3, 3, 2))}, '"image" of shape (2, 3, 3, 2)'),
        ({"x": np.zeros((2, 3))}, '"x" of shape (2, 3)'),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, batch, message):
    with pytest.raises(ValueError) as error:
        save(batch, tmp_path / "picture.png")
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_fails_midway_leaves_the_old_one(tmp_path, monkeypatch):
    path = save({"image": np.zeros((1, 4, 4, 1))}, tmp_path / "picture.png")
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"torn")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save({"image": np.ones((1, 4, 4, 1))}, path)
    assert path.read_bytes() == before
