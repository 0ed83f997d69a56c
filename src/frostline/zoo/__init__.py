"""Where backbones come from: packaged weights, timm, torchvision, a local file, or your own module.

architectures → lite · files → loading
"""

from __future__ import annotations

from frostline.zoo.loading import load_backbone, rebuild, rebuild_backbone

__all__ = ["load_backbone", "rebuild", "rebuild_backbone"]
