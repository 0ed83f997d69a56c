"""An export as a predictor: the same images in, the same probabilities out as its study's."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline import metrics
from frostline.data import Rendering
from frostline.errors import FrostlineError, StudyError, UsageError
from frostline.exports import onnx_and_torch, standalone_loader
from frostline.exports.safetensors_export import WEIGHTS
from frostline.exports.verification import LogitsFunction, logits_function
from frostline.inference.chosen_model import exported_decision, of_delta
from frostline.inference.predictor import Predictor
from frostline.models import Backbone, Preprocessing
from frostline.models.zoo import delta
from frostline.studies.operating_point import Decision
from frostline.studies.study_folder import MAX_CLASSES
from frostline.system import directories


class ExportedPredictor(Predictor):
    """Predicts with an export: its logits are calibrated, so a plain softmax gives the probabilities."""

    def __init__(
        self,
        logits_of: LogitsFunction,
        classes: list[str],
        preprocessing: Preprocessing,
        rendering: Rendering,
        decision: Decision | None = None,
    ) -> None:
        super().__init__(nn.Identity(), classes, preprocessing, rendering=rendering, decision=decision)
        self._logits_of = logits_of

    def __call__(self, pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return probabilities (n, classes) for uint8 pixels (n, 3, size, size)."""
        return metrics.softmax(self._logits_of(pixels))


@dataclass(frozen=True)
class LoadedExport:
    """An export that can predict, and the run and strategy it was made from."""

    predictor: Predictor
    run: str
    strategy: str
    format: str


def load_export(
    folder: str | Path, module: nn.Module | None = None, base: str | nn.Module | Backbone | None = None
) -> LoadedExport:
    """Return an export as a predictor.

    Parameters
    ----------
    folder : path
        A folder that `export` wrote: safetensors, onnx or delta.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.

    Returns
    -------
    LoadedExport

    Raises
    ------
    StudyError
        The folder is no export, or is damaged.
    ModelError
        The base weights of a delta are others.
    UsageError
        The package or the module that its format needs is missing, or it is a torch program, which would be
        unpickled.
    """
    path = Path(folder)
    kind = directories.exported_as(path)
    if kind == delta.KIND:
        chosen = of_delta(path, base if base is not None else module)
        return LoadedExport(chosen.predictor, chosen.run, chosen.strategy, kind)
    if kind == "torch":
        raise UsageError(
            f"{path} is a torch program, and torch.export.load unpickles what the file names, which may run "
            "any code: frostline does not open it. Use the study it was exported from, or an export with "
            "--to safetensors, onnx or delta."
        )
    readers = {"safetensors": _safetensors, "onnx": _onnx}
    if kind not in readers:
        raise StudyError(
            f"{path} is not an export that can predict"
            f"{'' if kind is None else f' (its format is {kind!r})'}. Expected a folder that frostline "
            "export wrote."
        )
    try:
        config = json.loads((path / directories.CONFIG).read_text(encoding="utf-8"))
        card = config["frostline"]
        classes = [str(name) for name in config["label_names"]]
        preprocessing = Preprocessing.from_dict(card["preprocessing"])
        rendering = Rendering.from_dict(card.get("rendering"))
        run, strategy = str(card["run"]), str(card["strategy"])
        if not 1 < len(classes) <= MAX_CLASSES:
            raise ValueError(f"it names {len(classes)} classes")
    except (OSError, KeyError, TypeError, ValueError, RecursionError, FrostlineError) as error:
        raise StudyError(
            f"{path / directories.CONFIG} is damaged ({error!r}). Export the model again."
        ) from None
    try:
        logits_of = readers[kind](path, config, preprocessing, module)
    except FrostlineError:
        raise
    except Exception as error:  # each library raises its own kinds for a damaged file
        raise StudyError(f"The {kind} export in {path} cannot be loaded: {error}") from None
    predictor = ExportedPredictor(
        logits_of, classes, preprocessing, rendering, exported_decision(path, classes)
    )
    return LoadedExport(predictor, run, strategy, kind)


def _safetensors(
    path: Path, config: dict[str, Any], preprocessing: Preprocessing, module: nn.Module | None
) -> LogitsFunction:
    if "rebuild" in config:
        if config["rebuild"]["library"] == "module" and module is None:
            raise UsageError(
                f"{path} holds the weights of a module of your own, which can't be built by name: pass it as "
                "module= in Python."
            )
        return logits_function(standalone_loader.load(path, copy.deepcopy(module)), preprocessing)
    import timm

    model = timm.create_model(
        config["architecture"],
        pretrained=False,
        num_classes=config["num_classes"],
        **config.get("model_args", {}),
    )
    try:
        model.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StudyError(f"{path / WEIGHTS} cannot be loaded: {error}") from None
    return logits_function(model.eval(), preprocessing)


def _onnx(
    path: Path, config: dict[str, Any], preprocessing: Preprocessing, module: nn.Module | None
) -> LogitsFunction:
    onnx_and_torch.require_onnx()
    return onnx_and_torch.onnx_logits(path / onnx_and_torch.ONNX, preprocessing, _takes_bytes(config))


def _takes_bytes(config: dict[str, Any]) -> bool:
    return bool(config["input"]["dtype"] == "uint8")
