"""How near images lie to what a network was trained on, told by the network itself, without a source image.

BatchNorm layers keep the mean and variance of what they met in pretraining. How far the same statistics of
other images lie from those says how foreign the images are (used to choose models: arXiv 2107.00191; to adapt
without source data: arXiv 2101.10842). Taken here is the squared Hellinger distance between the two Gaussians
of each channel: it is bounded, so no single dead channel decides, and it depends little on the image size
(docs/LOG.md 2026-11-24).

A network without such layers is asked how evenly its channels are used: images like those it was trained on
use nearly all of them, foreign ones leave many idle. That was proved on SqueezeNet 1.1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import backbone as bb
from frostline.backbone import Backbone
from frostline.errors import DataError
from frostline.images import EVALUATION_BATCH, Images, Tell
from frostline.numerics import NumericPlan

# Images are shared out to this many blocks, whole units each; leaving one out at a time gives the interval.
BLOCKS = 20
FEWEST = 8  # images, below which a block is too small to say anything
# The distance at which similarity falls to 1/e. A choice: it spreads six measured sets over the scale.
BATCH_SCALE, USE_SCALE = 0.05, 0.15
# Two-sided 95 % of Student's t with one degree of freedom less than there are blocks (scipy.stats.t.ppf).
SURE = 0.975

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """0 is foreign, 1 is what the network was trained on; `low` to `high` is a 95 % interval.

    `by_stage` is the profile by depth, `basis` says what was looked at, `proven` whether that was ever shown
    to order image sets rightly for such a network.
    """

    value: float
    low: float
    high: float
    by_stage: dict[str, float]
    basis: str
    proven: bool
    n_images: int

    def as_dict(self) -> dict[str, Any]:
        """The similarity as plain data."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "by_stage": self.by_stage,
            "basis": self.basis,
            "proven": self.proven,
            "n_images": self.n_images,
        }


@dataclass(frozen=True)
class _Layer:
    """One layer that is listened to: where it lies, and what its sums mean."""

    name: str
    stage: int
    distance: Callable[[Floats], float]  # from sums per image, (quantities, channels)


def similarity(
    backbone: Backbone,
    images: Images,
    plan: NumericPlan,
    *,
    units: Sequence[int] | None = None,
    tell: Tell | None = None,
) -> Similarity:
    """Return how near the images (view 0 of each) lie to what the pretrained network was trained on.

    `units` (n,) says which images belong together (groups, copies): they stay in one block. One forward pass.
    Raises `DataError` with fewer than 8 images.
    """
    if len(images) < FEWEST:
        raise DataError(
            f"Similarity needs {FEWEST} images or more, found {len(images)}. Add images, or go on without it."
        )
    model = plan.place(backbone.model.eval())
    layers, listen, basis = _layers(backbone, model)
    block_of = _blocks(len(images), units)
    sums, counts = _listen(model, images, plan, listen, block_of, tell)
    scale = BATCH_SCALE if basis == "batch statistics" else USE_SCALE

    def profile(left_out: int | None) -> Floats:
        keep = np.arange(len(counts)) != (-1 if left_out is None else left_out)
        total = counts[keep].sum()
        return np.array(
            [layer.distance(sums[layer.name][keep].sum(axis=0) / total) for layer in layers], dtype=np.float64
        )

    whole = profile(None)
    parts = np.stack([profile(block) for block in range(len(counts))])
    value, low, high = _jackknife(
        math.exp(-whole.mean() / scale), np.exp(-parts.mean(axis=1) / scale), len(counts)
    )
    corrected = len(counts) * whole - (len(counts) - 1) * parts.mean(axis=0)
    stages = np.array([layer.stage for layer in layers])
    by_stage = {
        backbone.stages[stage].name: math.exp(-max(0.0, corrected[stages == stage].mean()) / scale)
        for stage in sorted(set(stages.tolist()))
    }
    proven = basis == "batch statistics" or _plain_convolutions(backbone.model)
    return Similarity(value, low, high, by_stage, basis, proven, len(images))


def _jackknife(whole: float, parts: Floats, blocks: int) -> tuple[float, float, float]:
    """Return value and 95 % interval in [0, 1]: the bias of few images is taken off (Quenouille, Tukey)."""
    from scipy.stats import t

    value = blocks * whole - (blocks - 1) * parts.mean()
    error = math.sqrt((blocks - 1) / blocks * float(((parts - parts.mean()) ** 2).sum()))
    reach = float(t.ppf(SURE, blocks - 1)) * error
    low, value, high = (float(np.clip(x, 0.0, 1.0)) for x in (value - reach, value, value + reach))
    return value, low, high


def _blocks(images: int, units: Sequence[int] | None) -> NDArray[np.int64]:
    """Return a block for each image: whole units, the largest first, each into the emptiest block."""
    of = np.arange(images) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    sizes = np.bincount(of)
    blocks = min(BLOCKS, len(sizes))
    if blocks < 2:
        blocks, of, sizes = min(BLOCKS, images), np.arange(images), np.ones(images, dtype=np.int64)
    filled = np.zeros(blocks, dtype=np.int64)
    place = np.zeros(len(sizes), dtype=np.int64)
    for unit in np.argsort(-sizes, kind="stable"):
        place[unit] = filled.argmin()
        filled[place[unit]] += sizes[unit]
    return np.asarray(place[of], dtype=np.int64)


Listener = tuple[
    nn.Module, bool, Callable[[Tensor], Tensor]
]  # module, its input or its answer, sums per image


def _layers(backbone: Backbone, model: nn.Module) -> tuple[list[_Layer], dict[str, Listener], str]:
    """Return the layers to listen to, how, and what that is called."""
    spans = backbone.module_spans(model)
    layers: list[_Layer] = []
    listen: dict[str, Listener] = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            layers.append(_Layer(name, spans[name][0], _from_statistics(module)))
            listen[name] = (module, True, _moments)
    if layers:
        return layers, listen, "batch statistics"
    like = next(model.parameters())
    size = backbone.preprocessing.size
    probe = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(like)
    for name, _ in bb.fed(model, probe, lambda m: isinstance(m, nn.Conv2d | nn.Linear), _is_activation):
        module = model.get_submodule(name)
        if spans[name][0] < len(backbone.stages) - 1 and name not in listen:
            axis = -1 if isinstance(module, nn.Linear) else 1
            layers.append(_Layer(name, spans[name][0], _unevenness))
            listen[name] = (module, False, _positive(axis))
    if not layers:
        raise DataError(
            f"{backbone.name} has neither BatchNorm layers nor activation modules that can be listened to, "
            "so similarity can't be measured. Go on without it."
        )
    return layers, listen, "use of channels"


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == activation.__name__ or type(module).__module__.startswith(
        "timm.layers.activations"
    )


def _plain_convolutions(model: nn.Module) -> bool:
    """Whether use of channels was proved on such a network: convolutions and ReLU, no norm."""
    kinds = {type(module) for module in model.modules() if not list(module.children())}
    return nn.ReLU in kinds and not any("Norm" in kind.__name__ or kind is nn.GELU for kind in kinds)


def _moments(x: Tensor) -> Tensor:
    """Mean and mean square of each image's channels: (n, 2, channels)."""
    flat = x.float().flatten(2) if x.ndim > 2 else x.float()[..., None]
    return torch.stack([flat.mean(2), flat.square().mean(2)], dim=1)


def _positive(axis: int) -> Callable[[Tensor], Tensor]:
    """The share of places at which each channel of each image is above 0: (n, 1, channels)."""

    def sums(x: Tensor) -> Tensor:
        return (x > 0).float().movedim(axis, 1).flatten(2).mean(2)[:, None]

    return sums


def _from_statistics(layer: _BatchNorm) -> Callable[[Floats], float]:
    """Return the mean squared Hellinger distance over channels to what the layer keeps."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean = layer.running_mean.double().cpu().numpy()
    var = layer.running_var.double().cpu().numpy() + layer.eps

    def distance(sums: Floats) -> float:
        other = np.maximum(sums[1] - sums[0] ** 2, 0.0) + layer.eps
        overlap = np.sqrt(2.0 * np.sqrt(var * other) / (var + other))
        return float((1.0 - overlap * np.exp(-0.25 * (sums[0] - mean) ** 2 / (var + other))).mean())

    return distance


def _unevenness(sums: Floats) -> float:
    """Return 1 − (effective number of channels in use) / channels, by the entropy of their shares."""
    total = sums[0].sum()
    if total <= 0:
        return 1.0
    share = sums[0] / total
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
    return float(1.0 - np.exp(entropy) / len(share))


def _listen(
    model: nn.Module,
    images: Images,
    plan: NumericPlan,
    listen: dict[str, Listener],
    block_of: NDArray[np.int64],
    tell: Tell | None,
) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """Run all images once; return sums per layer, (blocks, quantities, channels), and images per block."""
    blocks = int(block_of.max()) + 1
    sums: dict[str, Floats] = {}
    now: NDArray[np.int64] = block_of[:0]

    def hook(name: str, find: Callable[[Tensor], Tensor], x: Tensor) -> None:
        each = find(x.detach()).double().cpu().numpy()
        total = sums.setdefault(name, np.zeros((blocks, *each.shape[1:])))
        np.add.at(total, now, each)

    hooks = []
    for name, (module, before, find) in listen.items():
        if before:
            hooks.append(module.register_forward_pre_hook(lambda m, x, n=name, f=find: hook(n, f, x[0])))
        else:
            hooks.append(module.register_forward_hook(lambda m, x, out, n=name, f=find: hook(n, f, out)))
    done = 0
    try:
        with torch.no_grad():
            for pixels in images.evaluation(EVALUATION_BATCH):
                now = block_of[done : done + len(pixels)]
                model(plan.batch(pixels, images.preprocessing.normalise))
                done += len(pixels)
                if tell:
                    tell("measure", done, len(images))
    finally:
        for handle in hooks:
            handle.remove()
    return sums, np.bincount(block_of, minlength=blocks)
