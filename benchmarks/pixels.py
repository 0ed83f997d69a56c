"""Fast pixels beside reference pixels on photographs of 12 megapixels: equal answers, accuracy, seconds.

    python benchmarks/pixels.py DATA_DIR --sets trashnet6 clothing10 --photographs 1000 --out pixels.jsonl

Pictures of the sets are enlarged to 12 megapixels, given a sensor's noise and saved as JPEG. For each set:
the test answers of one model to both classes of pixels, and the test accuracy (on reference pixels) of models
that learned from either. Then the seconds of `frostline train --strategy linear_probe` in a new process with
an empty cache: as before there were fast pixels and threads (`--pixels reference --workers 0`), and as it
comes.
The processor's seconds stand beside those of the clock, for a machine that others use, too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import frostline
from frostline.feature_extraction import ForwardConfig, logits
from frostline.feature_extraction.image_batches import Images
from frostline.system import numerics

PIXELS = 12_000_000
NOISE = 3  # levels of 255, uniform: what a camera leaves at low sensitivity; photographs take 3 to 6 MB then
QUALITY = 90
TEST_EVERY = 3  # every third picture is held out
BEFORE = ("--pixels", "reference", "--workers", "0")


def enlarge(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Write a picture again as a JPEG of 12 megapixels."""
    image = Image.open(source).convert("RGB")
    factor = (PIXELS / (image.width * image.height)) ** 0.5
    large = image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(large, dtype=np.int16)
    pixels = pixels + rng.integers(-NOISE, NOISE + 1, pixels.shape, dtype=np.int8)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=QUALITY)


def make_table(sheet: Path, count: int, folder: Path) -> Path:
    """Write `count` enlarged pictures of a set, evenly taken of each class, and return their table."""
    rng = np.random.default_rng(0)
    with open(sheet, newline="") as file:
        rows = list(csv.DictReader(file))
    rows = sorted(rows, key=lambda row: row["label"])
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    lines = ["path,label,split"]
    for number, place in enumerate(places):
        row = rows[place]
        enlarge(sheet.parent / row["path"], folder / f"{number}.jpg", rng)
        lines.append(f"{number}.jpg,{row['label']},{'train' if number % TEST_EVERY else 'test'}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


def answers(table: Path, size: int | None) -> dict[str, object]:
    """Return how often a model says the same of both classes of pixels, and both models' accuracy."""
    os.environ["FROSTLINE_CACHE_DIR"] = str(table.parent / "cache")
    data = frostline.load_data(table, near_copies=False, val_size=0.0)
    backbone = frostline.load_backbone("lite0", **({} if size is None else {"size": size}))
    runs = {
        pixels: frostline.train(backbone, data, "linear_probe", study=table.parent / "study", pixels=pixels)
        for pixels in ("auto", "reference")
    }
    run, test = runs["reference"], data.part("test")
    cut = next(cut for cut in backbone.cuts if cut.name == run.cut)
    way = ForwardConfig(numerics.exact_plan(), 64)
    of = {
        fast: logits(
            backbone,
            frostline.load_model(run.folder),
            cut,
            Images(data, test, backbone.preprocessing, fast=fast),
            way,
            keep=False,
            workers="auto",
        )
        for fast in (False, True)
    }
    return {
        "test_images": len(test),
        "pixels": runs["auto"].decoding["pixels"],
        "same_answer": float((of[True].argmax(1) == of[False].argmax(1)).mean()),
        "largest_difference": float(np.abs(of[True] - of[False]).max()),
        "accuracy_fast": runs["auto"].accuracy,
        "accuracy_reference": run.accuracy,
    }


def seconds(table: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds, by the clock and of the processor, of a cold linear probe."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "frostline", "train", str(table), "--strategy", "linear_probe"]
        command += ["--model", "lite0", "--study", f"{scratch}/study", "--quiet", *options]
        environment = {**os.environ, "FROSTLINE_CACHE_DIR": f"{scratch}/cache"}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run all, printing a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["trashnet6", "clothing10", "clipart12"])
    parser.add_argument("--images", type=int, default=200, help="of each set, for the answers")
    parser.add_argument(
        "--photographs", type=int, default=1000, help="of the first set, for the seconds; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--size", type=int)
    parser.add_argument("--out", type=Path, default=Path("pixels.jsonl"))
    arguments = parser.parse_args()

    def note(row: dict[str, object]) -> None:
        print(row, flush=True)
        with open(arguments.out, "a") as file:
            file.write(json.dumps(row) + "\n")

    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as scratch:
            table = make_table(arguments.data / f"{name}.csv", arguments.images, Path(scratch))
            note({"set": name, **answers(table, arguments.size)})
    if not arguments.photographs:
        return
    folder = Path(tempfile.mkdtemp())
    table = make_table(arguments.data / f"{arguments.sets[0]}.csv", arguments.photographs, folder)
    for _ in range(arguments.repeats):
        for what, options in (("before", BEFORE), ("now", ())):
            clock, processor = seconds(table, options)
            note({"photographs": arguments.photographs, what: clock, f"{what}_processor": processor})
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
