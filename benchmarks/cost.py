"""How well a run's seconds and memory are predicted: real runs beside what was said before each of them.

    python benchmarks/cost.py DATA_DIR --out cost.jsonl             # about 8 minutes on 2 cores
    python benchmarks/cost.py DATA_DIR --out cost.jsonl --quick     # a dozen runs, a minute
    python benchmarks/cost.py --summary cost.jsonl

DATA_DIR holds clothing10.csv (`path,label,group`); SqueezeNet's weights lie beside it. All runs are made in
one process, one after another, with the rates measured in it when a network and size begins. Each has its
own study; `cold` begins with an empty cache, `warm` follows it with the same rows. Some are repeated: what a
run and its repeat differ by, no prediction can know.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draws import draw_table

TEST = 100
# Epochs are few where the default would take minutes.
STRATEGIES = (
    "linear_probe",
    "head",
    "top_k(1, epochs=8)",
    "top_k(3, epochs=4)",
    "lp_ft(epochs=2)",
    "gradual_unfreeze(epochs=4)",
    "full(epochs=2)",
)
SIZES = (96, 160)  # pixels
MODELS = ("lite0", "squeezenet1_1")
PER_CLASS = (10, 30)  # of 10 classes: 100 images to train, or 300, a fifth of them for val
WARM = (
    "linear_probe",
    "head",
    "top_k(1, epochs=8)",
    "top_k(3, epochs=4)",
)  # also run on the rows of the cold run
REPEATED = ("head", "top_k(3, epochs=4)", "full(epochs=2)", "linear_probe")  # cold, a second time


def tasks(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Yield (model, size, images a class)."""
    for model, size, count in itertools.product(arguments.models, arguments.sizes, PER_CLASS):
        if not arguments.quick or (size, count) == (96, 10):
            yield model, size, count


def backbone_of(model: str, size: int, data: Path) -> Any:
    """Load a network; SqueezeNet's file lies beside the image sets."""
    import frostline

    if model == "squeezenet1_1":
        file = data.parent / "weights" / "squeezenet1_1-imagenet.safetensors"
        return frostline.load_backbone(str(file), architecture="torchvision/squeezenet1_1", size=size)
    return frostline.load_backbone(model, size=size)


def runs(count: int) -> Iterator[tuple[str, bool, int]]:
    """Yield (strategy, warm, repeat) in the order they are run: each warm one after its cold one."""
    for strategy in STRATEGIES:
        for repeat in range(2 if strategy in REPEATED and count == PER_CLASS[0] else 1):
            yield strategy, False, repeat
        if strategy in WARM:
            yield strategy, True, 0


def work(arguments: argparse.Namespace) -> None:
    """Predict and run everything."""
    import frostline
    from frostline import profiling
    from frostline.cost import predict
    from frostline.feature_cache import FeatureCache
    from frostline.feature_extraction.augmentation import Policy
    from frostline.feature_extraction.image_batches import Images

    with tempfile.TemporaryDirectory() as folder:
        for model, size, count in tasks(arguments):
            scratch = Path(folder) / f"{model}-{size}-{count}"
            scratch.mkdir()
            sheet = draw_table(
                arguments.data / "clothing10.csv", count, 0, False, scratch, test_per_class=None, test=TEST
            )
            manifest = frostline.load_data(sheet, near_copies=False).checked()
            backbone = backbone_of(model, size, arguments.data)
            began = time.perf_counter()
            images = Images(
                manifest, manifest.subset("train"), backbone.preprocessing, policy=Policy("standard")
            )
            # Remembered of the network, but not what is held.
            known = profiling.measure(backbone, images, cache=FeatureCache())
            print(f"rates {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
            row = {"rates": known.as_dict(), "measured_s": time.perf_counter() - began}
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            counts = {part: len(manifest.subset(part)) for part in ("train", "val", "test")}
            for number, (strategy, warm, repeat) in enumerate(runs(count)):
                if not warm:
                    FeatureCache().clear()
                predicted = predict(strategy, known, **counts, classes=len(manifest.classes), warm=warm)
                run = frostline.train(backbone, manifest, strategy, study=scratch / f"study-{number}")
                row = {
                    "model": model,
                    "size": size,
                    **counts,
                    "strategy": strategy,
                    "warm": warm,
                    "repeat": repeat,
                    "seconds": run.seconds,
                    "told_s": predicted.seconds,
                    "memory": run.peak_memory_bytes,
                    "told_memory": predicted.peak_memory_bytes,
                    "told_upper": predicted.peak_memory_upper_bytes,
                    "parts": predicted.parts,
                    "features": run.features,
                }
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(line(row), file=sys.stderr, flush=True)


def line(row: dict[str, Any]) -> str:
    """Return one run for a person."""
    return (
        f"{row['model']:14} {row['size']:4} {row['train']:4} {row['strategy']:27} "
        f"{'warm' if row['warm'] else 'cold'} {row['seconds']:7.2f} s, told {row['told_s']:7.2f} "
        f"({row['told_s'] / row['seconds'] - 1:+.0%}); {row['memory'] / 1e6:5.0f} MB, told "
        f"{row['told_memory'] / 1e6:5.0f} ({row['told_memory'] / row['memory'] - 1:+.0%}), "
        f"at most {row['told_upper'] / 1e6:5.0f}"
    )


def ninetieth(values: list[float]) -> float:
    """Return the 90th percentile."""
    return sorted(values)[min(len(values) - 1, round(0.9 * (len(values) - 1)))]


def errors(rows: list[dict[str, Any]], predicted: str, measured: str) -> list[float]:
    """Return relative errors, without their sign."""
    return [abs(row[predicted] / row[measured] - 1) for row in rows]


def summarise(path: Path) -> str:
    """Return the figures that the predictions are held to."""
    rows = [row for text in path.read_text().splitlines() if "strategy" in (row := json.loads(text))]
    pairs = defaultdict(list)
    for row in rows:
        if not row["warm"]:
            pairs[row["model"], row["size"], row["train"], row["strategy"]].append(row["seconds"])
    spreads = [abs(a / b - 1) for a, b in (seconds for seconds in pairs.values() if len(seconds) == 2)]
    over = [row for row in rows if row["memory"] > row["told_upper"]]
    far = [row for row in rows if row["memory"] > 1.1 * row["told_upper"]]
    lines = [f"{len(rows)} runs; repeats differ by {statistics.median(spreads):.1%} (n = {len(spreads)})"]
    for what, told, found in (("time", "told_s", "seconds"), ("memory", "told_memory", "memory")):
        for name, some in (
            ("all", rows),
            *((m, [r for r in rows if r["model"] == m]) for m in MODELS),
            *((f"{size} px", [r for r in rows if r["size"] == size]) for size in SIZES),
            ("cold", [r for r in rows if not r["warm"]]),
            ("warm", [r for r in rows if r["warm"]]),
            *((s, [r for r in rows if r["strategy"] == s]) for s in STRATEGIES),
        ):
            if some:
                off = errors(some, told, found)
                lines.append(
                    f"| {what} | {name} | {statistics.median(off):.1%} | {ninetieth(off):.1%} "
                    f"| {statistics.median(r[told] / r[found] - 1 for r in some):+.1%} | {len(off)} |"
                )
    lines.append(
        f"peak above the upper bound: {len(over)} of {len(rows)}, by more than a tenth: {len(far)}; "
        f"bound / peak {statistics.median(r['told_upper'] / r['memory'] for r in rows):.2f} in the median"
    )
    return "\n".join(lines)


def main() -> None:
    """Run, or only sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("cost.jsonl"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=SIZES)
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.summary is None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FROSTLINE_CACHE_DIR"] = cache
            work(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
