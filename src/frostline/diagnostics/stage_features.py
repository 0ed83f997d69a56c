"""One pass over images in float32: features of every stage, averaged over space, and head confidence.

Beside them the statistics of the last stages, which a linear probe reads by default. Rows are cached, so that
images that were measured before cost a read. Similarity is recorded in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import models as bb
from frostline.data.decoding_threads import Workers
from frostline.diagnostics.activation_statistics import ActivationRecorder, Blocks
from frostline.feature_cache import FeatureCache, Form, key_of
from frostline.feature_extraction import ForwardConfig, padded
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone
from frostline.models.stage_statistics import VERSION as STATISTICS_VERSION
from frostline.progress import QUIET, Activity, Progress
from frostline.strategies import SEVERAL
from frostline.system import devices
from frostline.system.numerics import NumericPlan

VERSION = 3  # of what a row holds; raised when the same images give other numbers


@dataclass(frozen=True)
class StageFeatures:
    """What one pass says of every image.

    `features[stage]` (n, width) after each stage, `confidence` (n,) of the original head, and `statistics`
    (n, widths of the taps) of the last stages, the last one first.
    """

    features: dict[str, NDArray[np.float32]]
    confidence: NDArray[np.float32]
    statistics: NDArray[np.float32]


@devices.computes(float32=True)
def stage_features(
    backbone: Backbone,
    images: Images,
    plan: NumericPlan,
    *,
    model: nn.Module | None = None,
    cache: FeatureCache | None = None,
    recorder: ActivationRecorder | None = None,
    blocks: Blocks | None = None,
    workers: Workers = 0,
    progress: Progress = QUIET,
) -> StageFeatures:
    """Return the features of view 0 of every image by the pretrained network, or by `model`, random weights.

    A `recorder` needs every image, so nothing is read from the cache then; `blocks` (n,) goes with it.
    `workers` threads decode, which changes no bit.
    """
    network = plan.place((model or backbone.model).eval())
    cached = None
    if cache is not None:
        config = ForwardConfig(plan, EVALUATION_BATCH)
        about: dict[str, Any] = {
            "glance": [VERSION, STATISTICS_VERSION, SEVERAL],
            "weights": backbone.digest,
            "cuts": [cut.name for cut in backbone.cuts],
            "preprocessing": backbone.preprocessing.as_dict(),
            "computed": config.describe(),
        }
        cached = cache.prefix(about, {"model": backbone.name, "cut": "every stage", "index": -1})
    keys = [key_of(s.digest, images.pixels_name((at, 0))) for at, s in enumerate(images.samples)]
    rows = np.zeros((len(images), 0), dtype=np.float32)
    missing: Sequence[int] = range(len(images))
    widths = _widths(backbone)
    if cached is not None and cached.form is not None and recorder is None:
        raw, missing = cached.read(keys)
        rows = raw.view(np.float32).copy()
    done = 0
    batches = _computed_rows(backbone, network, images, plan, list(missing), recorder, blocks, workers)
    for chunk, values in batches:
        if not rows.shape[1]:
            rows = np.zeros((len(images), values.shape[1]), dtype=np.float32)
        rows[chunk] = values
        if cached is not None:
            cached.put([keys[i] for i in chunk], values.view(np.uint8), Form("float32", (values.shape[1],)))
        done += len(chunk)
        progress(Activity.MEASURE, done, len(missing))
    if cached is not None:
        cached.close()
    ends = np.cumsum(widths)
    names = [backbone.stages[cut.index - 1].name for cut in backbone.cuts if cut.index > 0]
    *features, last = np.split(rows, ends, axis=1)
    return StageFeatures(dict(zip(names, features, strict=True)), last[:, 0], last[:, 1:])


def _widths(backbone: Backbone) -> list[int]:
    """Return how many channels each cut's activations have, averaged over space."""
    size = backbone.preprocessing.size
    model = backbone.model.eval()
    like = next(model.parameters())
    with torch.no_grad():
        chain = list(_chain(backbone, model, torch.zeros(1, 3, size, size).to(like)))
    return [z.shape[1] for z in chain[: len(backbone.cuts) - 1]]


def _computed_rows(
    backbone: Backbone,
    model: nn.Module,
    images: Images,
    plan: NumericPlan,
    positions: list[int],
    recorder: ActivationRecorder | None,
    blocks: Blocks | None,
    workers: Workers,
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield positions and their rows, batch by batch."""
    chunks = [positions[i : i + EVALUATION_BATCH] for i in range(0, len(positions), EVALUATION_BATCH)]
    items = [[(position, 0) for position in chunk] for chunk in chunks]
    with torch.no_grad(), recorder.recording() if recorder else nullcontext():
        for chunk, pixels in zip(chunks, images.batches(items, workers, once=True), strict=True):
            if recorder is not None and blocks is not None:
                recorder.set_blocks(blocks[chunk])
            x = plan.batch(padded(pixels, EVALUATION_BATCH), images.preprocessing.normalise)
            parts = [part[: len(chunk)].float().cpu() for part in _chain(backbone, model, x, recorder)]
            yield chunk, torch.cat(parts, dim=1).numpy()


def _chain(
    backbone: Backbone, model: nn.Module, x: Tensor, recorder: ActivationRecorder | None = None
) -> Iterator[Tensor]:
    """Yield the mean over space of z at every cut above 0, (n, width), and the head's confidence, (n, 1).

    Then the statistics of each of the last stages, (n, width of its tap).
    """
    z, taps, statistics = x, bb.stage_taps(backbone)[:SEVERAL], dict[int, Tensor]()
    for early, late in zip(backbone.cuts, backbone.cuts[1:], strict=False):
        passed = range(early.index, late.index)  # modules of other stages may be called, too
        if recorder is not None:
            recorder.set_stages(passed)
        own = [tap for tap in taps if tap.stage in passed]
        with bb.collecting(model, own) as collected, bb.between(backbone, model, early, late) as run:
            z = run(z)
        statistics |= collected
        yield bb.over_space(z)
    if recorder is not None:
        recorder.set_stages(range(backbone.cuts[-1].index, len(backbone.stages)))
    with bb.suffix(backbone, model, backbone.cuts[-1]) as head:
        logits = head(z)
    yield logits.float().softmax(dim=1).amax(dim=1, keepdim=True)
    yield from (statistics[tap.stage] for tap in taps)
