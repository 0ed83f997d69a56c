"""Frozen layers in bfloat16 beside float32: test accuracy, and how far logits move.

    python benchmarks/precision.py DATA_DIR --out precision.jsonl

lite0, 96 px, 40 images a class. Each strategy is trained with either precision; the model trained above
bfloat16 rows is then asked for its logits on the test images above float32 rows and above bfloat16 rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

import frostline
from draws import draw_table
from frostline.data import Manifest
from frostline.feature_extraction import ForwardConfig, ForwardPass
from frostline.feature_extraction.image_batches import Images
from frostline.system import numerics

SETS = ("clothing10", "sign_digits", "spoken_digit_spectrograms10")
STRATEGIES = ("linear_probe", "head", "top_k(1)")


def moved(run: frostline.training.Run, data: Manifest, size: int, threads: int | None) -> dict[str, float]:
    """Return how far a run's test logits lie apart above rows of either precision."""
    backbone = frostline.load_backbone("lite0", size=size)
    cut = next(cut for cut in backbone.cuts if cut.name == run.cut)
    images = Images(data, data.subset("test"), backbone.preprocessing)
    differences = {}
    for precision in numerics.PRECISIONS[1:]:
        model = frostline.load_model(run.folder)
        way = ForwardConfig(numerics.pinned_plan(precision, threads), 64)
        differences[precision] = ForwardPass(backbone, model, cut, way).logits(images)
    one, two = differences["float32"], differences["bfloat16"]
    return {
        "largest_difference": float(np.abs(one - two).max()),
        "largest_logit": float(np.abs(one).max()),
        "same_answer": float((one.argmax(1) == two.argmax(1)).mean()),
    }


def main() -> None:
    """Run all, then print the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("precision.jsonl"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    rows = []
    for name in SETS:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                sheet = draw_table(arguments.data / f"{name}.csv", 40, seed, False, Path(scratch))
                data = frostline.load_data(sheet, seed=seed, near_copies=False, val_size=0.0)
                for strategy in STRATEGIES:
                    row = {"set": name, "seed": seed, "strategy": strategy}
                    for precision in numerics.PRECISIONS[1:]:
                        run = frostline.train(
                            frostline.load_backbone("lite0", size=arguments.size),
                            data,
                            strategy,
                            study=Path(scratch) / "study",
                            seed=seed,
                            precision=precision,
                            threads=arguments.threads,
                        )
                        row[precision] = 100 * run.accuracy
                    row |= moved(run, data, arguments.size, arguments.threads)
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    with open(arguments.out, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    for strategy in STRATEGIES:
        mine = [row for row in rows if row["strategy"] == strategy]
        gap = [row["bfloat16"] - row["float32"] for row in mine]
        apart = max(row["largest_difference"] for row in mine)
        largest = max(row["largest_logit"] for row in mine)
        print(
            f"| {strategy} | {statistics.mean(gap):+.2f} ± {statistics.stdev(gap):.2f} (n = {len(gap)}) | "
            f"{apart:.2f} of {largest:.1f} | {statistics.mean(row['same_answer'] for row in mine):.2%} |"
        )


if __name__ == "__main__":
    main()
