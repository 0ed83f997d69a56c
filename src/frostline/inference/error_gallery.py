"""Pictures of the most confident mistakes, with class-activation maps, written into the study.

Where a network ends in average pooling and a linear head, the logit of a class is the mean of a map over the
image (class-activation maps, Zhou et al. 2016, arXiv 1512.04150). That it ends so is proved on the images
themselves: the pooled features must be the mean of some layer's output. Otherwise there are pictures alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from frostline.data import Manifest, Sample
from frostline.data.decoding_threads import AUTO
from frostline.errors import FrostlineError
from frostline.feature_extraction.image_batches import Images, each_decoded
from frostline.models import Backbone, multi_stage_head_in
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
NO_MAPS_OF_STAGES = (
    "There are no class-activation maps: the head reads several stages, so no map of one layer is its "
    "answer. linear_probe(layers=last) has them."
)

Floats = NDArray[np.float64]
# Returns the model that predicted an image, by its path; `None` where it is not available.
ModelOf = Callable[[str], nn.Module | None]


@dataclass(frozen=True)
class MistakePosition:
    """A misclassified image's place among the images; `predicted` is the index of the predicted class."""

    position: int
    predicted: int


def write_gallery(
    folder: Path,
    predictions: Path,
    backbone: Backbone,
    data: Manifest,
    model_of: ModelOf,
    test: Images | None = None,
    maps: Mapping[tuple[str, int], Floats] | None = None,
) -> None:
    """Write pictures and maps of the most confident mistakes in a table of predictions beside it.

    A picture that can't be made is left out; nothing that was computed before depends on it. What a pass over
    the images has left is used: pixels that `test` holds, and `maps` by path and class.
    """
    with contextlib.suppress(FrostlineError, OSError):
        images, maps = test or Images(data, data.samples, backbone.preprocessing), maps or {}
        mistakes_shown = _worst(predictions, images)
        (folder / "error-gallery").mkdir(exist_ok=True)
        rows, mapped, reason = [], True, NO_MAPS

        def pixels_of(mistake: MistakePosition) -> Tensor | None:
            with contextlib.suppress(FrostlineError, OSError):
                return images[(mistake.position, 0)]
            return None

        decoded = each_decoded(pixels_of, mistakes_shown, images.workers(AUTO))
        for mistake, pixels in zip(mistakes_shown, decoded, strict=True):
            if pixels is None:
                continue
            with contextlib.suppress(FrostlineError, OSError):
                path = images.samples[mistake.position].path
                heat = maps.get((path, mistake.predicted))
                if heat is None and mapped and (model := model_of(path)) is not None:
                    heat_maps = class_maps(backbone, model, pixels[None], [mistake.predicted])
                    heat, mapped = (None, False) if heat_maps is None else (heat_maps[0], True)
                    reason = NO_MAPS if multi_stage_head_in(model) is None else NO_MAPS_OF_STAGES
                row = _write_example(folder / "error-gallery", images.samples[mistake.position], pixels, heat)
                rows.append(row)
        note = "" if mapped or not rows else reason
        text = json.dumps({"note": note, "rows": rows}, indent=1)
        directories.write_atomically(folder / "error-gallery.json", (text + "\n").encode())


def _worst(predictions: Path, images: Images) -> list[MistakePosition]:
    predicted = load_predictions(predictions)
    by_path = {sample.path: position for position, sample in enumerate(images.samples)}
    mistake_rows = [row for row in mistakes(predicted).tolist() if predicted.paths[row] in by_path]
    firm = (
        predicted.probabilities[np.arange(len(predicted.paths)), predicted.predicted]
        >= LABEL_ISSUE_RATIO * (predicted.probabilities[np.arange(len(predicted.paths)), predicted.targets])
    )
    rows = mistake_rows[:MOST] + [row for row in mistake_rows[MOST:] if firm[row]][:MOST]
    return [MistakePosition(by_path[predicted.paths[row]], int(predicted.predicted[row])) for row in rows]


def _write_example(folder: Path, sample: Sample, pixels: Tensor, heat: Floats | None) -> dict[str, Any]:
    """Write one picture (3, size, size), what the network saw, and its map; return their row."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    name = sample.digest[:16]
    _write(folder / f"{name}.jpg", picture)
    if heat is not None:
        _write(folder / f"{name}-map.jpg", overlaid(picture, heat))
    return {
        "path": sample.path,
        "picture": f"{name}.jpg",
        "map": None if heat is None else f"{name}-map.jpg",
    }


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
    maps = ClassMaps(backbone, model)
    with maps.recording():
        _answer(backbone, model, pixels)
    return maps.of(range(len(pixels)), classes)


class ClassMaps:
    """Class-activation maps along a pass that is made anyway.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    pixels : Tensor or None
        A first image (1, 3, size, size) uint8, which tells the layer that is pooled, so that a pass need not
        hold the outputs of all that might be.
    """

    def __init__(self, backbone: Backbone, model: nn.Module, pixels: Tensor | None = None) -> None:
        layer = _linear(model.get_submodule(backbone.classifier.name))
        self._layer = layer if backbone.classifier.twin is None else None
        self._modules = list(model.modules()) if self._layer is not None else []
        self._outputs: list[tuple[nn.Module, Tensor]] = []
        self._pooled: list[Tensor] = []
        if pixels is not None and self._layer is not None:
            with self.recording():
                _answer(backbone, model, pixels)
            features = self._features()
            self._modules = [module for module, out in self._outputs if out is features]

    @contextmanager
    def recording(self, _: range = range(0)) -> Iterator[None]:
        """Within the block, what `of` needs of the forward pass made last is recorded."""
        self._outputs, self._pooled = [], []
        if self._layer is None:
            yield
            return
        width = self._layer.in_features

        def keep(module: nn.Module, _inputs: Any, out: Any) -> None:
            if _is_map(out, width):
                self._outputs.append((module, out.detach()))

        def pool(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._pooled.append(inputs[0].detach().float())

        hooks = [module.register_forward_hook(keep) for module in self._modules]
        hooks.append(self._layer.register_forward_pre_hook(pool))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _features(self) -> Tensor | None:
        """Return the output that was pooled into what the head was given, the last of such."""
        if self._layer is None or len(self._pooled) != 1:
            return None
        for _, out in reversed(self._outputs):
            means = _channels_first(out, self._layer.in_features).float().mean(dim=(2, 3))
            if _close(means, self._pooled[0]):
                return out
        return None

    def of(self, rows: Sequence[int], classes: Sequence[int]) -> Floats | None:
        """Return the maps of some rows of the recorded batch, (len(rows), h, w), as `class_maps` does."""
        features = self._features()
        if features is None or self._layer is None:
            return None
        maps = _channels_first(features, self._layer.in_features).cpu()[list(rows)].float()
        weights = self._layer.weight.detach().cpu().float()[list(classes)]
        heat = torch.einsum("nchw,nc->nhw", maps, weights).cpu().double().numpy()
        low, high = heat.min(axis=(1, 2), keepdims=True), heat.max(axis=(1, 2), keepdims=True)
        return np.asarray((heat - low) / np.maximum(high - low, 1e-12))


def _answer(backbone: Backbone, model: nn.Module, pixels: Tensor) -> None:
    like = next(model.parameters())
    with torch.no_grad():
        model.eval()(backbone.preprocessing.normalise(pixels).to(like.device, like.dtype))


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
