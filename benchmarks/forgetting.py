"""What learning a second set costs the first, and what protection buys: A, then B, then A by its own head.

    python benchmarks/forgetting.py /path/to/sets out.jsonl

For each pair of sets and each draw (40 training images a class, the rest cut to at most 80 a class for test,
20 a class for val) lite0 at 96 px is adapted to A. That network is adapted to B, plainly and under each
protection; then B's test set is asked, and A's through the head that A's run left, with the layers below as
B's run left them. A line a run is appended; what is there is not run again.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import frostline
from frostline.data import Manifest
from frostline.models import Backbone

PAIRS = (("clothing10", "sign_digits"), ("trashnet6", "spoken_digit_spectrograms10"))
FIRST = "lp_ft"
# name → strategy, interpolation
WAYS: dict[str, tuple[str, float | str | None]] = {
    "linear_probe": ("linear_probe", None),
    "plain": ("lp_ft", None),
    "a tenth of the rate": ("lp_ft(lr=0.0001)", None),
    "l2_sp=0.01": ("lp_ft(l2_sp=0.01)", None),
    "l2_sp=0.1": ("lp_ft(l2_sp=0.1)", None),
    "l2_sp=1": ("lp_ft(l2_sp=1)", None),
    "interpolate_weights=0.5": ("lp_ft", 0.5),
    "interpolate_weights=auto": ("lp_ft", "auto"),
}
LEARN, CHOOSE, TEST = 40, 20, 80  # images a class
DRAWS = 3
SIZE = 96


def drawn(csv: Path, draw: int) -> Manifest:
    """Return a draw in three subsets; what belongs together stays in one of them."""
    data = frostline.load_data(csv, seed=draw)
    rng = np.random.default_rng([draw, 7])
    want = {"train": LEARN, "val": CHOOSE, "test": TEST}
    rows = []
    for label in data.classes:
        for part, most in want.items():
            mine = [s for s in data.samples if s.label == label and s.split == part]
            rows += [mine[i] for i in rng.permutation(len(mine))[:most]]
    return replace(data, samples=tuple(sorted(rows, key=lambda s: s.path)))


def main(root: Path, out: Path) -> None:
    """Run what is missing, then print the table."""
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["pair"], r["draw"], r["way"]) for r in rows}
    start = frostline.load_backbone("lite0", size=SIZE)
    for draw in range(DRAWS):
        for first, second in PAIRS:
            pair = f"{first} → {second}"
            if all((pair, draw, way) in done for way in WAYS):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                one, two = (drawn(root / f"{name}.csv", draw) for name in (first, second))
                run_a = frostline.train(start, one, FIRST, study=f"{scratch}/a", seed=draw, threads=1)
                between = frostline.load_backbone(str(run_a.folder.path))
                for way, (strategy, point) in WAYS.items():
                    if (pair, draw, way) in done:
                        continue
                    row = measured(between, one, two, strategy, point, f"{scratch}/b", draw)
                    row |= {"pair": pair, "draw": draw, "way": way, "first": run_a.accuracy}
                    rows.append(row)
                    with out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(row, flush=True)
    table(rows)


def measured(
    between: Backbone,
    one: Manifest,
    two: Manifest,
    strategy: str,
    point: float | str | None,
    study: str,
    draw: int,
) -> dict[str, object]:
    """Adapt A's network to B in one way; return what that is worth on B, and what is left on A."""
    began = time.perf_counter()
    run = frostline.train(
        between, two, strategy, study=study, seed=draw, threads=1, interpolate_weights=point
    )
    seconds = time.perf_counter() - began
    left = frostline.forgetting(between, frostline.load_model(run.folder), one)
    return {
        "second": run.accuracy,
        "before": left.before,
        "after": left.after,
        "share": run.result.get("interpolation", {}).get("share"),
        "drift": run.result.get("drift"),
        "seconds": seconds,
    }


def table(rows: list[dict[str, object]]) -> None:
    """Print each way's mean over draws, and its spread against `plain`."""
    for pair in dict.fromkeys(r["pair"] for r in rows):
        print(f"\n{pair}\n| way | B, % | A after, % | A forgotten, points | time | n |\n" + "|---" * 6 + "|")
        for way in WAYS:
            mine = [r for r in rows if (r["pair"], r["way"]) == (pair, way)]
            if mine:
                plain = {r["draw"]: r for r in rows if (r["pair"], r["way"]) == (pair, "plain")}
                gone = [100 * (float(r["before"]) - float(r["after"])) for r in mine]  # type: ignore[arg-type]
                cells = [
                    _spread([100 * float(r["second"]) for r in mine]),  # type: ignore[arg-type]
                    _spread([100 * float(r["after"]) for r in mine]),  # type: ignore[arg-type]
                    _spread(gone),
                    _spread(
                        [
                            float(r["seconds"]) / float(plain[r["draw"]]["seconds"])  # type: ignore[arg-type]
                            for r in mine
                            if r["draw"] in plain
                        ],
                        2,
                    ),
                ]
                print(f"| {way} | {' | '.join(cells)} | {len(mine)} |")


def _spread(values: list[float], digits: int = 1) -> str:
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
