"""How many threads read and decode images. Imports no torch where nothing else has."""

from __future__ import annotations

import sys

import psutil

from frostline.distributed.torchrun_env import launched
from frostline.errors import UsageError, option
from frostline.system import cpu_threads

AUTO = "auto"
Workers = int | str  # threads that decode images; "auto": as the machine suggests
MOST_AUTO = 16  # more have not been tried: the machine with a GPU had 16 cores
# Free memory that `auto` wants a thread to have: a picture of 12 megapixels, decoded, and its file. A choice.
THREAD_BYTES = 256_000_000


def workers_fault(workers: object) -> str:
    """Return what is wrong with a number of workers, or return ""."""
    if workers == AUTO or (isinstance(workers, int) and not isinstance(workers, bool) and workers >= 0):
        return ""
    return f'{option("workers")} must be "auto", or 0 or more, found {workers!r}.'


def decoding_threads(workers: Workers) -> int:
    """Return how many threads decode: as many as compute, for "auto", where there is memory for them.

    On a GPU every core decodes. Decoding's cores are the step's where there is no GPU: see `decode_in_turn`.

    Raises
    ------
    UsageError
        `workers` is no number of threads.
    """
    if fault := workers_fault(workers):
        raise UsageError(fault)
    if workers != AUTO:
        return int(workers)
    processes = launched().local_size
    memory = int(psutil.virtual_memory().available) // (THREAD_BYTES * processes)
    return max(1, min(_cores(processes), memory, MOST_AUTO))


def decode_in_turn(threads: int) -> bool:
    """Return whether so many threads decode while nothing else computes, not ahead.

    They do where the processor computes with all its cores, and as many decode: threads wait for each other
    at each operation, and one that shares its core with decoding holds all of them up. On two cores a first
    pass over 1,000 JPEGs of 500 x 375 px took 0.92 of the time in turn (docs/LOG.md, 30
    November 2026). Who gives more threads than cores has slow files: they are read ahead.
    """
    cores = cpu_threads.cores()
    computing = _computing_threads()
    return computing is not None and computing >= cores == threads


def _cores(processes: int) -> int:
    computing = _computing_threads()
    return cpu_threads.free().cores // processes if computing is None else computing


def _computing_threads() -> int | None:
    """Return how many threads compute on the processor; `None` where a GPU computes, or nothing does yet."""
    if "torch" not in sys.modules:
        return None
    from frostline.system import devices, numerics

    return numerics.thread_count() if devices.current().type == "cpu" else None
