"""Which views there are of each image, and which rows of frozen layers are kept: read or recompute, per cut.

The number of views follows from the strategy's epochs alone. What is kept follows from rates measured on
this machine and from the disk; it changes the time a run takes and no bit of its result.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from frostline import models as bb
from frostline import profiling
from frostline.cost import Choice, RowRates, cache_tradeoff
from frostline.distributed import process_group
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen
from frostline.feature_extraction.image_batches import Images
from frostline.models import Cut
from frostline.strategies import hyperparameters
from frostline.training.numeric_plan import Plan
from frostline.training.train_request import TrainRequest


def opened(rows: str, cache: FeatureCache) -> AbstractContextManager[FeatureCache | None]:
    """Open the cache's files for one run, unless rows are to be computed each time."""
    return nullcontext() if rows == "compute" else cache


def decide(request: TrainRequest, plan: Plan, images: Images, cache: FeatureCache | None) -> None:
    """Decide how many views there are, and for each cut which of them are kept.

    The first process of a job does that for all.
    """
    if process_group.leads():
        _decide(request, plan, images, cache)
    if process_group.size() > 1:
        decided = Plan.from_dict(process_group.decided(plan.as_dict))
        plan.whole, plan.views, plan.cached, plan.why = (
            decided.whole,
            decided.views,
            decided.cached,
            decided.why,
        )


def _decide(request: TrainRequest, plan: Plan, images: Images, cache: FeatureCache | None) -> None:
    plan.whole = True
    phases = [replace(s, cut=request.backbone.cut(s.cut).index) for s in request.phases()]
    if request.config.views is not None:
        plan.views = request.config.views
    elif not images.policy.still and not hyperparameters(request.strategy).mixes:
        plan.views = cache_tradeoff.views_of(phases)
    if cache is None:
        return
    sampler = request.config.imbalance == "sampler"
    for index, need in cache_tradeoff.needs(
        phases, plan.views, still=images.policy.still, sampler=sampler
    ).items():
        cut = request.backbone.cut(index)
        if hyperparameters(request.strategy).mixes:
            _decide_mixed(request, plan, cut, need, cache)
            continue
        choice = _choice(request, plan, cut, need, images, cache)
        row_bytes = _row_bytes(request, plan, cut) * len(images)
        room = math.floor(cache.room_bytes() / max(1, row_bytes))
        views = sorted(need.passes)
        plan.cached[index] = tuple(views[:room]) if choice.keep else ()
        if choice.keep and request.data.subset("val"):
            plan.cached[index] = tuple(sorted({0, *plan.cached[index]}))
        full = "" if room >= len(views) else f"; the cache has room for {room} of {len(views)} views"
        plan.why[index] = choice.why + full


def _decide_mixed(
    request: TrainRequest, plan: Plan, cut: Cut, need: cache_tradeoff.Need, cache: FeatureCache
) -> None:
    """Decide for val alone: features of mixed images are never the same twice."""
    plan.cached[cut.index], plan.why[cut.index] = (), cache_tradeoff.MIXED
    val = request.images("val")
    if len(val):
        choice = _choice(request, plan, cut, need.of_val(), val, cache)
        plan.cached[cut.index] = (0,) if choice.keep else ()
        plan.why[cut.index] += f"; of val, {choice.why}"


def _choice(
    request: TrainRequest,
    plan: Plan,
    cut: Cut,
    need: cache_tradeoff.Need,
    images: Images,
    cache: FeatureCache,
) -> Choice:
    if request.config.cache == "keep" or request.config.deterministic or not plan.timed:
        return untimed(request, cut, _value_bytes(plan))
    row_bytes = _row_bytes(request, plan, cut)
    first = Frozen(request.backbone, request.backbone.model, cut, plan.forward_config, cache)
    wanted = [(position, view) for position in range(len(images)) for view in need.passes]
    missing = first.missing(images, wanted) / max(1, len(wanted))
    read_s, keep_s = cache.seconds_per_row(row_bytes)
    decode_s = (
        profiling.decode_s(images) if missing else 0.0
    )  # what is there is read if it beats the prefix alone
    prefix_s = profiling.prefix_s(request.backbone, plan.forward_config, cut)
    known = RowRates(row_bytes, _pixel_bytes(request), decode_s, prefix_s, read_s, keep_s)
    return cache_tradeoff.read_or_recompute(known, uses=need.uses, missing=missing, along=need.along)


def untimed(request: TrainRequest, cut: Cut, value_bytes: int) -> Choice:
    """Decide where nothing is timed, or the person has."""
    if request.config.cache == "keep":
        return Choice(True, "asked for")
    return cache_tradeoff.untimed(bb.row_elements(request.backbone, cut) * value_bytes, _pixel_bytes(request))


def _pixel_bytes(request: TrainRequest) -> int:
    return int(3 * request.backbone.preprocessing.size**2)


def _row_bytes(request: TrainRequest, plan: Plan, cut: Cut) -> int:
    """Bytes of one row, before any is computed: layers that answer float32 under bfloat16 take twice that."""
    return bb.row_elements(request.backbone, cut) * _value_bytes(plan)


def _value_bytes(plan: Plan) -> int:
    return 2 if plan.forward_config.plan.precision == "bfloat16" else 4
