"""BatchNorm statistics re-estimated on the training images after training, unaugmented.

Each unfrozen BatchNorm layer gets the mean and variance of its input over all training images, summed
exactly over batches of equal size (Wu & Johnson, arXiv 2105.07576, precise BN). Layers further up see what
batch statistics make of the layers below them, as they did in training; nothing here is random.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.data.decoding_threads import Workers
from frostline.distributed import process_group
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, Cut
from frostline.system.numerics import NumericPlan


class _Sums:
    """Running sums of one layer's input, per channel, in double precision."""

    def __init__(self, statistic: Tensor) -> None:  # per channel: count, sum, sum of squares
        place = "cpu" if statistic.device.type == "mps" else statistic.device  # Apple's has no float64
        self.held = torch.zeros(3, len(statistic), dtype=torch.float64, device=place)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().to(self.held.device).transpose(0, 1).flatten(1).double()
        self.held += torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(dim=1), x.square().sum(dim=1)])

    def write(self, layer: nn.Module) -> None:
        """Set the layer's running statistics."""
        count, first, second = self.held
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0.0)
        assert isinstance(layer.running_mean, Tensor)
        assert isinstance(layer.running_var, Tensor)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance * count / (count - 1).clamp_min(1.0))


def recalibrate(
    backbone: Backbone,
    model: nn.Module,
    cut: Cut,
    images: Images,
    plan: NumericPlan,
    workers: Workers = 0,
) -> None:
    """Re-estimate every unfrozen BatchNorm layer of `model` in place, where it is; leaves it in eval mode.

    The processes of a job share the batches. `workers` threads decode.
    """
    bb.set_training(backbone, model, cut, "train")
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    model.eval()  # dropout and stochastic depth would make the statistics random
    for layer in layers:
        layer.training = True
    sums = {layer: _Sums(layer.running_mean) for layer in layers if layer.running_mean is not None}
    hooks = [layer.register_forward_pre_hook(sums[layer]) for layer in sums]
    device = next(model.parameters()).device
    chunks = np.array_split(np.arange(len(images)), math.ceil(len(images) / EVALUATION_BATCH))
    mine = chunks[process_group.share(len(chunks))]
    try:
        with torch.no_grad():
            items = [[(int(position), 0) for position in chunk] for chunk in mine]
            for pixels in images.batches(items, workers):
                model(plan.batch(pixels, images.preprocessing.normalise).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    process_group.add_up([statistics.held for statistics in sums.values()])
    with torch.no_grad():
        for layer, statistics in sums.items():
            if statistics.held[0].any():
                statistics.write(layer)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += len(chunks) - len(mine)
    model.eval()
