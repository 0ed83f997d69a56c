"""Work of several threads, in the order in which it was requested."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from frostline.system.thread_pools import thread_pool

AHEAD = 2  # batches computed before they are needed: one in work, one waiting
EACH_AHEAD = 2  # likewise items a thread, where batches are small

T = TypeVar("T")
R = TypeVar("R")


def between_pauses(batches: Iterable[Sequence[T]]) -> Iterator[Iterator[Sequence[T]]]:
    """Yield batches in parts: an empty one ends a part, and is dropped."""
    remaining = iter(batches)
    for first in remaining:
        if first:
            yield itertools.chain([first], itertools.takewhile(len, remaining))


def mapped(work: Callable[[T], R], batches: Iterable[Sequence[T]], threads: int) -> Iterator[list[R]]:
    """Yield the results of each batch's items, in order, computed by threads ahead of their need.

    What an item raises is raised in its batch's place. Once the iterator is closed, nothing new begins.

    Parameters
    ----------
    work : callable
        From an item to its result; called by several threads at once.
    batches : iterable of sequences
        Read in the caller's thread, as far ahead as the threads work.
    threads : int

    Yields
    ------
    list
        One result an item.
    """
    waiting: deque[list[Future[R]]] = deque()
    pool = thread_pool(threads, "decoding")
    try:
        for batch in batches:
            waiting.append([pool.submit(work, item) for item in batch])
            while len(waiting) > AHEAD and sum(map(len, waiting)) - len(waiting[0]) >= EACH_AHEAD * threads:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
