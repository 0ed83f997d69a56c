"""Pretrained models that load without a network: packages, and timm's downloads."""

from __future__ import annotations

from frostline.models.zoo.architectures import HUB_FILES
from frostline.models.zoo.efficientnet_lite import PACKAGES, is_available

HUB_OWNER = "timm"  # whose repositories on the hub are called as timm's own names are


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
