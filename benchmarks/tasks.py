"""What advice knows, broadly: hundreds of small tasks drawn from image sets, a line each.

    python benchmarks/tasks.py DATA_DIR --out FOLDER             # goes on where it was interrupted
    python benchmarks/tasks.py DATA_DIR --out FOLDER --share 1/2  # two processes halve the tasks
    python benchmarks/tasks.py --out FOLDER --summary

DATA_DIR holds NAME.csv files of `path,label,group`. Task N is drawn by `recipe(N)`, whatever ran before it:
an image set (every eight tasks have each set once), a network, some of its classes, images a class (even or
not), a size, and for about half of the tasks a corruption: grey, blurred, labels merged, or wrong labels.
Groups are kept apart; the test set is what remains, at most 400 images, and each class weighs in the accuracy
as it does among the images learned from: so it would in a test set that was drawn with them. `n_test` is how
many images of such a set would say as much. A finished task is appended to `tasks.jsonl` in `--out`: its
recipe, what `measure` says of its training images, and [accuracy, val accuracy, seconds] of each
configuration. `seconds` are the processor's, of one thread, `measure` first, so that all configurations find
its features cached. Without `--out` it goes on with the tasks that the package has as experience.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from draws import Row, held_groups, own_store
from experience import OUT, _rounded, append, backbone_of, read
from frostline.advice.knowledge import PROBED

RECIPE = 2  # raised when a number gives another task
CONFIGURATIONS = (
    "linear_probe",
    "linear_probe(layers=last)",
    "top_k(1, epochs=1)",  # the short run
    "top_k(1)",
    "top_k(3)",
    "lp_ft",
    "lp_ft(lr=0.0003)",
    "lp_ft(refit_layers=4)",
    "gradual_unfreeze",
    "full",
)
SETS = (
    "clothing10",
    "trashnet6",
    "clipart12",
    "emoji9",
    "sign_digits",
    "fashion_mnist10",
    "spoken_digit_spectrograms10",
    "omniglot40",
)
MODELS = {
    "tf_efficientnet_lite0": 0.7,
    "tf_efficientnet_lite1": 0.07,
    "tf_efficientnet_lite2": 0.05,
    "squeezenet1_1": 0.18,
}
SIZES = {32: 0.2, 48: 0.4, 64: 0.3, 96: 0.1}
CORRUPTIONS = {"": 0.5, "grey": 0.125, "blur": 0.125, "merged": 0.125, "noise": 0.125}
FEWEST_CLASSES, MOST_CLASSES = 2, 40
FEWEST_IMAGES, USUAL_IMAGES, MOST_IMAGES = 5, 100, 200  # a class
# Of all training images, what keeps a run at seconds; half of it for networks that are slower.
MOST_PIXELS, SLOWER = 100 * 64**2, ("tf_efficientnet_lite1", "tf_efficientnet_lite2")
UNEVEN = 0.25  # share of tasks; a class then keeps a share of its images, log-uniform from
LEAST_SHARE = 0.2
TEST = 400


def recipe(number: int, images: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Draw task `number`; `images` says how many each class of each set has, sorted by class."""
    block = np.random.default_rng((RECIPE, number // len(SETS))).permutation(len(SETS))
    name = SETS[block[number % len(SETS)]]
    rng = np.random.default_rng((RECIPE, number, 1))
    model = str(_pick(rng, MODELS))
    corruption = str(_pick(rng, CORRUPTIONS))
    available = list(images[name].values())
    most = min(MOST_CLASSES, len(available))
    pixels = MOST_PIXELS // 2 if model in SLOWER else MOST_PIXELS
    while True:  # until it is cheap enough
        # Few classes are the commonest: log-uniform.
        count = round(float(np.exp(rng.uniform(np.log(FEWEST_CLASSES), np.log(most)))))
        size = int(_pick(rng, SIZES))
        limit = MOST_IMAGES if rng.random() < 0.1 else USUAL_IMAGES
        per_class = round(float(np.exp(rng.uniform(np.log(FEWEST_IMAGES), np.log(limit)))))
        chosen = sorted(rng.choice(len(available), count, replace=False).tolist())
        shares = np.ones(count)
        if rng.random() < UNEVEN:
            shares = np.exp(rng.uniform(np.log(LEAST_SHARE), 0, count))
        # Half of a class stays for testing.
        halves = [available[index] // 2 for index in chosen]
        counts = [
            min(half, max(2, round(per_class * float(share))))
            for half, share in zip(halves, shares, strict=True)
        ]
        if sum(counts) * size**2 <= pixels and (corruption != "merged" or count >= 2 * FEWEST_CLASSES):
            break
    noise = round(float(rng.uniform(0.1, 0.2)), 3) if corruption == "noise" else 0.0
    blur = round(float(rng.uniform(0.01, 0.03)), 4) if corruption == "blur" else 0.0  # of the longer side
    merged = np.arange(count)
    if corruption == "merged":
        merged[rng.permutation(count)] = np.arange(count) % (count // 2)
    return {
        "task": number,
        "recipe": RECIPE,
        "set": name,
        "model": model,
        "size": size,
        "per_class": per_class,
        "classes": chosen,
        "counts": counts,
        "corruption": corruption,
        "noise": noise,
        "blur": blur,
        "merged": merged.tolist() if corruption == "merged" else [],
    }


def _pick(rng: np.random.Generator, shares: dict[Any, float]) -> Any:
    names = list(shares)
    return names[int(rng.choice(len(names), p=np.array(list(shares.values()))))]


def rows_of(task: dict[str, Any], table: Path, folder: Path) -> list[Row]:
    """Draw the images of a task: rows (path, label, split, group), corrupted ones written to `folder`."""
    with open(table, newline="", encoding="utf-8") as file:
        everything = list(csv.DictReader(file))
    names = sorted({row["label"] for row in everything})
    wanted = [names[index] for index in task["classes"]]
    rows = [row for row in everything if row["label"] in wanted]
    rng = np.random.default_rng((task["recipe"], task["task"], 2))
    held = held_groups(rows, rng)
    train: list[Row] = []
    left: list[list[Row]] = []  # of each class
    learned: list[int] = []
    names = [f"group{group}" for group in task["merged"]] or wanted
    for said, label, count in zip(names, wanted, task["counts"], strict=True):
        mine = [row for row in rows if row["label"] == label]
        mine = [mine[i] for i in rng.permutation(len(mine))]
        learn = [r for r in mine if r["group"] not in held][:count]
        used = {r["path"] for r in learn}
        rest = [r for r in mine if (r["group"] in held or not r["group"]) and r["path"] not in used]
        train += [(str(table.parent / r["path"]), said, "train", r["group"]) for r in learn]
        left.append([(str(table.parent / r["path"]), said, "test", r["group"]) for r in rest])
        learned.append(len(learn))
    for group in set(task["merged"]):  # its classes as often beside each other as among those learned from
        members = [i for i, number in enumerate(task["merged"]) if number == group]
        most = min(len(left[i]) / max(1, learned[i]) for i in members)
        for i in members:
            left[i] = left[i][: max(1, round(most * learned[i]))]
    tests = list(itertools.chain.from_iterable(left))
    tests = [tests[i] for i in sorted(rng.permutation(len(tests))[:TEST].tolist())]
    if task["noise"]:
        labels = sorted({row[1] for row in train})
        for drawn in (train, tests):
            for i in np.flatnonzero(rng.random(len(drawn)) < task["noise"]).tolist():
                others = [label for label in labels if label != drawn[i][1]]
                drawn[i] = (drawn[i][0], others[int(rng.integers(len(others)))], *drawn[i][2:])
    return [_changed(row, task, folder) for row in (*train, *tests)]


def _changed(row: Row, task: dict[str, Any], folder: Path) -> Row:
    """Write a grey or blurred copy of the image, and return its row."""
    if task["corruption"] not in ("grey", "blur"):
        return row
    with Image.open(row[0]) as opened:
        image = opened.convert("RGB")
    if task["corruption"] == "grey":
        image = image.convert("L").convert("RGB")
    else:
        image = image.filter(ImageFilter.GaussianBlur(task["blur"] * max(image.size)))
    file = folder / f"{Path(row[0]).parent.name}-{Path(row[0]).stem}.png"
    image.save(file)
    return (str(file), *row[1:])


def run_task(task: dict[str, Any], data: Path, configurations: Sequence[str]) -> dict[str, Any]:
    """Measure and train one task; everything it writes is deleted after."""
    import frostline
    from frostline.diagnostics import measure
    from frostline.feature_cache import FeatureCache

    number = task["task"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sheet = folder / "draw.csv"
        with open(sheet, "w", newline="", encoding="utf-8") as file:
            rows = rows_of(task, data / f"{task['set']}.csv", folder)
            csv.writer(file).writerows([("path", "label", "split", "group"), *rows])
        manifest = frostline.load_data(sheet, seed=number)
        learned = [s.label for name in ("train", "val") for s in manifest.subset(name)]
        short = task["model"].removeprefix("tf_efficientnet_")
        backbone = (
            backbone_of(short, task["size"], data)
            if short == "squeezenet1_1"
            else frostline.load_backbone(short, size=task["size"])
        )
        cache = FeatureCache(folder / "rows")
        began = time.process_time()
        signals = measure(
            backbone, manifest, random=False, rates=False, threads=1, feature_cache=cache
        ).as_dict()
        row = {**task, "n_train": 0, "n_val": 0, "n_test": 0}
        row["signals"] = _compact(signals) | {"seconds": round(time.process_time() - began, 2)}
        row["runs"] = {}
        for strategy in configurations:
            began = time.process_time()
            run = frostline.train(
                backbone,
                manifest,
                strategy,
                study=folder / "study",
                seed=number,
                threads=1,
                feature_cache=cache,
            )
            seconds = round(time.process_time() - began, 2)
            accuracy, tests = as_learned(run.per_class or {}, Counter(learned))
            row |= {"n_train": run.n_train, "n_val": run.n_val, "n_test": tests}
            row["runs"][strategy] = [*map(_rounded, (accuracy, run.val_accuracy)), seconds]
            if strategy.startswith("linear_probe"):
                row["signals"].setdefault("out_of_fold", {})[strategy] = _rounded(run.cv_score)
    return row


def as_learned(per_class: Mapping[str, Mapping[str, Any]], learned: Mapping[str, int]) -> tuple[float, int]:
    """Return accuracy where classes have the shares of the images learned from, and images that say as much.

    `per_class` holds recall and images of each class in the test set; a class without test images has no say.
    """
    tested = {name: row for name, row in per_class.items() if row["images"] and learned[name]}
    total = sum(learned[name] for name in tested)
    shares = {name: learned[name] / total for name in tested}
    accuracy = sum(share * tested[name]["recall"] for name, share in shares.items())
    return accuracy, round(1 / sum(share**2 / tested[name]["images"] for name, share in shares.items()))


def _compact(signals: dict[str, Any]) -> dict[str, Any]:
    """Keep of the signals what advice may need, in little room; a list has a value a stage."""
    stages = signals["probe_by_stage"]
    similarity, confidence = signals["similarity"], signals["confidence"]
    return {
        "n_classes": signals["n_classes"],
        "n_measured": signals["n_measured"],
        "fewest": signals["size"]["per_class"][0],
        "most": signals["size"]["per_class"][-1],
        "similarity": None if similarity is None else _rounded(similarity["value"]),
        "proven": None if similarity is None else similarity["proven"],
        "confidence": None if confidence is None else _rounded(confidence["value"]),
        "linear_probe": [_rounded(signals["linear_probe"][key]) for key in PROBED],
        "probes": [_rounded(probe["accuracy"]) for probe in stages],
        "neighbours": [_rounded(probe["neighbours"]) for probe in stages],
        "log_me": [_rounded(probe["log_me"]) for probe in stages],
        "h_score": [_rounded(probe["h_score"]) for probe in stages],
        "curve": [[point["images"], _rounded(point["accuracy"])] for point in signals["learning_curve"]],
    }


def work(arguments: argparse.Namespace) -> None:
    """Run task after task of this process's share, until `--until`."""
    share, of = (int(word) for word in arguments.share.split("/"))
    path = arguments.out / "tasks.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = {}
    for name in SETS:
        with open(arguments.data / f"{name}.csv", newline="", encoding="utf-8") as file:
            images[name] = dict(sorted(Counter(row["label"] for row in csv.DictReader(file)).items()))
    for number in itertools.takewhile(lambda n: n < arguments.until, itertools.count(share - 1, of)):
        if number in _done(path):
            continue
        began = time.process_time()
        task = recipe(number, images)
        row = run_task(task, arguments.data, CONFIGURATIONS)
        if number in _done(path):  # by another process, which was given the same share
            continue
        append(path, row)
        accuracies = {name: values[0] for name, values in row["runs"].items()}
        print(
            number,
            *(task[key] for key in ("set", "model", "size", "corruption")),
            f"{row['n_train']} images of {row['signals']['n_classes']} classes,",
            f"{time.process_time() - began:.0f} s,",
            accuracies,
            file=sys.stderr,
            flush=True,
        )


def _done(path: Path) -> set[int]:
    return {row["task"] for row in read(path) if row["recipe"] == RECIPE}


def summarise(path: Path) -> str:
    """Return a Markdown table: mean test accuracy of each configuration on each set."""
    rows = read(path)
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    lines = ["| strategy | " + " | ".join(names) + " | mean |", "|---|" + "---|" * (len(names) + 1)]
    for strategy in CONFIGURATIONS:
        means = [
            100 * statistics.mean(row["runs"][strategy][0] for row in rows if row["set"] == name)
            for name in names
        ]
        lines.append(
            f"| `{strategy}` | " + " | ".join(f"{m:.1f}" for m in means) + f" | {np.mean(means):.1f} |"
        )
    counts = [sum(row["set"] == name for row in rows) for name in names]
    return "\n".join([*lines, "| tasks | " + " | ".join(map(str, counts)) + f" | {sum(counts)} |"])


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--share", default="1/1", metavar="K/N")
    parser.add_argument("--until", type=int, default=800, help="tasks in all")
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    print(summarise(arguments.out / "tasks.jsonl"))


if __name__ == "__main__":
    main()
