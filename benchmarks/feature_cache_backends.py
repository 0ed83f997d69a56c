"""Three ways of keeping rows on disk: LMDB, safetensors shards with an SQLite index (ours), a memory map.

    pip install lmdb
    python benchmarks/feature_cache_backends.py FOLDER

Rates for two sizes of rows, random reads in batches of 32 (from memory: just written), bytes on disk, and
what a file that was cut in half does to a reading process. FOLDER is on the disk to measure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from frostline.feature_cache import FeatureCache, Form, key_of

SIZES = {2_560: 20_000, 43_000: 4_000}  # bytes of a row (pooled features; a late cut at 224 px), rows
BATCH = 32


class Lmdb:
    """One environment; a checksum before each row, since LMDB keeps none."""

    def __init__(self, folder: Path, row_bytes: int, count: int) -> None:
        import lmdb

        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=8 << 30)

    def write(self, keys: list[bytes], rows: np.ndarray) -> None:
        with self._env.begin(write=True) as change:
            for key, row in zip(keys, rows, strict=True):
                change.put(key, zlib.crc32(row).to_bytes(4, "big") + row.tobytes())

    def read(self, keys: list[bytes]) -> int:
        right = 0
        with self._env.begin(buffers=True) as view:
            for key in keys:
                found = view.get(key)
                row = np.frombuffer(found, dtype=np.uint8, offset=4).copy()
                right += zlib.crc32(row) == int.from_bytes(found[:4], "big")
        return right


class Shards:
    """What frostline uses."""

    def __init__(self, folder: Path, row_bytes: int, count: int) -> None:
        self._prefix = FeatureCache(folder).prefix({})
        self._form = Form("bfloat16", (row_bytes // 2,))

    def write(self, keys: list[bytes], rows: np.ndarray) -> None:
        self._prefix.put(keys, rows, self._form)
        self._prefix.flush()

    def read(self, keys: list[bytes]) -> int:
        return len(keys) - len(self._prefix.read(keys)[1])


class Mapped:
    """One preallocated array, a dictionary of places, checksums beside it."""

    def __init__(self, folder: Path, row_bytes: int, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mode = "r+" if (folder / "rows").exists() else "w+"
        self._rows = np.memmap(folder / "rows", dtype=np.uint8, mode=mode, shape=(count, row_bytes))
        self._places: dict[bytes, tuple[int, int]] = {}
        places = folder / "places.json"
        if places.exists():
            offsets = json.loads(places.read_text())
            self._places = {bytes.fromhex(key): tuple(place) for key, place in offsets.items()}
        self._file = places

    def write(self, keys: list[bytes], rows: np.ndarray) -> None:
        start = len(self._places)
        self._rows[start : start + len(rows)] = rows
        for place, (key, row) in enumerate(zip(keys, rows, strict=True), start):
            self._places[key] = (place, zlib.crc32(row))
        self._rows.flush()
        self._file.write_text(json.dumps({key.hex(): place for key, place in self._places.items()}))

    def read(self, keys: list[bytes]) -> int:
        right = 0
        for key in keys:
            place, check = self._places[key]
            row = np.array(self._rows[place])
            right += zlib.crc32(row) == check
        return right


BACKENDS: dict[str, Callable[..., Lmdb | Shards | Mapped]] = {
    "LMDB": Lmdb,
    "safetensors + SQLite": Shards,
    "memory map": Mapped,
}


def keys_of(count: int) -> list[bytes]:
    """Return as many keys."""
    return [key_of(str(number), "0") for number in range(count)]


def rates(name: str, folder: Path, row_bytes: int, count: int) -> dict[str, float]:
    """Write everything in chunks of 16 MB, then read random batches."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (count, row_bytes), dtype=np.uint8)
    keys, chunk = keys_of(count), max(1, 16_000_000 // row_bytes)
    store = BACKENDS[name](folder, row_bytes, count)
    start = time.perf_counter()
    for i in range(0, count, chunk):
        store.write(keys[i : i + chunk], rows[i : i + chunk])
    os.sync()
    written = time.perf_counter() - start
    taken = []
    for _ in range(100):
        wanted = [keys[i] for i in rng.integers(0, count, BATCH)]
        start = time.perf_counter()
        assert store.read(wanted) == BATCH
        taken.append(time.perf_counter() - start)
    disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    return {
        "write MB/s": rows.nbytes / written / 1e6,
        "batch read ms": 1000 * statistics.median(taken),
        "disk / rows": disk / rows.nbytes,
    }


def in_a_child(action: str, name: str, folder: Path, row_bytes: int, count: int) -> str:
    """Read or write everything in another process; say how that ended."""
    words = [__file__, str(folder), "--only", action, name, str(row_bytes), str(count)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def cut_in_half(name: str, folder: Path, row_bytes: int, count: int) -> str:
    """Truncate the largest file, then read everything in another process."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return in_a_child("read", name, folder, row_bytes, count)


def alone(folder: Path, action: str, name: str, row_bytes: str, count: str) -> None:
    """What a child does: read everything, or write until the disk is full and read what is there."""
    store, keys = BACKENDS[name](folder, int(row_bytes), int(count)), keys_of(int(count))
    there = len(keys)
    if action == "write":
        rows = np.zeros((100, int(row_bytes)), dtype=np.uint8)
        for start in range(0, len(keys), 100):
            try:
                store.write(keys[start : start + 100], rows)
            except Exception as error:  # what a library says of a full disk
                print(f"{type(error).__name__}: {error};", end=" ")
                there = start
                break
    print(f"{store.read(keys[:there])} of {len(keys)} rows right, none wrong unnoticed")


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", type=Path, help="a folder on a disk of 20 MB: what happens when it is full")
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        alone(arguments.folder, *arguments.only)
        return
    if arguments.full:
        for name in BACKENDS:
            folder = arguments.full / name.split()[0]
            print(name, "on a full disk:", in_a_child("write", name, folder, 43_000, 1_000))
            shutil.rmtree(folder)
        return
    for row_bytes, count in SIZES.items():
        for repeat in range(3):
            for name in BACKENDS:
                measured = rates(name, arguments.folder / name.split()[0], row_bytes, count)
                print(row_bytes, repeat, name, {key: round(value, 2) for key, value in measured.items()})
    for name in BACKENDS:
        print(name, "cut in half:", cut_in_half(name, arguments.folder / name.split()[0], row_bytes, count))


if __name__ == "__main__":
    main()
