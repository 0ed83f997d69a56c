"""`plan`: measure the images, measure the machine, and advise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frostline.advice.recommendation import Advice, Budget, Case, advise
from frostline.data import Manifest, OnProgress
from frostline.diagnostics import Signals, measure
from frostline.models import Backbone
from frostline.reports import notebook


@dataclass(frozen=True)
class Planned:
    """The advice, and what it was drawn from."""

    advice: Advice
    signals: Signals

    def as_dict(self) -> dict[str, Any]:
        """Both as plain data; `recommended` and `options` first."""
        return {**self.advice.as_dict(), "signals": self.signals.as_dict()}

    def __repr__(self) -> str:
        """The advice."""
        return repr(self.advice)

    def _repr_html_(self) -> str:
        """The advice, in a notebook."""
        return self.advice._repr_html_()

    def to_pandas(self) -> Any:
        """The options, a row each. Raises `UsageError` where pandas is not installed."""
        return self.advice.to_pandas()

    def plot(self) -> notebook.Plot:
        """Draw what is expected of each strategy."""
        return self.advice.plot()


def plan(
    backbone: Backbone,
    data: Manifest,
    *,
    minutes: float | None = None,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: OnProgress | None = None,
) -> Planned:
    """Advise which strategy to train on these images with this network, within a budget for one run.

    Nothing is trained. Measuring is remembered, and so are the rates of the network on this machine. Raises
    `UsageError` for a budget that is none, and where nothing fits it.
    """
    budget = Budget(None if minutes is None else 60.0 * minutes, memory_bytes, disk_bytes)
    budget.check()
    data = data.checked(progress)
    found = measure(backbone, data, random=False, seed=seed, threads=threads, progress=progress)
    assert found.rates is not None
    case = Case(
        signals=found.as_dict(),
        architecture=str(backbone.source.get("architecture", backbone.name)),
        stages=len(backbone.stages),
        train=len(data.part("train")),
        val=len(data.part("val")),
        test=len(data.part("test")),
        classes=len(data.classes),
        random=bool(backbone.source.get("random")),
        commonest=found.size.per_class[-1] / found.size.train,
    )
    return Planned(advise(case, found.rates, budget), found)
