"""What images say about themselves and about a network, before anything is trained.

size · listening → glance → similarity, depth (with transfer) → measuring
"""

from frostline.signals.depth import CurvePoint, StageProbe
from frostline.signals.measuring import Confidence, Signals, measure, shared_out
from frostline.signals.similarity import Similarity, similarity
from frostline.signals.size import Size

__all__ = [
    "Confidence",
    "CurvePoint",
    "Signals",
    "Similarity",
    "Size",
    "StageProbe",
    "measure",
    "shared_out",
    "similarity",
]
