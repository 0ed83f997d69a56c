"""A local `.safetensors` file and what its metadata says: architecture, size, mean, std, interpolation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from frostline.backbone import Preprocessing
from frostline.errors import ModelError
from frostline.zoo.architectures import Architecture, architecture, load_weights, share


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file. Raises `ModelError` if it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error


def named_architecture(
    path: Path, metadata: dict[str, str], asked: str | None, size: int | None
) -> Architecture:
    """Return the architecture that was asked for, else the one the metadata names."""
    said = asked or metadata.get("architecture") or metadata.get("arch")
    if not said:
        raise ModelError(
            f"{path} does not say which architecture it is for (metadata key 'architecture'). "
            "Say it: architecture='timm/resnet18'"
        )
    words = said.split()
    if "/" in words[0]:
        return architecture(words[0], size)
    kind = "torchvision" if "torchvision" in said else "timm"  # as in "squeezenet1_1 (torchvision keys)"
    return architecture(f"{kind}/{words[0]}", size)


def fitted(wanted: Architecture, state: dict[str, Tensor]) -> tuple[Architecture, nn.Module]:
    """Build the model with as many classes as the file has, and load the file into it."""
    model = wanted.build_seeded()
    classes = _classes(model, state)
    if classes is not None:
        wanted = replace(wanted, num_classes=classes)
        model = wanted.build_seeded()
    load_weights(model, state, wanted.title)
    return wanted, model


def _classes(model: nn.Module, state: dict[str, Tensor]) -> int | None:
    """Return the file's number of classes if that is all in which its shapes differ from the model's."""
    differing = [
        (own.shape, state[key].shape)
        for key, own in model.state_dict().items()
        if key in state and state[key].shape != own.shape
    ]
    counts = {shape[0] for _, shape in differing if len(shape)}
    if len(counts) == 1 and all(a[1:] == b[1:] for a, b in differing):
        return int(counts.pop())
    return None


def described_preprocessing(metadata: dict[str, str], own: Preprocessing) -> Preprocessing:
    """Return the architecture's preprocessing with whatever the metadata says instead."""
    known: dict[str, Any] = {}
    side = metadata.get("input_size", metadata.get("size"))
    try:
        if side is not None:
            known["size"] = int(side)
        if "resize" in metadata:
            known["crop_pct"] = share(known.get("size", own.size), int(metadata["resize"]))
        if "crop_pct" in metadata:
            known["crop_pct"] = float(metadata["crop_pct"])
        known.update({key: tuple(json.loads(metadata[key])) for key in ("mean", "std") if key in metadata})
    except (ValueError, TypeError) as error:
        raise ModelError(f"The file's metadata describes no preprocessing: {error}. {metadata}") from error
    known.update({key: metadata[key] for key in ("interpolation", "crop_mode") if key in metadata})
    return replace(own, **known)
