"""Images a step by a rule, and how the learning rate follows. Imports no torch.

The default rates were chosen at batches of `BATCH`. On a GPU larger batches are quicker, so the rule takes
them where a run keeps enough steps; the rate then follows the optimizer's rule, unless it was given.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from frostline.config import AUTO_BATCH, BATCH
from frostline.strategies.phase_resolution import epochs_for
from frostline.strategies.strategy import Strategy, hyperparameters

# ResNet-50 on an H200, training in bfloat16 from pixels that are there: 1,170 images a second in batches of
# 32, 4,690 in batches of 256 (docs/strategies.md). Larger ones were not measured.
MOST_ON_GPU = 256
# Steps that a run by the strategies' default passes keeps: about those of 400 images in batches of 32, with
# which passes were chosen (12 passes of 13 steps; docs/LOG.md 2026-11-23).
LEAST_STEPS = 150
# What a batch that was chosen by the rule is halved down to where memory is short: the smallest measured
# (docs/LOG.md 2026-11-28, batch size).
SMALLEST = 8
# The rate follows the root of the batch: Malladi et al., arXiv 2205.10287 (Adam, RMSProp). Their rule also
# moves betas and epsilon, which stay here.
ROOT = ("adam", "adamw", "nadam", "nadamw", "rmsprop", "rmsproptf")
LINEAR = ("sgd", "momentum", "nesterov")  # the rate follows the batch: Goyal et al., arXiv 1706.02677


@dataclass(frozen=True)
class BatchSize:
    """Images a step, and what the default learning rates are multiplied by.

    Parameters
    ----------
    images
        A step's, over all processes.
    lr_factor
        1 where the rate was given, or the batch is the one that default rates are for.
    auto
        Whether the rule chose it.
    reason
        Why, as a clause.
    """

    images: int
    lr_factor: float = 1.0
    auto: bool = False
    reason: str = "as given"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rate = "" if self.lr_factor == 1.0 else f", learning rate × {self.lr_factor:.3g}"
        return f"{self.images} images{rate}: {self.reason}"


def batch_size(
    requested: int | str, strategy: Strategy, *, images: int, kind: str, lr_given: bool = False
) -> BatchSize:
    """Return the batch size of a run, and how the learning rate follows.

    A number is taken as it is, and changes no rate. "auto" is `BATCH` on a processor, where larger batches
    save a third of the time and may cost accuracy. On a GPU it is the largest power of two up to
    `MOST_ON_GPU` with which the default passes have `LEAST_STEPS` steps or more, and at least `BATCH`; the
    default rate is then multiplied by the root of batch / `BATCH` for optimizers like Adam, by batch /
    `BATCH` for SGD. Other optimizers have no such rule, and keep `BATCH`. A rate that was given is never
    changed.

    Parameters
    ----------
    requested : int or str
        A number, or "auto".
    strategy : Strategy
        Its optimizer, and whether it names a rate.
    images : int
        Training images.
    kind : str
        Kind of the device: "cpu", "cuda" or "mps".
    lr_given : bool
        Whether the rate comes from elsewhere, as that of a run that continues does.

    Returns
    -------
    BatchSize
    """
    if requested != AUTO_BATCH:
        given = int(requested)
        if 0 < images < given:
            return BatchSize(given, reason=f"as given; each step learns from all {images:,} training images")
        return BatchSize(given)
    if not strategy.trains:
        return BatchSize(BATCH, auto=True, reason="a head that is solved for takes no steps")
    if kind != "cuda":
        return BatchSize(BATCH, auto=True, reason="the default rates were chosen with it")
    optimizer = hyperparameters(strategy).optimizer
    if optimizer not in (*ROOT, *LINEAR):
        return BatchSize(BATCH, auto=True, reason=f"no rule says how a rate of {optimizer} would follow")
    most = epochs_for(images) * images / LEAST_STEPS
    chosen = min(MOST_ON_GPU, max(BATCH, 2 ** math.floor(math.log2(max(most, 1.0)))))
    if chosen == BATCH:
        return BatchSize(BATCH, auto=True, reason="larger ones would leave too few steps")
    why = "they fill a GPU" if chosen == MOST_ON_GPU else "more would leave too few steps"
    return _followed(chosen, strategy, lr_given, why)


def halved(batch: BatchSize, strategy: Strategy, *, lr_given: bool = False) -> BatchSize | None:
    """Return half the batch where the rule chose it and memory is short; `None` where it can't be smaller.

    The rate follows as in `batch_size`.
    """
    if not batch.auto or batch.images // 2 < SMALLEST or not strategy.trains:
        return None
    if hyperparameters(strategy).optimizer not in (*ROOT, *LINEAR):
        return None
    return _followed(batch.images // 2, strategy, lr_given, "larger ones need more memory")


def names_rate(strategy: Strategy) -> bool:
    """Return whether a strategy names a learning rate, of its own or of a phase."""
    return strategy.lr is not None or any(phase.lr is not None for phase in strategy.phases)


def _followed(images: int, strategy: Strategy, lr_given: bool, why: str) -> BatchSize:
    if images == BATCH:
        return BatchSize(images, auto=True, reason=why)
    if lr_given or names_rate(strategy):
        return BatchSize(images, auto=True, reason=f"{why}; the learning rate was given, and stays")
    share = images / BATCH
    root = hyperparameters(strategy).optimizer in ROOT
    rule = "the root of the batch" if root else "the batch"
    return BatchSize(images, math.sqrt(share) if root else share, True, f"{why}; the rate follows {rule}")
