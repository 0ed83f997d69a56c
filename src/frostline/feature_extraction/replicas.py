"""Batches of frozen layers, several at a time: each on a replica of the model, with few threads of its own.

The threads of one operation wait for each other at its end, dozens of times a pass, and all of them for the
slowest; threads that compute batches of their own don't. On two cores, lite0 at 224 px takes 20 ms of
processor time an image where two threads share each operation, 15 ms where each has its own batch.
"""

from __future__ import annotations

import contextvars
import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

# Memory for activations grows with each; four threads an operation is as far as most scale. A choice: more
# than two replicas were not measured.
MOST = 4

M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")


def fitting(device: str, threads: int) -> int:
    """Return how many batches are computed at a time: as many as a processor's threads, up to `MOST`."""
    return min(threads, MOST) if torch.device(device).type == "cpu" else 1


def sharing_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model, modules and hooks its own, parameters and buffers the same tensors."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def exchanged(model: nn.Module) -> bool:
    """Return whether a module's `forward` was exchanged on the instance: a copy would call the original."""
    return any("forward" in vars(module) for module in model.modules())


def mapped(
    work: Callable[[M, T], R], items: Iterable[T], first: M, another: Callable[[], M], most: int
) -> Iterator[R]:
    """Yield the results of all items, in order, up to `most` of them computed at a time.

    A single item is computed here, with all threads. What an item raises is raised in its place.

    Parameters
    ----------
    work : callable
        From a replica and an item to a result; never called twice at a time with one replica.
    items : iterable
        Read in the caller's thread.
    first : replica
    another : callable
        Makes a further replica, in the caller's thread.
    most : int
    """
    remaining = iter(items)
    begun = list(itertools.islice(remaining, 2))
    if len(begun) < 2 or most < 2:
        for item in itertools.chain(begun, remaining):
            yield work(first, item)
        return
    threads = torch.get_num_threads()
    each = max(1, threads // most)
    idle, made = deque([first]), 1
    waiting: deque[tuple[Future[R], M]] = deque()
    pool = ThreadPoolExecutor(most, "frozen-layers", torch.set_num_threads, (each,))
    try:
        for item in itertools.chain(begun, remaining):
            if not idle and made < most:
                idle.append(another())
                made += 1
            while not idle:
                result, replica = waiting.popleft()
                yield_now = result.result()
                idle.append(replica)
                yield yield_now
            replica = idle.popleft()
            context = contextvars.copy_context()  # the device and limits of the caller
            waiting.append((pool.submit(context.run, work, replica, item), replica))
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a thread that begins later takes the count that was set last
