"""A local weights file, and the metadata of a `.safetensors`: architecture, size, mean, std.

A torch file (`.pth`, `.pt`, `.bin`) is read with `weights_only=True`, so that it can't run a program: it may
hold tensors by name, alone or under "state_dict" or "model", and nothing else.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from frostline.errors import ModelError, option
from frostline.models import Preprocessing
from frostline.models.zoo.architectures import NEEDS_MORE, Architecture, architecture, load_weights, share

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model")  # under which trainers keep the weights: timm's and torchvision's scripts


def is_weights(source: str) -> bool:
    """Return whether a model's name is that of a file of weights."""
    return source.lower().endswith(ENDINGS)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file. Raises `ModelError` if it cannot be read."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a weights file, but a folder, a pipe or a device.")
    if path.suffix.lower() != ".safetensors":
        return _read_torch(path), {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Return a torch file's tensors by name; nothing but tensors and plain values is built from it."""
    _refuse_packed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except Exception as error:  # the reader of torch's old formats raises whatever it stumbles over
        raise ModelError(f"{path} {NEEDS_MORE} ({_first_line(error)})") from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise ModelError(f"{path} {NEEDS_MORE}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _refuse_packed(path: Path) -> None:
    """Raise `ModelError` for a zip whose entries are compressed: torch's are not, and these may be a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [
                entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED
            ]
    except Exception:
        return  # torch's old format, or no file of weights at all: the reader says so
    if packed:
        raise ModelError(f"{path} {NEEDS_MORE} ({packed[0][:80]!r} in it is compressed)")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def named_architecture(
    path: Path, metadata: dict[str, str], requested: str | None, size: int | None
) -> Architecture:
    """Return the requested architecture, else the one the metadata names."""
    title = requested or metadata.get("architecture") or metadata.get("arch")
    if not title:
        raise ModelError(
            f"{path} does not say which architecture it is for (metadata key 'architecture'). "
            f"Pass it: {option('architecture', 'timm/resnet18')}"
        )
    parts = title.split() or [""]
    if "/" in parts[0]:
        return architecture(parts[0], size)
    kind = "torchvision" if "torchvision" in title else "timm"  # as in "squeezenet1_1 (torchvision keys)"
    return architecture(f"{kind}/{parts[0]}", size)


def fitted(architecture: Architecture, state: dict[str, Tensor]) -> tuple[Architecture, nn.Module]:
    """Build the model with as many classes as the file has, and load the file into it."""
    model = architecture.build_seeded()
    classes = _classes(model, state)
    if classes is not None:
        architecture = replace(architecture, num_classes=classes)
        model = architecture.build_seeded()
    load_weights(model, state, architecture.title)
    return architecture, model


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
    changes: dict[str, Any] = {}
    side = metadata.get("input_size", metadata.get("size"))
    try:
        if side is not None:
            changes["size"] = int(side)
        if "resize" in metadata:
            changes["crop_pct"] = share(changes.get("size", own.size), int(metadata["resize"]))
        if "crop_pct" in metadata:
            changes["crop_pct"] = float(metadata["crop_pct"])
        changes.update({key: tuple(json.loads(metadata[key])) for key in ("mean", "std") if key in metadata})
    except (ValueError, TypeError) as error:
        raise ModelError(f"The file's metadata describes no preprocessing: {error}. {metadata}") from error
    changes.update({key: metadata[key] for key in ("interpolation", "crop_mode") if key in metadata})
    return replace(own, **changes)
