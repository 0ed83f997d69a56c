"""Which backbone: each is measured, limits are kept, and its features are asked once, by out-of-fold probes.

A network costs one frozen pass and one solved head. Those whose probe is not separated from the best one's
are worth training; nothing here trains them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline import probe, profiling
from frostline.data import Manifest, OnProgress
from frostline.diagnostics import shared_out, transferability
from frostline.errors import UsageError
from frostline.feature_cache import Store
from frostline.features import Frozen, features
from frostline.features.image_batches import Images
from frostline.models import Backbone
from frostline.selection import resampling
from frostline.selection.resampling import Cell
from frostline.selection.significance import Difference, HeldOutPredictions, difference
from frostline.system import numerics
from frostline.training import pass_s

# Networks whose strategies race: the best by probe, and the largest of those not separated from it. Two share
# the strategies of one, so that the race takes as long as it does with a single network; with three it would
# take half as long again (docs/decisions/0009).
SURVIVORS = 2
MOST_IMAGES = (
    resampling.FEW_IMAGES - 1
)  # looked at: enough, and few enough that each of them is held out once
WARM, TIMED = 3, 21  # passes of one image before the clock, and on it: a second, for most networks
# Of the seconds that are left, what looking at networks may take; the rest is for training. A choice: looking
# brings nothing where no time is left to train what was found.
LOOKING = 0.3
GIVEN = 0.7  # of one processor's time while it was timed: below, neighbours were seen to make 9 ms into 100


@dataclass(frozen=True)
class Limits:
    """What a network may take to answer one image (milliseconds), and its weights (megabytes, 10⁶ bytes)."""

    latency_ms: float | None = None
    size_mb: float | None = None

    def check(self) -> None:
        """Raise `UsageError` where a limit allows nothing."""
        for name, limit in (("max_latency_ms", self.latency_ms), ("max_size_mb", self.size_mb)):
            if limit is not None and not limit > 0:
                raise UsageError(f"{name} must be above 0, found {limit:g}.")

    def over(self, latency_ms: float, size_mb: float) -> str:
        """Return what is over a limit, in words; empty where nothing is."""
        found = []
        if self.latency_ms is not None and latency_ms > self.latency_ms:
            found.append(f"{latency_ms:.4g} ms an image, over the limit of {self.latency_ms:g} ms")
        if self.size_mb is not None and size_mb > self.size_mb:
            found.append(f"{size_mb:.4g} MB, over the limit of {self.size_mb:g} MB")
        return "; ".join(found)


@dataclass(frozen=True)
class ScreeningResult:
    """What was found about one network.

    Rates 0–1 with a 95 % interval, out of fold; `None` where a limit left it out before any image was looked
    at. `separated` tells whether the best one's probe is better by more than chance explains.
    """

    model: str
    latency_ms: float  # one image, batch 1, the plain model on this device
    size_mb: float  # of the adapted model's weights as they are saved
    probe_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    logme: float | None = None
    separated: bool | None = None
    kept: bool = False
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)


def screen(
    backbones: Sequence[Backbone],
    data: Manifest,
    limits: Limits,
    *,
    metric: str = "accuracy",
    seed: int = 0,
    deterministic: bool = False,
    precision: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    left_s: float | None = None,
    progress: OnProgress | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[ScreeningResult]:
    """Return what was found about each network: the kept ones first, and of those the best by probe.

    With `left_s`, the seconds until a limit, those that a share of them allows are asked, in the order given;
    where it allows none, the quickest is taken unasked. No image of the test part is looked at. Raises
    `UsageError` where every network is over a limit.
    """
    limits.check()
    classes = len(data.classes)
    found = {}
    for backbone in backbones:
        latency_ms, size_mb, given = measured(backbone, classes, threads)
        over = limits.over(latency_ms, size_mb)
        found[backbone.name] = ScreeningResult(backbone.name, latency_ms, size_mb, reason=over)
        doubt = (
            "" if given >= GIVEN else f" (doubtful: others had {1 - given:.0%} of the processor meanwhile)"
        )
        log(f"  {backbone.name}: {latency_ms:.1f} ms an image{doubt}, {size_mb:.1f} MB")
    within = [backbone for backbone in backbones if not found[backbone.name].reason]
    if not within:
        each = "; ".join(f"{row.model} {row.reason}" for row in found.values())
        raise UsageError(f"Every network is over a limit: {each}. Raise it, or name a smaller network.")
    few = _fewer(data, seed)
    affordable, reasons = _in_time(within, few, left_s, threads)
    found |= {name: replace(found[name], reason=reason) for name, reason in reasons.items()}
    if not affordable:
        return _unasked(found, reasons)
    folds = [resampling.parted(few, Cell(0, fold), seed) for fold in range(resampling.folds_of(few, seed))]
    held = {}
    for backbone in affordable:
        seen = _features(backbone, few, deterministic, precision, threads, workers, progress)
        held[backbone.name] = mine = _asked(seen, few, folds, metric)
        accuracy, low, high = mine.accuracy_interval()
        logme = transferability.log_me(seen, few.targets(few.samples), classes)
        row = found[backbone.name]
        found[row.model] = replace(row, probe_accuracy=accuracy, low=low, high=high, logme=logme)
        span = f"{100 * accuracy:.1f} % right ({100 * low:.1f}–{100 * high:.1f} %)"
        log(f"  {row.model}: {span} by a linear probe, out of fold")
    return _decided(found, held, metric, seed)


def _in_time(
    backbones: Sequence[Backbone], data: Manifest, left_s: float | None, threads: int | None
) -> tuple[list[Backbone], dict[str, str]]:
    """Return the networks that there is time to look at, and why not of each other, the quickest first."""
    if left_s is None:
        return list(backbones), {}
    needed = {backbone.name: _looking_s(backbone, data, threads) for backbone in backbones}
    free_s, affordable = LOOKING * max(0.0, left_s), []
    for backbone in backbones:
        if needed[backbone.name] <= free_s:
            affordable.append(backbone)
            free_s -= needed[backbone.name]
    missed = [backbone.name for backbone in backbones if backbone not in affordable]
    return affordable, {
        name: f"no time to look at it: that takes about {needed[name]:.0f} s, and {free_s:.0f} s "
        f"are left of the {LOOKING:.0%} of the minutes that are for looking"
        for name in sorted(missed, key=needed.__getitem__)
    }


def _looking_s(backbone: Backbone, data: Manifest, threads: int | None) -> float:
    """Return roughly the seconds of one pass over the images, and of timing a network that is new here."""
    timing_s = 0.0 if profiling.ready(backbone, threads=threads, classes=len(data.classes)) else 1.0
    timing_s *= profiling.timing_s(backbone, threads)
    return timing_s + len(data.samples) * pass_s(backbone, data, data.samples, threads)


def _unasked(found: dict[str, ScreeningResult], reasons: dict[str, str]) -> list[ScreeningResult]:
    """Keep the quickest of those that there was no time to look at."""
    quickest = next(iter(reasons))
    why = "the quickest: there is no time to look at any"
    rows = [replace(row, kept=row.model == quickest) for row in found.values()]
    rows = [replace(row, reason=why) if row.kept else row for row in rows]
    return sorted(rows, key=lambda row: not row.kept)


def _fewer(data: Manifest, seed: int) -> Manifest:
    """Return at most `MOST_IMAGES` images, with folds of their own: a study remembers those of all images."""
    pool = resampling.pool(data)
    learned = np.flatnonzero(data.has_learned(pool)).tolist()  # by what is left out, too
    return replace(
        data,
        samples=shared_out(data, pool, MOST_IMAGES, seed),
        learned=data.learned | {pool[at].digest for at in learned},
        earlier_folds={},
    )


def measured(backbone: Backbone, classes: int, threads: int | None = None) -> tuple[float, float, float]:
    """Return the median milliseconds of one image, the megabytes of the weights, and what was given.

    The model is the plain one that a person takes away, with its new head: float32, on this machine's device.
    Given is the share of one processor that this process had meanwhile, at most 1; 1 on another device.
    """
    model = backbone.adapt(classes).to(numerics.device())
    size = backbone.preprocessing.size
    image = torch.zeros((1, 3, size, size), device=numerics.device())
    taken: list[float] = []
    used = 0.0
    with numerics.threads(numerics.thread_count(threads)), torch.inference_mode():
        for turn in range(WARM + TIMED):
            if turn == WARM:
                taken, used = [], time.process_time()  # the clock begins
            begun = time.perf_counter()
            model(image).cpu()  # the answer is there, also on a device that works behind our back
            taken.append(time.perf_counter() - begun)
        used_s = time.process_time() - used
    weights_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    share = used_s / sum(taken) if numerics.device() == "cpu" else 1.0
    return 1e3 * statistics.median(taken), weights_bytes / 1e6, min(1.0, share)


def _features(
    backbone: Backbone,
    data: Manifest,
    deterministic: bool,
    precision: str,
    threads: int | None,
    workers: int,
    progress: OnProgress | None,
) -> NDArray[np.float32]:
    """Return the pooled features of every image, computed as training does, so that it finds the rows."""
    way = profiling.frozen_way(backbone, deterministic=deterministic, precision=precision, threads=threads)
    images = Images(data, data.samples, backbone.preprocessing)
    with numerics.threads(way.plan.threads), Store() as store:
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], way, store)
        return features(head, images, workers=workers, progress=progress)


def _asked(seen: NDArray[np.float32], data: Manifest, folds: probe.Folds, metric: str) -> HeldOutPredictions:
    """Return what a linear probe says of each image by a fit that has not seen it."""
    targets, units = data.targets(data.samples), data.units(data.samples)
    images = np.concatenate([rows for _, rows in folds])
    return HeldOutPredictions(
        images=images,
        repeats=np.zeros(len(images), dtype=np.int64),
        units=units[images],
        targets=targets[images],
        probabilities=probe.answers(seen, targets, len(data.classes), folds, metric=metric),
    )


def _decided(
    found: dict[str, ScreeningResult], held: dict[str, HeldOutPredictions], metric: str, seed: int
) -> list[ScreeningResult]:
    """Keep the best by probe and, of those not separated from it, the largest, up to `SURVIVORS`.

    A larger network gains more by training than its probe shows: docs/LOG.md 2026-11-25.
    """
    best, *others = sorted(held, key=lambda name: -held[name].score(metric))  # ties: the earlier named
    behind = {name: difference(held[best], held[name], metric, seed) for name in others}
    close = sorted((n for n in others if not behind[n].separated), key=lambda n: -found[n].size_mb)
    racing = close[: SURVIVORS - 1]
    rows = [replace(found[best], separated=False, kept=True, reason="the best out-of-fold probe")]
    for name in others:
        reason, kept = _behind(best, behind[name], metric, name in racing), name in racing
        rows.append(replace(found[name], separated=behind[name].separated, kept=kept, reason=reason))
    left_out = [row for row in found.values() if row.model not in held]
    return sorted([*rows, *left_out], key=lambda row: not row.kept)


def _behind(best: str, behind: Difference, metric: str, kept: bool) -> str:
    """Say how far behind the best one is, and whether that means anything."""
    scale, unit = (1.0, "") if metric == "log_loss" else (100.0, " points")
    span = f"{scale * behind.mean:.2g}{unit} ({scale * behind.low:.2g} to {scale * behind.high:.2g})"
    if behind.separated:
        return f"separated from {best}, which is better by {span}"
    rest = "and the largest such" if kept else f"and only {SURVIVORS} race, the best and the largest such"
    return f"not separated from {best}, which is ahead by {span}, {rest}"
