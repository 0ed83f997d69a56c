"""Choose numeric plans by timing, for frozen layers and for training."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.image_batches import CARD_BATCH
from frostline.models import Backbone, Cut
from frostline.system import deadline, devices, numerics
from frostline.system.numerics import NumericPlan

# Images a forward pass of the frozen part. Beside 32, lite0 takes 0.88 to 0.94 of the time an
# image at 96 px and 1.00 to 1.03 at 224 px, on one and two threads (7 interleaved pairs): not worth a timing.
FROZEN_BATCH = 64
PASSES = 2  # through the frozen stages one by one; the shortest of each stage counts
REPEATED = 15  # passes, where they are short
GLIMPSE = 4  # images with which it is found how slow a network is, before anything else is timed
# What deciding by timings passes forward, in images: three precisions of the frozen layers four times, three
# training steps as often at three times a forward pass, one cut's prefix.
TIMED_IMAGES = 800
TRIAL = 16  # images with which precisions are timed: what a person waits for once on a machine


T = TypeVar("T")


def trial_images(batch: int) -> int:
    """Return with how many images of a batch ways to compute are timed.

    On a GPU with all: few images tell how quickly work is given to it, which is the same in each way. An H200
    took 27 ms for a step of ResNet-50 on 32 images, and 55 ms on 256 (docs/strategies.md).
    """
    return batch if devices.current().type == "cuda" else min(batch, TRIAL)


def with_fewer(work: Callable[[int], T], images: int) -> T:
    """Return what `work` gives for so many images; where a GPU has no memory for them, for half as many, …"""
    while True:
        try:
            return work(images)
        except torch.OutOfMemoryError:
            if images <= TRIAL:
                raise
        images //= 2
        torch.cuda.empty_cache()


def frozen_batch() -> int:
    """Return how many images pass frozen layers at once, on the device that computes."""
    return CARD_BATCH if devices.current().type == "cuda" else FROZEN_BATCH


def network_name(backbone: Backbone) -> str:
    """Name a network and its input, for rates that are remembered."""
    return f"{backbone.name} {backbone.digest[:12]} size {backbone.preprocessing.size}"


def forward_config(
    backbone: Backbone,
    *,
    deterministic: bool = False,
    precision: str = "auto",
    compiled: bool = False,
    threads: int | None = None,
) -> ForwardConfig:
    """Return how frozen layers are computed, the same for every strategy, so that they share features.

    Precision and memory layout are chosen by timing; BatchNorm is folded where possible.

    Parameters
    ----------
    backbone : Backbone
    deterministic : bool
        Exact float32 without timing.
    precision : str
        "auto", "float32" or "bfloat16"; "float16" computes frozen layers in float32.
    compiled : bool
        Run frozen layers by `torch.compile`.
    threads : int or None

    Returns
    -------
    ForwardConfig
    """
    if deterministic:
        return ForwardConfig(numerics.exact_plan(threads), frozen_batch(), compiled=compiled)
    if precision == "float16":  # what frozen layers compute might exceed its range
        precision = "float32"
    if precision != "auto":
        return ForwardConfig(numerics.pinned_plan(precision, threads), frozen_batch(), compiled=compiled)
    pairs, last = tuple(bb.foldable(backbone)), backbone.cuts[-1]
    images = trial_images(frozen_batch())
    run_of = functools.cache(lambda plan: forward(backbone, ForwardConfig(plan, images, pairs), last))
    name = f"forward {network_name(backbone)} images {images} folded {len(pairs)}"
    plan = numerics.timed_plan(name, lambda plan: run_of(plan)(), threads, learning=False)
    return ForwardConfig(plan, frozen_batch(), pairs, compiled)


def forward(backbone: Backbone, config: ForwardConfig, cut: Cut) -> Callable[[], None]:
    """Return a function that runs the frozen part once on black images; the first call prepares it.

    Parameters
    ----------
    backbone : Backbone
    config : ForwardConfig
    cut : Cut

    Returns
    -------
    callable
    """
    frozen = Frozen(backbone, backbone.model, cut, config)
    size = backbone.preprocessing.size

    def run() -> None:
        frozen.compute(torch.zeros((config.batch, 3, size, size), dtype=torch.uint8))

    return run


def prefix_s(backbone: Backbone, config: ForwardConfig, cut: Cut) -> float:
    """Return the seconds per image from pixels to the features at `cut`, without decoding.

    Parameters
    ----------
    backbone : Backbone
    config : ForwardConfig
    cut : Cut

    Returns
    -------
    float
    """
    name = f"cut {cut.index}"
    run = {name: forward(backbone, config, cut)}
    return numerics.seconds_of(_prefix(backbone, config), run, config.plan.threads)[name] / config.batch


def rough_image_s(backbone: Backbone, threads: int | None = None) -> float:
    """Return roughly the seconds per image through all layers in float32; timed once in a process.

    Parameters
    ----------
    backbone : Backbone
    threads : int or None

    Returns
    -------
    float
    """
    count = numerics.thread_count(threads)
    by_threads = _glimpses.setdefault(backbone, {})
    if count not in by_threads:
        by_threads[count] = pass_s(backbone, GLIMPSE, count) / GLIMPSE
    return by_threads[count]


def pass_s(backbone: Backbone, images: int, threads: int) -> float:
    """Return the seconds of a forward pass of so many images in float32, timed now."""
    config = ForwardConfig(numerics.exact_plan(threads), images)
    with numerics.threads(threads):
        return numerics.seconds(forward(backbone, config, backbone.cuts[-1]), repeats=REPEATED)


_glimpses: WeakKeyDictionary[Backbone, dict[int, float]] = WeakKeyDictionary()  # by threads


def timing_s(backbone: Backbone, threads: int | None = None) -> float:
    """Return roughly the seconds that all timings take for a network that is new on this machine.

    Parameters
    ----------
    backbone : Backbone
    threads : int or None

    Returns
    -------
    float
    """
    return TIMED_IMAGES * rough_image_s(backbone, threads)


def _prefix(backbone: Backbone, config: ForwardConfig) -> str:
    plan = config.plan
    computed = f"{plan.precision} {plan.channels_last} folded {len(config.folded)}"
    computed += " compiled" * config.compiled
    return f"prefix {network_name(backbone)} batch {config.batch} {computed}"


def stages_s(backbone: Backbone, config: ForwardConfig) -> list[float]:
    """Return the seconds an image takes in each frozen stage, and let `prefix_s` find them without a timing.

    The stages are run one after another, each entered alone, and share the seconds of the whole.
    """
    whole_s = prefix_s(backbone, config, backbone.cuts[-1])
    frozen, size = Frozen(backbone, backbone.model, backbone.cuts[-1], config), backbone.preprocessing.size
    pixels = torch.zeros((config.batch, 3, size, size), dtype=torch.uint8)
    passes = []
    for _ in range(PASSES):
        deadline.unit()
        passes.append(frozen.stages_s(pixels))
    shortest = [min(stage_seconds) for stage_seconds in zip(*passes, strict=True)]
    seconds = [whole_s * stage_seconds / sum(shortest) for stage_seconds in shortest]
    for cut, total_s in zip(backbone.cuts[1:], itertools.accumulate(seconds), strict=True):
        measured = {f"cut {cut.index}": total_s * config.batch}
        numerics.note_seconds(_prefix(backbone, config), measured, config.plan.threads)
    return seconds


def trial_name(backbone: Backbone, cut: Cut, images: int) -> str:
    """Name the step that `training_plan` times, of so many images."""
    return f"suffix {network_name(backbone)} images {images} cut {cut.index}"


def training_plan(
    backbone: Backbone, cut: Cut, *, bn: str = "affine", batch: int = 32, threads: int | None = None
) -> NumericPlan:
    """Return the numeric plan for the layers above `cut`, chosen by timing a training step on black images.

    Parameters
    ----------
    backbone : Backbone
    cut : Cut
    bn : str
        BatchNorm policy.
    batch : int
        Images a step.
    threads : int or None

    Returns
    -------
    NumericPlan
    """

    def timed(images: int) -> NumericPlan:
        step = _trial(backbone, cut, bn, images)
        return numerics.timed_plan(trial_name(backbone, cut, images), step, threads)

    return with_fewer(timed, trial_images(batch))


def step_s(
    backbone: Backbone,
    cut: Cut,
    plan: NumericPlan,
    *,
    bn: str = "affine",
    batch: int = 32,
    threads: int | None = None,
) -> float:
    """Return the seconds of a step of the layers above `cut` on a whole batch of black images.

    Parameters
    ----------
    backbone : Backbone
    cut : Cut
    plan : NumericPlan
    bn : str
        BatchNorm policy.
    batch : int
        Images a step.
    threads : int or None

    Returns
    -------
    float
    """
    step = _trial(backbone, cut, bn, batch)
    computed = f"{plan.precision} {plan.channels_last}"
    name = f"step {network_name(backbone)} images {batch} cut {cut.index} bn {bn} {computed}"
    count = numerics.thread_count(threads)
    return numerics.seconds_of(name, {"step": lambda: step(plan)}, count)["step"]


def _trial(backbone: Backbone, cut: Cut, bn: str, images: int) -> Callable[[NumericPlan], None]:
    """Return what does a training step of the layers above `cut` on so many black images, in a plan."""
    size = backbone.preprocessing.size

    @functools.cache
    def prepared() -> nn.Module:
        model = copy.deepcopy(backbone.model)
        bb.freeze(backbone, model, cut, bn)
        bb.set_training(backbone, model, cut, bn)
        return model

    @functools.cache
    def prefix_output(plan: NumericPlan) -> Tensor:
        pixels = torch.zeros((images, 3, size, size), dtype=torch.uint8)
        x = plan.batch(pixels, backbone.preprocessing.normalise)
        with plan.autocast(), torch.no_grad():
            return bb.prefix(backbone, plan.place(prepared()), cut)(x)

    def step(plan: NumericPlan) -> None:
        z, model = prefix_output(plan), plan.place(prepared())
        with bb.suffix(backbone, model, cut) as learning:
            with plan.autocast():
                out = learning(z)
            out.float().square().mean().backward()  # type: ignore[no-untyped-call]
            model.zero_grad()

    return step
