"""`train`: one strategy, one run, one loop."""

from frostline.training.budget import pass_s, refusal
from frostline.training.filling import Filled, fill_store
from frostline.training.interpolation import interpolate
from frostline.training.leaving import below_of
from frostline.training.planning import Plan
from frostline.training.range_test import Sweep, lr_range_test
from frostline.training.request import BATCH
from frostline.training.run import DEFAULT_STUDY, Run, train

__all__ = [
    "BATCH",
    "DEFAULT_STUDY",
    "Filled",
    "Plan",
    "Run",
    "Sweep",
    "below_of",
    "fill_store",
    "interpolate",
    "lr_range_test",
    "pass_s",
    "refusal",
    "train",
]
