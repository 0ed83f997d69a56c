"""`fill_cache`: the frozen pass alone, before anything is trained: by one process, or by a cluster's workers.

Workers are not told which images are theirs: the cache's claims divide them, and what a dead one had claimed
is taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

from frostline.config import Config, Options
from frostline.data import SUBSETS, Manifest, demand_manifest
from frostline.distributed import ray_cluster, torchrun_env
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, Frozen
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images, Item
from frostline.models import Backbone, demand_backbone
from frostline.progress import QUIET, Activity, OnProgress, Progress
from frostline.strategies import Strategy, hyperparameters, overridden, read_strategy
from frostline.system import devices, directories, numerics, timing
from frostline.training import numeric_plan
from frostline.training.caching import cache_planning
from frostline.training.numeric_plan import Plan
from frostline.training.train_request import TrainRequest

SEEN_S = 1.0  # between two looks at how many rows a cluster's workers have kept


@dataclass(frozen=True)
class CacheFill:
    """Result of `fill_cache`.

    Attributes
    ----------
    wanted : int
        Number of features that were requested: one for each image, view and cut.
    computed : int
        Number of features that were computed; the others were in the cache already. Includes the batch with
        which each worker checks that features of an earlier cut give the same bits, and the images and their
        mirror images by which flips are decided.
    views : dict of int to int
        Number of views of each training image, by index of the cut; val and test images have one.
    workers : int
        Number of workers that computed.
    cache_dir : str
        Folder of the cache.
    """

    wanted: int
    computed: int
    views: dict[int, int]
    workers: int
    cache_dir: str


@devices.computes()
def fill_cache(
    backbone: Backbone,
    data: Manifest,
    strategy: Strategy | str = "head",
    *,
    cut: int | None = None,
    ray: str | None = None,
    config: Config | None = None,
    progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> CacheFill:
    """Compute the features that training by `strategy` will read, and keep them in the cache.

    Features that are in the cache already are left out.

    Parameters
    ----------
    backbone, data, strategy
        As in `train`.
    cut
        Index of a cut, as `frostline stages` shows it: features of that cut alone, `views` of each training
        image (default 1, the image without augmentation).
    ray
        "auto", "local" or the address of a Ray cluster, whose workers compute the features. They see the same
        cache and images; each feature is computed by one of them.
    config
        Options as a `Config`: what `train` will be given. Fields without effect on features are ignored.
    progress
        Called as `progress(what, done, total)`.
    **options
        Fields of `Config` by name, which override those of `config`.

    Returns
    -------
    CacheFill

    Raises
    ------
    UsageError, DataError, ModelError
    """
    demand_backbone(backbone)
    demand_manifest(data)
    timing.prepare_process()
    torchrun_env.demand_alone("cache fill")
    progress, chosen = Progress.of(progress), Config.of(config, options)
    strategy = read_strategy(strategy)
    (strategy,) = overridden([strategy], chosen.of_strategy).strategies
    views = chosen.views
    request = TrainRequest(
        backbone=backbone.resized(chosen.resize),
        data=data.checked(progress),
        strategy=strategy,
        config=replace(chosen.without_strategy, cache="keep"),
        progress=progress,
    )
    request.check()
    plan = numeric_plan.new_plan(request)
    counts, policy, cache = Counts(), Policy("none"), FeatureCache()
    with numerics.threads(plan.numbers.threads), cache:
        cache.demand_writable()
        if cut is None or (views or 1) > 1:
            one = request.backbone
            head = Frozen(one, one.model, one.cuts[-1], plan.forward_config, cache, counts)
            policy, _ = numeric_plan.augmentation(request, head)
        _decide(request, plan, cut, policy, cache)
        if ray is None:
            _fill(request, plan, policy, cache, counts)
            cache.demand_writable()  # what was kept before the disk was full stays
    used = 1
    if ray is not None:
        used = _spread(request, plan, policy, cache, counts, ray)
    return CacheFill(
        wanted=sum(len(items) for _, _, items in _wanted(request, plan, policy)),
        computed=counts.computed,
        views={index: len(cached) for index, cached in sorted(plan.cached.items())},
        workers=used,
        cache_dir=str(cache.path),
    )


def _decide(request: TrainRequest, plan: Plan, cut: int | None, policy: Policy, cache: FeatureCache) -> None:
    """Decide which views of which cuts are kept."""
    if cut is not None:
        index = request.backbone.cut(cut).index
        if index == 0:
            raise UsageError(f"Nothing is frozen before cut {cut}: expected one from 1 to the head's.")
        plan.cached[index], plan.why[index] = tuple(range(request.config.views or 1)), "asked for"
        return
    cache_planning.decide(request, plan, request.images("train", policy), cache)
    if not request.strategy.trains or hyperparameters(request.strategy).head_init == "probe":
        last = request.backbone.cuts[-1].index  # where heads are solved for
        plan.cached[last] = tuple(sorted({0, *plan.cached.get(last, ())}))
        plan.why.setdefault(last, "a head is solved for on it")


def _wanted(request: TrainRequest, plan: Plan, policy: Policy) -> list[tuple[int, Images, list[Item]]]:
    """Return what is to be there: (cut, images, items), earlier cuts first."""
    needed = []
    for index, cached in sorted(plan.cached.items()):
        for subset in SUBSETS:
            images = request.images(subset, policy if subset == "train" else None)
            views = cached if subset == "train" else (0,)
            if len(images) and cached:
                needed.append((index, images, [(i, view) for view in views for i in range(len(images))]))
    return needed


def _fill(request: TrainRequest, plan: Plan, policy: Policy, cache: FeatureCache, counts: Counts) -> None:
    backbone = request.backbone
    for index, images, items in _wanted(request, plan, policy):
        frozen = Frozen(backbone, backbone.model, backbone.cut(index), plan.forward_config, cache, counts)
        frozen.fill(images, items, workers=request.config.workers, progress=request.progress)


def _spread(
    request: TrainRequest, plan: Plan, policy: Policy, cache: FeatureCache, counts: Counts, address: str
) -> int:
    """Let a cluster's workers fill, by the one plan made here; return how many there are."""
    root = request.data.root and request.data.root.resolve()
    carried = replace(request, data=replace(request.data, root=root), progress=QUIET)
    folders = [directories.home(), *([root] if root else [])]
    with ray_cluster.connected(address, threads=request.config.threads) as cluster, cache:
        wanted = sum(len(items) for _, _, items in _wanted(request, plan, policy))
        results = cluster.everywhere(
            _fill_there,
            carried,
            plan.as_dict(),
            policy,
            cache,
            folders=folders,
            on_poll=_row_poll(cache, request.progress, wanted),
        )
        counts.computed += sum(answer["computed"] for answer in results)
        return len(cluster.shares)


def _fill_there(
    request: TrainRequest, plan: dict[str, Any], policy: Policy, cache: FeatureCache
) -> dict[str, int]:
    """Fill in a worker; returns its counts."""
    own_plan, counts = Plan.from_dict(plan), Counts()
    with numerics.threads(own_plan.numbers.threads), cache:
        cache.demand_writable()
        _fill(request, own_plan, policy, cache, counts)
    return asdict(counts)


def _row_poll(cache: FeatureCache, progress: Progress, wanted: int) -> Callable[[], None]:
    """Return a function that tells from time to time how many rows the cache has got since now."""

    def count() -> int:
        return sum(holding.features for holding in cache.holdings())

    before, next_s = count(), 0.0

    def poll() -> None:
        nonlocal next_s
        if progress.heard and time.monotonic() >= next_s:
            next_s = time.monotonic() + SEEN_S
            progress(Activity.FROZEN_LAYERS, min(wanted, count() - before), wanted)

    return poll
