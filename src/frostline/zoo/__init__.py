"""Where backbones come from: packages, timm, torchvision, transformers, a file, or your own module.

network → architectures → lite · files · hugging_face → disk → catalogue · downloading → loading → base →
delta → adapted
"""

from __future__ import annotations

from frostline.zoo.base import hub_name, known_name, licence, load_base, wanted
from frostline.zoo.disk import on_disk
from frostline.zoo.loading import agreed, load_backbone, rebuild, rebuild_backbone

__all__ = [
    "agreed",
    "hub_name",
    "known_name",
    "licence",
    "load_backbone",
    "load_base",
    "on_disk",
    "rebuild",
    "rebuild_backbone",
    "wanted",
]
