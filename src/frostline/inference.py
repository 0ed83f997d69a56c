"""The model as a pure function: pixels in, features or logits out. No gradient, eval mode throughout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import backbone as bb
from frostline.backbone import Backbone
from frostline.images import Images
from frostline.numerics import NumericPlan

BATCH = 64  # images per forward pass: a choice that keeps memory small, not yet a measurement

Tell = Callable[[str, int, int], None]  # (what, done, total)


def features(
    backbone: Backbone,
    images: Images,
    plan: NumericPlan,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    workers: int = 0,
    tell: Tell | None = None,
) -> NDArray[np.float32]:
    """Return the pretrained features before the head, float32 of shape (images, feature_width).

    `change` is applied to the pixels first (a flip, say).
    """
    model = plan.place(copy.deepcopy(backbone.model).eval())  # the person's own model stays as it was
    run = bb.prefix(backbone, model, backbone.cut(len(backbone.stages) - 1))
    return _rows(run, images, plan, "features", change, workers, tell)


def logits(
    model: nn.Module, images: Images, plan: NumericPlan, *, workers: int = 0, tell: Tell | None = None
) -> NDArray[np.float32]:
    """Return a model's logits on view 0 of every image, float32 of shape (images, classes).

    The model is left in eval mode; what trains it sets its own modes.
    """
    return _rows(plan.place(model.eval()), images, plan, "predict", None, workers, tell)


def _rows(
    run: Callable[[Tensor], Tensor],
    images: Images,
    plan: NumericPlan,
    what: str,
    change: Callable[[Tensor], Tensor] | None,
    workers: int,
    tell: Tell | None,
) -> NDArray[np.float32]:
    rows: list[NDArray[Any]] = []
    done = 0
    with torch.inference_mode():
        for pixels in images.evaluation(BATCH, workers):
            pixels = change(pixels) if change else pixels
            with plan.autocast():
                out = run(plan.batch(pixels, images.preprocessing.normalise))
            rows.append(_flat(out).float().cpu().numpy())
            done += len(pixels)
            if tell:
                tell(what, done, len(images))
    return np.concatenate(rows)


def _flat(out: Tensor) -> Tensor:
    """Average over space, where a head pools by itself: (n, c, h, w) → (n, c)."""
    return out.mean(dim=tuple(range(2, out.ndim))) if out.ndim > 2 else out
