"""The trainer: phases, epochs, steps and validation of one run, resumed where an earlier process stopped.

`z` is what the frozen prefix computes from the pixels; at cut 0 it is the pixels themselves. The loss goes
through the trainable suffix alone. Frozen layers stay in eval mode throughout, in validation too.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from frostline import metrics
from frostline import models as bb
from frostline.cost.run_time import CHECKPOINT_S, CHECKPOINT_SHARE
from frostline.data.decoding_threads import Workers
from frostline.distributed import process_group
from frostline.errors import RunWarning
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts
from frostline.feature_extraction.augmentation import brightness
from frostline.feature_extraction.image_batches import Images, Item, evaluation_batch
from frostline.loggers import OnEpochs
from frostline.models import Backbone
from frostline.progress import QUIET, Activity, Progress
from frostline.strategies import Hyperparameters, ResolvedPhase, lr_schedule
from frostline.studies.study_folder import RunFolder
from frostline.system import compiling, devices
from frostline.system.device_transfers import Fetched, to_device
from frostline.system.seeds import derive
from frostline.system.timing import Stopwatch
from frostline.training.loop import all_reduce, optimizer
from frostline.training.loop.batches import PhaseBatches, targets_of
from frostline.training.loop.epoch_line import epoch_line
from frostline.training.loop.input_starvation import Pace
from frostline.training.loop.weight_average import WeightAverage
from frostline.training.numeric_plan import Plan
from frostline.training.resilience import checkpoint, nan_oom_recovery
from frostline.training.resilience.checkpoint import TrainingState
from frostline.training.resilience.interruption import Leave, heard
from frostline.training.resilience.time_limit import OutOfTime, TimeLimit
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.techniques.mixup import Mixing
from frostline.unfreezing import check_gradients, set_rates


@dataclass(frozen=True)
class Setup:
    """What a run trains with. Nothing of it changes while the run lasts."""

    backbone: Backbone
    phases: tuple[ResolvedPhase, ...]
    hyperparameters: Hyperparameters
    train: Images
    val: Images | None
    plan: Plan
    cache: FeatureCache | None
    counts: Counts
    balance: Balance
    seed: int
    metric: metrics.Metric
    keep: str  # the weights a run ends with: "best" on val, or "last"
    patience: int | None  # epochs of the last phase without a better one on val, before it stops early
    workers: Workers
    folder: RunFolder
    watch: Stopwatch
    budget: TimeLimit
    progress: Progress = QUIET
    deterministic: bool = False
    stop_after: int | None = None  # epochs of all phases, after which it stops whatever val says
    views_before: int = 0  # augmented epochs of the runs that this one continues from
    on_epochs: OnEpochs = lambda epochs: None  # called with all epochs so far, after each

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def smallest_piece(self) -> int:
        """Images that must be learned from together: batch statistics need two."""
        return 2 if self.hyperparameters.bn in ("train", "recalibrate") else 1


class Trainer:
    """Trains `model` in place: `fit` is the whole of it. `epochs` are the lines of the run's metrics."""

    def __init__(self, setup: Setup, model: nn.Module) -> None:
        self._setup = setup
        self._state = checkpoint.shared(setup.folder.path, model)
        self._model = setup.plan.numbers.place(model)
        self._scaler = setup.plan.numbers.scaler()
        known = setup.hyperparameters
        self._mixing = Mixing(known, setup.balance.classes) if known.mixes else None
        if self._state.loss_scale:
            self._scaler.load_state_dict(self._state.loss_scale)
        self.epochs: list[dict[str, Any]] = []
        self.pace = Pace()
        self._leave: Leave
        self._earlier_s = self._state.seconds  # of processes before this one

    def fit(self) -> TrainingState:
        """Train to the end, to the time limit or to a signal; the model then has the best weights.

        Raises `TrainingError` where a loss stays NaN, where memory suffices for no piece of a batch, and
        where another process of the job was asked to stop.
        """
        setup, state = self._setup, self._state
        finished = sum(phase.epochs for phase in setup.phases[: state.phase]) + state.epoch
        self.epochs = process_group.decided(lambda: setup.folder.metrics()[:finished])  # and no others
        setup.on_epochs(self.epochs)
        setup.budget.earlier_s = self._earlier_s
        self._checkpointed, self._checkpoint_s, self._disk_failed = time.monotonic(), CHECKPOINT_S, False
        self._optimizer: torch.optim.Optimizer | None = None
        with heard() as self._leave:
            try:
                for index in range(state.phase, len(setup.phases)):
                    self._begin_phase(index)
                    while state.epoch < setup.phases[index].epochs and not self.stopped_early:
                        self._train_epoch()
                    state.epoch, state.average = 0, self._average.tensors
            except OutOfTime:
                state.stopped = True
        self._average.keep()
        if state.best_weights:
            self._model.load_state_dict(state.best_weights)
        setup.folder.write_metrics(self.epochs)
        state.seconds = self._earlier_s
        return state

    # --- a phase --------------------------------------------------------------------------------------------

    def _begin_phase(self, index: int) -> None:
        """Freeze to the phase's cut; make its optimizer, with the moments of what learned before."""
        setup, model, state = self._setup, self._model, self._state
        state.phase = index
        self._phase, self._gradients_checked = setup.phases[index], False
        cut, bn = setup.backbone.cut(self._phase.cut), setup.hyperparameters.bn
        bb.freeze(setup.backbone, model, cut, bn)
        self._optimizer = optimizer.build(
            setup.backbone, model, self._phase.lr, setup.hyperparameters, self._optimizer
        )
        checkpoint.give_moments(model, self._optimizer, state.moments)
        state.moments = {}
        self._learning = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._anchor = optimizer.Anchor(setup.backbone, model, setup.hyperparameters.l2_sp)
        modes = bb.training_modes(setup.backbone, model.eval(), cut, bn)
        self._average = WeightAverage(model, modes, setup.hyperparameters.ema, state.average)
        self._compiled = self._regions(index, cut)
        self._batches = PhaseBatches(
            setup.backbone,
            model,
            modes,
            setup.phases,
            index,
            setup.plan,
            setup.cache,
            setup.counts,
            setup.workers,
        )

    def _regions(self, index: int, cut: bb.Cut) -> bb.CompiledRegions:
        """Return what of the layers that learn runs compiled in a phase; graphs of earlier cuts are dropped.

        Validation is not compiled, so that its last batch, which is smaller, needs no graph of its own.
        """
        setup, names = self._setup, list[str]()
        self._compiled_sizes: set[int] = set()  # batches, in images, whose first step is over
        if setup.plan.compiled.learning(index):
            if index > 0:
                compiling.forget()
            mixes = self._mixing is not None
            names = bb.learning_regions(setup.backbone, self._model, cut, frozen=mixes)
            setup.progress.log("  The first step compiles the layers that learn, which takes longer.")
        return bb.CompiledRegions(
            self._model, names, "the layers that learn", deterministic=setup.deterministic
        )

    def _suffix(self) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        return bb.suffix(self._setup.backbone, self._model, self._batches.cut)

    @property
    def stopped_early(self) -> bool:
        """Whether patience is over (epochs of the last phase alone count), or `stop_after` are done."""
        setup = self._setup
        if setup.stop_after is not None and len(self.epochs) >= setup.stop_after:
            return True
        return setup.patience is not None and self._state.waited >= setup.patience

    # --- an epoch -------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """Do the steps of an epoch that are not done yet, validate, and note what came of it."""
        setup, state = self._setup, self._state
        self._epoch_s, self._epoch_began = state.epoch_seconds, time.perf_counter()
        loss = self._mean_loss()
        self._set_rates(state.step - 1)  # they are not in a checkpoint, which may lie after the last step
        lr = optimizer.highest_lr(self._optimizer)
        row = {
            "phase": state.phase,
            "epoch": state.epoch,
            "cut": self._batches.cut.name,
            "lr": lr,
            "peak_lr": self._phase.lr * 0.5**state.halvings,
            "loss": loss,
            "seconds": self._epoch_seconds,
        }
        row |= self._validate()
        self.epochs.append(row)
        best, name = state.best_epoch == len(self.epochs), metrics.name_of(setup.metric)
        setup.progress.log(epoch_line(row, setup.phases, name, lr, best=best))
        state.epoch, state.views = state.epoch + 1, state.views + 1
        state.step, state.losses, state.epoch_seconds = 0, [], 0.0
        setup.on_epochs(self.epochs)
        if self._checkpoint_due:
            self._write_checkpoint()

    def _mean_loss(self) -> float:
        """Train the epoch; after a loss that is NaN, or where memory runs out, again from its start."""
        setup, state = self._setup, self._state
        items, targets = self._batches.epoch(
            setup.train,
            setup.balance,
            setup.seed,
            state.phase,
            state.epoch,
            setup.views_before + state.views + 1,
        )
        assert self._optimizer is not None
        while True:
            try:
                with self.pace.epoch(self._batches.from_pixels):
                    self._train_steps(items, targets)
                return float(torch.tensor(state.losses).mean())
            except nan_oom_recovery.NotFinite as error:
                files = [setup.train.samples[position].path for position, _ in items[error.step]]
                nan_oom_recovery.halve(self._model, self._optimizer, state, error, files)
            except nan_oom_recovery.OutOfMemory:
                if self._batches.free_device():  # before any batch is cut up
                    nan_oom_recovery.again(self._model, self._optimizer, state)
                    self._average.restore(state.start_average)
                    continue
                sizes = [len(batch) // process_group.size() for batch in items]
                sizes += [math.ceil(len(batch) / process_group.size()) for batch in items]
                nan_oom_recovery.split(self._model, self._optimizer, state, sizes, setup.smallest_piece)
            self._average.restore(state.start_average)
            self._write_checkpoint()  # the decision, before anything follows from it

    def _set_rates(self, step: int) -> None:
        """Set the optimizer's learning rates to those of a step of this epoch."""
        phase, state, known = self._phase, self._state, self._setup.hyperparameters
        assert self._optimizer is not None
        done = state.epoch * phase.steps_per_epoch + step
        share = lr_schedule.scale(done, phase.steps, known.warmup, known.schedule)
        set_rates(self._optimizer, share * 0.5**state.halvings)

    def _train_steps(self, items: list[list[Item]], targets: Tensor) -> None:
        """Do the epoch's steps that are left. `items` are its batches, `targets` all of theirs in order."""
        setup, state = self._setup, self._state
        first = state.step
        if self._mixing is None:
            self._prepare(setup.train, items)
        self._batches.set_training()
        self._moving = all_reduce.statistics(self._model)
        assert self._optimizer is not None
        if first == 0:
            checkpoint.begin_epoch(self._model, self._optimizer, state)
            state.start_average = self._average.copy()
        left = items[first:]
        mine = [batch[process_group.share(len(batch))] for batch in left]
        targets_left = targets[sum(map(len, items[:first])) :]
        sent = to_device(targets_left, setup.plan.numbers.device)  # once, so that no step waits for its own
        batch_targets = zip(targets_of(targets_left, left), targets_of(sent, left), strict=True)
        losses: list[Tensor] = []  # those that are not in `state` yet
        watch = nan_oom_recovery.LossWatch()
        with (
            torch.random.fork_rng(devices=devices.random_states()),
            self._compiled(),
            self._suffix() as suffix,
        ):
            setup.budget.check("step")
            began = time.perf_counter()
            inputs = self._batches.batches if self._mixing is None else self._batches.pixels
            batches = inputs(setup.train, mine)
            arriving = nan_oom_recovery.none_where_memory_ran_out(batches)
            sizes = map(len, mine)
            for step, (size, z, y) in enumerate(zip(sizes, arriving, batch_targets, strict=True), first):
                devices.seed(derive(setup.seed, "step", state.phase, state.epoch, step, *_process_name()))
                self._set_rates(step)
                with self.pace.step(size):
                    losses.append(self._train_step(suffix, z, y))
                state.steps, state.step = state.steps + 1, step + 1
                self._average.update(state.steps)
                watch.look(losses, state.step - len(losses))
                setup.progress(Activity.TRAIN, state.steps, setup.steps)
                if not setup.plan.compiled.learning(state.phase) or size in self._compiled_sizes:
                    setup.budget.note("step", began)  # the first one of a size compiles, and tells nothing
                self._compiled_sizes.add(size)
                self._between_steps(losses, more=step + 1 < len(items))
                began = time.perf_counter()
        self._move_losses(losses)
        nan_oom_recovery.check_weights(self._model, max(0, state.step - 1))

    # --- a step ---------------------------------------------------------------------------------------------

    def _train_step(
        self, suffix: Callable[[Tensor], Tensor], z: Tensor | None, y: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Learn from one batch, given this process's part of it and all its targets; return its loss.

        The targets are given twice, on the processor and on the device. `z` is None where memory ran out
        before it was there. Raises `nan_oom_recovery.OutOfMemory` in all processes where one of them ran out.
        """
        known = self._setup.hyperparameters
        assert self._optimizer is not None
        loss: Tensor | None = None
        try:
            self._optimizer.zero_grad(set_to_none=True)
            loss = None if z is None else self._backward(suffix, z, y)
        except Exception as error:
            if not nan_oom_recovery.is_out_of_memory(error):
                raise
        loss = all_reduce.add_up(self._learning, self._moving, loss)
        if not self._gradients_checked:
            check_gradients(self._setup.backbone, self._model)
            self._gradients_checked = True
        try:
            self._scaler.unscale_(self._optimizer)
            self._anchor.pull()
            torch.nn.utils.clip_grad_norm_(self._learning, known.clip_grad)
            self._scaler.step(self._optimizer)
        except torch.OutOfMemoryError as error:  # as where the first step makes room for moments
            if process_group.size() > 1:  # the others have made this step
                raise
            raise nan_oom_recovery.OutOfMemory from error
        self._scaler.update()
        return loss

    def _augmented(self, z: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the targets of this process's part: mixed, brighter or darker."""
        state = self._state
        if self._mixing is not None:
            seed = derive(self._setup.seed, "mix", state.phase, state.epoch, state.step)
            pixels, mine = self._mixing(z, mine, seed)
            z = self._batches.frozen_part(pixels)
        strength = self._setup.hyperparameters.feature_augment if self._batches.cut.index > 0 else 0.0
        return brightness(z, strength), mine

    def _backward(
        self, suffix: Callable[[Tensor], Tensor], z: Tensor, targets_twice: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Backpropagate the loss of a part of the batch, in pieces where memory is short; return the loss."""
        setup = self._setup
        y, own = targets_twice[0], process_group.share(len(targets_twice[0]))
        z, mine = self._augmented(z, targets_twice[1][own])
        weighed = y[own] if self._mixing is None else mine  # on the processor, where they are whole classes
        pieces = max(1, min(self._state.pieces, len(mine) // setup.smallest_piece))
        total: Tensor | None = None
        parts = zip(*(whole.tensor_split(pieces) for whole in (z, mine, weighed)), strict=True)
        for part, targets, piece in parts:
            with setup.plan.numbers.autocast():
                logits = suffix(part)
            smoothing = setup.hyperparameters.label_smoothing
            loss = setup.balance.loss(logits.float(), targets, smoothing)
            if len(targets) < len(y):
                loss = loss * setup.balance.share(piece, y)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _between_steps(self, losses: list[Tensor], *, more: bool) -> None:
        """Checkpoint where one is due, leave where a signal came, stop where the time is up."""

        def keep() -> None:
            self._move_losses(losses)
            self._write_checkpoint()

        due = process_group.leads() and self._checkpoint_due
        others, late, due = process_group.any_of(
            self._leave.signalled, more and self._setup.budget.late("step"), more and due
        )
        self._leave(keep, others=others)
        if late:
            raise OutOfTime
        if due:
            keep()

    def _move_losses(self, losses: list[Tensor]) -> None:
        """Move losses into the state, which is what checkpoints hold."""
        nan_oom_recovery.check_losses(losses, self._state.step - len(losses))
        if losses:
            self._state.losses += torch.stack(losses).tolist()
            losses.clear()

    # --- validation -----------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Score val, and keep the weights if they are the best so far and the best are asked for."""
        setup, state = self._setup, self._state
        if setup.val is None:
            return {}
        setup.budget.check("validation")
        began = time.perf_counter()
        self._model.eval()
        with self._average.in_place():
            logits = self._logits(setup.val)
            probabilities = metrics.softmax(logits)
            score = metrics.goodness(setup.metric, setup.val.targets, probabilities)
            better = state.best is None or score >= state.best or not np.isfinite(state.best)
            if state.phase == len(setup.phases) - 1:  # an equal score is no progress to wait for
                before = -math.inf if state.best is None or math.isnan(state.best) else state.best
                state.waited = 0 if score > before else state.waited + 1
            if better and (setup.keep == "best" or setup.patience is not None):
                state.best, state.best_epoch = score, len(self.epochs) + 1
            if better and setup.keep == "best":
                state.best_weights = {k: v.detach().clone() for k, v in self._model.state_dict().items()}
        setup.budget.note("validation", began)
        return {
            "val_accuracy": metrics.score("accuracy", setup.val.targets, probabilities),
            f"val_{metrics.name_of(setup.metric)}": metrics.score(
                setup.metric, setup.val.targets, probabilities
            ),
            "val_loss": float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(setup.val.targets))),
        }

    def _logits(self, images: Images) -> NDArray[np.float32]:
        """Return the logits (images, classes) of view 0 of every image, from the features at the cut.

        Each process of a job computes those of a share of the images.
        """
        try:
            return self._logits_of(images)
        except Exception as error:
            if not nan_oom_recovery.is_out_of_memory(error) or not self._batches.free_device():
                raise
        nan_oom_recovery.give_back()
        return self._logits_of(images)

    def _logits_of(self, images: Images) -> NDArray[np.float32]:
        setup, batches = self._setup, self._batches
        self._prepare(images, batches.still(range(len(images)), evaluation_batch()))
        logits: list[Fetched] = []
        with torch.no_grad(), self._suffix() as suffix:
            mine = range(len(images))[process_group.share(len(images))]
            for z in batches.batches(images, batches.still(mine, evaluation_batch())):
                if process_group.size() == 1:
                    self._leave(self._write_checkpoint)
                with setup.plan.numbers.autocast():
                    logits.append(Fetched(suffix(z).float()))
        none = np.empty((0, setup.balance.classes), dtype=np.float32)
        mine_logits = np.concatenate([none, *(one.value().numpy() for one in logits)])
        return process_group.gathered(mine_logits, len(images))

    def _prepare(self, images: Images, items: list[list[Item]]) -> None:
        """Compute the features that will be read; a signal or the time may end that.

        The processes of a job fill the cache together, and then hear what has come to one of them.
        """
        leave, batches, outer = self._leave, self._batches, self._setup.progress

        def heard_between(what: str, done: int, total: int) -> None:
            if process_group.size() == 1:
                leave(self._write_checkpoint)
            elif leave.signalled:
                raise OutOfTime
            outer(what, done, total)

        if process_group.size() == 1:
            batches.prepare(images, items, Progress.of(heard_between))
            return
        late = False
        try:
            batches.prepare(images, items, Progress.of(heard_between))
        except OutOfTime:
            late = not leave.signalled
        others, late = process_group.any_of(leave.signalled, late)
        leave(self._write_checkpoint, others=others)
        if late:
            raise OutOfTime

    # --- checkpoints ----------------------------------------------------------------------------------------

    @property
    def _epoch_seconds(self) -> float:
        """Seconds of the epoch under way, those of earlier processes included."""
        return self._epoch_s + time.perf_counter() - self._epoch_began

    @property
    def _checkpoint_due(self) -> bool:
        """Whether a state may be written again, by this process's clock."""
        return (time.monotonic() - self._checkpointed) * CHECKPOINT_SHARE > self._checkpoint_s

    def _write_checkpoint(self) -> None:
        """Write the state now; a full disk costs a warning. Of a job's processes the first one writes.

        The metrics' lines come first: lines past the state are cut off when the run is resumed.
        """
        if not process_group.leads():
            return
        setup, state, began = self._setup, self._state, time.monotonic()
        assert self._optimizer is not None
        state.seconds = self._earlier_s + setup.watch.seconds
        state.epoch_seconds = self._epoch_seconds if state.step else 0.0
        state.loss_scale = self._scaler.state_dict()
        try:
            setup.folder.write_metrics(self.epochs)
            moments = checkpoint.moments_of(self._model, self._optimizer)
            with self._average.set_aside():
                state.average = self._average.tensors
                checkpoint.write(setup.folder.path, self._model, state, moments)
        except OSError as error:
            if not self._disk_failed:
                warnings.warn(
                    f"No checkpoint can be written to {setup.folder.path} ({error.strerror}): the run "
                    "continues, but if it is stopped it resumes from the last one that was.",
                    RunWarning,
                    stacklevel=2,
                )
            self._disk_failed = True
        self._checkpointed = time.monotonic()
        self._checkpoint_s = self._checkpointed - began


def _process_name() -> tuple[str, ...]:
    """What tells a process's draws of dropout from the others'; nothing in the first one, or alone."""
    return () if process_group.leads() else (f"process {process_group.rank()}",)
