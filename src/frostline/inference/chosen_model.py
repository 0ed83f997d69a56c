"""The model that predicts for a study, a run's name or a delta, why it was chosen, and how it decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import nn

from frostline.errors import StudyError
from frostline.inference.predictor import Predictor
from frostline.models import Backbone
from frostline.models.zoo import delta
from frostline.studies import operating_point
from frostline.studies.best_run import PassedOver, best_at
from frostline.studies.operating_point import Decision
from frostline.system import directories

DECIDED_BY = "decided_by"  # in an export's config.json: a rule, and sentences on it and what it promises


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
    study: str | PathLike[str],
    run: str | None,
    module: nn.Module | None,
    base: str | nn.Module | Backbone | None,
) -> ChosenModel:
    """Return the model of a study's best run, of `run`, or of a delta; the rest as in `predict`."""
    if delta.is_delta(study):
        return of_delta(study, base if base is not None else module)
    best = best_at(study, run)
    strategy = str(best.folder.checked_config()["strategy"])
    predictor = Predictor.of_run(best.folder, module)
    flip = best.folder.read("result.json").get("flip")
    return ChosenModel(
        predictor, best.folder.name, best.why, strategy, best.folder.path, best.passed_over, flip
    )


def of_delta(folder: str | PathLike[str], base: str | nn.Module | Backbone | None) -> ChosenModel:
    """Return the model of a delta. Raises `StudyError`, or `ModelError`: the base weights are others."""
    loaded = delta.load(folder, base)
    predictor = Predictor(
        loaded.model,
        loaded.classes,
        loaded.preprocessing,
        rendering=loaded.rendering,
        decision=exported_decision(folder, loaded.classes),
    )
    why = "the run this delta was exported from"
    return ChosenModel(predictor, loaded.run, why, loaded.strategy, Path(folder))


def exported_decision(folder: str | PathLike[str], classes: Sequence[str]) -> Decision | None:
    """Return how an export decides, by its `config.json`. Raises `StudyError` where that is damaged."""
    path = Path(folder) / directories.CONFIG
    try:
        return Decision.from_config(json.loads(path.read_text(encoding="utf-8")), classes)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is damaged ({error}). Export the model again.") from None


def decided_by(folder: Path, predictor: Predictor) -> tuple[str, ...]:
    """Return how a run or an export decides and what that promises, in sentences.

    Nothing where it decides by the highest probability.
    """
    decision = predictor.decision
    if decision is None:
        return ()
    point = operating_point.read(folder)
    if point is not None:
        return tuple(point["sentences"])
    return _exported_sentences(folder, decision) or (decision.sentence,)


def _exported_sentences(folder: Path, decision: Decision) -> tuple[str, ...]:
    """Return what an export says of its decision; nothing where its rule was changed since."""
    content = json.loads((folder / directories.CONFIG).read_text(encoding="utf-8"))
    exported = content.get("frostline", {}).get(DECIDED_BY) or {}
    same_rule = exported.get("rule") == decision.as_config()
    return tuple(map(str, exported["sentences"])) if same_rule else ()
