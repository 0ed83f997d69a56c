"""`Run`: a finished run, its figures, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from frostline import sentences
from frostline.inference import selective_prediction
from frostline.inference.chosen_model import ChosenModel
from frostline.inference.prediction import check_confidence, check_views, predictions_of
from frostline.inference.prediction_rows import Predictions
from frostline.inference.predictor import Predictor
from frostline.models import Backbone
from frostline.progress import OnProgress
from frostline.reports import notebook
from frostline.reports.classification import Confusion, KeptPredictions, classification_report
from frostline.studies.result_fields import AccuracyFigures, Figure, ProbabilityFigures
from frostline.studies.study_folder import (
    RunFolder,
    Study,
)
from frostline.system import devices


@dataclass(frozen=True)
class Run(AccuracyFigures, ProbabilityFigures):
    """A finished run: its figures, and where it lies."""

    result: dict[str, Any]
    folder: RunFolder
    study: Study
    reused: bool = False  # it had been finished before, and was read back
    backbone: Backbone | None = field(default=None, repr=False, compare=False)  # where it is at hand

    run = Figure[str]("The name of its folder in runs/.")
    strategy = Figure[str]("The strategy in its notation.")
    model = Figure[str]("The backbone's name.")
    accuracy = Figure[float | None]("Share of test images predicted correctly, 0–1; None without any.")
    macro_f1 = Figure[float | None]("Mean F1 over classes.")
    auroc = Figure[float | None]("Mean one-against-rest area under the ROC curve.")
    per_class = Figure[dict[str, Any] | None]("Precision, recall and counts of each class.")
    val_accuracy = Figure[float | None]("Share of val images predicted correctly, 0–1.")
    val_goodness = Figure[float | None]("The metric on val, higher is better.")
    cv_score = Figure[float | None]("A probe's metric on images held out by its folds, higher is better.")
    cv_images = Figure[int | None]("How many images those were.")
    l2 = Figure[float | None]("A probe's L2 penalty.")
    temperature = Figure[float]("What logits are divided by.")
    n_train = Figure[int]("Training images.")
    n_val = Figure[int]("Val images.")
    n_test = Figure[int]("Test images.")
    seconds = Figure[float]("Wall time of the run, those of resumed processes included.")
    peak_memory_bytes = Figure[int]("Most memory held, above the imports.")
    peak_memory_exact = Figure[bool]("False where it was sampled.")
    device_peak_bytes = Figure[int | None]("Most memory held on a GPU.")
    world_size = Figure[int]("Processes that made the run.")
    trainable_parameters = Figure[int]("Parameters that learned in any phase.")
    cut = Figure[str]("The earliest stage that learned.")
    loads_in = Figure[list[str]]("Libraries that load the weights without a loader of frostline's.")
    layers = Figure[int | None]("Of a solved head: stages that it reads, null for the last alone.")
    steps = Figure[int]("Optimizer steps done.")
    steps_planned = Figure[int]("Optimizer steps of the whole schedule.")
    stopped = Figure[str | None]('"minutes" where the time was up first.')
    early_stopping = Figure[dict[str, Any] | None](
        "Of `patience` or `stop_after`: it, epochs done, and epochs_saved and seconds_saved (0 where it "
        "stopped nothing)."
    )
    parent = Figure[dict[str, Any] | None](
        "The run that this one continued from, its epochs, extra_epochs and the peak lr; None without."
    )
    best_epoch = Figure[int | None]("The epoch whose weights were kept, from 1.")
    notes = Figure[list[str]]("What went wrong on the way.")
    augment = Figure[str]("The augmentation.")
    flip = Figure[str]("Flips: none, horizontal or both.")
    flip_test = Figure[dict[str, Any] | None]("What the images said about flips.")
    rotate = Figure[str | None]("Rotation, where it was asked for.")
    rotate_test = Figure[dict[str, Any] | None]("What the images said about rotation.")
    decoding = Figure[dict[str, Any]](
        "Threads that decoded ahead, the pixels of training images and folds (reference or fast), images a "
        "second that the threads decode and that the network takes, and seconds it waited for pixels."
    )
    pace = Figure[dict[str, Any] | None](
        "On a GPU, images a second of epochs from pixels and of steps alone, and whether it was starved."
    )
    numeric_plan = Figure[dict[str, Any]](
        "Device, threads, precision, memory format, what was cached, and `batch`: images a step, what "
        "rates were multiplied by, and why."
    )
    features = Figure[dict[str, int]]("Features of frozen layers: computed, and read from the cache.")
    interpolation = Figure[dict[str, Any] | None]("How far back to the pretrained weights, and the points.")
    ended = Figure[str]("When, ISO 8601 in UTC.")
    skipped = Figure[int]("Images that were skipped.")
    learned_before = Figure[int]("Images that the backbone had learned from before.")
    weights_digest = Figure[str]("SHA-256 of the weights.")
    drift = Figure[dict[str, Any] | None]("How far features moved.")
    forgetting = Figure[dict[str, Any] | None]("What was forgotten of the source data.")
    test_evaluations = Figure[int | None]("Configurations that have read this test set.")
    operating_point = Figure[dict[str, Any] | None](
        "How it decides, where one was asked for: what it promises."
    )

    @devices.computes(float32=True)
    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        target_accuracy: float | None = None,
        min_confidence: float | None = None,
        all_probabilities: bool = False,
        tta: str = "none",
        path_column: str | None = None,
        device: str = "auto",
        progress: OnProgress | None = None,
    ) -> Predictions:
        """Label images with this run.

        `images` is a path (a file, a folder, a CSV with a column `path`), a PIL image, an array (H, W) or
        (H, W, 3), uint8 or floats in 0–1, or several of these; the rest is as in `frostline.predict`.
        The model is kept in memory for the next call. Raises `StudyError`, `UsageError` or `DataError`.
        """
        check_confidence(min_confidence)
        check_views(tta, target_accuracy)
        doubts = (
            None
            if target_accuracy is None
            else selective_prediction.doubts(self.folder.path, target_accuracy)
        )
        place = self.folder.path
        chosen = ChosenModel(
            self.predictor, self.folder.name, "as asked for", self.strategy, place, flip=self.flip
        )
        return predictions_of(
            chosen,
            images,
            path_column,
            doubts,
            top=top,
            min_confidence=min_confidence,
            all_probabilities=all_probabilities,
            tta=tta,
            progress=progress,
        )

    @property
    def confusion(self) -> Confusion:
        """What was predicted as what on the test set, else on val (`basis` says which).

        Raises `UsageError` where the run had neither.
        """
        predictions = KeptPredictions.of_run(self.folder.path)
        return Confusion.of(
            predictions.classes, predictions.targets, predictions.predicted, predictions.basis
        )

    def classification_report(self, *, output_dict: bool = False) -> Any:
        """Return scikit-learn's classification report of the images that `confusion` counts: text or dict.

        Raises `UsageError` where the run had neither a test nor a val set.
        """
        predictions = KeptPredictions.of_run(self.folder.path)
        return classification_report(
            predictions.classes, predictions.targets, predictions.predicted, output_dict
        )

    @cached_property
    def predictor(self) -> Predictor:
        """The model, kept in memory for the next call."""
        return Predictor.of_run(self.folder, backbone=self.backbone)

    def __repr__(self) -> str:
        """One line: what was trained, how good it is, and where it lies."""
        worth = sentences.short(self.result["accuracy"], self.result["low"], self.result["high"], "on test")
        if self.result["accuracy"] is None and self.result["val_accuracy"] is not None:
            worth = f"{sentences.percent(self.result['val_accuracy'])} on val, which chose"
        name = f"{self.result['strategy']} on {self.result['model']}"
        return f"<Run {self.folder.name}: {name}, {worth}; in {self.folder.path}>"

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("strategy", "model", "accuracy", "low", "high", "val_accuracy", "seconds", "run")
        return notebook.table_html("Run", [{key: self.result.get(key) for key in shown}])

    def to_pandas(self) -> Any:
        """The epochs, a row each. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.folder.metrics())

    def plot(self) -> notebook.Plot:
        """Draw the loss, epoch by epoch."""
        return notebook.epochs_plot(self.folder.metrics())
