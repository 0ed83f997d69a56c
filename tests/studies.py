"""Study folders written by hand, in milliseconds: what training would leave, without training."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.data import Manifest, Sample, SkippedImage
from frostline.strategies import hyperparameters, parse, scaled, schedule
from frostline.studies.study_folder import FORMAT, digest_of
from frostline.studies.trial_records import TrialRecord

STAGES = ("stem", "blocks.0", "blocks.1", "head")
PLAIN = ("cat", "dog", "newt")
EVIL = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "\u202egnp.exe & 'quotes' </style></script>{{7*7}}",
    "x" * 300 + "<b>",
    "x" * 300 + "<i>",
)
TRIED = ("linear_probe", "top_k(1)", "gradual_unfreeze", "full")
WINNER = "gradual_unfreeze"
REACHED = {"linear_probe": 0.7, "top_k(1)": 0.85, "gradual_unfreeze": 0.92, "full": 0.9}


def write(path: Path, value: Any) -> None:
    """Write JSON, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def samples(classes: Sequence[str], per_class: int, *, test: int = 0) -> tuple[Sample, ...]:
    """Return samples with made-up digests; the last `test` of each class are the test set."""
    entries = []
    for label, name in enumerate(classes):
        for index in range(per_class):
            part = "test" if index >= per_class - test else "train"
            path = f"{label}/{name[:20]}-{index:03}.png"
            entries.append(Sample(path, name, digest_of([name, index]), "", part))
    return tuple(entries)


def write_answers(
    path: Path, classes: Sequence[str], samples: Sequence[Sample], right: float, seed: int = 0
) -> None:
    """Write a table of predictions of which about `right` are right."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", "predicted", *(f"p({name})" for name in classes)])
        for sample in samples:
            truth = classes.index(sample.label)
            guess = truth if rng.random() < right else (truth + 1) % len(classes)
            p = rng.random(len(classes)) * 0.2
            p[guess] += 1.0 + rng.random()
            p /= p.sum()
            guessed = classes[int(p.argmax())]
            table.writerow([sample.path, sample.label, guessed, *(f"{value:.6g}" for value in p)])


def backbone() -> dict[str, Any]:
    """A network of four stages, as a study keeps it."""
    stages = [
        {"name": name, "shape": [8 * 2**n, 16, 16], "parameters": 900 * 4**n, "compute_share": 0.25}
        for n, name in enumerate(STAGES)
    ]
    stages[-1]["shape"] = [1000]
    cuts = [{"index": n, "name": name, "verified": True} for n, name in enumerate(STAGES)]
    return {"model": "lite0", "stages": stages, "cuts": cuts, "notes": []}


def write_run(
    place: Path,
    strategy: str,
    data: Manifest,
    *,
    seed: int = 0,
    finished: bool = True,
    keep: str = "best",
    val: Sequence[Sample] = (),
    right: float | None = None,
) -> Path:
    """Write one run's folder under `place`/runs; returns it."""
    classes, plan = list(data.classes), parse(strategy)
    config = {
        "strategy": str(plan),
        "model": "lite0",
        "preprocessing": {"size": 96},
        "classes": classes,
        "seed": seed,
        "metric": "accuracy",
        "augment": "standard",
        "batch_size": 32,
        **({} if keep == "best" else {"keep": keep}),
    }
    folder = place / "runs" / digest_of(config)[:12]
    write(folder / "config.json", config)
    write(
        folder / "environment.json",
        {"python": "3.12", "system": "Linux", "machine": "x86_64", "packages": {}},
    )
    write(folder / "backbone.json", backbone())
    images, rate = len(data.subset("train")), REACHED.get(strategy, 0.8) if right is None else right
    parts = schedule(plan, stages=len(STAGES), images=images, batch=32)
    epochs = [(n, e, part) for n, part in enumerate(parts) for e in range(part.epochs)]
    lines = [
        {
            "phase": n,
            "epoch": e,
            "cut": STAGES[part.cut],
            "lr": part.lr / 2,
            "peak_lr": part.lr,
            "loss": 2.0 / (at + 1),
            "seconds": 0.1,
            "val_accuracy": rate * (at + 1) / len(epochs),
            "val_loss": 2.2 / (at + 1),
        }
        for at, (n, e, part) in enumerate(epochs)
    ]
    if not finished:
        lines = lines[: len(lines) // 2]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not finished:
        return folder
    test = data.subset("test")
    if val:
        write_answers(folder / "predictions-val.csv", classes, val, rate, seed)
    if test:
        write_answers(folder / "predictions-test.csv", classes, test, rate, seed)
    result = {
        "strategy": str(plan),
        "model": "lite0",
        "val_accuracy": rate if val else None,
        "val_goodness": rate if val else None,
        "accuracy": rate if test else None,
        "low": rate - 0.05 if test else None,
        "high": min(1.0, rate + 0.04) if test else None,
        "n_train": images,
        "n_val": len(val),
        "n_test": len(test),
        "seconds": 2.0 + 10.0 * len(parts),
        "peak_memory_bytes": 4e8,
        "trainable_parameters": 12345,
        "cut": STAGES[min((part.cut for part in parts), default=3)],
        "steps": sum(part.steps for part in parts),
        "augment": "standard",
        "flip": "none",
        "stopped": None,
    }
    write(folder / "result.json", result)
    return folder


def begin(place: Path, classes: Sequence[str] = PLAIN, *, per_class: int = 20, test: int = 6) -> Manifest:
    """Write a study's card and manifest; returns the manifest."""
    names = tuple(sorted(classes))
    gone = SkippedImage("0/broken<b>.png", names[0], "is empty (0 bytes)")
    data = Manifest(Path("/somewhere/photos"), samples(names, per_class, test=test), names, skipped=(gone,))
    card = {"format": FORMAT, "data": data.digest, "split": data.split_digest, "test": data.test_digest}
    write(place / "study.json", card)
    data.write(place / "manifest.jsonl")
    return data


def trained(place: Path, classes: Sequence[str] = PLAIN) -> Path:
    """A study of runs that were trained one by one."""
    data = begin(place, classes)
    for strategy in TRIED:
        write_run(place, strategy, data)
    return place


def compared(
    place: Path, classes: Sequence[str] = PLAIN, *, finished: bool = True, cuts: bool = False
) -> Path:
    """A study of a comparison: two folds, one of the candidates left out early."""
    data = begin(place, classes, test=0)
    write(place / "backbone.json", backbone())
    folder = place / "comparisons" / "abc"
    write(folder / "plan.json", {"schedule": {"candidates": len(TRIED), "folds": 2}})
    held = [data.samples[0::2], data.samples[1::2]]
    standings = []
    for strategy in TRIED:
        short = strategy == "full" and not cuts
        share, trials = 0.25 if short else 1.0, []
        for fold, mine in enumerate(held):
            cell = place / "splits" / f"fold{fold}"
            written = str(scaled(parse(strategy), share, len(data.samples)))
            run = write_run(cell, written, data, keep="last", val=mine, seed=fold, right=REACHED[strategy])
            trials.append(run.relative_to(place).as_posix())
            if not finished:
                number = TRIED.index(strategy)
                TrialRecord(number, strategy, "standard", "", share, 0, fold, trials[-1]).write(folder)
        if not finished:
            continue
        standings.append(
            {
                "strategy": strategy,
                "augment": "standard",
                "candidate": len(standings),
                "winner": strategy == WINNER,
                "runs": 2,
                "trials": trials,
                "share": share,
                "repeats": 0 if short else 1,
                "score": REACHED[strategy],
                "accuracy": REACHED[strategy],
                "low": REACHED[strategy] - 0.06,
                "high": REACHED[strategy] + 0.05,
                "seconds": 30.0,
                "run_seconds": 3.0 + 10 * TRIED.index(strategy),
                "predicted_seconds": 4.0 + 9 * TRIED.index(strategy),
            }
        )
    if not finished:
        write_run(place / "splits" / "fold2", "full", data, keep="last", finished=False)
        return place
    final = write_run(place / "splits" / "everything", WINNER, data)
    write_answers(folder / "out-of-fold.csv", data.classes, data.samples, 0.85)
    write_looks(folder, data)
    run = final.relative_to(place).as_posix()
    write(place / "answer.json", {"run": run, "why": "the winner of the comparison"})
    result = {
        "winner": WINNER,
        "augment": "standard",
        "separated": False,
        "finished": True,
        "cuts": cuts,
        "repeats": 1,
        "folds": 2,
        "metric": "accuracy",
        "standings": sorted(standings, key=lambda row: -row["accuracy"]),
        "differences": [],
        "strategies_tried": len(standings),
        "runs": sum(row["runs"] for row in standings),
        "out_of_fold": {"accuracy": 0.91, "low": 0.85, "high": 0.96, "optimism": 0.01, "temperature": 1.0},
        "headline": {
            "accuracy": 0.91,
            "low": 0.85,
            "high": 0.96,
            "basis": "out of fold",
            "images": len(data.samples),
            "pool": len(data.samples),
            "folds": 2,
            "optimism": 0.01,
            "test_evaluations": None,
        },
        "accuracy": None,
        "low": None,
        "high": None,
        "seconds": 200.0,
        "budget_seconds": 300.0,
        "model": "lite0",
        "run": run,
        "verdict": [f"{WINNER} wins over 1 repeat, significantly better than every other repeated strategy."],
    }
    write(folder / "comparison.json", result)
    return place


def write_looks(folder: Path, data: Manifest) -> None:
    """Leave a picture and a map for each image."""
    (folder / "error-gallery").mkdir(parents=True)
    rows = []
    for sample in data.samples:
        name = sample.digest[:16]
        for suffix, colour in (("", (40, 90, 140)), ("-map", (220, 120, 40))):
            Image.new("RGB", (32, 32), colour).save(folder / "error-gallery" / f"{name}{suffix}.jpg")
        rows.append({"path": sample.path, "picture": f"{name}.jpg", "map": f"{name}-map.jpg"})
    write(folder / "error-gallery.json", {"note": "", "rows": rows})


def fitted(place: Path, classes: Sequence[str] = PLAIN) -> Path:
    """A study of a whole `fit`."""
    compared(place, classes)
    probes = [
        {
            "stage": name,
            "width": 8,
            "accuracy": 0.5 + 0.1 * n,
            "low": 0.4 + 0.1 * n,
            "high": 0.6 + 0.1 * n,
            "random": 0.4,
            "log_me": 0.1,
            "h_score": 1.0,
            "neighbours": 0.5,
        }
        for n, name in enumerate(STAGES[:3])
    ]
    write(
        place / "signals.json",
        {
            "model": "lite0",
            "input_size": 96,
            "size": {"resolution": [64, 48]},
            "similarity": {
                "value": 0.2,
                "low": 0.18,
                "high": 0.22,
                "by_stage": {name: 0.1 * n for n, name in enumerate(STAGES[:3])},
                "proven": True,
            },
            "probe_by_stage": probes,
            "learning_curve": [
                {"images": n, "accuracy": 0.5 + n / 200, "low": 0.4 + n / 200, "high": 0.6 + n / 200}
                for n in (15, 30, 60)
            ],
        },
    )
    options = [
        {
            "strategy": name,
            "expected_accuracy": REACHED[name] - 0.02,
            "low": REACHED[name] - 0.2,
            "high": min(1.0, REACHED[name] + 0.1),
            "seconds": 10.0,
        }
        for name in TRIED
    ]
    write(
        place / "advice.json",
        {
            "recommended": "gradual_unfreeze",
            "why": ["It is expected to reach 90 %."],
            "would_change": ["With 4 × the images: full."],
            "notes": [],
            "options": options,
        },
    )
    run = json.loads((place / "answer.json").read_text())["run"]
    call_options = {"model": "lite0", "size": 96, "minutes": 5.0, "repeats": 1, "seed": 3, "strategies": None}
    headline = json.loads(next(place.glob("comparisons/*/comparison.json")).read_text())["headline"]
    forecast = {"strategy": "lp_ft", "expected": 0.8, "expected_low": 0.7, "expected_high": 0.85}
    forecast |= {"measured": 0.91, "measured_low": 0.8, "measured_high": 0.97}
    made = {"run": run, "seconds": 250.0, "accuracy": 0.91, "headline": headline, "options": call_options}
    write(place / "fit.json", {**made, "forecast": forecast})
    return place


def settings_of(strategy: str) -> Any:
    """The settings with every default, for a test of rates."""
    return hyperparameters(parse(strategy))
