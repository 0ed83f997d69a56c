"""The solved head: how long choosing and solving it take, and how right it is, beside another version of it.

    python benchmarks/heads.py DATA_DIR --features FOLDER --against OTHER/src/frostline/probe.py

DATA_DIR holds NAME.csv files of `path,label,group`; lite0's pooled features of every image at 96 px are kept
in FOLDER. Accuracy: six sets × 8 and 40 images a class × three draws, groups apart, tested on all other
images, both versions on the same features. Seconds: `choose` on 1,000, 4,000 and 16,000 images (real
features with noise, ten classes) and on 800 classes of three (drawn features), interleaved, wall clock and
processor.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from draws import SIX_SETS

SIZE, FOLDS, PASS_S = 96, 5, 6e-3  # PASS_S: a bare pass at 224 px on two cores, an image (docs/LOG.md)


def features_of(table: Path, folder: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return features (n, width), targets (n,) and units (n,) of every image of a set."""
    file = folder / f"{table.stem}.npz"
    if not file.exists():
        import frostline
        from frostline.data import load_data
        from frostline.feature_extraction import ForwardConfig, Frozen, features
        from frostline.feature_extraction.image_batches import Images
        from frostline.system.numerics import exact_plan

        backbone, data = (
            frostline.load_backbone("lite0", size=SIZE),
            load_data(table, test_size=0.0, val_size=0.0),
        )
        frozen = Frozen(backbone, backbone.model, backbone.cuts[-1], ForwardConfig(exact_plan(), 64), None)
        seen = features(frozen, Images(data, data.samples, backbone.preprocessing))
        np.savez(file, x=seen, y=data.targets(data.samples), units=data.units(data.samples))
    arrays = np.load(file)
    return arrays["x"], arrays["y"], arrays["units"]


def drawn(
    y: NDArray[Any], units: NDArray[Any], per_class: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions to learn from, up to `per_class` of each class, and of all images of other units."""
    order = np.random.default_rng(seed).permutation(np.unique(units))
    learn: list[int] = []
    for label in np.unique(y):
        mine = [i for unit in order for i in np.flatnonzero((units == unit) & (y == label))]
        learn += mine[:per_class]
    rest = np.flatnonzero(~np.isin(units, units[learn]))
    return np.array(learn), rest


def folds_of(y: NDArray[Any], units: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    per_class = min(len(np.unique(units[y == label])) for label in np.unique(y))
    if per_class < 2:
        return []
    maker = StratifiedGroupKFold(min(FOLDS, per_class), shuffle=True, random_state=0)
    return [(a, b) for a, b in maker.split(y, y, units) if len(a) and len(b)]


def log_loss(probe: Any, head: Any, x: NDArray[Any], y: NDArray[Any]) -> float:
    from frostline import metrics

    p = metrics.softmax(head.logits(x), head.temperature)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())


def accuracy(versions: dict[str, ModuleType], data: Path, folder: Path) -> None:
    print("| set, images a class | " + " | ".join(f"{v}: accuracy, log loss" for v in versions) + " |")
    print("|---" * (len(versions) + 1) + "|")
    gains, losses = [], []
    for per_class in (8, 40):
        for name in SIX_SETS:
            x, y, units = features_of(data / f"{name}.csv", folder)
            rows: dict[str, list[tuple[float, float]]] = {version: [] for version in versions}
            for seed in range(3):
                learn, rest = drawn(y, units, per_class, seed)
                folds = folds_of(y[learn], units[learn])
                for version, probe in versions.items():
                    head = probe.choose(x[learn], y[learn], int(y.max()) + 1, folds)
                    right = float((head.logits(x[rest]).argmax(1) == y[rest]).mean())
                    rows[version].append((100 * right, log_loss(probe, head, x[rest], y[rest])))
            if len(versions) == 2:
                new, old = (np.array(rows[version]) for version in versions)
                gains += (new - old)[:, 0].tolist()
                losses += (new - old)[:, 1].tolist()
            cells = [
                f"{np.mean([a for a, _ in r]):.1f}, {np.mean([b for _, b in r]):.3f}" for r in rows.values()
            ]
            print(f"| {name}, {per_class} | " + " | ".join(cells) + " |", flush=True)
    for what, values in (("accuracy, points", gains), ("log loss", losses)):
        if values:
            half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
            mean = statistics.mean(values)
            print(
                f"{what}: difference {mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}), n = "
                f"{len(values)}"
            )


def problems(data: Path, folder: Path, sizes: Sequence[int]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    x, y, _ = features_of(data / "clothing10.csv", folder)
    rng, made = np.random.default_rng(0), {}
    for n in sizes:
        rows = rng.integers(0, len(x), n) if n > len(x) else rng.permutation(len(x))[:n]
        noise = 0.1 * x.std() * rng.normal(size=(n, x.shape[1])).astype(np.float32)
        made[f"{n:,} images, 10 classes"] = (x[rows] + (noise if n > len(x) else 0), y[rows])
    scale = (1 / np.sqrt(1 + np.arange(1280))).astype(np.float32)
    targets = np.repeat(np.arange(800), 3)
    middle = rng.normal(size=(800, 1280)).astype(np.float32)
    spread = rng.normal(size=(2400, 1280)).astype(np.float32)
    made["800 classes × 3 images"] = ((middle[targets] + spread) * scale, targets)
    return made


def seconds(
    versions: dict[str, ModuleType], data: Path, folder: Path, sizes: Sequence[int], repeats: int
) -> None:
    from frostline.training.loop.solved_head import few_folds

    print(f"\nthreads: {os.environ.get('OMP_NUM_THREADS', 'as they come')}, repeats: {repeats}")
    print("| | a quarter of a bare pass | " + " | ".join(f"{v}: s, processor s" for v in versions) + " |")
    print("|---" * (len(versions) + 2) + "|")
    for name, (x, y) in problems(data, folder, sizes).items():
        folds = few_folds(folds_of(y, np.arange(len(y))), seed=0)
        taken: dict[str, list[tuple[float, float]]] = {version: [] for version in versions}
        for _ in range(repeats):
            for version, probe in versions.items():
                begun, worked = time.perf_counter(), time.process_time()
                probe.choose(x, y, int(y.max()) + 1, folds)
                taken[version].append((time.perf_counter() - begun, time.process_time() - worked))
        cells = []
        for rows in taken.values():
            wall, work = zip(*rows, strict=True)
            cells.append(
                f"{statistics.mean(wall):.2f} ({min(wall):.2f}–{max(wall):.2f}), {statistics.mean(work):.2f}"
            )
        print(f"| {name} | {len(y) * PASS_S / 4:.1f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="another version's probe.py")
    parser.add_argument("--part", choices=("accuracy", "seconds"), help="one of them alone")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 4000, 16000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    from frostline import probe

    versions: dict[str, ModuleType] = {"now": probe}
    if arguments.against:
        spec = importlib.util.spec_from_file_location("other_probe", arguments.against)
        assert spec is not None
        assert spec.loader is not None
        other = importlib.util.module_from_spec(spec)
        import sys

        sys.modules["other_probe"] = other
        spec.loader.exec_module(other)
        versions["before"] = other
    arguments.features.mkdir(parents=True, exist_ok=True)
    if arguments.part != "seconds":
        accuracy(versions, arguments.data, arguments.features)
    if arguments.part != "accuracy":
        seconds(versions, arguments.data, arguments.features, arguments.sizes, arguments.repeats)


if __name__ == "__main__":
    main()
