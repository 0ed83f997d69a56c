"""A trained model that predicts: pixels in, probabilities of all classes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline import metrics
from frostline.data import Rendering
from frostline.errors import StudyError
from frostline.feature_extraction.forward_pass import collecting_features
from frostline.models import Backbone, Preprocessing, zoo
from frostline.models.heads import adapted_for
from frostline.models.zoo import delta
from frostline.strategies import parse
from frostline.studies import operating_point
from frostline.studies.best_run import best_at
from frostline.studies.operating_point import Decision
from frostline.studies.study_folder import RunFolder
from frostline.system import devices, numerics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Predictor:
    """A model ready to predict: `classes` names its outputs, and logits are divided by `temperature`.

    `decision` says how it decides; None: by the highest probability.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        temperature: float = 1.0,
        backbone: Backbone | None = None,
        rendering: Rendering = Rendering(),  # noqa: B008 - frozen
        decision: Decision | None = None,
    ) -> None:
        self.decision = decision
        self.model = model
        self.classes = list(classes)
        self.preprocessing = preprocessing
        self.temperature = temperature
        self.backbone = backbone
        self.rendering = rendering

    @classmethod
    def of_run(
        cls, folder: RunFolder, module: nn.Module | None = None, backbone: Backbone | None = None
    ) -> Predictor:
        """Return a run's model; `module` as in `load_model`, `backbone` where it is at hand."""
        config = folder.checked_config()
        backbone, model = rebuilt(folder, module, backbone)
        return cls(
            model,
            config["classes"],
            Preprocessing.from_dict(config["preprocessing"]),
            _temperature(folder),
            backbone,
            Rendering.from_dict(config.get("rendering")),
            operating_point.decision_of(folder.path, config["classes"]),
        )

    def guesses(self, probabilities: Floats) -> Ints:
        """Return the predicted class indices (n,) for probabilities (n, classes)."""
        if self.decision is not None:
            return self.decision.decide(probabilities)
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)

    def __call__(self, pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return probabilities (n, classes) for uint8 pixels (n, 3, size, size)."""
        return metrics.softmax(self._logits(pixels), self.temperature)

    def with_features(
        self, pixels: Tensor
    ) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], Tensor]:
        """Return probabilities, and the features (n, width) that the head was given; of a run alone."""
        assert self.backbone is not None
        with collecting_features(self.backbone, self.model) as collected:
            out = self._logits(pixels)
        return metrics.softmax(out, self.temperature), torch.cat(collected)

    def _logits(self, pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        plan = numerics.exact_plan()
        with torch.inference_mode(), devices.full_float32():
            out = plan.place(self.model)(plan.batch(pixels, self.preprocessing.normalise))
        return np.asarray(out.float().cpu().numpy())


@devices.computes()
def load_model(
    study: str | PathLike[str] | RunFolder,
    *,
    run: str | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
) -> nn.Module:
    """Return a run's model as a plain module in eval mode.

    Parameters
    ----------
    study : path or RunFolder
        A study, or a delta that `export` wrote, which is applied to its base weights.
    run : str or None
        Name of a run, or its start; None is the best run.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.

    Returns
    -------
    nn.Module
        Normalised images (n, 3, s, s) to logits (n, classes).

    Raises
    ------
    StudyError
        Weights and architecture differ, or there is no such run.
    ModelError
        The base weights are others.
    """
    if not isinstance(study, RunFolder) and delta.is_delta(study):
        return delta.load(study, base if base is not None else module).model
    folder = study if isinstance(study, RunFolder) else best_at(study, run).folder
    return rebuilt(folder, module)[1]


def rebuilt(
    folder: RunFolder, module: nn.Module | None = None, backbone: Backbone | None = None
) -> tuple[Backbone, nn.Module]:
    """Return a run's model, in eval mode, and its backbone: `backbone`, else one with random weights."""
    config = folder.checked_config()
    classes = len(config["classes"])
    backbone = backbone or zoo.rebuild_backbone(config["source"], module)
    try:
        state = load_file(folder.weights)
        model = adapted_for(backbone, state, parse(config["strategy"]).head, classes)
        model.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StudyError(f"The weights of run {folder.name} cannot be loaded: {error}") from None
    return backbone, model.eval()


def _temperature(folder: RunFolder) -> float:
    result = folder.read("result.json")
    value = result.get("temperature") if isinstance(result, dict) else None
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise StudyError(f"{folder.path / 'result.json'} is damaged: its temperature is {str(value)[:40]}.")
    return float(value)
