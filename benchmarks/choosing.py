"""How much is lost by choosing among candidates on few held-out images, by five rules?

    python benchmarks/choosing.py [--images 60 300] [--draws 6]

Each trial of the packaged experience says what strategies are worth on its images. Here it is the truth, and
answers on held-out images are invented around it: an image that is hard for one strategy is hard for the
others (a Gaussian copula, latent correlation 0.75). Each rule names a winner by them; regret is the truth's
distance to the best candidate, in points. What earlier trials say of leads is fitted without the trial's
image set. The best of the noisy truths flatters itself, for all rules alike. Every set weighs the same;
differences to the rule before carry a 95 % bootstrap interval over sets. No network is run: half an hour.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm

from frostline.advice.forecast import fit
from frostline.advice.knowledge import Trial, read_experience
from frostline.config import SAME_TIME
from frostline.selection.significance import HeldOutPredictions, Leads, Verdict, judge

CORRELATION = 0.75  # of how hard an image is for two strategies
FIT = ("linear_probe", "lp_ft(refit_layers=4)", "top_k(3)", "lp_ft(lr=0.0003)", "lp_ft", "top_k(1)")
SOME = ("linear_probe", "lp_ft(refit_layers=4)", "top_k(1)")
FEW = ("linear_probe", "top_k(1)")
Scores = dict[int, float]


def answers(truth: Sequence[float], images: int, rng: np.random.Generator) -> dict[int, HeldOutPredictions]:
    """Invent who is right about which image."""
    shared, own = rng.normal(size=images), rng.normal(size=(len(truth), images))
    latent = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own
    right = latent < norm.ppf(np.clip(truth, 1e-3, 1 - 1e-3))[:, None]
    place, zero = np.arange(images), np.zeros(images, np.int64)
    return {
        index: HeldOutPredictions(place, zero, place, zero + 1, np.c_[1 - row, row].astype(float))
        for index, row in enumerate(right)
    }


def one_standard_error(verdict: Verdict, scores: Scores, seconds: Scores) -> int:
    """Name the cheapest within a standard error of the leader: the rule until 30 November 2026."""
    gaps, leader = verdict.differences, verdict.leader
    close = [name for name, gap in gaps.items() if not gap.separated and gap.mean <= gap.error]
    cheaper = [name for name in close if SAME_TIME * seconds[name] <= seconds[leader]] or [leader]
    quickest = min(seconds[name] for name in cheaper)
    as_quick = [name for name in cheaper if seconds[name] <= SAME_TIME * quickest]
    return min(as_quick, key=lambda name: (-scores[name], seconds[name]))


def picks(held: dict[int, HeldOutPredictions], seconds: Scores, leads: Leads) -> dict[str, int]:
    """Name each rule's winner."""
    scores = {name: one.score("accuracy") for name, one in held.items()}
    measured = judge(held, seconds, "accuracy")
    return {
        "cheapest within a standard error (before)": one_standard_error(measured, scores, seconds),
        "best score": measured.leader,
        "best, or cheaper by half a point at most (compare)": measured.winner,
        "the same, weighed with earlier trials (fit)": judge(held, seconds, "accuracy", leads=leads).winner,
        "earlier trials alone": max(held, key=lambda name: leads.get((name, 0), (0.0, 0.0))[0]),
    }


def regrets(
    trials: Sequence[Trial], names: Sequence[str], images: int, draws: int
) -> dict[str, dict[str, float]]:
    """Return the mean regret of each rule on each set, in points."""
    rng, rows = np.random.default_rng(0), {}
    complete = [trial for trial in trials if all(name in trial.accuracy for name in names)]
    for left_out in sorted({trial.set for trial in complete}):
        model = fit([trial for trial in trials if trial.set != left_out])
        for trial in (trial for trial in complete if trial.set == left_out):
            by_name = model.leads(trial.facts)
            pairs = ((i, j) for i in range(len(names)) for j in range(len(names)))
            leads = {(i, j): by_name[names[i], names[j]] for i, j in pairs if (names[i], names[j]) in by_name}
            truth = [trial.accuracy[name] for name in names]
            seconds = {index: trial.seconds[name] for index, name in enumerate(names)}
            for _ in range(draws):
                for rule, pick in picks(answers(truth, images, rng), seconds, leads).items():
                    loss = 100 * (max(truth) - truth[pick])
                    rows.setdefault(rule, {}).setdefault(left_out, []).append(loss)
    return {rule: {name: statistics.mean(v) for name, v in sets.items()} for rule, sets in rows.items()}


def interval(differences: Sequence[float]) -> str:
    """Return mean and 95 % bootstrap interval over sets."""
    drawn = np.random.default_rng(0).choice(differences, size=(5000, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{statistics.mean(differences):+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Print a table for each number of images and each list of candidates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", nargs="+", type=int, default=[60, 300])
    parser.add_argument("--draws", type=int, default=6, help="of answers for each trial")
    arguments = parser.parse_args()
    trials = read_experience()
    say: Callable[[str], None] = print
    for names in (FIT, SOME, FEW):
        for images in arguments.images:
            rows = regrets(trials, names, images, arguments.draws)
            before = next(iter(rows.values()))
            say(f"\n{', '.join(names)}; {images} held-out images, {len(before)} sets")
            for rule, by_set in rows.items():
                difference = interval([by_set[name] - before[name] for name in before])
                mean, worst = statistics.mean(by_set.values()), max(by_set.values())
                say(f"{rule:52} {mean:5.2f}  worst set {worst:4.1f}  less the first {difference}")


if __name__ == "__main__":
    main()
