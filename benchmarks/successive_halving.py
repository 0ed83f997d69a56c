"""Successive halving beside running everything: cost, regret, and what the first rung had better be.

    python benchmarks/successive_halving.py DATA_DIR --out FOLDER              # resumes
    python benchmarks/successive_halving.py DATA_DIR --out FOLDER --share 1/2  # two processes halve the sets
    python benchmarks/successive_halving.py DATA_DIR --out FOLDER --summary

DATA_DIR holds NAME.csv files of `path,label,group`. For each set every strategy is run on every fold of three
repeats, short ones on the first repeat, and three times on all images, tested on up to 1,500 others: what
there is to know. The race is then played on these runs: with whole schedules on some folds first, as
`compare` has it (from every repeat and every choice of folds, the mean); with short schedules first, begun
anew; with whole ones paused and resumed. `seconds` are the processor's, of one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from draws import draw_table, own_store

SETS = ("trashnet6", "sign_digits", "clipart12")
PER_CLASS, SIZE = 10, 64  # images a class, pixels: a race of six strategies in an hour of one core
STRATEGIES = ("linear_probe", "top_k(1)", "top_k(3)", "lp_ft", "gradual_unfreeze", "full")
REPEATS, TEST, FINALS = 3, 1500, 3
SHORT = 0.25


def work(arguments: argparse.Namespace) -> None:
    """Make every run that is missing."""
    import frostline
    from frostline.selection import resampling
    from frostline.selection.resampling import Cell
    from frostline.strategies import parse, scaled

    share, of = (int(word) for word in arguments.share.split("/"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SETS):
        if number % of != share - 1:
            continue
        scratch, table = arguments.out / name, arguments.out / f"{name}.jsonl"
        scratch.mkdir(exist_ok=True)
        done = {tuple(row["task"]) for row in read(table)}
        sheet = draw_table(
            arguments.data / f"{name}.csv", PER_CLASS, 0, True, scratch, test_per_class=None, test=TEST
        )
        data = frostline.load_data(sheet, seed=0, val_size=0.0)
        backbone = frostline.load_backbone("lite0", size=SIZE)
        folds = resampling.folds_of(data, 0)
        tasks = [("whole", r, f) for r in range(REPEATS) for f in range(folds)]
        tasks += [("short", 0, f) for f in range(folds)] + [("final", r, 0) for r in range(FINALS)]
        for (kind, repeat, fold), strategy in itertools.product(tasks, STRATEGIES):
            if (kind, repeat, fold, strategy) in done:
                continue
            part, seed = data, repeat
            if kind != "final":
                part = resampling.split(data, Cell(repeat, fold), 0)
                seed = resampling.seed_of(0, Cell(repeat, fold))
            plan = parse(strategy)
            if kind == "short":
                plan = scaled(plan, SHORT, len(part.subset("train")))
            began = time.process_time()
            with tempfile.TemporaryDirectory() as study:
                run = frostline.train(backbone, part, plan, study=study, seed=seed, threads=1, keep="last")
                curve = [row.get("val_accuracy") for row in run.folder.metrics()]
                found = "test" if kind == "final" else "val"
                right = _right(run.folder.path / f"predictions-{found}.csv")
            row = {
                "task": [kind, repeat, fold, strategy],
                "seconds": round(time.process_time() - began, 2),
                "curve": curve,
                "right": right if kind == "whole" else {},
                "accuracy": statistics.mean(right.values()),
            }
            with open(table, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(name, *row["task"], row["accuracy"], row["seconds"], flush=True)


def _right(table: Path) -> dict[str, int]:
    import csv

    with open(table, newline="", encoding="utf-8") as file:
        return {Path(r["path"]).name: int(r["label"] == r["predicted"]) for r in csv.DictReader(file)}


def read(path: Path) -> list[dict[str, Any]]:
    """Read what has landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- playing the race on what was run -----------------------------------------------------------------


class Known:
    """Everything that was run on one set."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = {tuple(row["task"]): row for row in rows}
        self.folds = 1 + max(fold for kind, _, fold, _ in self.rows if kind == "whole")

    def seconds(self, kind: str, repeat: int, strategy: str) -> float:
        """What a repeat of one strategy took."""
        return sum(self.rows[kind, repeat, f, strategy]["seconds"] for f in range(self.folds))

    def score(self, kind: str, repeats: Sequence[int], strategy: str) -> float:
        """Mean accuracy on images held out."""
        return statistics.mean(
            self.rows[kind, r, f, strategy]["accuracy"] for r in repeats for f in range(self.folds)
        )

    def paused(self, strategy: str) -> float:
        """Mean accuracy of the whole schedules of the first repeat, stopped after a share of their epochs."""
        results = []
        for fold in range(self.folds):
            row = self.rows["whole", 0, fold, strategy]
            curve = row["curve"]
            results.append(curve[max(1, round(SHORT * len(curve))) - 1] if curve else row["accuracy"])
        return statistics.mean(results)

    def truth(self, strategy: str) -> float:
        """Mean test accuracy of models that learned from all images."""
        return statistics.mean(self.rows["final", r, 0, strategy]["accuracy"] for r in range(FINALS))


def judged(known: Known, strategies: Sequence[str], seed: int = 0) -> str:
    """Name the winner among strategies that were seen on every repeat, as `compare` does."""
    from frostline.selection.significance import HeldOutPredictions, judge

    held = {}
    for place, strategy in enumerate(strategies):
        rows = [
            (r, name, right)
            for r in range(REPEATS)
            for f in range(known.folds)
            for name, right in known.rows["whole", r, f, strategy]["right"].items()
        ]
        names = {name: i for i, name in enumerate(sorted({row[1] for row in rows}))}
        rows.sort(key=lambda row: (row[0], names[row[1]]))
        images = np.array([names[row[1]] for row in rows])
        right = np.array([row[2] for row in rows])
        held[place] = HeldOutPredictions(
            images,
            np.array([r[0] for r in rows]),
            images,
            np.ones(len(rows), np.int64),
            np.c_[1 - right, right] * 1.0,
        )
    costs = {i: known.seconds("whole", 0, s) for i, s in enumerate(strategies)}
    return strategies[judge(held, costs, "accuracy", seed).winner]


CLIMBING, FINALISTS = 3, 2  # of six, as `successive_halving.plan` has it


def play(known: Known, first: Mapping[str, float], first_s: float, left: float) -> tuple[str, float, float]:
    """Race by these scores of the first rung; returns the winner, the seconds in all and before repeating.

    `left` is the share of a whole schedule that is still to be run for those who climb.
    """
    ranked = sorted(STRATEGIES, key=lambda s: -first[s])[:CLIMBING]
    climb_s = left * sum(known.seconds("whole", 0, s) for s in ranked)
    finalists = sorted(ranked, key=lambda s: -known.score("whole", [0], s))[:FINALISTS]
    repeat_s = sum(known.seconds("whole", r, s) for r in range(1, REPEATS) for s in finalists)
    return judged(known, finalists), first_s + climb_s + repeat_s, first_s + climb_s


def play_folds(known: Known, count: int) -> list[tuple[str, float, float]]:
    """Race with `count` folds on the first rung, in every way; returns what `play` does, for each."""
    found, won = [], dict[tuple[str, ...], str]()
    for repeat, folds in itertools.product(range(REPEATS), itertools.combinations(range(known.folds), count)):
        seen = {s: [known.rows["whole", repeat, f, s] for f in folds] for s in STRATEGIES}
        first = {s: statistics.mean(row["accuracy"] for row in rows) for s, rows in seen.items()}
        first_s = {s: sum(row["seconds"] for row in rows) for s, rows in seen.items()}
        ranked = sorted(STRATEGIES, key=lambda s: -first[s])[:CLIMBING]
        before = sum(first_s.values()) + sum(known.seconds("whole", repeat, s) - first_s[s] for s in ranked)
        finalists = sorted(ranked, key=lambda s: -known.score("whole", [repeat], s))[:FINALISTS]
        again = [r for r in range(REPEATS) if r != repeat]
        total = before + sum(known.seconds("whole", r, s) for r in again for s in finalists)
        key = tuple(sorted(finalists))
        won[key] = won.get(key) or judged(known, key)
        found.append((won[key], total, before))
    return found


def summarise(out: Path) -> str:
    """Return the tables."""
    from scipy.stats import spearmanr

    lines = [
        "| set | way | winner, mostly | regret (points) | seconds | of everything | before repeating |",
        "|---|---|---|---|---|---|---|",
    ]
    ranks = [
        "",
        "| set | rank correlation with whole schedules: short | paused | of whole ones with the truth |",
        "|---|---|---|---|",
    ]
    for name in SETS:
        known = Known(read(out / f"{name}.jsonl"))
        truth = {s: 100 * known.truth(s) for s in STRATEGIES}
        all_s = sum(known.seconds("whole", r, s) for r in range(REPEATS) for s in STRATEGIES)
        short = {s: known.score("short", [0], s) for s in STRATEGIES}
        paused = {s: known.paused(s) for s in STRATEGIES}
        short_s = sum(known.seconds("short", 0, s) for s in STRATEGIES)
        ways = {
            "everything": [(judged(known, STRATEGIES), all_s, all_s / REPEATS)],
            **{f"whole schedules, {n} of the folds first": play_folds(known, n) for n in (1, 2, 3)},
            "short schedules first, begun anew": [play(known, short, short_s, 1.0)],
            "paused and resumed": [play(known, paused, SHORT * all_s / REPEATS, 1.0 - SHORT)],
        }
        for way, races in ways.items():
            regret = statistics.mean(max(truth.values()) - truth[winner] for winner, *_ in races)
            seconds, before = (statistics.mean(race[place] for race in races) for place in (1, 2))
            usual = statistics.mode(winner for winner, *_ in races)
            shares = f"{seconds / all_s:.2f} | {before / all_s:.2f}"
            lines.append(f"| {name} | {way} | `{usual}` | {regret:.1f} | {seconds:.0f} | {shares} |")
        whole = [known.score("whole", range(REPEATS), s) for s in STRATEGIES]
        correlations = [spearmanr(list(some.values()), whole)[0] for some in (short, paused)]
        correlations.append(spearmanr(whole, list(truth.values()))[0])
        ranks.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in correlations) + " |")
    return "\n".join([*lines, *ranks])


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", default="1/1", metavar="K/N")
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    print(summarise(arguments.out))


if __name__ == "__main__":
    main()
