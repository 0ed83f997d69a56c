"""Whether `fit`'s interval holds the accuracy on images that were left out, and how wide it is.

    python benchmarks/coverage.py DATA_DIR --out coverage.jsonl             # goes on where it was interrupted
    python benchmarks/coverage.py DATA_DIR --out coverage.jsonl --share 1/2  # two processes halve the draws
    python benchmarks/coverage.py --summary coverage.jsonl

200 images are drawn at random from a set, 20 times; `fit` sees no other, and its model then answers on 1,000
or more of the remaining ones. Beside its interval stands the one that a 20 % hold-out (40 images) would give.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from draws import own_store

SETS = ("clothing10", "trashnet6", "sign_digits", "fashion_mnist10")
STRATEGIES = ("linear_probe", "top_k(1)")
DRAWN, DRAWS, MOST = 200, 20, 1500
HELD = 0.2


def work(arguments: argparse.Namespace) -> None:
    """Make every draw of this process's share that is missing."""
    share, of = (int(word) for word in arguments.share.split("/"))
    done = {(row["set"], row["draw"]) for row in read(arguments.out)}
    pairs = [(draw, name) for draw in range(DRAWS) for name in SETS]
    for number, (draw, name) in enumerate(pairs):
        if number % of == share - 1 and (name, draw) not in done:
            row = {"set": name, "draw": draw, **one(arguments.data / f"{name}.csv", draw)}
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, file=sys.stderr, flush=True)


def one(table: Path, draw: int) -> dict[str, Any]:
    """Fit on one draw, and ask the model about the rest. Copies of what was drawn don't count as left out."""
    import frostline

    with open(table, newline="", encoding="utf-8") as file:
        rows = [(str(table.parent / row["path"]), row["label"]) for row in csv.DictReader(file)]
    order = np.random.default_rng(draw).permutation(len(rows))
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "drawn.csv"
        with open(sheet, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *(rows[i] for i in order[:DRAWN])])
        fitted = frostline.fit(
            sheet,
            size=96,
            strategies=STRATEGIES,
            repeats=1,
            minutes=30.0,
            study=Path(folder) / "study",
            seed=draw,
            threads=1,
        )
        rest = [rows[i] for i in order[DRAWN : DRAWN + MOST]]
        answers = frostline.predict(Path(folder) / "study", [path for path, _ in rest])
        labels = {answer.path: answer.label for answer in answers}
    right = [labels[path] == label for path, label in rest if path in labels]
    return {
        "accuracy": fitted.accuracy,
        "low": fitted.low,
        "high": fitted.high,
        "optimism": fitted.optimism,
        "strategy": fitted.strategy,
        "seconds": fitted.seconds,
        "truth": statistics.mean(right),
        "asked": len(right),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Read what has landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(path: Path) -> str:
    """Return the table."""
    from frostline.metrics import wilson

    lines = [
        "| set | draws | interval holds the truth | estimate − truth (points) | width | a hold-out's width |",
        "|---|---|---|---|---|---|",
    ]
    rows = read(path)
    for name in (*SETS, "all"):
        mine = [row for row in rows if name in (row["set"], "all")]
        if not mine:
            continue
        held = sum(row["low"] <= row["truth"] <= row["high"] for row in mine)
        apart = [100 * (row["accuracy"] - row["truth"]) for row in mine]
        width = statistics.mean(100 * (row["high"] - row["low"]) for row in mine)
        ends = [wilson(row["truth"], HELD * DRAWN) for row in mine]
        beside = statistics.mean(100 * (high - low) for low, high in ends)
        off = f"{statistics.mean(apart):+.1f} ± {statistics.stdev(apart) if len(apart) > 1 else 0:.1f}"
        lines.append(f"| {name} | {len(mine)} | {held} | {off} | {width:.1f} | {beside:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--share", default="1/1", metavar="K/N")
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.summary is None:
        with own_store():
            work(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
