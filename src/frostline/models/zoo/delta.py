"""What a run changed in a network: the head, unfrozen layers, BatchNorm statistics.

    DELTA/
      delta.safetensors   every tensor that is not, bit for bit, the base network's
      config.json         which base weights, by name and digest; classes, preprocessing, head; a digest of
                          the whole, so that what is put together again is known to be the same bits
      README.md           the model card

Loading trusts nothing that it reads: a delta on other base weights, or one that was changed, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline.data import Rendering
from frostline.errors import DataError, FrostlineError, ModelError, StudyError, demand_kind, option
from frostline.models import Backbone, Preprocessing, tensor_bytes
from frostline.models.heads import adapted_for
from frostline.models.zoo.base_weights import load_base
from frostline.system import directories

WEIGHTS = "delta.safetensors"
CONFIG = directories.CONFIG
KIND = "delta"
SHOWN = 12  # characters of a digest in a message


@dataclass(frozen=True)
class Delta:
    """A delta put together with its base: a plain module in eval mode, with the names of its outputs."""

    model: nn.Module
    classes: list[str]
    preprocessing: Preprocessing
    rendering: Rendering
    run: str
    strategy: str
    head: str
    source: dict[str, Any]  # the base network's, as `Backbone.source`


def is_delta(folder: str | PathLike[str]) -> bool:
    """Return whether a folder is a delta. Raises `UsageError` for what is no path."""
    demand_kind("study", folder, (str, PathLike), "a study, or the folder of one or of a delta")
    return directories.exported_as(folder) == KIND


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, shapes, dtypes and bytes of a `state_dict`.

    Tables that a network computes for itself and does not save have no say: they are not weights.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name}\0{tuple(value.shape)}\0{value.dtype}\0".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def changed(model: nn.Module, base: Backbone) -> dict[str, Tensor]:
    """Return the tensors of an adapted model that are the head's, or are not the base network's bits."""
    before = base.model.state_dict()
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if base.classifier.owns(name) or name not in before or not _same(value, before[name])
    }


def _same(a: Tensor, b: Tensor) -> bool:
    same_kind = a.shape == b.shape and a.dtype == b.dtype
    return same_kind and np.array_equal(tensor_bytes(a), tensor_bytes(b))  # of bits: NaN is like itself


def load(folder: str | PathLike[str], base: str | nn.Module | Backbone | None = None) -> Delta:
    """Put a delta on its base weights, and check that every bit is what was exported.

    `base` hands the base weights over where they can't be found by their name. Raises `ModelError` for other
    base weights, `StudyError` where the delta is damaged.
    """
    place = Path(folder)
    config, tensors = _read(place)
    try:
        card = config["frostline"]
        source, base_digest = dict(card["base"]["source"]), str(card["base"]["digest"])
        classes = [str(name) for name in config["label_names"]]
        head, digest = str(card["head"]), str(card["digest"])
        preprocessing = _preprocessing(config["preprocessing"])
        rendering = _rendering(card.get("rendering"))
        backbone = load_base(source, base)
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{place / CONFIG} is damaged ({error!r}). Export the delta again.") from None
    _refuse_other(backbone, base_digest, str(source.get("name")))
    model = together(place, backbone, head, len(classes), tensors)
    if digest_of(model.state_dict()) != digest:
        raise StudyError(f"{place} was changed or damaged: its weights are not those that were exported.")
    return Delta(
        model,
        classes,
        preprocessing,
        rendering,
        str(card.get("run")),
        str(card.get("strategy")),
        head,
        source,
    )


def _preprocessing(data: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing in a config. Raises `ValueError` where the file is damaged."""
    try:
        return Preprocessing.from_dict(data)
    except ModelError as error:
        raise ValueError(str(error)) from None


def _rendering(data: dict[str, Any] | None) -> Rendering:
    """Return the rendering in a config. Raises `ValueError` where the file is damaged."""
    try:
        return Rendering.from_dict(data)
    except DataError as error:
        raise ValueError(str(error)) from None


def _read(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        return config, load_file(place / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise StudyError(f"The delta in {place} cannot be read: {error}") from None


def _refuse_other(base: Backbone, expected: str, name: str) -> None:
    actual = digest_of(base.model.state_dict())
    if actual != expected:
        raise ModelError(
            f"These are other base weights: {base.name} has digest {actual[:SHOWN]}…, and this delta belongs "
            f"to {name} with {expected[:SHOWN]}…. Pass the weights it was trained from as "
            f"{option('base')}."
        )


def together(
    place: Path, base: Backbone, head: str, classes: int, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Return the base network with these tensors in it. Raises `StudyError` where they do not fit."""
    try:
        model = adapted_for(base, tensors, head, classes)
        state = model.state_dict()
        strange = [name for name in tensors if name not in state]
        missing = [name for name in state if base.classifier.owns(name) and name not in tensors]
        if strange or missing:
            raise StudyError(
                f"{place / WEIGHTS} does not fit {base.name}: {len(strange)} tensors left over, "
                f"{len(missing)} of the head missing ({', '.join([*strange, *missing][:3])})."
            )
        model.load_state_dict({**state, **tensors})
    except FrostlineError:
        raise
    except (RuntimeError, ValueError) as error:  # shapes that differ, a head too large for any memory
        raise StudyError(f"{place / WEIGHTS} does not fit {base.name}: {error}") from None
    return model.eval()
