"""Is advice worth anything? Regret on image sets that it never saw, beside constants, textbook and race.

    python benchmarks/advice.py [--experience FOLDER] [--tasks FILE]

For every set the advice is fitted on the other sets alone, for all its sizes and networks. Regret is
cross-fitted: the oracle is chosen on half of the seeds, oracle and policy are scored on the other half,
averaged over the halvings; the naive figure (oracle chosen and scored on the same seeds) stands beside it.
Tasks of benchmarks/tasks.py have one draw each, so that theirs is naive: the chance of their test images
raises the regret of every policy alike. Every set weighs the same; differences to a rival carry a 95 %
bootstrap interval over sets. `--tasks` reads tasks that are not packaged. No network is run: seconds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from frostline.advice import forecast
from frostline.advice.forecast import ForecastModel, choose_strategy, fit
from frostline.advice.knowledge import HOME, Facts, Trial, read_experience, read_tasks

Cell = tuple[str, int, str, int]  # model, size, set, images a class
# A policy picks one of the allowed strategies for one trial, having seen trials of other sets only.
Policy = Callable[[Trial, Sequence[str], Sequence[Trial], ForecastModel], str]

SIMILAR, LARGE = 0.4, 20  # the textbook's two questions, thresholds halfway between what we have
# What is known before training, and might tell what thawing gains.
KNOWN: dict[str, Callable[[Trial], float]] = {
    "similarity": lambda t: t.facts.similarity,
    "the probe's accuracy": lambda t: t.facts.probe,
    "what doubling the images brought": lambda t: t.facts.slope,
    "how far the best stage lies above the last": lambda t: t.facts.peak,
    "how far all stages lie above the last": lambda t: t.facts.depth_gain,
}
MANY = 20  # images a class: intervals are told apart from here
PENALTIES = (2.0, 6.0, 20.0, 60.0, float("inf"))  # of the slopes, in image sets
# Evidence that the advice doesn't use, to see what it would be worth.
UNUSED: dict[str, Callable[[Facts], float]] = {
    "what doubling the images brought": lambda facts: facts.slope,
    "images a class": lambda facts: math.log2(facts.images / facts.classes),
    "classes": lambda facts: math.log2(facts.classes),
    "frozen accuracy": lambda facts: facts.frozen,
}
ADVICE_S = 5.0  # what measuring takes on such sets, for the race's budget


def seconds(trials: Sequence[Trial]) -> dict[str, float]:
    """Mean seconds of each strategy."""
    names = dict.fromkeys(name for trial in trials for name in trial.seconds)
    return {n: statistics.mean(t.seconds[n] for t in trials if n in t.seconds) for n in names}


# --- policies -----------------------------------------------------------------------------------------


def ours(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """What `plan` recommends."""
    cost = seconds(rest)
    known = {name: cost[name] for name in allowed if name in model.strategies}
    return choose_strategy(model, trial.facts, known).strategy if known else allowed[0]


def by_forecast(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """The highest forecast, whether or not that was better than the default on the other sets."""
    values = {e.strategy: e.accuracy for e in model.forecasts(trial.facts) if e.strategy in allowed}
    return max(values, key=values.__getitem__) if values else allowed[0]


def best_constant(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """The one that was best on average over the other sets."""
    return max(allowed, key=lambda name: _lead(name, allowed, rest))


def _lead(name: str, allowed: Sequence[str], rest: Sequence[Trial]) -> float:
    """Return how far a strategy lies above the mean of those allowed, every set weighted equally."""
    leads: dict[str, list[float]] = {}
    for trial in rest:
        values = [trial.accuracy[other] for other in allowed if other in trial.accuracy]
        if name in trial.accuracy and len(values) > 1:
            leads.setdefault(trial.set, []).append(trial.accuracy[name] - statistics.mean(values))
    return statistics.mean(map(statistics.mean, leads.values())) if leads else -1.0


def nearest_set(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """What was best on the set whose similarity is nearest, among trials of the same network if any."""
    own = [other for other in rest if other.model == trial.model] or list(rest)
    by_set: dict[str, list[float]] = {}
    for other in own:
        by_set.setdefault(other.set, []).append(other.facts.similarity)
    near = min(by_set, key=lambda name: abs(statistics.mean(by_set[name]) - trial.facts.similarity))
    return best_constant(trial, allowed, [other for other in own if other.set == near], model)


def by_score(score: str) -> Policy:
    """A transferability score, read as depth: stages that score below the best one are thawed."""

    def policy(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
        values = trial.scores[score]
        behind = len(values) - 1 - int(np.argmax(values))
        wanted = ("linear_probe", "top_k(1)", "top_k(3)", "top_k(3)")[behind] if behind < 4 else "lp_ft"
        return always(wanted)(trial, allowed, rest, model)

    return policy


def always(name: str) -> Policy:
    """One strategy whatever the images; the cheapest where that isn't allowed."""

    def policy(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
        return name if name in allowed else min(allowed, key=seconds(rest).__getitem__)

    return policy


def textbook(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """Similar or not × small or large. "Small and different: earlier features" is read as `top_k(3)`."""
    small = trial.facts.images / trial.facts.classes < LARGE
    if trial.facts.similarity >= SIMILAR:
        wanted = "linear_probe" if small else "full"
    else:
        wanted = "top_k(3)" if small else "full"
    return always(wanted)(trial, allowed, rest, model)


def race(trial: Trial, allowed: Sequence[str], rest: Sequence[Trial], model: ForecastModel) -> str:
    """Train the cheapest first until the seconds of our choice and of asking are spent; best on val wins.

    Without a val part the last that was finished wins.
    """
    left = trial.seconds[ours(trial, allowed, rest, model)] + ADVICE_S
    done: list[str] = []
    for name in sorted(allowed, key=lambda n: trial.seconds[n]):
        if done and trial.seconds[name] > left:
            break
        left -= trial.seconds[name]
        done.append(name)
    scores = {name: trial.val_accuracy[name] for name in done}
    if any(score is None for score in scores.values()):
        return done[-1]
    return max(done, key=lambda name: (scores[name], trial.seconds[name]))


POLICIES: dict[str, Policy] = {
    "advice": ours,
    "by forecast alone": by_forecast,
    "the best constant of the other sets": best_constant,
    "always linear_probe": always("linear_probe"),
    "always top_k(1)": always("top_k(1)"),
    "always lp_ft": always("lp_ft"),
    "always gradual_unfreeze": always("gradual_unfreeze"),
    "always full": always("full"),
    "always top_k(3)": always("top_k(3)"),
    "textbook 2×2": textbook,
    "nearest set by similarity": nearest_set,
    "LogME by stage": by_score("log_me"),
    "H-score by stage": by_score("h_score"),
    "race": race,
}


# --- regret -------------------------------------------------------------------------------------------


def allowed_in(cell: Sequence[Trial], share: float) -> list[str]:
    """Return the strategies that cost at most a share of the best one's seconds; the cheapest always.

    Only such as were tried on every draw of the cell.
    """
    cost = {name: statistics.mean(t.seconds[name] for t in cell) for name in tried_in(cell)}
    means = {name: np.mean([t.accuracy[name] for t in cell]) for name in cost}
    best = max(means, key=lambda name: means[name])
    cheapest = min(cost, key=cost.__getitem__)
    return [name for name in cost if cost[name] <= share * cost[best] or name == cheapest]


def tried_in(cell: Sequence[Trial]) -> list[str]:
    """Return the strategies that were tried on every draw."""
    return [name for name in cell[0].accuracy if all(name in trial.accuracy for trial in cell)]


def regrets(cell: Sequence[Trial], allowed: Sequence[str], picks: Sequence[str]) -> tuple[float, float]:
    """Return cross-fitted and naive regret, in points, of the strategies picked trial by trial."""
    scores = {name: np.array([100 * t.accuracy[name] for t in cell]) for name in allowed}
    mine = np.array([100 * t.accuracy[name] for t, name in zip(cell, picks, strict=True)])
    naive = max(float(s.mean()) for s in scores.values()) - float(mine.mean())
    count = len(cell)
    losses = []
    for half in itertools.combinations(range(count), count // 2) if count > 1 else ():
        one, other = np.array(half), np.setdiff1d(np.arange(count), half)
        for learn, score in ((one, other), (other, one)):
            oracle = max(scores, key=lambda name: float(scores[name][learn].mean()))
            losses.append(float(scores[oracle][score].mean() - mine[score].mean()))
    return (float(np.mean(losses)) if losses else naive), naive


def randomly(cell: Sequence[Trial], allowed: Sequence[str]) -> tuple[float, float]:
    """Return the regrets of picking any allowed strategy, all equally often."""
    each = [regrets(cell, allowed, [name] * len(cell)) for name in allowed]
    return statistics.mean(e[0] for e in each), statistics.mean(e[1] for e in each)


def cells_of(trials: Sequence[Trial]) -> dict[Cell, list[Trial]]:
    """Return the draws of each network, size, set and number of images."""
    cells: dict[Cell, list[Trial]] = {}
    for trial in trials:
        cells.setdefault((trial.model, trial.size, trial.set, trial.per_class), []).append(trial)
    return cells


def table(
    cells: dict[Cell, list[Trial]], trials: Sequence[Trial], share: float
) -> tuple[str, dict[str, dict[Cell, float]]]:
    """Return a Markdown table of regrets in some cells, and the cross-fitted ones of each policy.

    Advice and constants come from all trials of the other sets.
    """
    sets = sorted({trial.set for trial in trials})
    rest_of = {name: [t for t in trials if t.set != name] for name in sets}
    models = {name: fit(rest_of[name]) for name in sets}
    cross: dict[str, dict[Cell, float]] = {name: {} for name in (*POLICIES, "random")}
    naive: dict[str, dict[Cell, float]] = {name: {} for name in (*POLICIES, "random")}
    for key, cell in cells.items():
        allowed = allowed_in(cell, share)
        for name, policy in POLICIES.items():
            picks = [policy(trial, allowed, rest_of[key[2]], models[key[2]]) for trial in cell]
            cross[name][key], naive[name][key] = regrets(cell, allowed, picks)
        cross["random"][key], naive["random"][key] = randomly(cell, allowed)
    lines = [
        "| policy | mean regret ± spread over sets | worst set | naive | more than advice (95 %) |",
        "|---|---|---|---|---|",
    ]
    for name, found in cross.items():
        per_set = _by_set(found)
        difference_error = "" if name == "advice" else _difference(found, cross["advice"])
        worst = max(per_set, key=lambda n: per_set[n])
        values = list(per_set.values())
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        means = f"{np.mean(values):.2f} ± {spread:.1f} | {per_set[worst]:.1f} ({worst})"
        plain = np.mean(list(_by_set(naive[name]).values()))
        lines.append(f"| {name} | {means} | {plain:.2f} | {difference_error} |")
    return "\n".join(lines), cross


def _by_set(means: dict[Cell, float]) -> dict[str, float]:
    names = sorted({key[2] for key in means})
    return {name: float(np.mean([v for key, v in means.items() if key[2] == name])) for name in names}


def _difference(one: dict[Cell, float], other: dict[Cell, float]) -> str:
    """Bootstrap the mean difference over sets."""
    difference_error = _by_set({key: one[key] - other[key] for key in one})
    values = np.array(list(difference_error.values()))
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    verdict = "" if low <= 0 <= high else (", higher" if low > 0 else ", LOWER")
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f}){verdict or ', not separated'}"


def coverage(trials: Sequence[Trial]) -> str:
    """Return a table: held-out outcomes inside the 80 % interval and its width, set by set left out."""
    lines = [
        "| | held | worst set | mean width, points | error (root mean square) |",
        "|---|---|---|---|---|",
    ]
    sets = sorted({trial.set for trial in trials})
    rows_by_count: dict[str, list[tuple[float, bool, float, float]]] = {name: [] for name in sets}
    for name in sets:
        model = fit([t for t in trials if t.set != name])
        for trial in (t for t in trials if t.set == name):
            count = trial.facts.images / trial.facts.classes
            for e in model.forecasts(trial.facts):
                if e.strategy in trial.accuracy:
                    accuracy = trial.accuracy[e.strategy]
                    inside, error = e.low <= accuracy <= e.high, accuracy - e.accuracy
                    rows_by_count[name].append((count, inside, 100 * (e.high - e.low), 100 * error))
    for what, low, high in (
        ("all", 0.0, math.inf),
        (f"under {MANY} a class", 0.0, MANY),
        (f"{MANY} a class and more", MANY, math.inf),
    ):
        rows = {n: np.array([r[1:] for r in some if low <= r[0] < high]) for n, some in rows_by_count.items()}
        rows = {n: values for n, values in rows.items() if len(values)}
        if not rows:
            continue
        held = {n: 100 * float(values[:, 0].mean()) for n, values in rows.items()}
        worst = min(held, key=held.__getitem__)
        width = np.mean([values[:, 1].mean() for values in rows.values()])
        error = np.sqrt(np.mean([(values[:, 2] ** 2).mean() for values in rows.values()]))
        lines.append(
            f"| {what} | {np.mean(list(held.values())):.0f} % | {held[worst]:.0f} % ({worst}) | {width:.1f} "
            f"| {error:.1f} |"
        )
    return "\n".join(lines)


def ablation(trials: Sequence[Trial]) -> str:
    """Return a table: regret by forecast alone, and errors, with a piece of evidence less or more."""
    used = dict(forecast.EVIDENCE)
    variants: dict[str, dict[str, Callable[[Facts], float]]] = {"as it is": used}
    variants |= {f"without {n}": {k: v for k, v in used.items() if k != n} for n in used}
    variants |= {f"with {n}": {**used, n: of} for n, of in UNUSED.items()}
    lines = ["| evidence | regret by forecast | worst set | error |", "|---|---|---|---|"]
    for name, evidence in variants.items():
        forecast.EVIDENCE, forecast.NAMES = evidence, tuple(evidence)
        lines.append(f"| {name} | {_left_out(trials)} |")
    forecast.EVIDENCE, forecast.NAMES = used, tuple(used)
    lines += ["", "| penalty of leads, of the level (sets) | regret by forecast | worst set | error |"]
    lines.append("|---|---|---|---|")
    for shrink in PENALTIES:
        for level in PENALTIES[::2]:
            capped = [min(value, 1e9) for value in (shrink, level)]
            lines.append(f"| {shrink:g}, {level:g} | {_left_out(trials, *capped)} |")
    return "\n".join(lines)


def _left_out(trials: Sequence[Trial], *penalties: float) -> str:
    """Return regret by forecast, worst set and root mean square error, on sets left out."""
    regret, error = {}, {}
    for name in sorted({trial.set for trial in trials}):
        model = fit([t for t in trials if t.set != name], *penalties)
        own = [t for t in trials if t.set == name]
        lost, wrong = [], []
        for trial in own:
            values = {
                e.strategy: e.accuracy for e in model.forecasts(trial.facts) if e.strategy in trial.accuracy
            }
            lost.append(max(trial.accuracy.values()) - trial.accuracy[max(values, key=values.__getitem__)])
            wrong += [(trial.accuracy[n] - value) ** 2 for n, value in values.items()]
        regret[name], error[name] = 100 * statistics.mean(lost), statistics.mean(wrong)
    worst = max(regret, key=regret.__getitem__)
    return (
        f"{statistics.mean(regret.values()):.2f} | {regret[worst]:.1f} ({worst}) "
        f"| {100 * math.sqrt(statistics.mean(error.values())):.1f}"
    )


def thawing(trials: Sequence[Trial], default: str) -> str:
    """Correlate what is known beforehand with what thawing gains over a frozen probe, over image sets."""
    lines = ["| images a class | " + " | ".join(KNOWN) + " | sets |", "|---|" + "---|" * (len(KNOWN) + 1)]
    for kind in sorted({(t.model, t.size, t.per_class) for t in trials}):
        by_set: dict[str, list[Trial]] = {}
        for trial in trials:
            both = default in trial.accuracy and "linear_probe" in trial.accuracy
            if (trial.model, trial.size, trial.per_class) == kind and both:
                by_set.setdefault(trial.set, []).append(trial)
        if len(by_set) < 4:  # three can be in order by chance
            continue
        gains = [
            np.mean([t.accuracy[default] - t.accuracy["linear_probe"] for t in some])
            for some in by_set.values()
        ]
        correlations = [
            spearmanr([np.mean([of(t) for t in some]) for some in by_set.values()], gains)[0]
            for of in KNOWN.values()
        ]
        what = f"{kind[0]}, {kind[1]} px, {kind[2]}"
        lines.append(
            f"| {what} | " + " | ".join(f"{rho:+.2f}" for rho in correlations) + f" | {len(by_set)} |"
        )
    return "\n".join(lines)


def picks(trials: Sequence[Trial]) -> str:
    """Show what is recommended for each cell by advice that never saw the set."""
    lines = ["| model, px | set | a class | draws | recommended | best (mean) |", "|---|---|---|---|---|---|"]
    cells = cells_of(trials)
    for key, cell in sorted(cells.items(), key=lambda item: (item[0][0], item[0][1], item[0][2], item[0][3])):
        rest = [t for t in trials if t.set != key[2]]
        model = fit(rest)
        names = dict.fromkeys(ours(t, tried_in(cell), rest, model) for t in cell)
        means = {n: 100 * np.mean([t.accuracy[n] for t in cell]) for n in tried_in(cell)}
        best = max(means, key=lambda n: means[n])
        listing = ", ".join(f"`{n}` {means[n]:.1f}" for n in names)
        lines.append(
            f"| {key[0]}, {key[1]} | {key[2]} | {key[3]} | {len(cell)} | {listing} "
            f"| `{best}` {means[best]:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experience", type=Path, default=HOME)
    parser.add_argument("--tasks", type=Path, help="tasks.jsonl, to be read with the packaged trials")
    arguments = parser.parse_args()
    trials = read_experience(arguments.experience)
    trials += read_tasks(arguments.tasks) if arguments.tasks else []
    trials = [t for t in trials if len(t.accuracy) > 1]
    cells = cells_of(trials)
    drawn = {key: cell for key, cell in cells.items() if len(cell) > 1}
    sets = sorted({trial.set for trial in trials})
    print(f"{len(trials)} trials in {len(cells)} cells of {len(sets)} sets; evidence: {forecast.NAMES}\n")
    whole = fit(trials)
    print(
        f"Default: {whole.default}. Departing by forecast from the default of the other sets gained", end=" "
    )
    print(
        ", ".join(f"{100 * gain:+.1f}" for gain in whole.departure_gains),
        f"points; departs: {whole.departs_from_default}",
    )
    for title, share in (("No budget", float("inf")), ("A quarter", 1 / 4), ("A sixteenth", 1 / 16)):
        print(f"\n{title}\n\n{table(cells, trials, share)[0]}")
    print(f"\n80 % intervals\n\n{coverage(trials)}\n\n{ablation(trials)}")
    for kind in sorted({(key[0], key[1], key[3]) for key in drawn}):
        some = {k: c for k, c in drawn.items() if (k[0], k[1], k[3]) == kind}
        print(f"\n{kind[0]}, {kind[1]} px, {kind[2]} a class, no budget\n\n{table(some, trials, np.inf)[0]}")
    print(f"\nRank correlation with the gain from thawing\n\n{thawing(trials, whole.default)}")
    print(f"\n{picks([t for cell in drawn.values() for t in cell])}")


if __name__ == "__main__":
    main()
