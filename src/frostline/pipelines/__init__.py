"""Whole pipelines: `fit`, `evaluate` and `extract` for your own images, `demo` for packaged ones."""

from frostline.pipelines.advised_strategies import candidates
from frostline.pipelines.fit_pipeline import fit
from frostline.pipelines.fit_result import Fitted
from frostline.pipelines.packaged_demo import DEMO_SIZE, Baseline, Demo, demo, write_digits
from frostline.pipelines.time_limits import demand_measuring

__all__ = [
    "DEMO_SIZE",
    "Baseline",
    "Demo",
    "Fitted",
    "candidates",
    "demand_measuring",
    "demo",
    "fit",
    "write_digits",
]
