"""Everything that one call of `compare` asked for, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.backbone import Backbone
from frostline.comparison.candidates import Candidate
from frostline.dataset import Manifest
from frostline.images import Tell
from frostline.record import Study, digest_of
from frostline.timing import Stopwatch
from frostline.tracking import Trackers

REPEATS = 3  # before a winner is named


@dataclass(frozen=True)
class Asked:
    """Everything that was asked for in one call. `options` are those of `train`, the same for every run."""

    backbones: Mapping[str, Backbone]  # by a candidate's `model`: its name, empty where there is one alone
    data: Manifest
    candidates: list[Candidate]
    study: Study
    minutes: float | None
    repeats: int
    thorough: bool  # every candidate on every repeat, and the shallowest thaw wins where it isn't separated
    database: str | None
    seed: int
    named: dict[str, Any]  # strategies and search, as they were asked for
    options: dict[str, Any]
    trackers: Trackers
    watch: Stopwatch
    tell: Tell | None
    say: Callable[[str], None]
    interpolate: float | str | None = None  # how far the winner goes back: a share, or "auto"

    @property
    def alone(self) -> bool:
        """Whether one network races alone, by its strategies."""
        return "" in self.backbones

    @property
    def folder(self) -> Path:
        """Where the plan, the trials and the outcome lie: by what makes two comparisons the same.

        With more minutes it is still the same one: the race is planned anew, and what was run counts.
        """
        network = {
            name: {"model": one.digest, "preprocessing": one.preprocessing.as_dict()}
            for name, one in self.backbones.items()
        }
        what = {
            "candidates": [c.as_list() for c in self.candidates],
            **(network[""] if self.alone else {"models": network}),
            "repeats": self.repeats,
            "seed": self.seed,
            "thorough": self.thorough,
            **({} if self.interpolate is None else {"interpolate": self.interpolate}),
            **{key: value for key, value in self.options.items() if key not in ("threads", "workers")},
        }
        return self.study.path / "comparisons" / digest_of(what)[:12]
