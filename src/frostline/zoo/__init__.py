"""Where backbones come from: packaged weights, timm, torchvision, a local file, or your own module.

architectures → lite · files → loading · disk
"""

from __future__ import annotations

from frostline.zoo.disk import on_disk
from frostline.zoo.loading import load_backbone, rebuild, rebuild_backbone

__all__ = ["load_backbone", "on_disk", "rebuild", "rebuild_backbone"]
