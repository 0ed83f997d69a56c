"""Collect each candidate's predictions on held-out images from the tables of its runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import nn

from frostline.data import Manifest
from frostline.errors import StudyError, option
from frostline.models import Backbone
from frostline.models.heads import adapted_for
from frostline.selection.resampling import pool
from frostline.selection.significance import HeldOutPredictions
from frostline.selection.successive_halving import Task
from frostline.selection.trial_queue import Outcome
from frostline.strategies import Strategy
from frostline.studies.study_folder import Study
from frostline.system import directories, text_output

LEAST = 1e-12  # probabilities are clipped to this before the logarithm: the tables have six digits


def gather(
    data: Manifest, study: Path, outcomes: Mapping[Task, Outcome], candidates: Iterable[int]
) -> dict[int, HeldOutPredictions]:
    """Return each candidate's held-out predictions over its longest runs, sorted by repeat and image.

    The longest runs train whole schedules, unless the time was up before one was finished.

    Parameters
    ----------
    data
        The images, with train and val set.
    study
        Folder of the study.
    outcomes
        Finished runs.
    candidates
        Indices of the candidates to collect.

    Returns
    -------
    dict
        Predictions by candidate index.

    Raises
    ------
    StudyError
        If a run's table cannot be read.
    """
    samples = pool(data)
    index = {sample.path: index for index, sample in enumerate(samples)}
    targets, units = data.targets(samples), data.units(samples)
    predictions = {}
    for candidate in candidates:
        rows: list[tuple[int, int, list[float], float]] = []
        for task in longest(outcomes, candidate):
            table = Study(study).run_at(outcomes[task].get("run")).path / "predictions-val.csv"
            t = float(outcomes[task]["temperature"])
            for path, p in _read_predictions(table):
                if path not in index:
                    raise StudyError(
                        f"{table} names {path}, which is no image here: this study was made of the same "
                        "images under other paths. Give them as then, or use another folder with "
                        f"{option('study')}."
                    )
                rows.append((task.cell.repeat, index[path], p, t))
        rows.sort(key=lambda row: row[:2])
        probabilities = np.array([row[2] for row in rows])
        temperatures = np.array([row[3] for row in rows])[:, None]
        images = np.array([row[1] for row in rows], dtype=np.int64)
        predictions[candidate] = HeldOutPredictions(
            images=images,
            repeats=np.array([row[0] for row in rows], dtype=np.int64),
            units=units[images],
            targets=targets[images],
            probabilities=probabilities,
            logits=np.log(np.maximum(probabilities, LEAST)) * temperatures,  # up to a constant for each image
        )
    return predictions


def longest(outcomes: Mapping[Task, Outcome], candidate: int) -> list[Task]:
    """Return a candidate's finished runs with the largest share of its epochs so far."""
    runs = [task for task in outcomes if task.candidate == candidate]
    share = max((task.share for task in runs), default=1.0)
    return [task for task in runs if task.share == share]


def write_predictions(path: Path, data: Manifest, predictions: HeldOutPredictions) -> None:
    """Write one candidate's predictions as CSV: a line for each image and repeat that held it out."""
    samples = pool(data)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", *(f"p({name})" for name in data.classes)])
    for image, row in zip(predictions.images.tolist(), predictions.probabilities, strict=True):
        sample = samples[image]
        predicted = data.classes[int(row.argmax())]
        writer.writerow([sample.path, sample.label, predicted, *(f"{p:.6g}" for p in row)])
    directories.write_atomically(path, text_output.encoded(text.getvalue()))


def fold_models(
    backbone: Backbone,
    strategy: Strategy,
    classes: int,
    study: Path,
    outcomes: Sequence[Outcome],
    change: Callable[[Path, nn.Module], nn.Module] | None = None,
) -> Callable[[str], nn.Module | None]:
    """Return a function that maps an image's path to the model of the first run that held it out.

    One model is in memory at a time, so each change of the run loads weights. `change` makes another model
    from a run's own.
    """
    run_of: dict[str, Path] = {}
    for outcome in outcomes:
        run = Study(study).run_at(outcome.get("run")).path
        for path, _ in _read_predictions(run / "predictions-val.csv"):
            run_of.setdefault(path, run)
    loaded: dict[Path, nn.Module] = {}

    def find(path: str) -> nn.Module | None:
        run = run_of.get(path)
        if run is None or not (run / "best.safetensors").is_file():
            return None
        if run not in loaded:
            loaded.clear()
            state = load_file(run / "best.safetensors")
            model = adapted_for(backbone, state, strategy.head, classes)
            model.load_state_dict(state)
            loaded[run] = change(run, model) if change else model
        return loaded[run]

    return find


def _read_predictions(table: Path) -> list[tuple[str, list[float]]]:
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [(row[0], [float(p) for p in row[3:]]) for row in list(csv.reader(file))[1:]]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise StudyError(
            f"{table} cannot be read ({error}). Expected the table of predictions that a run leaves: remove "
            "the study's folder `comparisons` to run them again."
        ) from None
