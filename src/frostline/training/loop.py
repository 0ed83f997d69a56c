"""The one training loop: phases, epochs, validation, and where an interrupted run goes on.

`z` is what the frozen prefix makes of the pixels; at cut 0 it is the pixels themselves. The loss goes
through the trainable suffix alone. Frozen layers stay in eval mode throughout, through validation too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from frostline import metrics
from frostline import models as bb
from frostline.distributed import process_group
from frostline.features.image_batches import EVALUATION_BATCH, Images
from frostline.strategies import ResolvedPhase
from frostline.training import optimizer
from frostline.training.batches import Supply
from frostline.training.epoch import Epoch, Keeper, prepared
from frostline.training.job import Job
from frostline.training.resilience import checkpoint
from frostline.training.resilience.interruption import Leave, heard
from frostline.training.resilience.time_limit import OutOfTime


def run(job: Job, model: nn.Module) -> checkpoint.TrainingState:
    """Train `model` in place, going on where an earlier process stopped; end with the best weights."""
    state = checkpoint.shared(job.folder.path, model)
    model = job.plan.numbers.place(model)
    earlier_s = state.seconds
    done = sum(s.epochs for s in job.phases[: state.phase]) + state.epoch
    job.rows[:] = process_group.decided(lambda: job.folder.metrics()[:done])  # and no others
    job.hear(job.rows)
    job.budget.earlier_s = earlier_s
    keeper = Keeper(job, model, state)
    with heard() as leave:
        try:
            _run(job, model, state, keeper, leave)
        except OutOfTime:
            state.stopped = True
    if state.best_weights:
        model.load_state_dict(state.best_weights)
    job.folder.write_metrics(job.rows)
    state.seconds = earlier_s
    return state


def _run(job: Job, model: nn.Module, state: checkpoint.TrainingState, keeper: Keeper, leave: Leave) -> None:
    """Do every epoch that is not done yet; raises `OutOfTime` between two steps."""
    opt: torch.optim.Optimizer | None = None
    for index in range(state.phase, len(job.phases)):
        state.phase = index
        opt = _prepare(job, model, job.phases[index], opt, state)
        supply = _supply(job, model, index)
        while state.epoch < job.phases[index].epochs:
            _one_epoch(job, model, supply, opt, state, keeper, leave)
        state.epoch = 0


def _one_epoch(
    job: Job,
    model: nn.Module,
    supply: Supply,
    opt: torch.optim.Optimizer,
    state: checkpoint.TrainingState,
    keeper: Keeper,
    leave: Leave,
) -> None:
    keeper.begin_epoch()
    loss = Epoch(job, model, supply, opt, state, keeper, leave).run()
    phase = job.phases[state.phase]
    row = {
        "phase": state.phase,
        "epoch": state.epoch,
        "cut": supply.cut.name,
        "lr": phase.lr * 0.5**state.halvings,
        "loss": loss,
        "seconds": keeper.epoch_seconds,
    }
    row |= _validate(job, model, supply, state, leave, lambda: keeper.keep(opt))
    job.rows.append(row)
    state.epoch, state.views = state.epoch + 1, state.views + 1
    state.step, state.losses, state.epoch_seconds = 0, [], 0.0
    job.hear(job.rows)
    if keeper.due:
        keeper.keep(opt)


def _prepare(
    job: Job,
    model: nn.Module,
    phase: ResolvedPhase,
    before: torch.optim.Optimizer | None,
    state: checkpoint.TrainingState,
) -> torch.optim.Optimizer:
    """Freeze to the phase's cut and make its optimizer, with the moments of what learned before."""
    bb.freeze(job.backbone, model, job.backbone.cut(phase.cut), job.hyperparameters.bn)
    made = optimizer.build(job.backbone, model, phase.lr, job.hyperparameters, before)
    checkpoint.give_moments(model, made, state.moments)
    state.moments = {}
    return made


def _supply(job: Job, model: nn.Module, index: int) -> Supply:
    modes = bb.training_modes(
        job.backbone, model.eval(), job.backbone.cut(job.phases[index].cut), job.hyperparameters.bn
    )
    return Supply(job.backbone, model, modes, job.phases, index, job.plan, job.store, job.counts, job.workers)


def _logits(
    job: Job, model: nn.Module, supply: Supply, images: Images, leave: Leave, keep: Callable[[], None]
) -> NDArray[np.float32]:
    """Return the logits of view 0 of every image, from the rows of the cut; (images, classes).

    Each process of a job answers for a share of the images.
    """
    prepared(job, supply, images, supply.still(range(len(images)), EVALUATION_BATCH), leave, keep)
    found = [np.empty((0, job.balance.classes), dtype=np.float32)]
    with torch.no_grad(), bb.suffix(job.backbone, model, supply.cut) as learned:
        mine = range(len(images))[process_group.share(len(images))]
        for z in supply.batches(images, supply.still(mine, EVALUATION_BATCH)):
            if process_group.size() == 1:
                leave(keep)
            with job.plan.numbers.autocast():
                found.append(learned(z).float().cpu().numpy())
    return process_group.gathered(np.concatenate(found), len(images))


def _validate(
    job: Job,
    model: nn.Module,
    supply: Supply,
    state: checkpoint.TrainingState,
    leave: Leave,
    keep: Callable[[], None],
) -> dict[str, float]:
    """Score val, and keep the weights if they are the best so far and the best are asked for."""
    if job.val is None:
        return {}
    job.budget.check("validation")
    began = time.perf_counter()
    found = _logits(job, model.eval(), supply, job.val, leave, keep)
    probabilities = metrics.softmax(found)
    good = metrics.goodness(job.metric, job.val.targets, probabilities)
    better = state.best is None or good >= state.best or not np.isfinite(state.best)
    if better and job.keep == "best":
        state.best, state.best_epoch = good, len(job.rows) + 1
        state.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    job.budget.note("validation", began)
    return {
        "val_accuracy": metrics.score("accuracy", job.val.targets, probabilities),
        f"val_{job.metric}": metrics.score(job.metric, job.val.targets, probabilities),
        "val_loss": float(F.cross_entropy(torch.from_numpy(found), torch.from_numpy(job.val.targets))),
    }
