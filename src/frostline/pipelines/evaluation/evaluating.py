"""`evaluate`: finished models on labelled images."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline import metrics
from frostline.config import as_number
from frostline.data import Manifest, Sample, inputs_of_entries, load_labelled, recognised
from frostline.data.seen_images import LEARNED
from frostline.data.sources.folder_layout import SplitNames
from frostline.data.splits.saved_splits import assigned
from frostline.errors import DataError, UsageError, option
from frostline.inference import test_time_augmentation
from frostline.inference.chosen_model import decided_by
from frostline.inference.prediction import predict_probabilities
from frostline.models import Backbone
from frostline.pipelines.evaluation.aligned_predictions import Answers
from frostline.pipelines.evaluation.loaded_models import LoadedModel, load_models
from frostline.pipelines.evaluation.other_predictions import OtherPredictions, read_other
from frostline.pipelines.evaluation.results import (
    ESTIMATES,
    Evaluation,
    LearnedImages,
    UnknownClass,
    ValueFigures,
)
from frostline.progress import OnProgress
from frostline.sentences import counted, named
from frostline.studies.operating_point import demand_class
from frostline.studies.study_folder import count_test_evaluation, digest_of, outer_study
from frostline.system import devices, directories

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FEW = 30  # independent images, below which an interval is mostly too wide to decide anything; a rule of thumb


@devices.computes(float32=True)
def evaluate(
    models: Any,
    data: Any,
    *,
    metric: metrics.Metric = "accuracy",
    positive: str | None = None,
    by: str | None = None,
    predictions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    run: str | None = None,
    tta: str = "none",
    split_names: SplitNames = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Evaluation:
    """Evaluate finished models on labelled images.

    Classes are matched by name. Images of a class that a model does not know, and images that a model learned
    from, stand apart and are in no other figure. Several models are evaluated on the same images.

    Parameters
    ----------
    models : path, Run, or sequence of these
        The folder of a study (its best run), of a run (STUDY/runs/RUN), or of an export; or what `train`
        returned. The others are compared with the first.
    data : path, address, dataset or Manifest
        Labelled images, as for `load_data`; all subsets are used.
    metric : str or callable
        What is shown first: "accuracy", "balanced_accuracy", "macro_f1", "average_precision", "auroc",
        "log_loss", "quadratic_kappa" (of classes with a number in each name, their order),
        "sensitivity@specificity=0.95" (or another), or a function of targets (n,) and probabilities
        (n, classes), higher being better. A function is also called on draws of the images, which may lack a
        class: it may return NaN there, or raise `ValueError`.
    positive : str or None
        The class that a sensitivity is of; None: the mean over classes.
    by : str or None
        Also give the figures for each value of a table's column ("camera"), of the folder below the class
        folder ("parent"), or of an expression's match in the file's name ("re:REGEX").
    predictions : path or sequence of paths
        Tables (path, label, perhaps probability) of other systems' predictions on these images.
    run : str or None
        Name of a run of the study, or its start.
    tta : str
        Test-time augmentation, as in `predict`: "none", "flip", "five_crop" or "ten_crop".
    split_names, path_column, label_column, group_by
        How `data` is read, as for `load_data`. Images of one group are not independent: intervals are wider.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.
    device : str
        auto, cpu, cuda, cuda:N or mps.
    progress : callable or None
        Called with (what, done, total).

    Returns
    -------
    Evaluation
        Of the first model; `others` and `differences` hold the rest.

    Raises
    ------
    StudyError, ModelError
        A model cannot be loaded.
    DataError
        There are no labelled images, or none of a class that the models know.
    UsageError
        `metric`, `positive`, `by` or `tta` is unknown.
    """
    metric = metrics.checked_name(metric) if isinstance(metric, str) else metrics.checked_callable(metric)
    if positive is not None and not str(metric).startswith(metrics.SENSITIVITY):
        raise UsageError(
            f"{option('positive')} is the class of the metric {metrics.SENSITIVITY}0.95, and has no "
            "effect here."
        )
    test_time_augmentation.check(tta)
    several = models if isinstance(models, list | tuple) else [models]
    if not several:
        raise UsageError("No model was given. Expected the folder of a study or an export.")
    tables = [predictions] if isinstance(predictions, str | os.PathLike) else list(predictions)
    loaded = load_models(several, run, module, base)
    labelled = load_labelled(
        data,
        by=by,
        split_names=split_names,
        path_column=path_column,
        label_column=label_column,
        group_by=group_by,
        progress=progress,
    )
    predicted = _predict(loaded, labelled.manifest, tta, progress)
    images = _sorted_out(loaded, labelled.manifest, predicted)
    evaluation = _evaluated(loaded, images, tables, metric, positive, by, labelled.by)
    return _with_test_evaluations(loaded, images, evaluation)


def _with_test_evaluations(
    loaded: Sequence[LoadedModel], images: _Images, evaluation: Evaluation
) -> Evaluation:
    """Count the evaluation of the test set of a model's study, where images are of it."""
    judged = {sample.digest for sample, own in zip(images.samples, images.judged, strict=True) if own}
    evaluations, notes = None, list(evaluation.notes)
    for model in loaded:
        if model.folder is None or not judged:
            continue
        study = outer_study(model.folder.path)
        card, sides = study.card, assigned(study.path).sides
        own = sum(sides.get(digest) == "test" for digest in judged)
        if not own or not isinstance(card.get("test"), str):
            continue
        decision = model.predictor.decision
        config = model.folder.read("config.json")
        counted_config = config if decision is None else {**config, "decision": decision.as_config()}
        number = count_test_evaluation(card["test"], digest_of(counted_config))
        evaluations = number if evaluations is None else evaluations
        of_test = f"{counted(own, 'image is', 'images are')} of the test set of {study.path}"
        if number is None:
            notes.append(f"{of_test}. This evaluation is not counted: {directories.home()} can't be written.")
        else:
            configurations = counted(number, "configuration has", "configurations have")
            notes.append(
                f"{of_test}: {configurations} been evaluated on it by now, and the best of many is too "
                "optimistic."
            )
    return replace(evaluation, test_evaluations=evaluations, notes=tuple(notes))


@dataclass(frozen=True)
class _Predicted:
    """Predictions of each model on the images that all of them could read."""

    samples: tuple[Sample, ...]
    probabilities: tuple[Floats, ...]  # of each model, in the order of its own classes
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def _predict(
    loaded: Sequence[LoadedModel], data: Manifest, tta: str, progress: OnProgress | None
) -> _Predicted:
    inputs = inputs_of_entries([sample.path for sample in data.samples], data.root, data.items)
    predictors = [model.predictor for model in loaded]
    outcomes = predict_probabilities(predictors, inputs, progress, tta=tta)
    unreadable = dict(pair for outcome in outcomes for pair in outcome.unreadable)
    samples = tuple(sample for sample in data.samples if sample.path not in unreadable)
    paths = [sample.path for sample in samples]
    rows = [{name: row for row, name in enumerate(outcome.names)} for outcome in outcomes]
    return _Predicted(
        samples,
        tuple(
            outcome.probabilities[[row_of[path] for path in paths]]
            for outcome, row_of in zip(outcomes, rows, strict=True)
        ),
        (
            *((skipped.path, f"{skipped.path} {skipped.reason}") for skipped in data.skipped),
            *unreadable.items(),
        ),
        tuple(
            dict.fromkeys(
                note
                for model, outcome in zip(loaded, outcomes, strict=True)
                for note in (
                    *outcome.notes,
                    *test_time_augmentation.note(tta, model.flip, model.predictor.decision),
                )
            )
        ),
    )


@dataclass(frozen=True)
class _Images:
    """The images, sorted into those to judge by and those that stand apart; masks are (images,)."""

    data: Manifest
    predicted: _Predicted
    units: Ints
    judged: Mask
    learned: Mask  # of known classes
    unknown: tuple[UnknownClass, ...]
    notes: tuple[str, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.predicted.samples


def _sorted_out(loaded: Sequence[LoadedModel], data: Manifest, predicted: _Predicted) -> _Images:
    samples = predicted.samples
    if not samples:
        reasons = "; ".join(reason for _, reason in predicted.unreadable[:3])
        raise DataError(f"None of {len(predicted.unreadable)} images can be read: {reasons}.")
    labels = [sample.label for sample in samples]
    unknown_to = {
        label: tuple(model.name for model in loaded if label not in model.predictor.classes)
        for label in sorted(set(labels))
    }
    known = np.array([not unknown_to[label] for label in labels])
    if not known.any():
        knowing = " and ".join(model.name for model in loaded)
        raise DataError(
            f"None of the classes of these images ({named(sorted(set(labels)))}) is one that {knowing} "
            f"{'knows' if len(loaded) == 1 else 'know'}: {named(loaded[0].predictor.classes)}. Classes are "
            "matched by name: rename the folders, or correct the column of labels."
        )
    met = _learned_digests(loaded, data)
    has_learned = np.array([sample.digest in met.learned for sample in samples])
    units = data.units(samples)
    notes = [*(finding.message for finding in data.data_findings), *predicted.notes, *met.notes]
    notes += [
        f"{model.name}: {' '.join(sentences)}"
        for model in loaded
        if (sentences := decided_by(model.path, model.predictor))
    ]
    judged = known & ~has_learned
    together = judged & np.isin(units, units[has_learned])
    if together.any():
        notes.append(
            f"{counted(int(together.sum()), 'image')} share a group with images that were learned from, or "
            "are near copies of them: the figures may be too high."
        )
    near = judged & ~together & np.array([sample.digest in met.near for sample in samples])
    if near.any():
        notes.append(
            f"{counted(int(near.sum()), 'image')} look almost like one that was learned from. That is "
            "expected for a fixed camera; where they are copies, the figures are too high."
        )
    guesses = loaded[0].predictor.guesses(predicted.probabilities[0])
    names = loaded[0].predictor.classes
    unknown = tuple(
        UnknownClass(
            label,
            labels.count(label),
            models,
            dict(Counter(names[guesses[at]] for at, own in enumerate(labels) if own == label).most_common()),
            _similar(label, loaded, models),
        )
        for label, models in unknown_to.items()
        if models
    )
    return _Images(data, predicted, units, judged, known & has_learned, unknown, tuple(notes))


def _similar(label: str, loaded: Sequence[LoadedModel], unknown_to: Sequence[str]) -> str | None:
    """Return a class that differs from this one in case and separators only."""

    def plain(name: str) -> str:
        return "".join(letter for letter in name.casefold() if letter.isalnum())

    model = next(model for model in loaded if model.name in unknown_to)
    return next((name for name in model.predictor.classes if plain(name) == plain(label)), None)


@dataclass(frozen=True)
class _Met:
    """Digests of images that a model learned from, and of those that look like one."""

    learned: frozenset[str]
    near: frozenset[str]
    notes: tuple[str, ...]


def _learned_digests(loaded: Sequence[LoadedModel], data: Manifest) -> _Met:
    learned, near, notes = set[str](), set[str](), []
    for model in loaded:
        if model.fingerprints is None:
            notes.append(
                f"{model.name} carries no fingerprints of what it learned from: whether it has seen these "
                "images cannot be known, and its figures may be too high."
            )
            continue
        images = recognised(data, model.fingerprints)
        learned |= {digest for digest, side in images.sides.items() if side in LEARNED}
        near |= images.near
    return _Met(frozenset(learned), frozenset(near - learned), tuple(notes))


def _evaluated(
    loaded: Sequence[LoadedModel],
    images: _Images,
    tables: Sequence[str | os.PathLike[str]],
    metric: metrics.Metric,
    positive: str | None,
    by: str | None,
    value_of: dict[str, str] | None,
) -> Evaluation:
    paths = [sample.path for sample in images.samples]
    known = list(
        dict.fromkeys(
            [
                *(name for model in loaded for name in model.predictor.classes),
                *(sample.label for sample in images.samples),
            ]
        )
    )
    others = [
        read_other(table, paths, images.data.root, known)
        .naming(known)
        .beside_labels([sample.label for sample in images.samples])
        for table in tables
    ]
    names = [
        *(name for model in loaded for name in model.predictor.classes),
        *(label for other in others for label in other.labels if label),
    ]
    classes = tuple(dict.fromkeys(names))
    index = {name: place for place, name in enumerate(classes)}
    # Images of unknown classes are in no figure: their target is never looked at.
    targets = np.array([index.get(sample.label, -1) for sample in images.samples], dtype=np.int64)
    if positive is not None:
        demand_class(positive, classes)
    shown_first, name = metrics.resolved(metric, classes, positive), metrics.name_of(metric)
    extra = None if name in ESTIMATES else shown_first
    all_answers = [
        Answers(
            targets,
            _spread(matrix, model.predictor.classes, index),
            images.units,
            decided=_decided(model, matrix, index),
            metric=extra,
        )
        for matrix, model in zip(images.predicted.probabilities, loaded, strict=True)
    ]
    evaluations = [
        _of_model(model, answers, images, classes, name, by, value_of)
        for model, answers in zip(loaded, all_answers, strict=True)
    ]
    first, first_answers = evaluations[0], all_answers[0]
    if not images.judged.any():
        return replace(first, others=tuple(evaluations[1:]))
    shown = first_answers.rows(images.judged)
    differences = [
        shown.less(answers.rows(images.judged), (first.model, evaluation.model))
        for answers, evaluation in zip(all_answers[1:], evaluations[1:], strict=True)
    ]
    notes = list(first.notes)
    for other in others:
        has_prediction = images.judged & np.array([bool(label) for label in other.labels])
        notes += other.notes
        if not has_prediction.any():
            raise DataError(
                f"{other.name} has no prediction for the {counted(int(images.judged.sum()), 'image')} that "
                "are judged by."
            )
        answers = _answers_of_table(other, index, targets, images.units)
        evaluations.append(_of_table(other, answers, has_prediction, images, classes, name, by, value_of))
        differences.append(
            first_answers.rows(has_prediction).less(answers.rows(has_prediction), (first.model, other.name))
        )
    return replace(first, others=tuple(evaluations[1:]), differences=tuple(differences), notes=tuple(notes))


def _decided(model: LoadedModel, matrix: Floats, index: dict[str, int]) -> Ints | None:
    """Return what a model's operating point decides for, (images,), in the order of all classes."""
    if model.predictor.decision is None:
        return None
    places = np.array([index[name] for name in model.predictor.classes], dtype=np.int64)
    return np.asarray(places[model.predictor.guesses(matrix)], dtype=np.int64)


def _spread(matrix: Floats, own: Sequence[str], index: dict[str, int]) -> Floats:
    """Return probabilities with a column for every class that any model knows."""
    spread = np.zeros((len(matrix), len(index)))
    spread[:, [index[name] for name in own]] = matrix
    return spread


def _answers_of_table(other: OtherPredictions, index: dict[str, int], targets: Ints, units: Ints) -> Answers:
    matrix = np.zeros((len(targets), len(index)))
    rows = [row for row, label in enumerate(other.labels) if label]
    stated = np.ones(len(targets)) if other.probabilities is None else other.probabilities
    # A prediction stated with probability 0 is one nevertheless.
    matrix[rows, [index[other.labels[row]] for row in rows]] = np.maximum(
        stated[rows], metrics.LEAST_PROBABILITY
    )
    return Answers(targets, matrix, units, whole=False, has_confidence=other.probabilities is not None)


def _of_model(
    model: LoadedModel,
    answers: Answers,
    images: _Images,
    classes: tuple[str, ...],
    metric: str,
    by: str | None,
    value_of: dict[str, str] | None,
) -> Evaluation:
    evaluation = _common(answers, images.judged, images, classes, metric, by, value_of)
    learned = None
    if images.learned.any():
        learned = LearnedImages(int(images.learned.sum()), answers.rows(images.learned).accuracy())
    labels = {sample.label for sample in images.samples}
    return replace(
        evaluation,
        model=model.name,
        run=model.run,
        strategy=model.strategy,
        why=model.why,
        learned=learned,
        absent=tuple(name for name in model.predictor.classes if name not in labels),
    )


def _of_table(
    other: OtherPredictions,
    answers: Answers,
    has_prediction: Mask,
    images: _Images,
    classes: tuple[str, ...],
    metric: str,
    by: str | None,
    value_of: dict[str, str] | None,
) -> Evaluation:
    evaluation = _common(answers, has_prediction, images, classes, metric, by, value_of)
    return replace(evaluation, model=other.name, has_confidence=answers.has_confidence)


def _by_number(value: str) -> tuple[bool, list[tuple[bool, float, str]]]:
    """Order values as a person would: camera 2 before camera 10, -1 before 0.5, the missing one last."""
    number = as_number(value)
    if number is not None and math.isfinite(number):
        return False, [(False, float(number), "")]
    pieces = re.split(r"(\d+)", value)
    return not value, [
        (False, float(piece), "") if place % 2 else (True, 0.0, piece) for place, piece in enumerate(pieces)
    ]


def _common(
    answers: Answers,
    mask: Mask,
    images: _Images,
    classes: tuple[str, ...],
    metric: str,
    by: str | None,
    value_of: dict[str, str] | None,
) -> Evaluation:
    """Return what an evaluation of a model and of a table have in common."""
    shown = answers.rows(mask)
    paths = tuple(sample.path for sample, own in zip(images.samples, mask, strict=True) if own)
    notes = list(images.notes)
    units = len(np.unique(shown.units))
    if 0 < units < FEW:
        counts = (
            counted(units, "image")
            if units == len(paths)
            else f"{counted(len(paths), 'image')} in {counted(units, 'independent group')}"
        )
        notes.append(f"Only {counts}: the intervals are wide.")
    by_value: list[ValueFigures] = []
    if value_of is not None and len(paths):
        values = np.array([value_of[path] for path in paths], dtype=object)
        by_value = [
            ValueFigures(value, shown.rows(values == value).figures())
            for value in sorted(set(values), key=_by_number)
        ]
    return Evaluation(
        model="",
        run="",
        strategy="",
        why="",
        metric=metric,
        figures=shown.figures() if len(paths) else None,
        per_class=shown.per_class(classes),
        classes=classes,
        paths=paths,
        targets=shown.targets,
        probabilities=shown.probabilities,
        decided=shown.decided,
        unknown=images.unknown,
        by=by,
        by_value=tuple(by_value),
        unreadable=images.predicted.unreadable,
        notes=tuple(notes),
    )
