"""The options that `train`, `compare` and `fit` share: one dataclass, read from and written to YAML.

Beside them stand numbers that a run and its forecast both go by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from frostline.errors import UsageError, demand_kind, did_you_mean, option

if TYPE_CHECKING:
    from PIL import Image

BATCH = 32  # images a step: what the epochs and rates of strategies/ were measured with
AUTO_BATCH = "auto"  # strategies/batch_rule.py says which
AUGMENTS = ("none", "light", "standard", "strong", "randaugment")  # by name; any other is a callable's
REPEATS = 3  # before a winner is named
# Times as long: smaller differences of time decide nothing and are not mentioned. A choice: `lp_ft` with
# `refit_layers` takes 1.08 × as long as without and gains 1.3 points (docs/LOG.md 2026-11-30).
SAME_TIME = 1.1
# Strategies within this accuracy count as equal, and the cheaper wins: a choice, half a point. Within a
# standard error instead, a comparison of six on 60 images lost 1.7 points and not 1.1
# (benchmarks/choosing.py; docs/LOG.md 2026-11-30).
EQUAL = 0.005
FOLDS = 5  # where nothing else is said; as scikit-learn's `KFold`
# L2 per unit-length feature, from "prototype-like" to "almost separable". On six sets with 8 and 40 images
# a class the best on test lay between 1e-2 and 1e-6 (docs/LOG.md 2026-11-23).
L2_GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
# L2 is chosen on at most this many images: the choice is stable long before, and folds cost five fits.
MOST_FOR_CHOICE = 4000
# What a comparison has no use for.
TRAIN_ALONE = ("views", "cache", "keep", "stop_after", "temperature")
# By what rule a finished model decides: no part of what a run learns.
OF_OPERATING_POINT = ("positive", "min_recall", "min_precision", "costs")
SEARCHED = ("lr", "layer_decay", "weight_decay", "augment")  # what a comparison can draw variants of
# Hyperparameters of a strategy that have a field of their own; `hyperparameters` holds any others.
OF_STRATEGIES = ("epochs", "lr", "weight_decay", "label_smoothing")
# Types as the fields of `Config` are annotated with: what a value may be, and in words.
KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a word"),
    "bool": (bool, "True or False"),
    "None": (type(None), ""),
}
FILE = "config.yaml"  # in a run's folder: what repeats it

# Options of the commands beside the fields of `Config`, which may stand in the same file.
OF_COMMANDS = (
    *(
        "data",
        "study",
        "model",
        "models",
        "architecture",
        "size",
        "download",
        "max_latency_ms",
        "max_size_mb",
    ),
    *("strategy", "strategies", "search", "draws", "cuts", "earlier", "source_data"),
    *("test_size", "val_size", "strict", "split_names", "path_column", "label_column", "group_by"),
    "test_data",
    *("intensity_range", "alpha_background", "logger", "ray", "database", "no_pretrained"),
    *("continue", "extra_epochs"),
)


class Options(TypedDict, total=False):
    """The fields of `Config`, as keywords of `train`, `compare` and `fit`."""

    seed: int
    metric: str | Callable[[Any, Any], float]
    positive: str | None
    min_recall: float | None
    min_precision: float | None
    costs: str | Mapping[str, Mapping[str, float]] | None
    augment: str | Callable[[Image.Image], Any]
    flip: str
    resize: str | None
    min_crop: float | None
    rotate: str
    imbalance: str
    batch_size: int | str
    device: str
    device_memory: int | None
    deterministic: bool
    precision: str
    compile: str
    threads: int | None
    workers: int | str
    pixels: str
    views: int | None
    cache: str
    keep: str
    patience: int | None
    stop_after: int | None
    temperature: float | None
    interpolate_weights: float | str | None
    minutes: float | None
    repeats: int
    plain_timm: bool
    epochs: float | None
    lr: float | None
    weight_decay: float | None
    label_smoothing: float | None
    hyperparameters: Mapping[str, float | str] | None


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to train: the options that `train`, `compare` and `fit` share.

    Parameters
    ----------
    seed
        Split, order, initialisation and augmentation.
    metric
        What choices are made by: accuracy, balanced_accuracy, macro_f1, auroc, average_precision,
        quadratic_kappa (of classes with a number in each name, which is their order),
        sensitivity@specificity=0.95 (or another; of `positive`, else the mean over classes) or log_loss; in
        Python also a callable from targets (n,) and probabilities (n, classes) to a number, higher being
        better.
    positive
        The class that `min_recall`, `min_precision` or the metric sensitivity@specificity is about.
    min_recall, min_precision
        Share of the positive class's images that must be found, or of those predicted as it that must be of
        it. The threshold is chosen on images held out, and changes no weights.
    costs
        What it costs to predict a class for an image of another: a CSV file, or costs[label][predicted]. The
        class of the least expected cost is then predicted.
    augment
        none, light, standard, strong or randaugment; for `train` also a callable from RGB image to RGB
        image.
    flip
        auto (asks the images), none, horizontal or both.
    resize
        How pictures become square, in training, prediction and export: crop, squash or pad. None: as the
        backbone has it.
    min_crop
        Smallest share of a picture's area that a random crop shows, 0–1. None: by `augment`.
    rotate
        auto, none, 90 or any: turn training images, for pictures without an up.
    imbalance
        none, weights, sampler or logit_adjustment.
    batch_size
        Images a step, over all processes. auto: 32; on an NVIDIA GPU up to 256 where training keeps 150
        steps or more, with a learning rate that follows unless it is given (docs/strategies.md).
    device
        Device to compute on: auto (a GPU where torch finds one), cpu, cuda, cuda:1 (a GPU's number) or mps.
        It is no part of what a run is; a run that goes on stays on the device it began on.
    device_memory
        Bytes of a GPU's memory that a run may use; None: all that it has. A batch that needs more is split,
        and gradients are accumulated. It is no part of what a run is.
    deterministic
        Float32 and no timed choice, on a GPU also deterministic kernels: repeats agree bit for bit.
    precision
        auto (timed), float32, bfloat16, or float16 on a GPU where layers learn, with its loss scaled.
    compile
        torch.compile for frozen layers and for those that learn: on, off, or auto, which compiles where
        arithmetic says that it is paid back within the run (docs/gpu.md). On a processor auto is off.
    threads
        Torch threads. None: as many as cores are free.
    workers
        Threads that decode images: "auto" (as many as compute, with a GPU one a core), or a number; 0
        decodes in between. They work ahead of training, but take turns with it where both have as many
        threads as there are cores. A person's own code (an augmentation, a dataset) runs in so many
        processes instead, and with "auto" in none. Changes no bit of the result.
    pixels
        auto: training, and folds of it, resize by torch and decode JPEGs of several times the network's size
        at a fraction of theirs, unless `deterministic`. reference: Pillow and whole pictures, as val, test
        and predictions always.
    views
        `train` alone: views of each image to cycle through while layers are frozen, the plain one first; 0: a
        new one each epoch; None: as many as the epochs ask for.
    cache
        `train` alone: auto, keep or compute the features of frozen layers; changes no bit of the result.
    keep
        `train` alone: end with the best weights on val, or the last.
    patience
        Stop after so many epochs of the last phase in a row in which `metric` on val was not above its best
        so far. A comparison's runs go by the images that they hold out, and its winner, which holds out none,
        stops after the median of theirs. None: run the schedule to its end.
    stop_after
        `train` alone: stop after so many epochs of the schedule, whatever val says. None: run it to its end.
    temperature
        `train` alone: what logits are divided by. None: fitted on val, or by a probe's folds.
    interpolate_weights
        Share of the way from the pretrained weights with a probe (0) to the adapted ones (1), or "auto".
    minutes
        Limit from start to exit. None: no limit; `fit` then chooses one.
    repeats
        `compare` and `fit` alone: new splits and seeds before a winner is named.
    plain_timm
        Only models whose weights timm loads alone: linear heads on the last stage.
    epochs, lr, weight_decay, label_smoothing
        Hyperparameters of the strategy, as in its brackets: passes over the training images, the head's peak
        learning rate, AdamW's weight decay, and the share of each label that is spread over all classes.
        None: as the strategy has it. Several strategies: for each that takes it.
    hyperparameters
        Others by name, such as ``{"layer_decay": 0.8, "bn": "eval"}``.
    """

    seed: int = 0
    metric: str | Callable[[Any, Any], float] = "accuracy"
    positive: str | None = None
    min_recall: float | None = None
    min_precision: float | None = None
    costs: str | Mapping[str, Mapping[str, float]] | None = None
    augment: str | Callable[[Image.Image], Any] = "standard"
    flip: str = "auto"
    resize: str | None = None
    min_crop: float | None = None
    rotate: str = "none"
    imbalance: str = "none"
    batch_size: int | str = AUTO_BATCH
    device: str = "auto"
    device_memory: int | None = None
    deterministic: bool = False
    precision: str = "auto"
    compile: str = "auto"
    threads: int | None = None
    workers: int | str = "auto"
    pixels: str = "auto"
    views: int | None = None
    cache: str = "auto"
    keep: str = "best"
    patience: int | None = None
    stop_after: int | None = None
    temperature: float | None = None
    interpolate_weights: float | str | None = None
    minutes: float | None = None
    repeats: int = REPEATS
    plain_timm: bool = False
    epochs: float | None = None
    lr: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    hyperparameters: Mapping[str, float | str] | None = None

    @property
    def fast_pixels(self) -> bool:
        """Whether training may resize by torch, and decode large JPEGs at a fraction of their size."""
        return self.pixels == "auto" and not self.deterministic

    @classmethod
    def of(
        cls,
        config: Config | None,
        options: Mapping[str, Any],
        *,
        without: tuple[str, ...] = (),
        besides: Iterable[str] = (),
    ) -> Config:
        """Return `config` with some fields replaced.

        Parameters
        ----------
        config : Config or None
            None has every default.
        options : mapping of str to object
            New values by field.
        without : tuple of str
            Fields that do not apply, and must have their defaults.
        besides : iterable of str
            Other option names to list in the message about an unknown one.

        Returns
        -------
        Config

        Raises
        ------
        UsageError
            A name in `options` is not a field, a value is of another kind than its field, or a field in
            `without` does not have its default.
        """
        unknown = [name for name in options if name not in NAMES]
        if unknown:
            expected = [*(name for name in NAMES if name not in without), *besides]
            raise UsageError(
                f"Unknown option {unknown[0]!r}.{did_you_mean(unknown[0], expected)} Expected some of "
                f"{', '.join(expected)}."
            )
        demand_kind("config", config, (cls, type(None)), "a Config, or options by name")
        made = _with_plain_numbers(replace(config or cls(), **options))
        useless = [name for name in without if getattr(made, name) != getattr(cls, name)]
        if useless:
            raise UsageError(f"{', '.join(useless)}: not an option here. Leave it out.")
        return made

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read fields from a YAML file.

        Parameters
        ----------
        path : path
            A file that `save` wrote, or a `config.yaml`. Options that only the command line has, such as
            `model`, are ignored; fields that are left out have their defaults.

        Returns
        -------
        Config

        Raises
        ------
        UsageError
            The file cannot be read as YAML, or names an unknown option.
        """
        values = read_yaml(path)
        return cls.of(None, {name: value for name, value in values.items() if name not in OF_COMMANDS})

    @property
    def of_strategy(self) -> dict[str, float | str]:
        """The hyperparameters of the strategy that are given here.

        Raises
        ------
        UsageError
            One is given twice with two values, or `hyperparameters` is not a mapping.
        """
        if not isinstance(self.hyperparameters, Mapping | None):
            raise UsageError(
                f"hyperparameters is {self.hyperparameters!r}; expected names with values, such as "
                "{'layer_decay': 0.8}."
            )
        values: dict[str, float | str] = dict(self.hyperparameters or {})
        for name in OF_STRATEGIES:
            own = getattr(self, name)
            if own is None:
                continue
            if name in values and as_number(values[name]) != as_number(own):
                raise UsageError(
                    f"Found {name}={own} and, among hyperparameters, {name}={values[name]}. Give one of "
                    "the two."
                )
            values[name] = own
        return values

    @property
    def without_strategy(self) -> Config:
        """The same without hyperparameters of the strategy, for when the strategy has them."""
        return replace(
            self, epochs=None, lr=None, weight_decay=None, label_smoothing=None, hyperparameters=None
        )

    def save(self, path: str | Path) -> None:
        """Write every field that differs from its default to a YAML file, which `load` reads.

        Parameters
        ----------
        path : path
            The file, which is replaced if it exists.

        Raises
        ------
        UsageError
            A field has a value that YAML cannot represent, such as a callable.
        """
        write_yaml(path, self.changed())

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults.

        Returns
        -------
        dict
            Values by field.
        """
        values = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in values.items() if value != getattr(type(self), name)}


NAMES = tuple(field.name for field in fields(Config))


def as_number(value: float | str) -> float | None:
    """Return a value as a number, whole if it is written so; `None` for another text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value) if isinstance(value, str) else value
    return None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds. Raises `UsageError` with what was found otherwise."""
    from yaml import MappingNode, YAMLError, compose, safe_load

    try:
        text = Path(path).read_text(encoding="utf-8")
        values, tree = safe_load(text), compose(text)
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UsageError(f"{path} cannot be read as YAML ({reason}).") from None
    if values is None:
        return {}
    if isinstance(tree, MappingNode):  # YAML's reader keeps the last of two
        names = [str(key.value) for key, _ in tree.value]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UsageError(f"{path} names {twice[0]!r} twice. Give each option once.")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{path} holds no options. Expected lines such as `seed: 1` or `model: lite0`.")
    return values


def write_yaml(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write plain values as a YAML mapping. Raises `UsageError` for what is no plain value."""
    from yaml import YAMLError, safe_dump

    from frostline.system import directories

    try:
        text = safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    except YAMLError:
        raise UsageError(
            f"An option of {', '.join(values)} holds a Python object, which no file can repeat."
        ) from None
    directories.write_atomically(Path(path), text.encode())


def _with_plain_numbers(config: Config) -> Config:
    """Raise `UsageError` where a value is of another kind than its field; return numbers as Python's.

    JSON, which keeps them, knows none of numpy's.
    """
    plain: dict[str, Any] = {}
    for field in fields(config):
        value, kinds = getattr(config, field.name), [KINDS.get(name) for name in str(field.type).split(" | ")]
        if None in kinds:  # a mapping or a callable may be meant: checked where it is used
            continue
        words = [word for _, word in filter(None, kinds) if word]
        expected = words[0] if len(words) == 1 else f'{words[0]} or "auto"'  # the word that all of them take
        demand_kind(option(field.name), value, tuple(kind for kind, _ in filter(None, kinds)), expected)
        if field.type != "bool" and isinstance(value, Real):
            plain[field.name] = int(value) if isinstance(value, Integral) else float(value)
    return replace(config, **plain)
