"""`Frozen`: the rows of one cut, read or computed, and never computed twice where they are kept.

A batch of the prefix always has the same number of images, filled up where there are fewer: some kernels
answer other bits for other batch sizes.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.data import OnProgress
from frostline.distributed import process_group
from frostline.feature_cache import Shelf, Store, key_of
from frostline.features.image_batches import Images, Item
from frostline.features.numeric_key import Way
from frostline.features.tensors import ahead, from_bytes, padded, same, to_bytes
from frostline.models import Backbone, Cut
from frostline.system import numerics

READ_AT_ONCE_BYTES = 32_000_000  # rows looked up and read in one go: a small part of any memory


@dataclass
class Counts:
    """How many rows were computed by the prefix, and how many came out of the store."""

    rows_computed: int = 0
    rows_read: int = 0


class Frozen:
    """The rows of one cut of one model, in eval mode and without gradients.

    With a `store`, rows are read from it and kept in it; without one they are computed each time. The model
    may be in training above the cut; below it must not change while this is in use.
    """

    def __init__(
        self,
        backbone: Backbone,
        model: nn.Module,
        cut: Cut,
        way: Way,
        store: Store | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.cut = cut
        self.way = way
        self.counts = counts if counts is not None else Counts()
        self._backbone = backbone
        self._given = model
        self.store = store
        self._shelves: dict[int, Shelf | None] = {}  # of earlier cuts, by index
        self._bridges: dict[int, bool] = {}  # cut index → whether rows of that cut lead to the same bits

    @property
    def preprocessing(self) -> bb.Preprocessing:
        """The checkpoint's own."""
        return self._backbone.preprocessing

    @cached_property
    def _folded(self) -> bb.Folded | None:
        """A copy with BatchNorm folded, where that is the way."""
        if not self.way.folded:
            return None
        folded = bb.Folded(self._given, list(self.way.folded))
        self.way.plan.place(folded.model)
        return folded

    @cached_property
    def _model(self) -> nn.Module:
        """The model where and how the prefix wants it: the one given, or a copy laid out otherwise."""
        if self._folded is not None:
            return self._folded.model
        first = next(self._given.parameters())
        layout = torch.channels_last if self.way.plan.channels_last else torch.contiguous_format
        fits = all(p.is_contiguous(memory_format=layout) for p in self._given.parameters() if p.ndim == 4)
        if fits and first.device.type == self.way.plan.device:
            return self._given
        return self.way.plan.place(copy.deepcopy(self._given))

    @cached_property
    def shelf(self) -> Shelf | None:
        """Where this cut's rows lie."""
        return self._shelf_of(self.cut)

    @cached_property
    def _computed_how(self) -> dict[str, Any]:
        return self.way.describe()

    def _shelf_of(self, cut: Cut) -> Shelf | None:
        if self.store is None:
            return None
        about = {
            "prefix": bb.prefix_digest(self._backbone, self._given, cut),
            "preprocessing": self._backbone.preprocessing.as_dict(),
            "computed": self._computed_how,
        }
        return self.store.shelf(about, {"model": self._backbone.name, "cut": cut.name, "index": cut.index})

    # --- computing -------------------------------------------------------------------------------------

    @contextmanager
    def _inference(self) -> Iterator[nn.Module]:
        """The model as the prefix runs it."""
        model = self._model
        skipping = self._folded.skipping() if self._folded else nullcontext()
        with torch.no_grad(), self.way.plan.autocast(), skipping:
            yield model

    def compute(self, pixels: Tensor) -> Tensor:
        """Return z for uint8 pixels (n, 3, s, s), n at most the way's batch."""
        x = self.way.plan.batch(padded(pixels, self.way.batch), self._backbone.preprocessing.normalise)
        with self._inference() as model:
            z = bb.prefix(self._backbone, model, self.cut)(x)
        return z[: len(pixels)].cpu()

    def stages_s(self, pixels: Tensor) -> list[float]:
        """Return the seconds of each stage between offered cuts up to this one, for a whole batch."""
        z = self.way.plan.batch(pixels, self._backbone.preprocessing.normalise)
        cuts = [cut for cut in self._backbone.cuts if cut.index <= self.cut.index]
        found = []
        with self._inference() as model:
            for early, late in itertools.pairwise(cuts):
                with bb.between(self._backbone, model, early, late) as run:
                    begun = numerics.now()
                    z = run(z)
                    found.append(numerics.now() - begun)
        return found

    def _compute(self, images: Images, items: Sequence[Item]) -> Tensor:
        (pixels,) = images.batches([items])
        self.counts.rows_computed += len(items)
        return self.compute(pixels)

    def _computed(self, images: Images, items: list[list[Item]], workers: int) -> Iterator[Tensor]:
        """Yield z batch by batch, computing in full batches of the prefix across batch borders."""
        flat = list(itertools.chain.from_iterable(items))
        chunks = [flat[i : i + self.way.batch] for i in range(0, len(flat), self.way.batch)]
        rest: Tensor | None = None  # computed and not yet asked for
        sizes = iter([len(batch) for batch in items])
        wanted = next(sizes, 0)
        for z in self._chunks(images, chunks, workers):
            self.counts.rows_computed += len(z)
            rest = z if rest is None or not len(rest) else torch.cat([rest, z])
            while 0 < wanted <= len(rest):
                yield rest[:wanted]
                rest = rest[wanted:]
                wanted = next(sizes, 0)

    def _chunks(self, images: Images, chunks: list[list[Item]], workers: int) -> Iterator[Tensor]:
        """Compute each chunk: from the rows of an earlier cut if all are there, else from pixels."""
        keys = [[_key(images, item) for item in chunk] for chunk in chunks]
        for early, below in self._earlier():
            if below.form is None or below.missing(list(itertools.chain.from_iterable(keys))):
                continue
            if self._bridge_holds(early, below, images, dict(zip(keys[0], chunks[0], strict=True))):
                for chunk, wanted in zip(chunks, keys, strict=True):
                    found = self._from_rows(early, below, wanted)
                    yield self._compute(images, chunk) if found is None else found
                below.close()
                return
        for pixels in images.batches(chunks, workers):
            yield self.compute(pixels)

    # --- reading ---------------------------------------------------------------------------------------

    def batches(
        self, images: Images, items: list[list[Item]], *, keep: bool = True, workers: int = 0
    ) -> Iterator[Tensor]:
        """Yield z, one tensor with a row an item, for each list of (position, view) items.

        With `keep`, rows are read where they are kept, and kept where they had to be computed.
        """
        shelf = self.shelf
        if shelf is None or not keep:
            yield from self._computed(images, items, workers)
            return
        row_bytes = shelf.form.row_bytes if shelf.form else READ_AT_ONCE_BYTES
        at_once = max(1, READ_AT_ONCE_BYTES // (max(1, row_bytes) * max(map(len, items), default=1)))
        try:
            for start in range(0, len(items), at_once):
                yield from self._read(shelf, images, items[start : start + at_once])
        finally:
            shelf.close()

    def _read(self, shelf: Shelf, images: Images, items: list[list[Item]]) -> Iterator[Tensor]:
        flat = list(itertools.chain.from_iterable(items))
        rows, absent = shelf.read([_key(images, item) for item in flat])
        self.counts.rows_read += len(flat) - len(absent)
        there = None if shelf.form is None else from_bytes(rows, shelf.form)
        for start in range(0, len(absent), self.way.batch):
            chunk = absent[start : start + self.way.batch]
            z = self._compute(images, [flat[i] for i in chunk])
            self._keep(shelf, [_key(images, flat[i]) for i in chunk], z)
            if there is None or there.shape[1:] != z.shape[1:]:
                there = torch.empty((len(flat), *z.shape[1:]), dtype=z.dtype)
                if z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last):
                    there = there.contiguous(memory_format=torch.channels_last)
            there[torch.tensor(chunk)] = z
        assert there is not None
        start = 0
        for batch in items:
            yield there[start : start + len(batch)]
            start += len(batch)

    @staticmethod
    def _keep(shelf: Shelf, keys: list[bytes], z: Tensor) -> None:
        form, rows = to_bytes(z)
        if form is not None:
            shelf.put(keys, rows, form)

    # --- filling ---------------------------------------------------------------------------------------

    def place(self) -> None:
        """Lay the model out as the prefix wants it, now: a copy must not be made while its suffix runs."""
        _ = self._model

    def missing(self, images: Images, items: Iterable[Item]) -> int:
        """Return how many rows of `items` are not kept yet."""
        keys = {_key(images, item) for item in items}
        return len(keys) if self.shelf is None else len(self.shelf.missing(list(keys)))

    def fill(
        self, images: Images, items: Iterable[Item], *, workers: int = 0, progress: OnProgress | None = None
    ) -> None:
        """Compute and keep every row of `items` that is missing: from an earlier cut's rows or from pixels.

        Several processes that fill the same rows divide them among themselves; those of one job begin with a
        share each.
        """
        shelf = self.shelf
        if shelf is None or self.store is None or not self.store.writable:
            return
        item_of = {_key(images, item): item for item in items}
        missing = shelf.missing(list(item_of))
        told = _Told(progress, len(missing) // process_group.size())
        try:
            for early, below in self._earlier() if missing else ():
                if missing and below.form is not None:
                    absent = set(below.missing(missing))
                    if len(absent) < len(missing) and self._bridge_holds(early, below, images, item_of):
                        for keys in _mine_first([k for k in missing if k not in absent]):
                            self._fill_from_rows(early, below, keys, told)
                        missing = shelf.missing(missing)
            for keys in _mine_first(missing):
                self._fill_from_pixels(images, keys, item_of, workers, told)
        finally:
            shelf.close()

    def _earlier(self) -> Iterator[tuple[Cut, Shelf]]:
        """Yield every earlier cut that the store may hold rows of, with its shelf, the nearest first."""
        held = {about.get("index") for about in self.store.kept_abouts()} if self.store else set()
        for cut in reversed(self._backbone.cuts):
            if 0 < cut.index < self.cut.index and cut.index in held:
                if cut.index not in self._shelves:
                    self._shelves[cut.index] = self._shelf_of(cut)
                if (shelf := self._shelves[cut.index]) is not None:
                    yield cut, shelf

    def _fill_from_pixels(
        self, images: Images, missing: list[bytes], item_of: dict[bytes, Item], workers: int, told: _Told
    ) -> None:
        shelf = self.shelf
        assert shelf is not None
        asked: deque[list[bytes]] = deque()

        def lists() -> Iterator[list[Item]]:
            for keys in shelf.todo(missing, self.way.batch):
                asked.append(keys)
                yield [item_of[key] for key in keys]

        pixels = images.batches(lists(), workers, once=True)
        for batch in pixels if workers else ahead(pixels):
            self._keep_new(shelf, asked.popleft(), self.compute(batch), told)
        shelf.flush()

    def _fill_from_rows(self, early: Cut, below: Shelf, keys: list[bytes], told: _Told) -> None:
        shelf = self.shelf
        assert shelf is not None
        for chunk in shelf.todo(keys, self.way.batch):
            found = self._from_rows(early, below, chunk)
            if found is not None:
                self._keep_new(shelf, chunk, found, told)
        shelf.flush()

    def _from_rows(self, early: Cut, below: Shelf, keys: list[bytes]) -> Tensor | None:
        """Return z at this cut from rows of an earlier one; `None` where one of them is gone."""
        rows, absent = below.read(keys)
        if absent or below.form is None:
            return None
        z = padded(from_bytes(rows, below.form), self.way.batch).to(self.way.plan.device)
        with self._inference() as model, bb.between(self._backbone, model, early, self.cut) as run:
            return run(z)[: len(keys)].cpu()

    def _bridge_holds(self, early: Cut, below: Shelf, images: Images, item_of: dict[bytes, Item]) -> bool:
        """Whether rows of that cut lead to the same bits as pixels do: tried on one batch, once."""
        if early.index not in self._bridges:
            absent = set(below.missing(list(item_of)))
            keys = [key for key in item_of if key not in absent][: self.way.batch]
            z = self._from_rows(early, below, keys)
            direct = self._compute(images, [item_of[key] for key in keys])
            self._bridges[early.index] = z is not None and same(z, direct)
        return self._bridges[early.index]

    def _keep_new(self, shelf: Shelf, keys: list[bytes], z: Tensor, told: _Told) -> None:
        self.counts.rows_computed += len(keys)
        self._keep(shelf, keys, z)
        told.more(len(keys))


class _Told:
    """How far a filling is."""

    def __init__(self, progress: OnProgress | None, total: int) -> None:
        self._tell, self._total, self._done = progress, total, 0

    def more(self, count: int) -> None:
        self._done += count
        if self._tell:
            self._tell("frozen layers", self._done, max(self._done, self._total))


def _mine_first(keys: list[bytes]) -> list[list[bytes]]:
    """Return this process's share of the keys, then all: another may have stopped. Alone, all at once."""
    if process_group.size() == 1:
        return [keys]
    return [[key for key in keys if key[0] % process_group.size() == process_group.rank()], keys]


def _key(images: Images, item: Item) -> bytes:
    return key_of(images.samples[item[0]].digest, images.pixels_name(item))
