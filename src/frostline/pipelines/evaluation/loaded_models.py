"""The models to evaluate: a study's best run, a run, an export, or a `Run` at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from frostline.data.seen_images import Fingerprints
from frostline.errors import StudyError, UsageError
from frostline.exports.exported_predictor import load_export
from frostline.inference.chosen_model import chosen_model
from frostline.inference.predictor import Predictor
from frostline.models import Backbone
from frostline.studies.study_folder import RunFolder
from frostline.system import directories
from frostline.training import Run


@dataclass(frozen=True)
class LoadedModel:
    """A model that can predict, and the fingerprints of what it learned from (None where unknown)."""

    name: str
    predictor: Predictor
    run: str
    strategy: str
    why: str
    fingerprints: Fingerprints | None
    path: Path  # of the run, or the export
    folder: RunFolder | None = None  # of a run; None for an export
    flip: str | None = None  # how training images were mirrored, where that is known


def load_models(
    models: Sequence[Any],
    run: str | None,
    module: nn.Module | None,
    base: str | nn.Module | Backbone | None,
) -> list[LoadedModel]:
    """Load every model, each under a name of its own. Raises as `evaluate` does."""
    if run is not None and len(models) > 1:
        raise UsageError(
            f"A run ({run}) can be named for one model, and {len(models)} are given. Name a run by its "
            "folder, STUDY/runs/RUN."
        )
    loaded = [_load(model, run, module, base) for model in models]
    names = [one.name for one in loaded]
    return [
        replace(one, name=_distinct(model, number, one)) if names.count(one.name) > 1 else one
        for number, (model, one) in enumerate(zip(models, loaded, strict=True), start=1)
    ]


def _distinct(model: Any, number: int, loaded: LoadedModel) -> str:
    return f"{loaded.name} ({number})" if isinstance(model, Run) else str(model)


def _load(
    model: Any, run: str | None, module: nn.Module | None, base: str | nn.Module | Backbone | None
) -> LoadedModel:
    if isinstance(model, Run):
        fingerprints = Fingerprints.read(model.folder.path)
        return LoadedModel(
            f"run {model.folder.name}",
            model.predictor,
            model.folder.name,
            model.strategy,
            "as asked for",
            fingerprints,
            model.folder.path,
            model.folder,
            model.flip,
        )
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"Found a model of type {type(model).__name__}; expected a study or an export, their folder, or "
            "a Run."
        )
    path = Path(model).expanduser()
    if path.is_file() and directories.exported_as(path.parent):
        path = path.parent  # a file of an export, such as model.onnx
    if directories.exported_as(path):
        if run is not None:
            raise UsageError(f"{path} is an export, which holds one run: leave --run out.")
        export = load_export(path, module, base)
        return LoadedModel(
            path.resolve().name,
            export.predictor,
            export.run,
            export.strategy,
            f"the run this {export.format} export was made from",
            Fingerprints.read(path),
            path,
        )
    study, name = path, run
    is_run = path.parent.name == "runs" and (path / "config.json").is_file()
    if is_run:
        study, name = path.parents[1], path.name
    elif not (path / "study.json").is_file():
        what = "is neither a study nor an export" if path.exists() else "does not exist"
        raise StudyError(
            f"{path} {what}. Expected the folder of a study (as fit, compare or train write it), of one of "
            "its runs (STUDY/runs/RUN), or of an export; the labelled images come last."
        )
    chosen = chosen_model(study, name, module, base)
    title = f"run {path.name}" if is_run else path.resolve().name
    return LoadedModel(
        title,
        chosen.predictor,
        chosen.run,
        chosen.strategy,
        chosen.why,
        Fingerprints.read(chosen.folder),
        chosen.folder,
        RunFolder(chosen.folder),
        chosen.flip,
    )
