"""Everything that one call of `compare` asked for, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline.config import REPEATS, Config
from frostline.data import Manifest, OnProgress
from frostline.loggers import Loggers
from frostline.models import Backbone
from frostline.selection.candidates import Candidate
from frostline.studies.best_run import PassedOver
from frostline.studies.study_folder import Study, digest_of, plain
from frostline.system.timing import Stopwatch


@dataclass(frozen=True)
class Earlier:
    """The candidates that joined the race, and the runs whose strategies are no part of it, with reasons."""

    joined: tuple[Candidate, ...] = ()
    apart: tuple[PassedOver, ...] = ()

    def lines(self) -> list[str]:
        """What a person is told."""
        names = ", ".join(map(str, self.joined))
        runs = "; ".join(map(str, self.apart))
        return [
            *([f"Also compared, trained in this study before: {names}."] if names else []),
            *([f"Also trained in this study, and not compared: {runs}."] if runs else []),
        ]


@dataclass(frozen=True)
class CompareRequest:
    """Everything that was given in one call. `config` holds the options, the same for every run.

    The last of the `candidates` are those that joined from earlier runs.
    """

    backbones: Mapping[str, Backbone]  # by a candidate's `model`: its name, empty where there is one alone
    data: Manifest
    candidates: list[Candidate]
    study: Study
    config: Config
    thorough: bool  # every candidate on every repeat, and the shallowest thaw wins where it isn't separated
    database: str | None
    named: dict[str, Any]  # strategies and search, as given
    loggers: Loggers
    watch: Stopwatch
    progress: OnProgress | None
    log: Callable[[str], None]
    earlier: Earlier = field(default_factory=Earlier)
    joins: bool = True  # whether strategies of earlier runs may join

    @property
    def alone(self) -> bool:
        """Whether one network races alone, by its strategies."""
        return "" in self.backbones

    @property
    def own(self) -> list[Candidate]:
        """The candidates that the call named or drew."""
        return self.candidates[: len(self.candidates) - len(self.earlier.joined)]

    @property
    def run_config(self) -> Config:
        """The options of each run; its seed, its augmentation and whether it goes back come with it."""
        return replace(self.config, resize=None, minutes=None, interpolate_weights=None, repeats=REPEATS)

    @property
    def options(self) -> dict[str, Any]:
        """The options that change what runs learn, as plain data; new ones only where they were given."""
        config = self.config
        return {
            "metric": config.metric,
            "flip": config.flip,
            **({} if config.min_crop is None else {"min_crop": config.min_crop}),
            **({} if config.rotate == "none" else {"rotate": config.rotate}),
            "imbalance": config.imbalance,
            "batch_size": config.batch_size,
            "deterministic": config.deterministic,
            "precision": config.precision,
        }

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What all runs share beside the strategy, by a candidate's network, as a run's config holds it."""
        named = ("flip", "imbalance", "batch_size", "min_crop", "rotate")  # the last two where given
        options = self.options
        shared = {**{key: options[key] for key in named if key in options}, "views": None}
        found = {
            name: {"weights": one.digest, "preprocessing": one.preprocessing.as_dict(), **shared}
            for name, one in self.backbones.items()
        }
        return dict(plain(found))

    @property
    def folder(self) -> Path:
        """Where the plan, the trials and the outcome lie: by what makes two comparisons the same.

        With more minutes it is still the same one: the race is planned anew, and what was run counts.
        """
        network = {
            name: {"model": one.digest, "preprocessing": one.preprocessing.as_dict()}
            for name, one in self.backbones.items()
        }
        back = self.config.interpolate_weights
        what = {
            "candidates": [c.as_list() for c in self.own],
            **(network[""] if self.alone else {"models": network}),
            "repeats": self.config.repeats,
            "seed": self.config.seed,
            "thorough": self.thorough,
            **({} if back is None else {"interpolate_weights": back}),
            **({"earlier": False} if not self.joins else {}),
            **self.options,
        }
        return self.study.path / "comparisons" / digest_of(what)[:12]
