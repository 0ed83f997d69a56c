"""A study folder, read whole: what every section is told from. Imports no torch.

Nothing here fails because of a file: what is damaged is left out and named in `damaged`, so that a page can
still be made of the rest.
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
from frostline.studies.best_run import PassedOver, apart_from, best_of
from frostline.studies.study_folder import LOOKS, RunFolder, Study

T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """A table of predictions: classes as positions in `classes`, probabilities (answers, classes).

    Out of fold an image is asked once a repeat, so it has a row for each.
    """

    basis: str  # "test part", "out of fold", "val part"
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def guesses(self) -> NDArray[np.int64]:
        """The class that was answered, (answers,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def image(self) -> NDArray[np.int64]:
        """Which image each answer is about, (answers,): numbers from 0."""
        place = {path: number for number, path in enumerate(dict.fromkeys(self.paths))}
        return np.array([place[path] for path in self.paths], dtype=np.int64)

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """How much each answer counts, (answers,): the answers about one image sum to 1."""
        return np.asarray(1.0 / np.bincount(self.image)[self.image], dtype=np.float64)

    @property
    def images(self) -> int:
        """How many images were asked."""
        return int(self.image.max()) + 1

    def averaged(self) -> Answers:
        """Return one answer an image: the mean over its repeats."""
        if self.images == len(self.paths):
            return self
        mean = np.zeros((self.images, len(self.classes)))
        np.add.at(mean, self.image, self.probabilities * self.share[:, None])
        first = np.unique(self.image, return_index=True)[1]
        paths = tuple(self.paths[row] for row in first.tolist())
        return Answers(self.basis, self.classes, paths, self.targets[first], mean)


@dataclass(frozen=True)
class RunRead:
    """One run as its folder tells it; `result` is `None` while it is at work."""

    path: str  # from the study's folder
    folder: Path
    config: dict[str, Any]
    result: dict[str, Any] | None
    epochs: tuple[dict[str, Any], ...]
    backbone: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The start of the configuration's digest."""
        return self.folder.name

    @property
    def strategy(self) -> str:
        """The strategy in its notation."""
        return str(self.config["strategy"])


@dataclass(frozen=True)
class CompareRead:
    """One comparison; `result` is `None` while it is at work."""

    folder: Path
    plan: dict[str, Any] | None
    result: dict[str, Any] | None


@dataclass
class Told:
    """Everything that a study tells. What it does not hold is `None` or empty."""

    path: Path
    data: Manifest | None = None
    backbone: dict[str, Any] | None = None
    signals: dict[str, Any] | None = None
    advice: dict[str, Any] | None = None
    fit: dict[str, Any] | None = None
    comparison: CompareRead | None = None
    runs: list[RunRead] = field(default_factory=list)  # of the study's own split
    cells: list[RunRead] = field(default_factory=list)  # of its other splits: folds, repeats, everything
    answering: RunRead | None = None
    test_looks: int | None = None  # configurations that had looked at the test part when the last one did
    why: str = ""  # that run answers
    passed_over: tuple[PassedOver, ...] = ()
    apart: tuple[PassedOver, ...] = ()  # runs of `train` that are no part of the comparison
    damaged: list[str] = field(default_factory=list)  # sentences, each of them with a file's name

    @property
    def everyone(self) -> list[RunRead]:
        """All runs, the study's own first."""
        return [*self.runs, *self.cells]

    @property
    def at_work(self) -> list[RunRead]:
        """Runs that have begun and not ended."""
        return [run for run in self.everyone if run.result is None]


def read(study: str | Path) -> Told:
    """Read a study. Raises `StudyError` where the folder is none."""
    path = Path(study)
    Study.existing(path)
    told = Told(path)
    told.data = _kept(told, lambda: _manifest(path / "manifest.jsonl"))
    for name in ("backbone", "signals", "advice", "fit"):
        setattr(told, name, _kept(told, lambda name=name: _object(path / f"{name}.json")))  # type: ignore[misc]
    told.runs = list(_runs(told, path / "runs"))
    for split in sorted((path / "splits").glob("*")):
        told.cells += _runs(told, split / "runs")
    told.comparison = _comparison(told)
    told.test_looks = _test_looks(told)
    _answering(told)
    return told


def answers(told: Told, table: Path, basis: str) -> Answers | None:
    """Read a table of predictions; `None` where there is none, or it is damaged (which is noted)."""
    return _kept(told, lambda: _answers(table, basis)) if table.is_file() else None


def object_of(told: Told, path: Path) -> dict[str, Any] | None:
    """Read one JSON object; `None` where there is none, or it is damaged (which is noted)."""
    return _kept(told, lambda: _object(path))


def table(path: Path, basis: str) -> Answers:
    """Read a table of predictions, one answer an image. Raises `StudyError` where it's missing or damaged."""
    return _answers(path, basis).averaged()


def note(told: Told, problem: str) -> None:
    """Remember a problem, once."""
    if problem not in told.damaged:
        told.damaged.append(problem)


def _kept(told: Told, find: Callable[[], T | None]) -> T | None:
    """Return what `find` reads; `None`, and a note, where a file is damaged."""
    try:
        return find()
    except (StudyError, DataError) as error:
        note(told, str(error))
        return None


def _object(path: Path) -> dict[str, Any] | None:
    """Read one JSON object; `None` where there is no such file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read ({_short(error)}): what it holds is left out.") from None
    if not isinstance(found, dict):
        raise StudyError(f"{path} is damaged (it holds no JSON object): what it holds is left out.")
    return found


def _manifest(path: Path) -> Manifest | None:
    if not path.is_file():
        return None
    try:
        return Manifest.load(path)
    except DataError as error:
        raise StudyError(f"{path} cannot be read ({_short(error)}): the images are left out.") from None


def _runs(told: Told, folder: Path) -> Iterator[RunRead]:
    for place in sorted(folder.glob("*")):
        found = _kept(told, lambda place=place: _run(told.path, place))  # type: ignore[misc]
        if found is not None:
            yield found


def _run(study: Path, place: Path) -> RunRead | None:
    config = _object(place / "config.json")
    if config is None:
        return None
    if not isinstance(config.get("strategy"), str):
        raise StudyError(f"{place / 'config.json'} is damaged (it names no strategy): the run is left out.")
    try:
        epochs = [row for row in RunFolder(place).metrics() if isinstance(row, dict)]
    except (OSError, ValueError):  # bytes that are no text
        epochs = []
    return RunRead(
        path=place.relative_to(study).as_posix(),
        folder=place,
        config=config,
        result=_object(place / "result.json"),
        epochs=tuple(epochs),
        backbone=_object(place / "backbone.json"),
    )


def _comparison(told: Told) -> CompareRead | None:
    """Return the comparison to tell of: one that is finished, the latest of several, else one at work."""
    found = []
    for place in sorted((told.path / "comparisons").glob("*")):
        plan = _kept(told, lambda place=place: _object(place / "plan.json"))  # type: ignore[misc]
        result = _kept(told, lambda place=place: _object(place / "comparison.json"))  # type: ignore[misc]
        if plan or result:
            found.append(CompareRead(place, plan, result))
    done = [one for one in found if one.result is not None]
    if told.fit is not None:  # its own race, by the run that came out of it
        done = [one for one in done if one.result and one.result.get("run") == told.fit.get("run")] or done
    if done:
        return max(done, key=lambda one: (_modified(one.folder / "comparison.json"), one.folder.name))
    return max(found, key=lambda one: (_modified(one.folder / "plan.json"), one.folder.name), default=None)


def _test_looks(told: Told) -> int | None:
    """The most that any split of the study has counted: the count only grows."""
    counts = []
    for place in (told.path, *sorted((told.path / "splits").glob("*"))):
        card = _kept(told, lambda place=place: _object(place / LOOKS))  # type: ignore[misc]
        if card is not None and isinstance(card.get("configurations"), int):
            counts.append(card["configurations"])
    return max(counts, default=None)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _answering(told: Told) -> None:
    """Find the run that `predict` would ask."""
    if not any(run.result for run in told.everyone):
        return
    try:
        best = best_of(Study(told.path))
        told.why, told.passed_over = best.why, best.passed_over
        if told.comparison is not None and told.comparison.result is not None:
            told.apart = tuple(apart_from(Study(told.path), told.comparison.result))
        place = best.folder.path.relative_to(told.path).as_posix()
    except StudyError as error:
        if told.runs or (told.path / "answer.json").exists():
            note(told, str(error))
        return
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        note(told, f"{told.path / 'answer.json'} or a run's result.json is damaged ({_short(error)}).")
        return
    told.answering = next((run for run in told.everyone if run.path == place and run.result), None)


def _answers(table: Path, basis: str) -> Answers:
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = list(csv.reader(file))
        classes = tuple(name[2:-1] for name in header[3:])
        place = {name: index for index, name in enumerate(classes)}
        found = Answers(
            basis=basis,
            classes=classes,
            paths=tuple(row[0] for row in rows),
            targets=np.array([place[row[1]] for row in rows], dtype=np.int64),
            probabilities=np.array([[float(p) for p in row[3:]] for row in rows], dtype=np.float64),
        )
        if found.probabilities.shape != (len(rows), len(classes)) or not len(rows):
            raise ValueError("rows are missing or cut short")
        if not np.isfinite(found.probabilities).all() or not (found.probabilities.sum(axis=1) > 0).all():
            raise ValueError("a probability is no number")
        return found
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise StudyError(f"{table} cannot be read ({_short(error)}): what it holds is left out.") from None


def _short(error: BaseException) -> str:
    """One line of at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
