"""The predicted peak of a GPU's memory in a run, in bytes of tensors.

That is what `torch.cuda.max_memory_allocated` counts: weights, gradients, moments, what a step keeps for its
backward pass, and what kernels need beside. The context of CUDA and what the allocator holds in reserve are
none of it. The sum was compared with what tensors held on a processor; **it was not measured on a GPU**.
"""

from __future__ import annotations

import math

from frostline.cost.rates import FLOAT_BYTES, Rates
from frostline.cost.run_time import Job

MOMENTS = 2  # of AdamW, each as large as what learns
NOTED = 3  # weights and moments as the epoch began, to go back to
AVERAGES = 2  # an average of the weights: the one that moves, and as the epoch began
# cuBLAS takes 32 MiB a handle on Hopper, and 8 MiB where it is held to one order of additions
# (docs.nvidia.com/cuda/cublas, cublasSetWorkspace); cuDNN takes what its algorithm wants, for which as much
# again is set aside. Not measured on a GPU.
WORKSPACE_BYTES = 64 * 2**20
# Of the widest row at a cut, what lives at once in a pass without gradients: layers inside a stage are wider
# than what it ends with. lite0 at 96 px held 7 times as much on a processor (docs/LOG.md 2026-11-28), others
# half to 1.6 times of that (2026-12-01): for rates of before it was counted.
LIVE = 7


def device_peak(rates: Rates, job: Job) -> int:
    """Return the bytes that a run's tensors take on a GPU at its peak.

    The largest of frozen batches, steps and figures, beside the weights that are there all the time. Pictures
    and rows count as lying in the host's memory, a batch of them on the GPU: rows that lie there while there
    is room take what is free, and leave where a step needs it.
    """
    pretrained = rates.model_bytes * (2 if rates.copies else 1)  # frozen layers may be computed on a copy
    frozen = pretrained + rates.frozen_batch * (rates.peaks.live_frozen or _live(rates))
    evaluated = min(rates.evaluation_batch, max(job.val, job.test))  # such a batch is not filled up
    figures = rates.model_bytes + evaluated * (rates.peaks.live_evaluation or _live(rates))
    steps = [_step(rates, job, phase.cut, math.ceil(job.train / phase.batches)) for phase in job.phases]
    during = max([frozen, figures, *(pretrained * (job.lowest > 0) + step for step in steps)])
    return int(during + WORKSPACE_BYTES)


def _step(rates: Rates, job: Job, cut: int, images: int) -> float:
    """Return what a step holds: weights, what each learning one needs beside it, and the batch's values."""
    learning = FLOAT_BYTES * rates.above(cut, lambda stage: stage.parameters)
    gradients = 1
    beside = gradients + MOMENTS + NOTED + (AVERAGES if job.hyperparameters.ema else 0)
    best = rates.model_bytes if job.val else 0
    plan = rates.at(job.lowest).plan
    kept_bytes = rates.above(cut, lambda stage: stage.learning[plan].kept_bytes)
    batch = FLOAT_BYTES * rates.pixel_bytes if cut == 0 else rates.at(cut).row_bytes
    return rates.model_bytes + beside * learning + best + images * (kept_bytes + batch)


def _live(rates: Rates) -> float:
    """Return the bytes an image that a pass without gradients holds at once, where they were not counted."""
    rows = [stage.row_bytes for stage in rates.stages if stage.cut]
    widest = max(rows, default=0) * FLOAT_BYTES / rates.value_bytes
    return FLOAT_BYTES * rates.pixel_bytes + LIVE * widest
