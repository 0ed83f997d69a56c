"""What a frozen layer answered, kept by content, so that it is computed once. Imports no torch.

    Store         a folder of rows: immutable safetensors files (shards) and an SQLite index over them
    Shelf         the rows of one frozen prefix: the same weights, cut, preprocessing and way of computing
    Form          type and shape of one row
    key_of        an image's content and its view → the row's key

A row is found by what it was computed from, never by a path or a time. Every row carries a checksum that
covers its key. Whatever is wrong with a row makes it a miss, never a wrong answer.
"""

from frostline.feature_cache.feature_cache import DEFAULT_LIMIT_BYTES, Checked, Holding, Store
from frostline.feature_cache.prefix_features import Shelf, key_of
from frostline.feature_cache.shard_file import Form

__all__ = ["DEFAULT_LIMIT_BYTES", "Checked", "Form", "Holding", "Shelf", "Store", "key_of"]
