"""The optimizer of what learns in a phase: AdamW, or another of timm's; the groups are `unfreezing`'s."""

from __future__ import annotations

import copy

import torch
from torch import nn

from frostline.models import Backbone
from frostline.strategies import Hyperparameters
from frostline.training.resilience import checkpoint
from frostline.unfreezing import groups

DEFAULT = Hyperparameters().optimizer  # torch's, fused where it can be


def build(
    backbone: Backbone,
    model: nn.Module,
    lr: float,
    known: Hyperparameters,
    before: torch.optim.Optimizer | None,
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that learn now; those that learned `before` keep their state."""
    learning = groups(backbone, model, lr, known.layer_decay, known.weight_decay)
    if known.l2_sp:
        for group in learning:  # drawn to where they started, not to 0
            if group["stage"] < len(backbone.stages) - 1:
                group["weight_decay"] = 0.0
    optimizer: torch.optim.Optimizer
    if known.optimizer == DEFAULT:
        optimizer = torch.optim.AdamW(learning, lr=lr, fused=_can_fuse(model))
    else:
        from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

        optimizer = create_optimizer_v2(learning, known.optimizer, lr=lr, weight_decay=known.weight_decay)
    if before is not None:
        counted = {group["name"]: checkpoint.of_group(before, group) for group in before.param_groups}
        for group in optimizer.param_groups:
            group.update(copy.deepcopy(counted.get(group["name"], {})))
            for parameter in group["params"]:
                if parameter in before.state:
                    optimizer.state[parameter] = before.state[parameter]
    return optimizer


class Anchor:
    """L2-SP: what draws the weights that learn, but for the head's, to where they started.

    The start is the backbone's own, so that a run that goes on needs nothing from the one before it.
    """

    def __init__(self, backbone: Backbone, model: nn.Module, strength: float) -> None:
        start = dict(backbone.model.named_parameters())
        mine = [
            (parameter, start[name])
            for name, parameter in model.named_parameters()
            if strength and parameter.requires_grad and not backbone.classifier.owns(name)
        ]
        self._strength = strength
        self._learning: list[torch.Tensor] = [parameter for parameter, _ in mine]
        self._start = [torch.empty_like(p, requires_grad=False).copy_(s.detach()) for p, s in mine]

    def pull(self) -> None:
        """Add the penalty's gradient to those of the loss: strength · (weight − start)."""
        reached = [n for n, parameter in enumerate(self._learning) if parameter.grad is not None]
        if reached:
            with torch.no_grad():
                weights = [self._learning[n] for n in reached]
                away = torch._foreach_sub(weights, [self._start[n] for n in reached])
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                torch._foreach_add_(gradients, list(away), alpha=self._strength)


def _can_fuse(model: nn.Module) -> bool:
    """Whether one kernel can update all: torch has it for float tensors on CPU and CUDA."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())
