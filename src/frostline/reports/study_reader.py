"""Read a whole study folder: the input of every report section. Imports no torch.

A damaged file never stops the reading: it is skipped and named in `problems`, so that a page can still be
written from the rest.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from frostline.data import Manifest
from frostline.errors import DataError, StudyError
from frostline.sentences import Basis
from frostline.studies import operating_point
from frostline.studies.best_run import PassedOver, apart_from, best_of
from frostline.studies.study_folder import TEST_EVALUATIONS, RunFolder, Study
from frostline.studies.trial_records import TrialRecord, record_files

T = TypeVar("T")


@dataclass(frozen=True)
class PredictionTable:
    """Predictions on labelled images: targets (rows,) index `classes`, probabilities are (rows, classes).

    Out of fold an image is predicted once per repeat, so it has a row for each repeat.
    """

    basis: Basis | None  # `None` where it is of no interest
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the predicted class of each row, (rows,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def image_index(self) -> NDArray[np.int64]:
        """Return the image of each row, (rows,): numbers from 0."""
        image_number = {path: number for number, path in enumerate(dict.fromkeys(self.paths))}
        return np.array([image_number[path] for path in self.paths], dtype=np.int64)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Return the weight of each row, (rows,): the rows of one image sum to 1."""
        return np.asarray(1.0 / np.bincount(self.image_index)[self.image_index], dtype=np.float64)

    @property
    def n_images(self) -> int:
        """Return the number of images."""
        return int(self.image_index.max()) + 1

    def averaged(self) -> PredictionTable:
        """Return one row per image: the mean probabilities over its repeats."""
        if self.n_images == len(self.paths):
            return self
        mean = np.zeros((self.n_images, len(self.classes)))
        np.add.at(mean, self.image_index, self.probabilities * self.weights[:, None])
        first_rows = np.unique(self.image_index, return_index=True)[1]
        paths = tuple(self.paths[row] for row in first_rows.tolist())
        return PredictionTable(self.basis, self.classes, paths, self.targets[first_rows], mean)


@dataclass(frozen=True)
class RunContents:
    """The contents of one run's folder; `result` is `None` while the run is unfinished."""

    path: str  # relative to the study's folder
    folder: Path
    config: dict[str, Any]
    result: dict[str, Any] | None
    epochs: tuple[dict[str, Any], ...]
    backbone: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Return the folder's name: the start of the configuration's digest."""
        return self.folder.name

    @property
    def strategy(self) -> str:
        """Return the strategy in its notation."""
        return str(self.config["strategy"])


@dataclass(frozen=True)
class ComparisonContents:
    """The contents of one comparison's folder; `result` is `None` while it is unfinished."""

    folder: Path
    plan: dict[str, Any] | None
    result: dict[str, Any] | None
    trials: tuple[TrialRecord, ...] = ()  # that are finished, of an unfinished comparison


@dataclass
class StudyContents:
    """The contents of a study folder. What it lacks is `None` or empty."""

    path: Path
    data: Manifest | None = None
    backbone: dict[str, Any] | None = None
    signals: dict[str, Any] | None = None
    advice: dict[str, Any] | None = None
    fit: dict[str, Any] | None = None
    comparison: ComparisonContents | None = None
    runs: list[RunContents] = field(default_factory=list)  # on the study's own split
    split_runs: list[RunContents] = field(default_factory=list)  # on other splits: folds, repeats, all images
    best_run: RunContents | None = None  # the run that `predict` uses
    test_evaluations: int | None = None  # configurations evaluated on the test set so far
    why: str = ""  # `best_run` was chosen
    passed_over: tuple[PassedOver, ...] = ()
    not_compared: tuple[PassedOver, ...] = ()  # runs of `train` that are not part of the comparison
    problems: list[str] = field(default_factory=list)  # sentences, each with a file's name

    @property
    def all_runs(self) -> list[RunContents]:
        """Return all runs, those on the study's own split first."""
        return [*self.runs, *self.split_runs]

    @property
    def unfinished_runs(self) -> list[RunContents]:
        """Return the runs that have begun and not ended."""
        return [run for run in self.all_runs if run.result is None]


def read(study: str | Path) -> StudyContents:
    """Read a study. Raises `StudyError` where the folder is not a study."""
    path = Path(study)
    Study.existing(path)
    contents = StudyContents(path)
    contents.data = _try_read(contents, lambda: _load_manifest(path / "manifest.jsonl"))
    for name in ("backbone", "signals", "advice", "fit"):
        content = _try_read(contents, lambda name=name: _load_json_object(path / f"{name}.json"))  # type: ignore[misc]
        setattr(contents, name, content)
    contents.runs = list(_read_runs(contents, path / "runs"))
    for split in sorted((path / "splits").glob("*")):
        contents.split_runs += _read_runs(contents, split / "runs")
    contents.test_evaluations = _max_test_evaluations(contents)
    _find_best_run(contents)
    _choose_comparison(contents)
    return contents


def read_predictions(contents: StudyContents, path: Path, basis: Basis) -> PredictionTable | None:
    """Read a table of predictions; `None` where it is missing, or damaged (which is noted)."""
    return _try_read(contents, lambda: _parse_predictions(path, basis)) if path.is_file() else None


def read_json_object(contents: StudyContents, path: Path) -> dict[str, Any] | None:
    """Read one JSON object; `None` where it is missing, or damaged (which is noted)."""
    return _try_read(contents, lambda: _load_json_object(path))


def load_predictions(path: Path, basis: Basis | None = None) -> PredictionTable:
    """Read a table of predictions, one row per image. Raises `StudyError` where it's missing or damaged."""
    return _parse_predictions(path, basis).averaged()


def add_problem(contents: StudyContents, problem: str) -> None:
    """Add a problem to the list, once."""
    if problem not in contents.problems:
        contents.problems.append(problem)


def _try_read(contents: StudyContents, load: Callable[[], T | None]) -> T | None:
    """Return what `load` reads; `None`, and a noted problem, where a file is damaged."""
    try:
        return load()
    except (StudyError, DataError) as error:
        add_problem(contents, str(error))
        return None


def read_operating_point(contents: StudyContents, run: RunContents) -> dict[str, Any] | None:
    """Return how a run's model decides and what it promises; `None` where by the highest probability."""
    return _try_read(contents, lambda: operating_point.read(run.folder))


def _load_json_object(path: Path) -> dict[str, Any] | None:
    """Load one JSON object; `None` where there is no such file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read ({_one_line(error)}): its content is left out.") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} is damaged (it holds no JSON object): its content is left out.")
    return content


def _load_manifest(path: Path) -> Manifest | None:
    if not path.is_file():
        return None
    try:
        return Manifest.load(path)
    except DataError as error:
        raise StudyError(f"{path} cannot be read ({_one_line(error)}): the images are left out.") from None


def _read_runs(contents: StudyContents, folder: Path) -> Iterator[RunContents]:
    for run_folder in sorted(folder.glob("*")):
        run = _try_read(contents, lambda run_folder=run_folder: _load_run(contents.path, run_folder))  # type: ignore[misc]
        if run is not None:
            yield run


def _load_run(study: Path, run_folder: Path) -> RunContents | None:
    config = _load_json_object(run_folder / "config.json")
    if config is None:
        return None
    if not isinstance(config.get("strategy"), str):
        raise StudyError(
            f"{run_folder / 'config.json'} is damaged (it names no strategy): the run is left out."
        )
    try:
        epochs = [row for row in RunFolder(run_folder).metrics() if isinstance(row, dict)]
    except (OSError, ValueError):  # not UTF-8 text
        epochs = []
    return RunContents(
        path=run_folder.relative_to(study).as_posix(),
        folder=run_folder,
        config=config,
        result=_load_json_object(run_folder / "result.json"),
        epochs=tuple(epochs),
        backbone=_load_json_object(run_folder / "backbone.json"),
    )


def _choose_comparison(contents: StudyContents) -> None:
    """Choose the comparison to report; leave out the record of a `fit` whose run is not shown.

    The comparison is the one whose winner predicts, else that of the last `fit`. Of several, and where there
    is no such one, it is the latest, and an unfinished one only where none is finished.
    """
    comparisons = []
    for folder in sorted((contents.path / "comparisons").glob("*")):
        plan = _try_read(contents, lambda folder=folder: _load_json_object(folder / "plan.json"))  # type: ignore[misc]
        result = _try_read(contents, lambda folder=folder: _load_json_object(folder / "comparison.json"))  # type: ignore[misc]
        if plan or result:
            comparisons.append(
                ComparisonContents(folder, plan, result, _read_trials(contents, folder, result))
            )
    finished = [comparison for comparison in comparisons if comparison.result is not None]
    best, fit = contents.best_run, contents.fit or {}
    for run in (best.path if best else None, fit.get("run")):
        of_run = [c for c in finished if c.result and run is not None and c.result.get("run") == run]
        if of_run:
            finished = of_run
            break
    if not finished:
        contents.comparison = max(
            comparisons, key=lambda c: (_modified_at(c.folder / "plan.json"), c.folder.name), default=None
        )
        return
    chosen = max(finished, key=lambda c: (_modified_at(c.folder / "comparison.json"), c.folder.name))
    contents.comparison, winner = chosen, (chosen.result or {}).get("run")
    if fit.get("run") not in (winner, best.path if best else winner):
        contents.fit = None
    if contents.why:  # else a file that this reads is damaged, as `problems` says
        contents.not_compared = tuple(apart_from(Study(contents.path), chosen.result or {}))


def _read_trials(
    contents: StudyContents, comparison: Path, result: dict[str, Any] | None
) -> tuple[TrialRecord, ...]:
    """Return the finished trials of an unfinished comparison; a finished one names them in its result."""
    if result is not None:
        return ()
    trials = [
        _try_read(contents, lambda file=file: TrialRecord.read(file))  # type: ignore[misc]
        for file in record_files(comparison)
    ]
    return tuple(trial for trial in trials if trial is not None)


def _max_test_evaluations(contents: StudyContents) -> int | None:
    """Return the largest count of test evaluations over the study's splits: a count only grows."""
    counts = []
    for folder in (contents.path, *sorted((contents.path / "splits").glob("*"))):
        counter = _try_read(contents, lambda folder=folder: _load_json_object(folder / TEST_EVALUATIONS))  # type: ignore[misc]
        if counter is not None and isinstance(counter.get("configurations"), int):
            counts.append(counter["configurations"])
    return max(counts, default=None)


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _find_best_run(contents: StudyContents) -> None:
    """Find the run that `predict` would use."""
    if not any(run.result for run in contents.all_runs):
        return
    try:
        best = best_of(Study(contents.path))
        contents.why, contents.passed_over = best.why, best.passed_over
        run_path = best.folder.path.relative_to(contents.path).as_posix()
    except StudyError as error:
        if contents.runs or (contents.path / "answer.json").exists():
            add_problem(contents, str(error))
        return
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        add_problem(
            contents,
            f"{contents.path / 'answer.json'} or a run's result.json is damaged ({_one_line(error)}).",
        )
        return
    contents.best_run = next((run for run in contents.all_runs if run.path == run_path and run.result), None)


def _parse_predictions(path: Path, basis: Basis | None) -> PredictionTable:
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = list(csv.reader(file))
        classes = tuple(name[2:-1] for name in header[3:])
        class_index = {name: index for index, name in enumerate(classes)}
        predictions = PredictionTable(
            basis=basis,
            classes=classes,
            paths=tuple(row[0] for row in rows),
            targets=np.array([class_index[row[1]] for row in rows], dtype=np.int64),
            probabilities=np.array([[float(p) for p in row[3:]] for row in rows], dtype=np.float64),
        )
        if predictions.probabilities.shape != (len(rows), len(classes)) or not len(rows):
            raise ValueError("rows are missing or cut short")
        if (
            not np.isfinite(predictions.probabilities).all()
            or not (predictions.probabilities.sum(axis=1) > 0).all()
        ):
            raise ValueError("a probability is NaN or infinite, or a row sums to 0")
        return predictions
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise StudyError(f"{path} cannot be read ({_one_line(error)}): its content is left out.") from None


def _one_line(error: BaseException) -> str:
    """Return the error's message as one line of at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
