"""Likely label errors: how many of the labels that were made wrong are found, and what else is suspected.

    python benchmarks/labels.py DATA_DIR --out labels.jsonl

Of each set up to 600 images are drawn, evenly over the classes, and one label in twenty is exchanged for
another class, drawn evenly. `linear_probe` and `top_k(1)` are compared on five folds, and labels are doubted
by the report's own function, from the winner's answers out of fold. Precision is the share of the suspects
that had been exchanged, recall the share of the exchanged that are suspected. Labels that were wrong before
count as right here, so precision is a lower bound. A draw that stands in the file is not run again;
without the file, draws are judged anew from the answers kept in --tables.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import frostline
from draws import draw
from frostline.reports import prediction_table
from frostline.reports.study_reader import PredictionTable, StudyContents, load_predictions
from frostline.sentences import Basis

SETS = ("clothing10", "sign_digits", "fashion_mnist10")
STRATEGIES = ("linear_probe", "top_k(1)")
BARS = (
    1.0,
    prediction_table.LABEL_ISSUE_RATIO,
)  # all that confident learning suspects, and what the report shows
SHOWN = ("precision", "recall", "suspects", "others")


def flipped_table(
    table: Path, images: int, seed: int, share: float, folder: Path
) -> tuple[Path, dict[str, str]]:
    """Write a draw with some labels exchanged; return the table and the true labels of those, by path."""
    rng = np.random.default_rng((seed, images))
    with open(table, newline="", encoding="utf-8") as file:
        classes = sorted({row["label"] for row in csv.DictReader(file)})
    rows = [row for row in draw(table, images // len(classes), seed, False) if row[2] == "train"]
    chosen = set(rng.permutation(len(rows))[: round(share * len(rows))].tolist())
    truth, written = {}, []
    for index, (path, label, _, _) in enumerate(rows):
        given = label
        if index in chosen:
            given = str(rng.choice([name for name in classes if name != label]))
            truth[path] = label
        written.append((path, given))
    sheet = folder / "flipped.csv"
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *written])
    return sheet, truth


def judge(answers: PredictionTable, truth: dict[str, str], bar: float) -> dict[str, Any]:
    """Set what the report would suspect beside what had been exchanged."""
    rows = prediction_table.label_issues(StudyContents(Path()), answers, bar)
    suspects = [answers.paths[row] for row in rows.tolist()]
    hits = sum(path in truth for path in suspects)
    return {
        "suspects": len(suspects),
        "others": len(suspects) - hits,
        "precision": hits / len(suspects) if suspects else float("nan"),
        "recall": hits / len(truth),
    }


def race(arguments: argparse.Namespace, name: str, seed: int, folder_kept: Path) -> None:
    """Run one draw of one set; keep the answers out of fold, the true labels and who gave the answers."""
    with tempfile.TemporaryDirectory() as scratch:
        table = arguments.data / f"{name}.csv"
        sheet, truth = flipped_table(table, arguments.images, seed, arguments.share, Path(scratch))
        comparison = frostline.compare(
            frostline.load_backbone("lite0", size=arguments.size),
            frostline.load_data(sheet, seed=seed, test_size=0.0, val_size=0.0),
            STRATEGIES,
            repeats=1,
            study=Path(scratch) / "study",
            seed=seed,
            threads=arguments.threads,
        )
        known = {"winner": comparison.winner, "seconds": comparison.seconds, "truth": truth}
        folder_kept.parent.mkdir(parents=True, exist_ok=True)
        folder_kept.with_suffix(".json").write_text(json.dumps(known))
        shutil.copy(
            comparison.folder / "out-of-fold.csv", folder_kept.with_suffix(".csv")
        )  # last: it says done


def one(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Judge one draw of one set, from its kept answers where there are such."""
    folder_kept = arguments.tables / f"{name}-{arguments.images}-{arguments.share}-{seed}.csv"
    if not folder_kept.exists():
        race(arguments, name, seed, folder_kept)
    known = json.loads(folder_kept.with_suffix(".json").read_text())
    answers = load_predictions(folder_kept, Basis.OUT_OF_FOLD)
    return {
        "set": name,
        "seed": seed,
        "asked": arguments.images,
        "share": arguments.share,
        "images": len(answers.paths),
        "exchanged": len(known["truth"]),
        "winner": known["winner"],
        "right": float((answers.predicted == answers.targets).mean()),
        "seconds": known["seconds"],
        "bars": {f"{bar:g}": judge(answers, known["truth"], bar) for bar in BARS},
    }


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: a line for each set and bar, mean ± standard deviation over the draws."""
    lines = [
        "| set | labels agreed with | bar | precision | recall | suspects | not exchanged | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        for bar in mine[0]["bars"]:
            cells = [spread([row["bars"][bar][key] for row in mine], key) for key in SHOWN]
            right = spread([row["right"] for row in mine], "right")
            lines.append(f"| {name} | {right} | {bar} | {' | '.join(cells)} | {len(mine)} |")
    return lines


def spread(values: list[float], key: str) -> str:
    """Return mean ± standard deviation."""
    digits = 0 if key in ("suspects", "others") else 2
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    """Run what is missing, then print the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("labels.jsonl"))
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tables", type=Path, default=Path("labels-tables"), help="Answers are kept here.")
    arguments = parser.parse_args()
    known = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    rows = [json.loads(line) for line in known]
    done = {(row["set"], row["seed"], row["asked"], row["share"]) for row in rows}
    for seed in arguments.seeds:
        for name in arguments.sets:
            if (name, seed, arguments.images, arguments.share) in done:
                continue
            rows.append(one(arguments, name, seed))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            with open(arguments.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    selected = [r for r in rows if (r["asked"], r["share"]) == (arguments.images, arguments.share)]
    print("\n".join(summary(selected)))


if __name__ == "__main__":
    main()
