"""Features of frozen layers, of all images. No gradient, eval mode throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frostline.data.decoding_threads import Workers
from frostline.feature_extraction.cached_features import Frozen
from frostline.feature_extraction.image_batches import Images
from frostline.progress import QUIET, Progress


def features(
    frozen: Frozen,
    images: Images,
    *,
    view: int = 0,
    workers: Workers = 0,
    progress: Progress = QUIET,
) -> NDArray[np.float32]:
    """Return the features of one view of every image, averaged over space.

    At the last cut these are the pretrained features before the head.

    Parameters
    ----------
    frozen : Frozen
    images : Images
    view : int
        0 is the evaluation view.
    workers : int or "auto"
        Processes that decode images.
    progress : Progress

    Returns
    -------
    ndarray of float32, shape (n_images, width)
    """
    items = [(position, view) for position in range(len(images))]
    frozen.fill(images, items, workers=workers, progress=progress)
    size, batches = frozen.config.batch, []
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    for z in frozen.batches(images, chunks, workers=workers):
        flat = z.mean(dim=tuple(range(2, z.ndim))) if z.ndim > 2 else z  # where a head pools by itself
        batches.append(flat.float().numpy())
    return np.concatenate(batches)


def features_and_statistics(
    frozen: Frozen, images: Images, *, workers: Workers = 0, progress: Progress = QUIET
) -> NDArray[np.float32]:
    """Return the features before the head and the statistics of the stages before it, of every image.

    Parameters
    ----------
    frozen : Frozen
        At the last cut; its `layers` says how many stages are read.
    images : Images
    workers : int or "auto"
        Processes that decode images.
    progress : callable or None

    Returns
    -------
    ndarray of float32, shape (n_images, width + widths of the stages' statistics)
    """
    items = [(position, 0) for position in range(len(images))]
    frozen.fill_statistics(images, items, workers=workers, progress=progress)
    size = frozen.config.batch
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    return np.concatenate([values.numpy() for values in frozen.with_statistics(images, chunks, workers)])
