"""What a million or a billion images would take: constants measured here, and a simulation of the schedule.

    python benchmarks/scale.py --measure benchmarks/scale.json    # a minute or two, on one core
    python docs/generate_scale.py                                 # writes docs/scale.md from it

Each constant is the least of several rounds: a busy machine only adds. The simulation is of discrete events:
workers take blocks of images from a queue, pass through the index one after another, and may be slow or die.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3
FILES, FILE_BYTES = 400, 100_000  # a JPEG of 500 × 375 px is 50 to 150 kB
WIDTH = 1280  # of lite0's features


# --- measuring ------------------------------------------------------------------------------------------


def least_s(
    work: Callable[[], Any], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time
) -> float:
    """Return the least seconds of several rounds: of the processor, which others at work don't change."""
    seconds = []
    for _ in range(rounds):
        begun = clock()
        work()
        seconds.append(clock() - begun)
    return min(seconds)


def least_wall_s(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the least seconds of several rounds by the wall, where a disk is waited for."""
    return least_s(work, rounds, time.perf_counter)


def measured() -> dict[str, float]:
    """Return every constant, in seconds or bytes for one image, row or trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {**_files(folder), **_index(folder), **_ledger(folder), **_manifest(), **_splits(), **_probe()}


def _files(folder: Path) -> dict[str, float]:
    import hashlib

    from PIL import Image

    from frostline.data.pixels import decoding

    rng = np.random.default_rng(0)
    (folder / "files").mkdir()
    for number in range(FILES):
        (folder / "files" / f"{number}.jpg").write_bytes(rng.bytes(FILE_BYTES))

    def look() -> None:
        for path in (folder / "files").iterdir():
            hashlib.sha256(path.read_bytes()).hexdigest()

    smooth = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
    packed = io.BytesIO()
    smooth.save(packed, "JPEG", quality=90)
    content = packed.getvalue()
    return {
        "list_and_hash_s": least_s(look) / FILES,
        "decode_s": least_s(lambda: [decoding.decode(content).resize((224, 224)) for _ in range(40)]) / 40,
    }


def _index(folder: Path) -> dict[str, float]:
    from frostline.feature_cache.index import Index
    from frostline.feature_cache.prefix_features import CLAIMED_AT_ONCE, key_of
    from frostline.feature_cache.shard_file import Form

    index, form = Index(folder / "index.sqlite"), Form("bfloat16", (WIDTH,))
    prefix, _ = index.prefix_id("x", "{}")
    total, per_shard, claim_s, add_s = 40_000, 4_096, [], []
    keys = [key_of(str(number), "0") for number in range(total)]
    for start in range(0, total, per_shard):
        chunk = keys[start : start + per_shard]
        parts = [chunk[i : i + CLAIMED_AT_ONCE] for i in range(0, len(chunk), CLAIMED_AT_ONCE)]
        claim_s.append(
            least_wall_s(lambda p=parts: [index.claim(prefix, part) for part in p], 1) / len(chunk)
        )
        args = (prefix, form, f"{start}.safetensors", len(chunk) * form.row_bytes, chunk, [0] * len(chunk))
        add_s.append(least_wall_s(lambda a=args: index.add(*a), 1) / len(chunk))
    some = keys[:: total // 4_000]
    measured_s = {
        "index_claim_s": min(claim_s),
        "index_add_s": min(add_s),
        "index_locate_s": least_s(lambda: index.locate(prefix, some)) / len(some),
        "index_bytes": (folder / "index.sqlite").stat().st_size / total,
    }
    index.close()
    return measured_s


def _ledger(folder: Path) -> dict[str, float]:
    from frostline.selection.resampling import Cell
    from frostline.selection.successive_halving import Task
    from frostline.selection.trial_queue import TrialQueue

    ledger = TrialQueue.open("scale", folder)
    tasks = [Task(c, 1.0, Cell(0, 0)) for c in range(160)]

    def take(tasks: list[Task]) -> None:
        while ledger.take([t for t in tasks if t not in ledger.outcomes()], lambda t: {"score": 0.5}):
            pass

    first = least_wall_s(lambda: take(tasks[:40]), 1) / 40
    take(tasks[:140])
    last = least_wall_s(lambda: take(tasks), 1) / 20
    ledger.close()
    # seconds of one trial's claim and telling: at none, and more for each that is there
    slope = max(0.0, (last - first) / (150 - 20))
    return {"ledger_s": max(0.0, first - 20 * slope), "ledger_per_trial_s": slope}


def _manifest() -> dict[str, float]:
    from frostline.data import Manifest, Sample

    count = 20_000
    tracemalloc.start()
    samples = tuple(
        Sample(f"class {i % 100}/photo-{i:08}.jpg", f"class {i % 100}", f"{i:064x}", "", "train")
        for i in range(count)
    )
    data = Manifest(None, samples, tuple(sorted({s.label for s in samples})))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "manifest_bytes": held / count,
        "manifest_file_bytes": len(data.to_json()) / count,
        "manifest_digest_s": least_s(lambda: replace(data).digest) / count,
    }


def _splits() -> dict[str, float]:
    from frostline.data.splits import near_duplicates, splitting

    rng = np.random.default_rng(0)
    count = 50_000
    targets, units = np.arange(count) % 100, np.arange(count)
    digests = [f"{i:064x}" for i in range(count)]
    keys = splitting.unit_keys(units, [""] * count, digests)

    def look(some: int) -> float:
        marks = {digests[i]: rng.bytes(near_duplicates.MARK_BYTES) for i in range(some)}
        return least_s(lambda: near_duplicates.likeness(marks), 2)

    one, four = look(5_000), look(20_000)
    return {
        "split_s": least_s(lambda: splitting.hold_out(targets, units, keys, 0.2, 0, "test")) / count,
        "near_s": four / 20_000,
        "near_exponent": float(np.log(four / one) / np.log(4)),
        "near_bytes": float(near_duplicates.MARK_BYTES),
    }


def _probe() -> dict[str, float]:
    from frostline import probe

    rng = np.random.default_rng(0)
    count, classes = 4_000, 100
    x = rng.standard_normal((count, WIDTH)).astype(np.float32)
    y = rng.integers(0, classes, count)
    ridge = least_s(lambda: probe.ridge(x, y, classes, l2=1.0), 2)
    twice = np.concatenate([x, x])
    both = least_s(lambda: probe.ridge(twice, np.concatenate([y, y]), classes, l2=1.0), 2)
    return {"probe_s": max(both - ridge, 1e-9) / count}


# --- simulating -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """Workers of one frozen pass, and what goes wrong with them. Times in seconds."""

    workers: int
    image_s: float  # of one worker, everything that it does by itself
    index_s: float  # of one image, in an index through which one worker passes at a time
    indexes: int = 1  # that share the keys among them
    spread: float = 0.1  # standard deviation of the log of a block's time
    slow_share: float = 0.02  # of the workers, which take
    slow_factor: float = 2.0  # times as long
    node: int = 8  # workers that die together
    lost: int = 0  # nodes that die once, at moments spread evenly over the pass
    lease_s: float = 60.0  # until what a dead node had claimed is taken over
    restart_s: float = 300.0  # until it is back


@dataclass(frozen=True)
class Passed:
    """What a pass took. Shares are of all workers' time."""

    seconds: float
    idle_share: float  # done, dead, or nothing left to take
    waiting_share: float  # for the index
    redone_share: float  # work that died with a node


def frozen_pass(fleet: Fleet, images: float, *, blocks_each: int = 40, seed: int = 0) -> Passed:
    """Simulate one pass over `images`, in `blocks_each` blocks a worker."""
    rng = np.random.default_rng(seed)
    size = images / (fleet.workers * blocks_each)
    pace = np.where(rng.random(fleet.workers) < fleet.slow_share, fleet.slow_factor, 1.0)
    ideal_s = max(images * fleet.image_s / fleet.workers, images * fleet.index_s / fleet.indexes)
    deaths = _deaths(fleet, ideal_s)
    free = [0.0] * fleet.indexes  # a heap: when each index has served who came before
    todo = [0.0] * (fleet.workers * blocks_each)  # a heap: from when on each block may be taken
    queue = [(0.0, worker) for worker in range(fleet.workers)]
    busy = waited = redone = end = 0.0
    while todo:
        now, worker = heapq.heappop(queue)
        begin = max(now, heapq.heappop(todo))
        served = max(begin, free[0])
        heapq.heapreplace(free, served + size * fleet.index_s)
        work = size * fleet.image_s * pace[worker] * float(rng.lognormal(0.0, fleet.spread))
        done, mine = served + size * fleet.index_s + work, deaths[worker // fleet.node]
        if now <= mine < done:
            redone += max(0.0, mine - served)
            heapq.heappush(todo, mine + fleet.lease_s)
            done = mine + fleet.restart_s
        else:
            busy, waited, end = busy + work + size * fleet.index_s, waited + served - begin, max(end, done)
        heapq.heappush(queue, (done, worker))
    whole = end * fleet.workers
    idle = max(0.0, 1.0 - (busy + waited + redone) / whole)
    return Passed(end, idle, waited / whole, redone / whole)


def _deaths(fleet: Fleet, ideal_s: float) -> list[float]:
    """Return when each node dies; nodes beyond those that do never."""
    nodes = -(-fleet.workers // fleet.node)
    moments = [ideal_s * (i + 0.5) / fleet.lost for i in range(min(fleet.lost, nodes))]
    return moments + [float("inf")] * (nodes - len(moments))


@dataclass(frozen=True)
class Raced:
    """What a comparison took."""

    seconds: float
    idle_share: float
    runs: int
    ledger_share: float  # of one after another at the ledger, in the time it took


def trials(workers: int, rungs: list[list[float]], once_s: float, per_trial_s: float, seed: int = 0) -> Raced:
    """Simulate a race: each rung's runs (seconds each) end before the next begins; claims wait in line.

    A claim takes `once_s`, and `per_trial_s` more for each trial that the ledger holds.
    """
    rng = np.random.default_rng(seed)
    now = busy = ledger = 0.0
    held = 0
    for rung in rungs:
        free, door = [now] * workers, now
        for seconds in sorted(rung, reverse=True):
            claim = once_s + held * per_trial_s
            held += 1
            door = max(door, heapq.heappop(free)) + claim
            ledger += claim
            took = seconds * float(rng.lognormal(0.0, 0.1))
            busy += took
            heapq.heappush(free, door + took)
        now = max(free)
    return Raced(now, 1.0 - busy / (now * workers), held, ledger / now)


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, required=True, help="JSON file to write")
    out = parser.parse_args().measure
    document = {**about(), **measured()}
    out.write_text(json.dumps(document, indent=1) + "\n")


def about() -> dict[str, str]:
    """Say what was measured with."""
    names = ("torch", "numpy", "pillow", "optuna")
    return {"versions": ", ".join(f"{name} {metadata.version(name)}" for name in names)}


if __name__ == "__main__":
    main()
