"""Cold passes over images with 0, 1, 2 and `auto` threads: the same bytes, how many seconds; and before.

    python benchmarks/workers.py DATA_DIR --out workers.jsonl
    python benchmarks/workers.py DATA_DIR --out workers.jsonl --before OTHER_CHECKOUT/src

A pass is `frostline.extract_features` in a process of its own, timed after images and network are loaded,
into an empty store. Passes are interleaved: each round makes one of every way, in an order that goes round.
What `--out` holds already is not made again, so the same command goes on after a stop. `--before` makes the
passes of another checkout, as it decodes by default, beside those of this one as it comes. At the end, ratios
of seconds are printed as geometric means with 95 % intervals over rounds, and whether the bytes are equal.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (500, 375)  # of the generated JPEGs, and their bytes: those of an earlier measurement on a card
JPEG_BYTES = 74_000
NOISE = 14  # levels of 255 a pixel, uniform: then JPEG_BYTES come at an ordinary quality
GENERATED = "generated"
BEFORE, AUTO = "before", "auto"
OWN = Path(__file__).resolve().parents[1] / "src"

Row = dict[str, object]


def generated_picture(number: int) -> Image.Image:
    """Return a picture of smooth colours with noise, of its own for each number."""
    rng = np.random.default_rng(number)
    colours = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize(SIDES, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + rng.integers(-NOISE, NOISE + 1, smooth.shape, dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def as_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Return the picture's JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def generated_table(folder: Path, count: int) -> Path:
    """Write `count` JPEGs of about `JPEG_BYTES`, where they are not there yet, and return their table."""
    folder.mkdir(parents=True, exist_ok=True)
    first = generated_picture(0)
    quality = min(range(50, 100), key=lambda quality: abs(len(as_jpeg(first, quality)) - JPEG_BYTES))
    lines = ["path,label"]
    for number in range(count):
        path = folder / f"{number}.jpg"
        if not path.exists():
            path.write_bytes(as_jpeg(generated_picture(number), quality))
        lines.append(f"{path},{'ab'[number % 2]}")
    table = folder / f"{count}.csv"
    table.write_text("\n".join(lines))
    return table


def table_of(sheet: Path, count: int, folder: Path) -> Path:
    """Return a table of `count` pictures of a set, evenly taken."""
    with open(sheet, newline="") as file:
        rows = list(csv.DictReader(file))
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    table = folder / f"{sheet.stem}-{count}.csv"
    lines = [f"{sheet.parent.resolve() / rows[at]['path']},{rows[at]['label']}" for at in places]
    table.write_text("\n".join(["path,label", *lines]))
    return table


def one_pass(table: Path, model: str, size: int, threads: int, workers: str, store: Path) -> Row:
    """Make one pass, into an empty store, and return its seconds and the digest of its features."""
    import frostline

    data = frostline.load_data(table, near_copies=False, val_size=0.0, test_size=0.0)
    backbone = frostline.load_backbone(model, size=size)
    chosen = {} if workers == BEFORE else {"workers": AUTO if workers == AUTO else int(workers)}
    os.environ["FROSTLINE_CACHE_DIR"] = str(store)
    began, processor = time.perf_counter(), time.process_time()
    vectors = frostline.extract_features(backbone, data, threads=threads, **chosen).vectors
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "images": len(vectors),
        "digest": hashlib.sha256(vectors.tobytes()).hexdigest(),
    }


def in_new_process(source: Path, prepared: Path, arguments: list[str]) -> Row:
    """Make one pass with a checkout's code; `prepared` is its store of what is known of images and cuts."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "PYTHONPATH": str(source), "FROSTLINE_CACHE_DIR": str(prepared)}
        command = [sys.executable, __file__, "--one", *arguments, empty]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def ratio_text(ratios: list[float]) -> str:
    """Return the geometric mean with its 95 % interval (Student's, over the rounds' logarithms)."""
    from scipy.stats import t

    logs = np.log(ratios)
    if len(logs) < 2:
        return f"{np.exp(logs.mean()):.3f} (one round)"
    reach = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, middle, high = np.exp([logs.mean() - reach, logs.mean(), logs.mean() + reach])
    return f"{middle:.3f} ({low:.3f}–{high:.3f}), {len(logs)} rounds"


def summary(rows: list[Row]) -> list[str]:
    """Return a line for each ratio and each comparison of bytes.

    The fastest way is chosen by its median over all rounds, so a ratio to it is a little too high by chance.
    """
    lines = []
    for images, size in sorted({(str(row["set"]), int(str(row["size"]))) for row in rows}):
        these = [row for row in rows if (row["set"], row["size"]) == (images, size)]
        ways = sorted({str(row["workers"]) for row in these})
        for field in ("seconds", "processor_seconds"):
            taken = {
                way: {row["round"]: float(str(row[field])) for row in these if row["workers"] == way}
                for way in ways
            }
            for way in ways:
                pairs = taken[way].keys() & taken.get(AUTO, {}).keys()
                if way != AUTO and pairs:
                    ratios = [taken[way][pair] / taken[AUTO][pair] for pair in sorted(pairs, key=str)]
                    lines.append(f"{images} {size} px, {field} of {way} / {AUTO}: {ratio_text(ratios)}")
        own = {str(row["digest"]) for row in these if row["workers"] != BEFORE}
        earlier = {str(row["digest"]) for row in these if row["workers"] == BEFORE}
        lines.append(f"{images} {size} px: {'the same bytes' if len(own) == 1 else 'BYTES DIFFER'}")
        if earlier:
            lines.append(
                f"{images} {size} px, before: {'the same bytes' if earlier == own else 'other bytes'}"
            )
    return lines


def main() -> None:
    """Make the passes that are missing, a line each, and print the ratios."""
    if sys.argv[1:2] == ["--one"]:
        table, model, size, threads, workers, store = sys.argv[2:]
        row = one_pass(Path(table), model, int(size), int(threads), workers, Path(store))
        print(json.dumps(row))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="trashnet6", help="whose images are taken")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 224], help="of the set's images")
    parser.add_argument("--generated-size", type=int, default=224, help="of the generated JPEGs; 0: none")
    parser.add_argument("--workers", nargs="+", default=["0", "1", "2", AUTO])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="that compute")
    parser.add_argument("--before", type=Path, help="src folder of another checkout, beside auto")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "frostline-workers")
    parser.add_argument("--out", type=Path, default=Path("workers.jsonl"))
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    cases = [(arguments.set, size) for size in arguments.sizes]
    if arguments.generated_size:
        cases.append((GENERATED, arguments.generated_size))
    text = arguments.out.read_text() if arguments.out.exists() else ""
    rows: list[Row] = [json.loads(line) for line in text.splitlines()]
    about = {"model": arguments.model, "threads": arguments.threads, "asked_images": arguments.images}
    rows = [row for row in rows if about.items() <= row.items()]
    ways = list(dict.fromkeys([*arguments.workers, *([BEFORE, AUTO] if arguments.before else [])]))
    for turn in range(arguments.rounds):
        order = ways[turn % len(ways) :] + ways[: turn % len(ways)]
        for images, size in cases:
            if images == GENERATED:
                table = generated_table(arguments.scratch / GENERATED, arguments.images)
            else:
                table = table_of(arguments.data / f"{images}.csv", arguments.images, arguments.scratch)
            for way in order:
                place = {**about, "set": images, "size": size, "workers": way, "round": turn}
                if any(place.items() <= row.items() for row in rows):
                    continue
                source = arguments.before.resolve() if way == BEFORE else OWN
                prepared = arguments.scratch / f"store-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
                given = [str(table), arguments.model, str(size), str(arguments.threads), way]
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                rows.append({**place, "load": load, **in_new_process(source, prepared, given)})
                print(rows[-1], flush=True)
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    selected = [row for row in rows if row["workers"] in ways and (row["set"], row["size"]) in cases]
    print("\n".join(summary(selected)))


if __name__ == "__main__":
    main()
