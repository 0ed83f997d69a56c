"""Classifier heads. Input features (n, width), output logits (n, classes)."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

# A head that starts small starts from near-equal probabilities, so that its first gradients do not
# shake what lies below; timm's --head-init-scale and ConvNeXt's fine-tuning (0.001) have the same aim.
INIT_STD = 0.01
# Logits of a cosine head lie in ±scale; 10 lets a softmax over tens of classes come near 0 and 1
# (Gidaris & Komodakis, arXiv 1804.09458, start there) and the scale learns.
COSINE_SCALE = 10.0


class CosineHead(nn.Module):
    """Scaled cosine between feature and class vector; the scale learns. Shapes (n, width) → (n, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


def _empty(width: int, classes: int) -> nn.Linear:
    """A linear layer without weights yet: making one the usual way draws on the global random state."""
    layer: nn.Linear = skip_init(nn.Linear, width, classes)  # type: ignore[no-untyped-call]
    return layer


def build_head(spec: str, width: int, classes: int, seed: int) -> nn.Module:
    """Return a fresh head for `linear`, `cosine` or `mlp(HIDDEN)`; the global random state is untouched."""
    hidden = re.fullmatch(r"mlp\((\d+)\)", spec)
    if hidden:
        middle = int(hidden.group(1))
        module: nn.Module = nn.Sequential(_empty(width, middle), nn.GELU(), _empty(middle, classes))
    elif spec == "cosine":
        module = CosineHead(width, classes)
    else:
        module = _empty(width, classes)
    generator = torch.Generator().manual_seed(seed)
    last = list(module.modules())[-1]
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                std = INIT_STD if part is last else (2.0 / part.in_features) ** 0.5
                part.weight.normal_(0.0, std, generator=generator)
                part.bias.zero_()
            elif isinstance(part, CosineHead):
                part.weight.normal_(0.0, 1.0, generator=generator)
    return module


def linear_head(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear head holding given weights (classes, width) and bias (classes,)."""
    module = _empty(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module


def divide(head: nn.Module, temperature: float) -> None:
    """Divide a head's logits by a temperature for good, in place: then a plain softmax is calibrated.

    Exact for every kind of head, up to rounding: a linear layer and the last layer of an MLP have weight and
    bias divided, a cosine head its scale. `head` may be the module around it, which pools or reshapes.
    """
    last = [part for part in head.modules() if isinstance(part, nn.Linear | CosineHead)][-1]
    with torch.no_grad():
        for value in (last.scale,) if isinstance(last, CosineHead) else (last.weight, last.bias):
            value.copy_(value.double() / temperature)
