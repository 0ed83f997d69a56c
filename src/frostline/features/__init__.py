"""Features of frozen layers: read from the cache, or computed; the same bits.

A row holds the features of one view of one image, in the dtype they were computed in: nothing is
rounded, so a later cut's row may be computed from an earlier one.

numeric_key · tensors → cached_features → extraction
"""

from frostline.features.cached_features import Counts, Frozen
from frostline.features.extraction import features, logits, stage_features
from frostline.features.numeric_key import ForwardConfig
from frostline.features.tensors import AHEAD, ahead, padded

__all__ = [
    "AHEAD",
    "Counts",
    "ForwardConfig",
    "Frozen",
    "ahead",
    "features",
    "logits",
    "padded",
    "stage_features",
]
