"""Threads decode ahead of who computes, or in turn with it where both use the same cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import frostline
from feature_examples import weights
from frostline.data.decoding_threads import decode_in_turn
from frostline.feature_extraction import image_batches, ordered_threads
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.feature_extraction.ordered_threads import mapped
from frostline.inference import decoded_batches
from frostline.system import devices, numerics
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table

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


def test_small_batches_are_decoded_by_all_threads_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_threads, "COMPUTING", 0.0)
    at_work, most = 0, []
    counting = threading.Lock()

    def work(item: int) -> int:
        nonlocal at_work
        with counting:
            at_work += 1
            most.append(at_work)
        time.sleep(0.01)
        with counting:
            at_work -= 1
        return item

    batches = [[0], [], [1], [2], [3], [4], [5, 6]]
    for results, expected in zip(mapped(work, batches, 4, in_turn=True), batches, strict=True):
        assert results == expected
        if expected and expected[0] < 4:
            assert at_work == 0
    assert max(most) == 4


def test_an_error_in_turn_comes_in_its_batch_s_place() -> None:
    quotients = mapped(lambda item: 6 / (item - 3), [[1, 2], [3, 4], [5]], 2, in_turn=True)
    assert next(quotients) == [-3.0, -6.0]
    with pytest.raises(ZeroDivisionError):
        next(quotients)


@pytest.mark.usefixtures("on_processor")
def test_turns_are_taken_where_the_processor_computes_with_all_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("frostline.system.cpu_threads.cores", lambda: 4)
    with numerics.threads(4):
        assert [decode_in_turn(workers) for workers in (1, 3, 4, 8)] == [False, False, True, False]
        with monkeypatch.context() as patched:
            patched.setattr(devices, "current", lambda: torch.device("cuda"))
            assert not decode_in_turn(4)
    with numerics.threads(2):  # the other cores are free to decode, or others use them
        assert not decode_in_turn(4)


@pytest.mark.usefixtures("on_processor")
def test_pixels_are_the_same_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"))
    items = [[(position, view) for view in (0, 1)] for position in range(len(images))]
    pixels, in_turn = {}, []
    original = ordered_threads.mapped
    monkeypatch.setattr(
        image_batches,
        "mapped",
        lambda *args, **kwargs: in_turn.append(kwargs["in_turn"]) or original(*args, **kwargs),
    )
    for cores in (2, 4):
        monkeypatch.setattr("frostline.system.cpu_threads.cores", lambda cores=cores: cores)
        with numerics.threads(2):
            pixels[cores] = torch.cat(list(images.batches(items, 2)))
    assert in_turn == [True, False]
    assert torch.equal(pixels[2], pixels[4])
    assert torch.equal(pixels[2], torch.cat(list(images.batches(items, 0))))


@pytest.mark.usefixtures("on_processor")
def test_a_run_takes_turns_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12, test=4), near_copies=False)
    runs, in_turn = [], []
    original = ordered_threads.mapped
    for module in (image_batches, decoded_batches):
        monkeypatch.setattr(
            module,
            "mapped",
            lambda *args, **kwargs: in_turn.append(kwargs.get("in_turn")) or original(*args, **kwargs),
        )
    for cores in (1, 4):
        monkeypatch.setattr("frostline.system.cpu_threads.cores", lambda cores=cores: cores)
        run = frostline.train(
            tiny_backbone(), data, "full(epochs=2)", study=tmp_path / f"{cores}", threads=1, workers=1
        )
        rows = frostline.predict(run.study.path, tmp_path / "images", module=tiny_model()).rows
        runs.append((weights(run), rows))
        assert {taken for taken in in_turn if taken is not None} == {cores == 1}
        in_turn.clear()
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] == runs[1][1]
