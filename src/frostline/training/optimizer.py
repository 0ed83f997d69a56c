"""AdamW for what learns in one phase; groups and their rates are `unfreezing`'s."""

from __future__ import annotations

import torch
from torch import nn

from frostline.backbone import Backbone
from frostline.strategy import Settings
from frostline.unfreezing import groups


def build(
    backbone: Backbone, model: nn.Module, lr: float, known: Settings, before: torch.optim.Optimizer | None
) -> torch.optim.AdamW:
    """Return AdamW for the parameters that learn now; those that learned `before` keep their moments."""
    optimizer = torch.optim.AdamW(
        groups(backbone, model, lr, known.layer_decay, known.weight_decay), lr=lr, fused=_can_fuse(model)
    )
    if before is not None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in before.state:
                    optimizer.state[parameter] = before.state[parameter]
    return optimizer


def _can_fuse(model: nn.Module) -> bool:
    """Whether one kernel can update all: torch has it for float tensors on CPU and CUDA."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())
