"""One call of `train`, checked before anything is computed."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from frostline import metrics
from frostline.config import AUTO_BATCH, BATCH, Config
from frostline.data import Manifest
from frostline.data.decoding_threads import workers_fault
from frostline.distributed import process_group
from frostline.errors import UsageError, did_you_mean, option
from frostline.feature_extraction.augmentation import FLIPS, Policy, check_options
from frostline.feature_extraction.image_batches import PIXELS, Images, Room
from frostline.models import Backbone
from frostline.models.cutting.prefix_digest import code_digest
from frostline.models.resizing import VERSION as FAST_VERSION
from frostline.models.stage_statistics import stage_taps
from frostline.progress import QUIET, Progress
from frostline.strategies import (
    LATER,
    SEVERAL,
    BatchSize,
    ResolvedPhase,
    Strategy,
    batch_size,
    continued,
    hyperparameters,
    patience_fault,
    schedule,
)
from frostline.strategies.overrides import unused_options
from frostline.studies.operating_point import OperatingTarget, demand_class
from frostline.studies.study_folder import CUSTOM, digest_of
from frostline.system import compiling, devices, numerics
from frostline.system.numerics import PRECISIONS
from frostline.system.seeds import derive
from frostline.system.timing import Stopwatch
from frostline.training.continuation import Parent
from frostline.training.techniques.class_imbalance import Balance

# What to do with rows of frozen layers: decide from rates, keep them all, or compute them each time.
CACHE = ("auto", "keep", "compute")
# Which weights a run ends with: the best on val, or the last, which leaves val free to judge by.
KEEP = ("best", "last")

# Pixels of test images that stay in memory for pictures of mistakes and for thumbnails: 850 images at 224 px.
# A choice; of what is over it those that are shown are decoded again.
HELD_TEST_BYTES = 128_000_000


@dataclass(frozen=True)
class Subsets:
    """The images of each subset: pixels that one pass holds in memory are there for the next one."""

    train: Images
    val: Images
    test: Images


@dataclass(frozen=True)
class TrainRequest:
    """One call of `train`."""

    backbone: Backbone
    data: Manifest
    strategy: Strategy
    config: Config = field(default_factory=Config)
    progress: Progress = QUIET
    since: Stopwatch | None = None  # when the minutes began, where that was before the run
    parent: Parent | None = None  # the run that this one continues from
    settled: BatchSize | None = None  # the batch size, where it was chosen before: of a run that goes on

    @property
    def custom(self) -> Callable[[Image.Image], Any] | None:
        """The caller's own augmentation, where `augment` is a callable."""
        return self.config.augment if callable(self.config.augment) else None

    @property
    def augment(self) -> str:
        """The name of the augmentation; "custom" where `augment` is a callable."""
        return "custom" if callable(self.config.augment) else self.config.augment

    @functools.cached_property
    def metric(self) -> metrics.Metric:
        """What choices are made by, as `metrics.score` takes it."""
        return metrics.resolved(self.config.metric, self.data.classes, self.config.positive)

    @functools.cached_property
    def batch(self) -> BatchSize:
        """Images a step, and how the learning rate follows: as given, or by the rule for this device."""
        return self.settled or batch_size(
            self.config.batch_size,
            self.strategy,
            images=len(self.data.subset("train")),
            kind=devices.current().type,
            lr_given=self.parent is not None,
        )

    @property
    def pixels(self) -> str:
        """The class of the pixels of training images, and of folds over them: "fast" or "reference"."""
        return self.images("train", Policy(self.augment)).pixels

    @functools.cached_property
    def _code(self) -> dict[str, str]:
        """What a caller's own module does: its name and weights alone don't say."""
        own = self.backbone.source.get("kind") == "module"
        return {"code": code_digest(self.backbone.model)} if own else {}

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run. What is new in it is there only where asked for: digests stay."""
        unused = set(unused_options(self.config.changed(), [self.strategy])) - {"augment"}
        config = replace(self.config, **{name: getattr(Config, name) for name in unused})
        known = hyperparameters(self.strategy)
        return {
            "strategy": str(self.strategy),
            "hyperparameters": {
                key: value for key, value in asdict(known).items() if key not in LATER or value != LATER[key]
            },
            "model": self.backbone.name,
            "weights": self.backbone.digest,
            "source": self.backbone.source,
            **self._code,
            "preprocessing": self.backbone.preprocessing.as_dict(),
            "classes": list(self.data.classes),
            "data": self.data.digest,
            "split": self.data.split_digest,
            "seed": config.seed,
            **metric_identity(config, self.metric),
            "augment": self.augment if self.custom is None else _identity(self.custom),
            "flip": config.flip,
            "imbalance": config.imbalance,
            "batch_size": BATCH if "batch_size" in unused else self.batch.images,
            "deterministic": config.deterministic,
            "precision": config.precision,
            "views": config.views,
            **({} if self.data.rendering.plain else {"rendering": self.data.rendering.as_dict()}),
            **({} if config.min_crop is None else {"min_crop": config.min_crop}),
            **({} if config.rotate == "none" else {"rotate": config.rotate}),
            **({} if self.parent is None else {"parent": self.parent.as_dict()}),
            **({} if self.batch.lr_factor == 1.0 else {"lr_factor": self.batch.lr_factor}),
            **({} if self.pixels == "reference" else {"pixels": f"fast {FAST_VERSION}"}),
            **({} if config.compile == "auto" else {"compile": config.compile}),
            **({} if config.minutes is None else {"minutes": config.minutes}),
            **({} if config.keep == "best" else {"keep": config.keep}),
            **({} if config.patience is None else {"patience": config.patience}),
            **({} if config.stop_after is None else {"stop_after": config.stop_after}),
            **({} if config.temperature is None else {"temperature": config.temperature}),
            **(
                {}
                if config.interpolate_weights is None
                else {"interpolate_weights": config.interpolate_weights}
            ),
        }

    def phases(self) -> tuple[ResolvedPhase, ...]:
        """The phases, made concrete for this backbone and this number of training images."""
        if self.parent is not None:
            return continued(
                self.strategy,
                cut=self.parent.cut,
                images=len(self.data.subset("train")),
                batch=self.batch.images,
                epochs=self.parent.extra_epochs,
                lr=self.parent.lr,
            )
        return schedule(
            self.strategy,
            stages=len(self.backbone.stages),
            images=len(self.data.subset("train")),
            batch=self.batch.images,
            lr_factor=self.batch.lr_factor,
        )

    @property
    def order_seed(self) -> int:
        """The seed of orders and dropout: a run that continues does not repeat those of its parent."""
        parent, seed = self.parent, self.config.seed
        return seed if parent is None else derive(seed, "continue", parent.weights)

    @property
    def taken_away(self) -> bool:
        """Whether this may be a model to be taken away: a race's runs have a val set and no test set."""
        return bool(self.data.subset("test")) or not self.data.subset("val")

    @property
    def _cuts(self) -> bool:
        """Whether the strategy freezes anything, or starts from a head that is solved for on features."""
        if not self.strategy.trains or hyperparameters(self.strategy).head_init == "probe":
            return True
        whole = schedule(self.strategy, stages=len(self.backbone.stages), images=1, batch=1)
        return any(phase.cut for phase in whole)

    def images(self, subset: str, policy: Policy | None = None) -> Images:
        """The pixels of one subset; without a policy, as the checkpoint's evaluation transform gives them.

        Those of training images, and of a fold of them, may be fast.
        """
        return Images(
            self.data,
            self.data.subset(subset),
            self.backbone.preprocessing,
            policy=policy,
            custom=self.custom if policy is not None and policy.name == "custom" else None,
            custom_name="" if self.custom is None else _identity(self.custom),
            seed=derive(self.config.seed, "augment"),
            fast=self.config.fast_pixels and subset in self.data.learned_subsets,
            room=self._room,
        )

    @functools.cached_property
    def _room(self) -> Room:
        """The memory that decoded pictures of all subsets may take together."""
        return Room.of_machine()

    def subsets(self, policy: Policy) -> Subsets:
        """Return the images of all subsets; `policy` augments those of train."""
        return Subsets(
            self.images("train", policy), self.images("val"), self.images("test").hold(HELD_TEST_BYTES)
        )

    def check(self) -> None:
        """Refuse what makes no sense before anything is computed."""
        config = self.config
        known = {
            "flip": (config.flip, FLIPS),
            "precision": (config.precision, PRECISIONS),
            "compile": (config.compile, compiling.COMPILE),
            "cache": (config.cache, CACHE),
            "keep": (config.keep, KEEP),
            "pixels": (config.pixels, PIXELS),
        }
        wrong = [
            f"{key} must be one of {', '.join(words)}, found {value!r}.{did_you_mean(value, words)}"
            for key, (value, words) in known.items()
            if value not in words
        ]
        if config.deterministic and config.precision in ("bfloat16", "float16"):
            wrong.append(
                f"{option('deterministic')} means float32: drop one of {option('deterministic')} and "
                f"{option('precision', config.precision)}."
            )
        if config.precision == "float16" and (kind := devices.current().type) != "cuda":
            wrong.append(
                f"{option('precision', 'float16')} is for NVIDIA's GPUs, and {option('device')} is {kind}: "
                "take auto, float32 or bfloat16."
            )
        if config.compile == "on" and (reason := compiling.unavailable()):
            wrong.append(f"{option('compile', 'on')}: {reason}. Leave {option('compile')} out.")
        val = {sample.label for sample in self.data.subset("val")}
        wrong += self._wrong_metric(val)
        wrong += self._wrong_operating_point(val)
        wrong += self._wrong_stages()
        if len(self.backbone.cuts) < 2 and self._cuts:
            wrong.append(
                f"{self.backbone.name} can't be cut before its head ({' '.join(self.backbone.notes)}), and "
                f"{self.strategy} needs a cut: use full or scratch."
            )
        wrong += [fault] if (fault := batch_size_fault(config.batch_size)) else []
        if config.batch_size == 1 and hyperparameters(self.strategy).bn in ("train", "recalibrate"):
            wrong.append(
                f"BatchNorm in training needs batches of 2 or more images, found {option('batch_size', 1)}."
            )
        numerics.device_memory_limit(config.device_memory)
        wrong += self._wrong_processes()
        if config.views is not None and config.views < 0:
            wrong.append(
                f"{option('views')} must be at least 1, or 0 for a new one each epoch; found {config.views}."
            )
        if config.minutes is not None and not 0 < config.minutes < math.inf:
            wrong.append(f"minutes must be above 0, found {config.minutes:g}.")
        if config.temperature is not None and not 0 < config.temperature < math.inf:
            wrong.append(f"temperature must be above 0, found {config.temperature:g}.")
        wrong += self._wrong_patience()
        stop_after = config.stop_after
        if stop_after is not None and (
            isinstance(stop_after, bool) or not isinstance(stop_after, int) or stop_after < 1
        ):
            wrong.append(
                f"{option('stop_after')} must be a whole number of epochs, at least 1; found {stop_after!r}."
            )
        elif stop_after is not None and not self.strategy.trains:
            wrong.append(
                f"{option('stop_after')} counts epochs, and {self.strategy} is solved for without any: leave "
                "it out."
            )
        wrong += self._wrong_interpolation()
        if config.threads is not None and config.threads < 1:
            wrong.append(f"threads must be at least 1, found {config.threads}.")
        wrong += [fault] if (fault := workers_fault(config.workers)) else []
        if wrong:
            raise UsageError(" ".join(wrong))
        check_options(self.augment, config.min_crop, config.rotate)
        Balance(config.imbalance, np.zeros(1, dtype=np.int64), 1)

    def _wrong_stages(self) -> Iterator[str]:
        """Yield what is wrong with the numbers of stages that the strategy names."""
        backbone, strategy, below = self.backbone, self.strategy, len(self.backbone.stages) - 1
        unfrozen = max([strategy.k or 0, *(phase.unfrozen for phase in strategy.phases)])
        if unfrozen > below:
            yield (
                f"{strategy} unfreezes {unfrozen} stages below the head, {backbone.name} has {below}: use "
                f"{below} or less, lp_ft or full (frostline stages shows them)."
            )
        settings = hyperparameters(strategy)
        for name, layers in (("layers", settings.layers), ("refit_layers", settings.refit_layers)):
            if not isinstance(layers, int) or layers <= SEVERAL or len(backbone.cuts) < 2:
                continue  # the default means as many as there are
            stages = len(stage_taps(backbone))
            if layers > stages:
                most = (
                    f"{name}={stages} or less" if stages >= SEVERAL else f"{name}={SEVERAL} for all of them"
                )
                yield f"{strategy} reads {layers} stages, {backbone.name} has {stages} to read: use {most}."

    def _wrong_metric(self, val: set[str]) -> list[str]:
        if self.config.positive is not None:
            demand_class(self.config.positive, self.data.classes)
        try:
            metric = self.metric
        except UsageError as error:
            return [str(error)]
        if len(val) == 1 and (metric in metrics.RANKINGS or isinstance(metric, metrics.Sensitivity)):
            name = metrics.name_of(metric)
            return [f"{name} is undefined on a val set of one class; choose another metric or split."]
        return []

    def _wrong_operating_point(self, val: set[str]) -> list[str]:
        target = OperatingTarget.of(self.config)
        if target is None:
            return []
        target.check(self.data.classes)
        if not val and self.strategy.trains:
            why = (
                "An operating point is chosen on images not learned from, and there is no val set: "
                "give images to val, take linear_probe, which has folds of its own, or use compare or fit."
            )
            return [why]
        if val and target.positive is not None and target.positive not in val:
            return [f"The val set has no image of {target.positive}, so no threshold can be chosen on it."]
        return []

    def _wrong_processes(self) -> list[str]:
        """Each process of a job learns from its part of every batch."""
        config = self.config
        if process_group.size() > 1 and ":" in config.device:
            return [f"device is {config.device}, and each of several processes has a GPU of its own: cuda."]
        if process_group.size() == 1 or not self.strategy.trains or batch_size_fault(config.batch_size):
            return []
        least = 2 if hyperparameters(self.strategy).bn in ("train", "recalibrate") else 1
        images = len(self.data.subset("train"))
        smallest = images // math.ceil(images / self.batch.images)
        if smallest // process_group.size() >= least:
            return []
        why = " (BatchNorm in training needs two)" if least == 2 else ""
        most = max(1, smallest // least)
        too_small = (
            f"{process_group.size()} processes share batches of {smallest}; each{why} needs {least} or more"
        )
        return [f"{too_small}: start at most {most}, or give a larger batch."]

    def _wrong_patience(self) -> list[str]:
        """Stopping early goes by the metric on val that chooses the weights, epoch by epoch."""
        patience = self.config.patience
        if patience is None or batch_size_fault(self.config.batch_size):  # the latter is refused on its own
            return []
        name = option("patience")
        if fault := patience_fault(patience, [self.strategy]):
            wrong = fault
        elif not self.data.subset("val"):
            wrong = (
                f"{name} goes by val, and there is no val set: name one (a folder val/, a table's column "
                f"split; {option('val_size')} draws one where 200 are left beside test), or leave {name} out."
            )
        elif patience < (epochs := self.phases()[-1].epochs):
            return []
        elif epochs > 1:
            wrong = (
                f"{option('patience', patience)} can stop nothing: it counts the epochs of the last phase, "
                f"and {self.strategy} has {epochs} of them here. Give at most {epochs - 1}, or more epochs."
            )
        else:
            wrong = f"{name} has nothing to stop: the last phase of {self.strategy} is one epoch."
        return [wrong]

    def _wrong_interpolation(self) -> list[str]:
        share, strategy = self.config.interpolate_weights, self.strategy
        if share is None:
            return []
        wrong = []
        if isinstance(share, str) and share != "auto":
            wrong.append(
                f"{option('interpolate_weights')} must be auto or a number between 0 and 1, found {share!r}."
            )
        if not isinstance(share, str) and not 0 <= share <= 1:
            wrong.append(
                f"{option('interpolate_weights')} must lie between 0 (pretrained) and 1 (adapted), found "
                f"{share:g}."
            )
        if share == "auto" and not self.data.subset("val"):
            wrong.append(
                f"{option('interpolate_weights', 'auto')} chooses the point on val images, and there is "
                f"no val set: name the point, for example {option('interpolate_weights', 0.5)}, or give "
                "images to val."
            )
        if strategy.refit_layers:
            wrong.append(f"{strategy} ends with another head than it trains, so nothing can be interpolated.")
        if not (strategy.trains and strategy.pretrained and strategy.head == "linear"):
            wrong.append(
                f"{strategy} can't be interpolated: that needs a strategy that trains pretrained weights, "
                "and a linear head."
            )
        return wrong


def batch_size_fault(value: object) -> str:
    """Return what is wrong with a batch size, or return ""."""
    if value == AUTO_BATCH:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return f'{option("batch_size")} must be "auto" or a whole number of images, found {value!r}.'
    return "" if value >= 1 else f"{option('batch_size')} must be at least 1, found {value}."


def metric_identity(config: Config, metric: metrics.Metric) -> dict[str, Any]:
    """Return what tells two metrics apart, as a run's configuration holds it."""
    if isinstance(metric, str):
        return {"metric": metric}
    named = {"metric": metrics.name_of(metric)}
    if isinstance(metric, metrics.Sensitivity):
        return {**named, **({} if config.positive is None else {"positive": config.positive})}
    if isinstance(metric, metrics.QuadraticKappa):
        return named
    return {**named, "metric_function": _identity(metric, "metric")}


def _identity(function: Callable[..., Any], what: str = "augmentation") -> str:
    """Name a callable so that two different augmentations are two different configurations.

    The name is its attribute `name` if it has one; else its source, defaults and what it closes over.
    Raises `UsageError` where those are not plain data.
    """
    if isinstance(getattr(function, "name", None), str):
        return f"{CUSTOM}{function.name}"  # type: ignore[attr-defined]
    parts = _parts(function)
    if " at 0x" in repr(parts):
        raise UsageError(
            f"This {what} holds objects that cannot be told apart between two runs. Give it an "
            f"attribute `name`, one for each setting: {what}.name = 'rotate 20'."
        )
    return f"{CUSTOM}{digest_of(repr(parts))[:16]}"


def _parts(function: Callable[..., Any]) -> list[Any]:
    """Return what makes a callable what it is: source, defaults, closure, bound arguments, own state."""
    if isinstance(function, functools.partial):
        return [_parts(function.func), function.args, sorted(function.keywords.items())]
    plain = inspect.unwrap(getattr(function, "__func__", function))
    kind = plain if hasattr(plain, "__code__") else type(plain)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt, or written in C
        source = repr(getattr(getattr(plain, "__code__", None), "co_code", kind.__qualname__))
    closure = [cell.cell_contents for cell in getattr(plain, "__closure__", None) or ()]
    owner = getattr(function, "__self__", None) if hasattr(function, "__func__") else None
    state = [sorted(vars(o).items()) for o in (owner, plain) if o is not None and hasattr(o, "__dict__")]
    return [
        kind.__module__,
        kind.__qualname__,
        source,
        getattr(plain, "__defaults__", None),
        getattr(plain, "__kwdefaults__", None),
        [_parts(value) if callable(value) else value for value in closure],
        state if kind is not plain or owner is not None else [],
    ]
