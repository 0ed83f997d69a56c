"""Images a step, and how the learning rate follows: accuracy of one strategy at several batch sizes.

    python benchmarks/batch_size.py DATA_DIR                 # goes on where it was interrupted
    python benchmarks/batch_size.py DATA_DIR --share 1/2     # two processes halve the draws
    python benchmarks/batch_size.py --summary

DATA_DIR holds NAME.csv files of `path,label,group`. For each set, seed and number of images a class (train
and val), one table is drawn, groups kept apart; every batch size learns from it twice, with the strategy's
rate as it is and times the square root of its batch over 32. The epochs are the strategy's own, so small
batches take more steps. `seconds` are the processor's, of one thread, so that a busy machine doesn't show;
nothing is timed before a run (`deterministic`). The summary gives differences to batches of 32 on the same
draw, and their mean over the draws.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draws import draw_table, own_store

SETS = ("clothing10", "sign_digits", "spoken_digit_spectrograms10")  # near to ImageNet, middle, far
BASES = ("top_k(3)", "lp_ft")
BATCHES = (32, 8, 128, 16, 64)  # first the one that the others are compared with, then the ends
FIRST = 32
RATES = ("root", "as it is")
LR = 1e-3  # of both strategies, at batches of 32
KEY = ("size", "set", "per_class", "seed", "base", "batch", "rate")


def variants() -> Iterator[tuple[int, str]]:
    """Yield (batch, rate): "as it is", or "root" for a rate times the root of batch / 32."""
    yield FIRST, "as it is"
    for batches in (BATCHES[1:3], BATCHES[3:]):
        for rate in RATES:
            for batch in batches:
                yield batch, rate


def strategy_of(base: str, batch: int, rate: str) -> str:
    """Return the base with its rate in brackets."""
    if rate == "as it is":
        return base
    name, _, inside = base.rstrip(")").partition("(")
    lr = f"lr={LR * math.sqrt(batch / FIRST):.6g}"
    return f"{name}({', '.join(part for part in (inside, lr) if part)})"


def tasks(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int, str, int, str]]:
    """Yield (set, images a class, seed, base, batch, rate)."""
    for seed in arguments.seeds:
        for base in arguments.bases:
            for batch, rate in variants():
                if batch != FIRST and not (batch in arguments.batches and rate in arguments.rates):
                    continue
                for per_class in arguments.per_class:
                    for name in arguments.sets:
                        yield name, per_class, seed, base, batch, rate


def work(arguments: argparse.Namespace) -> None:
    """Run every missing cell of this process's share."""
    import frostline

    share, of = (int(word) for word in arguments.share.split("/"))
    done = {tuple(row[key] for key in KEY) for row in read(arguments.out)}
    backbone = frostline.load_backbone("lite0", size=arguments.size)
    for number, task in enumerate(tasks(arguments)):
        if number % of != share - 1 or (arguments.size, *task) in done:
            continue
        row = dict(zip(KEY, (arguments.size, *task), strict=True))
        row |= run_one(backbone, arguments, *task)
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), file=sys.stderr, flush=True)


def run_one(
    backbone: Any,
    arguments: argparse.Namespace,
    name: str,
    per_class: int,
    seed: int,
    base: str,
    batch: int,
    rate: str,
) -> dict[str, Any]:
    """Train one strategy with one batch size and rate on one draw, without anything timed."""
    import frostline

    with tempfile.TemporaryDirectory() as folder:
        scratch, table = Path(folder), arguments.data / f"{name}.csv"
        sheet = draw_table(table, per_class, seed, True, scratch, test_per_class=arguments.test_per_class)
        data = frostline.load_data(sheet, seed=seed, val_size=0.2)
        began = time.process_time()
        run = frostline.train(
            backbone,
            data,
            strategy_of(base, batch, rate),
            study=scratch / "study",
            seed=seed,
            batch_size=batch,
            flip="none",
            deterministic=True,
            device="cpu",
            threads=1,
            workers=0,
        )
        seconds = round(time.process_time() - began, 2)
    figures = {key: run.result[key] for key in ("accuracy", "log_loss", "n_train", "n_test", "steps")}
    return {**figures, "seconds": seconds}


def read(path: Path) -> list[dict[str, Any]]:
    """Read the cells that have landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(path: Path) -> str:
    """Return a Markdown table for each base and number of images a class: differences in points."""
    rows, lines = read(path), []
    for size, per_class, base in sorted({(r["size"], r["per_class"], r["base"]) for r in rows}):
        mine = [r for r in rows if (r["size"], r["per_class"], r["base"]) == (size, per_class, base)]
        sets = [name for name in SETS if any(r["set"] == name for r in mine)]
        first = {(r["set"], r["seed"]): r for r in mine if r["batch"] == FIRST}
        lines += [f"\n{base}, {per_class} a class, {size} px; accuracy in percent, differences in points\n"]
        lines += ["| batch, rate | mean ± spread (n) | seconds | " + " | ".join(sets) + " |"]
        lines += ["|---|---|---|" + "---|" * len(sets)]
        starts = [100 * r["accuracy"] for r in first.values()]
        cells = [_cell([100 * r["accuracy"] for k, r in first.items() if k[0] == name], "") for name in sets]
        lines += [f"| {FIRST} | {_mean(starts, '')} | 1 × | " + " | ".join(cells) + " |"]
        for batch in sorted(set(BATCHES) - {FIRST}):
            for rate in RATES:
                pairs = [
                    (r, first[r["set"], r["seed"]])
                    for r in mine
                    if (r["batch"], r["rate"]) == (batch, rate) and (r["set"], r["seed"]) in first
                ]
                apart = {
                    name: [100 * (r["accuracy"] - f["accuracy"]) for r, f in pairs if r["set"] == name]
                    for name in sets
                }
                if pairs:
                    times = statistics.median(r["seconds"] / f["seconds"] for r, f in pairs)
                    means = _mean([each for values in apart.values() for each in values], "+")
                    cells = [_cell(apart[name], "+") for name in sets]
                    lines += [f"| {batch}, {rate} | {means} | {times:.2f} × | " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def _mean(values: list[float], sign: str) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread} ({len(values)})" if values else ""


def _cell(values: list[float], sign: str) -> str:
    return f"{statistics.mean(values):{sign}.1f}" if values else ""


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("batch_size.jsonl"))
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--per-class", nargs="*", type=int, default=[8, 40])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--bases", nargs="*", default=list(BASES))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES), choices=BATCHES)
    parser.add_argument("--rates", nargs="*", default=list(RATES), choices=RATES)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--test-per-class", type=int, default=40)
    parser.add_argument("--share", default="1/1", metavar="K/N")
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    print(summarise(arguments.out))


if __name__ == "__main__":
    main()
