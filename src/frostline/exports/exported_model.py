"""What is taken away: a finished run's model with its temperature folded in, and what is known of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from frostline.data import Rendering
from frostline.inference.prediction import Predictor, rebuilt
from frostline.models import Backbone, Preprocessing, heads
from frostline.models.zoo.delta import digest_of
from frostline.strategies import parse
from frostline.studies.best_run import Best, best_of
from frostline.studies.study_folder import RunFolder, Study


@dataclass(frozen=True)
class Subject:
    """One run. `model` is calibrated: a plain softmax of its logits is what `predictor` says."""

    study: Path
    folder: RunFolder
    best: Best  # why this run, and what was passed over
    config: dict[str, Any]
    result: dict[str, Any]
    backbone: Backbone  # with random weights: where the head is, and how the network is built
    model: nn.Module
    predictor: Predictor

    @property
    def classes(self) -> list[str]:
        """The names, in the order of the logits."""
        return self.predictor.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the model's input."""
        return self.predictor.preprocessing

    @property
    def rendering(self) -> Rendering:
        """How deep and transparent pixels become RGB, before that."""
        return self.predictor.rendering

    @property
    def source(self) -> dict[str, Any]:
        """Where the network came from, as the backbone says."""
        return dict(self.config["source"])

    @property
    def head(self) -> str:
        """The head in the strategy's notation: `linear`, `cosine`, `mlp(64)`."""
        return parse(self.config["strategy"]).head

    @property
    def digest(self) -> str:
        """SHA-256 of the calibrated weights."""
        return digest_of(self.model.state_dict())


def subject(study: str | Path, run: str | None, module: nn.Module | None) -> Subject:
    """Return the run that answers for a study, or the one called `run`. Raises `StudyError`, `ModelError`."""
    kept = Study.existing(study)
    best = best_of(kept, run)
    folder = best.folder
    config, result = folder.read("config.json"), folder.read("result.json")
    backbone, model = rebuilt(folder, module)
    temperature = float(result["temperature"])
    preprocessing = Preprocessing.from_dict(config["preprocessing"])
    return Subject(
        kept.path,
        folder,
        best,
        config,
        result,
        backbone,
        calibrated(model, backbone, temperature),
        Predictor(
            model,
            config["classes"],
            preprocessing,
            temperature,
            rendering=Rendering.from_dict(config.get("rendering")),
        ),
    )


def calibrated(model: nn.Module, backbone: Backbone, temperature: float) -> nn.Module:
    """Return a copy whose head gives logits divided by the temperature (twins share one head)."""
    found = copy.deepcopy(model)
    layers = {id(part): part for part in map(found.get_submodule, backbone.classifier.names)}
    for part in layers.values():
        heads.divide(part, temperature)
    return found.eval()
