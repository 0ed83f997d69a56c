"""Earlier trials: strategies on real image sets, with what was measured before training.

`experience/outcomes.jsonl` holds one run per line, `experience/signals.jsonl` the output of `measure` for the
same training images; benchmarks/experience.py writes both. `experience/tasks.jsonl` holds one small task per
line, runs and signals together; benchmarks/tasks.py writes it. Imports no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROBED = ("accuracy", "effective_images")  # what a task says of `linear_probe`
HOME = Path(__file__).parent / "experience"
TASK = ("model", "size", "set", "per_class", "seed")
BEST_STAGES = 3  # whose mean accuracy is the frozen network's: the best of many flatters itself


@dataclass(frozen=True)
class Facts:
    """What advice is based on, measured before any training. Rates are fractions 0–1.

    Parameters
    ----------
    images
        Number of training images.
    classes
        Number of classes.
    similarity
        Similarity of the images to the network's pretraining.
    probe
        Out-of-fold accuracy of a probe on the last stage.
    peak
        How much better the best stage's probe is.
    slope
        Gain of the probe by doubling the images.
    stages
        Out-of-fold accuracy of a probe after each stage.
    linear_probe
        Out-of-fold accuracy of `linear_probe`, which reads several stages at once; `None` if unknown.
    measured
        Independent images that say as much of `frozen` as those that it was evaluated on; `None` for all
        training images, each by itself.
    """

    images: int
    classes: int
    similarity: float
    probe: float
    peak: float
    slope: float
    stages: tuple[float, ...] = ()
    linear_probe: float | None = None
    measured: float | None = None

    @property
    def frozen(self) -> float:
        """What the frozen network gets right, out of fold, 0–1: `linear_probe`, else `best_stages`."""
        return self.best_stages if self.linear_probe is None else self.linear_probe

    @property
    def best_stages(self) -> float:
        """Mean accuracy of the probes of the best three stages, 0–1."""
        if not self.stages:
            return self.probe
        best = sorted(self.stages)[-BEST_STAGES:]
        return sum(best) / len(best)

    @property
    def depth_gain(self) -> float:
        """How far `best_stages` lies above the last stage alone."""
        return self.best_stages - (self.stages[-1] if self.stages else self.probe)

    @property
    def probe_variance(self) -> float:
        """Variance of `frozen` by the chance of which images were measured: p (1 − p) / n."""
        count = max(1, self.measured or self.images)
        share = min(max(self.frozen, 1 / (count + 2)), 1 - 1 / (count + 2))  # never 0: so few prove nothing
        return share * (1 - share) / count


@dataclass(frozen=True)
class Trial:
    """One sample of training images: its facts, and accuracy (0–1) and seconds of each strategy.

    `tested` is the number of test images, 0 for so many that their chance need not count; `scores` holds
    transferability scores, "log_me" and "h_score", a value per stage.
    """

    model: str
    size: int
    set: str
    per_class: int
    seed: int
    facts: Facts
    accuracy: Mapping[str, float]
    val_accuracy: Mapping[str, float | None]
    seconds: Mapping[str, float]
    tested: int = 0
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def test_variance(self) -> float:
        """Variance of the accuracies by the chance of which images were tested: p (1 − p) / n."""
        if not self.tested:
            return 0.0
        share = sum(self.accuracy.values()) / len(self.accuracy)
        share = min(max(share, 1 / (self.tested + 2)), 1 - 1 / (self.tested + 2))
        return share * (1 - share) / self.tested


def facts_of(signals: Mapping[str, Any], images: int) -> Facts | None:
    """Return the facts in signals as plain data; `None` if similarity or probes are missing."""
    stages, curve = signals["probe_by_stage"], signals["learning_curve"]
    several = signals.get("linear_probe")
    if signals["similarity"] is None or not stages or not curve or several is None:
        return None
    best, last = max(row["accuracy"] for row in stages), stages[-1]["accuracy"]
    return Facts(
        images,
        int(signals["n_classes"]),
        float(signals["similarity"]["value"]),
        float(curve[-1]["accuracy"]),
        float(best - last),
        float(curve[-1]["accuracy"] - curve[-2]["accuracy"]),
        tuple(float(row["accuracy"]) for row in stages),
        float(several["accuracy"]),
        float(several["effective_images"]),
    )


def read_experience(folder: Path = HOME, tasks: Path | None = None) -> list[Trial]:
    """Return every trial that has both signals and outcomes, and the small tasks.

    Parameters
    ----------
    folder
        Holds the trials, and `tasks.jsonl` if there is one.
    tasks
        Another file of tasks to read in its place.
    """
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in _rows(folder / "outcomes.jsonl"):
        runs.setdefault(tuple(row[key] for key in TASK), []).append(row)
    trials = []
    for row in read_signals(folder):
        outcomes = runs.get(tuple(row[key] for key in TASK), [])
        facts = facts_of(row, outcomes[0]["n_train"]) if outcomes else None
        if facts is None:
            continue
        trials.append(
            Trial(
                **{key: row[key] for key in TASK},
                facts=facts,
                accuracy={r["strategy"]: r["accuracy"] for r in outcomes},
                val_accuracy={r["strategy"]: r["val_accuracy"] for r in outcomes},
                seconds={r["strategy"]: r["seconds"] for r in outcomes},
                tested=outcomes[0]["n_test"],
                scores={key: tuple(p[key] for p in row["probe_by_stage"]) for key in ("log_me", "h_score")},
            )
        )
    tasks = folder / "tasks.jsonl" if tasks is None else tasks
    return trials + (read_tasks(tasks) if tasks.exists() else [])


def read_tasks(path: Path) -> list[Trial]:
    """Return the trials in a file of small tasks, those of which too little could be measured left out.

    Raises `ValueError` where a task stands there twice: it would count twice.
    """
    rows = _rows(path)
    numbers = Counter((row["recipe"], row["task"]) for row in rows)
    if twice := [task for task, count in numbers.items() if count > 1]:
        raise ValueError(
            f"{path} has {len(twice)} tasks twice, such as task {twice[0][1]}. Remove the copies."
        )
    return [trial for row in rows if (trial := _of_task(row))]


def _of_task(row: Mapping[str, Any]) -> Trial | None:
    """Return the trial that a line of `tasks.jsonl` describes; `None` if too little could be measured."""
    known, runs = row["signals"], row["runs"]
    facts = facts_of(
        {
            "n_classes": known["n_classes"],
            "n_measured": known["n_measured"],
            "similarity": None if known["similarity"] is None else {"value": known["similarity"]},
            "probe_by_stage": [{"accuracy": value} for value in known["probes"]],
            "linear_probe": dict(zip(PROBED, known["linear_probe"], strict=True)),
            "learning_curve": [{"accuracy": accuracy} for _, accuracy in known["curve"]],
        },
        row["n_train"],
    )
    if facts is None:
        return None
    return Trial(
        model=row["model"],
        size=row["size"],
        set=row["set"],
        per_class=round(facts.images / facts.classes),
        seed=row["task"],
        facts=facts,
        accuracy={name: accuracy for name, (accuracy, _, _) in runs.items()},
        val_accuracy={name: val for name, (_, val, _) in runs.items()},
        seconds={name: seconds for name, (_, _, seconds) in runs.items()},
        tested=row["n_test"],
        scores={key: tuple(known[key]) for key in ("log_me", "h_score")},
    )


def read_signals(folder: Path = HOME) -> list[dict[str, Any]]:
    """Return the signals of every trial, as plain data."""
    return _rows(folder / "signals.jsonl")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
