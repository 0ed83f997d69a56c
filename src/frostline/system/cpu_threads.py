"""Cores that this process may use, which are free, and how threads wait. Imports no torch.

OpenMP's threads spin for a while where they wait for each other. On cores of their own that is fastest;
beside other work that time is lost. How they wait is read from the environment when the OpenMP library
is loaded, so `settle` must come before torch is imported. What the environment says already is never changed.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from frostline.errors import UsageError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Say how threads wait: OpenMP's own variable, and those of GCC's and LLVM's (and Intel's) libraries.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # say how many there are: torch obeys both
LOOK_S = 0.1  # the kernel counts in hundredths of a second: shorter looks tell nothing
RECENT_S = 10.0  # a look back over more tells of another time: a choice
# Cores' worth of other work from which on threads share theirs. Half a core is more than a desktop's own
# stirring, and less than one busy thread: a choice.
BUSY = 0.5
# Of the threads' time: with less of it left, a timing is of a busy machine. Idle machines gave 0.9 and more,
# one neighbour on two cores took it to 0.5.
QUIET = 0.8
_GROUP = Path("/sys/fs/cgroup/cpu.stat")  # as a container sees it
# With so large a share of the cores left, threads keep off the others: one that must share its core makes all
# wait for it at each step. With less they share. A choice; on two cores it makes no difference.
ASIDE = 0.75
AS_IT_COMES, PASSIVE = "as it comes", "passive"


@dataclass(frozen=True)
class Reading:
    """Seconds of the clock and of work: on the cores that this process is bound to, its own, its group's."""

    at: float
    busy: float
    own: float
    group: float
    bound: int  # cores

    @classmethod
    def now(cls) -> Reading:
        """Read the kernel's counters. Work that gives way to ours (`nice`) counts as none."""
        cores, process = psutil.cpu_times(percpu=True), psutil.Process()
        if hasattr(process, "cpu_affinity") and len(cores) == os.cpu_count():
            cores = [cores[place] for place in process.cpu_affinity()]
        kinds = ["user", "system", "irq", "softirq", "steal", *(["nice"] if process.nice() > 0 else [])]
        busy = sum(getattr(core, kind, 0.0) for core in cores for kind in kinds)
        return cls(time.perf_counter(), busy, sum(process.cpu_times()[:2]), _group_s(), len(cores))

    def others(self) -> float:
        """Return the cores' worth of work that others have done since, where that leaves less for us.

        Of a quota that is what is done in the same container, or on the machine and fits not beside it.
        """
        now = Reading.now()
        span, own = max(1e-9, now.at - self.at), now.own - self.own
        busy_cores = max(0.0, now.busy - self.busy - own) / span
        if busy_cores < BUSY:
            return busy_cores
        beside = now.bound - cores()
        inside = (now.group - self.group - own) / span if beside else 0.0
        return max(0.0, busy_cores - beside, inside)


def _group_s() -> float:
    """Return the seconds of work that a container did (control groups, version 2); 0 where nothing says."""
    try:
        return float(_GROUP.read_text().split()[1]) / 1e6  # its first line: usage_usec N
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True)
class Free:
    """The processor as a process found it: usable cores, other work on them, how threads wait."""

    cores: int
    others: float
    wait: str

    def threads(self, *, steady: bool = False) -> int:
        """Return how many threads to compute with; `steady`: whatever else is at work.

        Threads step aside for little other work. Beside much of it, threads that wait without spinning take
        their share of every core: the kernel shares by threads, so fewer would get less. Those that spin step
        aside for up to half of the cores.
        """
        if steady or self.others < BUSY:
            return self.cores
        free = round(self.cores - self.others)
        if not self.spins and free < ASIDE * self.cores:
            return self.cores
        return max(1, self.cores // 2, free)

    @property
    def spins(self) -> bool:
        """Return whether threads spin where they wait."""
        policy = os.environ.get("OMP_WAIT_POLICY", "")
        return self.wait != PASSIVE and not (policy in self.wait and policy.upper() == "PASSIVE")

    def __str__(self) -> str:
        return f"{self.others:.1f} of {self.cores} cores were busy with other work"


_first = Reading.now()
_wait: list[str] = []  # what `settle` decided


def settle() -> str:
    """Decide how threads wait, once, and tell OpenMP so by the environment; returns it in words."""
    if not _wait:
        _wait.append(_settled())
    return _wait[0]


def _settled() -> str:
    settings = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    if settings:
        return f"as {' '.join(settings)} says"
    if "torch" in sys.modules or _alone() or _shared() or not _stays_busy():
        return AS_IT_COMES
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return PASSIVE


def _alone() -> bool:
    """Return whether no thread has another to wait for."""
    return os.cpu_count() == 1 or any(os.environ.get(name) == "1" for name in COUNTING)


def _shared() -> bool:
    """Tell if this is one of several processes that a launcher started here: others' work is ours, too."""
    return os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"


def _stays_busy() -> bool:
    """Tell if others are at work, and still are at a second look: a short stir must not slow a long run."""
    return all(_look(reading) >= BUSY for reading in (_first, None))


def _look(since: Reading | None = None) -> float:
    """Return what others do, from a reading not long ago or from a new one."""
    began = since or Reading.now()
    time.sleep(max(0.0, LOOK_S - (time.perf_counter() - began.at)))
    return began.others()


@functools.cache
def free() -> Free:
    """Return what is free, found out once: as this process began, or when it first asks."""
    wait = settle()
    if _shared():
        return Free(cores(), 0.0, wait)
    recent = time.perf_counter() - _first.at < RECENT_S
    others = _look(_first if recent else None)
    if others >= BUSY:
        others = min(others, _look())
    return Free(cores(), others, wait)


def share_left(threads: int, others: float) -> float:
    """Return the share of the time of so many threads that others' work, in cores, leaves them."""
    most = min(threads, cores())
    return 1.0 - min(1.0, max(0.0, most + others - cores()) / most)


def share_since(began: Reading, threads: int) -> float:
    """Return the share of their time that so many threads had since that reading."""
    return share_left(threads, _look(began))


def cores() -> int:
    """Return the cores that this process may use: by its affinity, and by its container's quota.

    Raises `UsageError` where LOKY_MAX_CPU_COUNT, which joblib obeys, is not a number.
    """
    from joblib import cpu_count  # brings numpy: an idle machine's `--help` needs neither

    try:
        return int(cpu_count())
    except ValueError:
        raise UsageError(
            f"LOKY_MAX_CPU_COUNT is {os.environ.get('LOKY_MAX_CPU_COUNT')!r}; expected a number of cores. "
            "Correct it, or unset it."
        ) from None


def count_is_set() -> bool:
    """Return whether the environment says how many threads there are."""
    return any(name in os.environ for name in COUNTING)


def counts_by_default() -> set[int]:
    """Return the counts that torch may have chosen by itself: of the cores it sees, or the physical ones."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {visible, psutil.cpu_count(logical=False) or visible}


@contextmanager
def linear_algebra(count: int | None) -> Iterator[None]:
    """Limit the threads of the libraries below numpy and scipy inside the block; `None` leaves them.

    Looking for these libraries takes milliseconds, as long as solving for a small head does: they are looked
    for again only where modules were loaded since.
    """
    with _libraries(len(sys.modules)).limit(limits=count, user_api="blas"):
        yield


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """Return the libraries of linear algebra in this process, which has loaded so many modules."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
