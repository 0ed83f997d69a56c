"""Whether everything that was let learn does: a stale compiled graph gives thawed layers no gradient."""

from __future__ import annotations

from torch import nn

from frostline.errors import ModelError
from frostline.models import Backbone


def check_gradients(backbone: Backbone, model: nn.Module) -> None:
    """Raise where a stage of which something requires gradients got none in the backward pass just done.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        A copy made by `backbone.adapt`, before its gradients are dropped.

    Raises
    ------
    ModelError
        A stage that should learn got no gradient at all; a single parameter that the network leaves unused is
        no error.
    """
    stage_of = backbone.stage_of(model)
    learning = {
        stage_of[name]: name for name, p in reversed(list(model.named_parameters())) if p.requires_grad
    }
    moved = {stage_of[name] for name, p in model.named_parameters() if p.grad is not None}
    silent = sorted(set(learning) - moved)
    if silent:
        names = ", ".join(f"{backbone.stages[stage].name} ({learning[stage]}, …)" for stage in silent[:8])
        raise ModelError(
            f"{len(silent)} of {len(learning)} stages that should learn got no gradient: {names}; expected one "
            "for each. A graph compiled while they were frozen, torch.no_grad() or detach() in the forward "
            "pass, or a loss that does not use them does that: compile after frostline.Unfreezing is made, "
            "or take the compiled part out."
        )
