"""The adapted model inside what others wrap around it, and wrappers told that the cut has moved."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frostline.errors import ModelError
from frostline.models import Backbone


def adapted_in(backbone: Backbone, module: nn.Module) -> nn.Module:
    """Return the outermost module in `module` that is a model made by `backbone.adapt`.

    That is `module` itself, or lies in a LightningModule, DistributedDataParallel, a compiled model or a
    module of one's own. Raises `ModelError` where there is none.
    """
    for inner in module.modules():
        if _fits(backbone, inner):
            return inner
    raise ModelError(
        f"{type(module).__name__} holds no model of {backbone.name}; expected one made by "
        "`backbone.adapt(num_classes)` somewhere in it."
    )


def _fits(backbone: Backbone, module: nn.Module) -> bool:
    try:
        stages = backbone.stage_of(module)
        backbone.module_spans(module)
    except ModelError:
        return False
    return set(stages.values()) == set(range(len(backbone.stages)))


def tell_moved(wrapper: nn.Module) -> None:
    """Let what is wrapped around a model learn that other parameters require gradients now.

    DistributedDataParallel decides which gradients are exchanged when it is made: what is unfrozen later
    would drift apart on each rank, and what freezes later would be waited for (Lightning #20340). It is made
    anew in place, by torch's own way to restore one, so that every reference to it holds. What is compiled is
    compiled anew, since its graph may lack what was frozen (pytorch #139476): a wrapper, a module compiled in
    place, a part of one, or a function around it. No module shows all of these, so all graphs are dropped
    wherever torch's compiler was loaded.
    """
    for module in wrapper.modules():
        if isinstance(module, DistributedDataParallel):
            _rebuild(module)
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and loading it takes seconds
        torch.compiler.reset()


def _rebuild(ddp: DistributedDataParallel) -> None:
    state = ddp.__getstate__()  # type: ignore[no-untyped-call]
    hooks = list(ddp._comm_hooks)
    del ddp.reducer, ddp.logger  # the old one lets go of the parameters before the new one takes them
    ddp.__setstate__({**state, "_comm_hooks": []})  # type: ignore[no-untyped-call]
    for hook, value in hooks:
        ddp.register_comm_hook(value, hook)
