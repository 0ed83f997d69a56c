"""Parameter groups with layer-wise rates, and the rate at each step.

A group is (stage, decayed or not); how fast a stage learns is said by `pacing`. 1-D parameters are not
decayed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frostline import pacing
from frostline.backbone import Backbone
from frostline.errors import ModelError
from frostline.strategy import Settings


def groups(backbone: Backbone, model: nn.Module, lr: float, known: Settings) -> list[dict[str, Any]]:
    """Return AdamW parameter groups that cover every learning parameter exactly once.

    Each has `name`, `stage`, `peak` (its learning rate at the top of the schedule) and `weight_decay`.
    """
    stage_of = backbone.stage_of(model)
    last = len(backbone.stages) - 1
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        stage, decays = stage_of[name], parameter.ndim > 1
        peak = pacing.peak(lr, known.layer_decay, last - stage)
        group = found.setdefault(
            (stage, decays),
            {
                "name": f"{backbone.stages[stage].name}{'' if decays else ' (no decay)'}",
                "stage": stage,
                "peak": peak,
                "lr": peak,
                "weight_decay": known.weight_decay if decays else 0.0,
                "params": [],
            },
        )
        group["params"].append(parameter)
    _check_cover(model, list(found.values()))
    return [found[key] for key in sorted(found)]


def _check_cover(model: nn.Module, made: list[dict[str, Any]]) -> None:
    covered = [id(p) for group in made for p in group["params"]]
    learning = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for key, name in learning.items() if key not in set(covered)]
    if missing or len(covered) != len(set(covered)):
        raise ModelError(f"Parameter groups must cover each learning parameter once; not covered: {missing}.")


def build(
    backbone: Backbone, model: nn.Module, lr: float, known: Settings, before: torch.optim.Optimizer | None
) -> torch.optim.AdamW:
    """Return AdamW for the parameters that learn now; those that learned `before` keep their moments."""
    optimizer = torch.optim.AdamW(groups(backbone, model, lr, known), lr=lr, fused=_can_fuse(model))
    if before is not None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in before.state:
                    optimizer.state[parameter] = before.state[parameter]
    return optimizer


def _can_fuse(model: nn.Module) -> bool:
    """Whether one kernel can update all: torch has it for float tensors on CPU and CUDA."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set each group's rate to `share` of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
