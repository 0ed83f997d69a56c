"""How far runs are from their predicted seconds: the trials that advice knows, and what is predicted of them.

    python benchmarks/seconds.py DATA_DIR [--tasks FILE]

DATA_DIR holds clothing10.csv (`path,label,group`); SqueezeNet's weights lie beside it. Each network is timed
at each size, one thread, on this machine, a few seconds each; the runs were made before, perhaps on another,
and their seconds are the processor's. So only ratios within a network and size count: each is divided by
their median (a constant factor, as a check of remembered rates corrects it), and beside that by the ratio of
one other run of the same trial (what just ran). Only strategies that train more than one stage: what others
take depends on which features were cached, which these trials don't say. The 80 % interval is learned on half
of the image sets and checked on the others, for every halving.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from draws import draw_table
from experience import backbone_of
from frostline.advice.knowledge import HOME, Trial, read_experience

FEWEST = 20  # runs of a network at a size
JUST_RAN = "top_k(3)"  # in every trial
TEST = 100


def predicted(trials: Sequence[Trial], data: Path, folder: Path) -> list[tuple[Trial, str, float]]:
    """Return (trial, strategy, seconds taken / predicted) of all trials of one network and size."""
    import frostline
    from frostline import profiling
    from frostline.cost import predict
    from frostline.feature_cache import FeatureCache
    from frostline.feature_extraction.augmentation import Policy
    from frostline.feature_extraction.image_batches import Images

    model, size = trials[0].model, trials[0].size
    sheet = draw_table(data / "clothing10.csv", 10, 0, False, folder, test_per_class=None, test=TEST)
    manifest = frostline.load_data(sheet, near_copies=False).checked()
    short = model.removeprefix("tf_efficientnet_")
    if short in ("lite0", "squeezenet1_1"):
        backbone = backbone_of(model, size, data)
    else:
        backbone = frostline.load_backbone(short, size=size)
    images = Images(manifest, manifest.subset("train"), backbone.preprocessing, policy=Policy("standard"))
    rates = profiling.measure(backbone, images, cache=FeatureCache(folder / "rows"), threads=1)
    rows = []
    for trial in trials:
        held_out = any(value is not None for value in trial.val_accuracy.values())
        val = trial.facts.images // 4 if held_out else 0
        for strategy, seconds in trial.seconds.items():
            if not _long(strategy):
                continue
            cost = predict(
                strategy,
                rates,
                train=trial.facts.images,
                val=val,
                test=trial.tested,
                classes=trial.facts.classes,
                warm=True,
            )
            rows.append((trial, strategy, seconds / cost.seconds))
    return rows


def _long(strategy: str) -> bool:
    """Whether training takes most of a run: of the others much is what these trials found cached or not."""
    return not strategy.startswith(("linear_probe", "top_k(1"))


def corrected(rows: Sequence[tuple[Trial, str, float]]) -> list[tuple[Trial, str, float]]:
    """Divide each ratio by that of the run that just ran in the same trial."""
    ran = {id(trial): ratio for trial, strategy, ratio in rows if strategy == JUST_RAN}
    return [
        (trial, strategy, ratio / ran[id(trial)])
        for trial, strategy, ratio in rows
        if strategy != JUST_RAN and id(trial) in ran
    ]


def halvings(rows: Sequence[tuple[Trial, str, float]]) -> str:
    """Return the 80 % interval of all, and how much of the other sets those of half of the sets hold."""
    by_set: dict[str, list[float]] = defaultdict(list)
    for trial, _, ratio in rows:
        by_set[trial.set].append(ratio)
    names, held, widths = sorted(by_set), [], []
    for half in itertools.combinations(names, len(names) // 2):
        low, high = np.quantile(np.concatenate([by_set[name] for name in half]), (0.1, 0.9))
        rest = [np.array(by_set[name]) for name in names if name not in half]
        held.append(np.mean([np.mean((low <= some) & (some <= high)) for some in rest]))
        widths.append(high / low)
    low, middle, high = np.quantile([ratio for *_, ratio in rows], (0.1, 0.5, 0.9))
    return (
        f"{low:.2f} to {high:.2f} (median {middle:.2f}), {len(rows)} runs; of sets left out it holds "
        f"{100 * np.mean(held):.0f} % ({100 * np.min(held):.0f} to {100 * np.max(held):.0f} over halvings), "
        f"ends {np.mean(widths):.2f} times apart"
    )


def main() -> None:
    """Time the networks, and print the intervals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--experience", type=Path, default=HOME)
    parser.add_argument("--tasks", type=Path, help="tasks.jsonl to be read in place of the packaged one")
    arguments = parser.parse_args()
    kinds: dict[tuple[str, int], list[Trial]] = defaultdict(list)
    for trial in read_experience(arguments.experience, arguments.tasks):
        kinds[trial.model, trial.size].append(trial)
    centred, by_run, by_strategy = [], [], defaultdict(list)
    for (model, size), trials in sorted(kinds.items()):
        if sum(len(trial.seconds) for trial in trials) < FEWEST:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = predicted(trials, arguments.data, Path(folder))
        middle = float(np.median([ratio for *_, ratio in rows]))
        print(f"{model}, {size} px: {len(rows)} runs took {middle:.2f} × the prediction", file=sys.stderr)
        centred += [(trial, strategy, ratio / middle) for trial, strategy, ratio in rows]
        by_run += corrected(rows)
    for _, strategy, ratio in centred:
        by_strategy[strategy].append(ratio)
    print(f"By network and size: {halvings(centred)}")
    print(f"By the run of {JUST_RAN} before: {halvings(by_run)}")
    print("\n| strategy | median | 10 % | 90 % | runs |\n|---|---|---|---|---|")
    for strategy, ratios in by_strategy.items():
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        print(f"| `{strategy}` | {middle:.2f} | {low:.2f} | {high:.2f} | {len(ratios)} |")


if __name__ == "__main__":
    main()
