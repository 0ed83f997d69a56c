"""What was tried: strategies with their learning rates on real image sets, and what the images said before.

`experience/outcomes.jsonl` holds a run a line, `experience/signals.jsonl` what `measure` said of the same
training images; benchmarks/experience.py writes both. Imports no torch.
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
    """What advice looks at, known before any training. Rates are fractions 0–1.

    `probe` is the out-of-fold accuracy of a probe on the last stage, `peak` how far the best stage's lies
    above it, `slope` what doubling the images brought it.
    """

    images: int  # of the training part
    classes: int
    similarity: float
    probe: float
    peak: float
    slope: float


@dataclass(frozen=True)
class Trial:
    """One draw of training images: what was known, and how each strategy did (accuracy 0–1, seconds)."""

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
    """Pick the facts out of signals as plain data; `None` where similarity or probes are missing."""
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
    """Return every draw that was measured and tried."""
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in _rows(folder / "outcomes.jsonl"):
        runs.setdefault(tuple(row[key] for key in TASK), []).append(row)
    trials = []
    for row in read_signals(folder):
        mine = runs.get(tuple(row[key] for key in TASK), [])
        facts = facts_of(row, mine[0]["n_train"]) if mine else None
        if facts is None:
            continue
        trials.append(
            Trial(
                **{key: row[key] for key in TASK},
                facts=facts,
                accuracy={r["strategy"]: r["accuracy"] for r in mine},
                val_accuracy={r["strategy"]: r["val_accuracy"] for r in mine},
                seconds={r["strategy"]: r["seconds"] for r in mine},
            )
        )
    return trials


def read_signals(folder: Path = HOME) -> list[dict[str, Any]]:
    """Return what `measure` said of every draw, as plain data."""
    return _rows(folder / "signals.jsonl")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
