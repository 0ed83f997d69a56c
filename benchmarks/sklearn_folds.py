"""Cross-validation of a linear probe by scikit-learn: with the store, and with each fold computed anew.

python benchmarks/sklearn_folds.py TABLE.csv OUT.jsonl [--images 300] [--size 96] [--folds 5] [--repeats 3]

Each repeat times, in one process and in alternating order: one fit and one scoring with an empty store; the
folds with an empty store; the same folds again; and the folds with a new empty store for each. Appends a
line a repeat.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from frostline.integrations.sklearn import FrostlineClassifier


def read(table: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    with table.open() as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    chosen_rows = [rows[i] for i in chosen]
    paths = [str((table.parent / row["path"]).resolve()) for row in chosen_rows]
    return np.array(paths), np.array([row["label"] for row in chosen_rows])


def fold(made: Any, X: np.ndarray, y: np.ndarray, learn: np.ndarray, held: np.ndarray) -> float:
    return float(clone(made).fit(X[learn], y[learn]).score(X[held], y[held]))


def timed(made: Any, X: np.ndarray, y: np.ndarray, pairs: list[Any], *, anew: bool) -> tuple[float, float]:
    """Return (seconds, accuracy); `anew` forgets all rows before each fold."""
    spent, scores = 0.0, []
    for learn, held in pairs:
        place = tempfile.TemporaryDirectory() if anew else None
        before = os.environ["FROSTLINE_CACHE_DIR"]
        if place is not None:
            os.environ["FROSTLINE_CACHE_DIR"] = place.name
            fold(made, X[:12], np.arange(12) % 2, np.arange(12), np.arange(2))  # rates are measured once
        begun = time.process_time()
        scores.append(fold(made, X, y, learn, held))
        spent += time.process_time() - begun
        if place is not None:
            os.environ["FROSTLINE_CACHE_DIR"] = before
            place.cleanup()
    return spent, float(np.mean(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    X, y = read(arguments.table, arguments.images)
    made = FrostlineClassifier("lite0", size=arguments.size, threads=1, deterministic=True)
    pairs = list(StratifiedKFold(arguments.folds, shuffle=True, random_state=0).split(X, y))
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as place:
            os.environ["FROSTLINE_CACHE_DIR"] = place
            fold(made, X[:12], np.arange(12) % 2, np.arange(12), np.arange(2))
            one_s, _ = timed(made, X, y, pairs[:1], anew=True)
            cold_s, accuracy = timed(made, X, y, pairs, anew=False)
            warm_s, again = timed(made, X, y, pairs, anew=False)
            anew_s, apart = timed(made, X, y, pairs, anew=True)
        row = {
            "table": arguments.table.stem,
            "images": len(X),
            "size": arguments.size,
            "folds": arguments.folds,
            "repeat": repeat,
            "one_fold_s": one_s,
            "folds_s": cold_s,
            "folds_again_s": warm_s,
            "folds_anew_s": anew_s,
            "accuracy": accuracy,
            "same": accuracy == again == apart,
            "torch": torch.__version__,
        }
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
