"""Fast pixels beside reference pixels, on the sets' own pictures and on photographs of 12 megapixels.

    python benchmarks/pixels.py DATA_DIR --as-they-are --images 1200 --size 96 --photographs 0 --out own.jsonl
    python benchmarks/pixels.py DATA_DIR --sets trashnet6 clothing10 --photographs 0 --out pixels.jsonl
    python benchmarks/pixels.py DATA_DIR --sets trashnet6 --images 0 --photographs 1000 --repeats 2 \\
        --source before=OLD_CHECKOUT --source now=. --folder photographs/ --out seconds.jsonl

Pictures of the sets are enlarged to 12 megapixels, given a sensor's noise and saved as JPEG, but not with
`--as-they-are`. For each set and each third of it as test images: the answers of one model to both classes of
pixels, and the test accuracy (on reference pixels) of models that learned from either. Then the seconds of
`frostline train --strategy linear_probe` in a new process with an empty cache, of each checkout in turn. The
processor's seconds and the load stand beside those of the clock, for a machine that others use, too. With
`--folder` and `--out` kept, the same command goes on where it was stopped: pictures that are there and runs
that are noted are not made again. `--summary` says the shares of equal answers and the difference of accuracy
with 95 % t intervals over tests, by set and over sets.
"""

from __future__ import annotations

import argparse
import csv
import functools
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
from scipy import stats

PIXELS = 12_000_000
NOISE = 3  # levels of 255, uniform: photographs take 1 MB then, with 16 levels 3.6
QUALITY = 90
TEST_EVERY = 3  # every third picture is held out
SETS = (  # those that `strategies.py` compares on
    *("trashnet6", "clothing10", "clipart12"),
    *("sign_digits", "fashion_mnist10", "spoken_digit_spectrograms10"),
)


def enlarge(source: Path, target: Path, noise: int, seed: int) -> None:
    """Write a picture again as a JPEG of 12 megapixels, whole or not at all."""
    image = Image.open(source).convert("RGB")
    factor = (PIXELS / (image.width * image.height)) ** 0.5
    large = image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(large, dtype=np.int16)
    start = int(np.random.default_rng(seed).integers(pixels.size))  # another piece of it for each picture
    pixels = pixels + sensor_noise(noise)[start : start + pixels.size].reshape(pixels.shape)
    unfinished = target.with_suffix(".unfinished")
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(unfinished, "JPEG", quality=QUALITY)
    unfinished.replace(target)


@functools.cache
def sensor_noise(noise: int) -> np.ndarray:
    """Return noise for two pictures in a row; drawing it anew takes longer than all else of a picture."""
    values = 2 * 3 * PIXELS + PIXELS // 10  # sides are rounded
    return np.random.default_rng(0).integers(-noise, noise + 1, values, dtype=np.int8)


def make_table(sheet: Path, count: int, folder: Path, noise: int | None, fold: int = 0) -> Path:
    """Write `count` enlarged pictures of a set, evenly taken of each class, and return their table.

    Without `noise` the table names the set's own pictures. Those the folder holds already are left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{sheet.stem}-{count}-noise{noise}"
    with open(sheet, newline="") as file:
        rows = list(csv.DictReader(file))
    rows = sorted(rows, key=lambda row: row["label"])
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    lines = ["path,label,split"]
    for number, place in enumerate(places):
        row = rows[place]
        picture = f"{name}-{number}.jpg"
        if noise is None:
            picture = str((sheet.parent / row["path"]).resolve())
        elif not (folder / picture).exists():
            enlarge(sheet.parent / row["path"], folder / picture, noise, number)
        split = "test" if number % TEST_EVERY == fold else "train"
        lines.append(f"{picture},{row['label']},{split}")
    table = folder / f"{name}-{fold}.csv"
    table.write_text("\n".join(lines))
    return table


def answers(table: Path, size: int | None) -> dict[str, object]:
    """Return how often a model says the same of both classes of pixels, and both models' accuracy."""
    import frostline
    from frostline.feature_extraction import ForwardConfig, ForwardPass
    from frostline.feature_extraction.image_batches import Images
    from frostline.system import numerics

    os.environ["FROSTLINE_CACHE_DIR"] = str(table.parent / "cache")
    data = frostline.load_data(table, near_copies=False, val_size=0.0)
    backbone = frostline.load_backbone("lite0", **({} if size is None else {"size": size}))
    study = table.with_suffix("")
    runs = {
        pixels: frostline.train(backbone, data, "linear_probe", study=study, pixels=pixels)
        for pixels in ("auto", "reference")
    }
    run, test = runs["reference"], data.subset("test")
    cut = next(cut for cut in backbone.cuts if cut.name == run.cut)
    way = ForwardConfig(numerics.exact_plan(), 64)
    forward = ForwardPass(backbone, frostline.load_model(run.folder), cut, way, workers="auto")
    of = {
        fast: forward.logits(Images(data, test, backbone.preprocessing, fast=fast)) for fast in (False, True)
    }
    return {
        "test_images": len(test),
        "pixels": runs["auto"].decoding["pixels"],
        "same_answer": float((of[True].argmax(1) == of[False].argmax(1)).mean()),
        "largest_difference": float(np.abs(of[True] - of[False]).max()),
        "accuracy_fast": runs["auto"].accuracy,
        "accuracy_reference": run.accuracy,
    }


def summary(out: Path) -> str:
    """Return the table of answers and accuracy, a line each set and one over sets."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rows = [row for row in rows if "same_answer" in row]
    lines = ["| set | tests | equal answers, % | accuracy, fast − reference, points |", "|---|---|---|---|"]
    means = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        gains = [100 * (row["accuracy_fast"] - row["accuracy_reference"]) for row in own]
        means.append(float(np.mean(gains)))
        same = 100 * np.average(
            [row["same_answer"] for row in own], weights=[row["test_images"] for row in own]
        )
        lines.append(f"| {name} | {len(own)} | {same:.2f} | {with_interval(gains)} |")
    return "\n".join([*lines, f"| *mean of sets* | {len(rows)} | | {with_interval(means)} |"])


def with_interval(values: list[float]) -> str:
    """Return a mean with its 95 % t interval."""
    if len(values) < 2:
        return f"{np.mean(values):+.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):+.2f} ({np.mean(values) - half:+.2f} to {np.mean(values) + half:+.2f})"


def seconds(source: Path, table: Path, options: list[str]) -> dict[str, float]:
    """Return the seconds, by the clock and of the processor, of a checkout's cold linear probe.

    Pictures are read once before, so that none of the checkouts waits for the disk.
    """
    for picture in table.parent.glob("*.jpg"):
        picture.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "frostline", "train", str(table.absolute())]
        command += ["--strategy", "linear_probe", "--model", "lite0", "--study", f"{scratch}/study"]
        environment = {
            **os.environ,
            "FROSTLINE_CACHE_DIR": f"{scratch}/cache",
            "PYTHONPATH": str(source.absolute() / "src"),
        }
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, "--quiet", *options],
            check=True,
            env=environment,
            cwd=scratch,
            stdout=subprocess.DEVNULL,
        )
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "clock": round(clock, 2),
        "processor": round(processor, 2),
        "cores_busy": round(processor / clock, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def commit_of(source: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def named_source(text: str) -> tuple[str, Path]:
    """Read NAME=CHECKOUT."""
    name, _, path = text.partition("=")
    if not name or not (Path(path) / "src" / "frostline").is_dir():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected NAME=CHECKOUT, such as now=.")
    return name, Path(path)


def main() -> None:
    """Run all, printing a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--images", type=int, default=200, help="of each set, for the answers; 0: none")
    parser.add_argument(
        "--photographs", type=int, default=1000, help="of the first set, for the seconds; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--source", type=named_source, action="append", metavar="NAME=CHECKOUT")
    parser.add_argument("--options", default="", help="of `frostline train`, such as '--threads 1'")
    parser.add_argument("--noise", type=int, default=NOISE, help="levels of 255")
    parser.add_argument("--folder", type=Path, help="of the photographs, which are kept there")
    parser.add_argument("--size", type=int)
    parser.add_argument("--as-they-are", action="store_true", help="pictures of the sets are not enlarged")
    parser.add_argument("--folds", type=int, default=1, help="of a third each that are tests, up to 3")
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--out", type=Path, default=Path("pixels.jsonl"))
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary(arguments.summary))
        return

    def note(row: dict[str, object]) -> None:
        print(row, flush=True)
        with open(arguments.out, "a") as file:
            file.write(json.dumps(row) + "\n")

    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    noted = [json.loads(line) for line in lines]
    noise = None if arguments.as_they_are else arguments.noise
    for name in arguments.sets if arguments.images else []:
        with tempfile.TemporaryDirectory() as scratch:
            for fold in range(arguments.folds):
                test = {"set": name, "images": arguments.images, "noise": noise, "fold": fold}
                test["size"] = arguments.size
                if not any(test.items() <= row.items() for row in noted):
                    sheet = arguments.data / f"{name}.csv"
                    table = make_table(sheet, arguments.images, Path(scratch), noise, fold)
                    note({**test, **answers(table, arguments.size)})
    if not arguments.photographs:
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    sheet = arguments.data / f"{arguments.sets[0]}.csv"
    table = make_table(sheet, arguments.photographs, folder, arguments.noise)
    for repeat in range(arguments.repeats):
        for name, source in arguments.source or [("now", Path(__file__).parents[1])]:
            run = {
                "photographs": arguments.photographs,
                "noise": arguments.noise,
                "options": arguments.options,
                "source": name,
                "commit": commit_of(source),
                "repeat": repeat,
            }
            if not any(run.items() <= row.items() for row in noted):
                note({**run, **seconds(source, table, arguments.options.split())})
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
