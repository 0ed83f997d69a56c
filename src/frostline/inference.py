"""The model as a pure function: pixels in, logits out. No gradient, eval mode throughout."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline.images import Images, Tell
from frostline.numerics import NumericPlan

BATCH = 64  # images per forward pass: a choice that keeps memory small, not yet a measurement


def logits(
    model: nn.Module, images: Images, plan: NumericPlan, *, workers: int = 0, tell: Tell | None = None
) -> NDArray[np.float32]:
    """Return a model's logits on view 0 of every image, float32 of shape (images, classes).

    The model is left in eval mode; what trains it sets its own modes.
    """
    run = plan.place(model.eval())
    rows: list[NDArray[np.float32]] = []
    done = 0
    with torch.inference_mode():
        for pixels in images.evaluation(BATCH, workers):
            with plan.autocast():
                out = run(plan.batch(pixels, images.preprocessing.normalise))
            rows.append(out.float().cpu().numpy())
            done += len(pixels)
            if tell:
                tell("predict", done, len(images))
    return np.concatenate(rows)
