"""Cache of stages and cuts as JSON. A damaged or read-only cache costs a new search."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from frostline.models.backbone import Cut, Stage, StageLayout
from frostline.models.classifier import Head
from frostline.models.cutting.replay import Recipe
from frostline.system import directories

VERSION = 3  # raise it whenever finding or proving changes, so that what was found before is found again


def signature(model: nn.Module, size: int, architecture: str) -> str:
    """Return a sha256 of the architecture: name, classes and settings of modules, shapes, size, versions."""
    parts = [
        str(VERSION),
        architecture,
        *(f"{name} {metadata.version(name)}" for name in ("torch", "timm", "torchvision")),
        str(size),
        f"{type(model).__module__}.{type(model).__qualname__}",
    ]
    parts += [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()]
    parts += [f"{name} {type(m).__qualname__} {m.extra_repr()}" for name, m in model.named_modules()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Findings:
    """The head, stages, cuts and notes of one architecture, as plain data and back."""

    def __init__(
        self,
        head: Head,
        stages: tuple[Stage, ...],
        cuts: tuple[Cut, ...],
        layout: StageLayout,
        notes: tuple[str, ...],
    ) -> None:
        self.head, self.stages, self.cuts, self.layout, self.notes = head, stages, cuts, layout, notes

    def as_dict(self) -> dict[str, Any]:
        return {
            "head": asdict(self.head),
            "stages": [asdict(stage) for stage in self.stages],
            "cuts": [
                {**asdict(cut), "recipe": cut.recipe.as_dict() if cut.recipe else None} for cut in self.cuts
            ],
            "tensors": dict(self.layout.tensors),
            "modules": dict(self.layout.modules),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Findings:
        stages = tuple(
            Stage(**{**stage, "modules": tuple(stage["modules"]), "shape": tuple(stage["shape"])})
            for stage in data["stages"]
        )
        cuts = tuple(
            Cut(**{**cut, "recipe": Recipe.from_dict(cut["recipe"]) if cut["recipe"] else None})
            for cut in data["cuts"]
        )
        modules = {name: (first, last) for name, (first, last) in data["modules"].items()}
        layout = StageLayout(dict(data["tensors"]), modules)
        return cls(Head(**data["head"]), stages, cuts, layout, tuple(data["notes"]))


def recall_proofs(key: str) -> dict[int, Recipe | None]:
    """Return the cuts that an interrupted search proved, and those it refused, by stage index."""
    try:
        data = json.loads(_started(key).read_bytes())
        return {int(index): Recipe.from_dict(recipe) if recipe else None for index, recipe in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember_proofs(key: str, proofs: Mapping[int, Recipe | None]) -> None:
    """Keep what an interrupted search proved and refused, for the next one to go on from."""
    try:
        data = {str(index): recipe.as_dict() if recipe else None for index, recipe in proofs.items()}
        directories.write_atomically(_started(key), json.dumps(data, separators=(",", ":")).encode())
    except (OSError, TypeError, ValueError):
        return


def forget_proofs(key: str) -> None:
    """Remove what an interrupted search left."""
    with contextlib.suppress(OSError):
        _started(key).unlink(missing_ok=True)


def _started(key: str) -> Path:
    return directories.folder("cuts") / f"{key}.started.json"


def recall(key: str) -> Findings | None:
    """Return what was found before under that signature, or None."""
    try:
        data = json.loads((directories.folder("cuts") / f"{key}.json").read_bytes())
        return Findings.from_dict(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(key: str, findings: Findings) -> None:
    """Keep what was found; where that cannot be written, the next process searches again."""
    try:
        data = json.dumps(findings.as_dict(), separators=(",", ":")).encode()
        directories.write_atomically(directories.folder("cuts") / f"{key}.json", data)
    except (OSError, TypeError, ValueError):
        return
