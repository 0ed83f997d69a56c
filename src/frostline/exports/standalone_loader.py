"""Build this network and load its weights. Needs torch, safetensors and the network's own library.

    from load import load
    model = load("path/to/this/folder")   # logits; softmax gives calibrated probabilities

For a network that was your own module, pass the module, as for training: load(folder, module).
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
    path = Path(folder)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    spec = config["rebuild"]
    model = network(spec) if module is None else module
    layer = with_pooling(spec["head"], head(spec["head"], config["num_classes"]))
    for name in spec["head"]["names"]:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.eval()


def network(spec: dict[str, Any]) -> nn.Module:
    """Return the network without its weights."""
    if spec["library"] == "timm":
        import timm

        timm_model: nn.Module = timm.create_model(spec["architecture"], pretrained=False, **spec["arguments"])
        return timm_model
    if spec["library"] == "torchvision":
        from torchvision import models

        torchvision_model: nn.Module = models.get_model(
            spec["architecture"], weights=None, **spec["arguments"]
        )
        return torchvision_model
    if spec["library"] == "hf":
        return transformers_network(spec)
    raise ValueError(
        f"This network was the owner's own module ({spec['architecture']}): load(folder, module)"
    )


def transformers_network(spec: dict[str, Any]) -> nn.Module:
    """Return a network of transformers without its weights, whose call returns only the logits."""
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(spec["architecture"], **spec["arguments"])
    builder: Any = AutoModelForImageClassification
    model: nn.Module = builder.from_config(config)
    model_class: Any = type(model)

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        logits: Tensor = model_class.forward(self, pixel_values, return_dict=True).logits
        return logits

    model.__class__ = type(model_class.__name__, (model_class,), {"forward": forward})
    return model


def head(spec: dict[str, Any], classes: int) -> nn.Module:
    """Return the head: linear, cosine, or an MLP."""
    width, hidden = spec["width"], spec["hidden"]
    if hidden:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    return Cosine(width, classes) if spec["layer"] == "cosine" else nn.Linear(width, classes)


def with_pooling(spec: dict[str, Any], layer: nn.Module) -> nn.Module:
    """Return the head, with pooling where the network's own head takes a feature map."""
    if spec["kind"] == "flat":
        return layer
    shape = [nn.Unflatten(1, (-1, 1, 1))] if spec["kind"] == "map4" else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), layer, *shape)
