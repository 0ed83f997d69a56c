"""Features of frozen layers: read from the cache, or computed; the same bits.

A row holds the features of one view of one image, in the dtype they were computed in: nothing is
rounded, so a later cut's row may be computed from an earlier one.

random_transforms → augmentation · ordered_threads · numeric_key → jpeg_decoding → image_batches ·
tensor_bytes → statistics_cache → cached_features → extraction · forward_pass
"""

from frostline.feature_extraction.cached_features import Counts, Frozen
from frostline.feature_extraction.extraction import features, features_and_statistics
from frostline.feature_extraction.forward_pass import ForwardPass, Outputs
from frostline.feature_extraction.image_batches import ahead, padded
from frostline.feature_extraction.numeric_key import ForwardConfig
from frostline.feature_extraction.ordered_threads import AHEAD

__all__ = [
    "AHEAD",
    "Counts",
    "ForwardConfig",
    "ForwardPass",
    "Frozen",
    "Outputs",
    "ahead",
    "features",
    "features_and_statistics",
    "padded",
]
