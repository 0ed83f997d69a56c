"""How soon `frostline fit` has a model, how long advice takes, and whether it keeps to its minutes.

    python benchmarks/anytime.py DATA_DIR --out anytime.jsonl --minutes 3   # on a quiet machine
    python benchmarks/anytime.py --summary anytime.jsonl

DATA_DIR holds clothing10.csv (`path,label,group`). Each time is a whole command in a process of its own,
imports included, with an empty cache: 1,000 images at 224 px. A bare pass is what decoding, preprocessing and
one forward pass in float32 over the same images take, model and imports ready.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SIZE = 1000, 224


def drawn(table: Path, folder: Path, seed: int) -> Path:
    """Write a table of images that were drawn at random."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = [(str(table.parent / row["path"]), row["label"]) for row in csv.DictReader(file)]
    sheet = folder / "drawn.csv"
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        order = np.random.default_rng(seed).permutation(len(rows))[:IMAGES]
        csv.writer(file).writerows([("path", "label"), *(rows[i] for i in order)])
    return sheet


def fitted(sheet: Path, folder: Path, minutes: float) -> dict[str, Any]:
    """Run the command from a cold start; returns when it said what, in seconds since it was started."""
    words = [sys.executable, "-m", "frostline", "fit", str(sheet), "--minutes", str(minutes), "--json"]
    words += ["--size", str(SIZE), "--study", str(folder / "study"), "--cache-dir", str(folder / "cache")]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    answer: dict[str, Any] = {"scores": []}
    for line in process.stderr:
        now = time.perf_counter() - began
        if "there is a model that answers" in line:
            answer["first_s"], answer["said"] = now, line.strip()
        elif line.startswith(("Racing ", "Trying ")):
            answer["planned_s"] = now
        elif scored := re.search(r"([\d.]+) % in", line):
            answer["scores"].append([now, float(scored.group(1))])
    result = json.loads(process.stdout.read())
    answer |= {key: result[key] for key in ("strategy", "accuracy", "low", "high", "seconds")}
    return {**answer, "exit": process.wait(), "wall_s": time.perf_counter() - began, "limit_s": 60 * minutes}


def bare_pass(sheet: Path) -> float:
    """Decode, preprocess and pass the images once, in float32."""
    import frostline
    from frostline.feature_extraction import Frozen
    from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
    from frostline.feature_extraction.numeric_key import ForwardConfig
    from frostline.system import numerics

    data = frostline.load_data(sheet, near_copies=False, val_size=0.0, test_size=0.0).checked()
    backbone = frostline.load_backbone("lite0", size=SIZE)
    way = ForwardConfig(numerics.exact_plan(), EVALUATION_BATCH)
    frozen = Frozen(backbone, backbone.model, backbone.cuts[-1], way)
    images = Images(data, data.subset("train"), backbone.preprocessing)
    began = time.perf_counter()
    for pixels in images.evaluation(EVALUATION_BATCH):
        frozen.compute(pixels)
    return time.perf_counter() - began


def summarise(path: Path) -> str:
    """Return the table."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def span(values: list[float], unit: str = "s") -> str:
        return f"{statistics.median(values):.1f} {unit} ({min(values):.1f}–{max(values):.1f})"

    over = [row["wall_s"] / row["limit_s"] for row in rows]
    advice = [row["planned_s"] - row["first_s"] for row in rows]
    limit = f"{statistics.median(row['bare_s'] for row in rows) + 10:.1f} s: one bare pass and 10 s"
    return "\n".join(
        [
            "| from a cold start, 1,000 images, 224 px | median (range) | n | bar |",
            "|---|---|---|---|",
            f"| a model that answers | {span([row['first_s'] for row in rows])} | {len(rows)} | 25 s |",
            f"| advice after it: measuring and planning | {span(advice)} | {len(rows)} | {limit} |",
            f"| the whole command / its minutes | {span(over, '×')} | {len(rows)} | 1.05 or one epoch |",
        ]
    )


def main() -> None:
    """Run the command a few times, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("anytime.jsonl"))
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.5])
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    for seed, minutes in enumerate(arguments.minutes if arguments.summary is None else []):
        with tempfile.TemporaryDirectory() as folder:
            sheet = drawn(arguments.data / "clothing10.csv", Path(folder), seed)
            row = fitted(sheet, Path(folder), minutes)
            os.environ["FROSTLINE_CACHE_DIR"] = f"{folder}/other"
            row["bare_s"] = bare_pass(sheet)
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
