"""`Frozen`: the features of one cut, read from the cache or computed once and cached.

A batch of the prefix always has the same number of images, filled up where there are fewer: some kernels
return other bits for other batch sizes.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.cost.peak_memory import READ_AT_ONCE_BYTES
from frostline.data.decoding_threads import Workers
from frostline.distributed import process_group
from frostline.feature_cache import CachedPrefix, FeatureCache, key_of
from frostline.feature_extraction.image_batches import Images, Item, ahead, padded
from frostline.feature_extraction.numeric_key import ForwardConfig
from frostline.feature_extraction.ordered_threads import between_pauses
from frostline.feature_extraction.statistics_cache import StatisticsCache
from frostline.feature_extraction.tensor_bytes import from_bytes, same, to_bytes
from frostline.models import Backbone, Cut
from frostline.models.stage_statistics import Tap, collecting, stage_taps
from frostline.progress import QUIET, Activity, Progress
from frostline.strategies import SEVERAL
from frostline.system import devices, numerics
from frostline.system.device_transfers import Fetched, on_gpu


@dataclass
class Counts:
    """Number of features computed by the prefix and read from the cache."""

    computed: int = 0
    from_cache: int = 0


@dataclass
class Launched:
    """Features of a batch that is being computed, and statistics of stages below it, by stage."""

    z: Fetched
    statistics: Mapping[int, Fetched]

    def values(self) -> tuple[Tensor, dict[int, Tensor]]:
        """Return both, once they are there."""
        return self.z.value(), {stage: values.value() for stage, values in self.statistics.items()}


class Frozen:
    """The features at one cut of one model, in eval mode and without gradients.

    The model may be in training above the cut; below it must not change while this is in use.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        The backbone's model, or an adapted copy.
    cut : Cut
    config : ForwardConfig
        Numeric plan and batch size of the frozen layers.
    cache : FeatureCache or None
        Where features are read from and kept; None computes them each time.
    counts : Counts or None
        Counts features computed and read.
    layers : int
        Of so many of the last stages, statistics go along with the features of an image's plain view.
    """

    def __init__(
        self,
        backbone: Backbone,
        model: nn.Module,
        cut: Cut,
        config: ForwardConfig,
        cache: FeatureCache | None = None,
        counts: Counts | None = None,
        layers: int = SEVERAL,
    ) -> None:
        self.cut = cut
        self.layers = layers
        self.config = config
        self.counts = counts if counts is not None else Counts()
        self._backbone = backbone
        self._original_model = model
        self.cache = cache
        self._digests = bb.PrefixDigests(backbone, model)
        self._cached_by_cut: dict[int, CachedPrefix | None] = {}  # of earlier cuts, by index
        self._bridges: dict[int, bool] = {}  # cut index → whether rows of that cut lead to the same bits

    def reading(self, layers: int) -> Frozen:
        """Return the same, reading the statistics of so many stages."""
        frozen = Frozen(
            self._backbone,
            self._original_model,
            self.cut,
            self.config,
            self.cache,
            self.counts,
            layers=layers,
        )
        frozen._digests = self._digests
        return frozen

    @property
    def preprocessing(self) -> bb.Preprocessing:
        """The backbone's preprocessing."""
        return self._backbone.preprocessing

    @cached_property
    def _folded(self) -> bb.Folded | None:
        """A copy with BatchNorm folded, where the configuration folds."""
        if not self.config.folded:
            return None
        names = list(self.config.folded)
        folded = bb.Folded(self._original_model, names, neutral=self.config.compiled)
        self.config.plan.place(folded.model)
        return folded

    @cached_property
    def _model(self) -> nn.Module:
        """The model where and how the prefix wants it: the one given, or a copy laid out otherwise."""
        if self._folded is not None:
            return self._folded.model
        first = next(self._original_model.parameters())
        layout = torch.channels_last if self.config.plan.channels_last else torch.contiguous_format
        fits = all(
            p.is_contiguous(memory_format=layout) for p in self._original_model.parameters() if p.ndim == 4
        )
        if fits and devices.same(first.device, torch.device(self.config.plan.device)):
            return self._original_model
        return self.config.plan.place(copy.deepcopy(self._original_model))

    @cached_property
    def _compiled(self) -> bb.CompiledRegions:
        """The parts that run compiled, where the configuration says so; else none."""
        names = bb.frozen_regions(self._backbone, self._model) if self.config.compiled else []
        return bb.CompiledRegions(
            self._model,
            names,
            "frozen layers",
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )

    @cached_property
    def cached(self) -> CachedPrefix | None:
        """This cut's features in the cache; `None` without one."""
        return self._cached_at(self.cut)

    @cached_property
    def _computed_how(self) -> dict[str, Any]:
        return self.config.describe()

    def about(self, cut: Cut) -> dict[str, Any]:
        """Return what decides the features at a cut of given pixels, plain data: where equal, so are they."""
        return {
            "prefix": self._digests.at(cut),
            "preprocessing": self._backbone.preprocessing.as_dict(),
            "computed": self._computed_how,
        }

    def _cached_at(self, cut: Cut) -> CachedPrefix | None:
        if self.cache is None:
            return None
        return self.cache.prefix(
            self.about(cut), {"model": self._backbone.name, "cut": cut.name, "index": cut.index}
        )

    @cached_property
    def statistics(self) -> StatisticsCache | None:
        """The cached statistics of the last stages below the cut; `None` without a cache.

        A pass that fills the cache leaves those of each image's plain view, so that a head which reads
        several stages needs no pass of its own.
        """
        if self.cache is None:
            return None
        return StatisticsCache(self._backbone, self._digests, self.taps, self._computed_how, self.cache)

    @cached_property
    def taps(self) -> tuple[Tap, ...]:
        """The stages below the cut whose statistics are read, the last one first."""
        wanted = stage_taps(self._backbone)[: self.layers]
        return tuple(tap for tap in wanted if tap.stage < self.cut.index)

    # --- computing -------------------------------------------------------------------------------------

    def several(
        self, batches: Iterable[tuple[Tensor, Sequence[Tap]]]
    ) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """Yield what `compute` returns for each batch of pixels and taps, in order.

        A GPU is given the next batch before what it made of the last is fetched, so that it never waits.
        """
        begun_before = int(on_gpu(self.config.plan.device))
        begun: deque[Launched] = deque()
        for pixels, taps in batches:
            begun.append(self.launch(pixels, taps))
            if len(begun) > begun_before:
                yield begun.popleft().values()
        while begun:
            yield begun.popleft().values()

    @contextmanager
    def _inference(self) -> Iterator[nn.Module]:
        """The model as the prefix runs it."""
        model = self._model
        skipping = self._folded.skipping() if self._folded else nullcontext()
        with torch.no_grad(), self.config.plan.autocast(), skipping, self._compiled():
            yield model

    def compute(self, pixels: Tensor, taps: Sequence[Tap] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Return z for uint8 pixels (n, 3, s, s), n at most the batch size, and statistics by stage."""
        return self.launch(pixels, taps).values()

    def launch(self, pixels: Tensor, taps: Sequence[Tap] = ()) -> Launched:
        """Begin to compute z for uint8 pixels (n, 3, s, s): a GPU goes on while the processor does."""
        x = self.config.plan.batch(padded(pixels, self.config.batch), self._backbone.preprocessing.normalise)
        with self._inference() as model, collecting(model, taps) as collected:
            z = bb.prefix(self._backbone, model, self.cut)(x)
        statistics = {stage: Fetched(values[: len(pixels)]) for stage, values in collected.items()}
        return Launched(Fetched(z[: len(pixels)]), statistics)

    def stages_s(self, pixels: Tensor) -> list[float]:
        """Return the seconds of each stage between offered cuts up to this one, for a whole batch."""
        z = self.config.plan.batch(pixels, self._backbone.preprocessing.normalise)
        cuts = [cut for cut in self._backbone.cuts if cut.index <= self.cut.index]
        stage_seconds = []
        with self._inference() as model:
            for early, late in itertools.pairwise(cuts):
                with bb.between(self._backbone, model, early, late) as run:
                    start = numerics.now()
                    z = run(z)
                    stage_seconds.append(numerics.now() - start)
        return stage_seconds

    def _compute(self, images: Images, items: Sequence[Item], workers: Workers) -> Tensor:
        (z,) = (self.compute(pixels)[0] for pixels in self._pixels(images, items, workers))
        return z

    def _pixels(self, images: Images, items: Sequence[Item], workers: Workers) -> Iterator[Tensor]:
        """Yield the pixels of one batch, counting it."""
        self.counts.computed += len(items)
        return images.rates.of_pass(images.batches([items], workers))

    def _compute_batches(self, images: Images, items: list[list[Item]], workers: Workers) -> Iterator[Tensor]:
        """Yield z batch by batch, computing in full batches of the prefix across batch borders."""
        flat = list(itertools.chain.from_iterable(items))
        chunks = [flat[i : i + self.config.batch] for i in range(0, len(flat), self.config.batch)]
        rest: Tensor | None = None  # computed and not yielded yet
        sizes = iter([len(batch) for batch in items])
        next_size = next(sizes, 0)
        for z in self._chunks(images, chunks, workers):
            self.counts.computed += len(z)
            rest = z if rest is None or not len(rest) else torch.cat([rest, z])
            while 0 < next_size <= len(rest):
                yield rest[:next_size]
                rest = rest[next_size:]
                next_size = next(sizes, 0)

    def _chunks(self, images: Images, chunks: list[list[Item]], workers: Workers) -> Iterator[Tensor]:
        """Compute each chunk: from the rows of an earlier cut if all are there, else from pixels."""
        keys = [[_key(images, item) for item in chunk] for chunk in chunks]
        for early, early_rows in self._earlier():
            if early_rows.form is None or early_rows.missing(list(itertools.chain.from_iterable(keys))):
                continue
            if self._is_exact_from(
                early, early_rows, images, dict(zip(keys[0], chunks[0], strict=True)), workers
            ):
                for chunk, chunk_keys in zip(chunks, keys, strict=True):
                    later = self._from_rows(early, early_rows, chunk_keys)
                    yield self._compute(images, chunk, workers) if later is None else later[0]
                early_rows.close()
                return
        pixels_of = images.rates.of_pass(images.batches(chunks, workers))
        for z, _ in self.several((pixels, ()) for pixels in pixels_of):
            yield z

    # --- reading ---------------------------------------------------------------------------------------

    def batches(
        self, images: Images, items: list[list[Item]], *, keep: bool = True, workers: Workers = 0
    ) -> Iterator[Tensor]:
        """Yield features for each list of items.

        Parameters
        ----------
        images : Images
        items : list of lists of (position, view)
        keep : bool
            Read from and write to the cache.
        workers : int or "auto"
            Threads that decode images; 0 decodes here.

        Yields
        ------
        Tensor
            One row an item.
        """
        cached = self.cached
        if cached is None or not keep:
            yield from self._compute_batches(images, items, workers)
            return
        row_bytes = cached.form.row_bytes if cached.form else READ_AT_ONCE_BYTES
        at_once = max(1, READ_AT_ONCE_BYTES // (max(1, row_bytes) * max(map(len, items), default=1)))
        try:
            for start in range(0, len(items), at_once):
                yield from self._read(cached, images, items[start : start + at_once], workers)
        finally:
            cached.close()

    def _read(
        self, cached: CachedPrefix, images: Images, items: list[list[Item]], workers: Workers
    ) -> Iterator[Tensor]:
        flat = list(itertools.chain.from_iterable(items))
        rows, missing = cached.read([_key(images, item) for item in flat])
        self.counts.from_cache += len(flat) - len(missing)
        batch_rows = None if cached.form is None else from_bytes(rows, cached.form)
        for start in range(0, len(missing), self.config.batch):
            chunk = missing[start : start + self.config.batch]
            z = self._compute(images, [flat[i] for i in chunk], workers)
            self._cache_rows(cached, [_key(images, flat[i]) for i in chunk], z)
            if batch_rows is None or batch_rows.shape[1:] != z.shape[1:]:
                batch_rows = torch.empty((len(flat), *z.shape[1:]), dtype=z.dtype)
                if z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last):
                    batch_rows = batch_rows.contiguous(memory_format=torch.channels_last)
            batch_rows[torch.tensor(chunk)] = z
        assert batch_rows is not None
        start = 0
        for batch in items:
            yield batch_rows[start : start + len(batch)]
            start += len(batch)

    @staticmethod
    def _cache_rows(cached: CachedPrefix, keys: list[bytes], z: Tensor) -> None:
        form, rows = to_bytes(z)
        if form is not None:
            cached.put(keys, rows, form)

    def with_statistics(
        self, images: Images, chunks: Iterable[Sequence[Item]], workers: Workers = 0
    ) -> Iterator[Tensor]:
        """Yield, for each chunk, features at the last cut and the statistics of `taps` after them.

        Read where cached, computed where not; the same bits.

        Parameters
        ----------
        images : Images
        chunks : iterable of sequence of (position, view)
        workers : int or "auto"

        Yields
        ------
        Tensor, shape (n, all widths)
        """
        if self.cached is None or self.statistics is None:
            for items in chunks:
                yield from self._computed(images, items, workers)
            return
        try:
            for items in chunks:
                yield self._read_with_statistics(self.cached, self.statistics, images, items, workers)
        finally:
            self.cached.close()
            self.statistics.close()

    def _read_with_statistics(
        self,
        cached: CachedPrefix,
        statistics_rows: StatisticsCache,
        images: Images,
        items: Sequence[Item],
        workers: Workers,
    ) -> Tensor:
        keys = [_key(images, item) for item in items]
        raw, gone = cached.read(keys)
        statistics, gone_statistics = statistics_rows.read(keys)
        missing = sorted({*gone, *gone_statistics})
        self.counts.from_cache += len(items) - len(missing)
        values = None
        if len(missing) < len(items) and cached.form is not None:
            values = self._side_by_side(from_bytes(raw, cached.form), statistics)
        for start in range(0, len(missing), self.config.batch):
            chunk = missing[start : start + self.config.batch]
            (computed,) = self._computed(images, [items[place] for place in chunk], workers)
            if values is None:
                values = torch.empty(len(items), computed.shape[1])
            values[torch.tensor(chunk)] = computed
        assert values is not None
        return values

    def _computed(self, images: Images, items: Sequence[Item], workers: Workers) -> Iterator[Tensor]:
        for pixels in self._pixels(images, items, workers):
            yield self._side_by_side(*self.compute(pixels, self.taps))

    def _side_by_side(self, z: Tensor, statistics: Mapping[int, Tensor]) -> Tensor:
        features = z.mean(dim=tuple(range(2, z.ndim))) if z.ndim > 2 else z
        return torch.cat([features.float(), *(statistics[tap.stage] for tap in self.taps)], dim=1)

    # --- filling ---------------------------------------------------------------------------------------

    def place(self) -> None:
        """Lay the model out as the prefix wants it, now: a copy must not be made while its suffix runs."""
        _ = self._compiled

    def missing(self, images: Images, items: Iterable[Item], *, statistics: bool = False) -> int:
        """Return how many features of `items` are not cached yet, or not with `statistics` of each stage."""
        keys = list({_key(images, item) for item in items})
        if self.cached is None:
            return len(keys)
        missing = set(self.cached.missing(keys))
        if statistics and self.statistics is not None:
            missing.update(*(rows.missing(keys) for rows in self.statistics.parts))
        return len(missing)

    def fill(
        self, images: Images, items: Iterable[Item], *, workers: Workers = 0, progress: Progress = QUIET
    ) -> None:
        """Compute and cache all missing features, from an earlier cut's features or from pixels.

        Processes that fill the same features divide them among themselves.

        Parameters
        ----------
        images : Images
        items : iterable of (position, view)
        workers : int or "auto"
        progress : Progress
        """
        cached = self.cached
        if cached is None or self.cache is None or not self.cache.writable:
            return
        item_of = {_key(images, item): item for item in items}
        missing = cached.missing(list(item_of))
        plain = _plain(images, item_of)
        count = progress.counter(Activity.FROZEN_LAYERS, len(missing) // process_group.size())
        try:
            for early, early_rows in self._earlier() if missing else ():
                if missing and early_rows.form is not None:
                    still_missing = set(early_rows.missing(missing))
                    if len(still_missing) < len(missing) and self._is_exact_from(
                        early, early_rows, images, item_of, workers
                    ):
                        for keys in _own_share_first([k for k in missing if k not in still_missing]):
                            self._fill_from_rows(early, early_rows, keys, plain, count)
                        missing = cached.missing(missing)
            for keys in _own_share_first(missing):
                self._fill_from_pixels(images, cached, keys, item_of, workers, count)
        finally:
            for rows in (cached, *self._cached_by_cut.values()):  # those of earlier cuts were read
                if rows is not None:
                    rows.close()
            if plain and self.statistics is not None:
                self.statistics.close()

    def fill_statistics(
        self, images: Images, items: Iterable[Item], *, workers: Workers = 0, progress: Progress = QUIET
    ) -> None:
        """Compute and cache the features of plain views together with the statistics of the stages below.

        Takes what `fill` does. A pass over pixels is made only for images whose statistics no pass has left.
        """
        self.fill(images, items, workers=workers, progress=progress)
        if self.statistics is None or self.cache is None or not self.cache.writable:
            return
        item_of = {_key(images, item): item for item in items}
        try:
            for rows in self.statistics.parts:
                missing = rows.missing(list(item_of))
                count = progress.counter(Activity.FROZEN_LAYERS, len(missing) // process_group.size())
                for keys in _own_share_first(missing):
                    self._fill_from_pixels(images, rows, keys, item_of, workers, count)
        finally:
            self.statistics.close()

    def _earlier(self) -> Iterator[tuple[Cut, CachedPrefix]]:
        """Yield every earlier cut that the cache may hold, with its cached prefix, the nearest first."""
        cached_indices = (
            {description.get("index") for description in self.cache.descriptions()} if self.cache else set()
        )
        for cut in reversed(self._backbone.cuts):
            if 0 < cut.index < self.cut.index and cut.index in cached_indices:
                if cut.index not in self._cached_by_cut:
                    self._cached_by_cut[cut.index] = self._cached_at(cut)
                if (cached := self._cached_by_cut[cut.index]) is not None:
                    yield cut, cached

    def _fill_from_pixels(
        self,
        images: Images,
        rows: CachedPrefix,
        missing: list[bytes],
        item_of: dict[bytes, Item],
        workers: Workers,
        count: Callable[[int], None],
    ) -> None:
        """Pass over the pixels of what `rows` lacks: this cut's features, or one stage's statistics."""
        cached, plain = self.cached, _plain(images, item_of)
        assert cached is not None
        for part in between_pauses(rows.todo(missing, self.config.batch)):
            decoding: deque[list[bytes]] = deque()
            computing: deque[list[bytes]] = deque()
            items = _items_of(part, item_of, decoding)
            pixels_of = images.batches(items, workers, once=True)
            batches = (
                (pixels, self._taps_for(decoding, computing, plain))
                for pixels in images.rates.of_pass(pixels_of if images.workers(workers) else ahead(pixels_of))
            )
            for z, statistics in self.several(batches):
                keys = computing.popleft()
                self._cache_computed(cached if rows is cached else None, keys, z, statistics, count)
        rows.flush()
        if self.statistics is not None:
            self.statistics.flush()  # of every stage: what waits would count as missing

    def _taps_for(
        self, decoding: deque[list[bytes]], computing: deque[list[bytes]], plain: frozenset[bytes]
    ) -> Sequence[Tap]:
        """Move the next batch on from decoding to computing; return the taps its statistics are taken at."""
        computing.append(decoding.popleft())
        return self.taps if plain.issuperset(computing[-1]) else ()

    def _fill_from_rows(
        self,
        early: Cut,
        early_rows: CachedPrefix,
        keys: list[bytes],
        plain: frozenset[bytes],
        count: Callable[[int], None],
    ) -> None:
        cached = self.cached
        assert cached is not None
        for chunk in filter(len, cached.todo(keys, self.config.batch)):
            taps = [tap for tap in self.taps if tap.stage >= early.index]  # those below are there, or not
            later = self._from_rows(early, early_rows, chunk, taps if plain.issuperset(chunk) else ())
            if later is not None:
                self._cache_computed(cached, chunk, *later, count)
        cached.flush()

    def _from_rows(
        self, early: Cut, early_rows: CachedPrefix, keys: list[bytes], taps: Sequence[Tap] = ()
    ) -> tuple[Tensor, dict[int, Tensor]] | None:
        """Return z and statistics from rows of an earlier cut; `None` where one of them is gone."""
        rows, missing = early_rows.read(keys)
        if missing or early_rows.form is None:
            return None
        z = padded(from_bytes(rows, early_rows.form), self.config.batch).to(self.config.plan.device)
        with (
            self._inference() as model,
            bb.between(self._backbone, model, early, self.cut) as run,
            collecting(model, taps) as collected,
        ):
            later = run(z)
        statistics = {stage: values[: len(keys)].cpu() for stage, values in collected.items()}
        return later[: len(keys)].cpu(), statistics

    def _is_exact_from(
        self,
        early: Cut,
        early_rows: CachedPrefix,
        images: Images,
        item_of: dict[bytes, Item],
        workers: Workers,
    ) -> bool:
        """Return whether rows of that cut lead to the same bits as pixels do: tried on one batch, once."""
        if early.index not in self._bridges:
            missing = set(early_rows.missing(list(item_of)))
            keys = [key for key in item_of if key not in missing][: self.config.batch]
            later = self._from_rows(early, early_rows, keys)
            direct = self._compute(images, [item_of[key] for key in keys], workers)
            self._bridges[early.index] = later is not None and same(later[0], direct)
        return self._bridges[early.index]

    def _cache_computed(
        self,
        cached: CachedPrefix | None,
        keys: list[bytes],
        z: Tensor,
        statistics: dict[int, Tensor],
        count: Callable[[int], None],
    ) -> None:
        """Cache features, and the statistics that were collected with them; without `cached` these alone."""
        self.counts.computed += len(keys)
        if cached is not None:
            self._cache_rows(cached, keys, z)
        if statistics and self.statistics is not None:
            self.statistics.put(keys, statistics)
        count(len(keys))


def _own_share_first(keys: list[bytes]) -> list[list[bytes]]:
    """Return this process's share of the keys, then all: another may have stopped. Alone, all at once."""
    if process_group.size() == 1:
        return [keys]
    return [[key for key in keys if key[0] % process_group.size() == process_group.rank()], keys]


def _items_of(
    lists: Iterable[Sequence[bytes]], item_of: Mapping[bytes, Item], decoding: deque[list[bytes]]
) -> Iterator[list[Item]]:
    """Yield the items of each list of keys, noting the keys as it goes."""
    for keys in lists:
        decoding.append(list(keys))
        yield [item_of[key] for key in keys]


def _plain(images: Images, item_of: Mapping[bytes, Item]) -> frozenset[bytes]:
    """Return the keys of images as the evaluation transform gives them."""
    return frozenset(key for key, (_, view) in item_of.items() if images.view_name(view) == "0")


def _key(images: Images, item: Item) -> bytes:
    return key_of(images.samples[item[0]].digest, images.pixels_name(item))
