"""Parameter groups with layer-wise learning rates.

A group is one stage's parameters with weight decay, or those without: 1-D parameters have none. The rate of a
stage is given by `strategies.lr_schedule`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frostline.errors import ModelError
from frostline.models import Backbone
from frostline.strategies import Hyperparameters, lr_schedule

DEFAULT = Hyperparameters()


def param_groups(
    backbone: Backbone,
    model: nn.Module,
    *,
    lr: float = DEFAULT.lr,
    layer_decay: float = DEFAULT.layer_decay,
    weight_decay: float = DEFAULT.weight_decay,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer, with layer-wise learning rates.

    Every parameter of `model` is in exactly one group, frozen ones included: an optimizer skips parameters
    without a gradient, and the number of groups does not change when they are unfrozen later.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        A copy made by `backbone.adapt`.
    lr : float
        Learning rate of the head.
    layer_decay : float
        A stage d below the head gets the rate `lr * layer_decay ** d`; 1 gives all stages the same rate.
    weight_decay : float
        Weight decay; 0 for parameters with one dimension (biases, norms).

    Returns
    -------
    list of dict
        Groups with `params`, `lr`, `weight_decay`, `name`, `stage` (index into `backbone.stages`) and `peak`
        (the learning rate before any schedule).

    Raises
    ------
    ModelError
        Parameters belong to no stage; the message names them.
    """
    return groups(backbone, model, lr, layer_decay, weight_decay, frozen=True)


def groups(
    backbone: Backbone,
    model: nn.Module,
    lr: float,
    layer_decay: float,
    weight_decay: float,
    *,
    frozen: bool = False,
) -> list[dict[str, Any]]:
    """Return parameter groups that cover every learning parameter exactly once; `frozen` ones where asked.

    Each has `name`, `stage`, `peak` (its learning rate at the top of the schedule) and `weight_decay`.
    """
    stage_of = backbone.stage_of(model)
    last = len(backbone.stages) - 1
    by_stage: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not (parameter.requires_grad or (frozen and parameter.is_floating_point())):
            continue
        stage, decays = stage_of[name], parameter.ndim > 1
        peak = lr_schedule.peak(lr, layer_decay, last - stage)
        group = by_stage.setdefault(
            (stage, decays),
            {
                "name": f"{backbone.stages[stage].name}{'' if decays else ' (no decay)'}",
                "stage": stage,
                "peak": peak,
                "lr": peak,
                "weight_decay": weight_decay if decays else 0.0,
                "params": [],
            },
        )
        group["params"].append(parameter)
    _check_cover(model, list(by_stage.values()))
    return [by_stage[key] for key in sorted(by_stage)]


def _check_cover(model: nn.Module, made: list[dict[str, Any]]) -> None:
    covered = [id(p) for group in made for p in group["params"]]
    learning = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for key, name in learning.items() if key not in set(covered)]
    if missing or len(covered) != len(set(covered)):
        raise ModelError(f"Parameter groups must cover each learning parameter once; not covered: {missing}.")


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set each group's rate to `share` of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
