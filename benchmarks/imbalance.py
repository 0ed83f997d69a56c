"""Treatments of imbalance on imbalanced draws: what each does to accuracy and balanced accuracy.

    python benchmarks/imbalance.py DATA_DIR --sets clothing10 trashnet6

A draw keeps each set's own class frequencies: `--images` for training in all, and 300 for testing.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

import frostline
from frostline.training.techniques.class_imbalance import IMBALANCE

TEST_IMAGES = 300


def draw(table: Path, images: int, seed: int, target: Path) -> Path:
    """Write a CSV of a random draw that keeps the classes' frequencies (2 training images at least)."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng((seed, images))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    train, test = rows[TEST_IMAGES : TEST_IMAGES + images], rows[:TEST_IMAGES]
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for split, part in (("train", train), ("test", test)):
            writer.writerows([table.parent / r["path"], r["label"], split] for r in part)
    return target


def main() -> None:
    """Print a line per set, strategy and treatment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="*", default=["clothing10", "trashnet6"])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="*", default=["linear_probe", "top_k(1)"])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    backbone = frostline.load_backbone("lite0", size=96)
    scores: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for seed in arguments.seeds:
        for name in arguments.sets:
            with tempfile.TemporaryDirectory() as scratch:
                sheet = draw(
                    arguments.data / f"{name}.csv", arguments.images, seed, Path(scratch) / "draw.csv"
                )
                data = frostline.load_data(sheet, seed=seed, near_copies=False)
                for strategy in arguments.strategies:
                    for kind in IMBALANCE:
                        run = frostline.train(
                            backbone,
                            data,
                            strategy,
                            study=Path(scratch) / "study",
                            seed=seed,
                            imbalance=kind,
                            threads=arguments.threads,
                        )
                        pair = (100 * run.accuracy, 100 * run.balanced_accuracy)
                        scores.setdefault((name, strategy, kind), []).append(pair)
                        print(json.dumps([seed, name, strategy, kind, *pair]), file=sys.stderr, flush=True)
    for (name, strategy, kind), pairs in scores.items():
        plain, balanced = zip(*pairs, strict=True)
        print(
            f"| {name} | {strategy} | {kind} "
            f"| {statistics.mean(plain):.1f} ± {statistics.stdev(plain):.1f} | "
            f"{statistics.mean(balanced):.1f} ± {statistics.stdev(balanced):.1f} |"
        )


if __name__ == "__main__":
    main()
