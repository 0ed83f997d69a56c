"""Work of several threads, in the order in which it was requested."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from frostline.system.thread_pools import thread_pool

AHEAD = 2  # batches computed before they are needed: one in work, one waiting
EACH_AHEAD = 2  # likewise items a thread, where batches are small
# Threads that computed for less of their time than this wait for a disk or for a network, and leave their
# cores to others. From a warm page cache they compute for 0.9 of it. A choice between both.
COMPUTING = 0.5

T = TypeVar("T")
R = TypeVar("R")


def between_pauses(batches: Iterable[Sequence[T]]) -> Iterator[Iterator[Sequence[T]]]:
    """Yield batches in parts: an empty one ends a part, and is dropped."""
    remaining = iter(batches)
    for first in remaining:
        if first:
            yield itertools.chain([first], itertools.takewhile(len, remaining))


def mapped(
    work: Callable[[T], R], batches: Iterable[Sequence[T]], threads: int, *, in_turn: bool = False
) -> Iterator[list[R]]:
    """Yield the results of each batch's items, in order, computed by threads ahead of their need.

    What an item raises is raised in its batch's place. Once the iterator is closed, nothing new begins.

    Parameters
    ----------
    work : callable
        From an item to its result; called by several threads at once.
    batches : iterable of sequences
        Read in the caller's thread, as far ahead as the threads work.
    threads : int
    in_turn : bool
        Begin a batch only when it is wanted: for a caller who computes with the same cores, whose own
        threads wait for each other. Threads that leave the cores idle work ahead all the same.

    Yields
    ------
    list
        One result an item.
    """
    waiting: deque[list[Future[R]]] = deque()
    pool = thread_pool(threads, "decoding")
    turns = _Turns(work) if in_turn else None
    try:
        for batch in batches:
            waiting.append([pool.submit(work if turns is None else turns.timed, item) for item in batch])
            while waiting and (
                (turns is not None and turns.kept)
                or (len(waiting) > AHEAD and _items(waiting) - len(waiting[0]) >= EACH_AHEAD * threads)
            ):
                results = [future.result() for future in waiting.popleft()]
                if turns is not None and turns.kept:
                    turns.count_batch()
                yield results
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _items(batches: Iterable[Sequence[object]]) -> int:
    return sum(map(len, batches))


class _Turns(Generic[T, R]):
    """Whether threads and their caller take turns: until a batch shows that the threads mostly wait."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self.kept = True
        self._work = work
        self._batches = 0
        self._seconds: list[tuple[float, float]] = []  # of a batch's items: by the clock, of the processor

    def timed(self, item: T) -> R:
        """Do an item's work; called by several threads."""
        began, processor_began = time.perf_counter(), time.thread_time()
        try:
            return self._work(item)
        finally:
            self._seconds.append((time.perf_counter() - began, time.thread_time() - processor_began))

    def count_batch(self) -> None:
        """Look at a batch that is done. The first one tells of imports and caches, and decides nothing."""
        clock_s, processor_s = map(sum, zip(*self._seconds, strict=True))
        self._seconds.clear()
        self._batches += 1
        self.kept = self._batches == 1 or processor_s >= COMPUTING * clock_s
