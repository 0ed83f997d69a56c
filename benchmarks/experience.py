"""What advice knows: strategies with their learning rates, tried on real image sets, cell by cell.

    python benchmarks/experience.py DATA_DIR                   # goes on where it was interrupted
    python benchmarks/experience.py DATA_DIR --share 1/2       # two processes halve the cells
    python benchmarks/experience.py DATA_DIR --blocks main
    python benchmarks/experience.py --summary

DATA_DIR holds NAME.csv files of `path,label,group`. Every finished cell is appended to `outcomes.jsonl` in
the folder `--out`, where the package reads its experience from; what `measure` says of the same training
images goes to `signals.jsonl`. Each seed draws the training images anew, groups are kept apart, the
test set is what remains, at most 1,500 images. `seconds` are the processor's, of one thread, so that a
busy machine doesn't show. Left out: `head` and `scratch`, weight decay, BatchNorm
policies and augmentation (always the defaults), networks other than lite0 and SqueezeNet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draws import SIX_SETS, draw_table, own_store

OUT = Path(__file__).parents[1] / "src" / "frostline" / "advice" / "experience"

# Strategies at two or three effective rates (`lr` at the head times `layer_decay` to the depth), and two with
# a third or less of their passes, for small budgets.
CONFIGURATIONS = (
    "linear_probe(layers=last)",
    "linear_probe",
    "top_k(1)",
    "top_k(3)",
    "top_k(3, lr=0.003, layer_decay=1)",
    "lp_ft(lr=0.0003)",
    "lp_ft",
    "lp_ft(lr=0.002, layer_decay=1)",
    "gradual_unfreeze",
    "full",
    "full(lr=0.001, layer_decay=1)",
    "top_k(3, epochs=4)",
    "lp_ft(epochs=4)",
)
# What is tried beyond the main block: one rate a strategy, two of LP-FT, and a short one.
FEWER = tuple(
    name
    for name in CONFIGURATIONS
    if name
    not in ("top_k(3, lr=0.003, layer_decay=1)", "lp_ft(lr=0.002, layer_decay=1)", "full", "lp_ft(epochs=4)")
)
ONE_A_BAND = ("clothing10", "sign_digits", "spoken_digit_spectrograms10")
TEST = 1500
TASK = ("model", "size", "set", "per_class", "seed")
KEY = (*TASK, "strategy")

# (sets, images a class, architecture, image size, seeds, strategies)
Block = tuple[tuple[str, ...], tuple[int, ...], str, int, tuple[int, ...], tuple[str, ...]]
BLOCKS: dict[str, Block] = {
    "main": (SIX_SETS, (8, 40), "tf_efficientnet_lite0", 96, (0, 1, 2, 3), CONFIGURATIONS),
    "squeezenet": (ONE_A_BAND, (8, 40), "squeezenet1_1", 96, (0, 1), FEWER),
    "larger": (ONE_A_BAND, (8,), "tf_efficientnet_lite0", 160, (0, 1), FEWER),
    "more": (ONE_A_BAND, (100,), "tf_efficientnet_lite0", 96, (0, 1), FEWER),
    "larger, 40": (ONE_A_BAND, (40,), "tf_efficientnet_lite0", 160, (0,), FEWER),
}


def tasks(blocks: list[str]) -> Iterator[tuple[str, int, str, int, int, tuple[str, ...]]]:
    """Yield (set, images a class, model, size, seed, strategies): what shares images and rows."""
    for block in blocks:
        sets, counts, model, size, seeds, strategies = BLOCKS[block]
        for seed in seeds:
            for count in counts:
                for name in sets:
                    yield name, count, model, size, seed, strategies


def backbone_of(model: str, size: int, data: Path) -> Any:
    """Load lite0, or SqueezeNet from its file beside the image sets."""
    import frostline

    if model == "squeezenet1_1":
        file = data.parent / "weights" / "squeezenet1_1-imagenet.safetensors"
        return frostline.load_backbone(str(file), architecture="torchvision/squeezenet1_1", size=size)
    return frostline.load_backbone("lite0", size=size)


def run_one(backbone: Any, manifest: Any, strategy: str, seed: int, scratch: Path) -> dict[str, Any]:
    """Train one configuration on one draw."""
    import frostline

    began = time.process_time()
    run = frostline.train(backbone, manifest, strategy, study=scratch / "study", seed=seed, threads=1)
    seconds = time.process_time() - began
    counts = {key: run.result[key] for key in ("n_train", "n_val", "n_test")}
    rates = {key: _rounded(run.result[key]) for key in ("accuracy", "val_accuracy")} | {
        "seconds": round(seconds, 2)
    }
    return {**counts, **rates, "peak_memory_mb": round(run.peak_memory_bytes / 1e6, 1)}


def signals_of(backbone: Any, manifest: Any) -> dict[str, Any]:
    """Measure the training images of one draw."""
    from frostline.diagnostics import measure

    signals = measure(backbone, manifest, rates=False, threads=1).as_dict()
    fields = ("n_classes", "n_measured", "similarity", "confidence", "probe_by_stage", "linear_probe")
    known = {key: _rounded(signals[key]) for key in (*fields, "learning_curve")}
    return {"fewest": signals["size"]["per_class"][0], **known}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def append(path: Path, row: dict[str, Any]) -> None:
    """Write one line, at once and whole."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Read the cells that have landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def work(arguments: argparse.Namespace) -> None:
    """Run every missing cell of this process's share."""
    import frostline

    share, of = (int(word) for word in arguments.share.split("/"))
    outcomes, signals = arguments.out / "outcomes.jsonl", arguments.out / "signals.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = {tuple(row[key] for key in KEY) for row in read(outcomes)}
    measured = {tuple(row[key] for key in TASK) for row in read(signals)}
    for number, task in enumerate(tasks(arguments.blocks)):
        name, count, model, size, seed, strategies = task
        wanted = [s for s in strategies if (model, size, name, count, seed, s) not in done]
        unmeasured = (model, size, name, count, seed) not in measured
        if number % of != share - 1 or not (wanted or unmeasured):
            continue
        with tempfile.TemporaryDirectory() as folder:
            scratch, table = Path(folder), arguments.data / f"{name}.csv"
            sheet = draw_table(table, count, seed, True, scratch, test_per_class=None, test=TEST)
            manifest = frostline.load_data(sheet, seed=seed)
            backbone = backbone_of(model, size, arguments.data)
            for strategy in wanted:
                row = dict(zip(KEY, (model, size, name, count, seed, strategy), strict=True))
                row |= run_one(backbone, manifest, strategy, seed, scratch)
                append(outcomes, row)
                print(*row.values(), file=sys.stderr, flush=True)
            if unmeasured:
                row = dict(zip(TASK, (model, size, name, count, seed), strict=True))
                append(signals, row | signals_of(backbone, manifest))


def summarise(path: Path) -> str:
    """Return a Markdown table a block: mean test accuracy of each configuration."""
    rows = read(path)
    cells: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        cells[row["model"], row["size"], row["per_class"], row["set"], row["strategy"]].append(
            100 * row["accuracy"]
        )
    lines = []
    for model, size, count in sorted({key[:3] for key in cells}):
        sets = [name for name in SIX_SETS if any(key[:4] == (model, size, count, name) for key in cells)]
        lines += [
            f"\n{model}, {size} px, {count} a class\n",
            "| strategy | " + " | ".join(sets) + " | mean |",
        ]
        lines.append("|---|" + "---|" * (len(sets) + 1))
        for strategy in dict.fromkeys(row["strategy"] for row in rows):
            cell = [cells.get((model, size, count, name, strategy), []) for name in sets]
            means = [statistics.mean(values) for values in cell if values]
            texts = [
                f"{statistics.mean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else float('nan'):.1f}"
                if v
                else ""
                for v in cell
            ]
            mean = f"{statistics.mean(means):.1f}" if len(means) == len(sets) else ""
            lines.append(f"| `{strategy}` | " + " | ".join(texts) + f" | {mean} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--blocks", nargs="*", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--share", default="1/1", metavar="K/N")
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    print(summarise(arguments.out / "outcomes.jsonl"))


if __name__ == "__main__":
    main()
