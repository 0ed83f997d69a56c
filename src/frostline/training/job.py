"""All that one run's training needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frostline.data import OnProgress
from frostline.feature_cache import FeatureCache
from frostline.features import Counts
from frostline.features.image_batches import Images
from frostline.loggers import OnEpochs
from frostline.models import Backbone
from frostline.strategies import Hyperparameters, ResolvedPhase
from frostline.studies.study_folder import RunFolder
from frostline.system.timing import Stopwatch
from frostline.training.numeric_plan import Plan
from frostline.training.resilience.time_limit import Budget
from frostline.training.tuning.class_imbalance import Balance


@dataclass(frozen=True)
class Job:
    """All that one run's training needs. `rows` are the lines of its metrics, an epoch each, as they come."""

    backbone: Backbone
    phases: tuple[ResolvedPhase, ...]
    hyperparameters: Hyperparameters
    train: Images
    val: Images | None
    plan: Plan
    store: FeatureCache | None
    counts: Counts
    balance: Balance
    seed: int
    metric: str
    keep: str
    workers: int
    folder: RunFolder
    watch: Stopwatch
    budget: Budget
    progress: OnProgress | None = None
    hear: OnEpochs = lambda rows: None  # of the epochs so far, after each
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(phase.steps for phase in self.phases)

    @property
    def least(self) -> int:
        """Images that must be learned from together: batch statistics need two."""
        return 2 if self.hyperparameters.bn in ("train", "recalibrate") else 1
