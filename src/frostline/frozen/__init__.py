"""What the frozen part makes of images: read where the store has it, computed where not. The same bits.

A row is what the prefix answers for one view of one image, kept in the type it was computed in: nothing is
rounded, so a later cut's row may be computed from an earlier one.

way · tensors → rows → answers
"""

from frostline.frozen.answers import features, logits
from frostline.frozen.rows import Counts, Frozen
from frostline.frozen.tensors import AHEAD, ahead, padded
from frostline.frozen.way import Way

__all__ = ["AHEAD", "Counts", "Frozen", "Way", "ahead", "features", "logits", "padded"]
