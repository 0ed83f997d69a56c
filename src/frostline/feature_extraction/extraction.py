"""Features and logits. No gradient, eval mode throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import models as bb
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.cached_features import Counts, Frozen
from frostline.feature_extraction.image_batches import Images, Workers
from frostline.feature_extraction.numeric_key import ForwardConfig
from frostline.models import Backbone, Cut
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
    batches = []
    for z in _rows(frozen, images, view, True, workers, progress):
        flat = z.mean(dim=tuple(range(2, z.ndim))) if z.ndim > 2 else z  # where a head pools by itself
        batches.append(flat.float().numpy())
    return np.concatenate(batches)


def stage_features(
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
    return np.concatenate([frozen.with_statistics(images, chunk).numpy() for chunk in chunks])


def logits(
    backbone: Backbone,
    model: nn.Module,
    cut: Cut,
    images: Images,
    config: ForwardConfig,
    *,
    keep: bool = True,
    cache: FeatureCache | None = None,
    counts: Counts | None = None,
    workers: Workers = 0,
    above: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Progress = QUIET,
) -> NDArray[np.float32]:
    """Return a model's logits on view 0 of every image.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
        The earliest cut the model was trained from; features below it are shared by all such models.
    images : Images
    config : ForwardConfig
    keep : bool
        Cache the features at `cut`.
    cache : FeatureCache or None
    counts : Counts or None
    workers : int or "auto"
    above : callable
        Context manager around everything computed above the cut.
    progress : Progress

    Returns
    -------
    ndarray of float32, shape (n_images, classes)
    """
    keep = keep and cut.index > 0
    model = config.plan.place(model.eval())
    several = bb.multi_stage_head_in(model.get_submodule(backbone.head))
    if several is not None and len(images):
        last = backbone.cuts[-1]
        frozen = Frozen(backbone, model, last, config, cache if keep else None, counts, layers=several.layers)
        values = stage_features(frozen, images, workers=workers, progress=progress)
        with torch.no_grad(), config.plan.autocast():
            chunks = [
                torch.from_numpy(values[i : i + config.batch]) for i in range(0, len(values), config.batch)
            ]
            outputs = [several.of_statistics(chunk.to(config.plan.device)) for chunk in chunks]
        return torch.cat(outputs).float().cpu().numpy()
    frozen = Frozen(backbone, model, cut, config, cache if keep else None, counts if cut.index > 0 else None)
    batches: list[NDArray[np.float32]] = []
    if not len(images):  # a share of fewer images than processes
        return np.empty((0, len(images.manifest.classes)), dtype=np.float32)
    with torch.no_grad(), bb.suffix(backbone, model, cut) as upper_half:
        for z in _rows(frozen, images, 0, keep, workers, progress):
            with config.plan.autocast(), above():
                out = upper_half(z.to(config.plan.device))
            batches.append(out.float().cpu().numpy())
    return np.concatenate(batches)


def _rows(
    frozen: Frozen, images: Images, view: int, keep: bool, workers: Workers, progress: Progress
) -> Iterator[Tensor]:
    """Yield the rows of one view of every image, in batches as the prefix computes them."""
    items = [(position, view) for position in range(len(images))]
    if keep:
        frozen.fill(images, items, workers=workers, progress=progress)
    size = frozen.config.batch
    lists = [items[i : i + size] for i in range(0, len(items), size)]
    yield from frozen.batches(images, lists, keep=keep, workers=workers)
