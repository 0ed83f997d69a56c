"""The network as a flow, and how fast each stage learns in each epoch. Imports no torch.

Stages stand in the order in which an image passes them. A stage that is frozen in an epoch has no rate there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import UsageError
from frostline.reports.study_reader import RunRead, Told
from frostline.reports.tried_strategies import resolved_phases
from frostline.strategies import ResolvedPhase, hyperparameters, lr_schedule, parse

MOST_COLUMNS = 60  # epochs drawn one by one; a longer schedule is drawn with several to a column


@dataclass(frozen=True)
class Stage:
    """One stage: what it is, and its rate in each column (`None`: frozen)."""

    name: str
    shape: str
    parameters: int | None  # of the head: not the network's own any more
    rates: tuple[float | None, ...]
    peak: float | None  # its highest rate at any step; `None` where it never learns

    @property
    def learns(self) -> bool:
        """Whether it learns at any time."""
        return any(rate is not None for rate in self.rates)

    @property
    def first(self) -> int | None:
        """The first column in which it learns."""
        return next((n for n, rate in enumerate(self.rates) if rate is not None), None)


@dataclass(frozen=True)
class Flow:
    """A network under one strategy. `columns` are the first epochs of each column, from 1; empty: solved."""

    stages: tuple[Stage, ...]
    columns: tuple[int, ...]
    phases: tuple[str, ...]  # sentences

    @property
    def highest(self) -> float:
        """The highest rate of all."""
        return max((stage.peak or 0.0 for stage in self.stages), default=0.0)

    def shade(self, rate: float) -> float:
        """Return how strongly a rate is drawn, 0.25–1: a decade less is a quarter paler."""
        return max(0.25, 1.0 + 0.25 * math.log10(max(rate, 1e-12) / self.highest))


def flow(told: Told, run: RunRead) -> Flow | None:
    """Return the flow of one run; `None` where the network's stages are not known."""
    network = run.backbone or (told.backbone if _same_network(told, run) else None)
    if network is None or run.result is None:
        return None
    try:
        parts, known = resolved_phases(told, run), hyperparameters(parse(run.strategy))
    except UsageError:
        return None
    rates = _rates(parts, known.layer_decay, known.warmup, len(network["stages"]))
    last = len(network["stages"]) - 1
    columns = list(range(len(rates)))
    width = math.ceil(len(columns) / MOST_COLUMNS) or 1
    stages = tuple(
        Stage(
            name=str(found["name"]),
            shape=" × ".join(str(side) for side in found["shape"]) if place < last else "a new classifier",
            parameters=int(found["parameters"]) if place < last else None,
            rates=tuple(_most(row[place] for row in rates[at : at + width]) for at in columns[::width]),
            peak=_most(
                lr_schedule.peak(part.lr, known.layer_decay, last - place)
                for part in parts
                if place >= part.cut
            ),
        )
        for place, found in enumerate(network["stages"])
    )
    return Flow(stages, tuple(at + 1 for at in columns[::width]), _sentences(parts, network["stages"]))


def _same_network(told: Told, run: RunRead) -> bool:
    return told.backbone is not None and told.backbone.get("model") == run.config.get("model")


def _rates(
    parts: Sequence[ResolvedPhase], decay: float, warmup: float, stages: int
) -> list[list[float | None]]:
    """Return the mean rate of each stage in each epoch: (epochs, stages)."""
    found: list[list[float | None]] = []
    for part in parts:
        for epoch in range(part.epochs):
            steps = range(epoch * part.steps_per_epoch, (epoch + 1) * part.steps_per_epoch)
            share = sum(lr_schedule.scale(step, part.steps, warmup) for step in steps) / len(steps)
            found.append(
                [
                    None if stage < part.cut else share * lr_schedule.peak(part.lr, decay, stages - 1 - stage)
                    for stage in range(stages)
                ]
            )
    return found


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _sentences(parts: Sequence[ResolvedPhase], stages: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Say phase by phase who learns, and how fast."""
    if not parts:
        return (
            (
                "The whole network stays frozen: it only describes each image, and a linear classifier on "
                "these descriptions is solved for in one go."
            ),
        )
    found, begun, last = [], 1, len(stages) - 1
    for part in parts:
        ends = begun + part.epochs - 1
        when = f"Epoch {begun}" if ends == begun else f"Epochs {begun}–{ends}"
        names = [str(stage["name"]) for stage in stages]
        if part.cut >= last:
            who = "only the head learns; everything below it is frozen"
        elif part.cut == 0:
            who = "every stage learns"
        else:
            frozen = "the stem is" if part.cut == 1 else f"stem to {names[part.cut - 1]} are"
            who = f"{names[part.cut]} to {names[last]} learn; {frozen} frozen"
        found.append(f"{when}: {who}, at a learning rate of up to {part.lr:.3g}.")
        begun = ends + 1
    return tuple(found)
