"""Memory and time of streaming drawn images from tar shards into the store, at several numbers of images.

    python benchmarks/streaming.py --images 2000 20000 --out streaming.jsonl

Each number is a process of its own, with shards, store and study in a temporary folder. Peaks are above what
the imports hold. If memory is bounded, ten times the images take as much of it, but for what an entry of the
manifest takes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32  # pixels
PER_SHARD = 1000
CLASSES = 10


def write_shards(folder: Path, images: int) -> None:
    """Write shards of smooth pictures, no two alike, in the WebDataset layout."""
    rng = np.random.default_rng(0)
    for first in range(0, images, PER_SHARD):
        with tarfile.open(folder / f"drawn-{first:07}.tar", "w") as tar:
            for number in range(first, min(first + PER_SHARD, images)):
                coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(coarse).resize((SIDE, SIDE)).save(file, "PNG")
                add(tar, f"{number:07}.png", file.getvalue())
                add(tar, f"{number:07}.cls", f"class {number % CLASSES}".encode())


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a member."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def measure(shards: str) -> dict[str, Any]:
    """Return seconds and peak memory of listing the images, and of filling the store with their features."""
    import frostline
    from frostline.system.timing import PeakMemory, imported_baseline_bytes

    backbone = frostline.load_backbone("lite0", size=SIDE)
    start = time.perf_counter()
    with PeakMemory(imported_baseline_bytes()) as listing:
        data = frostline.load_data(shards)
    listed_s = time.perf_counter() - start
    start = time.perf_counter()
    with PeakMemory(imported_baseline_bytes()) as filling:
        filled = frostline.fill_cache(backbone, data, "linear_probe", flip="none")
    return {
        "images": len(data.samples),
        "skipped": len(data.skipped),
        "rows": filled.computed,
        "listing_s": listed_s,
        "listing_peak_bytes": listing.bytes,
        "filling_s": time.perf_counter() - start,
        "filling_peak_bytes": filling.bytes,
    }


def main() -> None:
    """Run every number of images in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as place:
            write_shards(Path(place), images)
            process = subprocess.run(
                [sys.executable, __file__, "--measure", f"{place}/drawn-*.tar"],
                env={**os.environ, "FROSTLINE_CACHE_DIR": f"{place}/store"},
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            ).stdout.splitlines()[-1]
        print(process, flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(process + "\n")


if __name__ == "__main__":
    main()
