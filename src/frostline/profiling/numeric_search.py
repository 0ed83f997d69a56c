"""How a network is computed on this machine, where it is frozen and where it learns: decided by timings."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.features import Frozen, Way
from frostline.models import Backbone, Cut
from frostline.system import numerics
from frostline.system.numerics import NumericPlan

# Images a forward pass of the frozen part. Beside 32, lite0 takes 0.88 to 0.94 of the time an
# image at 96 px and 1.00 to 1.03 at 224 px, on one and two threads (7 interleaved pairs): not worth a timing.
FROZEN_BATCH = 64
PASSES = 2  # through the frozen stages one by one; the shortest of each stage counts
REPEATED = 15  # passes, where they are short, by which worlds are told apart
GLIMPSE = 4  # images with which it is found how slow a network is, before anything else is timed
# What deciding by timings passes forward, in images: three precisions of the frozen layers four times, three
# training steps as often at three times a forward pass, one cut's prefix.
TIMED_IMAGES = 800
TRIAL = 16  # images with which precisions are timed: what a person waits for once on a machine


def named(backbone: Backbone) -> str:
    """Name a network and its input, for rates that are remembered."""
    return f"{backbone.name} {backbone.digest[:12]} size {backbone.preprocessing.size}"


def frozen_way(
    backbone: Backbone, *, deterministic: bool = False, precision: str = "auto", threads: int | None = None
) -> Way:
    """Decide how frozen layers are computed: the same for every strategy, so that they share their rows.

    Precision and memory layout are timed. BatchNorm that can be folded into its convolution is: fewer
    operations of the same kind, 0.6 to 0.8 of the time wherever it was measured.
    """
    if deterministic:
        return Way(numerics.exact_plan(threads), FROZEN_BATCH)
    if precision != "auto":
        return Way(numerics.pinned_plan(precision, threads), FROZEN_BATCH)
    pairs, last = tuple(bb.foldable(backbone)), backbone.cuts[-1]
    tried = functools.cache(lambda plan: forward(backbone, Way(plan, TRIAL, pairs), last))
    what = f"forward {named(backbone)} images {TRIAL} folded {len(pairs)}"
    plan = numerics.timed_plan(what, lambda plan: tried(plan)(), threads)
    return Way(plan, FROZEN_BATCH, pairs)


def forward(backbone: Backbone, way: Way, cut: Cut) -> Callable[[], None]:
    """Return one forward pass of the pretrained frozen part on black images; the first call prepares it."""
    frozen = Frozen(backbone, backbone.model, cut, way)
    size = backbone.preprocessing.size

    def run() -> None:
        frozen.compute(torch.zeros((way.batch, 3, size, size), dtype=torch.uint8))

    return run


def prefix_s(backbone: Backbone, way: Way, cut: Cut) -> float:
    """Return the seconds an image takes from pixels to the row at `cut`, without decoding."""
    name = f"cut {cut.index}"
    run = {name: forward(backbone, way, cut)}
    return numerics.seconds_of(_prefix(backbone, way), run, way.plan.threads)[name] / way.batch


def glimpse_s(backbone: Backbone, threads: int | None = None) -> float:
    """Return the seconds an image takes through all layers in float32, roughly and soon.

    Timed once in a process, not remembered for longer: it decides what there is time for.
    """
    count = numerics.thread_count(threads)
    known = _glimpses.setdefault(backbone, {})
    if count not in known:
        known[count] = pass_s(backbone, GLIMPSE, count) / GLIMPSE
    return known[count]


def pass_s(backbone: Backbone, images: int, threads: int) -> float:
    """Return the seconds of a forward pass of so many images in float32, timed now."""
    way = Way(numerics.exact_plan(threads), images)
    with numerics.threads(threads):
        return numerics.seconds(forward(backbone, way, backbone.cuts[-1]), repeats=REPEATED)


_glimpses: WeakKeyDictionary[Backbone, dict[int, float]] = WeakKeyDictionary()  # by threads


def timing_s(backbone: Backbone, threads: int | None = None) -> float:
    """Return roughly the seconds that deciding by timings takes for a network that is new on this machine."""
    return TIMED_IMAGES * glimpse_s(backbone, threads)


def _prefix(backbone: Backbone, way: Way) -> str:
    plan = way.plan
    computed = f"{plan.precision} {plan.channels_last} folded {len(way.folded)}"
    return f"prefix {named(backbone)} batch {way.batch} {computed}"


def stages_s(backbone: Backbone, way: Way) -> list[float]:
    """Return the seconds an image takes in each frozen stage, and let `prefix_s` find them without a timing.

    The stages are run one after another, each entered alone, and share the seconds of the whole.
    """
    whole_s = prefix_s(backbone, way, backbone.cuts[-1])
    frozen, size = Frozen(backbone, backbone.model, backbone.cuts[-1], way), backbone.preprocessing.size
    pixels = torch.zeros((way.batch, 3, size, size), dtype=torch.uint8)
    passes = [frozen.stages_s(pixels) for _ in range(PASSES)]
    shortest = [min(taken) for taken in zip(*passes, strict=True)]
    found = [whole_s * taken / sum(shortest) for taken in shortest]
    for cut, reached in zip(backbone.cuts[1:], itertools.accumulate(found), strict=True):
        known = {f"cut {cut.index}": reached * way.batch}
        numerics.note_seconds(_prefix(backbone, way), known, way.plan.threads)
    return found


def trial(backbone: Backbone, cut: Cut, batch: int) -> str:
    """Name the step that `training_plan` times."""
    return f"suffix {named(backbone)} images {min(batch, TRIAL)} cut {cut.index}"


def training_plan(
    backbone: Backbone, cut: Cut, *, bn: str = "affine", batch: int = 32, threads: int | None = None
) -> NumericPlan:
    """Decide how layers above `cut` learn, by timing forward and backward of a step on black images.

    What lies below the cut is computed in its own way, so it has no say.
    """
    size = backbone.preprocessing.size

    @functools.cache
    def prepared() -> nn.Module:
        model = copy.deepcopy(backbone.model)
        bb.freeze(backbone, model, cut, bn)
        bb.set_training(backbone, model, cut, bn)
        return model

    @functools.cache
    def given(plan: NumericPlan) -> Tensor:
        pixels = torch.zeros((min(batch, TRIAL), 3, size, size), dtype=torch.uint8)
        x = plan.batch(pixels, backbone.preprocessing.normalise)
        with plan.autocast(), torch.no_grad():
            return bb.prefix(backbone, plan.place(prepared()), cut)(x)

    def step(plan: NumericPlan) -> None:
        z, model = given(plan), plan.place(prepared())
        with bb.suffix(backbone, model, cut) as learning:
            with plan.autocast():
                out = learning(z)
            out.float().square().mean().backward()  # type: ignore[no-untyped-call]
            model.zero_grad()

    return numerics.timed_plan(trial(backbone, cut, batch), step, threads)
