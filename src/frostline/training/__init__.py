"""`train`: one strategy, one run, one loop.

train_request (what is asked for) → numeric_plan (what is decided before the first step) · caching (which
features are cached) → loop (batches, steps, the head), with techniques and resilience → run_evaluation (a
run's figures) · artifacts (what else it leaves) → run_result (`Run`) → execution (one process makes it, or
several) → train_pipeline (`train`); ray_training starts the processes of a run on a cluster
"""

from frostline.config import BATCH
from frostline.training.artifacts import forward_pass_of
from frostline.training.caching.cache_filling import CacheFill, fill_cache
from frostline.training.numeric_plan import Plan
from frostline.training.resilience.time_limit import pass_s
from frostline.training.run_result import Run
from frostline.training.techniques.lr_finder import Sweep, Sweeps, lr_find
from frostline.training.techniques.wise_ft import interpolate_weights
from frostline.training.train_pipeline import DEFAULT_STUDY, train

__all__ = [
    "BATCH",
    "DEFAULT_STUDY",
    "CacheFill",
    "Plan",
    "Run",
    "Sweep",
    "Sweeps",
    "fill_cache",
    "forward_pass_of",
    "interpolate_weights",
    "lr_find",
    "pass_s",
    "train",
]
