"""Whether `fit --minutes` says what its model is worth, keeps its time, and takes the best of what it raced.

    python benchmarks/honesty.py DATA_DIR --out honesty.jsonl               # goes on where it was interrupted
    python benchmarks/honesty.py DATA_DIR --out honesty.jsonl --source OTHER/src --name today
    python benchmarks/honesty.py --summary honesty.jsonl

200 images are drawn at random from a set, 10 times, with 1,500 or fewer of the rest left out. The command
`fit` sees the 200 alone, in a process of its own whose clock is outside, with `--minutes 0.5` and `1`; then
its model answers on those that were left out. Each strategy that was judged in the race is also trained on
all 200 and asked about them, so that it is known which was best (`--no-regret` leaves that out: it takes most
of the time). `--source` is where the code to run lies (a checkout's `src`), `--python` with what; rows are
named by `--name`. Two processes of one share each (`--share 1/2`) halve the draws. A first fit on other
images warms the store's timings of the network, as on a machine where it was used before; `--cold` does not.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from draws import own_store

SETS = ("clothing10", "trashnet6", "sign_digits", "fashion_mnist10")
MINUTES = (0.5, 1.0)
DRAWN, DRAWS, MOST, SIZE = 200, 10, 1500, 96
POINT = 0.01
Row = dict[str, Any]
Lines = list[tuple[str, str]]


def work(arguments: argparse.Namespace) -> None:
    """Make every draw of this process's share that is missing."""
    share, of = (int(word) for word in arguments.share.split("/"))
    done = {(row["name"], row["minutes"], row["set"], row["draw"]) for row in read(arguments.out)}
    wanted = itertools.product(range(arguments.draws), arguments.sets, arguments.minutes)
    for number, (draw, name, minutes) in enumerate(wanted):
        if number % of != share - 1 or (arguments.name, minutes, name, draw) in done:
            continue
        began = {"name": arguments.name, "minutes": minutes, "set": name, "draw": draw}
        row = {**began, **one(arguments, arguments.data / f"{name}.csv", draw, minutes)}
        with open(arguments.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({key: row[key] for key in row if key != "raced"}), file=sys.stderr, flush=True)


def one(arguments: argparse.Namespace, table: Path, draw: int, minutes: float) -> Row:
    """Fit on one draw, and ask the model about the rest."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = [(str(table.parent / row["path"]), row["label"]) for row in csv.DictReader(file)]
    order = np.random.default_rng(draw).permutation(len(rows)).tolist()
    drawn, rest = ([rows[i] for i in some] for some in (order[:DRAWN], order[DRAWN : DRAWN + MOST]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sheet, others = written(folder / "drawn.csv", drawn), written(folder / "rest.csv", rest)
        result, wall_s = fitted(arguments, sheet, folder / "study", minutes, draw)
        if "error" in result:  # the machine is too busy for so few minutes, and says so
            return {"refused": result["error"], "wall_s": wall_s}
        truth = answered(arguments, folder / "study", others, rest)
        judged = [row for row in result["tried"] if row["low"] is not None]
        raced = {} if arguments.no_regret else each(arguments, folder, drawn, rest, judged, draw)
    known = ("strategy", "basis", "accuracy", "low", "high", "seconds")
    figures = {key: result.get(key) for key in known}
    figures |= {"truth": truth, "asked": len(rest), "wall_s": wall_s, "judged": len(judged), "raced": raced}
    return {**figures, "tried": len([row for row in result["tried"] if row["runs"]])}


def fitted(
    arguments: argparse.Namespace, sheet: Path, study: Path, minutes: float, seed: int
) -> tuple[Row, float]:
    """Run the command; returns its result and the seconds from start to exit, by a clock outside."""
    words = ["fit", str(sheet), "--minutes", str(minutes), "--size", str(SIZE), "--study", str(study)]
    began = time.perf_counter()
    out = called(arguments, [*words, "--seed", str(seed), "--json", "--quiet"], may_refuse=True)
    return out, time.perf_counter() - began


def answered(arguments: argparse.Namespace, study: Path, others: Path, rest: Lines, run: str = "") -> float:
    """Return the share of the images left out that the study's model, or one of its runs, answers right."""
    words = ["predict", str(study), str(others), "--json", "--quiet"]
    document = called(arguments, words + (["--run", run] if run else []))
    labels = {row["path"]: row["label"] for row in document["predictions"]}
    return statistics.mean(labels.get(path) == label for path, label in rest)


def each(
    arguments: argparse.Namespace, folder: Path, drawn: Lines, rest: Lines, judged: Sequence[Row], seed: int
) -> dict[str, float]:
    """Train every strategy that was judged on all that was drawn, and ask it about the rest."""
    sheet = written(folder / "all.csv", drawn)
    accuracies = {}
    for number, row in enumerate(judged):
        study = folder / f"each{number}"
        words = ["train", str(sheet), "--strategy", row["strategy"], "--study", str(study)]
        called(
            arguments,
            [
                *words,
                "--size",
                str(SIZE),
                "--seed",
                str(seed),
                "--test-size",
                "0",
                "--val-size",
                "0",
                "--json",
                "--quiet",
            ],
        )
        accuracies[row["strategy"]] = answered(arguments, study, folder / "rest.csv", rest)
    return accuracies


def called(arguments: argparse.Namespace, words: Sequence[str], may_refuse: bool = False) -> Row:
    """Run a verb of the code asked for; returns its JSON, which of a refusal has an `error`."""
    environment = dict(os.environ)
    if arguments.source:
        environment["PYTHONPATH"] = str(arguments.source.resolve())
    command = [str(arguments.python), "-m", "frostline", *words, "--threads", "1"]
    if words[0] == "predict":
        command = command[:-2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode and not (may_refuse and "is less than" in done.stdout):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def written(path: Path, rows: Lines) -> Path:
    """Write a table of images."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return path


def warm(arguments: argparse.Namespace) -> None:
    """Let the network be timed once, as on a machine where it was used before."""
    table = arguments.data / f"{arguments.sets[0]}.csv"
    with open(table, newline="", encoding="utf-8") as file:
        rows = [(str(table.parent / row["path"]), row["label"]) for row in csv.DictReader(file)]
    with tempfile.TemporaryDirectory() as scratch:
        sheet = written(Path(scratch) / "warm.csv", rows[-100:] + rows[:100])
        called(arguments, ["plan", str(sheet), "--size", str(SIZE), "--json", "--quiet"])


def read(path: Path) -> list[Row]:
    """Read what has landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(path: Path) -> str:
    """Return the table: for each budget, one code beside the other."""
    heads = ["minutes", "code", "set", "draws", "headline − truth (points)", "interval holds", "width"]
    heads += ["truth, %", "winner within a point of the best raced", "judged of begun"]
    heads += ["seconds / limit (most)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows = read(path)
    names = list(dict.fromkeys(row["name"] for row in rows))
    limits = sorted({row["minutes"] for row in rows})
    for minutes, name, of in itertools.product(limits, names, (*SETS, "all")):
        mine = [r for r in rows if (r["minutes"], r["name"]) == (minutes, name) and of in (r["set"], "all")]
        ran = [row for row in mine if "refused" not in row]
        if ran:
            refused = f" (and {len(mine) - len(ran)} refused)" if len(ran) < len(mine) else ""
            lines.append(f"| {minutes:g} | {name} | {of} | {len(ran)}{refused} | {_line(ran)} |")
    return "\n".join(lines)


def _line(rows: Sequence[Mapping[str, Any]]) -> str:
    apart = [100 * (row["accuracy"] - row["truth"]) for row in rows]
    off = f"{statistics.mean(apart):+.1f} ± {statistics.stdev(apart) if len(apart) > 1 else 0:.1f}"
    held = sum(row["low"] <= row["truth"] <= row["high"] for row in rows) / len(rows)
    width = statistics.mean(100 * (row["high"] - row["low"]) for row in rows)
    truth = statistics.mean(100 * row["truth"] for row in rows)
    compared = [row for row in rows if row["strategy"] in row["raced"]]
    near = [max(r["raced"].values()) - r["raced"][r["strategy"]] <= POINT + 1e-9 for r in compared]
    spent = [row["wall_s"] / (60 * row["minutes"]) for row in rows]
    counts = (statistics.mean(row[key] for row in rows) for key in ("judged", "tried"))
    return " | ".join(
        [
            off,
            f"{100 * held:.0f} %",
            f"{width:.1f}",
            f"{truth:.1f}",
            f"{sum(near)} of {len(near)}",
            " of ".join(f"{count:.1f}" for count in counts),
            f"{statistics.median(spent):.2f} ({max(spent):.2f})",
        ]
    )


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("honesty.jsonl"))
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="The interpreter to run.")
    parser.add_argument("--source", type=Path, help="Where the code lies [as Python finds it].")
    parser.add_argument("--name", default="here", help="What rows of this code are called.")
    parser.add_argument("--share", default="1/1", metavar="K/N")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES)
    parser.add_argument("--no-regret", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--summary", type=Path)
    arguments = parser.parse_args()
    if arguments.summary is None:
        with own_store():
            if not arguments.cold:
                warm(arguments)
            work(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
