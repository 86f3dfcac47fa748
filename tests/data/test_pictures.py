"""Laws of pictures as arrays, on files made by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from gan_jax.data import pictures


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return io.BytesIO(file.getvalue())


def grey(*rows):
    return Image.fromarray(np.array(rows, np.uint8))


@pytest.mark.parametrize(
    "image, mode, pixel",
    [
        (Image.new("L", (2, 3), 7), "L", 7),
        (Image.new("1", (2, 3), 1), "L", 255),
        (Image.new("LA", (2, 3), (7, 255)), "L", 7),
        (Image.new("LA", (2, 3), (7, 0)), "L", 255),
        (Image.new("RGB", (2, 3), (1, 2, 3)), "RGB", (1, 2, 3)),
        (Image.new("RGBA", (2, 3), (1, 2, 3, 0)), "RGB", (255, 255, 255)),
        (Image.new("RGBA", (2, 3), (0, 255, 0, 51)), "RGB", (204, 255, 204)),  # a fifth of green on white
        (Image.new("L", (2, 3), 7).convert("P"), "RGB", (7, 7, 7)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_a_file_becomes_opaque_grey_or_colour(image, mode, pixel):
    flat = pictures.read(encoded(image), "here")
    assert (flat.mode, flat.size, flat.getpixel((0, 0))) == (mode, (2, 3), pixel)


def test_a_transparent_colour_is_white():
    flat = pictures.read(encoded(grey([7, 9]), transparency=7), "here")
    assert (flat.mode, np.asarray(flat).tolist()) == ("L", [[255, 9]])


def test_a_picture_taken_sideways_is_turned_upright():
    sideways = Image.Exif()
    sideways[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    flat = pictures.read(encoded(grey([1, 2], [3, 4]), exif=sideways), "here")
    assert np.asarray(flat).tolist() == [[3, 1], [4, 2]]


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(Image.new("L", (64, 64), 7)).getvalue()[:-30]])
def test_a_damaged_file_is_named(content):
    with pytest.raises(ValueError, match=r"^some/where.png is not a picture that can be read[^\n]*$"):
        pictures.read(io.BytesIO(content), "some/where.png")


def test_more_than_8_bits_are_refused_rather_than_clipped():
    deep = Image.fromarray(np.full((2, 2), 40000, np.uint16))
    with pytest.raises(ValueError, match="more than 8 bits"):
        pictures.read(encoded(deep), "here")


def test_a_square_is_the_centre_of_the_longer_side():
    columns = np.repeat(np.arange(6, dtype=np.uint8), 2)[None].repeat(4, axis=0)  # 4 high and 12 wide
    image = Image.fromarray(columns)
    assert np.asarray(pictures.square(image, 4)).tolist() == columns[:, 4:8].tolist()
    assert np.asarray(pictures.square(image.transpose(Image.Transpose.TRANSPOSE), 4)).T.tolist() == (
        columns[:, 4:8].tolist()
    )


@pytest.mark.parametrize("size", [2, 5, 8, 20])
def test_resizing_keeps_a_flat_picture_and_its_size_is_as_asked(size):
    flat = np.asarray(pictures.square(Image.new("RGB", (8, 11), (1, 2, 3)), size))
    assert flat.shape == (size, size, 3) and np.all(flat == [1, 2, 3])


def test_shrinking_is_antialiased():
    lines = np.where(np.arange(64) % 2, 255, 0).astype(np.uint8)[None].repeat(64, axis=0)
    inner = np.asarray(pictures.square(Image.fromarray(lines), 8))[:, 1:-1]
    assert np.all(np.abs(inner.astype(int) - 127.5) < 10)  # picking single pixels would give 0 or 255


def test_no_size_and_the_own_size_change_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)
    for size in (None, 9):
        np.testing.assert_array_equal(pictures.square(Image.fromarray(noise), size), noise)


def test_ink_is_the_same_in_both_encodings():
    white = np.array([[1, 0, 1], [1, 1, 0]], np.uint8)
    expected = [[0, 255, 0], [0, 0, 255]]
    for encoding in (white, 255 * white, white.astype(bool)):
        ink = pictures.ink(encoding)
        assert ink.dtype == np.uint8 and ink.tolist() == expected


def test_a_stack_is_grey_if_all_are_and_else_in_colour():
    low, high = np.full((2, 3), 1, np.uint8), np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(pictures.stack([low, low]), np.ones((2, 2, 3, 1), np.uint8))
    both = pictures.stack([low, high])
    assert both.shape == (2, 2, 3, 3) and np.all(both[0] == 1)
    np.testing.assert_array_equal(both[1], high)


def test_a_stack_of_several_sizes_asks_for_one():
    with pytest.raises(ValueError, match=r"from 2x3 to 4x3: give a size"):
        pictures.stack([np.zeros((4, 3), np.uint8), np.zeros((2, 3), np.uint8)])
