"""BatchNorm statistics re-estimated on the training images after training, unaugmented.

Each unfrozen BatchNorm layer gets the mean and variance of its input over all training images, summed
exactly over batches of equal size (Wu & Johnson, arXiv 2105.07576, precise BN). Layers further up see what
batch statistics make of the layers below them, as they did in training; nothing here is random.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frostline import backbone as bb
from frostline.backbone import Backbone, Cut
from frostline.images import EVALUATION_BATCH, Images
from frostline.numerics import NumericPlan


class _Sums:
    """Running sums of one layer's input, per channel, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Any = 0.0
        self.second: Any = 0.0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().transpose(0, 1).flatten(1).double()
        self.count += x.shape[1]
        self.first = self.first + x.sum(dim=1)
        self.second = self.second + x.square().sum(dim=1)

    def write(self, layer: nn.Module) -> None:
        """Set the layer's running statistics."""
        mean = self.first / self.count
        variance = (self.second / self.count - mean.square()).clamp_min(0.0)
        assert isinstance(layer.running_mean, Tensor)
        assert isinstance(layer.running_var, Tensor)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance * self.count / max(1, self.count - 1))


def recalibrate(backbone: Backbone, model: nn.Module, cut: Cut, images: Images, plan: NumericPlan) -> None:
    """Re-estimate every unfrozen BatchNorm layer of `model` in place; leaves it in eval mode."""
    bb.set_training(backbone, model, cut, "train")
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    model.eval()  # dropout and stochastic depth would make the statistics random
    for layer in layers:
        layer.training = True
    sums = {layer: _Sums() for layer in layers}
    hooks = [layer.register_forward_pre_hook(sums[layer]) for layer in layers]
    try:
        with torch.no_grad():
            for chunk in np.array_split(np.arange(len(images)), math.ceil(len(images) / EVALUATION_BATCH)):
                pixels = next(images.batches([[(int(position), 0) for position in chunk]]))
                model(plan.batch(pixels, images.preprocessing.normalise))
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for layer, found in sums.items():
            if found.count:
                found.write(layer)
    model.eval()
