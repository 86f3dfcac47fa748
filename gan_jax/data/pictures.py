"""Pictures as arrays: whatever Pillow reads becomes uint8, grey [H, W] or colour [H, W, 3], and at one size."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

GREY = ("1", "L", "LA", "La")


def flat(image: Image.Image) -> Image.Image:
    """Return the picture upright and opaque, in mode L where it is grey and RGB otherwise.

    A transparent picture is laid on white. A palette counts as colour, whatever its colours.

    Raises:
        ValueError: the picture has more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to 255 rather than scale them
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
    image = ImageOps.exif_transpose(image)
    mode = "L" if image.mode in GREY else "RGB"
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image.convert(mode)


def square(image: Image.Image, size: int | None) -> Image.Image:
    """Return the largest centred square of a picture, resized to `size`; the picture itself for None.

    Bilinear with antialiasing: where the picture shrinks, the filter widens to cover all its pixels.
    """
    return image if size is None else ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)


def read(file: IO[bytes] | Path, where: str) -> Image.Image:
    """Return the `flat` picture in a file; `where` is what an error calls it.

    Raises:
        ValueError: Pillow cannot read it.
    """
    try:
        with Image.open(file) as image:
            return flat(image)
    except Exception as error:  # Pillow's many formats raise whatever they stumble on in a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is not a picture that can be read: {reason}") from error


def ink(image: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return Omniglot as MNIST has it: ink 255 on a background of 0.

    In the source the background is white and the ink 0; white is 1 or 255, as the decoder has it.
    """
    return np.where(image > 0, 0, 255).astype(np.uint8)


def stack(pictures: Sequence[UInt8[np.ndarray, "..."]]) -> UInt8[np.ndarray, "N H W C"]:
    """Return pictures [H, W] and [H, W, 3] as one array, of 3 channels if any has 3 and of 1 otherwise.

    Raises:
        ValueError: they differ in size.
    """
    sizes = sorted({picture.shape[:2] for picture in pictures})
    if len(sizes) > 1:
        (h, w), (height, width) = sizes[0], sizes[-1]
        raise ValueError(f"pictures differ in size, from {h}x{w} to {height}x{width}: give a size to bring them to")
    channels = max(1 if picture.ndim == 2 else 3 for picture in pictures)
    batch = np.empty((len(pictures), *sizes[0], channels), np.uint8)
    for row, picture in zip(batch, pictures, strict=True):
        row[:] = picture if picture.ndim == 3 else picture[..., None]
    return batch
