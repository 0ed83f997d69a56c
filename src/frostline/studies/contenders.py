"""What may answer for a study, as its files tell: runs of `train`, and the winners of comparisons.

Nothing here reads a figure of the test part. Imports no torch.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.data import Manifest
from frostline.errors import DataError, StudyError
from frostline.metrics import Z95
from frostline.studies.study_folder import RunFolder, Study

SAME = (
    "flip",
    "imbalance",
    "batch_size",
    "views",
    "min_crop",
    "rotate",
)  # settings beside the strategy that change what it learns
COMPARISON = "comparison.json"  # in a comparison's folder, written at its end
OUT_OF_FOLD = "out-of-fold.csv"  # beside it: what the winner's runs answered about what they held out


@dataclass(frozen=True)
class OnVal:
    """What was answered about the study's val part without having learned from it; higher is better."""

    accuracy: float
    metric: str
    goodness: float | None


@dataclass(frozen=True)
class Race:
    """How a winner was judged: equal `folds`, the same folds. `raced` holds each candidate's accuracy."""

    folds: str | None
    metric: str
    score: float | None
    accuracy: float | None
    raced: Mapping[tuple[str, str, str], float | None]  # by strategy, augmentation and network
    settings: Mapping[str, Mapping[str, Any]]  # of its runs, by a candidate's network
    whole: bool


@dataclass(frozen=True)
class Contender:
    """A finished run that may answer: one of `train`, or, with a race, a comparison's winner."""

    folder: RunFolder
    strategy: str
    ended: str
    on_val: OnVal | None
    config: Mapping[str, Any]
    answers: Path  # the table of what was answered about the images that judge it
    stopped: bool = False
    race: Race | None = None

    @property
    def accuracy(self) -> float | None:
        """What it is known by."""
        if self.race is not None:
            return self.race.accuracy
        return self.on_val.accuracy if self.on_val else None

    @property
    def figure(self) -> str:
        """What it was judged by, in words."""
        if self.accuracy is None:
            return "judged by no val part"
        rate = f"{100 * self.accuracy:.1f} %"
        return f"{rate} out of fold" if self.race else f"val {rate}"


def trained_runs(study: Study) -> list[Contender]:
    """Return the finished runs that `train` made in this study, those first that ended first."""
    found = []
    for folder in study.runs():
        config, result = folder.read("config.json"), folder.read("result.json")
        if not isinstance(config, dict) or not isinstance(config.get("strategy"), str):
            raise StudyError(
                f"{folder.path / 'config.json'} is damaged: it names no strategy. Remove the run's folder, "
                "or name another run with --run."
            )
        on_val = _on_val(result.get("val_accuracy"), config.get("metric"), result.get("val_goodness"))
        stopped = bool(result.get("stopped"))
        answers = folder.path / "predictions-val.csv"
        found.append(Contender(folder, config["strategy"], folder.ended, on_val, config, answers, stopped))
    return found


def separated(one: Contender, other: Contender, study: Study) -> bool:
    """Whether one is right more often than the other on the images that both were asked about, beyond chance.

    The lower end of a 95 % interval for paired shares (Bonett and Price 2012, who add one to the images that
    each alone had right) is above zero. Images that hang together count as often as there are groups of them.
    """
    mine, theirs = _right(one.answers), _right(other.answers)
    both = [path for path in mine if path in theirs]
    n = _independent(study, both)
    if not n:
        return False
    share = n / len(both)
    alone = (1 + share * sum(mine[path] and not theirs[path] for path in both)) / (n + 2)
    lost = (1 + share * sum(theirs[path] and not mine[path] for path in both)) / (n + 2)
    error = math.sqrt((alone + lost - (alone - lost) ** 2) / (n + 2))
    return alone - lost > Z95 * error


def _right(table: Path) -> dict[str, bool]:
    """Return which images of a table of answers were answered right. Raises `StudyError`."""
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {row["path"]: row["label"] == row["predicted"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise StudyError(
            f"{table} cannot be read ({str(error)[:80]}), so runs cannot be compared by it. Name one with "
            "--run, or train again."
        ) from None


def _independent(study: Study, paths: Sequence[str]) -> int:
    """Return how many of the images stand alone: groups and copies count once."""
    try:
        data = Manifest.load(study.path / "manifest.jsonl")
    except DataError as error:
        raise StudyError(f"{error} Name a run with --run.") from None
    known = {sample.path: sample for sample in data.samples}
    return len(set(data.units([known[path] for path in paths if path in known]).tolist()))


def unlike(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how a run of `train` was made unlike the runs of a comparison; nothing where it was made alike.

    `settings` are a comparison's, by a candidate's network.
    """
    config = run.config
    mine = [known for known in settings.values() if known["weights"] == config.get("weights")]
    if not mine:
        return f"trained on another network, {config.get('model')}"
    size = (config.get("preprocessing") or {}).get("size")
    if all(known["preprocessing"] != config.get("preprocessing") for known in mine):
        other = all(known["preprocessing"].get("size") != size for known in mine)
        if other:
            return f"trained at {size} px"
        mode = (config.get("preprocessing") or {}).get("crop_mode")
        if all(known["preprocessing"].get("crop_mode") != mode for known in mine):
            return f"trained on images made square in another way (crop mode {mode})"
        return "trained with another preprocessing"
    apart = [f"{key}={config.get(key)}" for key in SAME if config.get(key) != mine[0].get(key)]
    if str(config.get("augment")).startswith("custom"):
        apart.append("an augmentation of its own")
    if config.get("interpolate_weights") is not None:
        apart.append(f"interpolate_weights={config['interpolate_weights']}")
    if apart:
        return f"trained with {', '.join(apart)}"
    return "stopped by its time limit" if run.stopped else ""


def network_of(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return by which name a comparison calls the network of a run that is not unlike its own."""
    same = (run.config.get("weights"), run.config.get("preprocessing"))
    return next(
        name for name, known in settings.items() if (known["weights"], known["preprocessing"]) == same
    )


def winners_of(study: Study) -> list[Contender]:
    """Return the winners of comparisons that have ended, those first that ended first."""
    found = [_winner(study, file) for file in sorted((study.path / "comparisons").glob(f"*/{COMPARISON}"))]
    return sorted(found, key=lambda one: (one.ended, one.folder.name))


def _winner(study: Study, file: Path) -> Contender:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        folder, judged = study.run_at(told.get("run")), told.get("judged") or {}
        val = judged.get("val") or {}
        on_val = _on_val(val.get("accuracy"), told["metric"], val.get("goodness"))
        ended = str(told.get("ended") or ended_of(folder))
        answers = file.with_name(OUT_OF_FOLD)
        return Contender(folder, str(told["winner"]), ended, on_val, {}, answers, race=race_of(told))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{file} is damaged ({str(error)[:80] or type(error).__name__}). Expected what `compare` leaves: "
            "give its command again, or name a run with --run."
        ) from None


def race_of(told: Mapping[str, Any]) -> Race:
    """Read how a comparison judged."""
    judged, rows = told.get("judged") or {}, [row for row in told["standings"] if row["runs"]]
    names = [(str(row["strategy"]), str(row["augment"]), str(row.get("model", ""))) for row in rows]
    return Race(
        folds=judged.get("folds"),
        metric=str(told["metric"]),
        score=_number(judged.get("score")),
        accuracy=_number(judged.get("accuracy")),
        raced={name: _number(row["accuracy"]) for name, row in zip(names, rows, strict=True)},
        settings=dict(judged.get("settings") or {}),
        whole=bool(told.get("every_image", True)),
    )


def ended_of(folder: RunFolder) -> str:
    return folder.ended if folder.finished else ""


def _on_val(accuracy: object, metric: object, goodness: object) -> OnVal | None:
    right = _number(accuracy)
    return None if right is None else OnVal(right, str(metric), _number(goodness))


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]
