"""What the processes of a job tell each other in a step: whether it went well, and their gradients.

Each has learned from its own part of the global batch, its loss weighted by its share of it, so the sum of
the gradients is the gradient of the whole batch. They are added up once, after the last piece of the batch,
and only of what learns in the present phase: nothing is kept or sent for frozen layers. Why this is not
torch's DistributedDataParallel: docs/decisions/0011-several-processes.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.distributed import process_group
from frostline.training.resilience import nan_oom_recovery


def add_up(learning: list[nn.Parameter], moving: list[Tensor], loss: Tensor | None) -> Tensor:
    """Add up the gradients of what learns, and return the global batch's loss; nothing is done alone.

    `loss` is this process's share of it, None where memory ran out. `moving` are statistics that the forward
    pass has moved: all processes go on with their mean. A parameter that no process used keeps no gradient.
    Raises `nan_oom_recovery.OutOfMemory` in all processes where one of them ran out.
    """
    if process_group.size() == 1:
        if loss is None:
            raise nan_oom_recovery.OutOfMemory
        return loss
    ran_out, *used = process_group.any_of(loss is None, *(p.grad is not None for p in learning))
    if ran_out or loss is None:
        raise nan_oom_recovery.OutOfMemory
    gradients = []
    for parameter, somewhere in zip(learning, used, strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    if moving:
        torch._foreach_mul_(moving, 1.0 / process_group.size())
    total = loss.detach().clone()
    process_group.add_up([total, *gradients, *moving])
    return total


def statistics(model: nn.Module) -> list[Tensor]:
    """Return the running statistics that a forward pass moves now: those of BatchNorm in training mode."""
    return [
        held
        for module in model.modules()
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
        for held in (module.running_mean, module.running_var)
        if held is not None
    ]
