"""How long one decoded view holds Python's lock, which bounds the images a second of all threads together.

    python benchmarks/interpreter_lock.py [--images 48] [--rounds 5]

A second thread counts as fast as it can, with one core of its own; what it counts less while views are made
is the time in which it could not have the lock, handing over included. JPEGs of 500 × 375 px and 74 kB
(`workers.py`), views at 224 px, nothing held in memory, one thread of torch's. Medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

import frostline
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.studies.study_folder import environment
from workers import generated_table

ALONE_S, BESIDE_S = 0.4, 1.5
SWITCH_S = 1e-4  # after which a thread that counts gives the lock away: Python's own 5 ms would hide waits


class Counting:
    """Counts in a thread of its own while the block runs; `rate` is counts a second after it."""

    def __enter__(self) -> Counting:
        self._stop, self._count, self._began = threading.Event(), 0, time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            for _ in range(200):
                self._count += 1

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.rate = self._count / (time.perf_counter() - self._began)


def held_and_alone_ms(view: Callable[[int], object], images: int) -> tuple[float, float]:
    """Return the milliseconds that one view holds the lock, and that it takes with nothing beside it."""
    with Counting() as alone:
        time.sleep(ALONE_S)
    made, began = 0, time.perf_counter()
    with Counting() as beside:
        while time.perf_counter() - began < BESIDE_S:
            view(made % images)
            made += 1
        seconds = time.perf_counter() - began
    began = time.perf_counter()
    for place in range(images):
        view(place)
    single = (time.perf_counter() - began) / images
    return 1e3 * (1 - beside.rate / alone.rate) * seconds / made, 1e3 * single


def main() -> None:
    """Print a row for each class of pixels and each view."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    torch.set_num_threads(1)
    print(environment())
    print("| pixels | view | holds the lock, ms (range) | alone, ms (range) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = frostline.load_data(generated_table(Path(folder), arguments.images))
        backbone = frostline.load_backbone("lite0", size=224)
        for fast in (True, False):
            policy = Policy("standard", flip="horizontal")
            images = Images(data, data.samples, backbone.preprocessing, policy=policy, fast=fast).hold(0)
            for view in (0, 1):
                for place in range(len(images)):  # digests of pixels are noted the first time
                    images[place, view]
                pairs = [
                    held_and_alone_ms(lambda place: images[place, view], len(images))  # noqa: B023
                    for _ in range(arguments.rounds)
                ]
                cells = (
                    f"{statistics.median(v):.2f} ({min(v):.2f}–{max(v):.2f})"
                    for v in zip(*pairs, strict=True)
                )
                print(f"| {'fast' if fast else 'reference'} | {view} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
