"""The environment that torchrun and `accelerate launch` set for each process. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from frostline.errors import UsageError

# What torchrun sets for every process it starts (its documentation, "Environment Variables").
RANK, SIZE, LOCAL_RANK, LOCAL_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The rank and size of this process's job, overall and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this is the process that decides, prints and writes."""
        return self.rank == 0


def launched() -> Launch:
    """Read the environment; one process alone where no launcher set it.

    Raises `UsageError` where it holds something else than a launcher writes.
    """
    if any(name not in os.environ for name in (RANK, SIZE, *MEETING)):
        return Launch()
    variables = {RANK: "0", SIZE: "1", LOCAL_RANK: os.environ[RANK], LOCAL_SIZE: os.environ[SIZE]}
    variables |= {name: os.environ[name] for name in variables if name in os.environ}
    try:
        launch = Launch(*(int(variables[name]) for name in (RANK, SIZE, LOCAL_RANK, LOCAL_SIZE)))
    except ValueError:
        launch = Launch(-1)
    if not (0 <= launch.rank < launch.size and 0 <= launch.local_rank < launch.local_size):
        text = ", ".join(f"{name}={value}" for name, value in variables.items())
        raise UsageError(
            f"The environment has {text}; expected what torchrun sets: a rank of at least 0 and below the "
            "number of processes. Start with torchrun, or unset these."
        )
    return launch


def demand_alone(command: str) -> None:
    """Raise `UsageError` where torchrun has started several processes of something that is not divided so."""
    launch = launched()
    if launch.size > 1:
        raise UsageError(
            f"{command} was started {launch.size} times by torchrun: only train divides one run among such "
            "processes. Start it once, without torchrun. To spread it: start the same compare or cache fill "
            "several times, or give them --ray."
        )
