"""The numeric configuration of frozen layers: everything that may change a bit, part of each row's key."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from frostline.system import compiling, devices
from frostline.system.numerics import NumericPlan

# These decide what the bits of a row are: how pixels are decoded, resized and turned into activations.
LIBRARIES = ("torch", "torchvision", "timm", "pillow", "torchcodec", "numpy")
VERSION = 1  # of how rows are computed here; raised when the same inputs give other bits


@dataclass(frozen=True)
class ForwardConfig:
    """The numeric configuration of frozen layers: part of every cached feature's key.

    Attributes
    ----------
    plan : NumericPlan
    batch : int
        Images a forward pass; smaller batches are padded.
    folded : tuple of (convolution, BatchNorm)
        BatchNorm layers that are folded into convolutions.
    compiled : bool
        Run by `torch.compile`.
    """

    plan: NumericPlan
    batch: int
    folded: tuple[tuple[str, str], ...] = ()  # BatchNorm layers that are folded, each after its convolution
    compiled: bool = False

    def describe(self) -> dict[str, Any]:
        """Return everything about machine and libraries that may change a bit, as plain data."""
        return {
            "version": VERSION,
            "precision": self.plan.precision,
            "channels_last": self.plan.channels_last,
            "batch": self.batch,
            "folded": [list(pair) for pair in self.folded],
            "device": _device(self.plan.device),
            "mkldnn": torch.backends.mkldnn.enabled,
            "libraries": {name: version(name) for name in LIBRARIES},
            **({"compiled": compiling.identity()} if self.compiled else {}),
        }


@functools.cache
def version(package: str) -> str:
    """Return the installed version, or "": read from disk once, since a run asks hundreds of times."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _device(name: str) -> str:
    device = torch.device(name)
    if device.type == "cuda":
        how = f" {devices.float32_format()}" + " deterministic" * torch.are_deterministic_algorithms_enabled()
        return f"cuda {devices.name(device)} {torch.version.cuda}{how}"
    return f"{name} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
