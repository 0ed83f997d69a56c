"""Frozen layers of a tiny network, and what is asked of them."""

from __future__ import annotations

from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.system import numerics
from frostline.training import Run
from tiny import tiny_backbone

FAST = {"deterministic": True, "threads": 1, "flip": "none"}


def way(precision: str = "float32", batch: int = 8) -> ForwardConfig:
    return ForwardConfig(numerics.pinned_plan(precision, 1), batch)


def frozen_at(
    index: int, how: ForwardConfig | None = None, *, backbone: Backbone | None = None, cache: bool = True
) -> Frozen:
    backbone = backbone or tiny_backbone()
    return Frozen(
        backbone, backbone.model, backbone.cut(index), how or way(), FeatureCache() if cache else None
    )


def items_of(images: Images, views: tuple[int, ...] = (0, 1)) -> list[list[tuple[int, int]]]:
    flat = [(position, view) for view in views for position in range(len(images))]
    return [flat[i : i + 7] for i in range(0, len(flat), 7)]


def weights(run: Run) -> bytes:
    return run.folder.weights.read_bytes()


def missing(images: Images, frozen: Frozen) -> int:
    return frozen.missing(images, [(position, 1) for position in range(len(images))])
