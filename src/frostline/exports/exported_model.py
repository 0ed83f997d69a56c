"""The model to export: a finished run's model with its temperature folded into the head."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from frostline.data import Manifest, Rendering
from frostline.inference.predictor import Predictor, rebuilt
from frostline.models import Backbone, Preprocessing, heads
from frostline.models.zoo.delta import digest_of
from frostline.strategies import parse
from frostline.studies import operating_point
from frostline.studies.best_run import Best, best_at
from frostline.studies.study_folder import RunFolder, study_and_run


@dataclass(frozen=True)
class ExportedModel:
    """A run's model. `model` is calibrated: the softmax of its logits gives `predictor`'s probabilities."""

    study: Path
    folder: RunFolder
    best: Best  # why this run, and which runs were passed over
    config: dict[str, Any]
    result: dict[str, Any]
    backbone: Backbone  # with random weights: the head's place and the network's structure
    model: nn.Module
    predictor: Predictor

    @property
    def classes(self) -> list[str]:
        """Return the class names, in the order of the logits."""
        return self.predictor.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how an image becomes the model's input."""
        return self.predictor.preprocessing

    @property
    def rendering(self) -> Rendering:
        """Return how deep and transparent pixels become RGB, before preprocessing."""
        return self.predictor.rendering

    @property
    def source(self) -> dict[str, Any]:
        """Return the backbone's source."""
        return dict(self.config["source"])

    @property
    def head(self) -> str:
        """Return the head in the strategy's notation, `linear`, `cosine`, `mlp(64)`; or `multi_stage`."""
        return heads.MULTI_STAGE if self.several else parse(self.config["strategy"]).head

    @property
    def several(self) -> heads.MultiStageHead | None:
        """Return the head if it reads several stages."""
        return heads.multi_stage_head_in(self.model.get_submodule(self.backbone.head))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the calibrated weights."""
        return digest_of(self.model.state_dict())

    def data(self) -> Manifest:
        """Return the study's images, each in the subset that it was in for this run.

        A comparison's winner has learned from the val set, too: there these images are in train.

        Raises
        ------
        DataError, OSError
            They cannot be listed.
        """
        of_study, of_run = (
            Manifest.load(folder / "manifest.jsonl") for folder in (self.study, self.folder.study)
        )
        subsets = {sample.digest: sample.split for sample in of_run.samples}  # of a fold without test
        samples = (
            replace(sample, split=subsets.get(sample.digest, sample.split)) for sample in of_study.samples
        )
        return replace(of_study, samples=tuple(samples))


def load_exported_model(
    study: str | PathLike[str], run: str | None, module: nn.Module | None
) -> ExportedModel:
    """Load the model of a study's best run, or of `run`. Raises `StudyError` or `ModelError`."""
    best = best_at(study, run)
    folder = best.folder
    config, result = folder.read("config.json"), folder.read("result.json")
    backbone, model = rebuilt(folder, module)
    temperature = float(result["temperature"])
    preprocessing = Preprocessing.from_dict(config["preprocessing"])
    return ExportedModel(
        study_and_run(study)[0],
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
            decision=operating_point.decision_of(folder.path, config["classes"]),
        ),
    )


def calibrated(model: nn.Module, backbone: Backbone, temperature: float) -> nn.Module:
    """Return a copy whose head divides its logits by the temperature (twin classifiers share one head)."""
    calibrated_model = copy.deepcopy(model)
    layers = {id(layer): layer for layer in map(calibrated_model.get_submodule, backbone.classifier.names)}
    for layer in layers.values():
        heads.divide(layer, temperature)
    return calibrated_model.eval()
