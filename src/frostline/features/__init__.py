"""What the frozen part makes of images: read where the store has it, computed where not. The same bits.

A row is what the prefix answers for one view of one image, kept in the type it was computed in: nothing is
rounded, so a later cut's row may be computed from an earlier one.

way · tensors → rows → answers
"""

from frostline.features.cached_features import Counts, Frozen
from frostline.features.extraction import features, logits
from frostline.features.numeric_key import ForwardConfig
from frostline.features.tensors import AHEAD, ahead, padded

__all__ = ["AHEAD", "Counts", "ForwardConfig", "Frozen", "ahead", "features", "logits", "padded"]
