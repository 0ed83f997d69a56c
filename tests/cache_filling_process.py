"""Fills a prefix with rows whose right contents can be computed from their keys. Imports no torch.

python cache_filling_process.py FOLDER COUNT [COMPUTED_FILE] [SECONDS_A_BATCH]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from frostline.feature_cache import CachedPrefix, FeatureCache, Form, key_of

FORM = Form("float32", (6, 5), False)
ABOUT = {"model": "arithmetic", "cut": "middle"}
BATCH = 16


def keys_for(count: int) -> list[bytes]:
    """Return the keys of `count` images."""
    return [key_of(f"image {number}", "0") for number in range(count)]


def rows_for(keys: list[bytes]) -> np.ndarray:
    """Return the right rows of those keys: uint8 of shape (n, row_bytes)."""
    values = [np.random.default_rng(list(key)).random(FORM.shape, dtype=np.float32) for key in keys]
    return np.stack(values).reshape(len(keys), -1).view(np.uint8)


def fill(prefix: CachedPrefix, keys: list[bytes], pause_s: float = 0.0) -> int:
    """Compute what is missing; return how many rows that were."""
    computed = 0
    for batch in filter(len, prefix.todo(keys, BATCH)):
        time.sleep(pause_s)
        prefix.put(batch, rows_for(batch), FORM)
        computed += len(batch)
    prefix.close()
    return computed


def right(prefix: CachedPrefix, keys: list[bytes]) -> int:
    """Return how many rows are there; fails if any of them is wrong."""
    rows, absent = prefix.read(keys)
    there = [i for i in range(len(keys)) if i not in set(absent)]
    if there:
        assert np.array_equal(rows[there], rows_for([keys[i] for i in there]))
    return len(there)


if __name__ == "__main__":
    from frostline.feature_cache import prefix_features as module

    assert "torch" not in sys.modules
    module.SHARD_AGE_S = 0.05  # many small shards: more moments at which a kill can hurt
    folder, count, *rest = sys.argv[1:]
    print("ready", flush=True)
    done = fill(
        FeatureCache(folder).prefix(ABOUT), keys_for(int(count)), float(rest[1]) if len(rest) > 1 else 0.0
    )
    if rest:
        Path(rest[0]).write_text(str(done))
