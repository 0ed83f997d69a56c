"""Backbones by name: from packages, timm, torchvision, transformers, a file, or your own module.

hub_access → architectures → efficientnet_lite · weight_files · hugging_face → catalogue →
downloading → backbone_loading → base_weights → delta → adapted
"""

from __future__ import annotations

from frostline.models.zoo.backbone_loading import agreed, load_backbone, rebuild_backbone
from frostline.models.zoo.base_weights import architecture_of, hub_name, known_name, licence, load_base
from frostline.models.zoo.catalogue import on_disk

__all__ = [
    "agreed",
    "architecture_of",
    "hub_name",
    "known_name",
    "licence",
    "load_backbone",
    "load_base",
    "on_disk",
    "rebuild_backbone",
]
