"""Backbone screening by latency, size and out-of-fold linear probes on frozen features.

Each network takes one pass over the images and one probe. Those whose probe is not significantly worse than
the best one's are worth training; nothing here trains them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline import metrics, probe, profiling
from frostline.data import Manifest
from frostline.data.decoding_threads import AUTO, Workers
from frostline.diagnostics import class_balanced_subset, transferability
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen, features
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.progress import OnLine, OnProgress, Progress
from frostline.selection import resampling
from frostline.selection.resampling import Cell
from frostline.selection.significance import Difference, HeldOutPredictions, difference
from frostline.strategies import Strategy, hyperparameters
from frostline.system import devices, numerics
from frostline.training import pass_s

# Networks that are trained: the best by probe, and the largest of those not significantly worse. Two share
# the strategies of one, so that the comparison takes as long as with a single network; with three it would
# take half as long again (docs/decisions/0009).
SURVIVORS = 2
MOST_IMAGES = resampling.FEW_IMAGES - 1  # screened on: few enough that each of them is held out once
WARM, TIMED = 3, 21  # warm-up and timed passes of one image: about a second, for most networks
# Largest share of the time left that screening may take; the rest is for training. A choice: screening is
# useless if no time is left to train the selected network.
SCREENING_SHARE = 0.3
MIN_PROCESSOR_SHARE = 0.7  # of one core while timing: below this, other processes turned 9 ms into 100


@dataclass(frozen=True)
class Limits:
    """Limits on a network.

    Parameters
    ----------
    latency_ms
        Largest latency of one image in milliseconds; `None` for no limit.
    size_mb
        Largest size of the weights in megabytes (10⁶ bytes); `None` for no limit.
    """

    latency_ms: float | None = None
    size_mb: float | None = None

    def check(self) -> None:
        """Raise `UsageError` if a limit is not above 0."""
        for name, limit in (("max_latency_ms", self.latency_ms), ("max_size_mb", self.size_mb)):
            if limit is not None and not limit > 0:
                raise UsageError(f"{name} must be above 0, found {limit:g}.")

    def over(self, latency_ms: float, size_mb: float) -> str | None:
        """Return in words which limits are exceeded; `None` if none is."""
        exceeded = []
        if self.latency_ms is not None and latency_ms > self.latency_ms:
            exceeded.append(f"{latency_ms:.4g} ms an image, over the limit of {self.latency_ms:g} ms")
        if self.size_mb is not None and size_mb > self.size_mb:
            exceeded.append(f"{size_mb:.4g} MB, over the limit of {self.size_mb:g} MB")
        return "; ".join(exceeded) or None


@dataclass(frozen=True)
class ScreeningResult:
    """Screening result of one network.

    Parameters
    ----------
    model
        Name of the network.
    latency_ms
        Milliseconds for one image, batch 1, in float32 on this device, with the largest head that it may get.
    size_mb
        Megabytes (10⁶ bytes) of the adapted model's weights as saved.
    probe_accuracy, low, high
        Out-of-fold accuracy of a linear probe and its 95 % interval, 0–1; `None` if it was not probed.
    logme
        LogME transferability score; `None` if it was not probed.
    separated
        Whether the best network's probe is significantly better; `None` if it was not probed.
    selected
        Whether the network is selected for training.
    reason
        Why it is selected or not.
    """

    model: str
    latency_ms: float
    size_mb: float
    probe_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    logme: float | None = None
    separated: bool | None = None
    selected: bool = False
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@devices.computes()
def screen(
    backbones: Sequence[Backbone],
    data: Manifest,
    limits: Limits,
    *,
    metric: metrics.Metric = "accuracy",
    seed: int = 0,
    device: str = "auto",
    deterministic: bool = False,
    precision: str = "auto",
    compiled: bool = False,
    threads: int | None = None,
    workers: Workers = AUTO,
    fast: bool = False,
    strategies: Sequence[Strategy] = (),
    left_s: float | None = None,
    feature_cache: FeatureCache | None = None,
    progress: OnProgress | None = None,
    log: OnLine | None = None,
) -> list[ScreeningResult]:
    """Screen backbones by limits and out-of-fold linear probes.

    No image of the test set is used.

    Parameters
    ----------
    backbones
        Networks with different names.
    data
        The labelled images.
    limits
        Latency and size limits.
    metric
        Metric that probes are compared by.
    seed
        Seed of folds and sampling.
    device, deterministic, precision, threads, workers
        As in `train`.
    compiled
        Whether frozen layers run by `torch.compile`.
    fast
        Whether pixels may be fast, as `Config.fast_pixels` says.
    strategies
        What the selected networks may be adapted by. Latency and size are those of the largest head that one
        of them ends with; without any, of a linear one on the last stage.
    left_s
        Seconds until the time limit. Networks are then screened in the order given as long as a share of
        that allows; if it allows none, the one with the shortest pass is selected without a probe.
    feature_cache
        Where features of frozen layers are kept; `None` for the one of this machine.
    progress
        Called as `progress(what, done, total)`.
    log
        Called with lines for a person; `None` leaves them to `progress`, where that is a `Progress`.

    Returns
    -------
    list of ScreeningResult
        The selected networks first, the best by probe before the others.

    Raises
    ------
    UsageError
        If every network is over a limit.
    """
    limits.check()
    cache, progress = feature_cache or FeatureCache(), Progress.of(progress, log)
    classes = len(data.classes)
    results, within = {}, []
    for backbone in backbones:
        latency_ms, size_mb, processor_share = measure_costs(
            backbone, classes, threads, stages_read(backbone, strategies)
        )
        over = limits.over(latency_ms, size_mb)
        results[backbone.name] = ScreeningResult(backbone.name, latency_ms, size_mb, reason=over or "")
        if over is None:
            within.append(backbone)
        caveat = (
            ""
            if processor_share >= MIN_PROCESSOR_SHARE
            else f" (unreliable: other processes used {1 - processor_share:.0%} of the processor)"
        )
        progress.log(f"  {backbone.name}: {latency_ms:.1f} ms an image{caveat}, {size_mb:.1f} MB")
    if not within:
        each = "; ".join(f"{row.model} {row.reason}" for row in results.values())
        raise UsageError(f"Every network is over a limit: {each}. Raise it, or name a smaller network.")
    subset = _subset(data, seed)
    in_time, reasons = _in_time(within, subset, left_s, threads)
    results |= {name: replace(results[name], reason=reason) for name, reason in reasons.items()}
    if not in_time:
        return _quickest(results, reasons)
    folds = [
        resampling.parted(subset, Cell(0, fold), seed) for fold in range(resampling.folds_of(subset, seed))
    ]
    held = {}
    for backbone in in_time:
        pooled = _features(
            backbone, subset, cache, deterministic, precision, compiled, threads, workers, fast, progress
        )
        held[backbone.name] = predictions = _probe_predictions(pooled, subset, folds, metric)
        accuracy, low, high = predictions.accuracy_interval()
        logme = transferability.log_me(pooled, subset.targets(subset.samples), classes)
        row = results[backbone.name]
        results[row.model] = replace(row, probe_accuracy=accuracy, low=low, high=high, logme=logme)
        interval = f"{100 * accuracy:.1f} % ({100 * low:.1f}–{100 * high:.1f} %)"
        progress.log(f"  {row.model}: out-of-fold accuracy {interval} of a linear probe")
    return _select(results, held, metric, seed)


def _in_time(
    backbones: Sequence[Backbone], data: Manifest, left_s: float | None, threads: int | None
) -> tuple[list[Backbone], dict[str, str]]:
    """Return the networks that there is time to screen, and the reasons for the others, quickest first."""
    if left_s is None:
        return list(backbones), {}
    needed = {backbone.name: _screening_s(backbone, data, threads) for backbone in backbones}
    free_s, in_time = SCREENING_SHARE * max(0.0, left_s), []
    for backbone in backbones:
        if needed[backbone.name] <= free_s:
            in_time.append(backbone)
            free_s -= needed[backbone.name]
    skipped = [backbone.name for backbone in backbones if backbone not in in_time]
    return in_time, {
        name: f"no time to screen it: that takes about {needed[name]:.0f} s, and {free_s:.0f} s are left of "
        f"the {SCREENING_SHARE:.0%} of the time that is for screening"
        for name in sorted(skipped, key=needed.__getitem__)
    }


def _screening_s(backbone: Backbone, data: Manifest, threads: int | None) -> float:
    """Return roughly the seconds of one pass over the images, and of timing a new network."""
    timing_s = 0.0 if profiling.ready(backbone, threads=threads, classes=len(data.classes)) else 1.0
    timing_s *= profiling.timing_s(backbone, threads)
    return timing_s + len(data.samples) * pass_s(backbone, data, data.samples, threads)


def _quickest(results: dict[str, ScreeningResult], reasons: dict[str, str]) -> list[ScreeningResult]:
    """Return the results with the quickest network selected, if there was no time to screen any."""
    quickest = next(iter(reasons))
    why = "the quickest: there is no time to screen any"
    rows = [replace(row, selected=row.model == quickest) for row in results.values()]
    rows = [replace(row, reason=why) if row.selected else row for row in rows]
    return sorted(rows, key=lambda row: not row.selected)


def _subset(data: Manifest, seed: int) -> Manifest:
    """Return at most `MOST_IMAGES` images, with folds of their own: a study stores those of all images."""
    pool = resampling.pool(data)
    learned_positions = np.flatnonzero(data.has_learned(pool)).tolist()  # also because of images left out
    return replace(
        data,
        samples=class_balanced_subset(data, pool, MOST_IMAGES, seed),
        learned=data.learned | {pool[at].digest for at in learned_positions},
        earlier_folds={},
    )


def stages_read(backbone: Backbone, strategies: Sequence[Strategy]) -> int | None:
    """Return the most stages that the head of one of the strategies reads; `None`: the last one's output."""
    n_stages = len(backbone.stages)
    counts = {"last": 0, "all": n_stages, "auto": n_stages}  # auto chooses: by data, up to all of them
    read = [0]
    for strategy in strategies:
        known = hyperparameters(strategy)
        read += [known.refit_layers, known.layers if isinstance(known.layers, int) else counts[known.layers]]
    return min(max(read), n_stages) or None


def measure_costs(
    backbone: Backbone, classes: int, threads: int | None = None, layers: int | None = None
) -> tuple[float, float, float]:
    """Return the median milliseconds of one image, the megabytes of the weights, and the processor share.

    The model is in float32 with its new head, which reads so many `layers` as `adapt` takes, on this
    machine's device. The processor share is
    that of one core which this process had while timing, at most 1; 1 on another device.
    """
    model = backbone.adapt(classes, layers=layers).to(numerics.device())
    size = backbone.preprocessing.size
    image = torch.zeros((1, 3, size, size), device=numerics.device())
    seconds: list[float] = []
    cpu_start_s = 0.0
    with numerics.threads(numerics.thread_count(threads)), torch.inference_mode():
        for turn in range(WARM + TIMED):
            if turn == WARM:
                seconds, cpu_start_s = [], time.process_time()  # warm-up is over
            started = numerics.now()
            model(image)
            seconds.append(numerics.now() - started)
        cpu_s = time.process_time() - cpu_start_s
    weights_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    share = cpu_s / sum(seconds) if numerics.device() == "cpu" else 1.0
    return 1e3 * statistics.median(seconds), weights_bytes / 1e6, min(1.0, share)


def _features(
    backbone: Backbone,
    data: Manifest,
    cache: FeatureCache,
    deterministic: bool,
    precision: str,
    compiled: bool,
    threads: int | None,
    workers: Workers,
    fast: bool,
    progress: Progress,
) -> NDArray[np.float32]:
    """Return pooled features (images, width), computed as in training, which then finds them in the cache."""
    method = profiling.forward_config(
        backbone, deterministic=deterministic, precision=precision, compiled=compiled, threads=threads
    )
    judges = np.array([sample.split == "val" and "val" in data.predefined for sample in data.samples])
    order, rows = list[int](), list[NDArray[np.float32]]()
    with numerics.threads(method.plan.threads), cache:
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], method, cache)
        for judge in (False, True):
            if places := np.flatnonzero(judges == judge).tolist():
                samples = [data.samples[place] for place in places]
                images = Images(data, samples, backbone.preprocessing, fast=fast and not judge)
                rows.append(features(head, images, workers=workers, progress=progress))
                order += places
    return np.concatenate(rows)[np.argsort(order)]


def _probe_predictions(
    pooled: NDArray[np.float32], data: Manifest, folds: probe.Folds, metric: metrics.Metric
) -> HeldOutPredictions:
    """Return a linear probe's out-of-fold predictions from pooled features."""
    targets, units = data.targets(data.samples), data.units(data.samples)
    images = np.concatenate([rows for _, rows in folds])
    return HeldOutPredictions(
        images=images,
        repeats=np.zeros(len(images), dtype=np.int64),
        units=units[images],
        targets=targets[images],
        probabilities=probe.answers(pooled, targets, len(data.classes), folds, metric=metric),
    )


def _select(
    results: dict[str, ScreeningResult],
    held: dict[str, HeldOutPredictions],
    metric: metrics.Metric,
    seed: int,
) -> list[ScreeningResult]:
    """Select the best by probe and, of those not significantly worse, the largest, up to `SURVIVORS`.

    A larger network gains more by training than its probe shows: docs/LOG.md 2026-11-25.
    """
    best, *others = sorted(held, key=lambda name: -held[name].score(metric))  # ties: the earlier named
    behind = {name: difference(held[best], held[name], metric, seed) for name in others}
    not_worse = sorted((n for n in others if not behind[n].separated), key=lambda n: -results[n].size_mb)
    selected = not_worse[: SURVIVORS - 1]
    rows = [replace(results[best], separated=False, selected=True, reason="the best out-of-fold probe")]
    for name in others:
        reason = _reason(best, behind[name], metric, name in selected)
        rows.append(
            replace(results[name], separated=behind[name].separated, selected=name in selected, reason=reason)
        )
    left_out = [row for row in results.values() if row.model not in held]
    return sorted([*rows, *left_out], key=lambda row: not row.selected)


def _reason(best: str, behind: Difference, metric: metrics.Metric, selected: bool) -> str:
    """Return how far a network is behind the best, and whether that is significant."""
    scale, unit = (1.0, "") if not metrics.is_share(metric) else (100.0, " points")
    span = f"{scale * behind.mean:.2g}{unit} ({scale * behind.low:.2g} to {scale * behind.high:.2g})"
    if behind.separated:
        return f"significantly worse than {best}, by {span}"
    rest = (
        "and the largest such"
        if selected
        else f"and only {SURVIVORS} are trained, the best and the largest such"
    )
    return f"not significantly different from {best}, which is ahead by {span}, {rest}"
