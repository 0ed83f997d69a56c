"""Pictures of the most confident mistakes, with class-activation maps, written into the study.

Where a network ends in average pooling and a linear head, the logit of a class is the mean of a map over the
image (class-activation maps, Zhou et al. 2016, arXiv 1512.04150). That it ends so is proved on the images
themselves: the pooled features must be the mean of some layer's output. Otherwise there are pictures alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from frostline.data import Manifest, Sample
from frostline.errors import FrostlineError
from frostline.models import Backbone
from frostline.reports.prediction_table import LABEL_ISSUE_RATIO, mistakes
from frostline.reports.study_reader import load_predictions
from frostline.system import directories

# Pictures of the surest mistakes, and as many of mistakes further down that a page may show for their label's
# sake: what it can show, and under two seconds' work on two cores with lite0.
MOST = 24
SIDE_PX = 128
QUALITY = 82  # of JPEG: about 4 kB a picture
COLD, WARM = (36, 84, 130), (244, 130, 40)  # a map's ends
NO_MAPS = (
    "There are no class-activation maps: this network does not end in average pooling and a linear head."
)

Floats = NDArray[np.float64]
# Returns the model that predicted an image, by its path; `None` where it is not available.
ModelOf = Callable[[str], nn.Module | None]


@dataclass(frozen=True)
class Mistake:
    """A misclassified image; `predicted` is the index of the predicted class."""

    sample: Sample
    predicted: int


def write_gallery(
    folder: Path, predictions: Path, backbone: Backbone, data: Manifest, model_of: ModelOf
) -> None:
    """Write pictures and maps of the most confident mistakes in a table of predictions beside it.

    A picture that can't be made is left out; nothing that was computed before depends on it.
    """
    with contextlib.suppress(FrostlineError, OSError):
        mistakes_shown = _worst(predictions, data)
        (folder / "looks").mkdir(exist_ok=True)
        rows, mapped = [], True
        for mistake in mistakes_shown:
            with contextlib.suppress(FrostlineError, OSError):
                row, mapped = _write_example(
                    folder / "looks", mistake, backbone, data, model_of if mapped else None
                )
                rows.append(row)
        note = "" if mapped or not rows else NO_MAPS
        text = json.dumps({"note": note, "rows": rows}, indent=1)
        directories.write_atomically(folder / "looks.json", (text + "\n").encode())


def _worst(predictions: Path, data: Manifest) -> list[Mistake]:
    predicted = load_predictions(predictions)
    by_path = {sample.path: sample for sample in data.samples}
    mistake_rows = [row for row in mistakes(predicted).tolist() if predicted.paths[row] in by_path]
    firm = (
        predicted.probabilities[np.arange(len(predicted.paths)), predicted.predicted]
        >= LABEL_ISSUE_RATIO * (predicted.probabilities[np.arange(len(predicted.paths)), predicted.targets])
    )
    rows = mistake_rows[:MOST] + [row for row in mistake_rows[MOST:] if firm[row]][:MOST]
    return [Mistake(by_path[predicted.paths[row]], int(predicted.predicted[row])) for row in rows]


def _write_example(
    folder: Path, mistake: Mistake, backbone: Backbone, data: Manifest, model_of: ModelOf | None
) -> tuple[dict[str, Any], bool]:
    """Write one picture and its map; returns their row, and whether maps can be had at all."""
    crop = backbone.preprocessing.crop(data.read(mistake.sample))  # (3, size, size), what the network saw
    picture = Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy())
    name = mistake.sample.digest[:16]
    _write(folder / f"{name}.jpg", picture)
    row: dict[str, Any] = {"path": mistake.sample.path, "picture": f"{name}.jpg", "map": None}
    model = model_of(mistake.sample.path) if model_of else None
    if model is None:
        return row, model_of is not None
    heat = class_maps(backbone, model, crop[None], [mistake.predicted])
    if heat is None:
        return row, False
    _write(folder / f"{name}-map.jpg", overlaid(picture, heat[0]))
    return {**row, "map": f"{name}-map.jpg"}, True


def _write(path: Path, picture: Image.Image) -> None:
    small = picture.copy()
    small.thumbnail((SIDE_PX, SIDE_PX))
    temporary = path.with_suffix(".tmp")
    small.save(temporary, format="JPEG", quality=QUALITY)
    temporary.replace(path)


def class_maps(backbone: Backbone, model: nn.Module, pixels: Tensor, classes: Sequence[int]) -> Floats | None:
    """Return how much each place spoke for a class: (n, h, w), 0 the least and 1 the most of the image.

    `pixels` (n, 3, size, size) uint8; `classes` names one class an image. `None` where no map exists.
    """
    layer = _linear(model.get_submodule(backbone.classifier.name))
    if layer is None or backbone.classifier.twin is not None:
        return None
    feature_maps: list[Tensor] = []
    pooled: list[Tensor] = []
    width = layer.in_features

    def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
        if _is_map(out, width):
            feature_maps.append(out.detach())

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    hooks.append(layer.register_forward_pre_hook(lambda _, args: pooled.append(args[0].detach().float())))
    try:
        like = next(model.parameters())
        with torch.no_grad():
            model.eval()(backbone.preprocessing.normalise(pixels).to(like.device, like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    maps = [_channels_first(out, width).float() for out in reversed(feature_maps)]
    if len(pooled) != 1:
        return None
    features = next((m for m in maps if _close(m.mean(dim=(2, 3)), pooled[0])), None)
    if features is None:
        return None
    weights = layer.weight.detach().float()[torch.tensor(list(classes))]
    heat = torch.einsum("nchw,nc->nhw", features, weights).cpu().double().numpy()
    low, high = heat.min(axis=(1, 2), keepdims=True), heat.max(axis=(1, 2), keepdims=True)
    return np.asarray((heat - low) / np.maximum(high - low, 1e-12))


def _linear(head: nn.Module) -> nn.Linear | None:
    """Return the one linear layer that a head consists of, but for pooling and flattening."""
    if isinstance(head, nn.Linear):
        return head
    shaping = (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten)
    inner = [module for module in head.children() if not isinstance(module, shaping)]
    plain = isinstance(head, nn.Sequential) and len(inner) == 1 and isinstance(inner[0], nn.Linear)
    return inner[0] if plain else None  # type: ignore[return-value]


def _is_map(value: Any, width: int) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    return width in (value.shape[1], value.shape[3]) and value.shape[2] > 1


def _channels_first(value: Tensor, width: int) -> Tensor:
    return value if value.shape[1] == width else value.permute(0, 3, 1, 2)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def overlaid(picture: Image.Image, heat: Floats) -> Image.Image:
    """Return the picture in grey with its map laid over it: cold where nothing spoke for the class."""
    smooth = Image.fromarray((255 * heat).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    share = np.asarray(smooth, dtype=np.float64)[..., None] / 255
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    colour = (1 - share) * np.array(COLD) + share * np.array(WARM)
    cover = 0.25 + 0.45 * share
    mixed = (1 - cover) * grey + cover * colour
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
