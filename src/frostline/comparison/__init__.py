"""`compare`: strategies race under a budget and share one store; who won, and whether that means anything.

cells (new splits, no test image) · race (who climbs, as data) · judging (paired, by images and repeats)
candidates (what races) · ledger (who runs what: Optuna) → comparing (`compare`)
"""

from frostline.comparison.comparing import Comparison, compare

__all__ = ["Comparison", "compare"]
