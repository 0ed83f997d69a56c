"""Signals of images and a backbone, before training; how far features drifted, after it.

dataset_size · activation_statistics → stage_features → pretraining_similarity · stage_probes (with
transferability) → measurement · feature_drift
"""

from frostline.diagnostics.dataset_size import DatasetSize
from frostline.diagnostics.measurement import (
    Confidence,
    Signals,
    class_balanced_subset,
    images_measured,
    measure,
)
from frostline.diagnostics.pretraining_similarity import Similarity, similarity
from frostline.diagnostics.stage_probes import CurvePoint, SeveralStageProbe, StageProbe

__all__ = [
    "Confidence",
    "CurvePoint",
    "DatasetSize",
    "SeveralStageProbe",
    "Signals",
    "Similarity",
    "StageProbe",
    "class_balanced_subset",
    "images_measured",
    "measure",
    "similarity",
]
