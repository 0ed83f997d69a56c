"""What images say about themselves and about a network, before anything is trained.

size · listening → glance → similarity, depth (with transfer) → measuring
"""

from frostline.diagnostics.dataset_size import Size
from frostline.diagnostics.measurement import Confidence, Signals, class_balanced_subset, measure
from frostline.diagnostics.similarity import Similarity, similarity
from frostline.diagnostics.stage_probes import CurvePoint, StageProbe

__all__ = [
    "Confidence",
    "CurvePoint",
    "Signals",
    "Similarity",
    "Size",
    "StageProbe",
    "class_balanced_subset",
    "measure",
    "similarity",
]
