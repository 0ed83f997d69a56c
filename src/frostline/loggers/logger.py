"""What a logger receives of a run, in plain data, and the protocol of loggers. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from frostline.studies.study_folder import RunFolder

LONGEST = 250  # characters of a parameter: what older MLflow servers take
LOSS = "loss"  # in every epoch: by it a logger tells how many it holds
RESULT = "result/"  # before the names of a result's figures
Parameter = bool | int | float | str


@dataclass(frozen=True)
class Tracked:
    """One run as loggers see it; `study` is the folder that their own files lie in."""

    study: Path
    folder: RunFolder
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The strategy, as far as a folder's name may hold it, and the start of the run's digest."""
        strategy = re.sub(r"[^\w().,=+@-]+", "_", self.config["strategy"])
        return f"{strategy[:80]} {self.folder.name}"

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The configuration, flat: `hyperparameters/lr` and so on."""
        return {key: _short(value) for key, value in _flat(self.config)}


class Log(Protocol):
    """One run in one logger. `epochs_logged` counts its epochs, `finished` says that it has the result."""

    epochs_logged: int
    finished: bool

    def rewind(self, done: int) -> None:
        """Resume after `done` epochs, fewer than are logged: a killed run returns to its last checkpoint."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one epoch; `step` counts from 1 through all phases."""

    def end(self, figures: Mapping[str, float]) -> None:
        """Take the figures of the result."""

    def close(self, failed: bool | None) -> None:
        """Let go; `failed` is `None` after a run that came to its end, `False` after one that was stopped."""


def figures(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers among a row's values."""
    return {
        prefix + key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _short(value: Any) -> Parameter:
    if isinstance(value, bool | int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
