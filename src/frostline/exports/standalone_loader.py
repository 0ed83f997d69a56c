"""Build this network and load its weights. Needs torch, safetensors and the network's own library.

    from load import load
    model = load("path/to/this/folder")   # logits; softmax gives calibrated probabilities

README.md has the lines that make an image file what it is given.

For a network that was your own module, pass the module, as for training: load(folder, module).
"""

from __future__ import annotations

import json
import math
import threading
from functools import partial
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


class MultiStage(nn.Module):
    """A linear layer on the features before the head and on statistics of stages before them.

    Hooks on the stages hand over, in the same forward pass, mean and standard deviation of each channel
    over space; of tokens the class token, and mean and standard deviation of the others.
    """

    read_stages: Tensor

    def __init__(self, width: int, classes: int, taps: list[dict[str, Any]], calls: int) -> None:
        super().__init__()
        self.taps, self.calls = taps, calls
        self.weight = nn.Parameter(torch.zeros(classes, width + sum(sum(tap["widths"]) for tap in taps)))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("read_stages", torch.tensor([tap["stage"] for tap in taps], dtype=torch.int64))
        self.under_way = Pass()

    def attach(self, model: nn.Module) -> None:
        """Listen to the stages of `model`, in which this module is the head."""
        for tap in self.taps:
            hook = partial(self.collect, tap["stage"], tap["last"])
            model.get_submodule(tap["module"]).register_forward_hook(hook)

    def collect(self, stage: int, last: bool, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Keep a stage's statistics until the head is called."""
        self.under_way.collected[stage] = statistics(first_tensor(output), last)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of features (n, width)."""
        under_way = self.under_way
        values = torch.cat(
            [features.float(), *(under_way.collected[tap["stage"]] for tap in self.taps)], dim=1
        )
        under_way.calls += 1
        if under_way.calls == self.calls:
            under_way.collected.clear()
            under_way.calls = 0
        return F.linear(values.to(self.weight.dtype), self.weight, self.bias)


class Pass(threading.local):
    """What a thread's forward pass has collected so far: threads may ask one network at the same time."""

    def __init__(self) -> None:
        self.collected: dict[int, Tensor] = {}
        self.calls = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Pass, ()


def first_tensor(output: Any) -> Tensor:
    """Return the first floating-point tensor of two dimensions or more that a module returned."""
    if isinstance(output, Tensor):
        return output
    for item in output.values() if isinstance(output, dict) else output or ():
        if isinstance(item, Tensor | tuple | list | dict):
            try:
                value = first_tensor(item)
            except LookupError:
                continue
            if value.is_floating_point() and value.ndim >= 2:
                return value
    raise LookupError("a stage returned no tensor")


def statistics(output: Tensor, last: bool) -> Tensor:
    """Return statistics over space (n, width); of the last stage without what the head is given anyway."""
    values, space = output.float(), tuple(range(2, output.ndim))
    parts: list[Tensor] = []
    if values.ndim == 2:
        return values[:, :0] if last else values
    if values.ndim == 3:
        tokens = values.shape[1]
        first = next((n for n in range(6) if math.isqrt(tokens - n) ** 2 == tokens - n > 0), 0)
        parts = [values[:, 0]] if first else []
        values, space = values[:, first:], (1,)
    elif values.ndim == 4 and values.shape[1] == values.shape[2] != values.shape[3]:
        space = (1, 2)
    mean = values.mean(dim=space, keepdim=True)
    spread = ((values - mean).square().mean(dim=space) + 1e-6).sqrt()
    parts += [mean.flatten(1), spread]
    return torch.cat(parts[1:] if last else parts, dim=1)


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
    for part in layer.modules():
        if isinstance(part, MultiStage):
            part.attach(model)
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
    if "stages" in spec:
        return MultiStage(width, classes, spec["stages"], len(spec["names"]))
    if hidden:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    return Cosine(width, classes) if spec["layer"] == "cosine" else nn.Linear(width, classes)


def with_pooling(spec: dict[str, Any], layer: nn.Module) -> nn.Module:
    """Return the head, with pooling where the network's own head takes a feature map."""
    if spec["kind"] == "flat":
        return layer
    shape = [nn.Unflatten(1, (-1, 1, 1))] if spec["kind"] == "map4" else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), layer, *shape)
