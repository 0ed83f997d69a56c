"""What this machine needs for one network: how it computes best, and the seconds and bytes of each stage.

ways (the numeric plans that are timed) → learning · correcting (stages; what whole runs say) → measuring

What was measured once on a machine is remembered, and a run after `measure` times nothing anew. Remembered
rates are checked by one timing before they predict anything, and whole runs correct them.
"""

from frostline.profiling.numeric_search import (
    FROZEN_BATCH,
    TRIAL,
    forward,
    forward_config,
    prefix_s,
    rough_image_s,
    timing_s,
    training_plan,
)
from frostline.profiling.rate_correction import Expected, learn
from frostline.profiling.rate_measurement import measure, ready

__all__ = [
    "FROZEN_BATCH",
    "TRIAL",
    "Expected",
    "forward",
    "forward_config",
    "learn",
    "measure",
    "prefix_s",
    "ready",
    "rough_image_s",
    "timing_s",
    "training_plan",
]
