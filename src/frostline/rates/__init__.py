"""What this machine needs for one network: how it computes best, and the seconds and bytes of each stage.

ways (the numeric plans that are timed) → learning · upkeep (stages and what surrounds them) → measuring

What was measured once on a machine is remembered, and a run after `measure` times nothing anew.
"""

from frostline.rates.measuring import measure, ready
from frostline.rates.ways import (
    FROZEN_BATCH,
    TRIAL,
    forward,
    frozen_way,
    glimpse_s,
    prefix_s,
    timing_s,
    training_plan,
)

__all__ = [
    "FROZEN_BATCH",
    "TRIAL",
    "forward",
    "frozen_way",
    "glimpse_s",
    "measure",
    "prefix_s",
    "ready",
    "timing_s",
    "training_plan",
]
