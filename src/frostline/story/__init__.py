"""The verbs in a row: `fit` for your own images, `demo` for packaged ones."""

from frostline.story.digits import DEMO_SIZE, Baseline, Demo, demo, write_digits
from frostline.story.fitting import Fitted, candidates, fit
from frostline.story.lasting import demand_measuring

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
