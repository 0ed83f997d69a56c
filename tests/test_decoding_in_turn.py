"""Threads decode ahead of who computes, or in turn with it where both use the same cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from frostline.data.decoding_threads import decode_in_turn
from frostline.feature_extraction import ordered_threads
from frostline.feature_extraction.ordered_threads import mapped
from frostline.system import devices, numerics

BATCHES = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
IN_TURN = [2, 4, 6, 8, 10, 12]


def begun(work: Callable[[int], object], *, in_turn: bool) -> list[int]:
    """Return how many items have been begun each time that a batch has been waited for and computed with."""
    items: list[int] = []

    def noting(item: int) -> int:
        items.append(item)
        work(item)
        return item

    def counts() -> Iterator[int]:
        for expected, results in zip(BATCHES, mapped(noting, BATCHES, 2, in_turn=in_turn), strict=True):
            assert results == expected
            time.sleep(0.02)  # the caller computes
            yield len(items)

    return list(counts())


def test_in_turn_nothing_is_begun_before_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_threads, "COMPUTING", 0.0)  # however busy the machine is
    assert begun(lambda _: None, in_turn=True) == IN_TURN
    assert begun(lambda _: None, in_turn=False)[0] > 2


def test_threads_that_wait_for_a_disk_work_ahead_in_the_end() -> None:
    numbers = begun(lambda _: time.sleep(0.01), in_turn=True)
    assert numbers[0] == 2
    assert numbers[2] > 6


def test_an_error_in_turn_comes_in_its_batch_s_place() -> None:
    quotients = mapped(lambda item: 6 / (item - 3), [[1, 2], [3, 4], [5]], 2, in_turn=True)
    assert next(quotients) == [-3.0, -6.0]
    with pytest.raises(ZeroDivisionError):
        next(quotients)


def test_turns_are_taken_where_the_processor_computes_with_all_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("frostline.system.cpu_threads.cores", lambda: 4)
    with numerics.threads(4):
        assert [decode_in_turn(workers) for workers in (1, 3, 4, 8)] == [False, False, True, True]
        with monkeypatch.context() as patched:
            patched.setattr(devices, "current", lambda: torch.device("cuda"))
            assert not decode_in_turn(4)
    with numerics.threads(2):  # the other cores are free to decode, or others use them
        assert not decode_in_turn(4)
