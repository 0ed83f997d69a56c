"""Activation statistics of a network: sums per channel of layer inputs, by blocks of images.

Of BatchNorm layers the mean and mean square of the input are recorded. In a network without any, of layers
before an activation how often each channel is above zero, and how far it leans to one side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import models as bb
from frostline.errors import DataError
from frostline.models import Backbone

# Images are shared out to this many blocks, whole units each; leaving one out at a time gives an interval.
BLOCKS = 20
MOST_LEANING = 5.0  # spreads from its threshold: beyond that a channel is off, and how far means nothing

Floats = NDArray[np.float64]
Blocks = NDArray[np.int64]


class Statistic(StrEnum):
    """What is recorded, and a similarity's `basis`."""

    BATCH = "batch statistics"
    USE = "use of channels"


@dataclass(frozen=True)
class Layer:
    """One layer that is recorded.

    `distance` turns its sums per image, (quantities, channels), into how foreign the images are to it, 0–1.
    """

    name: str
    stage: int
    before: bool  # its input is recorded, else its output
    statistics: Callable[[Tensor], Tensor]  # sums of each image: (n, quantities, channels)
    distance: Callable[[Floats], float]


class ActivationRecorder:
    """Records activation statistics of the layers of `model`, summed by blocks of images.

    Say which blocks the next images belong to with `expect`; rows beyond those are padding and not heard.
    Where a network runs in pieces, say with `attend` which stages run now: what lies outside a piece is fed
    placeholders.
    """

    def __init__(self, backbone: Backbone, model: nn.Module, blocks: int) -> None:
        self.layers, self.basis = _layers(backbone, model)
        self.sums: dict[str, Floats] = {}
        self._model, self._blocks = model, blocks
        self._now = np.zeros(0, dtype=np.int64)
        self._stages = range(len(backbone.stages))

    def set_blocks(self, blocks: Blocks) -> None:
        """Set the block of each image of the next batch."""
        self._now = blocks

    def set_stages(self, stages: range) -> None:
        """Record only the layers of these stages from now on."""
        self._stages = stages

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything that passes through the model inside the block."""
        hooks = []
        for layer in self.layers:
            module = self._model.get_submodule(layer.name)
            if layer.before:
                hooks.append(module.register_forward_pre_hook(lambda m, x, to=layer: self._record(to, x[0])))
            else:
                hooks.append(module.register_forward_hook(lambda m, x, out, to=layer: self._record(to, out)))
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()

    def _record(self, layer: Layer, x: Tensor) -> None:
        if layer.stage not in self._stages:
            return
        values = layer.statistics(x.detach()[: len(self._now)]).cpu().double().numpy()
        total = self.sums.setdefault(layer.name, np.zeros((self._blocks, *values.shape[1:])))
        np.add.at(total, self._now, values)


def blocks_of(images: int, units: Sequence[int] | None) -> Blocks:
    """Return a block for each image: whole units, the largest first, each into the emptiest block.

    One unit is one block, from which no interval follows.
    """
    of = np.arange(images) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    sizes = np.bincount(of)
    filled = np.zeros(min(BLOCKS, len(sizes)), dtype=np.int64)
    place = np.zeros(len(sizes), dtype=np.int64)
    for unit in np.argsort(-sizes, kind="stable"):
        place[unit] = filled.argmin()
        filled[place[unit]] += sizes[unit]
    return np.asarray(place[of], dtype=np.int64)


def _layers(backbone: Backbone, model: nn.Module) -> tuple[list[Layer], Statistic]:
    """Return the layers to record, and the name of what is recorded."""
    spans = backbone.module_spans(model)
    norms = [
        Layer(name, spans[name][0], True, _moments, _from_statistics(module))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if norms:
        return norms, Statistic.BATCH
    like = next(model.parameters())
    size = backbone.preprocessing.size
    probe = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(like)
    fed = bb.fed(model, probe, lambda m: isinstance(m, nn.Conv2d | nn.Linear), _is_activation)
    used = []
    for name in dict.fromkeys(name for name, _ in fed):
        if spans[name][0] < len(backbone.stages) - 1:
            axis = -1 if isinstance(model.get_submodule(name), nn.Linear) else 1
            used.append(Layer(name, spans[name][0], False, _signs(axis), _estranged))
    if not used:
        raise DataError(
            f"{backbone.name} has neither BatchNorm layers nor activation modules that can be hooked, "
            "so similarity cannot be measured; everything else can."
        )
    return used, Statistic.USE


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == activation.__name__ or type(module).__module__.startswith(
        "timm.layers.activations"
    )


def _moments(x: Tensor) -> Tensor:
    """Mean and mean square of each image's channels: (n, 2, channels)."""
    flat = x.float().flatten(2) if x.ndim > 2 else x.float()[..., None]
    return torch.stack([flat.mean(2), flat.square().mean(2)], dim=1)


def _signs(axis: int) -> Callable[[Tensor], Tensor]:
    """Share of places above 0, mean and mean square of each image's channels: (n, 3, channels)."""

    def sums(x: Tensor) -> Tensor:
        flat = x.float().movedim(axis, 1).flatten(2)
        return torch.stack([(flat > 0).float().mean(2), flat.mean(2), flat.square().mean(2)], dim=1)

    return sums


def _from_statistics(layer: _BatchNorm) -> Callable[[Floats], float]:
    """Return the mean squared Hellinger distance over channels to what the layer keeps."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean = layer.running_mean.double().cpu().numpy()
    var = layer.running_var.double().cpu().numpy() + layer.eps

    def distance(sums: Floats) -> float:
        variance = np.maximum(sums[1] - sums[0] ** 2, 0.0) + layer.eps
        overlap = np.sqrt(2.0 * np.sqrt(var * variance) / (var + variance))
        return float((1.0 - overlap * np.exp(-0.25 * (sums[0] - mean) ** 2 / (var + variance))).mean())

    return distance


def _estranged(sums: Floats) -> float:
    """Return how unevenly channels are used plus half of how far they lean to one side of their threshold.

    Unevenness is 1 − (effective number of channels in use) / channels, by the entropy of their shares. A
    channel leans by |mean| / spread: what a network was trained on makes it vary, other images leave it on
    one side. Unevenness alone puts two of six sets the wrong way round at 96 px (docs/LOG.md).
    """
    spread = np.sqrt(np.maximum(sums[2] - sums[1] ** 2, 0.0)) + 1e-9
    lean = float(np.minimum(np.abs(sums[1]) / spread, MOST_LEANING).mean())
    total = sums[0].sum()
    if total <= 0:
        return 1.0 + lean / 2
    share = sums[0] / total
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
    return float(1.0 - np.exp(entropy) / len(share)) + lean / 2
