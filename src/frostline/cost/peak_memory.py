"""The predicted peak memory of a run, in bytes above the imports.

Freed memory is kept for the next use (`timing.reuse_freed_memory`), so a process never shrinks during a run:
its peak is what it has grown to at the end. A moment needs memory for a while, and leaves some behind for the
rest of the run. It takes what was freed before, as far as that fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frostline.cost.rates import FLOAT_BYTES, Rates
from frostline.cost.run_time import FLIP_IMAGES, HELD_BYTES, Job, WalkResult

READ_AT_ONCE_BYTES = 32_000_000  # rows looked up and read in one go: a small part of any memory
# Each as large as what learns: AdamW's moments; and weights and moments as the epoch began, to go back to.
MOMENTS, NOTED = 2, 3
# Of freed memory, what later work fits into: small things lie between. In two processes it was 0.2 and 0.85
# for float32 batches after frozen ones, 0.4 and 0.75 for training steps after frozen ones, 0.65 and 0.9 for
# float32 batches after training (lite0, 96 px, torch 2.14.1).
REUSED = 0.6
# What no moment names: tables, buffers of the linear algebra, files read. Runs that read all their rows held
# 13 MB (SqueezeNet) to 40 MB (lite0) more than their moments.
SMALL_BYTES = 20_000_000
UNSEEN_BYTES = 50_000_000  # more of it, that the upper bound allows for


@dataclass(frozen=True)
class Peak:
    """Bytes above the imports: what is expected, and what would be held if little freed were used again."""

    expected: int
    upper: int


@dataclass(frozen=True)
class Moment:
    """What a part of a run needs for a while, and what it leaves behind, in bytes."""

    needs: float
    stays: float = 0.0


def peak(rates: Rates, job: Job, walk: WalkResult) -> Peak:
    """Return the peak of one run."""
    moments = [*_before(rates, job), *_phases(rates, job, walk), _figures(rates, job, walk)]
    stays = sum(moment.stays for moment in moments)
    highest = sorted((moment.needs for moment in moments), reverse=True)
    base = rates.peaks.base + SMALL_BYTES
    expected = base + grown(moments)
    return Peak(int(expected), int(max(expected, base + stays + sum(highest[:2]) + UNSEEN_BYTES)))


def grown(moments: list[Moment]) -> float:
    """Return the bytes that a process has grown by after these moments."""
    total = free = 0.0
    for moment in moments:
        growth = max(0.0, moment.needs + moment.stays - REUSED * free)
        total += growth
        free = max(0.0, free + growth - moment.stays)
    return total


def _before(rates: Rates, job: Job) -> list[Moment]:
    """Pictures looked at for mirroring, features, the adapted model."""
    moments = []
    if job.orientation_tests:  # pixels that are held lie between the pictures that are not
        moments.append(Moment(0.0, min(job.train, FLIP_IMAGES) * rates.picture_bytes))
    needs_features = bool(job.orientation_tests) or not job.phases or job.hyperparameters.head_init == "probe"
    features = FLOAT_BYTES * rates.columns(job.hyperparameters.layers) * job.train
    if needs_features and not job.warm:
        moments.append(Moment(rates.peaks.frozen + features, _copy(rates)))
    return [*moments, Moment(features if needs_features else 0.0, rates.model_bytes)]


def _copy(rates: Rates) -> int:
    """A copy of the model on which frozen layers are computed, made and then laid out otherwise."""
    return 2 * rates.model_bytes if rates.copies else 0


def _phases(rates: Rates, job: Job, walk: WalkResult) -> list[Moment]:
    """Pictures, rows, steps; the optimizer's moments and the best weights stay.

    Phases ask for blocks of the same sizes one after another, so the one that needs most stands for all:
    gradual unfreezing and full fine-tuning of lite0 held the same to 1 %.
    """
    if not job.phases:
        return []
    needs = []
    for phase in job.phases:
        images = math.ceil(job.train / phase.batches)
        step = _step(rates, job, phase.cut, images) + _learning(rates, phase.cut)
        if phase.cut:
            computes = job.mixes or not (job.warm and walk.cached_views.get(phase.cut))
            rows = _rows(rates, job, phase.cut, walk)
            step = _copy(rates) + max(rates.peaks.frozen if computes else 0, step + rows)
        needs.append(step)
    best = rates.model_bytes if job.val else 0
    averages = 2 if job.hyperparameters.ema else 0  # the one that moves, and as the epoch began
    stays: float = _pictures(rates, job, walk) + best
    stays += (MOMENTS + NOTED + averages) * _learning(rates, job.lowest)
    return [Moment(max(needs), stays)]


def _learning(rates: Rates, cut: int) -> float:
    """Return the bytes of the parameters that train from `cut` on."""
    return FLOAT_BYTES * rates.above(cut, lambda stage: stage.parameters)


def _pictures(rates: Rates, job: Job, walk: WalkResult) -> int:
    """Decoded training pictures stay while images are varied, unless all rows are there."""
    if job.still:
        return 0
    decodes = job.mixes or any(not phase.cut or not walk.cached_views.get(phase.cut) for phase in job.phases)
    decoded_bytes = job.train * rates.picture_bytes if decodes or not job.warm else 0
    return decoded_bytes + (job.val * rates.picture_bytes if job.lowest == 0 else 0)


def _rows(rates: Rates, job: Job, cut: int, walk: WalkResult) -> float:
    """Rows in memory: those of whole views, held or read in one go."""
    views = walk.cached_views.get(cut, ())
    if not views:
        return 0.0
    row_bytes = rates.at(cut).row_bytes
    train = 0 if job.mixes else job.train
    all_bytes = (train * len(views) + job.val) * row_bytes
    return min(all_bytes, HELD_BYTES) + min((train or job.val) * row_bytes, READ_AT_ONCE_BYTES)


def _step(rates: Rates, job: Job, cut: int, images: int) -> float:
    """What a step keeps for its backward pass, and its buffers.

    Those shrink more slowly than what the largest stage keeps: lite0's last stage keeps 1/15 and needs 1/6,
    its last three keep 0.3 and need 0.7; the root lies between.
    """
    plan = rates.at(job.lowest).plan
    kept_bytes = rates.above(cut, lambda stage: stage.learning[plan].kept_bytes)
    z = images * rates.at(cut).row_bytes * (FLOAT_BYTES if cut == 0 else 2)
    return images * kept_bytes + math.sqrt(_share(rates, cut, plan)) * rates.peaks.step + z


def _share(rates: Rates, cut: int, plan: str) -> float:
    """The largest stage from `cut` on beside the largest of all, by what they keep."""
    kept_by_cut = {stage.cut: stage.learning[plan].kept_bytes for stage in rates.stages}
    return max(size for place, size in kept_by_cut.items() if place >= cut) / max(kept_by_cut.values())


def _figures(rates: Rates, job: Job, walk: WalkResult) -> Moment:
    """The final passes: of fewer images where nothing is filled up, of late layers where rows are read."""
    cut = job.lowest if job.phases else rates.last.cut
    needs = float(rates.peaks.evaluation)
    if cut == 0:
        share = min(rates.evaluation_batch, max(job.val, job.test)) / rates.evaluation_batch
        return Moment(needs * share, (job.val + job.test) * rates.picture_bytes)
    if job.warm and walk.reads_figures:
        needs *= _share(rates, cut, rates.at(cut).plan)
    return Moment(needs)
