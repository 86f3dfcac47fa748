"""Pictures of a batch: a grid of images, or a scatter of points in the plane, as PNG."""

import math
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, UInt8

from gan_jax.base import Batch
from gan_jax.data.images import to_uint8

MARGIN = 1  # pixels between images, and around them
VISIBLE = 56  # images smaller than this are enlarged to about it


def grid(images: Float[np.ndarray, "N H W C"], columns: int | None = None) -> UInt8[np.ndarray, "rows cols C"]:
    """Tile images with values in [-1, 1] row by row, `columns` to a row (nearly square unless given).

    Values outside are clipped, and NaN is grey. Margins and empty places are grey too.
    ValueError: not four axes, no images, or fewer than one column.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images of shape {images.shape}: a grid needs [N, H, W, C] with N of 1 or more")
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"a grid of {columns} columns: use 1 or more")
    rows = math.ceil(count / columns)
    levels = to_uint8(np.nan_to_num(np.asarray(images, np.float32)))
    cells = np.full((rows * columns, height + MARGIN, width + MARGIN, channels), 128, np.uint8)
    cells[:count, MARGIN:, MARGIN:] = levels
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    tiled = cells.reshape(rows * (height + MARGIN), columns * (width + MARGIN), channels)
    return np.pad(tiled, ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=128)


def save(batch: Batch, path: Path, *, columns: int | None = None) -> Path | None:
    """Draw "image" [N, H, W, C] or "x" [N, 2], coloured by "label" [N], to a PNG file, whole or not at all.

    columns: of the grid of images, nearly a square unless given.
    Returns the path, or None for a batch that has neither: nothing is written then.
    ValueError: a shape that cannot be drawn.
    """
    if "image" in batch:
        draw, values = partial(_draw_images, columns=columns), np.asarray(batch["image"])
        if values.ndim != 4 or values.shape[-1] not in (1, 3):
            raise ValueError(f'an "image" of shape {values.shape}: a picture needs [N, H, W, 1 or 3]')
    elif "x" in batch:
        draw, values = _draw_points, np.asarray(batch["x"])
        if values.ndim != 2 or values.shape[-1] != 2:
            raise ValueError(f'an "x" of shape {values.shape}: a picture needs points [N, 2]')
    else:
        return None
    with _replacing(path) as file:
        draw(values, batch, file)
    return path


def animate(paths: Sequence[Path], path: Path, *, seconds: float = 6.0) -> None:
    """Show the pictures at `paths`, of one size, one after another and ever again, in a GIF file.

    seconds: for all of them, each an equal share of at least 0.02; but the last stays for 1.5.
    """
    from PIL import Image

    frames = [Image.open(each).convert("P", palette=Image.Palette.ADAPTIVE) for each in paths]
    durations = [max(20, round(1000 * seconds / len(frames)))] * (len(frames) - 1) + [1500]  # the last one stays
    with _replacing(path) as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def write(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib's to a PNG file, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # not pyplot, whose state is global and whose figures are never freed
    with _replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)


@contextmanager
def _replacing(path: Path) -> Generator[IO[bytes]]:
    """A file beside `path` that takes its place when all has been written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
    os.replace(temporary, path)


def _draw_images(images: np.ndarray, batch: Batch, file: IO[bytes], columns: int | None) -> None:
    from PIL import Image

    tiled = grid(images, columns)
    factor = max(1, round(VISIBLE / max(images.shape[1:3])))
    tiled = tiled.repeat(factor, axis=0).repeat(factor, axis=1)
    Image.fromarray(tiled[..., 0] if tiled.shape[-1] == 1 else tiled).save(file, format="PNG")


def _draw_points(points: np.ndarray, batch: Batch, file: IO[bytes]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, whose state is global and whose figures are never freed
    axes = figure.add_subplot()
    colours: dict[str, Any] = {"c": batch["label"], "cmap": "tab10"} if "label" in batch else {}
    axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.5, linewidths=0, **colours)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.2)
    figure.savefig(file, format="png", dpi=100)
