"""Which layers of a run are compiled by `torch.compile`: as asked for, or by arithmetic.

Decided once, before the first step, and written into the run's plan: whoever goes on obeys it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frostline import profiling
from frostline.cost import compile_tradeoff
from frostline.feature_extraction import ForwardConfig
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.strategies import hyperparameters
from frostline.system import compiling, devices
from frostline.system.numerics import NumericPlan
from frostline.training.train_request import TrainRequest

NOT_ON = {
    "cpu": "on a processor it was seen to take longer than it saves (docs/LOG.md, 2026-11-24)",
    "mps": "it was never tried on mps",
}


@dataclass(frozen=True)
class Compiled:
    """What of a run is compiled.

    Attributes
    ----------
    phases : tuple of bool
        Of each phase, whether the layers that learn are.
    frozen : bool
        Whether frozen layers are.
    why : str
    """

    phases: tuple[bool, ...] = ()
    frozen: bool = False
    why: str = "a plan of before there was a choice"

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return self.frozen or True in self.phases

    def learning(self, phase: int) -> bool:
        """Whether the layers that learn are compiled in a phase."""
        return phase < len(self.phases) and self.phases[phase]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"phases": list(self.phases), "frozen": self.frozen, "why": self.why}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Compiled:
        """Read it back."""
        return cls(tuple(data["phases"]), data["frozen"], data["why"])


def decide(
    request: TrainRequest, numbers: NumericPlan, forward_config: ForwardConfig, *, timed: bool
) -> Compiled:
    """Decide what is compiled; `timed` says whether there is time to time a step for it."""
    config, phases = request.config, request.phases()
    if config.compile != "auto":
        on = config.compile == "on"
        return Compiled((on,) * len(phases), on, "asked for")

    def off(why: str) -> Compiled:
        return Compiled((False,) * len(phases), False, f"not compiled: {why}")

    kind = devices.current().type
    if kind != "cuda":
        return off(NOT_ON.get(kind, f"it was never tried on {kind}"))
    if config.deterministic:
        return off("no timed choice")
    if not timed:
        return off("the time is too short to try other ways")
    if reason := compiling.unavailable():
        return off(reason)
    return _by_arithmetic(request, numbers, forward_config)


def _by_arithmetic(request: TrainRequest, numbers: NumericPlan, forward_config: ForwardConfig) -> Compiled:
    backbone, config, phases = request.backbone, request.config, request.phases()
    known, batch = hyperparameters(request.strategy), request.batch.images
    limit_s = None if config.minutes is None else 60.0 * config.minutes
    train = request.images("train", None if request.custom else Policy(request.augment))
    pixels_s = profiling.decode_s(train) / max(1, train.workers(config.workers))
    tradeoffs = []
    for phase in phases:
        cut = backbone.cut(phase.cut)
        step_s = profiling.step_s(backbone, cut, numbers, bn=known.bn, batch=batch, threads=config.threads)
        from_pixels = cut.index == 0 or known.mixes
        tradeoffs.append(
            compile_tradeoff.of_steps(phase.steps, step_s, batch * pixels_s * from_pixels, limit_s)
        )
    passes = _frozen_passes(request, train)
    image_s = profiling.prefix_s(backbone, forward_config, backbone.cuts[-1]) if passes else 0.0
    frozen = compile_tradeoff.of_passes(passes, image_s, pixels_s, limit_s)
    why = [f"phase {place}, {tradeoff}" for place, tradeoff in enumerate(tradeoffs, 1)]
    return Compiled(
        tuple(tradeoff.pays for tradeoff in tradeoffs),
        frozen.pays,
        "; ".join([*why, f"frozen layers, {frozen} at most"]),
    )


def _frozen_passes(request: TrainRequest, train: Images) -> int:
    """Return how many views of images pass frozen layers at most: each epoch another one, nothing kept."""
    if not request.strategy.trains:
        return len(train)
    epochs = sum(phase.epochs for phase in request.phases() if phase.cut)
    return round(epochs * (len(train) + len(request.data.subset("val"))))
