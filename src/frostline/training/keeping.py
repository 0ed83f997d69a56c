"""Which views there are of each image, and which rows of frozen layers are kept: read or recompute, per cut.

The number of views follows from the strategy's epochs alone. What is kept follows from rates measured on
this machine and from the disk; it changes the time a run takes and no bit of its result.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from frostline import backbone as bb
from frostline import cost, numerics
from frostline.backbone import Cut
from frostline.frozen import Frozen, Way
from frostline.images import Images
from frostline.store import Store
from frostline.training.planning import Plan, forward
from frostline.training.request import Request

DECODED = 16  # images decoded twice to measure how long that takes: a fraction of a second


def views_for(epochs: float) -> int:
    """How many views of each image, the plain one among them, are cycled through in so many epochs.

    Three were as good as a new view in each of 12 to 30 epochs (docs/LOG.md 2026-11-24). That they grow with
    longer runs is a choice.
    """
    return max(1, min(math.ceil(epochs), max(3, math.ceil(epochs / 10))))


@dataclass
class _Need:
    """What a run needs at one cut: how often each view is passed over, and whether it comes for free.

    `along` says that every view has been seen at a later cut before: one pass can serve both.
    """

    passes: dict[int, float]
    along: bool

    @property
    def uses(self) -> float:
        """How often a row that is used at all is used."""
        return max(1.0, sum(self.passes.values()) / len(self.passes))


def decide(request: Request, plan: Plan, images: Images, store: Store | None) -> None:
    """Decide how many views there are, and for each cut which of them are kept."""
    plan.whole = True
    segments = [s for s in request.segments() if request.backbone.cut(s.cut).index > 0]
    if request.views is not None:
        plan.views = request.views
    elif not images.policy.still:
        plan.views = views_for(sum(segment.steps / segment.batches for segment in segments))
    if store is None:
        return
    for index, need in _needs(request, plan, images).items():
        cut = request.backbone.cut(index)
        choice = _choice(request, plan, cut, need, images, store)
        row_bytes = _row_bytes(request, plan, cut) * len(images)
        room = math.floor(store.room_bytes() / max(1, row_bytes))
        views = sorted(need.passes)
        plan.kept[index] = tuple(views[:room]) if choice.keep else ()
        if choice.keep and request.data.part("val"):
            plan.kept[index] = tuple(sorted({0, *plan.kept[index]}))
        full = "" if room >= len(views) else f"; the store has room for {room} of {len(views)} views"
        plan.why[index] = choice.why + full


def _needs(request: Request, plan: Plan, images: Images) -> dict[int, _Need]:
    """Walk through the phases and count, for each cut above 0, how often each view is passed over."""
    needs: dict[int, _Need] = {}
    seen: set[int] = set()
    view = 0
    for segment in request.segments():
        index = request.backbone.cut(segment.cut).index
        passes: dict[int, float] = {}
        for _ in range(segment.epochs):
            view += 1
            drawn = 0 if images.policy.still else plan.view(view)
            passes[drawn] = passes.get(drawn, 0) + segment.steps_per_epoch / segment.batches
        if request.imbalance == "sampler" and plan.views:  # what is drawn twice comes in another view
            passes = {v: sum(passes.values()) / plan.views for v in range(plan.views)}
        if index > 0:
            along = set(passes) <= seen
            known = needs.setdefault(index, _Need({}, along))
            known.along = known.along and along
            for drawn, count in passes.items():
                known.passes[drawn] = known.passes.get(drawn, 0) + count
        seen |= set(passes)
    return needs


def _choice(request: Request, plan: Plan, cut: Cut, need: _Need, images: Images, store: Store) -> cost.Choice:
    if request.rows == "keep" or request.exact:
        return untimed(request, cut, _value_bytes(plan))
    row_bytes = _row_bytes(request, plan, cut)
    first = Frozen(request.backbone, request.backbone.model, cut, plan.way, store)
    wanted = [(position, view) for position in range(len(images)) for view in need.passes]
    missing = first.missing(images, wanted) / max(1, len(wanted))
    read_s, keep_s = store.seconds_per_row(row_bytes)
    decode_s = _decode_s(images) if missing else 0.0  # what is there is read if it beats the prefix alone
    prefix_s = _prefix_s(request, plan.way, cut)
    rates = cost.RowRates(row_bytes, _pixel_bytes(request), decode_s, prefix_s, read_s, keep_s)
    return cost.read_or_recompute(rates, uses=need.uses, missing=missing, along=need.along)


def untimed(request: Request, cut: Cut, value_bytes: int) -> cost.Choice:
    """Decide where nothing is timed: a row that is no larger than its image's pixels is worth keeping."""
    if request.rows == "keep":
        return cost.Choice(True, "asked for")
    row_bytes = bb.row_elements(request.backbone, cut) * value_bytes
    pixel_bytes = _pixel_bytes(request)
    why = f"a row has {row_bytes:,} bytes, an image's pixels {pixel_bytes:,}; nothing is timed"
    return cost.Choice(row_bytes <= pixel_bytes, why)


def _pixel_bytes(request: Request) -> int:
    return int(3 * request.backbone.preprocessing.size**2)


def _row_bytes(request: Request, plan: Plan, cut: Cut) -> int:
    """Bytes of one row, before any is computed: layers that answer float32 under bfloat16 take twice that."""
    return bb.row_elements(request.backbone, cut) * _value_bytes(plan)


def _value_bytes(plan: Plan) -> int:
    return 2 if plan.way.plan.precision == "bfloat16" else 4


def _prefix_s(request: Request, way: Way, cut: Cut) -> float:
    backbone = request.backbone
    what = (
        f"prefix {backbone.name} {backbone.digest[:12]} size {backbone.preprocessing.size} "
        f"batch {way.batch} {way.plan.precision} {way.plan.channels_last} folded {len(way.folded)}"
    )
    name = f"cut {cut.index}"
    taken = numerics.seconds_of(what, {name: forward(backbone, way, cut)}, way.plan.threads)
    return taken[name] / way.batch


def _decode_s(images: Images) -> float:
    """Seconds for the pixels of one view; the second time, when decoded pictures may be in memory."""
    items = [(position, 1) for position in range(min(DECODED, len(images)))]
    for _ in range(2):
        begun = time.perf_counter()
        for item in items:
            images[item]
        taken = time.perf_counter() - begun
    return taken / len(items)
