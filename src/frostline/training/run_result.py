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
    """Result of `train`. Keys of `result` are also attributes.

    Parameters
    ----------
    result : dict
        Every figure by name; rates are fractions 0–1, times seconds.
    folder : RunFolder
        Folder of the run; `folder.path` is its path.
    study : Study
        The study that the run belongs to.
    reused : bool
        Whether the run was finished before and read back.
    backbone : Backbone or None
        The backbone that was adapted, if it is in memory; else it is loaded when it is needed.
    """

    result: dict[str, Any]
    folder: RunFolder
    study: Study
    reused: bool = False
    backbone: Backbone | None = field(default=None, repr=False, compare=False)

    def __fspath__(self) -> str:
        return str(self.folder.path)

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
        "Threads that decoded, the pixels of training images and folds (reference or fast), images a "
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
    replaced_rule = Figure[str | None]("How it decided before this call, where that was otherwise.")

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
        """Label images with this run. The model stays in memory for the next call.

        Parameters
        ----------
        images : path, address, image, array, or iterable of these
            A folder, image files, tables with a column `path` (or `path_column`); PIL images, or arrays
            (H, W) or (H, W, 3), uint8 or floats in 0–1; and all else that `frostline.predict` takes.
        top : int
            Number of labels for each image.
        target_accuracy : float or None
            Above 0 and below 1, such as 0.95. A prediction whose class was less often correct at its
            probability, on held-out images, is marked `unsure="probability"`; an image farther from the
            training images than 95 % of the held-out ones "unfamiliar".
        min_confidence : float or None
            Above 0 and below 1. A prediction of a lower probability is marked `unsure="probability"`, too.
        all_probabilities : bool
            Whether `probabilities` of the result contains those of all classes.
        tta : str
            Test-time augmentation: "none", "flip", "five_crop" or "ten_crop", as in `frostline.predict`.
        path_column : str or None
            Column of a table that contains the paths.
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
            The run's folder is damaged.
        UsageError
            An option is unknown or out of range, `tta` is combined with `target_accuracy`, or the run has no
            held-out predictions, which `target_accuracy` needs.
        DataError
            There are no images, or they are of an unsupported type.
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
        """Confusion matrix of the test set, else of val (`basis` says which).

        Raises
        ------
        UsageError
            The run had neither.
        """
        predictions = KeptPredictions.of_run(self.folder.path)
        return Confusion.of(
            predictions.classes, predictions.targets, predictions.predicted, predictions.basis
        )

    def classification_report(self, *, output_dict: bool = False) -> Any:
        """Return scikit-learn's classification report of the test set, else of val.

        Parameters
        ----------
        output_dict : bool
            Return a dict instead of text.

        Returns
        -------
        str or dict

        Raises
        ------
        UsageError
            The run had neither a test nor a val set.
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
        """Return the epochs as a DataFrame, a row each.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        return notebook.frame(self.folder.metrics())

    def plot(self) -> notebook.Plot:
        """Return a plot of the loss by epoch.

        Returns
        -------
        Plot

        Raises
        ------
        UsageError
            The run has no epochs: its head was fitted in closed form.
        """
        return notebook.epochs_plot(self.folder.metrics())
