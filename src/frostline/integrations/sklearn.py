"""A scikit-learn classifier on images: `fit`, `predict`, `predict_proba`, `transform`, `score`.

Frozen layers are computed once for each image, whichever fold, candidate or process asks: cross-validation
costs little more than one fit.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import nn

from frostline import metrics
from frostline.config import AUTO_BATCH
from frostline.data import CHANNELS, Pairs, Rendering, is_missing, load_data, read_labels, unlabelled
from frostline.data.decoding_threads import decoding_threads
from frostline.errors import FrostlineError, RunWarning
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardPass
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.models.heads import adapted_for
from frostline.models.zoo import load_backbone
from frostline.strategies import parse
from frostline.system import devices, directories, numerics
from frostline.training import Plan, train

FITTED = ("classes_", "result_")  # beside the weights: all that a saved classifier needs


class FrostlineClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Adapt a pretrained vision model to labelled images, as a scikit-learn estimator.

    Every image passed to `fit` is trained on, except those that `patience` holds out.

    Parameters
    ----------
    backbone : str or Backbone
        A name that `frostline.load_backbone` knows, or a `Backbone`.
    strategy : str
        Notation as in `frostline.train`: "linear_probe", "top_k(2)", "lp_ft(lr=0.0005)".
    size : int or None
        Side of the network's input in pixels; None is the checkpoint's own.
    resize : str or None
        How images become square: "crop", "squash" or "pad"; None is the backbone's own way.
    epochs, lr, weight_decay, label_smoothing : float or None
        Hyperparameters of the strategy, as in its brackets; None is the strategy's own value.
    hyperparameters : mapping of str to float or str, or None
        Others by name, such as ``{"layer_decay": 0.8}``.
    patience : int or None
        Stop after this many epochs in a row without a new best `metric` on held-out images, and use the best
        weights. None runs the whole schedule.
    validation_fraction : float
        Share of the images that `patience` holds out, above 0 and below 1. Ignored without `patience`.
    metric : str or callable
        The metric for `patience`, as in `frostline.train`.
    augment : str
        "none", "light", "standard", "strong" or "randaugment".
    flip : str
        "auto" (decided from the images), "none", "horizontal" or "both".
    min_crop : float or None
        Smallest share of an image's area that a random crop shows, 0–1; None is `augment`'s.
    rotate : str
        "none", "auto", "90" or "any".
    imbalance : str
        "none", "weights", "sampler" or "logit_adjustment".
    batch_size : int or str
        Images per step, or "auto".
    device : str
        "auto" (a GPU if torch has one), "cpu", "cuda", "cuda:1" or "mps".
    deterministic : bool
        Whether repeated fits agree bit for bit: float32 and deterministic kernels only.
    precision : str
        "auto", "float32", "bfloat16" or "float16".
    pixels : str
        "reference" or "auto" (fast pixels in `fit`, as in `frostline.train`). In cross-validation "reference"
        is quicker: other folds predict on the images that one learns from, so each passes once.
    threads : int or None
        Torch threads; None is the number of free cores.
    workers : int or str
        Threads that decode images, or "auto".
    views : int or None
        Augmented views of each image to cycle through while layers are frozen; 0 is new ones in each epoch,
        None is chosen by the number of epochs.
    random_state : int, RandomState or None
        Seed of the order, the augmentation, new weights and the images that `patience` holds out.
    study : path or None
        Folder in which each fit is saved, as one study for each set of images; None saves nothing.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels, sorted.
    result_ : dict
        Figures of the run, as in `Run.result` of `frostline.train`.
    model_ : nn.Module
        The adapted model, in eval mode: images (n, 3, s, s) to logits (n, n_classes), in the order of
        `classes_`.

    Notes
    -----
    Errors are raised as `ValueError`. A `RunWarning` says if images differ from those of `fit` in a way that
    may matter, such as another bit depth, or have many pixels outside the range that is shown to the model.
    """

    def __init__(
        self,
        backbone: str | Backbone = "lite0",
        strategy: str = "linear_probe",
        *,
        size: int | None = None,
        resize: str | None = None,
        epochs: float | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        label_smoothing: float | None = None,
        hyperparameters: Mapping[str, float | str] | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        metric: str | Callable[[Any, Any], float] = "accuracy",
        augment: str = "standard",
        flip: str = "auto",
        min_crop: float | None = None,
        rotate: str = "none",
        imbalance: str = "none",
        batch_size: int | str = AUTO_BATCH,
        device: str = "auto",
        deterministic: bool = False,
        precision: str = "auto",
        pixels: str = "reference",
        threads: int | None = None,
        workers: int | str = "auto",
        views: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        study: str | Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.strategy = strategy
        self.size = size
        self.resize = resize
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.hyperparameters = hyperparameters
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.metric = metric
        self.augment = augment
        self.flip = flip
        self.min_crop = min_crop
        self.rotate = rotate
        self.imbalance = imbalance
        self.batch_size = batch_size
        self.device = device
        self.deterministic = deterministic
        self.precision = precision
        self.pixels = pixels
        self.threads = threads
        self.workers = workers
        self.views = views
        self.random_state = random_state
        self.study = study

    def fit(self, X: Any, y: ArrayLike) -> FrostlineClassifier:
        """Adapt the backbone to images and their labels.

        Parameters
        ----------
        X : ndarray, shape (n, h, w, 3) or (n, h, w), or sequence of n images or paths
            Pixels are uint8, floats in 0–1 or other integers (deep pixels). Paths may be a list, a Series or
            an array (n,) or (n, 1).
        y : array-like, shape (n,)
            Labels of any type that scikit-learn takes.

        Returns
        -------
        FrostlineClassifier
            This object.

        Raises
        ------
        ValueError
            Images or labels cannot be used, or a parameter is wrong.
        """
        with _value_errors():
            images = _images(X)
            self.classes_, targets = np.unique(_labels(y, len(images)), return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(
                    f"Found one class, {self.classes_.tolist()[0]!r}, in all {len(images)} labels; expected "
                    "two or more."
                )
            names = [f"{target:06}" for target in targets]  # sorted as `classes_` is
            pairs = Pairs(images, names, None if self.patience is None else self._subsets(images, names))
            data = load_data(
                pairs,
                test_size=0.0,
                val_size=0.0,
                strict=True,
                near_copies=False,
                workers=self.workers,
            )
            backbone = _backbone(self.backbone, self.size, self.resize)
            with _place(self.study, data.digest) as place:
                run = train(
                    backbone,
                    data,
                    self.strategy,
                    study=place,
                    seed=_seed(self.random_state),
                    epochs=self.epochs,
                    lr=self.lr,
                    weight_decay=self.weight_decay,
                    label_smoothing=self.label_smoothing,
                    hyperparameters=self.hyperparameters,
                    patience=self.patience,
                    metric=self.metric,
                    augment=self.augment,
                    flip=self.flip,
                    min_crop=self.min_crop,
                    rotate=self.rotate,
                    imbalance=self.imbalance,
                    batch_size=self.batch_size,
                    device=self.device,
                    deterministic=self.deterministic,
                    precision=self.precision,
                    pixels=self.pixels,
                    threads=self.threads,
                    workers=self.workers,
                    views=self.views,
                    keep="last" if self.patience is None else "best",
                )
                self.result_ = json.loads(json.dumps(run.result))
                if not data.rendering.plain:
                    self.result_["rendering"] = data.rendering.as_dict()
                self._weights = run.folder.weights.read_bytes()
        self._asked = (self.backbone, self.size, self.resize)
        self.__dict__.pop("_model", None)
        _ = self.model_
        return self

    def _subsets(self, images: Sequence[Any], labels: Sequence[str]) -> list[str]:
        """Return "train" or "val" for each image: a share of each class is held out for `patience`.

        An image that is there more than once, as in a bootstrap sample, is in one of them. Raises
        `ValueError`, as scikit-learn does, where the share is not between 0 and 1, or too small for the
        classes.
        """
        fraction: Any = self.validation_fraction
        if not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
            raise ValueError(
                f"validation_fraction is {fraction!r}; expected a share of the images above 0 "
                "and below 1, which patience holds out."
            )
        _, first, unit_of_image = np.unique(
            [_identity(image) for image in images], return_index=True, return_inverse=True
        )
        _, held_out = train_test_split(
            np.arange(len(first)),
            test_size=float(fraction),
            stratify=[labels[position] for position in first],
            random_state=_seed(self.random_state),
        )
        in_val = frozenset(held_out.tolist())
        return ["val" if unit in in_val else "train" for unit in unit_of_image]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each image.

        Parameters
        ----------
        X : ndarray or sequence
            Images, as in `fit`.

        Returns
        -------
        ndarray, shape (n,)
            Elements of `classes_`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class for each image.

        Parameters
        ----------
        X : ndarray or sequence
            Images, as in `fit`.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            0–1, in the order of `classes_`.
        """
        check_is_fitted(self, FITTED)
        with _value_errors(), self._ready(X, FeatureCache()) as (backbone, images, plan, cache):
            cut = next(cut for cut in backbone.cuts if cut.name == self.result_["cut"])
            keep = cut.index == backbone.cuts[-1].index or 0 in plan.cached.get(cut.index, ())
            answers = ForwardPass(
                backbone, self.model_, cut, plan.forward_config, cache if keep else None, workers=self.workers
            ).logits(images)
        return metrics.softmax(answers, self.result_["temperature"])

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the adapted model's features before its head.

        Parameters
        ----------
        X : ndarray or sequence
            Images, as in `fit`.

        Returns
        -------
        ndarray of float32, shape (n, width)
        """
        check_is_fitted(self, FITTED)
        with _value_errors(), self._ready(X, FeatureCache()) as (backbone, images, plan, cache):
            last = backbone.cuts[-1]
            passed = ForwardPass(
                backbone, self.model_, last, plan.forward_config, cache, workers=self.workers
            )
            return passed.features(images).numpy()

    @property
    def model_(self) -> nn.Module:
        """The adapted model; built from the weights where this was copied or read back."""
        if "_weights" not in self.__dict__:
            raise AttributeError("model_: this FrostlineClassifier is not fitted yet")
        if "_model" not in self.__dict__:
            backbone, count = _backbone(*self._asked), len(self.classes_)
            state = safetensors.torch.load(self._weights)
            model = adapted_for(backbone, state, parse(self.result_["strategy"]).head, count)
            model.load_state_dict(state)
            self._model: nn.Module = model.eval()
        return self._model

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return a name for each feature that `transform` returns.

        Parameters
        ----------
        input_features : object
            Ignored; scikit-learn passes it.

        Returns
        -------
        ndarray of object, shape (width,)
        """
        check_is_fitted(self, FITTED)
        width = _backbone(*self._asked).feature_width
        return np.array([f"frostlineclassifier{i}" for i in range(width)], dtype=object)

    @contextmanager
    def _ready(self, X: Any, cache: FeatureCache) -> Iterator[tuple[Backbone, Images, Plan, FeatureCache]]:
        """Yield what answering needs: reference pixels, and rows shared with a fit that uses them."""
        backbone, plan = _backbone(*self._asked), Plan.from_dict(self.result_["numeric_plan"])
        device = str(devices.resolve(self._device(plan)))
        plan = plan.on(device)
        shown = Rendering.from_dict(self.result_.get("rendering"))
        data, notes = unlabelled(_images(X), decoding_threads(self.workers), shown)
        for note in notes:
            warnings.warn(note, RunWarning, stacklevel=2)
        images = Images(data, data.samples, backbone.preprocessing)
        with (
            devices.computing(device, self.model_, backbone.model),
            numerics.threads(self.threads or plan.numbers.threads),
            cache,
        ):
            yield backbone, images, plan, cache

    def _device(self, plan: Plan) -> str:
        """Return where to compute: as asked, else where it was fitted, if this machine has that."""
        if self.device != devices.AUTO:
            return self.device
        fitted_on = plan.numbers.device
        here = {torch.device(name).type for name in devices.available()}
        return fitted_on if torch.device(fitted_on).type in here and ":" not in fitted_on else devices.AUTO

    def save(self, path: str | Path) -> None:
        """Write everything that was fitted to one safetensors file, completely or not at all.

        Parameters
        ----------
        path : path
            The file, which is replaced if it exists.
        """
        check_is_fitted(self, FITTED)
        _demand_file(path)
        parameters = {key: value for key, value in self.get_params().items() if _plain(value)}
        metadata = {
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "result": self.result_,
            "fitted": [value if _plain(value) else None for value in self._asked],
        }
        weights = safetensors.torch.load(self._weights)
        directories.write_atomically(
            Path(path), safetensors.torch.save(weights, metadata={"frostline": json.dumps(metadata)})
        )

    @classmethod
    def load(cls, path: str | Path, **parameters: Any) -> FrostlineClassifier:
        """Read a file that `save` wrote; nothing is unpickled.

        Parameters
        ----------
        path : path
            The file.
        **parameters
            Parameters of the constructor that replace saved ones. `backbone` must be given if it was a
            `Backbone`.

        Returns
        -------
        FrostlineClassifier

        Raises
        ------
        ValueError
            The file cannot be read, or was not written by `save`.
        """
        _demand_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})["frostline"])
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            classifier = cls(**{**metadata["parameters"], **parameters})
            classifier.classes_ = np.array(metadata["classes"], dtype=metadata["dtype"])
            backbone, size, resize = metadata["fitted"]  # what was set since then has no effect yet
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} is no FrostlineClassifier that `save` wrote ({error!r}).") from error
        classifier.result_ = metadata["result"]
        classifier._weights = safetensors.torch.save(weights)
        classifier._asked = (parameters.get("backbone", backbone) or classifier.backbone, size, resize)
        return classifier

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the network itself, which is built again from the weights."""
        return {key: value for key, value in super().__getstate__().items() if key != "_model"}

    def __sklearn_tags__(self) -> Any:
        """Images and paths, no columns of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # features are float32 whatever the images are
        return tags


def _images(X: Any) -> Sequence[Any]:
    """Return X as a sequence of paths, arrays or PIL images. Raises `ValueError` saying what was found."""
    wanted = "expected images (n, h, w) or (n, h, w, 3), or n paths"
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"Found one path, {os.fspath(X)!r}; {wanted}: put it into a list.")
    if not isinstance(X, Sequence) and not hasattr(X, "__array__"):
        raise ValueError(f"X is of type {type(X).__name__}; {wanted}, as a list or an array.")
    if isinstance(X, list | tuple) and not all(isinstance(item, str | os.PathLike) for item in X):
        for kind in (str | os.PathLike, bytes | bytearray):
            place = next((i for i, item in enumerate(X) if isinstance(item, kind)), None)
            if place is not None:
                raise ValueError(
                    f"X[{place}] is {type(X[place]).__name__}, where other items are no paths; {wanted}, all "
                    "of one kind. PIL.Image.open reads a path, or bytes in an io.BytesIO."
                )
        images: Sequence[Any] = X
    else:
        array = np.asarray(X)
        if array.dtype.kind in "OUST" and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind not in "OUST" and array.ndim not in (3, 4):
            raise ValueError(
                f"Found array with {array.ndim} dimension(s), shape {array.shape}; {wanted}. "
                "Reshape your data: X.reshape(n, h, w)."
            )
        if _is_tensor(X) and array.ndim in (3, 4) and array.shape[-3] in CHANNELS:
            array = np.moveaxis(array, -3, -1)  # torch's (n, channels, h, w)
        if array.ndim == 3 and array.shape[2] in CHANNELS:
            raise ValueError(
                f"Found array of shape {np.shape(X)}, which is one image; {wanted}. "
                "Hand over a batch of one: X[None]."
            )
        texts = array.ndim == 1 and array.dtype.kind in "OUST"
        images = [item if isinstance(item, os.PathLike) or not texts else _text(item) for item in array]
    if not len(images):
        raise ValueError(f"Found array with 0 sample(s) while a minimum of 1 is required; {wanted}.")
    return images


def _demand_file(path: str | Path) -> None:
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; expected a file, such as {Path(path) / 'model.safetensors'}.")


def _identity(image: Any) -> str:
    """Return what is the same for an image that is there twice: its path, or a digest of its pixels."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    pixels = np.ascontiguousarray(np.asarray(image))
    return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def _is_tensor(X: Any) -> bool:
    return hasattr(X, "detach")


def _text(item: Any) -> Any:
    return str(item) if isinstance(item, str) else item


def _labels(y: ArrayLike | None, count: int) -> NDArray[Any]:
    if y is None:
        raise ValueError("FrostlineClassifier requires y to be passed, but the target y is None.")
    values = list(y) if isinstance(y, Iterable) else []
    missing = sum(map(is_missing, values))
    if missing:
        raise ValueError(
            f"Input y contains NaN: {missing} of {len(values)} labels are missing (None, NaN, NA or blank). "
            "Leave those images out."
        )
    if not any(isinstance(value, float | np.floating) for value in values):
        read_labels(values)  # several labels for one image are refused as everywhere
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    kinds = sorted({"str" if isinstance(value, str) else type(value).__name__ for value in values})
    if "str" in kinds and len(kinds) > 1:
        raise ValueError(f"Labels are of several kinds ({', '.join(kinds)}); expected one, as y.astype(str).")
    if any(isinstance(value, bytes | datetime.date) for value in values):
        raise ValueError(
            f"Labels are of type {kinds[0]}; expected text, integers or booleans, as y.astype(str)."
        )
    check_classification_targets(labels)
    if len(labels) != count:
        raise ValueError(f"Found {count} image(s) and {len(labels)} label(s); expected as many of each.")
    return labels


def _backbone(model: str | Backbone, size: int | None, resize: str | None) -> Backbone:
    if not isinstance(model, Backbone):
        # What lies on the disk may be another one the next time.
        load = load_backbone if Path(model).exists() else _loaded
        return load(model, size=size).resized(resize)
    own = model.preprocessing.size
    if size not in (None, own):
        raise ValueError(
            f"size={size}, but the backbone that was handed over takes {own} px. Leave size out, or load the "
            f"backbone with it: frostline.load_backbone(…, size={size})."
        )
    return model.resized(resize)


@lru_cache(maxsize=4)  # a grid over backbones, and no more memory than that
def _loaded(name: str, size: int | None) -> Backbone:
    return load_backbone(name, size=size)


def _seed(state: Any) -> int:
    if isinstance(state, int | np.integer):
        return int(state)
    return int(check_random_state(state).randint(2**31 - 1))


def _plain(value: Any) -> bool:
    """Return whether a parameter can be written to a file and read again as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(entry) for key, entry in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _place(study: str | Path | None, digest: str) -> Any:
    """Return a `with` block around the study's folder: one for each set of images, or one that goes."""
    if study is None:
        return tempfile.TemporaryDirectory(prefix="frostline-", ignore_cleanup_errors=True)
    return nullcontext(Path(study) / digest[:12])


@contextmanager
def _value_errors() -> Iterator[None]:
    """Raise what is wrong as scikit-learn's users expect it."""
    try:
        yield
    except FrostlineError as error:
        raise ValueError(str(error)) from error
