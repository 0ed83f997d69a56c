"""The runs that may predict for a study: runs of `train`, and the winners of comparisons.

Nothing here reads a figure of the test set. Imports no torch.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.config import AUGMENTS, Config
from frostline.data import Manifest
from frostline.errors import DataError, StudyError, UsageError
from frostline.metrics import Z95
from frostline.strategies import parse
from frostline.studies.run_exclusions import Reason, ReasonKind
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
OUT_OF_FOLD = "out-of-fold.csv"  # beside it: the predictions of the winner's runs on the images they held out


@dataclass(frozen=True)
class ValScore:
    """A run's result on the study's val set, which it has not learned from; higher is better."""

    accuracy: float
    metric: str
    goodness: float | None


@dataclass(frozen=True)
class ComparisonResult:
    """How a comparison judged: equal `folds`, the same folds. `candidates` holds each one's accuracy."""

    folds: str | None
    metric: str
    score: float | None
    accuracy: float | None
    candidates: Mapping[tuple[str, str, str], float | None]  # by strategy, augmentation and network
    settings: Mapping[str, Mapping[str, Any]]  # of its runs, by a candidate's network
    trained_on_all: bool


@dataclass(frozen=True)
class Contender:
    """A finished run that may predict: one of `train`, or, with a comparison, its winner."""

    folder: RunFolder
    strategy: str
    ended: str
    val_score: ValScore | None
    config: Mapping[str, Any]
    predictions: Path  # the table of predictions on the images that judge it
    stopped: bool = False
    comparison: ComparisonResult | None = None

    @property
    def trains(self) -> bool:
        """Whether its strategy has steps; one of another version is taken to have them."""
        try:
            return parse(self.strategy).trains
        except UsageError:
            return True

    @property
    def accuracy(self) -> float | None:
        """The accuracy it was judged by: out of fold for a comparison's winner, else on val; 0–1."""
        if self.comparison is not None:
            return self.comparison.accuracy
        return self.val_score.accuracy if self.val_score else None


def trained_runs(study: Study) -> list[Contender]:
    """Return the finished runs that `train` made in this study, those first that ended first."""
    contenders = []
    for folder in study.runs():
        config, result = folder.read("config.json"), folder.read("result.json")
        if not isinstance(config, dict) or not isinstance(config.get("strategy"), str):
            raise StudyError(
                f"{folder.path / 'config.json'} is damaged: it names no strategy. Remove the run's folder, "
                "or name another run with --run."
            )
        on_val = _on_val(result.get("val_accuracy"), config.get("metric"), result.get("val_goodness"))
        stopped = bool(result.get("stopped"))
        predictions = folder.path / "predictions-val.csv"
        contenders.append(
            Contender(folder, config["strategy"], folder.ended, on_val, config, predictions, stopped)
        )
    return contenders


def significantly_better(candidate: Contender, rival: Contender, study: Study) -> bool:
    """Tell whether the candidate is significantly more accurate than the rival on the images both predicted.

    The lower end of a 95 % interval for paired proportions (Bonett and Price 2012, who add one to the images
    that each alone predicted correctly) is above zero. Images of one group count as one.
    """
    candidate_correct, rival_correct = (
        _correct_by_path(candidate.predictions),
        _correct_by_path(rival.predictions),
    )
    shared = [path for path in candidate_correct if path in rival_correct]
    n = _independent(study, shared)
    if not n:
        return False
    share = n / len(shared)
    candidate_only = (
        1 + share * sum(candidate_correct[path] and not rival_correct[path] for path in shared)
    ) / (n + 2)
    rival_only = (1 + share * sum(rival_correct[path] and not candidate_correct[path] for path in shared)) / (
        n + 2
    )
    error = math.sqrt((candidate_only + rival_only - (candidate_only - rival_only) ** 2) / (n + 2))
    return candidate_only - rival_only > Z95 * error


def _correct_by_path(table: Path) -> dict[str, bool]:
    """Return which images of a table were predicted correctly. Raises `StudyError`."""
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
    sample_of = {sample.path: sample for sample in data.samples}
    return len(set(data.units([sample_of[path] for path in paths if path in sample_of]).tolist()))


def setting_difference(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> Reason | None:
    """Return how a run of `train` was made unlike the runs of a comparison; `None` where it was made alike.

    `settings` are a comparison's, by a candidate's network.
    """
    config = run.config
    same_network = [other for other in settings.values() if other["weights"] == config.get("weights")]
    if not same_network:
        return Reason(ReasonKind.OTHER_NETWORK, str(config.get("model")))
    size = (config.get("preprocessing") or {}).get("size")
    if all(other["preprocessing"] != config.get("preprocessing") for other in same_network):
        other_size = all(other["preprocessing"].get("size") != size for other in same_network)
        if other_size:
            return Reason(ReasonKind.OTHER_SIZE, str(size))
        mode = (config.get("preprocessing") or {}).get("crop_mode")
        if all(other["preprocessing"].get("crop_mode") != mode for other in same_network):
            return Reason(ReasonKind.OTHER_CROP_MODE, str(mode))
        return Reason(ReasonKind.OTHER_PREPROCESSING)
    same = SAME if run.trains else ("imbalance",)  # what a solved head goes by
    differences = [f"{key}={config.get(key)}" for key in same if config.get(key) != same_network[0].get(key)]
    if config.get("augment", Config.augment) not in AUGMENTS:
        differences.append("a custom augmentation")
    if config.get("interpolate_weights") is not None:
        differences.append(f"interpolate_weights={config['interpolate_weights']}")
    if config.get("patience") != same_network[0].get("patience") and run.trains:
        differences.append(f"patience={config.get('patience')}")
    if config.get("stop_after") is not None:
        differences.append(f"stop_after={config['stop_after']}")
    if config.get("parent"):
        differences.append(f"{config['parent']['extra_epochs']} more epochs after {config['parent']['run']}")
    if differences:
        return Reason(ReasonKind.OTHER_SETTINGS, ", ".join(differences))
    return Reason(ReasonKind.STOPPED) if run.stopped else None


def network_of(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return by which name a comparison calls the network of a run that is not unlike its own."""
    key = (run.config.get("weights"), run.config.get("preprocessing"))
    return next(name for name, other in settings.items() if (other["weights"], other["preprocessing"]) == key)


def winners_of(study: Study) -> list[Contender]:
    """Return the winners of comparisons that have ended, those first that ended first."""
    winners = [_winner(study, file) for file in sorted((study.path / "comparisons").glob(f"*/{COMPARISON}"))]
    return sorted(winners, key=lambda winner: (winner.ended, winner.folder.name))


def _winner(study: Study, file: Path) -> Contender:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        folder, evaluation = study.run_at(record.get("run")), record.get("evaluation") or {}
        val = evaluation.get("val") or {}
        on_val = _on_val(val.get("accuracy"), record["metric"], val.get("goodness"))
        ended = str(record.get("ended") or ended_of(folder))
        predictions = file.with_name(OUT_OF_FOLD)
        return Contender(
            folder,
            str(record["winner"]),
            ended,
            on_val,
            {},
            predictions,
            comparison=comparison_result(record),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{file} is damaged ({str(error)[:80] or type(error).__name__}). Expected what `compare` writes: "
            "run its command again, or name a run with --run."
        ) from None


def comparison_result(record: Mapping[str, Any]) -> ComparisonResult:
    """Return the result in a comparison's record."""
    evaluation, rows = record.get("evaluation") or {}, [row for row in record["standings"] if row["runs"]]
    names = [(str(row["strategy"]), str(row["augment"]), str(row.get("model", ""))) for row in rows]
    return ComparisonResult(
        folds=evaluation.get("folds"),
        metric=str(record["metric"]),
        score=_number(evaluation.get("score")),
        accuracy=_number(evaluation.get("accuracy")),
        candidates={name: _number(row["accuracy"]) for name, row in zip(names, rows, strict=True)},
        settings=dict(evaluation.get("settings") or {}),
        trained_on_all=bool(record.get("every_image", True)),
    )


def ended_of(folder: RunFolder) -> str:
    return folder.ended if folder.finished else ""


def _on_val(accuracy: object, metric: object, goodness: object) -> ValScore | None:
    rate = _number(accuracy)
    return None if rate is None else ValScore(rate, str(metric), _number(goodness))


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
