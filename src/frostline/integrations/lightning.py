"""Staged unfreezing in a Lightning `Trainer`: the cut moves; checkpoints, validation and DDP go on.

The scheduler does the work (`frostline.Unfreezing`); Lightning steps it, saves it and restores it like any
other. Works with `lightning`, and with `pytorch_lightning` where that is what was imported before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.strategies import Strategy
from frostline.unfreezing import Unfreezing, adapted_in

_OLD_NAME = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
_NAME = "pytorch_lightning" if _OLD_NAME else "lightning.pytorch"
try:
    _lightning: Any = import_module(_NAME)
    _types: Any = import_module(f"{_NAME}.utilities.types")
except ImportError as error:
    raise UsageError(f'This needs Lightning ({error}). Install it: pip install "lightning>=2.4"') from None

# They shard parameters, or make the optimizer's groups themselves, before a cut could move.
NOT_SUPPORTED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy")


class UnfreezingCallback(_lightning.Callback):  # type: ignore[misc]
    """Follow a strategy's phases in a LightningModule that contains a model made by `backbone.adapt`.

    `configure_optimizers` must return one optimizer with every parameter
    (`torch.optim.AdamW(frostline.param_groups(backbone, self.model))`) and no scheduler: learning rates
    follow the strategy, which also divides the trainer's epochs into phases. Lightning notes at the start
    that modules are in eval mode: those are the frozen ones.

    Parameters
    ----------
    backbone : Backbone
    strategy : Strategy or str
        The strategy, or its notation.

    Attributes
    ----------
    schedule : Unfreezing or None
        The scheduler; None before training starts.

    Raises
    ------
    UsageError
        When training starts: the strategy cannot be followed, or does not fit the trainer or its optimizer.
    ModelError
        When training starts: the module contains no model made by `backbone.adapt`, or the optimizer lacks
        parameters that will train. In a phase's first step: a stage that should train got no gradient.
    """

    def __init__(self, backbone: Backbone, strategy: Strategy | str) -> None:
        self.backbone = backbone
        self.strategy = strategy
        self.schedule: Unfreezing | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the schedule and pass it to Lightning, before it restores a checkpoint.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule

        Raises
        ------
        UsageError, ModelError
            As for the class.
        """
        _check(trainer, pl_module)
        steps = trainer.estimated_stepping_batches
        if steps in (-1, float("inf")):
            raise UsageError("This training has no end: give the Trainer max_epochs or max_steps.")
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        per_epoch = min(steps, max(1, -int(-batches // 1))) if batches != float("inf") else steps
        self.schedule = Unfreezing(
            trainer.optimizers[0],
            self.backbone,
            pl_module,
            self.strategy,
            epochs=steps / per_epoch,
            steps_per_epoch=per_epoch,
        )
        self.schedule.wrapped_in(trainer.strategy.model)
        config = _types.LRSchedulerConfig(self.schedule, name="unfreezing", interval="step")
        trainer.strategy.lr_scheduler_configs = [config]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the unfrozen modules in training mode: Lightning leaves a model in the mode that it comes in.

        Parameters
        ----------
        trainer : Trainer
        pl_module : LightningModule
        """
        adapted_in(self.backbone, pl_module).train()


def _check(trainer: Any, pl_module: Any) -> None:
    name = type(trainer.strategy).__name__
    wrong = []
    if name in NOT_SUPPORTED:
        wrong.append(f"{name} is not supported; use one device or strategy='ddp'")
    if not pl_module.automatic_optimization:
        wrong.append("with manual optimization nobody steps it; make a frostline.Unfreezing and step that")
    if len(trainer.optimizers) != 1:
        wrong.append(f"it needs one optimizer, and configure_optimizers returned {len(trainer.optimizers)}")
    if trainer.lr_scheduler_configs:
        wrong.append("it brings a scheduler of its own; return none from configure_optimizers")
    if wrong:
        raise UsageError(f"UnfreezingCallback cannot be used like this: {'; '.join(wrong)}.")
