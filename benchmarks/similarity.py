"""Similarity of image sets to what a network was trained on: order, steadiness, size, colour, classes.

    python benchmarks/similarity.py DATA_DIR --out similarity.jsonl
    python benchmarks/similarity.py DATA_DIR --model FILE.safetensors --architecture torchvision/squeezenet1_1

Prints a line per set and image size: the value of 1,000 images with its interval, of 200 (ten draws: mean and
spread) and of 50, and of half of the classes.
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
from PIL import Image

import frostline
from draws import SIX_SETS
from frostline.diagnostics import Similarity, similarity
from frostline.feature_extraction.image_batches import Images
from frostline.system import numerics


def measured(
    backbone: frostline.models.Backbone, rows: list[tuple[str, str]], scratch: Path, threads: int | None
) -> Similarity:
    """Return the similarity of some (path, label) rows."""
    sheet = scratch / "table.csv"
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *((p, label, "train") for p, label in rows)])
    data = frostline.load_data(sheet, near_copies=False, val_size=0.0, test_size=0.0).checked()
    images = Images(data, data.subset("train"), backbone.preprocessing)
    return similarity(backbone, images, numerics.exact_plan(threads))


def grey(rows: list[tuple[str, str]], scratch: Path) -> list[tuple[str, str]]:
    """Return the same pictures without colour."""
    scores = []
    for index, (path, label) in enumerate(rows):
        target = scratch / f"grey-{index}.png"
        if not target.exists():
            Image.open(path).convert("L").save(target)
        scores.append((str(target), label))
    return scores


def main() -> None:
    """Measure every set at every size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--architecture")
    parser.add_argument("--sizes", nargs="*", type=int, default=[96, 224])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("similarity.jsonl"))
    arguments = parser.parse_args()
    for size in arguments.sizes:
        backbone = frostline.load_backbone(arguments.model, architecture=arguments.architecture, size=size)
        for name in (*SIX_SETS, "clothing10 in grey"):
            with tempfile.TemporaryDirectory() as folder:
                scratch, table = Path(folder), arguments.data / f"{name.split()[0]}.csv"
                with open(table, newline="", encoding="utf-8") as file:
                    rows = [(str(table.parent / r["path"]), r["label"]) for r in csv.DictReader(file)]
                order = np.random.default_rng(0).permutation(len(rows))[:1000]
                rows = [rows[i] for i in order]
                if "grey" in name:
                    rows = grey(rows, scratch)
                whole = measured(backbone, rows, scratch, arguments.threads)
                row = {"model": arguments.model, "size": size, "set": name, "all": whole.as_dict()}
                if "grey" not in name:
                    for count in (50, 200):
                        drawn = []
                        for draw in range(arguments.draws):
                            picked = np.random.default_rng((1, draw)).permutation(len(rows))[:count]
                            result = measured(backbone, [rows[i] for i in picked], scratch, arguments.threads)
                            drawn.append(result.as_dict())
                        row[str(count)] = drawn
                    labels = sorted({label for _, label in rows})
                    half = [r for r in rows if r[1] in labels[::2]]
                    row["half of the classes"] = measured(
                        backbone, half, scratch, arguments.threads
                    ).as_dict()
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(_line(row), file=sys.stderr, flush=True)


def _line(row: dict) -> str:  # type: ignore[type-arg]
    whole = row["all"]
    text = f"{row['size']} {row['set']}: {whole['value']:.3f} ({whole['low']:.3f}–{whole['high']:.3f})"
    for count in ("50", "200"):
        if count in row:
            values = [cell["value"] for cell in row[count]]
            covers = sum(cell["low"] <= whole["value"] <= cell["high"] for cell in row[count])
            text += (
                f" | {count}: {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}, {covers} of "
                f"{len(values)} intervals hold the value of all"
            )
    if "half of the classes" in row:
        text += f" | half of the classes {row['half of the classes']['value']:.3f}"
    return text


if __name__ == "__main__":
    main()
