"""The steps of a run without computing anything, in seconds by item.

The walk follows `frostline.training`: flip test, starting head, phases with their views, rows kept or
computed each time, validation each epoch, checkpoints, the final figures in float32. It is the formula; the
rates decide the figures.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from frostline.config import FOLDS, L2_GRID, MOST_FOR_CHOICE
from frostline.cost.cache_tradeoff import (
    Need,
    RowRates,
    needs,
    on_the_way,
    read_or_recompute,
    untimed,
    view_at,
    views_of,
)
from frostline.cost.rates import FLOAT_BYTES, Rates
from frostline.strategies import SEVERAL, Hyperparameters, ResolvedPhase, Strategy

# Features of a phase that stay in memory once they were read. A choice: all pooled features of a few thousand
# images and several views, and a small part of what one training step of a convolutional network takes.
HELD_BYTES = 64_000_000
# At most, in the flip test: the answers stood still from 240 images on (docs/LOG.md 2026-11-23); with a
# margin.
FLIP_IMAGES = 600
TRIED = 6  # a choice usually tries so many L2s of the grid
FILES = 8  # small files that a run writes one by one
TIMED_IMAGES = 16  # images decoded, twice, before features of a cut are cached or computed: a choice
THUMBNAILS = 64  # test images that a run keeps small: a choice
# Images that drift is measured on, where nothing else is said: a choice. Fewer give a wider spread and, since
# the estimate is debiased, hardly another mean.
DRIFT_IMAGES = 128
# A pass over train or val beside its batches: 19 epochs of a head took 4.3 ms each, 13 validations 2 ms
# (torch 2.14.1, one machine).
PASS_S = 4e-3
# The flip test's support vector machines on 64 numbers an image, seconds by the square of their images: 120
# to 480 images took 0.9e-7 to 1.2e-7 each on one machine.
SVM_S = 1e-7
# A checkpoint costs a synced write of the whole state. It may take this share of the time; when it is written
# changes no bit of the result. The first is due after CHECKPOINT_S / CHECKPOINT_SHARE seconds.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_S = 0.04  # what the first one is taken to cost, until it was measured: lite0's on a local disk


@dataclass(frozen=True)
class Job:
    """A run to predict: its options, the phases at offered cuts, and the numbers of images."""

    strategy: Strategy
    hyperparameters: Hyperparameters
    phases: tuple[ResolvedPhase, ...]
    train: int
    val: int
    test: int
    classes: int
    batch: int = 32
    augment: str = "standard"
    flip: str = "auto"
    rotate: str = "none"
    warm: bool = False
    cache: str = "auto"

    @property
    def still(self) -> bool:
        """Return whether every view is the plain one."""
        still = self.augment == self.rotate == "none" and self.flip in ("auto", "none")
        return not self.phases or still

    @property
    def mixes(self) -> bool:
        """Return whether training images are mixed, so that none of their features is cached."""
        return bool(self.phases) and self.hyperparameters.mixes

    @property
    def orientation_tests(self) -> int:
        """Number of orientation tests: whether images may be mirrored, and turned."""
        flips = self.flip == "auto" and self.augment != "none"
        return (flips + (self.rotate == "auto")) if self.phases else 0

    @property
    def lowest(self) -> int:
        """The earliest cut of all phases; for a head that is solved for, the last one there is."""
        return min((phase.cut for phase in self.phases), default=-1)


@dataclass
class WalkResult:
    """The result of a walk: seconds by item, and bytes of cached features."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    disk_bytes: float = 0.0
    features: int = 0  # that it would hold
    cached_views: dict[int, tuple[int, ...]] = field(default_factory=dict)  # cut → views
    reads_figures: bool = False  # rows of val and test are kept in float32


class Walk:
    """One run of `job` at `rates`."""

    def __init__(self, rates: Rates, job: Job) -> None:
        self.rates, self.job, self.result = rates, job, WalkResult()
        self._filled: set[tuple[int, str, int]] = set()  # (cut, subset, view) that are kept by now
        self._described: set[tuple[int, str, str]] = set()  # (cut, subset, plan) whose statistics are kept
        self._decoded: set[str] = set()  # subsets whose pictures are in memory
        self.decode_s = self.beside_s = 0.0  # of one thread, and of what is computed beside it
        self.views = 0 if job.still or job.mixes else views_of(job.phases)
        self._decide()

    def run(self) -> WalkResult:
        """Walk from the first step to the last."""
        self._begin()
        for _ in range(self.job.orientation_tests):
            self._flips()
        if self.job.phases:
            self._looks()
            self._start()
            self._train()
            self._refit()
        else:
            self._solve()
        self._figures()
        return self.result

    def _count_cached(self, images: int, row_bytes: int) -> None:
        self.result.disk_bytes += images * row_bytes
        self.result.features += images

    def _count_statistics(self, cut: int, subset: str, images: int, plan: str = "frozen") -> None:
        """Add what a pass over plain views leaves of the stages below `cut`, for heads that read several."""
        ends = sorted((stage.cut for stage in self.rates.stages if stage.cut), reverse=True)
        for end, width in list(zip(ends, self.rates.statistics, strict=False))[:SEVERAL]:
            place = (end, subset, plan)
            if end <= cut and place not in self._described:
                self._described.add(place)
                self.result.disk_bytes += images * width * FLOAT_BYTES

    def _add(self, item: str, seconds: float) -> None:
        self.result.seconds[item] += seconds

    # --- what is kept ------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Read or recompute, per cut, as training decides it."""
        for cut, need in needs(self.job.phases, self.views, still=self.job.still).items():
            if self.job.mixes:
                val = self.job.val and self._keeps(cut, need.of_val())
                self.result.cached_views[cut] = (0,) if val else ()
                continue
            views = tuple(sorted(need.passes)) if self._keeps(cut, need) else ()
            if views and self.job.val:
                views = tuple(sorted({0, *views}))
            self.result.cached_views[cut] = views

    def _keeps(self, cut: int, need: Need) -> bool:
        rates, row_bytes = self.rates, self.rates.at(cut).row_bytes
        if self.job.cache != "auto":
            return self.job.cache == "keep"
        row_rates = RowRates(
            row_bytes,
            rates.pixel_bytes,
            0.0 if self.job.warm else rates.augment_s,
            rates.below(cut, lambda stage: stage.frozen_s),
            rates.read.at(row_bytes),
            rates.keep.at(row_bytes),
        )
        missing = 0.0 if self.job.warm else 1.0
        return read_or_recompute(row_rates, uses=need.uses, missing=missing, along=need.along).keep

    # --- frozen layers -----------------------------------------------------------------------------------

    def _decode(self, decode_s: float, beside_s: float, item: str = "decode") -> None:
        """Add what decoding of so many seconds lets computing of so many wait."""
        self.decode_s, self.beside_s = self.decode_s + decode_s, self.beside_s + beside_s
        self._add(item, self.rates.pipeline.waiting_s(decode_s, beside_s))

    def _pixels(self, subset: str, view: int, images: int) -> float:
        """Seconds of one thread for a view's pixels; pictures are decoded once where they stay in memory."""
        rates = self.rates
        file_s = 0.0 if subset in self._decoded else rates.file_s
        self._decoded.add(subset)
        return images * (file_s + (rates.crop_s if view == 0 else rates.augment_s))

    def _forward(self, cut: int, images: int, since: int = 0) -> float:
        """Seconds of frozen layers up to `cut`; the last batch is filled up."""
        padded = math.ceil(images / self.rates.frozen_batch) * self.rates.frozen_batch
        return padded * self.rates.below(cut, lambda stage: stage.frozen_s if stage.cut >= since else 0.0)

    def _fill(self, cut: int, subset: str, view: int, images: int) -> None:
        """Keep the rows of one view, unless they are there: from an earlier cut's rows or from pixels."""
        rates, place = self.rates, (cut, subset, view)
        if place in self._filled or not images:
            return
        self._filled.add(place)
        row_bytes = rates.at(cut).row_bytes
        self._count_cached(images, row_bytes)
        if view == 0:
            self._count_statistics(cut, subset, images)
        if self.job.warm:
            return
        early = max((c for c, p, v in self._filled if (p, v) == (subset, view) and c < cut), default=0)
        if early:  # tried once, on one batch, against the way from pixels
            n_images = min(images, rates.frozen_batch)
            self._add("frozen layers", self._forward(cut, n_images) + self._forward(cut, n_images, early))
            self._decode(self._pixels(subset, view, n_images), self._forward(cut, n_images))
            self._add("cache", images * rates.read.at(rates.at(early).row_bytes))
            self._add("frozen layers", self._forward(cut, images, early))
        else:
            self._decode(self._pixels(subset, view, images), self._forward(cut, images))
            self._add("frozen layers", self._forward(cut, images))
        self._add("cache", images * rates.keep.at(row_bytes))

    def _find(self, cut: int, filled: bool) -> None:
        """Rows are found by a digest of the frozen weights; a filling looks for every earlier cut's, too."""
        rates = self.rates
        cuts = [stage.cut for stage in rates.stages] if filled and not self.job.warm else [cut]
        for stage_cut in cuts:
            if 0 < stage_cut <= cut:
                self._add("start", rates.find.at(rates.below(stage_cut, lambda stage: stage.parameters)))

    def _read(self, cut: int, images: float) -> None:
        self._add("cache", images * self.rates.read.at(self.rates.at(cut).row_bytes))

    # --- before the first step ---------------------------------------------------------------------------

    def _begin(self) -> None:
        rates = self.rates
        self._add("start", FILES * rates.write.fixed + 2 * rates.copy_s)
        self._find(rates.last.cut, False)
        self._add("start", rates.write.at(rates.model_bytes))

    def _flips(self) -> None:
        """Add the costs of a flip (or rotation) test: thumbnails, and two probes a fold.

        Its answer is remembered for these images, but a warm run may be of another fold or seed.
        """
        rates, last = self.rates, self.rates.last.cut
        images = min(self.job.train, FLIP_IMAGES)
        self._decode(images * (rates.file_s + rates.crop_s), 0.0, "flip test")
        self._add("flip test", FOLDS * SVM_S * (2 * images * (FOLDS - 1) / FOLDS) ** 2)
        for copies in (1, 2):
            learned = copies * images * (FOLDS - 1) / FOLDS
            self._add("flip test", FOLDS * rates.solve.at(self._numbers(learned)))
        self._head_rows("flip test", images, pixels=False)
        if not self.job.warm:  # mirrored ones
            self._add("flip test", self._forward(last, images))
        self._count_cached(images, rates.last.row_bytes)

    def _head_rows(self, item: str, images: int, *, pixels: bool = True) -> None:
        """The features of the plain view: read, or computed and kept."""
        rates, last = self.rates, self.rates.last.cut
        is_cached = (last, "train", 0) in self._filled
        self._find(last, not is_cached)
        self._add("cache", images * rates.read.at(rates.last.row_bytes))
        if is_cached:
            return
        self._filled.add((last, "train", 0))
        self._count_cached(images, rates.last.row_bytes)
        self._count_statistics(last, "train", images)
        if not self.job.warm:
            if pixels:
                self._decode(images * (rates.file_s + rates.crop_s), self._forward(last, images))
            self._add(item, self._forward(last, images) + rates.frozen_copy_s)
            self._add("cache", images * rates.keep.at(rates.last.row_bytes))

    def _numbers(self, images: float, layers: int | str = "last") -> float:
        """The size of the problem that a head is the solution of."""
        return images * min(images, self.rates.columns(layers)) * self.job.classes

    def _looks(self) -> None:
        """Decoding and the disk are timed for each cut before its rows are kept or computed."""
        rates = self.rates
        cuts = len(self.result.cached_views) if self.job.cache == "auto" else 0
        self._add("start", cuts * rates.look_s)
        for cut in self.result.cached_views:
            self._find(cut, False)
        if cuts and not self.job.warm:
            self._add("start", TIMED_IMAGES * (rates.file_s + 2 * cuts * rates.augment_s))

    def _start(self) -> None:
        """The picture of augmented images, and a head that starts from a probe."""
        if self.job.augment != "none":
            self._add("start", self.rates.sheet_s)
        if self.job.hyperparameters.head_init != "probe":
            return
        cuts = [
            cut for cut, views in self.result.cached_views.items() if 0 in views and cut < self.rates.last.cut
        ]
        if cuts and not self.job.mixes:
            self._fill(min(cuts), "train", 0, self.job.train)
        self._head_rows("frozen layers", self.job.train)
        self._add("head solved for", self.rates.solve.at(self._numbers(self.job.train)))

    def _refit(self) -> None:
        """A head that is solved for on the network that has learned: a pass over the training images."""
        layers = self.job.hyperparameters.refit_layers
        if layers:
            rates, images = self.rates, self.job.train
            passed = images * (rates.normalise_s + sum(stage.evaluation_s for stage in rates.stages))
            self._decode(images * rates.crop_s, passed, "head solved for")
            self._add("head solved for", passed + rates.solve.at(self._numbers(images, layers)))

    def _solve(self) -> None:
        """The linear probe: its L2 chosen by cross-validation, then solved for once more.

        A ridge path takes one decomposition, about as long as one logistic head.
        """
        self._head_rows("frozen layers", self.job.train)
        chosen = min(self.job.train, MOST_FOR_CHOICE)
        ridge, layers = self.job.hyperparameters.solver == "ridge", self.job.hyperparameters.layers
        path, share = (self.rates.solve, 1.0) if ridge else (self.rates.solve_grid, TRIED / len(L2_GRID))
        folds = FOLDS * share * path.at(self._numbers(chosen * (FOLDS - 1) / FOLDS, layers))
        self._add("head solved for", folds + self.rates.solve.at(self._numbers(self.job.train, layers)))
        self._add("head solved for", TRIED * self.rates.temperature_s)

    # --- training ----------------------------------------------------------------------------------------

    def _train(self) -> None:
        drawn = 0
        before = sum(self.result.seconds.values())
        for index, phase in enumerate(self.job.phases):
            later = on_the_way([s.cut for s in self.job.phases[index:]])
            if phase.cut > 0:
                self._find(phase.cut, bool(self.result.cached_views.get(phase.cut)))
                fills_first = (
                    index == 0 and not self.job.warm
                )  # when rows that later phases need are computed
                if self.rates.copies:
                    self._add("start", (1 + len(later) * fills_first) * self.rates.frozen_copy_s)
            in_memory: set[tuple[str, int]] = set()
            for _ in range(phase.epochs):
                drawn += 1
                view = 0 if self.job.still else view_at(drawn, self.views) if phase.cut else drawn
                images = round(self.job.train * phase.steps_per_epoch / phase.batches)
                step_s = self._learning_s(phase, images)
                self._supply(phase.cut, later, "train", view, images, in_memory, step_s)
                self._add("training", step_s + PASS_S)
                if self.job.val:
                    pass_s = self._validation_s(phase.cut)
                    self._supply(phase.cut, later, "val", 0, self.job.val, in_memory, pass_s)
                    self._add("validation", pass_s + PASS_S)
        elapsed = sum(self.result.seconds.values()) - before
        if elapsed > CHECKPOINT_S / CHECKPOINT_SHARE:
            self._add("checkpoints", CHECKPOINT_SHARE * elapsed)

    def _supply(
        self,
        cut: int,
        later: list[int],
        subset: str,
        view: int,
        images: int,
        in_memory: set[tuple[str, int]],
        step_s: float,
    ) -> None:
        """Add the costs of the training layers' input: pixels, cached rows, or rows computed each time.

        `step_s` is what the training layers compute of it meanwhile.
        """
        if self.job.mixes and subset == "train":
            self._decode(self._pixels(subset, view, images), self._forward(cut, images) + step_s)
            self._add("frozen layers", self._forward(cut, images))
            return
        for later_cut in (*later, cut):
            if later_cut and view in self.result.cached_views.get(later_cut, ()):
                self._fill(later_cut, subset, view, images)
        if (subset, view) in in_memory:
            return
        if cut == 0 or view not in self.result.cached_views.get(cut, ()):
            self._decode(self._pixels(subset, view, images), self._forward(cut, images) + step_s)
            self._add("frozen layers", self._forward(cut, images))
            if subset == "val" and cut == 0:
                in_memory.add((subset, view))
            return
        self._read(cut, images)
        if images * self.rates.at(cut).row_bytes <= HELD_BYTES:
            in_memory.add((subset, view))

    def _learning_s(self, phase: ResolvedPhase, images: int) -> float:
        """Seconds of an epoch's steps, without what feeds them."""
        rates, plan = self.rates, self._plan(phase.cut)
        image_s = rates.above(phase.cut, lambda s: s.learning[plan].forward_s + s.learning[plan].backward_s)
        fixed = rates.above(phase.cut, lambda stage: stage.learning[plan].fixed_s)
        update_s = rates.update_s * rates.above(phase.cut, lambda stage: stage.parameters)
        steps_s = phase.steps_per_epoch * (rates.step_s + fixed + update_s)
        return images * (image_s + self._normalising(phase.cut)) + steps_s

    def _validation_s(self, cut: int) -> float:
        plan = self._plan(cut)
        image_s = self.rates.above(cut, lambda stage: stage.learning[plan].forward_s)
        return self.job.val * (image_s + self._normalising(cut))

    def _normalising(self, cut: int) -> float:
        return 0.0 if cut else self.rates.normalise_s

    def _plan(self, cut: int) -> str:
        """One plan for the whole run: the one for its earliest cut."""
        return self.rates.at(self.job.lowest).plan

    # --- figures -----------------------------------------------------------------------------------------

    def _figures(self) -> None:
        """Val and test through the whole model in float32; what is frozen is read where it is kept."""
        rates, job = self.rates, self.job
        cut = job.lowest if job.phases else rates.last.cut
        row_bytes = rates.at(cut).row_bytes // rates.value_bytes * FLOAT_BYTES
        keeps = cut > 0 and job.cache != "compute" and untimed(row_bytes, rates.pixel_bytes).keep
        self.result.reads_figures = keeps
        if job.phases and job.test:  # drift: the original network's share of the pass over val
            image_s = rates.above(cut, lambda stage: stage.evaluation_s)
            self._add("final figures", min(DRIFT_IMAGES, job.val) * image_s)
        for subset, images in (("val", job.val), ("test", job.test)):
            padded = math.ceil(images / rates.evaluation_batch) * rates.evaluation_batch
            self._add("final figures", images * rates.above(cut, lambda stage: stage.evaluation_s))
            if keeps:
                self._find(cut, True)
                self._count_cached(images, row_bytes)
                self._count_statistics(cut, subset, images, "figures")
                self._add("final figures", images * rates.read.at(row_bytes))
            if not (keeps and job.warm) and images:
                if cut > 0 or subset == "test":  # of val the first validation holds the pixels
                    passed_s = images * rates.above(cut, lambda stage: stage.evaluation_s)
                    passed_s += padded * rates.below(cut, lambda stage: stage.evaluation_s)
                    self._decode(images * (rates.file_s + rates.crop_s), passed_s, "final figures")
                self._add("final figures", padded * rates.below(cut, lambda stage: stage.evaluation_s))
        if job.val:
            self._add("final figures", rates.temperature_s)
        if job.test:
            self._add("final figures", rates.summary_s)
