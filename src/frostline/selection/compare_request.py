"""The options of one call of `compare`, and the folder of its results."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline import metrics
from frostline.config import AUTO_BATCH, BATCH, REPEATS, Config
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.loggers import Loggers
from frostline.models import Backbone
from frostline.progress import Progress
from frostline.selection.candidates import Candidate
from frostline.selection.significance import Lead, Leads
from frostline.strategies import Strategy, batch_size
from frostline.studies.best_run import PassedOver
from frostline.studies.study_folder import Study, digest_of, plain
from frostline.system import devices
from frostline.system.timing import Stopwatch
from frostline.training.train_request import metric_identity


@dataclass(frozen=True)
class EarlierRuns:
    """Candidates that joined from earlier runs, and the runs that did not join, with reasons."""

    joined: tuple[Candidate, ...] = ()
    apart: tuple[PassedOver, ...] = ()

    def lines(self) -> list[str]:
        """Return lines for a person."""
        names = ", ".join(map(str, self.joined))
        runs = "; ".join(map(str, self.apart))
        return [
            *([f"Also compared, trained in this study before: {names}."] if names else []),
            *([f"Also trained in this study, and not compared: {runs}."] if runs else []),
        ]


@dataclass(frozen=True)
class CompareRequest:
    """One call of `compare`. `config` holds the options, the same for every run.

    The last of the `candidates` are those that joined from earlier runs.
    """

    backbones: Mapping[str, Backbone]  # by a candidate's `model`: its name, "" if there is a single one
    data: Manifest
    candidates: list[Candidate]
    study: Study
    config: Config
    thorough: bool  # `cuts`: every candidate on every repeat; the fewest unfrozen layers win a tie
    database: str | None
    named: dict[str, Any]  # strategies and search, as given
    loggers: Loggers
    watch: Stopwatch
    cache: FeatureCache
    progress: Progress
    earlier: EarlierRuns = field(default_factory=EarlierRuns)
    joins: bool = True  # whether strategies of earlier runs may join
    leads: Mapping[tuple[str, str], Lead] = field(default_factory=dict)  # by notation, from earlier trials

    @functools.cached_property
    def metric(self) -> metrics.Metric:
        """What decides, as `metrics.score` takes it."""
        return metrics.resolved(self.config.metric, self.data.classes, self.config.positive)

    @property
    def leads_by_index(self) -> Leads:
        """What earlier trials say of candidates that differ in their strategies alone; of accuracy only."""
        if self.metric != "accuracy" or not self.single_network:
            return {}
        names = {
            i: str(c.strategy) for i, c in enumerate(self.candidates) if c.augment == self.config.augment
        }
        return {
            (i, j): self.leads[names[i], names[j]]
            for i, j in itertools.permutations(names, 2)
            if (names[i], names[j]) in self.leads
        }

    @property
    def single_network(self) -> bool:
        """Whether there is a single backbone."""
        return "" in self.backbones

    @property
    def own(self) -> list[Candidate]:
        """The candidates that the call named or drew."""
        return self.candidates[: len(self.candidates) - len(self.earlier.joined)]

    @property
    def run_config(self) -> Config:
        """The options of each run; its seed, its augmentation and whether it goes back come with it."""
        config = replace(self.config, resize=None, minutes=None, interpolate_weights=None, repeats=REPEATS)
        positive = self.config.positive if isinstance(self.metric, metrics.Sensitivity) else None
        return replace(config, positive=positive, min_recall=None, min_precision=None, costs=None)

    def batch(self, images: int, strategy: Strategy | None = None) -> int:
        """Return the images a step of a run that trains on so many images, on this device."""
        strategy = strategy or Strategy("full")
        kind = devices.current().type
        return batch_size(self.config.batch_size, strategy, images=images, kind=kind).images

    @property
    def options(self) -> dict[str, Any]:
        """The options that change what runs learn, as plain data; new ones only where they were given."""
        config = self.config
        auto = config.batch_size == AUTO_BATCH
        # The default is written as before it was a rule, so that digests stay; the same number that was given
        # is another comparison where the rule takes another one.
        given = not auto and config.batch_size == BATCH and self._rule() != BATCH
        return {
            **metric_identity(config, self.metric),
            "flip": config.flip,
            **({} if config.min_crop is None else {"min_crop": config.min_crop}),
            **({} if config.rotate == "none" else {"rotate": config.rotate}),
            **({} if config.patience is None else {"patience": config.patience}),
            "imbalance": config.imbalance,
            "batch_size": BATCH if auto else config.batch_size,
            **({"batch_given": True} if given else {}),
            "deterministic": config.deterministic,
            "precision": config.precision,
            **({} if config.compile == "auto" else {"compile": config.compile}),
        }

    def _rule(self) -> int:
        """Return the images a step that the rule would choose here."""
        images, kind = len(self.data.subset("train")), devices.current().type
        return batch_size(AUTO_BATCH, Strategy("full"), images=images, kind=kind).images

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings that all runs share, by a candidate's `model`, as a run's config holds them."""
        named = (
            "flip",
            "imbalance",
            "batch_size",
            "min_crop",
            "rotate",
            "patience",
        )  # the last ones if given
        options = self.options
        shared = {**{key: options[key] for key in named if key in options}, "views": None}
        shared["batch_size"] = self.batch(len(self.data.subset("train")))
        settings = {
            name: {"weights": network.digest, "preprocessing": network.preprocessing.as_dict(), **shared}
            for name, network in self.backbones.items()
        }
        return dict(plain(settings))

    @property
    def folder(self) -> Path:
        """Folder of the plan, the trials and the result, named by a digest of what identifies a comparison.

        The time limit is no part of it: with more minutes the runs are planned anew, and finished runs count.
        """
        weights = {
            name: {"model": network.digest, "preprocessing": network.preprocessing.as_dict()}
            for name, network in self.backbones.items()
        }
        back = self.config.interpolate_weights
        identity = {
            "candidates": [c.as_list() for c in self.own],
            **(weights[""] if self.single_network else {"models": weights}),
            "repeats": self.config.repeats,
            "seed": self.config.seed,
            "thorough": self.thorough,
            **({} if back is None else {"interpolate_weights": back}),
            **({"earlier": False} if not self.joins else {}),
            **self.options,
        }
        return self.study.path / "comparisons" / digest_of(identity)[:12]
