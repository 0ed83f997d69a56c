"""Rates of one network on this machine: the best numeric plan, and seconds and bytes of each stage.

numeric_search (the timed plans) → training_rates · rate_correction (by whole runs) · live_tensors →
rate_measurement

Rates are measured once on a machine and cached; a run after `measure` times nothing again. Cached rates are
checked by one timing before they predict anything, and whole runs correct them.
"""

from frostline.profiling.numeric_search import (
    FROZEN_BATCH,
    TRIAL,
    forward,
    forward_config,
    frozen_batch,
    prefix_s,
    rough_image_s,
    step_s,
    timing_s,
    training_plan,
)
from frostline.profiling.rate_correction import Expected, learn
from frostline.profiling.rate_measurement import decode_s, measure, ready

__all__ = [
    "FROZEN_BATCH",
    "TRIAL",
    "Expected",
    "decode_s",
    "forward",
    "forward_config",
    "frozen_batch",
    "learn",
    "measure",
    "prefix_s",
    "ready",
    "rough_image_s",
    "step_s",
    "timing_s",
    "training_plan",
]
