"""An LR range test that gives each parameter group its own suggestion.

The rate of one group rises exponentially while all other groups stand still; the loss on seeded training
batches is smoothed, and the rate at its steepest fall is the suggestion (Smith, arXiv 1506.01186, with
fastai's "steepest" rule). It runs on a copy: weights, optimizer and random state are left as they were.
Where the loss has no falling part, there is no suggestion, and the result says why.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frostline import models as bb
from frostline.config import Config
from frostline.data import Manifest, demand_manifest
from frostline.data.decoding_threads import AUTO
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images, Item
from frostline.models import Backbone, Cut, demand_backbone
from frostline.profiling import frozen_batch
from frostline.strategies import Hyperparameters, Strategy, hyperparameters, read_strategy
from frostline.system import devices, numerics, timing
from frostline.system.seeds import derive
from frostline.training.loop import optimizer
from frostline.training.loop.learner import starting_model
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.train_request import TrainRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST, HIGHEST = 1e-6, 1.0  # fastai sweeps 1e-7–10; outside this span AdamW learns nothing or diverges
STEPS = 60  # ten a decade
BATCHES = 6  # drawn once and cycled through, so that a batch's loss can be compared with its own before
SMOOTHING = 0.8  # exponential average of the loss, as a share of the past
STOP_AT = 2.0  # the sweep ends where the smoothed loss is this many times its lowest
LEAST_FALL = 0.05  # share of the first loss that must be lost; smoothed noise stays below (test_lr_finder)


@dataclass(frozen=True)
class Sweep:
    """One group's sweep: rates and smoothed losses, and the suggestion or the reason for none."""

    group: str
    rates: tuple[float, ...] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    suggestion: float | None
    reason: str


class Sweeps(dict[str, Sweep]):
    """The sweeps of `lr_find` by stage name, from the input to the head, with a plot of them."""

    @property
    def suggestions(self) -> dict[str, float | None]:
        """The suggested learning rate of each stage; None where the loss has no falling part."""
        return {name: sweep.suggestion for name, sweep in self.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each stage's smoothed loss over the learning rate; a point marks its suggestion.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None makes a new figure.

        Returns
        -------
        matplotlib Axes
            Losses are divided by those before anything learned.

        Raises
        ------
        UsageError
            There is no sweep: the strategy's head is solved for.
        """
        if not self:
            raise UsageError(
                "There is no sweep to draw: no stage learns by steps where a head is solved for."
            )
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        for name, sweep in self.items():
            (line,) = ax.plot(sweep.rates, sweep.losses, label=name.replace("$", r"\$"))  # $ begins a formula
            if sweep.suggestion is not None:
                place = int(np.abs(np.log(np.asarray(sweep.rates) / sweep.suggestion)).argmin())
                ax.plot(sweep.suggestion, sweep.losses[place], "o", color=line.get_color())
        ax.set_xscale("log")
        ax.set_ylim(top=STOP_AT)  # above it every loss has diverged
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss, relative to before")
        ax.legend(title="stage")
        return ax


@devices.computes(float32=True)
def lr_find(
    backbone: Backbone,
    data: Manifest,
    strategy: Strategy | str,
    *,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "auto",
) -> Sweeps:
    """Sweep the learning rate of each stage that learns when all the strategy's phases have unfrozen.

    It starts where the strategy starts (from a probe's head, say). Decayed and undecayed parameters of one
    stage are swept together. Computed in float32, on a copy.

    Parameters
    ----------
    backbone, data, strategy
        As in `train`.
    seed
        Which batches are drawn.
    batch_size
        Images a step.
    device
        Device to compute on, as in `train`.

    Returns
    -------
    Sweeps
        A dict of sweeps by stage name, empty for a head that is solved for. `suggestions` holds the rates,
        `plot()` draws the losses.

    Raises
    ------
    UsageError, DataError, ModelError
    """
    demand_backbone(backbone)
    demand_manifest(data)
    timing.prepare_process()
    request = TrainRequest(
        backbone=backbone,
        data=data.checked(),
        strategy=read_strategy(strategy),
        config=Config(seed=seed, batch_size=batch_size, device=device, deterministic=True),
    )
    phases = request.phases()
    if not phases:
        return Sweeps()
    plan = numerics.exact_plan()
    images = request.images("train", Policy("standard"))
    balance = Balance("none", images.targets, len(data.classes))
    with FeatureCache() as cache:
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], ForwardConfig(plan, frozen_batch()), cache)
        model = starting_model(request, head, images, balance)
    cut = min(phase.cut for phase in phases)
    at = backbone.cut(cut)
    frozen = bb.prefix(backbone, plan.place(model), at)
    batches = []
    with torch.no_grad():
        for number in range(BATCHES):
            pixels, targets = _draw(images, seed, number, batch_size)
            batches.append((frozen(plan.batch(pixels, images.preprocessing.normalise)), targets))
    known, sweeps = hyperparameters(request.strategy), Sweeps()
    with torch.random.fork_rng(devices=devices.random_states()):
        for stage in range(at.index, len(backbone.stages)):
            torch.manual_seed(derive(seed, "range test"))
            swept = copy.deepcopy(model)
            name = backbone.stages[stage].name
            sweeps[name] = suggest(name, *_sweep(backbone, swept, at, stage, known, balance, batches))
    return sweeps


Batch = tuple[torch.Tensor, torch.Tensor]  # (z, targets)


def _sweep(
    backbone: Backbone,
    model: nn.Module,
    at: Cut,
    stage: int,
    known: Hyperparameters,
    balance: Balance,
    batches: list[Batch],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (rates, smoothed losses), each loss divided by what its batch cost before anything learned.

    Without that division the batches' own difficulty is a noise in which a steepest fall is found anywhere.
    """
    bb.freeze(backbone, model, at, known.bn)
    opt = optimizer.build(backbone, model, 1.0, known, None)
    bb.set_training(backbone, model, at, known.bn)
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[float] = []
    average = 0.0
    with bb.suffix(backbone, model, at) as learning:
        with torch.no_grad():
            before = [_loss(learning, b, balance, known).item() for b in batches]
        for step, rate in enumerate(rates):
            for group in opt.param_groups:
                group["lr"] = float(rate) if group["stage"] == stage else 0.0
                group["weight_decay"] = 0.0
            loss = _loss(learning, batches[step % BATCHES], balance, known)
            opt.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            opt.step()
            average = SMOOTHING * average + (1 - SMOOTHING) * loss.item() / before[step % BATCHES]
            losses.append(average / (1 - SMOOTHING ** (step + 1)))
            if not math.isfinite(losses[-1]) or losses[-1] > STOP_AT * min(losses):
                break
    return rates[: len(losses)], np.asarray(losses)


def _loss(
    learning: Callable[[torch.Tensor], torch.Tensor], batch: Batch, balance: Balance, known: Hyperparameters
) -> torch.Tensor:
    z, targets = batch
    return balance.loss(learning(z), targets.to(z.device), known.label_smoothing)


def _draw(images: Images, seed: int, number: int, batch: int) -> Batch:
    """A seeded batch of augmented pixels: the same ones for every group."""
    rng = np.random.default_rng(derive(seed, "range batch", number))
    picked = rng.choice(len(images), size=min(batch, len(images)), replace=False)
    items: list[Item] = [(int(position), number + 1) for position in picked]
    pixels = next(images.batches([items], AUTO))
    return pixels, torch.from_numpy(images.targets[picked])


def suggest(group: str, rates: NDArray[np.float64], losses: NDArray[np.float64]) -> Sweep:
    """Return the rate at the steepest fall of the loss over log rate, or none where it doesn't fall."""
    shown = tuple(map(float, rates)), tuple(map(float, losses))
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    if len(losses) < 8:
        return Sweep(group, *shown, None, "the loss grew at once: too few points before it diverged")
    lowest = int(losses.argmin())
    fall = (losses[0] - losses[lowest]) / losses[0]
    if fall < LEAST_FALL or lowest < 3:
        return Sweep(group, *shown, None, f"the loss has no falling part: it fell by {100 * fall:.0f} %")
    slope = np.gradient(losses[: lowest + 1], np.log(rates[: lowest + 1]))
    return Sweep(
        group, *shown, float(rates[int(slope.argmin())]), "the rate at the steepest fall of the loss"
    )
