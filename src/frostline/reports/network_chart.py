"""The network's stages, and the learning rate of each in each epoch. Imports no torch.

Stages are in the order of the forward pass. A stage that is frozen in an epoch has no rate there. Of a run
that was stopped only what was trained is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import UsageError
from frostline.reports.study_reader import RunContents, StudyContents
from frostline.reports.tried_strategies import resolved_phases
from frostline.strategies import Hyperparameters, ResolvedPhase, hyperparameters, lr_schedule, parse

SOLVED = "The whole network stays frozen: a linear classifier is fitted on its features."
MOST_COLUMNS = 60  # epochs drawn one by one; a longer schedule is drawn with several to a column


@dataclass(frozen=True)
class ChartStage:
    """One stage, and its learning rate in each column (`None`: frozen)."""

    name: str
    shape: str
    parameters: int | None  # `None` for the head, which is new
    rates: tuple[float | None, ...]
    peak: float | None  # its highest rate at any step; `None` where it is never trained

    @property
    def is_trained(self) -> bool:
        """Return whether it is trained in any epoch."""
        return any(rate is not None for rate in self.rates)

    @property
    def first(self) -> int | None:
        """Return the first column in which it is trained."""
        return next((column for column, rate in enumerate(self.rates) if rate is not None), None)


@dataclass(frozen=True)
class Flow:
    """A network under a strategy. `columns` are each column's first epoch, from 1; none for closed form."""

    stages: tuple[ChartStage, ...]
    columns: tuple[int, ...]
    phases: tuple[str, ...]  # sentences

    @property
    def highest(self) -> float:
        """Return the highest rate of all stages."""
        return max((stage.peak or 0.0 for stage in self.stages), default=0.0)

    def shade(self, rate: float) -> float:
        """Return the opacity of a rate, 0.25–1: a quarter less per decade."""
        return max(0.25, 1.0 + 0.25 * math.log10(max(rate, 1e-12) / self.highest))


def flow(contents: StudyContents, run: RunContents) -> Flow | None:
    """Return the network chart of one run; `None` where the network's stages are unknown."""
    network = run.backbone or (contents.backbone if _same_backbone(contents, run) else None)
    if network is None or run.result is None:
        return None
    try:
        phases, parsed = resolved_phases(contents, run), hyperparameters(parse(run.strategy))
    except UsageError:
        return None
    done = _done(phases, parsed, int(run.result.get("steps", sum(phase.steps for phase in phases))))
    rates = _rates(done, parsed, len(network["stages"]))
    head = len(network["stages"]) - 1
    columns = list(range(len(rates)))
    width = math.ceil(len(columns) / MOST_COLUMNS) or 1
    stages = tuple(
        ChartStage(
            name=str(stage["name"]),
            shape=" × ".join(str(side) for side in stage["shape"]) if index < head else "a new classifier",
            parameters=int(stage["parameters"]) if index < head else None,
            rates=tuple(
                _highest(row[index] for row in rates[column : column + width]) for column in columns[::width]
            ),
            peak=_highest(
                lr_schedule.peak(part.peak_lr, parsed.layer_decay, head - index)
                for part in done
                if index >= part.phase.cut
            ),
        )
        for index, stage in enumerate(network["stages"])
    )
    sentences = _sentences(done, network["stages"]) if phases else (SOLVED,)
    steps, planned = (sum(part.steps for part in parts) for parts in (done, phases))
    if steps < planned:
        epochs = f"in epoch {len(rates)} of {sum(phase.epochs for phase in phases)}, " if steps else ""
        sentences += (f"It was stopped {epochs}after {steps:,} of {planned:,} steps.",)
    return Flow(stages, tuple(column + 1 for column in columns[::width]), sentences)


def _same_backbone(contents: StudyContents, run: RunContents) -> bool:
    return contents.backbone is not None and contents.backbone.get("model") == run.config.get("model")


@dataclass(frozen=True)
class _Done:
    """What was trained of a phase: epochs, the last of which may be a part, and the head's highest rate."""

    phase: ResolvedPhase
    steps: int
    peak_lr: float

    @property
    def epochs(self) -> int:
        return math.ceil(self.steps / self.phase.steps_per_epoch)


def _done(phases: Sequence[ResolvedPhase], known: Hyperparameters, steps: int) -> list[_Done]:
    """Return the phases as far as so many steps went."""
    parts = []
    for phase in phases:
        if done_steps := min(phase.steps, steps):
            shares = (
                lr_schedule.scale(step, phase.steps, known.warmup, known.schedule)
                for step in range(done_steps)
            )
            parts.append(_Done(phase, done_steps, phase.lr * max(shares)))
        steps -= done_steps
    return parts


def _rates(done: Sequence[_Done], known: Hyperparameters, stages: int) -> list[list[float | None]]:
    """Return the mean rate of each stage in each epoch: (epochs, stages)."""
    rates: list[list[float | None]] = []
    for part in done:
        phase = part.phase
        for epoch in range(part.epochs):
            steps = range(epoch * phase.steps_per_epoch, min(part.steps, (epoch + 1) * phase.steps_per_epoch))
            shares = [lr_schedule.scale(step, phase.steps, known.warmup, known.schedule) for step in steps]
            mean_scale = sum(shares) / len(shares)
            rates.append(
                [
                    None
                    if stage < phase.cut
                    else mean_scale * lr_schedule.peak(phase.lr, known.layer_decay, stages - 1 - stage)
                    for stage in range(stages)
                ]
            )
    return rates


def _highest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _sentences(done: Sequence[_Done], stages: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return a sentence for each phase: the trained stages, and the learning rate."""
    sentences, first_epoch, head = [], 1, len(stages) - 1
    for part in done:
        phase, last_epoch = part.phase, first_epoch + part.epochs - 1
        epochs = f"Epoch {first_epoch}" if last_epoch == first_epoch else f"Epochs {first_epoch}–{last_epoch}"
        names = [str(stage["name"]) for stage in stages]
        if phase.cut >= head:
            trained, frozen = "only the head is trained", "; everything below it is frozen"
        elif phase.cut == 0:
            trained, frozen = "every stage is trained", ""
        else:
            below = "the stem is" if phase.cut == 1 else f"stem to {names[phase.cut - 1]} are"
            trained, frozen = f"{names[phase.cut]} to {names[head]} are trained", f"; {below} frozen"
        sentences.append(f"{epochs}: {trained}, at a learning rate of up to {part.peak_lr:.3g}{frozen}.")
        first_epoch = last_epoch + 1
    return tuple(sentences)
