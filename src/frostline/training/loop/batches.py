"""Batches of (z, y) for one phase: the one place where training meets the feature cache.

z is what the frozen part makes of a view of an image, and at cut 0 the network's input itself. Whether it is
read or computed makes no difference to a bit of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.cost.cache_tradeoff import VIEWS_APART, on_the_way
from frostline.cost.run_time import HELD_BYTES
from frostline.data.decoding_threads import Workers
from frostline.distributed import process_group
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, Frozen
from frostline.feature_extraction.image_batches import Images, Item
from frostline.progress import QUIET, Progress
from frostline.strategies import ResolvedPhase
from frostline.system import numerics
from frostline.system.device_transfers import each_to_device, to_device
from frostline.system.seeds import derive
from frostline.training.numeric_plan import Plan
from frostline.training.techniques.class_imbalance import Balance

# Of the GPU's memory that no step has needed, what rows may take. A choice: memory is in pieces, and a later
# step may want more.
ROOM_SHARE = 0.5


class PhaseBatches:
    """What one phase trains on and is scored on. The model must be in eval mode below the cut."""

    def __init__(
        self,
        backbone: bb.Backbone,
        model: nn.Module,
        modes: Sequence[tuple[nn.Module, bool]],
        phases: Sequence[ResolvedPhase],
        index: int,
        plan: Plan,
        cache: FeatureCache | None,
        counts: Counts,
        workers: Workers,
    ) -> None:
        self.cut = backbone.cut(phases[index].cut)
        self._phase = phases[index]
        self._plan = plan
        self._workers = workers
        self._model, self._modes = model, modes
        self._in_memory: dict[tuple[int, int] | None, Tensor] = {}  # (part, view) → all its rows, in order
        self._whole: set[tuple[int, int]] = set()  # of these every row was prepared
        self._room_bytes = HELD_BYTES
        self._on_device: dict[tuple[int, int], Tensor] = {}  # the same, where the GPU has room for them
        self._gathering: _FeaturesOnDevice | None = None  # on the way there, in the epoch under way
        beside = torch.device(plan.numbers.device).type != "cpu"
        self._may_keep_on_device = beside and process_group.size() == 1  # rows may lie on the GPU

        def frozen(index: int) -> Frozen:
            return Frozen(backbone, model, backbone.cut(index), plan.forward_config, cache, counts)

        self._frozen = frozen(self.cut.index) if self.cut.index > 0 else None
        self._prefix = bb.prefix(backbone, model, self.cut)
        # What later phases need lies on the way: one pass serves them and this one.
        cuts = [backbone.cut(phase.cut).index for phase in phases[index:]]
        self._later = [frozen(index) for index in on_the_way(cuts)]

    def epoch(
        self, images: Images, balance: Balance, seed: int, index: int, epoch: int, view: int
    ) -> tuple[list[list[Item]], Tensor]:
        """Return the epoch's batches as (position, view) items in a seeded order, and all targets in it.

        Batches differ by one image at most. An image that is drawn again within the epoch (balanced
        sampling) comes in another view.
        """
        order = balance.order(derive(seed, "order", index, epoch))
        chunks = np.array_split(order, self._phase.batches)[: self._phase.steps_per_epoch]
        drawn = np.concatenate(chunks)
        targets = torch.from_numpy(images.targets[drawn])
        if len(np.unique(drawn)) == len(drawn):
            first = self._view(images, view, 0)
            return [[(position, first) for position in chunk.tolist()] for chunk in chunks], targets
        times: Counter[int] = Counter()
        items: list[list[Item]] = []
        for chunk in chunks:
            items.append([])
            for position in chunk.tolist():
                items[-1].append((position, self._view(images, view, times[position])))
                times[position] += 1
        return items, targets

    def _view(self, images: Images, view: int, repeat: int) -> int:
        """Cycle through the planned views while anything is frozen; else draw a new one each time."""
        if images.policy.still:
            return 0
        return self._plan.view(view, repeat) if self.cut.index > 0 else view + VIEWS_APART * repeat

    def prepare(self, images: Images, items: list[list[Item]], progress: Progress = QUIET) -> None:
        """Compute the rows that will be read, here or in later phases, if any are missing."""
        place = _place(images, items)
        if self._frozen is None or (
            not self._later and (place in self._in_memory or place in self._on_device)
        ):
            return
        self._model.eval()
        self._frozen.place()
        flat = [item for batch in items for item in batch]
        if place and sorted(position for position, _ in flat) == list(range(len(images))):
            self._whole.add(place)
        for frozen in [*self._later, self._frozen]:
            wanted = [item for item in flat if self._plan.keeps(frozen.cut, item[1])]
            if wanted:
                frozen.fill(images, wanted, workers=self._workers, progress=progress)

    @property
    def from_pixels(self) -> bool:
        """Whether what learns is given pixels: no layer below is frozen."""
        return self._frozen is None

    def set_training(self) -> None:
        """Put what learns in training mode."""
        for module, learns in self._modes:
            module.training = learns

    def batches(self, images: Images, items: list[list[Item]]) -> Iterator[Tensor]:
        """Yield z for each batch of items, on the device where layers learn."""
        if self._frozen is None:
            yield from self.pixels(images, items)
            return
        place = _place(images, items)
        rows = self._on_device.get(place) if place else None
        if rows is not None:
            for positions in self._positions(items):
                yield self._as_learned(_picked(rows, positions))
            return
        collected = (
            _FeaturesOnDevice(len(images))
            if self._may_keep_on_device and self._all_kept(images, items)
            else None
        )
        sent = each_to_device(self._rows(self._frozen, images, items), self._plan.numbers.device)
        if collected is None or place is None:
            yield from map(self._as_learned, sent)
            return
        self._gathering = collected
        for positions, z in zip(self._positions(items), sent, strict=True):
            yield self._as_learned(z)
            collected.take(positions, z)
        self._gathering = None
        if collected.rows is not None:
            self._on_device[place] = collected.rows
            self._forget(place)

    def _positions(self, items: list[list[Item]]) -> Iterator[Tensor]:
        """Yield the positions of each batch, on the device, where all are sent at once."""
        all_of_them = torch.tensor([position for batch in items for position, _ in batch])
        return targets_of(to_device(all_of_them, self._plan.numbers.device), items)

    def _as_learned(self, z: Tensor) -> Tensor:
        return z.float() if self._plan.numbers.precision == "float32" else z

    def _all_kept(self, images: Images, items: list[list[Item]]) -> bool:
        """Return whether these are all images in one view, whose rows are kept."""
        if _place(images, items) is None:
            return False
        all_cached = all(self._plan.keeps(self.cut, view) for batch in items for _, view in batch)
        return all_cached and sorted(p for batch in items for p, _ in batch) == list(range(len(images)))

    def _forget(self, place: tuple[int, int]) -> None:
        """Let the host's memory go of rows that lie on the GPU."""
        features = self._in_memory.pop(place, None)
        self._room_bytes += 0 if features is None else features.nbytes

    def free_device(self) -> bool:
        """Put no rows on the GPU any more, since a step needs its memory; return whether any were there."""
        gathered = self._gathering is not None and self._gathering.rows is not None
        any_there, self._may_keep_on_device = gathered or bool(self._on_device), False
        self._on_device.clear()
        if self._gathering is not None:
            self._gathering.rows, self._gathering = None, None
        return any_there

    def _rows(self, frozen: Frozen, images: Images, items: list[list[Item]]) -> Iterator[Tensor]:
        """Read or compute; small rows of a view that is read whole stay in memory for the next time."""
        place = _place(images, items)
        features = self._in_memory.get(place)
        if features is not None:
            for batch in items:
                yield _picked(features, torch.tensor([position for position, _ in batch]))
            return
        keep = all(self._plan.keeps(self.cut, view) for batch in items for _, view in batch)
        if place is not None and keep and process_group.size() > 1 and self._hold(frozen, images, place):
            yield from self._rows(frozen, images, items)
            return
        positions = [position for batch in items for position, _ in batch]
        whole = keep and place is not None and sorted(positions) == list(range(len(images)))
        parts: list[Tensor] = []
        for z in frozen.batches(images, items, keep=keep, workers=self._workers):
            yield z
            if whole and len(images) * z[:1].nbytes <= self._room_bytes:
                parts.append(z)
        if parts and place is not None:
            rows = torch.cat(parts)
            self._room_bytes -= rows.nbytes
            self._in_memory[place] = _picked(rows, torch.from_numpy(np.argsort(positions)))

    def _hold(self, frozen: Frozen, images: Images, place: tuple[int, int]) -> bool:
        """Read all rows of a view, of which one process of a job sees another part each epoch."""
        form = frozen.cached.form if frozen.cached else None
        if form is None or place not in self._whole or len(images) * form.row_bytes > self._room_bytes:
            return False
        items = [(position, place[1]) for position in range(len(images))]
        lists = [items[i : i + frozen.config.batch] for i in range(0, len(items), frozen.config.batch)]
        self._in_memory[place] = torch.cat(list(frozen.batches(images, lists, workers=self._workers)))
        self._room_bytes -= self._in_memory[place].nbytes
        return True

    def pixels(self, images: Images, items: list[list[Item]]) -> Iterator[Tensor]:
        """Yield the network's own input for each batch of items, whatever is frozen."""
        decoded = images.rates.of_pass(images.batches(items, self._workers))
        for pixels in each_to_device(decoded, self._plan.numbers.device):
            yield self._plan.numbers.batch(pixels, images.preprocessing.normalise)

    def frozen_part(self, x: Tensor) -> Tensor:
        """Return z of the network's input (n, 3, s, s), computed now."""
        if self._frozen is None:
            return x
        self._frozen.counts.computed += len(x)
        with torch.no_grad(), self._plan.numbers.autocast():
            return self._prefix(x)

    def still(self, positions: Sequence[int], size: int) -> list[list[Item]]:
        """Return view 0 of images in order, in batches."""
        items = [(position, 0) for position in positions]
        return [items[i : i + size] for i in range(0, len(items), size)]


def _place(images: Images, items: Sequence[Sequence[Item]]) -> tuple[int, int] | None:
    """Return (part, view) where all items are of one view."""
    views = {view for batch in items for _, view in batch}
    return (id(images), views.pop()) if len(views) == 1 else None


class _FeaturesOnDevice:
    """Rows that are gathered on the GPU while they are learned from for the first time.

    Whether there is room is known once a step was made of the first batch: what is left then was not needed.
    """

    def __init__(self, images: int) -> None:
        self.rows: Tensor | None = None
        self._images, self._decided = images, False

    def take(self, positions: Tensor, z: Tensor) -> None:
        """Take the rows (n, …) of a batch over, given their positions (n,)."""
        if not self._decided:
            self._decided = True
            if self._images * z[:1].nbytes <= ROOM_SHARE * numerics.device_room_bytes():
                self.rows = _empty_like(z, self._images)
        if self.rows is not None:
            self.rows.index_copy_(0, positions, z)


def _empty_like(z: Tensor, images: int) -> Tensor | None:
    """Return room for so many rows, where and laid out as those of `z`; `None` where memory is in pieces."""
    last = z.ndim == 4 and not z.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    try:
        return torch.empty((images, *z.shape[1:]), dtype=z.dtype, device=z.device, memory_format=layout)
    except torch.OutOfMemoryError:
        return None


def _picked(rows: Tensor, positions: Tensor) -> Tensor:
    """Return some rows, in the memory format that all have."""
    picked = rows[positions]
    last = rows.ndim == 4 and not rows.is_contiguous()
    return picked.contiguous(memory_format=torch.channels_last) if last else picked


def targets_of(targets: Tensor, items: Sequence[Sequence[Item]]) -> Iterator[Tensor]:
    """Yield the targets of each batch, from those of the whole epoch in order."""
    start = 0
    for batch in items:
        yield targets[start : start + len(batch)]
        start += len(batch)
