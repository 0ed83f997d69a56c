"""Nobody waits for a card between steps, on a pretended one that notes what a real one is waited for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import frostline
import pretended_card
from frostline.system import device_transfers
from frostline.training.loop import batches, trainer
from frostline.training.resilience import nan_oom_recovery
from pretended_card import pretended, waits
from tiny import tiny_backbone, write_table

FAST = {"flip": "none", "deterministic": True, "threads": 1}


@pytest.fixture
def waits_before_steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a card was waited for between the steps of each epoch: from one step's start to the next."""
    between: list[list[str]] = []
    real_step, real_epoch = trainer.Trainer._train_step, trainer.Trainer._train_steps
    first = [True]

    def step(self: trainer.Trainer, *given: Any) -> Tensor:
        if not first[0]:
            between.append(list(waits))
        waits.clear()
        first[0] = False
        return real_step(self, *given)

    def epoch(self: trainer.Trainer, *given: Any) -> None:
        first[0] = True
        real_epoch(self, *given)

    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 0.0)  # a checkpoint waits, and is due by the clock
    monkeypatch.setattr(trainer.Trainer, "_train_step", step)
    monkeypatch.setattr(trainer.Trainer, "_train_steps", epoch)
    return between


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("head(epochs=2)", {}),
        ("full(epochs=2)", {"imbalance": "weights"}),
        ("full(epochs=1, mixup=0.2)", {"imbalance": "logit_adjustment"}),
    ],
)
def test_no_step_waits_for_the_card(
    strategy: str, options: dict[str, Any], tmp_path: Path, waits_before_steps: list[list[str]]
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12, val=2), near_copies=False)
    with pretended():
        frostline.train(
            tiny_backbone(), data, strategy, study=tmp_path / "s", batch_size=8, **FAST, **options
        )
    assert len(waits_before_steps) >= 4
    assert waits_before_steps == [[]] * len(waits_before_steps)


def test_the_pretended_card_notes_what_is_waited_for() -> None:
    with pretended():
        z = torch.ones(4, device=pretended_card.CARD)
        for wait in (
            lambda: z.sum().item(),
            lambda: bool(z.sum() > 3),
            lambda: z.cpu(),
            lambda: torch.ones(2).to(pretended_card.CARD),
            lambda: z[torch.tensor([0, 1])],
            lambda: z.tolist(),
        ):
            waits.clear()
            wait()
            assert waits, wait
        waits.clear()
        device_transfers.to_device(torch.ones(3), pretended_card.CARD).mul_(2).sum()
        assert waits == []


def test_batches_are_sent_in_order_and_none_before_it_is_wanted() -> None:
    taken: list[int] = []

    def source() -> Any:
        for number in range(4):
            taken.append(number)
            yield torch.full((2,), float(number))

    with pretended():
        sent = device_transfers.each_to_device(source(), pretended_card.CARD)
        first = next(sent)
        assert (taken, first.tolist()) == ([0], [0.0, 0.0])
        assert [batch.tolist()[0] for batch in sent] == [1.0, 2.0, 3.0]
    taken.clear()
    assert next(device_transfers.each_to_device(source(), "cpu")).tolist() == [0.0, 0.0]
    assert taken == [0]  # a processor has nothing to send


class Later(device_transfers.Fetched):
    """What arrives when the test says so."""

    there = False

    @property
    def ready(self) -> bool:
        return Later.there


def test_a_loss_that_is_nan_is_noticed_later_and_never_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nan_oom_recovery, "Fetched", Later)
    monkeypatch.setattr(Later, "there", False)
    with pretended():
        watch, losses = nan_oom_recovery.LossWatch(), list[Tensor]()
        for step in range(nan_oom_recovery.CHECKED_EVERY + 1):
            losses.append(torch.full((), math.nan if step == 3 else 1.0, device=pretended_card.CARD))
            watch.look(losses, 7)
        Later.there = True
        with pytest.raises(nan_oom_recovery.NotFinite) as late:
            watch.look(losses, 7)
        assert late.value.step == 10
        with pytest.raises(nan_oom_recovery.NotFinite) as at_the_end:
            nan_oom_recovery.check_losses(losses, 7)
        assert at_the_end.value.step == 10


def weights(tmp_path: Path, name: str, strategy: str = "head(epochs=4)", **options: Any) -> bytes:
    table = tmp_path / "images" / "table.csv"
    if not table.exists():
        write_table(tmp_path / "images", train=12, val=3)
    data = frostline.load_data(table, near_copies=False)
    study = tmp_path / name
    run = frostline.train(tiny_backbone(), data, strategy, study=study, batch_size=8, **FAST, **options)
    return run.folder.weights.read_bytes()


def sent_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the trainer sends to the card."""
    counts: list[int] = []
    real = device_transfers.each_to_device

    def counted(rows: Any, device: Any) -> Any:
        def each() -> Any:
            for z in rows:
                counts.append(len(z))
                yield z

        return real(each(), device)

    monkeypatch.setattr(batches, "each_to_device", counted)
    return counts


@pytest.mark.parametrize("strategy", ["head(epochs=4)", "top_k(1, epochs=4)"])
def test_rows_are_sent_once_a_phase_and_change_no_bit(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"augment": "none", "cache": "keep"}
    counts = sent_rows(monkeypatch)
    with pretended():
        lying = weights(tmp_path, "lying", strategy, **given)
        assert sum(counts) == 36 + 9  # each image of train and val once, in four epochs
        counts.clear()
        monkeypatch.setattr(batches.numerics, "device_room_bytes", lambda: 0)
        assert weights(tmp_path, "sent", strategy, **given) == lying
        assert sum(counts) == 4 * (36 + 9)


@pytest.mark.parametrize("step", [3, 7])  # while they are gathered, and once they are there
def test_rows_leave_the_card_before_a_batch_is_cut_up(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"augment": "none", "cache": "keep"}
    with pretended():
        whole = weights(tmp_path, "whole", **given)
        real, steps = trainer.Trainer._backward, [0]

        def backward(self: trainer.Trainer, *arguments: Any) -> Tensor:
            steps[0] += 1
            if steps[0] == step:
                gathering = self._batches._gathering
                assert self._batches._on_device or (gathering is not None and gathering.rows is not None)
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(self, *arguments)

        monkeypatch.setattr(trainer.Trainer, "_backward", backward)
        data = frostline.load_data(tmp_path / "images" / "table.csv", near_copies=False)
        run = frostline.train(
            tiny_backbone(), data, "head(epochs=4)", study=tmp_path / "out", batch_size=8, **FAST, **given
        )
    assert run.folder.weights.read_bytes() == whole
    assert run.notes == []


def test_a_row_keeps_its_layout_on_the_card() -> None:
    z = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    rows = batches._empty_like(z, 5)
    assert rows is not None
    assert rows.is_contiguous(memory_format=torch.channels_last)
    rows.index_copy_(0, torch.tensor([4, 1]), z)
    np.testing.assert_array_equal(rows[[4, 1]].numpy(), z.numpy())


def test_a_card_is_given_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.feature_extraction import image_batches
    from frostline.profiling import FROZEN_BATCH, frozen_batch
    from frostline.system import devices

    with devices.computing("cpu"):
        batches = frozen_batch(), image_batches.evaluation_batch()
    assert batches == (FROZEN_BATCH, image_batches.EVALUATION_BATCH)
    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    assert (frozen_batch(), image_batches.evaluation_batch()) == (image_batches.CARD_BATCH,) * 2
