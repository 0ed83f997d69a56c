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
# Threads that computed for less of their time than this waited for a disk, or for others who are at work on
# the cores. With files in the page cache and a machine of their own they compute for 0.9 of it. A choice
# between both.
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
    """Yield the results of each batch's items, in order, computed by threads: ahead, or when they are wanted.

    What an item raises is raised in its batch's place. Once the iterator is closed, nothing new begins.

    Parameters
    ----------
    work : callable
        From an item to its result; called by several threads at once.
    batches : iterable of sequences
        Read in the caller's thread, as far ahead as the threads work.
    threads : int
    in_turn : bool
        Begin when a batch is wanted, with as many as it takes to occupy all threads, and have nothing at
        work when it is yielded: for a caller who computes with the same cores, whose own threads wait for
        each other. Where threads mostly wait they work ahead all the same.

    Yields
    ------
    list
        One result an item.
    """
    waiting: deque[list[Future[R]]] = deque()
    pool = thread_pool(threads, "decoding")
    turns = _Turns(work, kept=in_turn)
    try:
        for batch in batches:
            begin = turns.timed if turns.kept else work
            waiting.append([pool.submit(begin, item) for item in batch])
            if turns.kept:
                if _items(waiting) >= threads:
                    done = [_results(futures) for futures in waiting]
                    waiting.clear()
                    turns.look()
                    yield from done
            else:
                while len(waiting) > AHEAD and _items(waiting) - len(waiting[0]) >= EACH_AHEAD * threads:
                    yield _results(waiting.popleft())
        while waiting:
            yield _results(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _results(futures: Sequence[Future[R]]) -> list[R]:
    """Return what the items of a batch gave, or raise what the first of them raised.

    The last one is waited for first: a caller who is woken for each item takes Python's lock from the threads
    as often. Augmented views at 224 px took 0.90 of the time by one thread, 0.93 by two (docs/LOG.md
    2026-12-01).
    """
    if futures:
        futures[-1].exception()
    return [future.result() for future in futures]


def _items(batches: Iterable[Sequence[object]]) -> int:
    return sum(map(len, batches))


class _Turns(Generic[T, R]):
    """Whether threads and their caller take turns: until a turn shows that the threads mostly wait."""

    def __init__(self, work: Callable[[T], R], *, kept: bool) -> None:
        self.kept = kept
        self._work = work
        self._turns = 0
        self._seconds: list[tuple[float, float]] = []  # of each item: by the clock, of the processor

    def timed(self, item: T) -> R:
        """Do an item's work; called by several threads."""
        began, processor_began = time.perf_counter(), time.thread_time()
        try:
            return self._work(item)
        finally:
            self._seconds.append((time.perf_counter() - began, time.thread_time() - processor_began))

    def look(self) -> None:
        """Look at a turn that is over. The first one tells of imports, and decides nothing."""
        clock_s = sum(seconds for seconds, _ in self._seconds)
        processor_s = sum(seconds for _, seconds in self._seconds)
        self._seconds.clear()
        self._turns += 1
        self.kept = self._turns == 1 or processor_s >= COMPUTING * clock_s
