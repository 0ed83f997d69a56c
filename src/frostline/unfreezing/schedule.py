"""A learning-rate scheduler that also moves the cut: freezing that changes over time, in anyone's loop.

All parameters are in the optimizer from the start, and frozen ones have no gradient. So nothing about the
optimizer changes when the cut moves: what learned keeps its moments, groups keep their number, and a
checkpoint fits whichever phase it was written in. The place in the schedule is the scheduler's own state,
and where it is restored the model is frozen as it was.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from frostline import strategies
from frostline.errors import ModelError, UsageError
from frostline.models import Backbone, Cut, hold
from frostline.strategies import ResolvedPhase, Strategy, lr_schedule
from frostline.unfreezing.gradients import check_gradients
from frostline.unfreezing.param_grouping import param_groups
from frostline.unfreezing.wrapped_models import adapted_in, tell_moved

# What a strategy may say beside phases and rates, and who it is up to in a loop that is not frostline's.
OTHERS = {
    "head": "`backbone.adapt(num_classes, head=…)`",
    "head_init": "the weights of the head that you begin with",
    "head_init_l2": "the weights of the head that you begin with",
    "label_smoothing": "your loss",
    "clip_grad": "your loop",
    "feature_augment": "your loop",
    "l2_sp": "your loss",
    "mixup": "your loop",
    "cutmix": "your loop",
    "ema": "your loop",
    "optimizer": "the optimizer that you pass",
    "refit_layers": "`frostline.train`, which solves for such a head after training",
}


def freeze(backbone: Backbone, model: nn.Module, cut: Cut | int, *, bn: str = "affine") -> None:
    """Freeze the stages of `model` before the cut, for any training loop, and let the others learn.

    Frozen stages get no gradient and stay in eval mode even after `model.train()`, so that BatchNorm
    statistics do not change and dropout is off. Call it again to move the cut.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        A copy made by `backbone.adapt`, or a module that contains one.
    cut : Cut or int
        One of `backbone.cuts`, or an index into `backbone.stages` (the nearest earlier cut is used). 0 trains
        everything.
    bn : str
        BatchNorm after the cut: "affine" (weight and bias learn, statistics are fixed), "train" (statistics
        change too) or "eval" (nothing changes).

    Raises
    ------
    ModelError
        `model` contains no copy made by `backbone.adapt`, or `cut` is negative.
    UsageError
        `bn` is unknown.
    """
    hold(backbone, adapted_in(backbone, model), backbone.cut(cut) if isinstance(cut, int) else cut, bn)
    tell_moved(model)


def adamw(backbone: Backbone, model: nn.Module, plan: Strategy | str) -> torch.optim.AdamW:
    """Return AdamW with the learning rates and weight decay that `frostline.train` uses for a strategy.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        A copy made by `backbone.adapt`, or a module that contains one.
    plan : Strategy or str
        The strategy, or its notation.

    Returns
    -------
    torch.optim.AdamW
        Contains every parameter, frozen ones included, in the groups of `param_groups`.

    Raises
    ------
    ModelError
        `model` contains no copy made by `backbone.adapt`.
    UsageError
        The strategy is invalid.
    """
    known = strategies.hyperparameters(_parsed(plan))
    inner = adapted_in(backbone, model)
    made = param_groups(
        backbone, inner, lr=known.lr, layer_decay=known.layer_decay, weight_decay=known.weight_decay
    )
    return torch.optim.AdamW(made, lr=known.lr)


class Unfreezing(LRScheduler):
    """A torch learning-rate scheduler that also moves the cut; call `step()` after each optimizer step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Must contain from the start every parameter that the strategy ever trains. Groups made by
        `param_groups` get layer-wise rates; others get the head's rate.
    backbone : Backbone
    model : nn.Module
        A copy made by `backbone.adapt`, or a module that contains one, such as DistributedDataParallel.
    strategy : Strategy or str
        Its phases, learning rates, warm-up, schedule and BatchNorm policy are followed, as in
        `frostline.train`.
    epochs : float
        Length of the whole loop in epochs, above 0. The phases share it; each starts at the beginning of an
        epoch if there are enough epochs.
    steps_per_epoch : int
        Optimizer steps per epoch, 1 or more.

    Attributes
    ----------
    strategy : Strategy
    phases : tuple of ResolvedPhase
        The strategy's phases with their cuts, steps and learning rates.

    Raises
    ------
    UsageError
        The strategy is invalid, has settings that a scheduler cannot follow, or does not fit `epochs`.
    ModelError
        `model` contains no copy made by `backbone.adapt`, or the optimizer lacks parameters that will train.
        Later, from the first optimizer step of a phase: a stage that should train got no gradient.

    Notes
    -----
    `state_dict` contains plain numbers and text only. `load_state_dict` also freezes the model as it was when
    the state was saved.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        backbone: Backbone,
        model: nn.Module,
        strategy: Strategy | str,
        *,
        epochs: float,
        steps_per_epoch: int,
    ) -> None:
        self.strategy = _parsed(strategy)
        self.phases = _resolved_phases(self.strategy, backbone, epochs, steps_per_epoch)
        self._known = _hyperparameters(self.strategy, optimizer)
        self._backbone, self._wrapper = backbone, model
        self._model = adapted_in(backbone, model)
        self._at: int | None = None  # the cut that the model is frozen to
        _check_cover(optimizer, backbone, self._model, min(resolved.cut for resolved in self.phases))
        self._unchecked = False  # whether the cut has moved since gradients were looked at
        super().__init__(optimizer)
        hearing = weakref.WeakMethod(self._check_gradients)

        def after_step(*_: object) -> None:  # not before it: Lightning's backward pass is in the step
            check = hearing()
            if check is not None:
                check()

        _innermost(optimizer).register_step_post_hook(after_step)

    @property
    def phase(self) -> int:
        """The phase that the next step belongs to, from 0."""
        return _place(self.phases, self.last_epoch)[0]

    @property
    def cut(self) -> Cut:
        """Where the model is frozen to now."""
        return self._backbone.cut(self.phases[self.phase].cut)

    def wrapped_in(self, wrapper: nn.Module) -> None:
        """Register a module that was wrapped around the model after this scheduler was made.

        The wrapper is notified now, and whenever the cut moves.

        Parameters
        ----------
        wrapper : nn.Module
            Such as DistributedDataParallel or a compiled model.
        """
        self._wrapper = wrapper
        tell_moved(wrapper)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rates for the next step.

        Returns
        -------
        list of float
            One for each parameter group: the phase's rate, layer-wise, times the schedule's factor.
        """
        phase, step = _place(self.phases, self.last_epoch)
        resolved, last = self.phases[phase], len(self._backbone.stages) - 1
        share = lr_schedule.scale(step, resolved.steps, self._known.warmup, self._known.schedule)
        below = [last - group.get("stage", last) for group in self.optimizer.param_groups]
        return [share * lr_schedule.peak(resolved.lr, self._known.layer_decay, depth) for depth in below]

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step: set the learning rates, and move the cut if a new phase begins.

        Parameters
        ----------
        epoch : int or None
            Passed to torch's `LRScheduler.step`, which deprecates it; leave it None.
        """
        super().step(epoch)
        self._freeze()

    def _freeze(self) -> None:
        cut = self.cut
        if self._at != cut.index:
            hold(self._backbone, self._model, cut, self._known.bn)
            tell_moved(self._wrapper)
            self._at, self._unchecked = cut.index, True

    def _check_gradients(self) -> None:
        went_back = any(p.grad is not None for p in self._model.parameters())  # a step may come before any
        if self._unchecked and went_back:
            check_gradients(self._backbone, self._model)
            self._unchecked = False

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the schedule, and which schedule it is.

        Returns
        -------
        dict
            Plain numbers and text.
        """
        return {
            "strategy": str(self.strategy),
            "phases": [[resolved.cut, resolved.steps] for resolved in self.phases],
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position, and freeze the model accordingly.

        Parameters
        ----------
        state_dict : dict
            What `state_dict()` returned.

        Raises
        ------
        UsageError
            It belongs to another strategy, or to another number of epochs or steps.
        """
        own = self.state_dict()
        for key in ("strategy", "phases"):
            if state_dict.get(key) != own[key]:
                raise UsageError(
                    f"This checkpoint's {key}: {state_dict.get(key)}, and this run's: {own[key]}. "
                    "Go on with the same strategy, number of epochs and steps, or begin anew."
                )
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self._freeze()


def _parsed(plan: Strategy | str) -> Strategy:
    return strategies.parse(plan) if isinstance(plan, str) else strategies.checked(plan)


def _resolved_phases(
    plan: Strategy, backbone: Backbone, epochs: float, steps_per_epoch: int
) -> tuple[ResolvedPhase, ...]:
    if steps_per_epoch < 1 or epochs <= 0:
        raise UsageError(f"Found epochs={epochs:g}, steps_per_epoch={steps_per_epoch}; expected more than 0.")
    return strategies.stretched(
        plan, stages=len(backbone.stages), epochs=epochs, steps_per_epoch=steps_per_epoch
    )


def _hyperparameters(plan: Strategy, optimizer: torch.optim.Optimizer) -> strategies.Hyperparameters:
    """Return the settings. Raises `UsageError` naming those that someone else would have to follow."""
    default = Strategy(plan.name)
    wrong = [
        f"{key} is up to {whose}"
        for key, whose in OTHERS.items()
        if getattr(plan, key) != getattr(default, key)
    ]
    if plan.bn == "recalibrate":
        wrong.append("bn=recalibrate is a pass over the images after training, which frostline.train does")
    decays = {group.get("weight_decay", 0.0) for group in optimizer.param_groups} - {0.0}
    if plan.weight_decay is not None and decays - {plan.weight_decay}:
        wrong.append(f"weight_decay is up to the optimizer, whose groups have {sorted(decays)}")
    if wrong:
        raise UsageError(f"{plan} cannot be followed by a scheduler: {'; '.join(wrong)}. Leave it out.")
    return strategies.hyperparameters(plan)


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer itself where another library has wrapped it, as accelerate does."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def _check_cover(
    optimizer: torch.optim.Optimizer, backbone: Backbone, model: nn.Module, earliest: int
) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    stage_of, first = backbone.stage_of(model), backbone.cut(earliest).index
    missing = [
        name
        for name, parameter in model.named_parameters()
        if stage_of[name] >= first and parameter.is_floating_point() and id(parameter) not in held
    ]
    if missing:
        raise ModelError(
            f"The optimizer lacks {len(missing)} parameter(s) that will learn: {', '.join(missing[:8])}. "
            "Give it all from the start, frozen ones too: frostline.param_groups(backbone, model)."
        )


def _place(phases: tuple[ResolvedPhase, ...], step: int) -> tuple[int, int]:
    """Return the phase of a step and the step in it; after the end, the end of the last phase."""
    for index, resolved in enumerate(phases):
        if step < resolved.steps:
            return index, step
        step -= resolved.steps
    return len(phases) - 1, phases[-1].steps
