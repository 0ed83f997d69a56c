"""From a plan to cuts and steps, for one backbone and one number of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline.errors import UsageError
from frostline.strategies.strategy import ALL, KINDS, Phase, Strategy, hyperparameters

ROUNDING = 1e-9  # errors of sums of floats, far below a step
_MANY = 100  # more stages than networks have


@dataclass(frozen=True)
class ResolvedPhase:
    """One phase in numbers, for one backbone and one number of images.

    Attributes
    ----------
    cut : int
        Index of the first stage that learns; those before it are frozen.
    epochs : int
        Number of epochs, 1 or more.
    steps_per_epoch : int
        Optimizer steps per epoch.
    lr : float
        Peak learning rate of the head.
    batches : int
        Batches of the whole training set; a phase of less than one epoch has fewer steps.
    """

    cut: int
    epochs: int
    steps_per_epoch: int
    lr: float
    batches: int

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole phase."""
        return self.epochs * self.steps_per_epoch


def epochs_for(images: int) -> float:
    """How many passes a training set of this size asks for (fractional; phases share it).

    20 at 80 images, 12 at 400, 8 at 2,000, never under 4 or over 40: fewer passes, more steps, as there are
    more images. With 9 passes at 400 images the last block was undertrained on the farthest of six sets
    (docs/LOG.md 2026-11-23).
    """
    return float(min(40.0, max(4.0, 20.0 * (80.0 / max(images, 1)) ** 0.3)))


def schedule(
    strategy: Strategy, *, stages: int, images: int, batch: int, lr_factor: float = 1.0
) -> tuple[ResolvedPhase, ...]:
    """Return what to run, phase by phase.

    `stages` counts the head; `images` is the size of the training set; `batch` the images per step.
    `lr_factor` is what each rate is multiplied by (`BatchSize.lr_factor`).
    A phase that unfreezes more stages than there are unfreezes them all; one of less than an epoch has as
    many steps as its share of the epoch. From one epoch on they are whole, and all phases together have as
    many as they share.
    """
    known = hyperparameters(strategy)
    total = strategy.epochs or epochs_for(images) * KINDS[strategy.name].passes
    phases = KINDS[strategy.name].phases(strategy, stages - 1, total)
    batches = _batches(strategy, images, batch)
    parts = [phase.epochs if phase.epochs is not None else total / len(phases) for phase in phases]
    return tuple(
        ResolvedPhase(_cut(phase, stages), epochs, steps, lr_factor * (phase.lr or known.lr), batches)
        for phase, (epochs, steps) in zip(phases, _in_whole(parts, batches), strict=True)
    )


def _in_whole(parts: Sequence[float], batches: int) -> list[tuple[int, int]]:
    """Return whole epochs, and steps an epoch, for phases of so many epochs; less than one is its steps.

    The sums of epochs, and of steps, are rounded, half of one up: rounded alone, 24 epochs in nine phases
    became 28.
    """
    epochs = iter(_rounded([part for part in parts if part >= 1]))
    steps = iter(_rounded([part * batches for part in parts if part < 1]))
    return [(next(epochs), batches) if part >= 1 else (1, max(1, next(steps))) for part in parts]


def _rounded(parts: Sequence[float]) -> list[int]:
    """Return whole numbers whose sums up to each place are nearest to those of `parts`."""
    ends = [math.floor(end + 0.5 + ROUNDING) for end in itertools.accumulate(parts)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def continued(
    strategy: Strategy, *, cut: int, images: int, batch: int, epochs: int, lr: float
) -> tuple[ResolvedPhase, ...]:
    """Return the one phase of training on after the strategy's own: all from `cut` on, `lr` at the head."""
    batches = _batches(strategy, images, batch)
    return (ResolvedPhase(cut, epochs, batches, lr, batches),)


def _batches(strategy: Strategy, images: int, batch: int) -> int:
    smallest = 2 if hyperparameters(strategy).bn in ("train", "recalibrate") else 1  # batch statistics: two
    return max(1, min(math.ceil(images / batch), images // smallest))


def builds_on_pretrained(strategy: Strategy) -> bool:
    """Return whether layers stay frozen for a while as they came, or the head starts from their features."""
    if not strategy.trains or hyperparameters(strategy).head_init == "probe":
        return True
    return any(phase.cut for phase in schedule(strategy, stages=_MANY, images=1, batch=1))


def stretched(
    strategy: Strategy, *, stages: int, epochs: float, steps_per_epoch: int
) -> tuple[ResolvedPhase, ...]:
    """Return the phases for a loop whose length is given: they share all its steps.

    Each phase begins with an epoch where there are epochs enough, else at its share of the steps.
    Raises `UsageError` where the strategy trains nothing, or asks for another number of epochs.
    """
    if not strategy.trains:
        raise UsageError(f"{strategy} is solved for and has no steps; use head, or frostline.train.")
    phases = KINDS[strategy.name].phases(strategy, stages - 1, float(epochs))
    steps = round(epochs * steps_per_epoch)
    if steps < len(phases):
        raise UsageError(f"{strategy} has {len(phases)} phases, and the loop {max(0, steps)} step(s).")
    shares = _shares(strategy, phases, float(epochs))
    unit = steps_per_epoch if steps >= len(phases) * steps_per_epoch else 1
    ends = [unit * end for end in _ends(shares, steps // unit)]
    ends[-1] = steps
    return tuple(
        _resolved(_cut(phase, stages), end - start, phase.lr or hyperparameters(strategy).lr, steps_per_epoch)
        for phase, start, end in zip(phases, [0, *ends], ends, strict=False)
    )


def _cut(phase: Phase, stages: int) -> int:
    return 0 if phase.unfrozen == ALL else max(0, stages - 1 - phase.unfrozen)


def _resolved(cut: int, steps: int, lr: float, steps_per_epoch: int) -> ResolvedPhase:
    if steps % steps_per_epoch:
        return ResolvedPhase(cut, 1, steps, lr, steps)
    return ResolvedPhase(cut, steps // steps_per_epoch, steps_per_epoch, lr, steps_per_epoch)


def _shares(strategy: Strategy, phases: tuple[Phase, ...], epochs: float) -> list[float]:
    """Return each phase's part of all epochs, 0–1: what is named keeps it, the others share the rest."""
    named = [phase.epochs for phase in phases if phase.epochs is not None]
    left = epochs - sum(named)
    unnamed = len(phases) - len(named)
    total = strategy.epochs if strategy.epochs is not None else sum(named) if not unnamed else epochs
    if not math.isclose(total, epochs) or (unnamed and left <= 0):
        raise UsageError(
            f"{strategy} names {strategy.epochs or sum(named):g} epochs, and the loop has {epochs:g}. "
            "Give both the same number, or leave it out of the strategy."
        )
    return [(left / unnamed if phase.epochs is None else phase.epochs) / epochs for phase in phases]


def _ends(shares: Sequence[float], total: int) -> list[int]:
    """Return where each share of `total` ends, in whole numbers, each at least one after the one before."""
    ends: list[int] = []
    for index in range(len(shares)):
        wanted = round(sum(shares[: index + 1]) * total)
        least = (ends[-1] if ends else 0) + 1
        ends.append(max(least, min(wanted, total - (len(shares) - 1 - index))))
    return ends


def scaled(strategy: Strategy, share: float, images: int) -> Strategy:
    """Return the same strategy with a share of its epochs: every phase is there, each of them shorter.

    `images` is the size of the training set, which the epochs follow from where none are named.
    """
    if not strategy.trains or share == 1.0:
        return strategy
    kind = KINDS[strategy.name]
    total = share * (strategy.epochs or epochs_for(images) * kind.passes)
    phases = tuple(
        phase if phase.epochs is None else replace(phase, epochs=float(f"{share * phase.epochs:.3g}"))
        for phase in strategy.phases
    )
    return replace(strategy, epochs=float(f"{total:.3g}"), phases=phases)
