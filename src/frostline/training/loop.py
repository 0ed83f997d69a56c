"""The one training loop, over batches of (z, y).

`z` is what the frozen prefix makes of the pixels; at cut 0 it is the pixels themselves. The loss goes
through the trainable suffix alone. Frozen layers stay in eval mode throughout, through validation too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from frostline import backbone as bb
from frostline import metrics, pacing
from frostline.augment import brightness
from frostline.backbone import Backbone
from frostline.errors import TrainingError
from frostline.frozen import Counts
from frostline.images import EVALUATION_BATCH, Images, Tell
from frostline.record import RunFolder
from frostline.seeds import derive
from frostline.store import Store
from frostline.strategy import Segment, Settings
from frostline.timing import Stopwatch
from frostline.tracking import Hear
from frostline.training import checkpoint, optimizer
from frostline.training.budget import Budget, OutOfTime
from frostline.training.imbalance import Balance
from frostline.training.planning import Plan
from frostline.training.supply import Supply, targets_of
from frostline.unfreezing import set_rates

# A checkpoint costs a synced write of the whole state. It may take this share of the time; when it is written
# changes no bit of the result.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_S = 0.04  # what the first one is taken to cost, until it was measured: lite0's on a local disk


@dataclass(frozen=True)
class Job:
    """All that one run's training needs."""

    backbone: Backbone
    segments: tuple[Segment, ...]
    settings: Settings
    train: Images
    val: Images | None
    plan: Plan
    store: Store | None
    counts: Counts
    balance: Balance
    seed: int
    metric: str
    keep: str
    workers: int
    folder: RunFolder
    watch: Stopwatch
    budget: Budget
    tell: Tell | None = None
    hear: Hear = lambda rows: None  # of the epochs so far, after each

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(segment.steps for segment in self.segments)


def run(job: Job, model: nn.Module) -> checkpoint.Progress:
    """Train `model` in place, going on where an earlier process stopped; end with the best weights."""
    state = job.folder.path / "state.safetensors"
    progress = checkpoint.read(state, model) or checkpoint.Progress()
    model = job.plan.numbers.place(model)
    rows, earlier_s = _rows_before(job, progress), progress.seconds
    job.hear(rows)
    job.budget.earlier_s = earlier_s
    try:
        _run(job, model, progress, rows, state)
    except OutOfTime:
        progress.stopped = True
    if progress.best_weights:
        model.load_state_dict(progress.best_weights)
    job.folder.write_metrics(rows)
    progress.seconds = earlier_s
    return progress


def _run(
    job: Job, model: nn.Module, progress: checkpoint.Progress, rows: list[dict[str, Any]], state: Path
) -> None:
    """Do every epoch that is not done yet; raises `OutOfTime` between two steps."""
    earlier_s = progress.seconds
    before: torch.optim.Optimizer | None = None
    saved, cost_s = time.monotonic(), CHECKPOINT_S
    for index in range(progress.segment, len(job.segments)):
        before = _prepare(job, model, job.segments[index], before, progress)
        supply = _supply(job, model, index)
        for epoch in range(progress.epoch, job.segments[index].epochs):
            row = _epoch(job, model, supply, index, epoch, before, progress)
            rows.append(row)
            row |= _validate(job, model, supply, progress, len(rows))
            progress.segment, progress.epoch = index, epoch + 1
            job.hear(rows)
            begun = time.monotonic()
            if (begun - saved) * CHECKPOINT_SHARE > cost_s:
                job.folder.write_metrics(rows)  # first: lines past the state are cut off on the way back
                progress.seconds = earlier_s + job.watch.seconds
                checkpoint.write(state, model, progress, checkpoint.moments_of(model, before))
                saved = time.monotonic()
                cost_s = saved - begun
        progress.epoch = 0


def _rows_before(job: Job, progress: checkpoint.Progress) -> list[dict[str, Any]]:
    """The metrics of the epochs that are done, and no others."""
    done = sum(s.epochs for s in job.segments[: progress.segment]) + progress.epoch
    return job.folder.metrics()[:done]


def _prepare(
    job: Job,
    model: nn.Module,
    segment: Segment,
    before: torch.optim.Optimizer | None,
    progress: checkpoint.Progress,
) -> torch.optim.Optimizer:
    """Freeze to the segment's cut and make its optimizer, with the moments of what learned before."""
    bb.freeze(job.backbone, model, job.backbone.cut(segment.cut), job.settings.bn)
    made = optimizer.build(job.backbone, model, segment.lr, job.settings, before)
    checkpoint.give_moments(model, made, progress.moments)
    progress.moments = {}
    return made


def _supply(job: Job, model: nn.Module, index: int) -> Supply:
    modes = bb.training_modes(
        job.backbone, model.eval(), job.backbone.cut(job.segments[index].cut), job.settings.bn
    )
    return Supply(
        job.backbone, model, modes, job.segments, index, job.plan, job.store, job.counts, job.workers
    )


def _epoch(
    job: Job,
    model: nn.Module,
    supply: Supply,
    index: int,
    epoch: int,
    opt: torch.optim.Optimizer,
    progress: checkpoint.Progress,
) -> dict[str, Any]:
    """One pass over the training images; returns its line of metrics."""
    segment, cut = job.segments[index], supply.cut
    progress.views += 1
    losses: list[Tensor] = []
    start, first = time.perf_counter(), epoch * segment.steps_per_epoch
    items, targets = supply.epoch(job.train, job.balance, job.seed, index, epoch, progress.views)
    supply.prepare(job.train, items, job.tell)
    supply.set_training()
    with torch.random.fork_rng(devices=_cuda(job)), bb.suffix(job.backbone, model, cut) as learning:
        torch.manual_seed(derive(job.seed, "epoch", index, epoch))
        batches = zip(supply.batches(job.train, items), targets_of(targets, items), strict=True)
        strength = job.settings.frofa if cut.index > 0 else 0.0
        job.budget.check("step")
        began = time.perf_counter()
        for step, (z, y) in enumerate(batches):
            share = pacing.scale(first + step, segment.steps, job.settings.warmup)
            set_rates(opt, share)
            losses.append(_step(job, learning, opt, brightness(z, strength), y))
            if job.tell:
                done = sum(s.steps for s in job.segments[:index]) + first + step + 1
                job.tell("train", done, job.steps)
            progress.steps += 1
            job.budget.note("step", began)
            if step + 1 < len(items):
                job.budget.check("step")
            began = time.perf_counter()
    loss = float(torch.stack(losses).mean())
    if not np.isfinite(loss):
        raise TrainingError(
            f"The loss became {loss} in epoch {epoch + 1} of phase {index + 1}. "
            "Try a lower learning rate, for example with lr=0.0003 in the strategy."
        )
    seconds = time.perf_counter() - start
    return {
        "phase": index,
        "epoch": epoch,
        "cut": cut.name,
        "lr": segment.lr,
        "loss": loss,
        "seconds": seconds,
    }


def _cuda(job: Job) -> list[int]:
    return [torch.cuda.current_device()] if job.plan.numbers.device == "cuda" else []


def _step(
    job: Job, learning: Callable[[Tensor], Tensor], opt: torch.optim.Optimizer, z: Tensor, y: Tensor
) -> Tensor:
    with job.plan.numbers.autocast():
        out = learning(z)
    loss = job.balance.loss(out.float(), y.to(out.device), job.settings.smoothing)
    opt.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_((p for g in opt.param_groups for p in g["params"]), job.settings.clip)
    opt.step()
    return loss.detach()


def _logits(job: Job, model: nn.Module, supply: Supply, images: Images) -> NDArray[np.float32]:
    """Return the logits of view 0 of every image, from the rows of the cut; (images, classes)."""
    items = supply.still(images, EVALUATION_BATCH)
    supply.prepare(images, items, job.tell)
    found = []
    with torch.no_grad(), bb.suffix(job.backbone, model, supply.cut) as learned:
        for z in supply.batches(images, items):
            with job.plan.numbers.autocast():
                found.append(learned(z).float().cpu().numpy())
    return np.concatenate(found)


def _validate(
    job: Job, model: nn.Module, supply: Supply, progress: checkpoint.Progress, epochs_done: int
) -> dict[str, float]:
    """Score val, and keep the weights if they are the best so far and the best are asked for."""
    if job.val is None:
        return {}
    job.budget.check("validation")
    began = time.perf_counter()
    found = _logits(job, model.eval(), supply, job.val)
    probabilities = metrics.softmax(found)
    good = metrics.goodness(job.metric, job.val.targets, probabilities)
    better = progress.best is None or good >= progress.best or not np.isfinite(progress.best)
    if better and job.keep == "best":
        progress.best, progress.best_epoch = good, epochs_done
        progress.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    job.budget.note("validation", began)
    return {
        "val_accuracy": metrics.score("accuracy", job.val.targets, probabilities),
        f"val_{job.metric}": metrics.score(job.metric, job.val.targets, probabilities),
        "val_loss": float(F.cross_entropy(torch.from_numpy(found), torch.from_numpy(job.val.targets))),
    }
