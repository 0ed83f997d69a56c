"""Every recipe that has a name, against the plain strategy on the same draw.

    python benchmarks/recipes.py DATA_DIR --out recipes.jsonl                       # the screening
    python benchmarks/recipes.py DATA_DIR --out recipes.jsonl --per-class 8 40 --seeds 0 1 2 \
        --recipes plain mixup ema                                                   # the best, on everything
    python benchmarks/recipes.py --summary recipes.jsonl

DATA_DIR holds NAME.csv files of `path,label,group`. For each set, seed and number of images a class (train
and val), one table of train and test images is drawn, groups kept apart; every recipe learns from it and is
scored on its test images. A recipe changes one thing of `lp_ft` or `top_k(3)`. Views at prediction change
nothing in training: these rows are the plain run's, asked again. The summary gives the mean difference to the
plain strategy over the sets, seeds averaged within a set first, with a t interval over the sets. Rows that
are in the results already are skipped, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from draws import SIX_SETS, draw_table

BASES = ("lp_ft", "top_k(3)")
PLAIN = "plain"


@dataclass(frozen=True)
class Recipe:
    """What is changed: settings of the strategy, options of `train`, or views at prediction."""

    settings: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    tta: str = "none"

    def strategy(self, base: str, epochs: float | None) -> str:
        """Return the base with the settings in its brackets."""
        name, _, inside = base.rstrip(")").partition("(")
        extra = None if epochs is None else f"epochs={epochs:g}"
        parts = [part for part in (inside, self.settings, extra) if part]
        return f"{name}({', '.join(parts)})" if parts else name


# Rates beside AdamW's 1e-3: Lion a fifth, with five times the decay (Chen et al., arXiv 2302.06675, advise 3
# to 10); SGD with momentum twenty times (a choice); LAMB five times (You et al., arXiv 1904.00962, scale each
# layer's step by its weights). One rate each: a screening, not a search.
RECIPES = {
    PLAIN: Recipe(),
    "randaugment": Recipe(options={"augment": "randaugment"}),
    "strong": Recipe(options={"augment": "strong"}),
    "mixup": Recipe("mixup=0.2"),
    "cutmix": Recipe("cutmix=1"),
    "mixup+cutmix": Recipe("mixup=0.2, cutmix=1"),
    "ema": Recipe("ema=0.99"),
    "ema 0.999": Recipe("ema=0.999"),
    "lion": Recipe("optimizer=lion, lr=0.0002, weight_decay=0.05"),
    "sgd": Recipe("optimizer=sgd, lr=0.02"),
    "lamb": Recipe("optimizer=lamb, lr=0.005"),
    "nadamw": Recipe("optimizer=nadamw"),
    "adan": Recipe("optimizer=adan"),
    "linear": Recipe("schedule=linear"),
    "step": Recipe("schedule=step"),
    "one_cycle": Recipe("schedule=one_cycle"),
    "constant": Recipe("schedule=constant"),
    "refit": Recipe("refit_layers=4"),
    "refit+ema": Recipe("refit_layers=4, ema=0.99"),
    "flip": Recipe(tta="flip"),
    "five_crop": Recipe(tta="five_crop"),
    "ten_crop": Recipe(tta="ten_crop"),
    "refit+ema+five_crop": Recipe("refit_layers=4, ema=0.99", tta="five_crop"),
}
KEY = ("size", "epochs", "set", "per_class", "seed", "base", "recipe")


def rows_of(
    table: Path,
    per_class: int,
    seed: int,
    base: str,
    names: list[str],
    size: int,
    epochs: float | None,
    test_per_class: int,
) -> dict[str, dict[str, Any]]:
    """Return a row for each recipe, all of one draw; the recipes train alike, so one run answers for all."""
    import frostline

    rows: dict[str, dict[str, Any]] = {}
    recipe = RECIPES[names[0]]
    with tempfile.TemporaryDirectory() as scratch:
        sheet = draw_table(table, per_class, seed, True, Path(scratch), test_per_class=test_per_class)
        data = frostline.load_data(sheet, seed=seed, val_size=0.2)
        backbone = frostline.load_backbone("lite0", size=size)
        # One numeric plan for all: by rounding alone (bfloat16 or float32, one thread or two) the same run
        # with the same seed answered 61 to 69 % of trashnet6's test images at 64 px.
        run = frostline.train(
            backbone,
            data,
            recipe.strategy(base, epochs),
            study=Path(scratch) / "study",
            seed=seed,
            threads=1,
            precision="float32",
            **recipe.options,
        )
        result = run.result
        row = {key: result[key] for key in ("accuracy", "val_accuracy", "n_train", "n_test", "seconds")}
        for name in names:
            rows[name] = {**row, "strategy": result["strategy"]}
            if RECIPES[name].tta != "none":
                accuracy = frostline.evaluate(run, data, tta=RECIPES[name].tta).figures.accuracy
                rows[name] |= {"accuracy": accuracy.value, "val_accuracy": None}
    return rows


def summarise(path: Path) -> str:
    """Return a Markdown table for each base and number of images a class: differences in points."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = []
    for size, epochs, per_class, base in dict.fromkeys(
        (row["size"], row["epochs"], row["per_class"], row["base"]) for row in rows
    ):
        mine = [
            r
            for r in rows
            if (r["size"], r["epochs"], r["per_class"], r["base"]) == (size, epochs, per_class, base)
        ]
        sets = sorted({row["set"] for row in mine})
        length = "" if epochs is None else f", {epochs:g} epochs"
        lines += [f"\n{base}, {per_class} a class, {size} px{length}\n"]
        lines.append("| recipe | mean difference (95 %) | time | " + " | ".join(sets) + " |")
        lines.append("|---|---|---|" + "---|" * len(sets))
        plain = {(r["set"], r["seed"]): r for r in mine if r["recipe"] == PLAIN}
        for name in dict.fromkeys(r["recipe"] for r in mine if r["recipe"] != PLAIN):
            lines.append(_line(name, [r for r in mine if r["recipe"] == name], plain, sets))
    return "\n".join(lines)


def _line(
    name: str, rows: list[dict[str, Any]], plain: dict[tuple[str, int], dict[str, Any]], sets: list[str]
) -> str:
    points: dict[str, list[float]] = defaultdict(list)
    times: list[float] = []
    for row in rows:
        other = plain.get((row["set"], row["seed"]))
        if other is not None:
            points[row["set"]].append(100 * (row["accuracy"] - other["accuracy"]))
            times.append(row["seconds"] / other["seconds"])
    means = {key: statistics.mean(values) for key, values in points.items()}
    cells = [f"{means[key]:+.1f}" if key in means else "" for key in sets]
    time = f"{statistics.median(times):.2f} ×" if times and RECIPES[name].tta == "none" else ""
    return f"| {name} | {_interval(list(means.values()))} | {time} | " + " | ".join(cells) + " |"


def _interval(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f} (one set)"
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--sets", nargs="*", default=list(SIX_SETS))
    parser.add_argument("--per-class", nargs="*", type=int, default=[40])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--bases", nargs="*", default=list(BASES))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=float, help="of each run, for a trial [as the strategy has it]")
    parser.add_argument("--test-per-class", type=int, default=80)
    arguments = parser.parse_args()
    if arguments.summary:
        print(summarise(arguments.summary))
        return
    names = list(dict.fromkeys([PLAIN, *arguments.recipes]))
    done = _done(arguments.out)
    for per_class in arguments.per_class:
        for seed in arguments.seeds:
            for name in arguments.sets:
                for base in arguments.bases:
                    place = (arguments.size, arguments.epochs, name, per_class, seed, base)
                    missing = [recipe for recipe in names if (*place, recipe) not in done]
                    for recipes in _shares(missing):
                        results = rows_of(
                            arguments.data / f"{name}.csv",
                            per_class,
                            seed,
                            base,
                            recipes,
                            arguments.size,
                            arguments.epochs,
                            arguments.test_per_class,
                        )
                        _append(arguments.out, place, results)
    print(summarise(arguments.out))


def _shares(names: list[str]) -> list[list[str]]:
    """Return which recipes are of one run: those that differ in views at prediction alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(f"{RECIPES[name].settings} {RECIPES[name].options}", []).append(name)
    return list(alike.values())


def _append(path: Path, place: tuple[Any, ...], results: dict[str, dict[str, Any]]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        for recipe, row in results.items():
            file.write(json.dumps({**dict(zip(KEY, (*place, recipe), strict=True)), **row}) + "\n")
            print(*place[2:], recipe, f"{row['accuracy']:.3f}", f"{row['seconds']:.1f} s", file=sys.stderr)


def _done(path: Path) -> set[tuple[Any, ...]]:
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {tuple(row[key] for key in KEY) for row in rows}


if __name__ == "__main__":
    main()
