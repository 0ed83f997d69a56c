"""Everything that was asked for in one call of `train`, checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from frostline import metrics
from frostline.augment import FLIPS, Policy
from frostline.backbone import Backbone
from frostline.dataset import Manifest
from frostline.errors import UsageError, did_you_mean
from frostline.images import Images
from frostline.inference import Tell
from frostline.record import digest_of
from frostline.seeds import derive
from frostline.strategy import Segment, Strategy, schedule, settings
from frostline.training.imbalance import Balance


@dataclass(frozen=True)
class Request:
    """Everything that was asked for in one call of `train`."""

    backbone: Backbone
    data: Manifest
    strategy: Strategy
    seed: int
    metric: str
    augment: str
    custom: Callable[[Image.Image], Any] | None
    flip: str
    imbalance: str
    batch: int
    exact: bool
    threads: int | None
    workers: int
    tell: Tell | None

    def config(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        return {
            "strategy": str(self.strategy),
            "settings": asdict(settings(self.strategy)),
            "model": self.backbone.name,
            "weights": self.backbone.digest,
            "source": self.backbone.source,
            "preprocessing": self.backbone.preprocessing.as_dict(),
            "classes": list(self.data.classes),
            "data": self.data.digest,
            "split": self.data.split_digest,
            "seed": self.seed,
            "metric": self.metric,
            "augment": self.augment if self.custom is None else _identity(self.custom),
            "flip": self.flip,
            "imbalance": self.imbalance,
            "batch": self.batch,
            "exact": self.exact,
        }

    def segments(self) -> tuple[Segment, ...]:
        """The phases, made concrete for this backbone and this number of training images."""
        return schedule(
            self.strategy,
            stages=len(self.backbone.stages),
            images=len(self.data.part("train")),
            batch=self.batch,
        )

    def images(self, part: str, policy: Policy | None = None) -> Images:
        """The pixels of one part; without a policy, as the checkpoint's evaluation transform gives them."""
        return Images(
            self.data,
            self.data.part(part),
            self.backbone.preprocessing,
            policy=policy,
            custom=self.custom if policy is not None and policy.name == "custom" else None,
            seed=derive(self.seed, "augment"),
        )

    def check(self) -> None:
        """Refuse what makes no sense before anything is computed."""
        known = {
            "metric": (self.metric, metrics.METRICS),
            "flip": (self.flip, FLIPS),
        }
        wrong = [
            f"{key} must be one of {', '.join(words)}, found {value!r}.{did_you_mean(value, words)}"
            for key, (value, words) in known.items()
            if value not in words
        ]
        if self.batch < 1:
            wrong.append(f"batch must be at least 1, found {self.batch}.")
        if self.batch == 1 and settings(self.strategy).bn in ("train", "recalibrate"):
            wrong.append("BatchNorm in training needs batches of 2 or more images, found batch=1.")
        if self.threads is not None and self.threads < 1:
            wrong.append(f"threads must be at least 1, found {self.threads}.")
        if wrong:
            raise UsageError(" ".join(wrong))
        Policy(self.augment)
        Balance(self.imbalance, np.zeros(1, dtype=np.int64), 1)


def _identity(function: Callable[..., Any]) -> str:
    """Name a callable so that two different ones are two different configurations, as far as can be told."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt, or written in C
        source = ""
    state = "" if kind is function else repr(sorted(vars(function).items(), key=str))
    return f"custom {kind.__module__}.{kind.__qualname__} {digest_of([source, state])[:16]}"
