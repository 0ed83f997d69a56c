"""Features of frozen layers, cached by content, so that they are computed once. Imports no torch.

    FeatureCache  a folder of rows: immutable safetensors files (shards) and an SQLite index over them
    CachedPrefix  the rows of one frozen prefix: the same weights, cut, preprocessing and numeric plan
    Form          dtype and shape of one row
    key_of        an image's content and its view → the row's key

A row is found by what it was computed from, never by a path or a time. Every row carries a checksum that
covers its key. A row that is damaged is a miss, never a wrong value.
"""

from frostline.feature_cache.feature_cache import DEFAULT_LIMIT_BYTES, Checked, FeatureCache, PrefixUsage
from frostline.feature_cache.prefix_features import CachedPrefix, key_of
from frostline.feature_cache.shard_file import Form

__all__ = ["DEFAULT_LIMIT_BYTES", "CachedPrefix", "Checked", "FeatureCache", "Form", "PrefixUsage", "key_of"]
