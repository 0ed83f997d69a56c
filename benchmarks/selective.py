"""Does a run know when it does not know? In-set images kept, foreign ones flagged, precision against promise.

    python benchmarks/selective.py /path/to/sets out.jsonl

For each set and draw lite0 at 96 px learns 40 images a class by `top_k(1)` with 20 a class for val. Its test
part is asked, and 300 images of each of two other sets. A line a run and promise is appended.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import frostline
from forgetting import SIZE, drawn
from frostline.feature_extraction.image_batches import Images
from frostline.inference import selective_prediction
from frostline.inference.predictor import Predictor

SETS = ("clothing10", "sign_digits", "trashnet6", "fashion_mnist10")
STRATEGY = "top_k(1)"
PROMISES = (0.8, 0.9, 0.95)
DRAWS = 2
FOREIGN = 300


def main(root: Path, out: Path) -> None:
    """Run what is missing."""
    torch.set_num_threads(1)
    done = (
        {(r["set"], r["draw"]) for r in map(json.loads, out.read_text().splitlines())} if out.exists() else {}
    )
    backbone = frostline.load_backbone("lite0", size=SIZE)
    for draw in range(DRAWS):
        for place, name in enumerate(SETS):
            if (name, draw) in done:
                continue
            others = [SETS[(place + 1) % len(SETS)], SETS[(place + 2) % len(SETS)]]
            with tempfile.TemporaryDirectory() as scratch, out.open("a") as file:
                for row in measured(root, backbone, name, others, draw, scratch):
                    file.write(json.dumps(row) + "\n")
                    print(row, flush=True)


def measured(
    root: Path, backbone: frostline.Backbone, name: str, others: list[str], draw: int, scratch: str
) -> list[dict[str, object]]:
    """Return a row for each foreign set and promise."""
    data = drawn(root / f"{name}.csv", draw)
    run = frostline.train(backbone, data, STRATEGY, study=scratch, seed=draw, threads=1)
    predictor = Predictor.of_run(run.folder)
    test = Images(data, data.subset("test"), backbone.preprocessing)
    p, features = _asked(predictor, test)
    known = selective_prediction.read(run.folder.path)
    assert known is not None
    rows: list[dict[str, object]] = []
    for other in others:
        strange = frostline.load_data(root / f"{other}.csv", seed=draw)
        rng = np.random.default_rng([draw, 11])
        some = [strange.samples[i] for i in rng.permutation(len(strange.samples))[:FOREIGN]]
        q, far = _asked(predictor, Images(strange, some, backbone.preprocessing))
        near, away = known.distance(features), known.distance(far)
        label = np.r_[np.zeros(len(near)), np.ones(len(away))]
        ranked = {
            f"auroc_{kind}": float(roc_auc_score(label, score))
            for kind, score in (
                ("distance", np.r_[near, away]),
                ("probability", -np.r_[p.max(axis=1), q.max(axis=1)]),
            )
        }
        for promise in PROMISES:
            doubts = selective_prediction.doubts(run.folder.path, promise)
            mine, theirs = doubts.of(p, features), doubts.of(q, far)
            is_sure = np.array([why is None for why in mine])
            right = p.argmax(axis=1) == test.targets
            rows.append(
                {
                    "set": name,
                    "draw": draw,
                    "other": other,
                    "promise": promise,
                    "accuracy": float(right.mean()),
                    "precision": float(right[is_sure].mean()) if is_sure.any() else None,
                    "kept": float(is_sure.mean()),
                    "familiar": float(np.mean([why != "unfamiliar" for why in mine])),
                    "foreign_unfamiliar": float(np.mean([why == "unfamiliar" for why in theirs])),
                    "foreign_flagged": float(np.mean([why is not None for why in theirs])),
                    "fpr_at_95_tpr": float((away <= np.quantile(near, 0.95)).mean()),
                    **ranked,
                }
            )
    return rows


def _asked(predictor: Predictor, images: Images) -> tuple[np.ndarray, torch.Tensor]:
    outputs = [predictor.with_features(pixels) for pixels in images.evaluation(64)]
    return np.concatenate([p for p, _ in outputs]), torch.cat([f for _, f in outputs])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
