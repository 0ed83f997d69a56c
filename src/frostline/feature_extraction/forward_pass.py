"""`ForwardPass`: one pass of a model over images, whose logits and features serve all who ask for them.

Pixels → device → normalised → frozen part, read where cached → live part. No gradient, eval mode throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import models as bb
from frostline.data.decoding_threads import Workers
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.cached_features import Counts, Frozen
from frostline.feature_extraction.image_batches import Images, evenly
from frostline.feature_extraction.numeric_key import ForwardConfig
from frostline.models import Backbone, Cut
from frostline.progress import QUIET, Progress


@dataclass(frozen=True)
class Outputs:
    """What a model makes of one batch of images, on the CPU.

    Attributes
    ----------
    positions : range
        The images' places.
    frozen : Tensor, shape (n, …)
        Features at the cut; at cut 0 the normalised pixels.
    features : Tensor of float32, shape (n, width)
        What the head was given, pooled; of two averaged heads the first one.
    logits : Tensor of float32, shape (n, classes)
    """

    positions: range
    frozen: Tensor
    features: Tensor
    logits: Tensor


class EvenlyTaken:
    """Up to `most` of `count` images, evenly taken.

    Parameters
    ----------
    count, most : int
    share : slice or None
        Of the images, those that pass here: the other processes of a job pass the others. None for all.
    """

    def __init__(self, count: int, most: int, share: slice | None = None) -> None:
        self._places, self.shared = evenly(count, most), share is not None
        self._first = share.indices(count)[0] if share else 0

    def __len__(self) -> int:
        return len(self._places)

    def within(self, positions: range) -> tuple[slice, list[int]]:
        """Return which of them lie in a batch of these positions, and at which rows of the batch."""
        first = positions.start + self._first
        start, stop = np.searchsorted(self._places, [first, first + len(positions)]).tolist()
        return slice(start, stop), (self._places[start:stop] - first).tolist()


# Called with the positions of a batch; what it returns is around the layers above the cut.
Above = Callable[[range], AbstractContextManager[None]]


def _nothing_above(_: range) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def collecting_features(backbone: Backbone, model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, features (n, width) that reach the model's head are appended to the list.

    With two averaged heads these are the first one's.
    """
    head, collected = backbone.classifier, list[Tensor]()

    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        collected.append(head.pool(inputs[0].detach()))

    hook = model.get_submodule(head.name).register_forward_pre_hook(collect)
    try:
        yield collected
    finally:
        hook.remove()


@dataclass
class ForwardPass:
    """One pass of a model over view 0 of images.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
        The earliest cut the model was trained from; features below it are shared by all such models.
    config : ForwardConfig
    cache : FeatureCache or None
        Where the features at the cut are read from and kept; None computes them.
    counts : Counts or None
    workers : int or "auto"
        Threads that decode images.
    progress : Progress
    """

    backbone: Backbone
    model: nn.Module
    cut: Cut
    config: ForwardConfig
    cache: FeatureCache | None = None
    counts: Counts | None = None
    workers: Workers = 0
    progress: Progress = QUIET

    def __post_init__(self) -> None:
        """Begin with the pixels where the head also reads stages below the cut, which rows don't hold."""
        several = bb.multi_stage_head_in(self.model.get_submodule(self.backbone.head))
        if several is not None and self.cut is not self.backbone.cuts[-1]:
            self.cut = self.backbone.cuts[0]

    def __call__(self, images: Images, above: Above = _nothing_above) -> Iterator[Outputs]:
        """Yield the outputs of all images, batch by batch, in order."""
        model = self.config.plan.place(self.model.eval())
        several = bb.multi_stage_head_in(model.get_submodule(self.backbone.head))
        items = [(position, 0) for position in range(len(images))]
        size = self.config.batch
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        places = [range(i, min(i + size, len(items))) for i in range(0, len(items), size)]
        if several is not None and self.cut is self.backbone.cuts[-1]:
            frozen = self._frozen(model, self.backbone.cuts[-1], several.layers)
            frozen.fill_statistics(images, items, workers=self.workers, progress=self.progress)
            read = frozen.with_statistics(images, chunks, self.workers)
            for positions, z in zip(places, read, strict=True):
                with torch.no_grad(), self.config.plan.autocast(), above(positions):
                    out = several.of_statistics(z.to(self.config.plan.device))
                yield Outputs(positions, z, z[:, : self.backbone.feature_width], out.float().cpu())
            return
        frozen = self._frozen(model, self.cut)
        frozen.place()
        frozen.fill(images, items, workers=self.workers, progress=self.progress)
        rows = frozen.batches(images, chunks, keep=self.cached, workers=self.workers)
        with bb.suffix(self.backbone, model, self.cut) as live_part:
            for positions, z in zip(places, rows, strict=True):
                with (
                    torch.no_grad(),
                    self.config.plan.autocast(),
                    self._features(model, z) as features,
                    above(positions),
                ):
                    out = live_part(z.to(self.config.plan.device))
                yield Outputs(positions, z, features[0].float().cpu(), out.float().cpu())

    @property
    def cached(self) -> bool:
        """Whether features at the cut are read and kept."""
        return self.cache is not None and self.cut.index > 0

    def _frozen(self, model: nn.Module, cut: Cut, layers: int | None = None) -> Frozen:
        counts = self.counts if cut.index > 0 else None
        cache = self.cache if self.cached else None
        several = {} if layers is None else {"layers": layers}
        return Frozen(self.backbone, model, cut, self.config, cache, counts, **several)

    @contextmanager
    def _features(self, model: nn.Module, z: Tensor) -> Iterator[list[Tensor]]:
        """Within the block, what the head is given is appended to the list; at the last cut that is z."""
        if self.cut.index > 0 and self.cut is self.backbone.cuts[-1]:
            yield [z.mean(dim=tuple(range(2, z.ndim))) if z.ndim > 2 else z]
        else:
            with collecting_features(self.backbone, model) as features:
                yield features

    def logits(self, images: Images) -> NDArray[np.float32]:
        """Return the logits of all images, float32 of shape (n_images, classes)."""
        if not len(images):  # a share of fewer images than processes
            return np.empty((0, len(images.manifest.classes)), dtype=np.float32)
        return torch.cat([outputs.logits for outputs in self(images)]).numpy()

    def features(self, images: Images) -> Tensor:
        """Return what the head is given for all images, float32 of shape (n_images, width)."""
        none = torch.empty(0, self.backbone.feature_width)
        return torch.cat([none, *(outputs.features for outputs in self(images))])
