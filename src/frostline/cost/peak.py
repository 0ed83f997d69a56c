"""The most memory a run holds, in bytes above the imports: the highest of its moments.

What stays for the whole run lies under every moment: the backbone, the adapted copy, decoded pictures. A
moment adds what it needs at its highest: a frozen batch, a training step, the final figures, a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from frostline.cost.measured import FLOAT_BYTES, PIXEL_CHANNELS, Rates
from frostline.cost.walk import HELD_BYTES, Job, Walked

READ_AT_ONCE_BYTES = 32_000_000  # rows looked up in one go (frozen/rows.py)
MOMENTS = 2  # of AdamW, each as large as what learns


@dataclass(frozen=True)
class Peak:
    """Bytes above the imports: what is expected, and what would be held if nothing freed were used again."""

    expected: int
    upper: int


def peak(rates: Rates, job: Job, walked: Walked) -> Peak:
    """Return the peak of one run."""
    standing = rates.peaks.base + _pictures(rates, job)
    moments = _moments(rates, job, walked)
    highest = sorted((sum(moment) for moment in moments.values()), reverse=True)
    # What one moment gave back the next one can use, if it lies together: at worst, none of it.
    return Peak(int(standing + highest[0]), int(standing + sum(highest[:2])))


def _pictures(rates: Rates, job: Job) -> int:
    """Decoded training pictures stay in memory while images are varied, and plain pixels of val at cut 0."""
    pictures = 0 if job.still else job.train * rates.picture_bytes
    live = job.val if job.segments and job.lowest == 0 else 0
    return pictures + live * rates.pixel_bytes


def _moments(rates: Rates, job: Job, walked: Walked) -> dict[str, tuple[float, ...]]:
    """Return what each moment holds on top of what stands, in parts."""
    model = rates.model_bytes
    copy = model if rates.copies else 0
    moments: dict[str, tuple[float, ...]] = {
        "features": (copy, rates.peaks.frozen, job.train * 2 * FLOAT_BYTES * rates.feature_width),
        "figures": (model, _evaluation(rates, job)),
        "saving": (model, 2 * model),
    }
    for segment in job.segments:
        moments[f"phase from cut {segment.cut}"] = (
            model,
            _optimizer(rates, segment.cut),
            model if job.val else 0,  # the best weights so far
            copy if segment.cut else 0,
            _rows(rates, job, segment.cut, walked),
            max(_step(rates, job, segment.cut), rates.peaks.frozen if segment.cut else 0),
        )
    return moments


def _optimizer(rates: Rates, cut: int) -> float:
    """Gradients and moments of what learns."""
    return (1 + MOMENTS) * FLOAT_BYTES * rates.above(cut, lambda stage: stage.parameters)


def _rows(rates: Rates, job: Job, cut: int, walked: Walked) -> float:
    """Rows in memory: those of whole views, held or read in one go."""
    views = walked.kept.get(cut, ())
    if not views:
        return 0.0
    row_bytes = rates.at(cut).row_bytes
    whole = (job.train * len(views) + job.val) * row_bytes
    return min(whole, HELD_BYTES) + min(job.train * row_bytes, READ_AT_ONCE_BYTES)


def _step(rates: Rates, job: Job, cut: int) -> float:
    """What a step keeps for its backward pass, and its largest buffers, in proportion to what it keeps."""
    plan = rates.at(job.lowest).plan

    def kept(stage_cut: int) -> float:
        return rates.at(stage_cut).learning[plan].kept_bytes

    images = min(job.batch, job.train)
    cuts = [stage.cut for stage in rates.stages]
    share = max(kept(c) for c in cuts if c >= cut) / max(kept(c) for c in cuts)
    z = images * rates.at(cut).row_bytes * (PIXEL_CHANNELS + 1 if cut == 0 else 2)
    return images * sum(kept(c) for c in cuts if c >= cut) + share * rates.peaks.step + z


def _evaluation(rates: Rates, job: Job) -> float:
    """The final forward pass, of fewer images where there are fewer and nothing is filled up."""
    filled = job.lowest != 0
    largest = rates.evaluation_batch if filled else min(rates.evaluation_batch, max(job.val, job.test))
    return rates.peaks.evaluation * largest / rates.evaluation_batch
