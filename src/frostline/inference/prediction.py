"""Prediction by a finished run: images in, labels with probabilities out. Needs no training data."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline import metrics
from frostline.data import (
    PredictionInput,
    PredictionInputs,
    RenderedImage,
    Rendering,
    SortedImages,
    folder_names,
    in_threads,
    notes_on,
    prediction_inputs,
    rendered_from_picture,
    sort_into,
    unsure_folder_name,
)
from frostline.errors import DamagedImage, StudyError, UsageError, option
from frostline.feature_extraction.forward_pass import collecting_features
from frostline.feature_extraction.image_batches import EVALUATION_BATCH
from frostline.inference import selective_prediction, test_time_augmentation
from frostline.models import Backbone, Preprocessing, zoo
from frostline.models.heads import adapted_for
from frostline.models.zoo import delta
from frostline.progress import Activity, OnProgress, Progress
from frostline.reports import notebook
from frostline.strategies import parse
from frostline.studies import operating_point
from frostline.studies.best_run import PassedOver, best_of
from frostline.studies.operating_point import Decision
from frostline.studies.study_folder import RunFolder, Study
from frostline.system import devices, directories, numerics, text_output

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHOWN_LABELS = 4  # in a line
FETCHERS = 8  # threads that fetch remote images at the same time; a choice


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    `top` holds (label, probability) pairs: the predicted one, then the likeliest others.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    unsure: str | None = None  # why it is not trusted: "probability" or "unfamiliar"

    @property
    def label(self) -> str:
        """The predicted label: the likeliest, or the one that an operating point decides for."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Its probability, 0–1."""
        return self.top[0][1]


@dataclass(frozen=True)
class Predictions:
    """The predictions for images, and the run that made them. Iterating yields `Prediction` rows.

    Attributes
    ----------
    rows : tuple of Prediction
    unreadable : tuple of (name, reason)
        Images that could not be decoded.
    run : str
        Name of the run that predicted.
    why : str
        Why that run was chosen.
    strategy : str
    doubts : Doubts or None
        The thresholds below which predictions are marked unsure, with `target_accuracy`.
    classes : tuple of str
        All classes of the model.
    passed_over : tuple of PassedOver
        Runs that are newer or have a higher accuracy and were not used, with the reasons.
    notes : tuple of str
        How images were read.
    min_confidence : float or None
        The probability below which a prediction is marked unsure.
    probabilities : ndarray or None, shape (images, classes)
        Of all classes, in the order of `classes`, with `all_probabilities`.
    decided_by : tuple of str
        How labels are decided where that is not the highest probability, in sentences.
    """

    rows: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    run: str
    why: str
    strategy: str
    doubts: selective_prediction.Doubts | None = None  # the thresholds, with `target_accuracy`
    classes: tuple[str, ...] = ()  # all classes of the model
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()  # plain sentences on how images were read
    min_confidence: float | None = None
    probabilities: Floats | None = field(default=None, repr=False, compare=False)
    decided_by: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prediction:
        return self.rows[index]

    def __repr__(self) -> str:
        """Return a line with the number of predictions and the commonest labels."""
        counts = Counter(row.label for row in self.rows).most_common()
        labels = ", ".join(f"{label} {count:,}" for label, count in counts[:SHOWN_LABELS])
        more = ", …" if counts[SHOWN_LABELS:] else ""
        unread = f"; {len(self.unreadable):,} not readable" if self.unreadable else ""
        return (
            f"<Predictions of {self.strategy}, run {self.run}: {len(self.rows):,} ({labels}{more}){unread}>"
        )

    def _repr_html_(self) -> str:
        """Return the predictions as an HTML table."""
        left_out = [f"Not readable: {reason}" for _, reason in self.unreadable]
        return notebook.table_html(f"Predictions of {self.strategy}", self._table(), left_out)

    def to_pandas(self) -> Any:
        """Return the predictions as a DataFrame. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self._table())

    def to_csv(self, path: str | Path) -> None:
        """Write path, label, probability (a row per label, with `top`), and unsure where predictions may be.

        With `all_probabilities` a column p(CLASS) follows for each class. UTF-8; other bytes of file names
        are kept. The file is written whole or not at all.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        unsure = ["unsure"] if self.marks_unsure else []
        writer.writerow(["path", "label", "probability", *unsure, *self._class_columns])
        for place, row in enumerate(self.rows):
            why = [row.unsure or ""] if unsure else []
            values = [] if self.probabilities is None else [f"{p:.6g}" for p in self.probabilities[place]]
            writer.writerows([row.path, label, f"{value:.6g}", *why, *values] for label, value in row.top)
        directories.write_whole(Path(path), text_output.encoded(text.getvalue()))

    def to_parquet(self, path: str | Path) -> None:
        """Write the columns of `to_csv` as Parquet, probabilities as 64-bit floats.

        Raises
        ------
        UsageError
            The file cannot be written, or the name of a file is no text.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        pairs = [(place, label, value) for place, row in enumerate(self.rows) for label, value in row.top]
        places = [place for place, _, _ in pairs]
        columns: dict[str, Any] = {
            "path": [self.rows[place].path for place in places],
            "label": [label for _, label, _ in pairs],
            "probability": [value for _, _, value in pairs],
        }
        if self.marks_unsure:
            columns["unsure"] = pa.array([self.rows[place].unsure for place in places], pa.string())
        if self.probabilities is not None:
            columns |= dict(zip(self._class_columns, self.probabilities[places].T, strict=True))
        try:
            table, sink = pa.table(columns), pa.BufferOutputStream()
            pq.write_table(table, sink)
            directories.write_whole(Path(path), sink.getvalue().to_pybytes())
        except (OSError, UnicodeEncodeError) as error:
            raise UsageError(f"{path} cannot be written ({error}). Name another file, or a .csv.") from None

    @property
    def marks_unsure(self) -> bool:
        """Whether predictions may be marked unsure: with `target_accuracy` or `min_confidence`."""
        return self.doubts is not None or self.min_confidence is not None

    @property
    def _class_columns(self) -> list[str]:
        return [] if self.probabilities is None else [f"p({name})" for name in self.classes]

    def plot(self) -> notebook.Plot:
        """Draw how many images were given each label."""
        return notebook.answers_plot([row.label for row in self.rows])

    def copy_to(self, folder: str | Path) -> SortedImages:
        """Copy images into a folder for each label below `folder`, unsure ones into a folder of their own.

        No file is overwritten: a file of the same name gets a suffix, and identical ones are not copied
        again. Images in memory are listed under `failed`.

        Raises
        ------
        UsageError, DataError
            The folder cannot be used.
        """
        names = folder_names([*self.classes, *(row.label for row in self.rows)])
        doubted = unsure_folder_name(names.values())
        return sort_into(
            Path(folder).expanduser(),
            [(row.path, doubted if row.unsure else names[row.label]) for row in self.rows],
        )

    def _table(self) -> list[dict[str, Any]]:
        rows = [
            {"path": r.path, "label": r.label, "probability": r.probability}
            | ({"unsure": r.unsure} if self.marks_unsure else {})
            for r in self.rows
        ]
        if self.probabilities is None:
            return rows
        return [
            row | dict(zip(self._class_columns, map(float, values), strict=True))
            for row, values in zip(rows, self.probabilities, strict=True)
        ]


class Predictor:
    """A model ready to predict: `classes` names its outputs, and logits are divided by `temperature`.

    `decision` says how it decides; None: by the highest probability.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        temperature: float = 1.0,
        backbone: Backbone | None = None,
        rendering: Rendering = Rendering(),  # noqa: B008 - frozen
        decision: Decision | None = None,
    ) -> None:
        self.decision = decision
        self.model = model
        self.classes = list(classes)
        self.preprocessing = preprocessing
        self.temperature = temperature
        self.backbone = backbone
        self.rendering = rendering

    @classmethod
    def of_run(
        cls, folder: RunFolder, module: nn.Module | None = None, backbone: Backbone | None = None
    ) -> Predictor:
        """Return a run's model; `module` as in `load_model`, `backbone` where it is at hand."""
        config = folder.checked_config()
        backbone, model = rebuilt(folder, module, backbone)
        return cls(
            model,
            config["classes"],
            Preprocessing.from_dict(config["preprocessing"]),
            _temperature(folder),
            backbone,
            Rendering.from_dict(config.get("rendering")),
            operating_point.decision_of(folder.path, config["classes"]),
        )

    def guesses(self, probabilities: Floats) -> Ints:
        """Return the predicted class indices (n,) for probabilities (n, classes)."""
        if self.decision is not None:
            return self.decision.decide(probabilities)
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)

    def __call__(self, pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return probabilities (n, classes) for uint8 pixels (n, 3, size, size)."""
        return metrics.softmax(self._logits(pixels), self.temperature)

    def with_features(
        self, pixels: Tensor
    ) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], Tensor]:
        """Return probabilities, and the features (n, width) that the head was given; of a run alone."""
        assert self.backbone is not None
        with collecting_features(self.backbone, self.model) as collected:
            out = self._logits(pixels)
        return metrics.softmax(out, self.temperature), torch.cat(collected)

    def _logits(self, pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        plan = numerics.exact_plan()
        with torch.inference_mode(), devices.full_float32():
            out = plan.place(self.model)(plan.batch(pixels, self.preprocessing.normalise))
        return np.asarray(out.float().cpu().numpy())


@devices.computes()
def load_model(
    study: str | Path | RunFolder,
    *,
    run: str | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
) -> nn.Module:
    """Return a run's model as a plain module in eval mode.

    Parameters
    ----------
    study : path or RunFolder
        A study, or a delta that `export` wrote, which is applied to its base weights.
    run : str or None
        Name of a run, or its start; None is the best run.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.

    Returns
    -------
    nn.Module
        Normalised images (n, 3, s, s) to logits (n, classes).

    Raises
    ------
    StudyError
        Weights and architecture differ, or there is no such run.
    ModelError
        The base weights are others.
    """
    if not isinstance(study, RunFolder) and delta.is_delta(study):
        return delta.load(study, base if base is not None else module).model
    folder = study if isinstance(study, RunFolder) else best_of(Study.existing(study), run).folder
    return rebuilt(folder, module)[1]


def rebuilt(
    folder: RunFolder, module: nn.Module | None = None, backbone: Backbone | None = None
) -> tuple[Backbone, nn.Module]:
    """Return a run's model, in eval mode, and its backbone: `backbone`, else one with random weights."""
    config = folder.checked_config()
    classes = len(config["classes"])
    backbone = backbone or zoo.rebuild_backbone(config["source"], module)
    try:
        state = load_file(folder.weights)
        model = adapted_for(backbone, state, parse(config["strategy"]).head, classes)
        model.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StudyError(f"The weights of run {folder.name} cannot be loaded: {error}") from None
    return backbone, model.eval()


def _temperature(folder: RunFolder) -> float:
    result = folder.read("result.json")
    value = result.get("temperature") if isinstance(result, dict) else None
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise StudyError(f"{folder.path / 'result.json'} is damaged: its temperature is {str(value)[:40]}.")
    return float(value)


@devices.computes(float32=True)
def predict(
    study: str | Path,
    images: Any,
    *,
    run: str | None = None,
    top: int = 1,
    target_accuracy: float | None = None,
    min_confidence: float | None = None,
    all_probabilities: bool = False,
    tta: str = "none",
    path_column: str | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Predictions:
    """Label images with a run of a study.

    Parameters
    ----------
    study : path
        A study, or a delta that `export` wrote.
    images : path, address, image, array, or iterable of these
        A folder (flat or by class), files, tables with a column `path` (or `path_column`), addresses such as
        s3://bucket/new, tar shards; PIL images, arrays (H, W) or (H, W, 3), uint8, floats in 0–1 or other
        integers (deep pixels, as in files), encoded files' bytes. An image that cannot be decoded is listed
        in `unreadable`; one in memory is named "image" or "image[3]".
    run : str or None
        Name of a run, or its start. None is the best of the runs evaluated on the same images (val, or a
        comparison's folds), else the newest; `why` and `passed_over` say which and why.
    top : int
        Number of labels for each image.
    target_accuracy : float or None
        Above 0 and below 1, such as 0.95. A prediction whose class was less often correct at its probability,
        on held-out images, is marked `unsure="probability"`; an image farther from the training images than
        95 % of the held-out ones "unfamiliar".
    min_confidence : float or None
        Above 0 and below 1. A prediction of a lower probability is marked `unsure="probability"`, too.
    all_probabilities : bool
        Whether `probabilities` holds those of all classes.
    tta : str
        Test-time augmentation: mean probabilities over views of each image. "none"; "flip": the image and its
        mirror image; "five_crop": corners and centre; "ten_crop": these and their mirror images.
    path_column : str or None
        Column of a table that holds the paths.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    progress : callable or None
        Called with (what, done, total).

    Returns
    -------
    Predictions

    Raises
    ------
    StudyError
        The study is damaged or holds no finished run.
    UsageError
        `target_accuracy` or `min_confidence` is out of range, the run has no held-out predictions, or `tta`
        goes with it.
    DataError
        There are no images, or they are of an unsupported type.
    """
    check_confidence(min_confidence)
    check_views(tta, target_accuracy)
    doubts = None if target_accuracy is None else _doubts(study, run, target_accuracy)
    chosen = chosen_model(study, run, module, base)
    predicted = predict_rows(
        chosen.predictor,
        prediction_inputs(images, path_column),
        top=top,
        doubts=doubts,
        min_confidence=min_confidence,
        all_probabilities=all_probabilities,
        tta=tta,
        progress=Progress.of(progress),
    )
    classes = tuple(chosen.predictor.classes)
    return Predictions(
        predicted.rows,
        predicted.unreadable,
        chosen.run,
        chosen.why,
        chosen.strategy,
        doubts,
        classes,
        chosen.passed_over,
        (*predicted.notes, *test_time_augmentation.note(tta, chosen.flip)),
        min_confidence,
        predicted.probabilities,
        decided_by(chosen.folder, chosen.predictor),
    )


def check_confidence(min_confidence: float | None) -> None:
    """Raise `UsageError` for what is no probability."""
    if min_confidence is not None and not 0.0 < min_confidence < 1.0:
        raise UsageError(
            f"{option('min_confidence')} must lie above 0 and below 1, such as 0.8; found {min_confidence:g}."
        )


def decided_by(folder: Path, predictor: Predictor) -> tuple[str, ...]:
    """Return how a model decides, in sentences; nothing where that is the highest probability."""
    decision = predictor.decision
    if decision is None:
        return ()
    kept = operating_point.read(folder)
    if kept is not None:
        return tuple(kept["sentences"])
    return (decision.sentence,)


@dataclass(frozen=True)
class PredictedRows:
    """The result of `predict_rows`: see `Predictions`."""

    rows: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    probabilities: Floats | None = None


def predict_rows(
    predictor: Predictor,
    inputs: PredictionInputs,
    *,
    top: int,
    doubts: selective_prediction.Doubts | None,
    tta: str = "none",
    progress: Progress,
    min_confidence: float | None = None,
    all_probabilities: bool = False,
) -> PredictedRows:
    """Return a prediction for each image that can be decoded, and the others' names with the reasons."""
    rows: list[Prediction] = []
    decoded, batches = _Decoded(), [np.zeros((0, len(predictor.classes)))]
    for names, (pixels,) in _batches([predictor], inputs, decoded, tta, progress):
        probabilities, batch = _predict_batch(predictor, names, pixels, top, doubts)
        rows += [
            replace(row, unsure="probability")
            if min_confidence is not None and row.unsure is None and row.probability < min_confidence
            else row
            for row in batch
        ]
        if all_probabilities:
            batches.append(probabilities)
    (notes,) = decoded.notes([predictor], inputs)
    return PredictedRows(
        tuple(rows),
        tuple(decoded.unreadable),
        notes,
        np.concatenate(batches) if all_probabilities else None,
    )


@dataclass(frozen=True)
class PredictedProbabilities:
    """One model's `probabilities` (images, classes) of the images in `names`; see `predict_probabilities`."""

    names: tuple[str, ...]
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def predict_probabilities(
    predictors: Sequence[Predictor],
    inputs: PredictionInputs,
    progress: OnProgress | None = None,
    *,
    tta: str = "none",
) -> list[PredictedProbabilities]:
    """Return each model's probabilities of all classes; an image that can be decoded is decoded once."""
    decoded, names = _Decoded(), list[str]()
    batches = [[np.zeros((0, len(predictor.classes)))] for predictor in predictors]
    for batch_names, pixels in _batches(predictors, inputs, decoded, tta, Progress.of(progress)):
        names += batch_names
        for predictor, batch, seen in zip(predictors, batches, pixels, strict=True):
            batch.append(test_time_augmentation.mean_probabilities(predictor, seen))
    return [
        PredictedProbabilities(tuple(names), np.concatenate(batch), tuple(decoded.unreadable), notes)
        for batch, notes in zip(batches, decoded.notes(predictors, inputs), strict=True)
    ]


@dataclass
class _Decoded:
    """What was noted while images were decoded: how each was rendered for each model, and what cannot be."""

    rendered_images: list[list[RenderedImage]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def notes(self, predictors: Sequence[Predictor], inputs: PredictionInputs) -> list[tuple[str, ...]]:
        """Return for each model plain sentences on how its images were read."""
        return [
            tuple(notes_on([image[at] for image in self.rendered_images], p.rendering, inputs.other_files))
            for at, p in enumerate(predictors)
        ]


def _batches(
    predictors: Sequence[Predictor], inputs: PredictionInputs, noted: _Decoded, tta: str, progress: Progress
) -> Iterator[tuple[list[str], list[Tensor]]]:
    """Yield names and, for each model, pixels (n, views, 3, size, size) of images that can be decoded."""
    items = inputs.inputs
    for start in range(0, len(items), EVALUATION_BATCH):
        names, pixels = [], []
        batch = items[start : start + EVALUATION_BATCH]
        decoded_batch = in_threads(
            lambda item: _decode(predictors, item, tta), batch, FETCHERS * any(q.is_remote for q in batch)
        )
        for item, decoded in zip(batch, decoded_batch, strict=True):
            if isinstance(decoded, DamagedImage):
                noted.unreadable.append((item.name, str(decoded)))
            else:
                pixels.append([one.pixels for one in decoded])
                noted.rendered_images.append([one.rendered for one in decoded])
                names.append(item.name)
        if pixels:
            yield names, [torch.stack(seen) for seen in zip(*pixels, strict=True)]
        progress(Activity.PREDICT, min(start + EVALUATION_BATCH, len(items)), len(items))


@dataclass(frozen=True)
class _DecodedInput:
    """An image's pixels (views, 3, size, size), and how they were made."""

    pixels: Tensor
    rendered: RenderedImage


def _decode(
    predictors: Sequence[Predictor], item: PredictionInput, tta: str
) -> list[_DecodedInput] | DamagedImage:
    """Return an image's pixels for each model, or why there are none."""
    try:
        picture, seen = item.picture(), []
        for predictor in predictors:
            image = picture.rgb(predictor.rendering)
            rendered = rendered_from_picture(item.name, picture, image, predictor.rendering)
            seen.append(
                _DecodedInput(test_time_augmentation.views(image, predictor.preprocessing, tta), rendered)
            )
        return seen
    except DamagedImage as error:
        return error


def check_views(tta: str, target_accuracy: float | None) -> None:
    """Raise `UsageError` where `tta` is unknown, or goes with a target that was set by single views."""
    test_time_augmentation.check(tta)
    if tta != "none" and target_accuracy is not None:
        raise UsageError(
            f"{option('target_accuracy')} rests on held-out probabilities of one view each, and "
            f"{option('tta', tta)} averages several: leave one of the two out."
        )


def _doubts(study: str | Path, run: str | None, precision: float) -> selective_prediction.Doubts:
    if delta.is_delta(study):
        raise UsageError(
            f"{option('target_accuracy')} needs features that a delta does not hold: use the study it was "
            "exported from."
        )
    return selective_prediction.doubts(best_of(Study.existing(study), run).folder.path, precision)


def _predict_batch(
    predictor: Predictor,
    paths: Sequence[str],
    pixels: Tensor,
    top: int,
    doubts: selective_prediction.Doubts | None,
) -> tuple[Floats, list[Prediction]]:
    """Return probabilities (n, classes) and predictions."""
    if doubts is None:
        probabilities = test_time_augmentation.mean_probabilities(predictor, pixels)
        return probabilities, _top(paths, probabilities, predictor, top)
    probabilities, features = predictor.with_features(pixels[:, 0])
    rows = _top(paths, probabilities, predictor, top)
    reasons = doubts.of(probabilities, features, predictor.guesses(probabilities))
    return probabilities, [replace(row, unsure=why) for row, why in zip(rows, reasons, strict=True)]


@dataclass(frozen=True)
class ChosenModel:
    """The model that predicts, its run's name and strategy, and why it was chosen."""

    predictor: Predictor
    run: str
    why: str
    strategy: str
    folder: Path  # of the run, or the delta
    passed_over: tuple[PassedOver, ...] = ()
    flip: str | None = None  # how training images were mirrored, where that is known


def chosen_model(
    study: str | Path,
    run: str | None,
    module: nn.Module | None,
    base: str | nn.Module | Backbone | None,
) -> ChosenModel:
    """Return the model of a study's best run, of `run`, or of a delta; the rest as in `predict`."""
    if delta.is_delta(study):
        loaded = delta.load(study, base if base is not None else module)
        delta_predictor = Predictor(
            loaded.model,
            loaded.classes,
            loaded.preprocessing,
            rendering=loaded.rendering,
            decision=exported_decision(study, loaded.classes),
        )
        return ChosenModel(
            delta_predictor,
            loaded.run,
            "the run this delta was exported from",
            loaded.strategy,
            Path(study),
        )
    best = best_of(Study.existing(study), run)
    strategy = str(best.folder.checked_config()["strategy"])
    predictor = Predictor.of_run(best.folder, module)
    flip = best.folder.read("result.json").get("flip")
    return ChosenModel(
        predictor, best.folder.name, best.why, strategy, best.folder.path, best.passed_over, flip
    )


def exported_decision(folder: str | Path, classes: Sequence[str]) -> Decision | None:
    """Return how an export decides, by its `config.json`. Raises `StudyError` where that is damaged."""
    path = Path(folder) / directories.CONFIG
    try:
        return Decision.from_config(json.loads(path.read_text(encoding="utf-8")), classes)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is damaged ({error}). Export the model again.") from None


def _top(
    paths: Sequence[str],
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    predictor: Predictor,
    count: int,
) -> list[Prediction]:
    """Return predictions: the decided label first, then the likeliest others."""
    classes, ranks = predictor.classes, probabilities.copy()
    ranks[np.arange(len(ranks)), predictor.guesses(probabilities)] = np.inf
    order = np.argsort(-ranks, axis=1, kind="stable")[:, : max(1, min(count, len(classes)))]
    return [
        Prediction(path, tuple((classes[c], float(row[c])) for c in best))
        for path, row, best in zip(paths, probabilities, order, strict=True)
    ]
