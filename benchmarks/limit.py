"""Whether `train`, `compare` and `fit` end when their minutes do, by a clock outside, on a loaded machine.

    python benchmarks/limit.py DATA_DIR --out limit.jsonl --load 2     # goes on where it was interrupted
    python benchmarks/limit.py --summary limit.jsonl

DATA_DIR holds trashnet6.csv (`path,label,group`). Each run is a whole command in a process of its own, from
start to exit, on 200 images drawn at random (another draw each time), with an empty study; `--load` processes
compute beside it all the time. A run may end later than its limit by the largest of 5 %, 3 s and one training
step (which is under 3 s here); a refusal must name the floor, and comes in time if it comes before the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VERBS = {
    "train": ("--strategy", "full(epochs=500)"),
    "compare": ("--strategies", "linear_probe,top_k(1),lp_ft,full"),
    "fit": (),
}
RUNS, IMAGES, SIZE = 20, 200, 96
MINUTES = (0.5, 1.0)  # by turns
BUSY = "import numpy as np\na = np.ones((400, 400))\nwhile True: a @ a"


def allowed_s(limit_s: float) -> float:
    """Return how much later than the limit a command may end."""
    return max(0.05 * limit_s, 3.0)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many processes of one thread computing."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], env=alone) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def one(data: Path, verb: str, run: int, minutes: float, store: str | None) -> dict[str, Any]:
    """Run one command; returns how long it took and how it ended."""
    with open(data / "trashnet6.csv", newline="", encoding="utf-8") as file:
        rows = [(str(data / row["path"]), row["label"]) for row in csv.DictReader(file)]
    order = np.random.default_rng(run).permutation(len(rows))[:IMAGES]
    with tempfile.TemporaryDirectory() as scratch:
        sheet = Path(scratch) / "drawn.csv"
        with open(sheet, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *(rows[i] for i in order)])
        words = [sys.executable, "-m", "frostline", verb, str(sheet), *VERBS[verb], "--minutes", str(minutes)]
        words += ["--size", str(SIZE), "--study", f"{scratch}/study", "--json", "--quiet", "--threads", "1"]
        words += ["--cache-dir", store or f"{scratch}/store"]
        began = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True)
        wall_s = time.perf_counter() - began
    refused = re.search(r"--minutes [\d.]+ is less than the \d+ s.*", done.stderr)
    if done.returncode and not refused:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return {"wall_s": wall_s, "limit_s": 60 * minutes, "refused": refused[0] if refused else ""}


def work(arguments: argparse.Namespace) -> None:
    """Make every run that is missing."""
    done = [(row["verb"], row["run"], row["load"]) for row in read(arguments.out)]
    with neighbours(arguments.load):
        for run, verb in itertools.product(range(arguments.runs), arguments.verbs):
            if (verb, run, arguments.load) in done:
                continue
            minutes = arguments.minutes[run % len(arguments.minutes)]
            row = {"verb": verb, "run": run, "load": arguments.load, "cold": arguments.cache_dir is None}
            row |= one(arguments.data, verb, run, minutes, arguments.cache_dir)
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, file=sys.stderr, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Read what has landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(path: Path) -> str:
    """Return the table."""
    lines = ["| verb | runs | refused | used of the limit | latest beyond it (s) | later than allowed |"]
    lines.append("|---|---|---|---|---|---|")
    rows = read(path)
    for verb in VERBS:
        mine = [row for row in rows if row["verb"] == verb]
        if not mine:
            continue
        ran = [row for row in mine if not row["refused"]] or mine
        used = [row["wall_s"] / row["limit_s"] for row in ran]
        late = [row["wall_s"] - row["limit_s"] for row in mine]
        over = sum(row["wall_s"] - row["limit_s"] > allowed_s(row["limit_s"]) for row in mine)
        spread = f"{statistics.median(used):.2f} ({min(used):.2f}–{max(used):.2f})"
        refused = sum(bool(row["refused"]) for row in mine)
        lines.append(f"| {verb} | {len(mine)} | {refused} | {spread} | {max(late):+.1f} | {over} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("limit.jsonl"))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--verbs", nargs="+", default=list(VERBS))
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES)
    parser.add_argument(
        "--load", type=int, default=os.cpu_count() or 1, help="Processes that compute beside."
    )
    parser.add_argument("--cache-dir", help="One store for all runs [an empty one each].")
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.summary is None:
        work(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
