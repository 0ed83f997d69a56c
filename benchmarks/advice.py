"""Is advice worth anything? Regret on image sets that it never saw, beside constants, textbook and race.

    python benchmarks/advice.py [--experience FOLDER] [--tasks FILE]

For every set the advice is fitted on the other sets alone, for all its sizes and networks. Regret is
cross-fitted: the oracle is chosen on half of the seeds, oracle and policy are scored on the other half,
averaged over the halvings; the naive figure (oracle chosen and scored on the same seeds) stands beside it.
Tasks of benchmarks/tasks.py have one draw each, so that theirs is naive: the chance of their test images
raises the regret of every policy alike. Every set weighs the same; differences to a rival carry a 95 %
bootstrap interval over sets. Which evidence a forecast uses is chosen in `nested` by leaving out a second
set. `--tasks` reads other tasks than the packaged ones. No network is run: a minute or two.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from frostline.advice import forecast
from frostline.advice.forecast import Evidence, ForecastModel, average_leads, choose_strategy, fit
from frostline.advice.knowledge import HOME, Facts, Trial, read_experience

Cell = tuple[str, int, str, int, int]  # model, size, set, images a class, task (-1: draws of one cell)

SIMILAR, LARGE = 0.4, 20  # the textbook's two questions, thresholds halfway between what we have
# What is known before training, and might tell what thawing gains.
KNOWN: dict[str, Callable[[Trial], float]] = {
    "similarity": lambda t: t.facts.similarity,
    "the probe's accuracy": lambda t: t.facts.probe,
    "what doubling the images brought": lambda t: t.facts.slope,
    "how far the best stage lies above the last": lambda t: t.facts.peak,
    "how far all stages lie above the last": lambda t: t.facts.depth_gain,
}
RECOMMENDED = "the recommended strategy alone"
MANY = 20  # images a class: intervals are told apart from here
PENALTIES = (2.0, 6.0, 20.0, 60.0, float("inf"))  # of the slopes, in image sets
# Evidence that the advice doesn't use, to see what it would be worth.
UNUSED: dict[str, Callable[[Facts], float]] = {
    "what doubling the images brought": lambda facts: facts.slope,
    "images a class": lambda facts: math.log2(facts.images / facts.classes),
    "classes": lambda facts: math.log2(facts.classes),
    "frozen accuracy": lambda facts: facts.frozen,
}
# What `nested` chooses among, beside the constant: stated before the tasks were looked at.
VARIANTS: dict[str, Evidence] = {
    "as it is": forecast.EVIDENCE,
    "and images a class": {**forecast.EVIDENCE, "images a class": UNUSED["images a class"]},
    "and images a class, frozen accuracy": {
        **forecast.EVIDENCE,
        **{name: UNUSED[name] for name in ("images a class", "frozen accuracy")},
    },
}
SHORT = "top_k(1, epochs=1)"
PROBES = ("linear_probe", "linear_probe(layers=last)")
ADVICE_S = 5.0  # what measuring takes on such sets, for the race's budget


@dataclass(frozen=True)
class Others:
    """The trials of all sets but one, and what was learned from them."""

    trials: tuple[Trial, ...]

    @cached_property
    def model(self) -> ForecastModel:
        """The advice."""
        return fit(self.trials)

    @cached_property
    def leads(self) -> dict[str, float]:
        """Average lead of each strategy, every set weighing the same."""
        return average_leads(self.trials)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Mean seconds of each strategy."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.seconds)
        return {n: statistics.mean(t.seconds[n] for t in self.trials if n in t.seconds) for n in names}

    @cached_property
    def variants(self) -> dict[str, ForecastModel]:
        """A model for each choice of evidence."""
        return {name: fit(self.trials, evidence=evidence) for name, evidence in VARIANTS.items()}

    @cached_property
    def nested(self) -> str:
        """The choice of evidence that gained most over the constant on sets left out a second time.

        Empty for the constant.
        """
        gains = {name: statistics.mean(model.departure_gains) for name, model in self.variants.items()}
        best = max(gains, key=gains.__getitem__)
        return best if gains[best] > 0 else ""


# A policy picks one of the allowed strategies for one trial, having seen trials of other sets only.
Policy = Callable[[Trial, Sequence[str], Others], str]


# --- policies -----------------------------------------------------------------------------------------


def ours(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """What `plan` recommends."""
    known = {name: others.seconds[name] for name in allowed if name in others.model.strategies}
    return choose_strategy(others.model, trial.facts, known).strategy if known else allowed[0]


def by_model(model: ForecastModel, trial: Trial, allowed: Sequence[str]) -> str:
    """The highest forecast, whether or not that was better than the default on the other sets."""
    values = {e.strategy: e.accuracy for e in model.forecasts(trial.facts) if e.strategy in allowed}
    return max(values, key=values.__getitem__) if values else allowed[0]


def by_forecast(evidence: str) -> Policy:
    """The highest forecast by some evidence."""
    return lambda trial, allowed, others: by_model(others.variants[evidence], trial, allowed)


def nested(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """The forecast, by the evidence that did best on the other sets; the constant where none did."""
    if not others.nested:
        return best_constant(trial, allowed, others)
    return by_model(others.variants[others.nested], trial, allowed)


def best_constant(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """The one that was best on average over the other sets."""
    known = [name for name in allowed if name in others.leads]
    return max(known, key=others.leads.__getitem__) if known else allowed[0]


def nearest_set(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """What was best on the set whose similarity is nearest, among trials of the same network if any."""
    own = [other for other in others.trials if other.model == trial.model] or list(others.trials)
    by_set: dict[str, list[float]] = {}
    for other in own:
        by_set.setdefault(other.set, []).append(other.facts.similarity)
    near = min(by_set, key=lambda name: abs(statistics.mean(by_set[name]) - trial.facts.similarity))
    leads = average_leads([other for other in own if other.set == near])
    known = [name for name in allowed if name in leads]
    return max(known, key=leads.__getitem__) if known else allowed[0]


def by_score(score: str) -> Policy:
    """A transferability score, read as depth: stages that score below the best one are thawed."""

    def policy(trial: Trial, allowed: Sequence[str], others: Others) -> str:
        values = trial.scores[score]
        behind = len(values) - 1 - int(np.argmax(values))
        wanted = ("linear_probe", "top_k(1)", "top_k(3)", "top_k(3)")[behind] if behind < 4 else "lp_ft"
        return always(wanted)(trial, allowed, others)

    return policy


def always(name: str) -> Policy:
    """One strategy whatever the images; where it isn't allowed, the same without settings, or a probe."""

    def policy(trial: Trial, allowed: Sequence[str], others: Others) -> str:
        plain = name.partition("(")[0]
        wanted = [word for word in (name, plain, *PROBES) if word in allowed]
        return wanted[0] if wanted else min(allowed, key=trial.seconds.__getitem__)

    return policy


def textbook(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """Similar or not × small or large. "Small and different: earlier features" is read as `top_k(3)`."""
    small = trial.facts.images / trial.facts.classes < LARGE
    if trial.facts.similarity >= SIMILAR:
        wanted = "linear_probe" if small else "full"
    else:
        wanted = "top_k(3)" if small else "full"
    return always(wanted)(trial, allowed, others)


def race(trial: Trial, allowed: Sequence[str], others: Others) -> str:
    """Train the cheapest first until the seconds of our choice and of asking are spent; best on val wins.

    Without a val set the last that was finished wins.
    """
    left = trial.seconds[ours(trial, allowed, others)] + ADVICE_S
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
    "the best constant of the other sets": best_constant,
    **{f"by forecast, {name}": by_forecast(name) for name in VARIANTS},
    "nested": nested,
    **{
        f"always {name}": always(name)
        for name in (
            "linear_probe",
            "top_k(1)",
            "top_k(3)",
            "lp_ft",
            "lp_ft(lr=0.0003)",
            "lp_ft(refit_layers=4)",
            "gradual_unfreeze",
            "full",
        )
    },
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


def is_task(trial: Trial) -> bool:
    """Whether a trial is a small task, which had a short run."""
    return SHORT in trial.accuracy


def cells_of(trials: Sequence[Trial]) -> dict[Cell, list[Trial]]:
    """Return the draws of each network, size, set and number of images; a small task is a cell of its own."""
    cells: dict[Cell, list[Trial]] = {}
    for trial in trials:
        key = (trial.model, trial.size, trial.set, trial.per_class, trial.seed if is_task(trial) else -1)
        cells.setdefault(key, []).append(trial)
    return cells


def others_of(trials: Sequence[Trial]) -> dict[str, Others]:
    """Return for each set what the trials of the others say."""
    return {n: Others(tuple(t for t in trials if t.set != n)) for n in sorted({t.set for t in trials})}


def table(
    cells: dict[Cell, list[Trial]], others: dict[str, Others], share: float
) -> tuple[str, dict[str, dict[Cell, float]]]:
    """Return a Markdown table of regrets in some cells, and the cross-fitted ones of each policy.

    Advice and constants come from all trials of the other sets.
    """
    cross: dict[str, dict[Cell, float]] = {name: {} for name in (*POLICIES, "random")}
    naive: dict[str, dict[Cell, float]] = {name: {} for name in (*POLICIES, "random")}
    for key, cell in cells.items():
        allowed = allowed_in(cell, share)
        for name, policy in POLICIES.items():
            picks = [policy(trial, allowed, others[key[2]]) for trial in cell]
            cross[name][key], naive[name][key] = regrets(cell, allowed, picks)
        cross["random"][key], naive["random"][key] = randomly(cell, allowed)
    lines = [
        "| policy | mean regret ± spread over sets | worst set | naive | more than the constant (95 %) |",
        "|---|---|---|---|---|",
    ]
    rival = "the best constant of the other sets"
    for name, found in cross.items():
        per_set = _by_set(found)
        difference = "" if name == rival else _difference(found, cross[rival])
        worst = max(per_set, key=lambda n: per_set[n])
        values = list(per_set.values())
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        means = f"{np.mean(values):.2f} ± {spread:.1f} | {per_set[worst]:.1f} ({worst})"
        plain = np.mean(list(_by_set(naive[name]).values()))
        lines.append(f"| {name} | {means} | {plain:.2f} | {difference} |")
    return "\n".join(lines), cross


def constants(trials: Sequence[Trial]) -> str:
    """Return a table: how far each strategy lies above `lp_ft`, paired in trials, and above the level."""
    leads = average_leads(trials)
    lines = [
        "| strategy | average lead | above lp_ft, all · old trials · tasks (95 % over sets; sets) |",
        "|---|---|---|",
    ]
    parts = (trials, [t for t in trials if not is_task(t)], [t for t in trials if is_task(t)])
    for name in sorted(leads, key=lambda n: -leads[n]):
        words = [_paired(part, name, "lp_ft") for part in parts]
        lines.append(f"| `{name}` | {100 * leads[name]:+.2f} | {' · '.join(words)} |")
    return "\n".join(lines)


def _paired(trials: Sequence[Trial], one: str, other: str) -> str:
    both = [t for t in trials if one in t.accuracy and other in t.accuracy]
    if one == other or not both:
        return "–"
    gaps = {t.set: [] for t in both}
    for trial in both:
        gaps[trial.set].append(100 * (trial.accuracy[one] - trial.accuracy[other]))
    values = np.array([statistics.mean(some) for some in gaps.values()])
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f}; {len(values)})"


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


def coverage(trials: Sequence[Trial], others: dict[str, Others]) -> str:
    """Return a table: held-out outcomes inside the 80 % interval and its width, set by set left out.

    What is measured on few test images lies further off by chance, for which the interval that must hold it
    is widened; the width is of the one that is shown.
    """
    lines = [
        "| | held | worst set | mean width, points | error (root mean square) |",
        "|---|---|---|---|---|",
    ]
    rows: list[tuple[Trial, float, float, float]] = []
    recommended: list[tuple[Trial, float, float, float]] = []
    for trial in trials:
        model = others[trial.set].model
        for row, e in enumerate(model.forecasts(trial.facts)):
            if e.strategy in trial.accuracy:
                error = trial.accuracy[e.strategy] - e.accuracy
                half = model.half_width(row, trial.facts, trial.test_variance)
                rows.append((trial, float(abs(error) <= half), 100 * (e.high - e.low), 100 * error))
                recommended += rows[-1:] if e.strategy == model.default else []
    kinds: dict[str, Callable[[Trial], bool]] = {
        "all": lambda t: True,
        f"under {MANY} a class": lambda t: t.per_class < MANY,
        f"{MANY} a class and more": lambda t: t.per_class >= MANY,
        "40 a class and more": lambda t: t.per_class >= 40,
        "old trials": lambda t: not is_task(t),
        "tasks": is_task,
        RECOMMENDED: lambda t: True,
    }
    for what, wanted in kinds.items():
        by_set: dict[str, list[tuple[float, float, float]]] = {}
        for trial, *values in recommended if what == RECOMMENDED else rows:
            if wanted(trial):
                by_set.setdefault(trial.set, []).append((values[0], values[1], values[2]))
        if not by_set:
            continue
        tables = {name: np.array(some) for name, some in by_set.items()}
        held = {n: 100 * float(values[:, 0].mean()) for n, values in tables.items()}
        worst = min(held, key=held.__getitem__)
        width = np.mean([values[:, 1].mean() for values in tables.values()])
        error = np.sqrt(np.mean([(values[:, 2] ** 2).mean() for values in tables.values()]))
        lines.append(
            f"| {what} | {np.mean(list(held.values())):.0f} % | {held[worst]:.0f} % ({worst}) | {width:.1f} "
            f"| {error:.1f} |"
        )
    return "\n".join(lines)


def told(trials: Sequence[Trial], others: dict[str, Others]) -> str:
    """Return a table: what the advice expected to lose, and what it lost, on sets left out.

    What it lost contains the chance of the test images, which what was expected does not.
    """
    lines = [
        "| | expected, mean | lost, mean | worst set expected | worst set lost |",
        "|---|---|---|---|---|",
    ]
    for what, some in (("all", trials), ("tasks", [t for t in trials if is_task(t)])):
        expected: dict[str, list[float]] = {}
        lost: dict[str, list[float]] = {}
        for trial in some:
            model = others[trial.set].model
            tried = [name for name in trial.accuracy if name in model.strategies]
            pick = ours(trial, tried, others[trial.set])
            regret = model.regret_by_set(trial.facts, pick, tried)
            expected.setdefault(trial.set, []).append(100 * statistics.mean(regret.values()))
            best = max(trial.accuracy[name] for name in tried)
            lost.setdefault(trial.set, []).append(100 * (best - trial.accuracy[pick]))
        means = [[statistics.mean(values) for values in rows.values()] for rows in (expected, lost)]
        lines.append(
            f"| {what} | {np.mean(means[0]):.2f} | {np.mean(means[1]):.2f} | {max(means[0]):.1f} "
            f"| {max(means[1]):.1f} |"
        )
    return "\n".join(lines)


def ablation(trials: Sequence[Trial]) -> str:
    """Return a table: regret by forecast alone, and errors, with a piece of evidence less or more."""
    used = forecast.EVIDENCE
    variants: dict[str, Evidence] = {"as it is": used}
    variants |= {f"without {n}": {k: v for k, v in used.items() if k != n} for n in used}
    variants |= {f"with {n}": {**used, n: of} for n, of in UNUSED.items()}
    lines = ["| evidence | regret by forecast | worst set | error |", "|---|---|---|---|"]
    lines += [f"| {name} | {_left_out(trials, evidence=evidence)} |" for name, evidence in variants.items()]
    lines += ["", "| penalty of leads, of the level (sets) | regret by forecast | worst set | error |"]
    lines.append("|---|---|---|---|")
    for shrink in PENALTIES:
        for level in PENALTIES[::2]:
            capped = [min(value, 1e9) for value in (shrink, level)]
            lines.append(f"| {shrink:g}, {level:g} | {_left_out(trials, *capped)} |")
    return "\n".join(lines)


def _left_out(
    trials: Sequence[Trial],
    shrink: float = forecast.SHRINK,
    level: float = forecast.SHRINK_LEVEL,
    evidence: Evidence | None = None,
    without: Sequence[str] = (),
) -> str:
    """Return regret by forecast, worst set and root mean square error, on sets left out."""
    regret, error = {}, {}
    for name in sorted({trial.set for trial in trials}):
        model = fit([t for t in trials if t.set != name], shrink, level, evidence)
        own = [t for t in trials if t.set == name]
        lost, wrong = [], []
        for trial in own:
            reached = {n: a for n, a in trial.accuracy.items() if n not in without}
            values = {e.strategy: e.accuracy for e in model.forecasts(trial.facts) if e.strategy in reached}
            lost.append(max(reached.values()) - reached[max(values, key=values.__getitem__)])
            wrong += [(reached[n] - value) ** 2 for n, value in values.items()]
        regret[name], error[name] = 100 * statistics.mean(lost), statistics.mean(wrong)
    worst = max(regret, key=regret.__getitem__)
    return (
        f"{statistics.mean(regret.values()):.2f} | {regret[worst]:.1f} ({worst}) "
        f"| {100 * math.sqrt(statistics.mean(error.values())):.1f}"
    )


def starts(trials: Sequence[Trial]) -> str:
    """Return a table: coverage, and regret by forecast, by what the frozen network is judged with."""
    lines = ["| start | held | mean width, points | error | regret by forecast |", "|---|---|---|---|---|"]
    for what, probed in (("probes of the best stages", False), ("linear_probe, out of fold", True)):
        some = trials
        if not probed:
            some = [replace(t, facts=replace(t.facts, linear_probe=None)) for t in trials]
        rows: dict[str, list[tuple[float, ...]]] = {}
        lost: dict[str, list[float]] = {}
        for name in sorted({t.set for t in some}):
            model = fit([t for t in some if t.set != name])
            for trial in (t for t in some if t.set == name):
                values = {}
                for row, e in enumerate(model.forecasts(trial.facts)):
                    if e.strategy in trial.accuracy:
                        error = trial.accuracy[e.strategy] - e.accuracy
                        half = model.half_width(row, trial.facts, trial.test_variance)
                        rows.setdefault(name, []).append((abs(error) <= half, e.high - e.low, error**2))
                        values[e.strategy] = e.accuracy
                picked = trial.accuracy[max(values, key=values.__getitem__)]
                lost.setdefault(name, []).append(max(trial.accuracy.values()) - picked)
        held, width, square = np.mean([np.mean(some, axis=0) for some in rows.values()], axis=0)
        regret = statistics.mean(map(statistics.mean, lost.values()))
        lines.append(
            f"| {what} | {100 * held:.0f} % | {100 * width:.1f} | {100 * math.sqrt(square):.1f} "
            f"| {100 * regret:.2f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Heard(Facts):
    """Facts with what a short run of a task reached, 0–1."""

    short: float = 0.0
    starts_at: float | None = None

    @property
    def frozen(self) -> float:
        """What forecasts start from."""
        return super().frozen if self.starts_at is None else self.starts_at


def short_run(trials: Sequence[Trial]) -> str:
    """Return a table: what a short run would be worth as evidence, on tasks.

    The short run's accuracy is that on test, which nobody has before: more than it can be worth.
    """
    tasks = [t for t in trials if is_task(t)]

    def heard(**more: Callable[[Trial], float]) -> list[Trial]:
        return [
            replace(t, facts=Heard(**vars(t.facts), **{key: of(t) for key, of in more.items()}))
            for t in tasks
        ]

    gain: Evidence = {"short run": lambda facts: facts.short - facts.frozen}  # type: ignore[attr-defined]
    validated = [t for t in tasks if t.val_accuracy[SHORT] is not None]
    rows = {
        "as it is": (tasks, forecast.EVIDENCE),
        "with what the short run gained (on test)": (
            heard(short=lambda t: t.accuracy[SHORT]),
            {**forecast.EVIDENCE, **gain},
        ),
        "starting from the short run (on test)": (
            heard(starts_at=lambda t: t.accuracy[SHORT]),
            forecast.EVIDENCE,
        ),
        "tasks with a val set, as it is": (validated, forecast.EVIDENCE),
        "tasks with a val set, with what the short run gained (on val)": (
            [replace(t, facts=Heard(**vars(t.facts), short=t.val_accuracy[SHORT] or 0.0)) for t in validated],
            {**forecast.EVIDENCE, **gain},
        ),
    }
    lines = [
        f"| evidence, {len(tasks)} tasks | regret by forecast | worst set | error |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {_left_out(some, evidence=evidence, without=[SHORT])} |"
        for name, (some, evidence) in rows.items()
        if len({t.set for t in some}) > forecast.FEWEST_SETS
    ]
    return "\n".join(lines)


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


def picks(trials: Sequence[Trial], others: dict[str, Others]) -> str:
    """Show what is recommended for each cell by advice that never saw the set."""
    lines = ["| model, px | set | a class | draws | recommended | best (mean) |", "|---|---|---|---|---|---|"]
    cells = cells_of(trials)
    for key, cell in sorted(cells.items(), key=lambda item: item[0]):
        names = dict.fromkeys(ours(t, tried_in(cell), others[key[2]]) for t in cell)
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
    parser.add_argument("--tasks", type=Path, help="tasks.jsonl to be read in place of the packaged one")
    arguments = parser.parse_args()
    trials = read_experience(arguments.experience, arguments.tasks)
    trials = [t for t in trials if len(t.accuracy) > 1]
    cells = cells_of(trials)
    drawn = {key: cell for key, cell in cells.items() if len(cell) > 1}
    others = others_of(trials)
    tasks = sum(map(is_task, trials))
    print(f"{len(trials)} trials, {tasks} of them tasks, in {len(cells)} cells of {len(others)} sets\n")
    whole = Others(tuple(trials))
    print(f"Default: {whole.model.default}. Departing from the default of the other sets gained, by set:")
    for name, model in whole.variants.items():
        gains = ", ".join(f"{100 * gain:+.1f}" for gain in model.departure_gains)
        print(f"  {name}: {gains} points; departs: {model.departs_from_default}")
    print(f"Chosen in `nested`: { ({name: other.nested or 'constant' for name, other in others.items()}) }")
    print(f"\nConstants\n\n{constants(trials)}")
    parts = {
        "": cells,
        ", old trials": {k: c for k, c in cells.items() if not is_task(c[0])},
        ", tasks": {k: c for k, c in cells.items() if is_task(c[0])},
    }
    for part, some in parts.items():
        for title, share in (("No budget", float("inf")), ("A quarter", 1 / 4), ("A sixteenth", 1 / 16)):
            if some:
                print(f"\n{title}{part}\n\n{table(some, others, share)[0]}")
    print(f"\n80 % intervals\n\n{coverage(trials, others)}\n\n{ablation(trials)}")
    print(f"\nExpected loss\n\n{told(trials, others)}")
    print(f"\nWhat forecasts start from\n\n{starts(trials)}")
    print(f"\nA short run\n\n{short_run(trials)}")
    base = whole.model.bases[whole.model.default] or whole.model.default  # which old trials have
    print(f"\nRank correlation with what {base} gains\n\n{thawing(trials, base)}")
    print(f"\n{picks([t for cell in drawn.values() for t in cell], others)}")


if __name__ == "__main__":
    main()
