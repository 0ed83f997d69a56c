"""`predict`: the cost of a run, from rates alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from frostline.cost.decoding_overlap import Bottleneck
from frostline.cost.device_memory import device_peak
from frostline.cost.peak_memory import peak
from frostline.cost.rates import Rates
from frostline.cost.run_time import Job, Walk
from frostline.strategies import Strategy, hyperparameters, parse, schedule

# Work in a run takes this share longer than the same work alone and over and over, as rates are measured:
# cold caches, images decoded beside computing, small things that no rate is of. The median of 56 runs of
# lite0 and SqueezeNet at 96 px.
BESIDE = 0.17


@dataclass(frozen=True)
class Cost:
    """The predicted cost of a run.

    Attributes
    ----------
    seconds : float
    peak_memory_bytes, peak_memory_upper_bytes : int
        Above the imports; expected and upper bound.
    disk_bytes : int
        Of features in the cache.
    parts : dict of str to float
        Seconds by item.
    features : int
        Features that a run with an empty cache computes and caches.
    decides : Bottleneck or None
        Which takes longer, decoding or the network; the slower of both decides. None where no picture is
        decoded.
    device_peak_bytes : int or None
        Of tensors on a GPU; None where rates were measured on a processor.
    """

    seconds: float
    peak_memory_bytes: int
    peak_memory_upper_bytes: int
    disk_bytes: int
    parts: dict[str, float]
    features: int = 0
    decides: Bottleneck | None = None
    device_peak_bytes: int | None = None


def predict(
    strategy: Strategy | str,
    rates: Rates,
    *,
    train: int,
    val: int,
    test: int,
    classes: int,
    batch: int = 32,
    augment: str = "standard",
    flip: str = "auto",
    rotate: str = "none",
    warm: bool = False,
    cache: str = "auto",
) -> Cost:
    """Return the predicted cost of `frostline.train`.

    At another batch size than that of the rates, the cost per image is assumed to be the same.

    Parameters
    ----------
    strategy : Strategy or str
    rates : Rates
    train, val, test : int
        Images in each subset.
    classes : int
    batch, augment, flip, rotate, cache
        As in `train`.
    warm : bool
        Whether the cache holds all features of the run.

    Returns
    -------
    Cost

    Raises
    ------
    UsageError
        The strategy is invalid.
    """
    plan = parse(strategy) if isinstance(strategy, str) else strategy
    phases = schedule(plan, stages=rates.depth, images=train, batch=batch)
    job = Job(
        strategy=plan,
        hyperparameters=hyperparameters(plan),
        phases=tuple(replace(phase, cut=rates.offered(phase.cut)) for phase in phases),
        train=train,
        val=val,
        test=test,
        classes=classes,
        batch=batch,
        augment=augment,
        flip=flip,
        rotate=rotate,
        warm=warm,
        cache=cache,
    )
    steps = Walk(rates, job)
    walk = steps.run()
    memory = peak(rates, job, walk)
    walk.seconds["fresh memory"] += rates.touch_s * (memory.expected - rates.peaks.base)
    walk.seconds["beside"] = BESIDE * sum(walk.seconds.values())
    factor = rates.correction(trains=plan.trains)
    parts = {item: factor * seconds for item, seconds in walk.seconds.items()}
    return Cost(
        seconds=sum(parts.values()),
        peak_memory_bytes=memory.expected,
        peak_memory_upper_bytes=memory.upper,
        disk_bytes=0 if cache == "compute" else round(walk.disk_bytes),
        parts=parts,
        features=0 if cache == "compute" else walk.features,
        decides=rates.pipeline.decides(steps.decode_s, steps.beside_s) if steps.decode_s else None,
        device_peak_bytes=device_peak(rates, job) if rates.on_gpu else None,
    )
