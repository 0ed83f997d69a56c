"""What went wrong during a run and how it went on: numbers in a checkpoint, a sentence in the result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class IncidentKind(StrEnum):
    """What can go wrong."""

    NOT_FINITE = "not_finite"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True)
class Incident:
    """One incident; `str` returns its sentence. Fields of the other kind stay at their defaults.

    Parameters
    ----------
    kind
        The kind.
    value
        The loss, as text ("nan" or "inf"); not a float, since NaN is unequal to itself.
    phase, epoch
        Where it happened, from 1.
    halvings
        How often the learning rate has been halved by now.
    most_halvings
        How often it may be halved.
    batch
        Images a step.
    piece
        Images that are learned from at a time from now on.
    batch_statistics
        Whether BatchNorm takes its statistics from those alone.
    """

    kind: IncidentKind
    value: str = ""
    phase: int = 0
    epoch: int = 0
    halvings: int = 0
    most_halvings: int = 0
    batch: int = 0
    piece: int = 0
    batch_statistics: bool = False

    def __str__(self) -> str:
        match self.kind:
            case IncidentKind.NOT_FINITE:
                return (
                    f"The loss became {self.value} in epoch {self.epoch} of phase {self.phase}: back to the "
                    f"start of that epoch, with the learning rate halved ({self.halvings} of at most "
                    f"{self.most_halvings} times)."
                )
            case IncidentKind.OUT_OF_MEMORY:
                alone = " BatchNorm in training sees those alone." if self.batch_statistics else ""
                return (
                    f"Memory ran out with {self.batch} images a step: they are now learned from {self.piece} "
                    f"at a time, their gradients added up.{alone}"
                )
