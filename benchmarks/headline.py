"""How far a cross-validated accuracy is from the truth, and why: on kept features, so that draws are cheap.

    python benchmarks/headline.py DATA_DIR --out headline.jsonl     # goes on where it was interrupted
    python benchmarks/headline.py --summary headline.jsonl

200 images are drawn at random from a set, 20 times. The default linear probe (lite0, 96 px, four stages) is
judged as `fit` judges it, on the manifest's own folds: as the first model (`cross-validation`: its L2 is
chosen by the same folds) and as a comparison's winner (`out of fold`: each fold chooses its L2 by folds of
its own). The truth is the accuracy of the head of all 200 on up to 1,500 of the other images; beside it
stands that of the folds' heads, which learned from 160. `benchmarks/honesty.py` asks the whole command.
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
import torch

from draws import own_store

SETS = ("clothing10", "trashnet6", "sign_digits", "fashion_mnist10", "clipart12", "emoji9")
DRAWN, DRAWS, MOST, SIZE, LAYERS = 200, 20, 1500, 96, 4
KFOLD = 5


def work(arguments: argparse.Namespace) -> None:
    """Make every draw that is missing."""
    import frostline

    torch.set_num_threads(1)
    done = {(row["set"], row["draw"]) for row in read(arguments.out)}
    backbone = frostline.load_backbone("lite0", size=SIZE)
    for name in arguments.sets:
        missing = [draw for draw in range(arguments.draws) if (name, draw) not in done]
        if not missing:
            continue
        table = arguments.data / f"{name}.csv"
        with open(table, newline="", encoding="utf-8") as file:
            lines = [(str(table.parent / row["path"]), row["label"]) for row in csv.DictReader(file)]
        with tempfile.TemporaryDirectory() as scratch:
            features = Features(backbone, written(Path(scratch) / "all.csv", lines))
            for draw in missing:
                row = {"set": name, "draw": draw, **features.judge(lines, draw, Path(scratch))}
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, file=sys.stderr, flush=True)


class Features:
    """The features of a whole set."""

    def __init__(self, backbone: Any, sheet: Path) -> None:
        import frostline
        from frostline.models import stage_taps

        extracted = frostline.extract_features(backbone, frostline.load_data(sheet), layers=LAYERS, threads=1)
        assert extracted.vectors is not None
        taps = stage_taps(backbone)[:LAYERS]
        self._widths = [backbone.feature_width, *(width for tap in taps for width in tap.widths)]
        self._vectors, self._place = extracted.vectors, {path: i for i, path in enumerate(extracted.paths)}
        self._classes = sorted(set(extracted.labels))
        self._targets = np.array([self._classes.index(label) for label in extracted.labels])

    def judge(self, lines: list[tuple[str, str]], draw: int, scratch: Path) -> dict[str, Any]:
        """Return what folds say of one draw's head, and what the images left out say."""
        import frostline
        from frostline import probe

        order = np.random.default_rng(draw).permutation(len(lines)).tolist()
        data = frostline.load_data(written(scratch / "drawn.csv", [lines[i] for i in order[:DRAWN]]))
        samples = data.samples
        drawn = [self._place[sample.path] for sample in samples]
        paths = [lines[i][0] for i in order[DRAWN : DRAWN + MOST]]
        rest = [self._place[path] for path in paths if path in self._place]
        scales = probe.block_scales(self._vectors[drawn], self._widths)
        features, targets = self._vectors[drawn] * scales, self._targets[drawn]

        def right(head: probe.Solution, values: Any, labels: Any) -> np.ndarray:
            return np.asarray((values @ head.weight.T + head.bias).argmax(axis=1) == labels)

        def truth(head: probe.Solution) -> float:
            return float(right(head, self._vectors[rest] * scales, self._targets[rest]).mean())

        count, folds = len(self._classes), data.folds(samples, KFOLD, draw)
        whole = probe.choose(features, targets, count, folds)
        nested, of_folds = [], []
        for learn, held in folds:
            inner = data.folds([samples[i] for i in learn], KFOLD, draw + 1)
            head = probe.choose(features[learn], targets[learn], count, inner)
            nested.append(right(head, features[held], targets[held]))
            of_folds.append(truth(head))
        return {
            "cross_validation": whole.cv_score,
            "out_of_fold": float(np.concatenate(nested).mean()),
            "truth": truth(whole),
            "truth_of_folds": statistics.mean(of_folds),
        }


def written(path: Path, lines: list[tuple[str, str]]) -> Path:
    """Write a table of images."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *lines])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read what has landed."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(path: Path) -> str:
    """Return the table: differences in points, mean ± standard error over draws, and what intervals held."""
    from frostline import metrics
    from frostline.selection import spread_of_folds

    heads = ["set", "draws", "cross-validation − truth", "out of fold − truth", "95 % interval holds"]
    heads += ["folds' heads − head of all", "truth, %"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    everything = read(path)
    for name in (*dict.fromkeys(row["set"] for row in everything), "all"):
        rows = [row for row in everything if name in (row["set"], "all")]
        spans = [metrics.wilson(row["out_of_fold"], DRAWN / spread_of_folds(KFOLD)) for row in rows]
        held = sum(low <= row["truth"] <= high for row, (low, high) in zip(rows, spans, strict=True))
        cells = [_mean(rows, key, "truth") for key in ("cross_validation", "out_of_fold")]
        cells += [f"{100 * held / len(rows):.0f} %", _mean(rows, "truth_of_folds", "truth")]
        truth = 100 * statistics.mean(row["truth"] for row in rows)
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} | {truth:.1f} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], key: str, other: str) -> str:
    points = [100 * (row[key] - row[other]) for row in rows]
    error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 else float("nan")
    return f"{statistics.mean(points):+.1f} ± {error:.1f}"


def main() -> None:
    """Make the draws that are missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("headline.jsonl"))
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    print(summarise(arguments.summary or arguments.out))


if __name__ == "__main__":
    main()
