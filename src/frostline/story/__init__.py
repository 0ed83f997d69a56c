"""The verbs in a row: `fit` for your own images, `demo` for packaged ones."""

from frostline.story.digits import DEMO_SIZE, Baseline, Demo, demo, write_digits
from frostline.story.fitting import Fitted, candidates, fit

__all__ = ["DEMO_SIZE", "Baseline", "Demo", "Fitted", "candidates", "demo", "fit", "write_digits"]
