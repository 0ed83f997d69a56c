"""Which backbone: the best out-of-fold probe beside the largest, the best on ImageNet, and LogME.

    python benchmarks/models.py DATA_DIR --out FOLDER                # goes on where it was interrupted
    python benchmarks/models.py DATA_DIR --out FOLDER --kinds truth  # or `screen`: one half of the work
    python benchmarks/models.py --out FOLDER --summary

DATA_DIR holds NAME.csv files of `path,label,group`; SqueezeNet's weights lie beside it. Each draw takes 20
training images of each class, groups kept apart, and up to 1,000 others to test on. The truth is the test
accuracy of every network after `top_k(3)` and after a linear probe. A policy's regret is what the network
that it picks lacks to the best of the four, in points. The test set is seen by no policy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from draws import SIX_SETS, draw_table, own_store
from experience import append, backbone_of, read

PER_CLASS, TEST, SIZE, SEEDS = 20, 1000, 96, (0, 1)
STRATEGIES = ("top_k(3)", "linear_probe")
# Published ImageNet top-1 of the weights used: TensorFlow's EfficientNet-Lite page and torchvision's.
IMAGENET = {"lite0": 75.1, "lite1": 76.7, "lite2": 77.6, "squeezenet1_1": 58.2}
DRAWS = 10_000  # of the image sets

Row = dict[str, Any]
Case = tuple[str, int]  # set, seed
OURS = "best out-of-fold probe (ours)"
POLICIES: dict[str, Callable[[Row], float]] = {  # the network of which this is highest is picked
    OURS: lambda row: row["probe_accuracy"],
    "always the largest": lambda row: row["parameters"],
    "always the best on ImageNet": lambda row: IMAGENET[row["model"]],
    "LogME": lambda row: row["logme"],
    "any of them (mean)": lambda row: 0.0,
}


def network(model: str, data: Path) -> Any:
    """Load a network at the size of the benchmark."""
    import frostline

    if model == "squeezenet1_1":
        return backbone_of(model, SIZE, data)
    return frostline.load_backbone(model, size=SIZE)


def truth(backbones: Mapping[str, Any], case: Case, data: Path, out: Path) -> None:
    """Train and test every network on one draw, where that is missing."""
    import frostline

    done = {(row["set"], row["seed"], row["model"], row["strategy"]) for row in read(out / "truth.jsonl")}
    missing = [(m, s) for m in backbones for s in STRATEGIES if (*case, m, s) not in done]
    with tempfile.TemporaryDirectory() as folder:
        manifest = _draw(case, data, Path(folder)) if missing else None
        for model, strategy in missing:
            study = Path(folder) / "study"
            run = frostline.train(
                backbones[model], manifest, strategy, study=study, seed=case[1], threads=1, keep="last"
            )
            row = {"set": case[0], "seed": case[1], "model": model, "strategy": strategy}
            row |= {key: run.result[key] for key in ("accuracy", "n_train", "n_test", "seconds")}
            append(out / "truth.jsonl", row)
            print(*row.values(), file=sys.stderr, flush=True)


def screened(backbones: Mapping[str, Any], case: Case, data: Path, out: Path) -> None:
    """Look at every network on one draw's training images, as `fit --models` does, where that is missing."""
    from frostline.selection.backbone_screening import Limits, screen

    done = {(row["set"], row["seed"]) for row in read(out / "screen.jsonl")}
    if case in done:
        return
    with tempfile.TemporaryDirectory() as folder:
        manifest = _draw(case, data, Path(folder))
        screening = screen(list(backbones.values()), manifest, Limits(), seed=case[1], threads=1)
    for model, backbone in backbones.items():
        looked = next(one for one in screening if one.model == backbone.name)
        parameters = sum(p.numel() for p in backbone.model.parameters())
        row = {"set": case[0], "seed": case[1], **looked.as_dict(), "model": model, "parameters": parameters}
        append(out / "screen.jsonl", row)
        print(*row.values(), file=sys.stderr, flush=True)


def _draw(case: Case, data: Path, scratch: Path) -> Any:
    import frostline

    name, seed = case
    sheet = draw_table(data / f"{name}.csv", PER_CLASS, seed, True, scratch, test_per_class=None, test=TEST)
    return frostline.load_data(sheet, seed=seed, val_size=0.0)


def work(arguments: argparse.Namespace) -> None:
    """Do what is missing, draw by draw."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    backbones = {model: network(model, arguments.data) for model in IMAGENET}
    for seed in SEEDS:
        for name in SIX_SETS:
            for kind in arguments.kinds:
                {"truth": truth, "screen": screened}[kind](
                    backbones, (name, seed), arguments.data, arguments.out
                )


def regrets(strategy: str, out: Path) -> tuple[dict[str, dict[Case, float]], dict[str, list[str]]]:
    """Return each policy's regret by case (points), and what it picked."""
    reached, rows = _read(strategy, out)
    lost: dict[str, dict[Case, float]] = {policy: {} for policy in POLICIES}
    picks: dict[str, list[str]] = {policy: [] for policy in POLICIES}
    for case in rows:
        for policy, value in POLICIES.items():
            top = max(map(value, rows[case]))
            mine = [row["model"] for row in rows[case] if value(row) == top]
            lost[policy][case] = max(reached[case].values()) - statistics.mean(reached[case][m] for m in mine)
            picks[policy] += mine if len(mine) == 1 else []
    return lost, picks


def _read(strategy: str, out: Path) -> tuple[dict[Case, dict[str, float]], dict[Case, list[Row]]]:
    """Return what every network reached (%), and what was found of it, by draws that are complete."""
    reached: dict[Case, dict[str, float]] = defaultdict(dict)
    for row in read(out / "truth.jsonl"):
        if row["strategy"] == strategy:
            reached[row["set"], row["seed"]][row["model"]] = 100 * row["accuracy"]
    rows: dict[Case, list[Row]] = defaultdict(list)
    for row in read(out / "screen.jsonl"):
        rows[row["set"], row["seed"]].append(row)
    return reached, {case: mine for case, mine in rows.items() if len(reached[case]) == len(IMAGENET)}


def summarise(out: Path) -> str:
    """Return a Markdown table a strategy, and how often the best network was still in the race."""
    lines: list[str] = []
    for strategy in STRATEGIES:
        found, picks = regrets(strategy, out)
        cases = found[OURS]
        sets = sorted({name for name, _ in cases})
        lines += [
            f"\nTruth: test accuracy after `{strategy}`; {len(sets)} sets, {len(cases)} draws\n",
            "| policy | picks | mean regret | worst | more than ours (95 % over sets) | |",
            "|---|---|---|---|---|---|",
        ]
        for policy, mine in found.items():
            counts = {model: picks[policy].count(model) for model in IMAGENET if model in picks[policy]}
            picked = ", ".join(f"{model} {n}" for model, n in counts.items())
            row = f"| {policy} | {picked} | {statistics.mean(mine.values()):.1f} | {max(mine.values()):.1f} |"
            lines.append(f"{row} {_beside(mine, cases, sets)} |")
        lines.append(_still_there(strategy, out))
    return "\n".join([*lines, "", *_reached(out)])


def _beside(mine: Mapping[Case, float], ours: Mapping[Case, float], sets: list[str]) -> str:
    """Return the mean difference of regrets with a bootstrap interval over sets, and what it means."""
    if mine is ours:
        return "|"
    each = np.array([np.mean([mine[c] - ours[c] for c in ours if c[0] == name]) for name in sets])
    drawn = np.random.default_rng(0).choice(each, (DRAWS, len(each))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    word = "separated" if low > 0 or high < 0 else "not separated"
    return f"{each.mean():+.1f} ({low:+.1f} to {high:+.1f}) | {word}"


def _still_there(strategy: str, out: Path) -> str:
    """Say how often the best network was among the first 1, 2, … not separated by probes, and what lacked."""
    reached, rows = _read(strategy, out)
    lacking: dict[int, list[float]] = {k: [] for k in (1, 2, 3, 4)}
    for case, mine in rows.items():
        ranked = sorted(mine, key=lambda row: -row["probe_accuracy"])
        for k, lacks in lacking.items():
            racing = [row["model"] for row in ranked[:k] if not row["separated"]]
            lacks.append(max(reached[case].values()) - max(reached[case][model] for model in racing))
    two: list[float] = []
    for case, mine in rows.items():
        two.append(
            max(reached[case].values()) - max(reached[case][r["model"]] for r in mine if r["selected"])
        )
    summary = (
        f"{sum(lack == 0 for lack in two)} ({statistics.mean(two):.1f} points short, {max(two):.1f} at worst)"
    )
    shares = ", ".join(
        f"{sum(lack == 0 for lack in lacks)} with {k} ({statistics.mean(lacks):.1f} points short)"
        for k, lacks in lacking.items()
    )
    return (
        f"\nOf {len(rows)} draws, the best network was among those that `fit` lets race in {summary}; among "
        f"the first k by probe not separated: {shares}."
    )


def _reached(out: Path) -> list[str]:
    """Return a table of what every network reached: mean test accuracy over draws."""
    cells: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in read(out / "truth.jsonl"):
        cells[row["strategy"], row["model"], row["set"]].append(100 * row["accuracy"])
    lines = ["| strategy | network | " + " | ".join(SIX_SETS) + " |", "|---|---|" + "---|" * len(SIX_SETS)]
    for strategy in STRATEGIES:
        for model in IMAGENET:
            texts = [" / ".join(f"{v:.1f}" for v in cells[strategy, model, name]) for name in SIX_SETS]
            lines.append(f"| `{strategy}` | {model} | " + " | ".join(texts) + " |")
    return lines


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", choices=("truth", "screen"), default=["truth", "screen"])
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    if not arguments.summary:
        with own_store():
            work(arguments)
    if (arguments.out / "screen.jsonl").exists():
        print(summarise(arguments.out))


if __name__ == "__main__":
    main()
