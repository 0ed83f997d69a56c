"""`train`: one strategy, one run, one loop."""

from frostline.training.budget import pass_s, refusal
from frostline.training.filling import CacheFill, fill_cache
from frostline.training.interpolation import interpolate_weights
from frostline.training.leaving import below_of
from frostline.training.lr_finder import Sweep, lr_find
from frostline.training.planning import Plan
from frostline.training.request import BATCH
from frostline.training.run import DEFAULT_STUDY, Run, train

__all__ = [
    "BATCH",
    "DEFAULT_STUDY",
    "CacheFill",
    "Plan",
    "Run",
    "Sweep",
    "below_of",
    "fill_cache",
    "interpolate_weights",
    "lr_find",
    "pass_s",
    "refusal",
    "train",
]
