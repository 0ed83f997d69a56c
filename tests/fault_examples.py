"""What tests of faults share: quick options, a strategy with phases, and when two runs are the same."""

from __future__ import annotations

from typing import Any

import frostline

FAST: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGY = "gradual_unfreeze(2, epochs=6)"


def untimed(run: frostline.Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.folder.metrics()]


def same(one: frostline.Run, other: frostline.Run) -> bool:
    figures = ("accuracy", "val_accuracy", "log_loss", "steps", "best_epoch", "temperature", "notes")
    answers = [(run.folder.path / "predictions-test.csv").read_bytes() for run in (one, other)]
    return (
        one.folder.weights.read_bytes() == other.folder.weights.read_bytes()
        and untimed(one) == untimed(other)
        and answers[0] == answers[1]
        and all(one.result[key] == other.result[key] for key in figures)
    )
