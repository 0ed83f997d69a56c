"""Frozen means frozen: no gradient, eval mode, BatchNorm statistics still. A total function over a model.

`freeze` decides what can learn, `set_training` what behaves as in training; call the second wherever others
call `model.train()`, also after validation.
"""

from __future__ import annotations

from torch import nn

from frostline.backbone.model import Backbone, Cut
from frostline.errors import UsageError, did_you_mean

BN_POLICIES = ("eval", "affine", "train", "recalibrate")


def freeze(backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine") -> None:
    """Set `requires_grad` of every parameter: stages before the cut never learn, the others do.

    BatchNorm after the cut: with "eval" its weight and bias are fixed too, else they learn. Raises
    `ModelError` with the names of parameters that belong to no stage.
    """
    _check(bn)
    stages = backbone.stage_of(model)
    fixed = _fixed_norms(model) if bn == "eval" else set()
    # A tensor with two names is as frozen as the earlier of its stages.
    frozen = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if stages[name] < cut.index
    }
    for parameter in model.parameters():
        learns = id(parameter) not in frozen and id(parameter) not in fixed
        parameter.requires_grad_(learns and parameter.is_floating_point())


def set_training(backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine") -> None:
    """Put frozen modules in eval mode and the others in training mode, BatchNorm as its policy says.

    A module that works on both sides of the cut is in training mode itself, but BatchNorm there stays still.
    """
    for module, learns in training_modes(backbone, model, cut, bn):
        module.training = learns


def training_modes(
    backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine"
) -> list[tuple[nn.Module, bool]]:
    """Return each module with its `training` flag, to be set many times and worked out once."""
    _check(bn)
    still = bn in ("eval", "affine")
    modes = []
    for name, (first, last) in backbone.module_spans(model).items():
        module = model.get_submodule(name)
        frozen_norm = keeps_statistics(module) and (still or first < cut.index)
        modes.append((module, last >= cut.index and not frozen_norm))
    return modes


def keeps_statistics(module: nn.Module) -> bool:
    """Tell whether a module has running statistics of its own, as every BatchNorm has."""
    return "running_mean" in module._buffers and "running_var" in module._buffers


def _fixed_norms(model: nn.Module) -> set[int]:
    norms = [module for module in model.modules() if keeps_statistics(module)]
    return {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}


def _check(bn: str) -> None:
    if bn not in BN_POLICIES:
        raise UsageError(
            f"BatchNorm policy {bn!r} is unknown; expected one of {', '.join(BN_POLICIES)}."
            + did_you_mean(bn, BN_POLICIES)
        )
