"""One epoch: steps over batches of (z, y), from the step where it is, with a checkpoint between any two.

The loss goes through the trainable suffix alone; frozen layers stay in eval mode.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.distributed import process_group
from frostline.errors import RunWarning
from frostline.features.augmentation import brightness
from frostline.features.image_batches import Images, Item
from frostline.strategies import lr_schedule
from frostline.system.seeds import derive
from frostline.training import optimizer
from frostline.training.batches import Supply, targets_of
from frostline.training.job import Job
from frostline.training.parallel import all_reduce
from frostline.training.resilience import checkpoint, recovery
from frostline.training.resilience.checkpoint import TrainingState
from frostline.training.resilience.interruption import Leave
from frostline.training.resilience.time_limit import OutOfTime
from frostline.unfreezing import set_rates

# A checkpoint costs a synced write of the whole state. It may take this share of the time; when it is written
# changes no bit of the result.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_S = 0.04  # what the first one is taken to cost, until it was measured: lite0's on a local disk


class Keeper:
    """Writes the state between two steps, as often as its cost allows. A full disk costs a warning."""

    def __init__(self, job: Job, model: nn.Module, state: TrainingState) -> None:
        self._job, self._model, self._progress = job, model, state
        self._earlier_s = state.seconds  # of processes before this one
        self._saved, self._cost_s, self._failed = time.monotonic(), CHECKPOINT_S, False
        self._epoch_s = 0.0  # of the epoch under way, when it or this process began with it
        self._since = time.perf_counter()

    def begin_epoch(self) -> None:
        """Let the epoch's seconds be counted from here."""
        self._epoch_s, self._since = self._progress.epoch_seconds, time.perf_counter()

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the epoch under way, those of earlier processes included."""
        return self._epoch_s + time.perf_counter() - self._since

    @property
    def due(self) -> bool:
        """Whether a state may be written again, by this process's clock."""
        return (time.monotonic() - self._saved) * CHECKPOINT_SHARE > self._cost_s

    def keep(self, optimizer: torch.optim.Optimizer) -> None:
        """Write the state now. The metrics' lines come first: lines past the state are cut off on return.

        Of a job's processes, which hold the same state, the first one writes.
        """
        if not process_group.leads():
            return
        begun = time.monotonic()
        self._progress.seconds = self._earlier_s + self._job.watch.seconds
        self._progress.epoch_seconds = self.epoch_seconds if self._progress.step else 0.0
        try:
            self._job.folder.write_metrics(self._job.rows)
            moments = checkpoint.moments_of(self._model, optimizer)
            checkpoint.write(self._job.folder.path, self._model, self._progress, moments)
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"No checkpoint can be written to {self._job.folder.path} ({error.strerror}): the run "
                    "goes on, but if it is stopped it begins again at the last one that was.",
                    RunWarning,
                    stacklevel=2,
                )
            self._failed = True
        self._saved = time.monotonic()
        self._cost_s = self._saved - begun


class Epoch:
    """The epoch that `state` stands in; `leave` is asked between two steps."""

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        supply: Supply,
        opt: torch.optim.Optimizer,
        state: TrainingState,
        keeper: Keeper,
        leave: Leave,
    ) -> None:
        self._job, self._model, self._supply, self._opt = job, model, supply, opt
        self._progress, self._keeper, self._leave = state, keeper, leave
        view = state.views + 1
        self._anchor = optimizer.Anchor(job.backbone, model, job.hyperparameters.l2_sp)
        self._items, self._targets = supply.epoch(
            job.train, job.balance, job.seed, state.phase, state.epoch, view
        )
        self._mine = [batch[process_group.share(len(batch))] for batch in self._items]
        self._learning = [parameter for group in opt.param_groups for parameter in group["params"]]

    def run(self) -> float:
        """Do the steps that are not done yet; return the epoch's mean loss.

        A loss that is no number, or memory that runs out, takes the epoch back to its start.
        """
        while True:
            try:
                self._steps()
                return float(torch.tensor(self._progress.losses).mean())
            except recovery.NotFinite as error:
                recovery.halve(self._model, self._opt, self._progress, error, self._files(error.step))
            except recovery.OutOfMemory:
                sizes = [len(batch) // process_group.size() for batch in self._items]
                sizes += [math.ceil(len(batch) / process_group.size()) for batch in self._items]
                recovery.split(self._model, self._opt, self._progress, sizes, self._job.least)
            self._keeper.keep(self._opt)  # the decision, before anything follows from it

    def _files(self, step: int) -> list[str]:
        """The images of a step's batch."""
        return [self._job.train.samples[position].path for position, _ in self._items[step]]

    def _steps(self) -> None:
        """Do what is left."""
        job, state, supply = self._job, self._progress, self._supply
        phase = job.phases[state.phase]
        begun_at = state.step
        prepared(job, supply, job.train, self._items, self._leave, lambda: self._keeper.keep(self._opt))
        supply.set_training()
        self._moving = all_reduce.statistics(self._model)
        if begun_at == 0:
            checkpoint.begin_epoch(self._model, self._opt, state)
        items = self._items[begun_at:]
        y_of = targets_of(self._targets[sum(map(len, self._items[:begun_at])) :], items)
        fresh: list[Tensor] = []  # losses that are not in `state` yet
        with torch.random.fork_rng(devices=_cuda(job)), self._suffix() as learning:
            job.budget.check("step")
            began = time.perf_counter()
            batches = supply.batches(job.train, self._mine[begun_at:])
            for step, (z, y) in enumerate(zip(batches, y_of, strict=True), begun_at):
                torch.manual_seed(derive(job.seed, "step", state.phase, state.epoch, step, *_apart()))
                place = state.epoch * phase.steps_per_epoch + step
                share = lr_schedule.scale(place, phase.steps, job.hyperparameters.warmup)
                set_rates(self._opt, share * 0.5**state.halvings)
                fresh.append(self._step(learning, z, y))
                state.steps, state.step = state.steps + 1, step + 1
                recovery.check_losses(fresh, state.step - len(fresh), now=False)
                self._told(state)
                job.budget.note("step", began)
                self._between(fresh, more=step + 1 < len(self._items))
                began = time.perf_counter()
        self._settle(fresh)
        recovery.check_weights(self._model, max(0, state.step - 1))

    def _suffix(self) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        return bb.suffix(self._job.backbone, self._model, self._supply.cut)

    def _between(self, fresh: list[Tensor], *, more: bool) -> None:
        """Between two steps: keep the state where it is due, leave where that was asked or the time is up."""

        def keep() -> None:
            self._settle(fresh)
            self._keeper.keep(self._opt)

        leave, late, due = process_group.any_of(
            self._leave.asked, more and self._job.budget.late("step"), more and self._due
        )
        self._leave(keep, others=leave)
        if late:
            raise OutOfTime
        if due:
            keep()

    @property
    def _due(self) -> bool:
        """Whether a state may be written; the process that writes it says so."""
        return process_group.leads() and self._keeper.due

    def _settle(self, fresh: list[Tensor]) -> None:
        """Move losses into what is kept."""
        recovery.check_losses(fresh, self._progress.step - len(fresh), now=True)
        if fresh:
            self._progress.losses += torch.stack(fresh).tolist()
            fresh.clear()

    def _told(self, state: TrainingState) -> None:
        if self._job.progress:
            self._job.progress("train", state.steps, self._job.steps)

    def _step(self, learning: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
        """Learn from one batch, given this process's part of it and all its targets; return its loss."""
        strength = self._job.hyperparameters.feature_augment if self._supply.cut.index > 0 else 0.0
        loss: Tensor | None = None
        try:
            self._opt.zero_grad(set_to_none=True)
            loss = self._backward(learning, brightness(z, strength), y)
        except Exception as error:
            if not recovery.is_out_of_memory(error):
                raise
        loss = all_reduce.add_up(self._learning, self._moving, loss)
        self._anchor.pull()
        torch.nn.utils.clip_grad_norm_(self._learning, self._job.hyperparameters.clip_grad)
        self._opt.step()
        return loss

    def _backward(self, learning: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
        """Backpropagate the loss of a part of the batch, in pieces where memory asks for it."""
        job, mine = self._job, y[process_group.share(len(y))]
        pieces = max(1, min(self._progress.pieces, len(mine) // job.least))
        total: Tensor | None = None
        for one, targets in zip(z.tensor_split(pieces), mine.tensor_split(pieces), strict=True):
            with job.plan.numbers.autocast():
                out = learning(one)
            loss = job.balance.loss(out.float(), targets.to(out.device), job.hyperparameters.label_smoothing)
            if len(targets) < len(y):
                loss = loss * job.balance.share(targets, y)
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total


def prepared(
    job: Job,
    supply: Supply,
    images: Images,
    items: list[list[Item]],
    leave: Leave,
    keep: Callable[[], None],
) -> None:
    """Have the rows computed that will be read; a signal or the time may end that.

    The processes of a job fill the store together, and then hear what has come to one of them.
    """

    def progress(what: str, done: int, total: int) -> None:
        if process_group.size() == 1:
            leave(keep)
        elif leave.asked:
            raise OutOfTime
        if job.progress:
            job.progress(what, done, total)

    if process_group.size() == 1:
        supply.prepare(images, items, progress)
        return
    late = False
    try:
        supply.prepare(images, items, progress)
    except OutOfTime:
        late = not leave.asked
    others, late = process_group.any_of(leave.asked, late)
    leave(keep, others=others)
    if late:
        raise OutOfTime


def _apart() -> tuple[str, ...]:
    """What tells a process's draws of dropout from the others'; nothing in the first one, or alone."""
    return () if process_group.leads() else (f"process {process_group.rank()}",)


def _cuda(job: Job) -> list[int]:
    return [torch.cuda.current_device()] if job.plan.numbers.device == "cuda" else []
