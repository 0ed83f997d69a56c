"""What torchrun, and `accelerate launch` with it, tells each process of a job. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from frostline.errors import UsageError

# What torchrun sets for every process it starts (its documentation, "Environment Variables").
RANK, SIZE, LOCAL_RANK, LOCAL_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is, in the job and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, prints and writes."""
        return self.rank == 0


def launched() -> Launch:
    """Read the environment; one process alone where no launcher set it.

    Raises `UsageError` where it holds something else than a launcher writes.
    """
    if any(name not in os.environ for name in (RANK, SIZE, *MEETING)):
        return Launch()
    given = {RANK: "0", SIZE: "1", LOCAL_RANK: os.environ[RANK], LOCAL_SIZE: os.environ[SIZE]}
    given |= {name: os.environ[name] for name in given if name in os.environ}
    try:
        found = Launch(*(int(given[name]) for name in (RANK, SIZE, LOCAL_RANK, LOCAL_SIZE)))
    except ValueError:
        found = Launch(-1)
    if not (0 <= found.rank < found.size and 0 <= found.local_rank < found.local_size):
        words = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(
            f"The environment says {words}; expected what torchrun sets: a rank from 0 up to but not the "
            "number of processes. Start with torchrun, or unset these."
        )
    return found


def demand_alone(what: str) -> None:
    """Raise `UsageError` where torchrun has started several processes of something that is not divided so."""
    found = launched()
    if found.size > 1:
        raise UsageError(
            f"{what} was started {found.size} times by torchrun: only train divides one run among such "
            "processes. Start it once, without torchrun. To spread it: start the same compare or cache fill "
            "several times, or give them --ray."
        )
