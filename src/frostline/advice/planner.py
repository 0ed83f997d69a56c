"""`plan`: measure the images and the machine, and recommend a strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frostline.advice.recommendation import Advice, Budget, Case, advise
from frostline.data import Manifest, demand_manifest
from frostline.data.decoding_threads import AUTO, Workers
from frostline.diagnostics import Signals, measure
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.models import Backbone, demand_backbone
from frostline.progress import OnProgress, Progress
from frostline.reports import notebook
from frostline.system import devices, numerics


@dataclass(frozen=True)
class Planned:
    """Result of `plan`: the advice and the signals that it is based on."""

    advice: Advice
    signals: Signals

    def as_dict(self) -> dict[str, Any]:
        """Return both as plain data; `recommended` and `options` first."""
        return {**self.advice.as_dict(), "signals": self.signals.as_dict()}

    def __repr__(self) -> str:
        """Return the advice as text."""
        return repr(self.advice)

    def _repr_html_(self) -> str:
        """Return the advice as HTML for notebooks."""
        return self.advice._repr_html_()

    def to_pandas(self) -> Any:
        """Return the options, a row each. Raises `UsageError` if pandas is not installed."""
        return self.advice.to_pandas()

    def plot(self) -> notebook.Plot:
        """Return a plot of each strategy's forecast."""
        return self.advice.plot()


@devices.computes()
def plan(
    backbone: Backbone,
    data: Manifest,
    *,
    minutes: float | None = None,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    device_memory_bytes: int | None = None,
    probe_accuracy: float | None = None,
    plain_timm: bool = False,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    workers: Workers = AUTO,
    feature_cache: FeatureCache | None = None,
    progress: OnProgress | None = None,
) -> Planned:
    """Recommend a strategy to train on these images with this network, within a budget for one run.

    Nothing is trained. Measurements are cached, and so is the speed of the network on this machine.

    Parameters
    ----------
    backbone
        The network.
    data
        The labelled images.
    minutes
        Time limit of one run; `None` for no limit.
    memory_bytes
        Memory that a run may use above its imports; `None` for no limit.
    disk_bytes
        Disk that cached features may use; `None` for no limit.
    device_memory_bytes
        Memory of the GPU that a run's tensors may use; `None` for what the GPU has.
    probe_accuracy
        Out-of-fold accuracy of a `linear_probe` that was trained on these images (`cv_score` of the run, with
        the metric accuracy), 0–1: forecasts that start from it are nearer. `None` if there is none.
    plain_timm
        Only strategies whose head reads the last stage, so that timm (or transformers) loads the weights
        alone.
    seed
        Seed of folds and sampling.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    threads
        Torch threads; `None` for as many as cores are free.
    workers
        Threads that decode images here, and in the runs that are foretold; 0 decodes between the steps.
    feature_cache
        Where features of frozen layers are kept; `None` for the one of this machine.
    progress
        Called as `progress(what, done, total)`.

    Returns
    -------
    Planned
        The advice and the signals.

    Raises
    ------
    UsageError
        If the budget or `workers` is invalid, or no strategy fits the budget.
    """
    demand_backbone(backbone)
    demand_manifest(data)
    limit = numerics.device_memory_limit(device_memory_bytes)
    budget = Budget(None if minutes is None else 60.0 * minutes, memory_bytes, disk_bytes, limit)
    budget.check()
    if probe_accuracy is not None and not 0 <= probe_accuracy <= 1:
        raise UsageError(f"probe_accuracy must be a fraction from 0 to 1, found {probe_accuracy:g}.")
    progress = Progress.of(progress)
    data = data.checked(progress)
    signals = measure(
        backbone,
        data,
        random=False,
        seed=seed,
        threads=threads,
        workers=workers,
        feature_cache=feature_cache,
        progress=progress,
    )
    assert signals.rates is not None
    case = Case(
        signals=signals.as_dict(),
        architecture=str(backbone.source.get("architecture", backbone.name)),
        stages=len(backbone.stages),
        train=len(data.subset("train")),
        val=len(data.subset("val")),
        test=len(data.subset("test")),
        classes=len(data.classes),
        kind=devices.current().type,
        random=bool(backbone.source.get("random")),
        commonest=signals.size.per_class[-1] / signals.size.train,
        probe_accuracy=probe_accuracy,
        plain_timm=plain_timm,
    )
    return Planned(advise(case, signals.rates, budget), signals)
