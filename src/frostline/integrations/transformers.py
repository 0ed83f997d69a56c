"""Staged unfreezing in a Hugging Face `Trainer`: the cut moves, and checkpoints, evaluation and DDP go on.

The scheduler does the work (`frostline.Unfreezing`); the trainer steps it, saves it and restores it like any
other.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.strategies import Strategy, parse
from frostline.unfreezing import Unfreezing, adamw

try:
    _transformers: Any = import_module("transformers")
except ImportError as error:
    raise UsageError(
        f'This needs transformers ({error}). Install it: pip install "transformers[torch]>=4.46"'
    ) from None


class UnfreezingCallback(_transformers.TrainerCallback):  # type: ignore[misc]
    """Follow a strategy's phases in a Trainer whose model is, or contains, one made by `backbone.adapt`.

    A trainer without an optimizer gets AdamW with the strategy's layer-wise learning rates and weight decay;
    its arguments `learning_rate`, `lr_scheduler_type`, `warmup_steps` and `weight_decay` are then ignored.
    The phases share `num_train_epochs` (or `max_steps`).

    Parameters
    ----------
    trainer : transformers.Trainer
        Without a scheduler of its own.
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
        The strategy is invalid, or the trainer has a scheduler. When training starts: the strategy cannot be
        followed, or does not fit the trainer.
    ModelError
        The model is not, and does not contain, one made by `backbone.adapt`. When training starts: the
        optimizer lacks parameters that will train. In a phase's first step: a stage that should train got no
        gradient.

    Examples
    --------
    >>> trainer = Trainer(model, arguments, train_dataset=images)  # doctest: +SKIP
    >>> trainer.add_callback(UnfreezingCallback(trainer, backbone, "gradual_unfreeze(2)"))  # doctest: +SKIP
    """

    def __init__(self, trainer: Any, backbone: Backbone, strategy: Strategy | str) -> None:
        self.backbone = backbone
        self.strategy = parse(strategy) if isinstance(strategy, str) else strategy
        self.schedule: Unfreezing | None = None
        self._trainer = trainer
        if trainer.lr_scheduler is not None:
            raise UsageError("UnfreezingCallback brings a scheduler of its own: give the Trainer none.")
        if trainer.optimizer is None:
            trainer.optimizer = adamw(backbone, trainer.model, self.strategy)
        trainer.create_scheduler = self._create_scheduler  # what a subclass would override

    def _create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Unfreezing:
        """Make the schedule when the trainer knows how many steps there are, before it loads a checkpoint."""
        trainer, named = self._trainer, self._trainer.args
        epochs = named.num_train_epochs if named.max_steps <= 0 else 1.0
        per_epoch = max(1, round(num_training_steps / epochs))
        self.schedule = Unfreezing(
            optimizer or trainer.optimizer,
            self.backbone,
            trainer.model,
            self.strategy,
            epochs=num_training_steps / per_epoch,
            steps_per_epoch=per_epoch,
        )
        trainer.lr_scheduler = self.schedule
        trainer._created_lr_scheduler = True  # so that the next call of `train` makes another
        return self.schedule

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the schedule what the trainer has wrapped around the model.

        Parameters
        ----------
        args : TrainingArguments
        state : TrainerState
        control : TrainerControl
        **kwargs
            What else the trainer passes; ignored.
        """
        if self.schedule is not None:
            self.schedule.wrapped_in(self._trainer.model_wrapped)
