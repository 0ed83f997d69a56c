"""One pass over images in float32: what every stage answers, averaged over space, and how sure the head is.

Rows are kept in the store, so images that were looked at before cost a read. Similarity listens to the same
pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import models as bb
from frostline.data import OnProgress
from frostline.diagnostics.activation_statistics import Blocks, Ear
from frostline.feature_cache import Form, Store, key_of
from frostline.features import Way, padded
from frostline.features.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone
from frostline.system.numerics import NumericPlan

VERSION = 2  # of what a row holds; raised when the same images give other numbers


@dataclass(frozen=True)
class Glance:
    """`features[stage]` (n, width) after each stage, and `confidence` (n,) of the original head."""

    features: dict[str, NDArray[np.float32]]
    confidence: NDArray[np.float32]


def glance(
    backbone: Backbone,
    images: Images,
    plan: NumericPlan,
    *,
    model: nn.Module | None = None,
    store: Store | None = None,
    ear: Ear | None = None,
    blocks: Blocks | None = None,
    progress: OnProgress | None = None,
) -> Glance:
    """Look at view 0 of every image with the pretrained network, or with `model`, random weights of the same.

    An `ear` hears every image, so nothing is read for it; `blocks` (n,) goes with it.
    """
    looking = plan.place((model or backbone.model).eval())
    shelf = None
    if store is not None:
        way = Way(plan, EVALUATION_BATCH)
        about: dict[str, Any] = {
            "glance": VERSION,
            "weights": backbone.digest,
            "cuts": [cut.name for cut in backbone.cuts],
            "preprocessing": backbone.preprocessing.as_dict(),
            "computed": way.describe(),
        }
        shelf = store.shelf(about, {"model": backbone.name, "cut": "every stage", "index": -1})
    keys = [key_of(s.digest, images.pixels_name((at, 0))) for at, s in enumerate(images.samples)]
    rows = np.zeros((len(images), 0), dtype=np.float32)
    absent: Sequence[int] = range(len(images))
    widths = _widths(backbone)
    if shelf is not None and shelf.form is not None and ear is None:
        raw, absent = shelf.read(keys)
        rows = raw.view(np.float32).copy()
    done = 0
    for chunk, found in _looked(backbone, looking, images, plan, list(absent), ear, blocks):
        if not rows.shape[1]:
            rows = np.zeros((len(images), found.shape[1]), dtype=np.float32)
        rows[chunk] = found
        if shelf is not None:
            shelf.put([keys[i] for i in chunk], found.view(np.uint8), Form("float32", (found.shape[1],)))
        done += len(chunk)
        if progress:
            progress("measure", done, len(absent))
    if shelf is not None:
        shelf.close()
    ends = np.cumsum(widths)
    names = [backbone.stages[cut.index - 1].name for cut in backbone.cuts if cut.index > 0]
    parts = np.split(rows, ends, axis=1)
    return Glance(dict(zip(names, parts[:-1], strict=True)), parts[-1][:, 0])


def _widths(backbone: Backbone) -> list[int]:
    """Return how many channels each cut's activations have, averaged over space."""
    size = backbone.preprocessing.size
    model = backbone.model.eval()
    like = next(model.parameters())
    with torch.no_grad():
        chain = list(_chain(backbone, model, torch.zeros(1, 3, size, size).to(like)))
    return [z.shape[1] for z in chain[:-1]]


def _looked(
    backbone: Backbone,
    model: nn.Module,
    images: Images,
    plan: NumericPlan,
    wanted: list[int],
    ear: Ear | None,
    blocks: Blocks | None,
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield positions and their rows, batch by batch."""
    chunks = [wanted[i : i + EVALUATION_BATCH] for i in range(0, len(wanted), EVALUATION_BATCH)]
    items = [[(position, 0) for position in chunk] for chunk in chunks]
    with torch.no_grad(), ear.listening() if ear else nullcontext():
        for chunk, pixels in zip(chunks, images.batches(items, once=True), strict=True):
            if ear is not None and blocks is not None:
                ear.expect(blocks[chunk])
            x = plan.batch(padded(pixels, EVALUATION_BATCH), images.preprocessing.normalise)
            parts = [part[: len(chunk)].float().cpu() for part in _chain(backbone, model, x, ear)]
            yield chunk, torch.cat(parts, dim=1).numpy()


def _chain(backbone: Backbone, model: nn.Module, x: Tensor, ear: Ear | None = None) -> Iterator[Tensor]:
    """Yield the mean over space of z at every cut above 0, (n, width), then the head's confidence, (n, 1)."""
    z = x
    for early, late in zip(backbone.cuts, backbone.cuts[1:], strict=False):
        if ear is not None:
            ear.attend(range(early.index, late.index))
        with bb.between(backbone, model, early, late) as run:
            z = run(z)
        yield bb.over_space(z)
    if ear is not None:
        ear.attend(range(backbone.cuts[-1].index, len(backbone.stages)))
    with bb.suffix(backbone, model, backbone.cuts[-1]) as head:
        answers = head(z)
    yield answers.float().softmax(dim=1).amax(dim=1, keepdim=True)
