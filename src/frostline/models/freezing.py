"""Freeze stages of a model: no gradient, eval mode, fixed BatchNorm statistics.

`freeze` decides what can learn, `set_training` what behaves as in training; call the second wherever others
call `model.train()`, also after validation. Where the loop is somebody else's, `hold` makes their own
`model.train()` do that.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from frostline.errors import UsageError, did_you_mean
from frostline.models.backbone import Backbone, Cut
from frostline.strategies import BN_POLICIES


def freeze(backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine") -> None:
    """Set `requires_grad` of every parameter: stages before the cut are frozen, the others train.

    Frozen parameters lose their gradient, so that no optimizer moves them.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
    bn : str
        BatchNorm policy after the cut, one of `BN_POLICIES`; "eval" freezes its weight and bias too.

    Raises
    ------
    ModelError
        Parameters belong to no stage.
    UsageError
        `bn` is unknown.
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
        if not parameter.requires_grad:
            parameter.grad = None


def set_training(backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine") -> None:
    """Put frozen modules in eval mode and the others in training mode, BatchNorm as its policy says.

    Call it in place of `model.train()`. A module on both sides of the cut is in training mode, but BatchNorm
    statistics in it stay fixed.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
    bn : str
        One of `BN_POLICIES`.

    Raises
    ------
    UsageError
        `bn` is unknown.
    """
    for module, learns in training_modes(backbone, model, cut, bn):
        module.training = learns


def training_modes(
    backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine"
) -> list[tuple[nn.Module, bool]]:
    """Return each module with its `training` flag, as `set_training` sets it.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
    bn : str
        One of `BN_POLICIES`.

    Returns
    -------
    list of (nn.Module, bool)
    """
    _check(bn)
    still = bn in ("eval", "affine")
    modes = []
    for name, (first, last) in backbone.module_spans(model).items():
        module = model.get_submodule(name)
        frozen_norm = keeps_statistics(module) and (still or first < cut.index)
        modes.append((module, last >= cut.index and not frozen_norm))
    return modes


def hold(backbone: Backbone, model: nn.Module, cut: Cut, bn: str = "affine") -> None:
    """Freeze to the cut, and make `train()` of the model and its modules respect that from now on.

    A second call replaces the first. `copy.deepcopy` and `state_dict` work as before.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
    bn : str
        One of `BN_POLICIES`.

    Raises
    ------
    UsageError
        `bn` is unknown.
    """
    freeze(backbone, model, cut, bn)
    release(model)
    for module, learns in training_modes(backbone, model, cut, bn):
        if not learns:
            module.__dict__["train"] = _KeptStill(module)
    model.train(model.training)


def release(model: nn.Module) -> None:
    """Undo `hold` for `train()`; frozen parameters stay frozen."""
    for module in model.modules():
        if isinstance(module.__dict__.get("train"), _KeptStill):
            del module.__dict__["train"]


class _KeptStill:
    """Stands for a frozen module's `train`: its children hear of it, the module itself stays in eval mode.

    A class and not a closure, so that a copy of the module holds the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> Any:
        type(self.module).train(self.module, mode)
        self.module.training = False
        return self.module


def keeps_statistics(module: nn.Module) -> bool:
    """Return whether a module has running statistics, as every BatchNorm has."""
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
