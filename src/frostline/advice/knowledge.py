"""Earlier trials: strategies on real image sets, with what was measured before training.

`experience/outcomes.jsonl` holds one run per line, `experience/signals.jsonl` the output of `measure` for the
same training images; benchmarks/experience.py writes both. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent / "experience"
TASK = ("model", "size", "set", "per_class", "seed")


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
    """

    images: int
    classes: int
    similarity: float
    probe: float
    peak: float
    slope: float


@dataclass(frozen=True)
class Trial:
    """One sample of training images: its facts, and accuracy (0–1) and seconds of each strategy."""

    model: str
    size: int
    set: str
    per_class: int
    seed: int
    facts: Facts
    accuracy: Mapping[str, float]
    val_accuracy: Mapping[str, float | None]
    seconds: Mapping[str, float]


def facts_of(signals: Mapping[str, Any], images: int) -> Facts | None:
    """Return the facts in signals as plain data; `None` if similarity or probes are missing."""
    stages, curve = signals["probe_by_stage"], signals["learning_curve"]
    if signals["similarity"] is None or not stages or not curve:
        return None
    best, last = max(row["accuracy"] for row in stages), stages[-1]["accuracy"]
    return Facts(
        images,
        int(signals["n_classes"]),
        float(signals["similarity"]["value"]),
        float(curve[-1]["accuracy"]),
        float(best - last),
        float(curve[-1]["accuracy"] - curve[-2]["accuracy"]),
    )


def read_experience(folder: Path = HOME) -> list[Trial]:
    """Return every trial that has both signals and outcomes."""
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
            )
        )
    return trials


def read_signals(folder: Path = HOME) -> list[dict[str, Any]]:
    """Return the signals of every trial, as plain data."""
    return _rows(folder / "signals.jsonl")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
