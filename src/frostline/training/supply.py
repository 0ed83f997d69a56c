"""Batches of (z, y) for one phase: the one place where training meets the store.

z is what the frozen part makes of a view of an image, and at cut 0 the network's input itself. Whether it is
read or computed makes no difference to a bit of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from frostline import backbone as bb
from frostline.frozen import Counts, Frozen
from frostline.images import Images, Item, Tell
from frostline.seeds import derive
from frostline.store import Store
from frostline.strategy import Segment
from frostline.training.imbalance import Balance
from frostline.training.planning import Plan

VIEWS_APART = 1_000_000  # more than any run has epochs: the view numbers of repeats stay apart


class Supply:
    """What one phase trains on and is scored on. The model must be in eval mode below the cut."""

    def __init__(
        self,
        backbone: bb.Backbone,
        model: nn.Module,
        segments: Sequence[Segment],
        index: int,
        plan: Plan,
        store: Store | None,
        counts: Counts,
        workers: int,
    ) -> None:
        self.cut = backbone.cut(segments[index].cut)
        self._segment = segments[index]
        self._plan = plan
        self._workers = workers

        def frozen(index: int) -> Frozen:
            return Frozen(backbone, model, backbone.cut(index), plan.way, store, counts)

        self._frozen = frozen(self.cut.index) if self.cut.index > 0 else None
        # What later phases need lies on the way: one pass serves them and this one.
        self._later = [frozen(index) for index in _on_the_way(backbone, segments[index:])]

    def epoch(
        self, images: Images, balance: Balance, seed: int, index: int, epoch: int, view: int
    ) -> tuple[list[list[Item]], Tensor]:
        """Return the epoch's batches as (position, view) items in a seeded order, and all targets in it.

        Batches differ by one image at most. An image that is drawn again within the epoch (balanced
        sampling) comes in another view.
        """
        order = balance.order(derive(seed, "order", index, epoch))
        chunks = np.array_split(order, self._segment.batches)[: self._segment.steps_per_epoch]
        times: Counter[int] = Counter()
        items: list[list[Item]] = []
        for chunk in chunks:
            items.append([])
            for position in map(int, chunk):
                items[-1].append((position, self._view(images, view, times[position])))
                times[position] += 1
        return items, torch.from_numpy(images.targets[np.concatenate(chunks)])

    def _view(self, images: Images, view: int, repeat: int) -> int:
        """Cycle through the planned views while anything is frozen; else draw a new one each time."""
        if images.policy.still:
            return 0
        if self.cut.index > 0 and self._plan.views:
            return 1 + (view - 1 + repeat) % self._plan.views
        return view + VIEWS_APART * repeat

    def prepare(self, images: Images, items: list[list[Item]], tell: Tell | None = None) -> None:
        """Compute the rows that will be read, here or in later phases, if any are missing."""
        if self._frozen:
            self._frozen.place()
        flat = [item for batch in items for item in batch]
        for frozen in [*self._later, *([self._frozen] if self._frozen else [])]:
            wanted = [item for item in flat if self._plan.keeps(frozen.cut, item[1])]
            if wanted:
                frozen.fill(images, wanted, workers=self._workers, tell=tell)

    def batches(self, images: Images, items: list[list[Item]]) -> Iterator[Tensor]:
        """Yield z for each batch of items, on the device where layers learn."""
        numbers = self._plan.numbers
        if self._frozen is None:
            for pixels in images.batches(items, self._workers):
                yield numbers.batch(pixels, images.preprocessing.normalise)
            return
        keep = all(self._plan.keeps(self.cut, view) for batch in items for _, view in batch)
        for z in self._frozen.batches(images, items, keep=keep, workers=self._workers):
            moved = z.to(numbers.device)
            yield moved.float() if numbers.precision == "float32" else moved

    def still(self, images: Images, size: int) -> list[list[Item]]:
        """Return view 0 of every image in order, in batches."""
        items = [(position, 0) for position in range(len(images))]
        return [items[i : i + size] for i in range(0, len(items), size)]


def targets_of(targets: Tensor, items: Sequence[Sequence[Item]]) -> Iterator[Tensor]:
    """Yield the targets of each batch, from those of the whole epoch in order."""
    start = 0
    for batch in items:
        yield targets[start : start + len(batch)]
        start += len(batch)


def _on_the_way(backbone: bb.Backbone, segments: Sequence[Segment]) -> list[int]:
    """Return the cuts of later phases that are passed on the way to the first one's, in order.

    Only those whose frozen part no phase until then lets learn.
    """
    lowest, found = backbone.cut(segments[0].cut).index, []
    for segment in segments[1:]:
        index = backbone.cut(segment.cut).index
        if 0 < index < lowest:
            found.append(index)
        lowest = min(lowest, index)
    return sorted(found)
