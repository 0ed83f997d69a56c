"""Trains a tiny head in a process of its own; several of these share one cache.

python training_together.py TABLE STUDY
"""

from __future__ import annotations

import json
import sys

import frostline
from frostline.feature_cache import feature_cache
from frostline.profiling import numeric_search
from tiny import tiny_backbone

if __name__ == "__main__":
    table, study = sys.argv[1:]
    feature_cache.KEEP_FREE_SHARE = 0.0  # however full the disk is
    numeric_search.FROZEN_BATCH = 16  # small shares, so that there is something to divide
    data = frostline.load_data(table, near_copies=False, val_size=0.0)
    print("ready", flush=True)
    sys.stdin.readline()
    options = {"deterministic": True, "threads": 1, "flip": "none", "views": 3, "cache": "keep"}
    run = frostline.train(tiny_backbone(), data, "head(epochs=3)", study=study, **options)
    print(json.dumps({**run.features, "weights": str(run.folder.weights)}), flush=True)
