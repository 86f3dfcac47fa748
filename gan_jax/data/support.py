"""A folder of anybody's pictures as what a model is adapted to: a support, and the rest as a query."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from gan_jax.data import sources


class Support(NamedTuple):
    """Pictures of a folder, as a model reads them, none of them twice.

    support: [K, H, W, C]. query: the others, perhaps none. notes: a line for each thing that was done to them.
    """

    support: UInt8[np.ndarray, "K H W C"]
    query: UInt8[np.ndarray, "M H W C"]
    notes: tuple[str, ...]


def read(
    directory: str | Path, shape: tuple[int, int, int], shots: int | None = None, *, invert: bool = False, seed: int = 0
) -> Support:
    """Read every picture below a directory, and draw the support from them.

    Each is cut to its largest centred square and resized; colour becomes grey, or grey colour, where the model wants
    it so. Pictures that are equal then count once, so that support and query share none.

    Args:
        directory: of pictures in any format, size and depth of colour up to 8 bits a channel.
        shape: height, width and channels of what the model reads; height and width are equal.
        shots: K; all pictures if None.
        invert: turn black to white: a model of Omniglot or MNIST knows light strokes on dark ground.
        seed: of which pictures are the support, if not all.

    Raises:
        ValueError: no such directory, no pictures in it, one that cannot be read, `shots` below 1, or fewer different
            pictures than `shots`.
    """
    if not Path(directory).is_dir():
        raise ValueError(f"there is no folder {str(directory)!r}: give a directory of pictures")
    if shots is not None and shots < 1:
        raise ValueError(f"shots is {shots}: adapt to 1 or more pictures")
    size, _, channels = shape
    arrays = sources.folder(directory).read(size)
    image = np.concatenate([arrays["train_image"], arrays["test_image"]])
    notes = []
    if image.shape[-1] != channels:
        notes.append(
            f"pictures in {'colour' if channels == 1 else 'grey'} are read as {'grey' if channels == 1 else 'colour'}"
        )
        # The luma of Rec. 601, as Pillow's mode L has it.
        image = np.rint(image @ [0.299, 0.587, 0.114])[..., None] if channels == 1 else image.repeat(3, axis=-1)
        image = image.astype(np.uint8)
    _, first = np.unique(image.reshape(len(image), -1), axis=0, return_index=True)
    if len(first) < len(image):
        notes.append(f"{len(image) - len(first)} of {len(image)} pictures equal others and are left out")
    image = image[np.sort(first)]
    if shots is not None and len(image) < shots:
        raise ValueError(f"{directory} holds {len(image)} different pictures, fewer than {shots} shots: ask for fewer")
    if invert:
        image = 255 - image
    order = np.random.default_rng(seed).permutation(len(image))
    few = len(image) if shots is None else shots
    return Support(image[np.sort(order[:few])], image[np.sort(order[few:])], tuple(notes))
