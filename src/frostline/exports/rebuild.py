"""Build this network again and load its weights. Needs torch, safetensors and the library it came from.

    from load import load
    model = load("path/to/this/folder")   # logits; softmax gives calibrated probabilities

A network that was your own module is handed over, as it was handed over for training: load(folder, module).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class Cosine(nn.Module):
    """Scaled cosine between features (n, width) and class vectors: logits (n, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


def load(folder: str | Path, module: nn.Module | None = None) -> nn.Module:
    """Return the model in eval mode. Input: float32 (n, 3, size, size); output: logits (n, classes)."""
    place = Path(folder)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    told = config["rebuild"]
    model = network(told) if module is None else module
    layer = around(told["head"], head(told["head"], config["num_classes"]))
    for name in told["head"]["names"]:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    model.load_state_dict(load_file(place / "model.safetensors"))
    return model.eval()


def network(told: dict[str, Any]) -> nn.Module:
    """Return the network without its weights."""
    if told["library"] == "timm":
        import timm

        made: nn.Module = timm.create_model(told["architecture"], pretrained=False, **told["arguments"])
        return made
    if told["library"] == "torchvision":
        from torchvision import models

        built: nn.Module = models.get_model(told["architecture"], weights=None, **told["arguments"])
        return built
    if told["library"] == "hf":
        return of_transformers(told)
    raise ValueError(
        f"This network was a module of its owner's ({told['architecture']}): load(folder, module)"
    )


def of_transformers(told: dict[str, Any]) -> nn.Module:
    """Return a network of transformers without its weights, whose call answers logits alone."""
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(told["architecture"], **told["arguments"])
    builder: Any = AutoModelForImageClassification
    made: nn.Module = builder.from_config(config)
    kind: Any = type(made)

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        logits: Tensor = kind.forward(self, pixel_values, return_dict=True).logits
        return logits

    made.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return made


def head(told: dict[str, Any], classes: int) -> nn.Module:
    """Return the head that was trained: linear, cosine, or an MLP."""
    width, hidden = told["width"], told["hidden"]
    if hidden:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    return Cosine(width, classes) if told["layer"] == "cosine" else nn.Linear(width, classes)


def around(told: dict[str, Any], layer: nn.Module) -> nn.Module:
    """Return the head with the pooling that goes with it, where the network's own head took a map."""
    if told["kind"] == "flat":
        return layer
    shape = [nn.Unflatten(1, (-1, 1, 1))] if told["kind"] == "map4" else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), layer, *shape)
