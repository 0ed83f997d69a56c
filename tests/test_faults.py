"""What goes wrong on the way ends in a right result or in one clear message, and loses nothing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import frostline
from fault_examples import FAST, STRATEGY, same
from frostline.data import Manifest
from frostline.errors import DataError, RunWarning, StudyError, TrainingError
from frostline.models import Backbone
from frostline.system import directories
from frostline.training.loop import batches, trainer
from frostline.training.resilience import checkpoint, nan_oom_recovery
from frostline.training.resilience.incidents import Incident, IncidentKind
from frostline.training.resilience.interruption import heard
from tiny import write_table


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=24, val=4, test=4), near_copies=False)


class Killed(BaseException):
    """Stands for a process that is gone."""


def killed_at(step: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done == step:
            raise Killed

    return progress


# --- going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [STRATEGY, "full(bn=train, epochs=3)"])
def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_uninterrupted(
    text: str, backbone: Backbone, data: Manifest, tmp_path: Path, each_step_kept: None
) -> None:
    """Lightning #21901, #6891; flash #1321: cut, rates and optimizer go on where they were, at any step."""
    given = {**FAST, "batch_size": 8}
    whole = frostline.train(backbone, data, text, study=tmp_path / "whole", **given)
    place = tmp_path / "killed"
    for step in range(2, whole.steps, 3):  # again and again, in one study
        with pytest.raises(Killed):
            frostline.train(backbone, data, text, study=place, progress=killed_at(step), **given)
        (state,) = place.glob("runs/*/state.safetensors")
        progress = checkpoint.read(state.parent, backbone.adapt(3))
        assert progress is not None
        assert progress.steps == step - 1
    resumed = frostline.train(backbone, data, text, study=place, **given)
    assert same(resumed, whole)
    assert not list(place.glob("runs/*/state*"))


def test_a_damaged_state_is_passed_over_for_the_one_before(
    backbone: Backbone, data: Manifest, tmp_path: Path, each_step_kept: None
) -> None:
    given = {**FAST, "batch_size": 8}
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", **given)
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", progress=killed_at(6), **given)
    newest, before = (
        next((tmp_path / "s").glob(f"runs/*/{n}")) for n in (checkpoint.STATE, checkpoint.BEFORE)
    )
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1  # one bit
    newest.write_bytes(content)
    with pytest.warns(RunWarning, match="checksum differs.*the state before it"):
        resumed = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", **given)
    assert same(resumed, whole)
    with pytest.raises(Killed):
        frostline.train(backbone, data, STRATEGY, study=tmp_path / "t", progress=killed_at(6), **given)
    for name in (newest.name, before.name):
        next((tmp_path / "t").glob(f"runs/*/{name}")).write_bytes(b"\0" * 40)
    with pytest.raises(StudyError, match=r"(?s)damaged.*damaged.*starts anew"):
        frostline.train(backbone, data, STRATEGY, study=tmp_path / "t", **given)


def test_sigterm_is_heard_between_two_steps_and_the_state_kept(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    given = {**FAST, "batch_size": 8}
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", **given)
    handled: list[int] = []

    def stop(number: int, frame: Any) -> None:
        handled.append(number)
        raise SystemExit(128 + number)

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(SystemExit) as left:
            frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", progress=progress, **given)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (left.value.code, handled) == (143, [signal.SIGTERM])
    (state,) = (tmp_path / "s").glob("runs/*/state.safetensors")
    progress = checkpoint.read(state.parent, backbone.adapt(3))
    assert progress is not None
    assert progress.steps == 5  # no checkpoint was due: this one is the signal's
    assert same(frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", **given), whole)


def test_a_handler_that_returns_lets_the_work_go_on_and_a_second_signal_is_not_waited_for() -> None:
    lines: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: lines.append("handled"))
    try:
        with heard() as leave:
            leave(lambda: lines.append("kept"))
            signal.raise_signal(signal.SIGTERM)
            assert lines == []
            leave(lambda: lines.append("kept"))
            leave(lambda: lines.append("kept"))
            assert lines == ["kept", "handled"]
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert lines == ["kept", "handled", "handled"]
        assert lines == ["kept", "handled", "handled"]
    finally:
        signal.signal(signal.SIGTERM, before)


# --- losses that are no numbers -----------------------------------------------------------------------------


def exploding(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the loss of the fifth step of a run be no number, so many times."""
    real, left = trainer.Trainer._backward, [times]

    def backward(self: Any, learning: Any, z: Tensor, y: Tensor) -> Tensor:
        loss = real(self, learning, z, y)
        if left[0] and self._state.steps == 4:
            left[0] -= 1
            return loss * float("nan")
        return loss

    monkeypatch.setattr(trainer.Trainer, "_backward", backward)
    return left


def test_a_loss_that_is_no_number_halves_the_rate_from_the_start_of_the_epoch(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_step_kept: None
) -> None:
    given = {**FAST, "batch_size": 8}
    exploding(monkeypatch, 2)
    with pytest.warns(RunWarning, match="learning rate halved") as caught:
        run = frostline.train(backbone, data, "full(epochs=4, lr=0.001)", study=tmp_path / "s", **given)
    assert len(caught) == len(run.notes) == 2
    assert [row["peak_lr"] for row in run.folder.metrics()] == [0.001 / 4] * 4
    assert run.steps == run.steps_planned
    exploding(monkeypatch, 2)
    for step in (3, 7):  # killed before and after: the same way again
        with pytest.raises(Killed), pytest.warns(RunWarning) if step > 4 else nullcontext():
            frostline.train(
                backbone,
                data,
                "full(epochs=4, lr=0.001)",
                study=tmp_path / "t",
                progress=killed_at(step),
                **given,
            )
    assert same(
        frostline.train(backbone, data, "full(epochs=4, lr=0.001)", study=tmp_path / "t", **given), run
    )


def test_the_fourth_time_it_stops_with_the_names_of_the_batch(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploding(monkeypatch, 100)
    with pytest.warns(RunWarning), pytest.raises(TrainingError, match=r"halved 3 times.*batch.*_0\d\d\.png"):
        frostline.train(backbone, data, "full(epochs=4)", study=tmp_path / "s", batch_size=8, **FAST)


def test_weights_that_are_no_numbers_are_found_at_the_end_of_the_epoch() -> None:
    model = torch.nn.Linear(2, 2)
    nan_oom_recovery.check_weights(model, 3)
    with torch.no_grad():
        model.bias[0] = float("inf")
    with pytest.raises(nan_oom_recovery.NotFinite):
        nan_oom_recovery.check_weights(model, 3)


def test_incidents_come_back_from_a_checkpoint_and_have_a_sentence_each(tmp_path: Path) -> None:
    incidents = [
        Incident(IncidentKind.NOT_FINITE, value="nan", phase=1, epoch=2, halvings=1, most_halvings=3),
        Incident(IncidentKind.OUT_OF_MEMORY, batch=16, piece=4, batch_statistics=True),
    ]
    checkpoint.write(tmp_path, torch.nn.Linear(1, 1), checkpoint.TrainingState(incidents=list(incidents)), {})
    state = checkpoint.read(tmp_path, torch.nn.Linear(1, 1))
    assert state is not None
    assert state.incidents == incidents
    rate, pieces = map(str, state.incidents)
    assert rate.startswith("The loss became nan in epoch 2 of phase 1: back to the start of that epoch")
    assert rate.endswith("halved (1 of at most 3 times).")
    assert pieces.startswith("Memory ran out with 16 images a step: they are now learned from 4 at a time")
    assert pieces.endswith("BatchNorm in training sees those alone.")


# --- memory that runs out -----------------------------------------------------------------------------------


def small_machine(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let a step have memory for so many images."""
    real = trainer.Trainer._backward

    def backward(self: Any, learning: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
        def narrow(part: Tensor) -> Tensor:
            if len(part) > most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")
            return learning(part)

        return real(self, narrow, z, y)

    monkeypatch.setattr(trainer.Trainer, "_backward", backward)


@pytest.mark.parametrize("imbalance", ["none", "weights"])
def test_memory_that_runs_out_makes_pieces_of_a_batch_and_the_same_steps(
    imbalance: str, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**FAST, "batch_size": 16, "imbalance": imbalance}
    whole = frostline.train(backbone, data, "full(epochs=2)", study=tmp_path / "whole", **given)
    small_machine(monkeypatch, 5)
    with pytest.warns(RunWarning, match="4 at a time|8 at a time") as caught:
        run = frostline.train(backbone, data, "full(epochs=2)", study=tmp_path / "s", **given)
    assert len(caught) == 1
    assert len(run.notes) == 1
    assert "4 at a time" in run.notes[0]
    assert run.steps == whole.steps
    losses = [[row["loss"] for row in one.folder.metrics()] for one in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # gradients are added in another order


@pytest.mark.parametrize(("where", "bn"), [("forward", "eval"), ("backward", "train")])
def test_memory_of_a_gpu_that_runs_out_makes_pieces_too(
    where: str, bn: str, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either pass, as torch says it of a card; what was half done of the step leaves no trace."""
    strategy, given = f"full(epochs=1, bn={bn})", {**FAST, "batch_size": 12, "augment": "none"}
    whole = frostline.train(backbone, data, strategy, study=tmp_path / "whole", **given)

    def full(part: Tensor) -> None:
        if len(part) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    real = trainer.Trainer._backward

    def backward(self: Any, learning: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
        def narrow(part: Tensor) -> Tensor:
            if where == "forward":
                full(part)
            logits = learning(part)
            if where == "backward" and logits.requires_grad:
                logits.register_hook(lambda gradient: full(gradient))
            return logits

        return real(self, narrow, z, y)

    monkeypatch.setattr(trainer.Trainer, "_backward", backward)
    with pytest.warns(RunWarning, match="6 at a time"):
        run = frostline.train(backbone, data, strategy, study=tmp_path / "s", **given)
    (note,) = run.notes
    assert ("BatchNorm in training sees those alone" in note) == (bn == "train")
    assert run.steps == whole.steps
    if bn == "eval":
        losses = [[row["loss"] for row in one.folder.metrics()] for one in (run, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("where", ["fetching a batch", "making room for moments"])
def test_memory_of_a_gpu_that_runs_out_beside_a_pass_makes_pieces_too(
    where: str, backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**FAST, "batch_size": 12, "augment": "none"}
    whole = frostline.train(backbone, data, "full(epochs=1)", study=tmp_path / "whole", **given)
    calls = iter(range(100))

    def full() -> None:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if where == "fetching a batch":
        real_pixels = batches.PhaseBatches.pixels

        def pixels(self: batches.PhaseBatches, *arguments: Any) -> Iterator[Tensor]:
            for z in real_pixels(self, *arguments):
                full()
                yield z

        monkeypatch.setattr(batches.PhaseBatches, "pixels", pixels)
    else:
        real_step = torch.optim.AdamW.step

        def step(self: torch.optim.AdamW, closure: Any = None) -> Any:
            full()
            return real_step(self, closure)

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.warns(RunWarning, match="6 at a time"):
        run = frostline.train(backbone, data, "full(epochs=1)", study=tmp_path / "s", **given)
    assert run.steps == whole.steps
    losses = [[row["loss"] for row in one.folder.metrics()] for one in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
    ],
)
def test_memory_that_a_library_of_a_gpu_wanted_ran_out_there(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nan_oom_recovery.devices, "in_use", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 8 * 10**9))
    error = RuntimeError(text)
    assert nan_oom_recovery.is_out_of_memory(error)
    with pytest.raises(TrainingError, match="The GPU's memory ran out"), nan_oom_recovery.told_plainly():
        raise error


def test_memory_for_not_even_one_image_is_one_message(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_machine(monkeypatch, 0)
    with (
        pytest.warns(RunWarning),
        pytest.raises(TrainingError, match="Memory ran out while learning from 1 im"),
    ):
        frostline.train(backbone, data, "full(epochs=2)", study=tmp_path / "s", batch_size=4, **FAST)
    small_machine(monkeypatch, 1)
    with pytest.warns(RunWarning, match="BatchNorm"), pytest.raises(TrainingError, match="from 2 image"):
        frostline.train(
            backbone, data, "full(epochs=2, bn=train)", study=tmp_path / "t", batch_size=4, **FAST
        )


def test_memory_that_runs_out_elsewhere_is_one_message(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("frostline.feature_extraction.Frozen.launch", none_left)
    with pytest.raises(TrainingError, match="Memory ran out"):
        frostline.train(backbone, data, "linear_probe", study=tmp_path / "s", **FAST)


# --- files and folders --------------------------------------------------------------------------------------


def test_an_image_that_changes_or_goes_in_mid_run_is_one_message_and_loses_nothing(
    backbone: Backbone, data: Manifest, tmp_path: Path, each_step_kept: None
) -> None:
    given = {**FAST, "batch_size": 8, "augment": "none", "cache": "compute"}
    whole = frostline.train(backbone, data, "top_k(1, epochs=3)", study=tmp_path / "whole", **given)
    victim = tmp_path / "images" / data.subset("test")[0].path
    content = victim.read_bytes()
    for broken in (None, b"no image", (tmp_path / "images" / data.subset("test")[1].path).read_bytes()):

        def progress(what: str, done: int, total: int, broken: bytes | None = broken) -> None:
            if what == "train" and done == 4:
                victim.unlink() if broken is None else victim.write_bytes(broken)

        place = tmp_path / f"s{broken is None}{len(broken or b'')}"
        with pytest.raises(DataError, match=victim.name):
            frostline.train(backbone, data, "top_k(1, epochs=3)", study=place, progress=progress, **given)
        victim.write_bytes(content)
        assert same(frostline.train(backbone, data, "top_k(1, epochs=3)", study=place, **given), whole)


def test_labels_that_are_edited_meanwhile_are_another_study(
    backbone: Backbone, data: Manifest, tmp_path: Path, each_step_kept: None
) -> None:
    table = tmp_path / "images" / "table.csv"
    text = table.read_text()

    def progress(what: str, done: int, total: int) -> None:
        table.write_text(text.replace("0_000.png,kind 0", "0_000.png,kind 1"))
        killed_at(4)(what, done, total)

    with pytest.raises(Killed):
        frostline.train(
            backbone, data, STRATEGY, study=tmp_path / "s", progress=progress, batch_size=8, **FAST
        )
    edited = frostline.load_data(table, near_copies=False)
    with pytest.raises(StudyError, match="other data"):
        frostline.train(backbone, edited, STRATEGY, study=tmp_path / "s", batch_size=8, **FAST)
    table.write_text(text)
    again = frostline.load_data(table, near_copies=False)
    run = frostline.train(backbone, again, STRATEGY, study=tmp_path / "s", batch_size=8, **FAST)
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", batch_size=8, **FAST)
    assert same(run, whole)


def full_disk(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> list[str]:
    """Let files whose names hold one of the words find no room."""
    real, refused = directories.write_atomically, []

    def write(path: Path, content: bytes) -> None:
        if any(word in path.name for word in words):
            refused.append(path.name)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(directories, "write_atomically", write)
    return refused


def test_a_disk_that_is_full_costs_checkpoints_and_not_the_run(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_step_kept: None
) -> None:
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", batch_size=8, **FAST)
    refused = full_disk(monkeypatch, ("state",))
    with pytest.warns(RunWarning, match="No space left on device.*continues") as caught:
        run = frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", batch_size=8, **FAST)
    assert len(caught) == 1 < len(refused)
    assert same(run, whole)


def test_a_disk_that_is_full_at_the_end_is_one_message_and_the_run_goes_on_later(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_step_kept: None
) -> None:
    whole = frostline.train(backbone, data, STRATEGY, study=tmp_path / "whole", batch_size=8, **FAST)
    with monkeypatch.context() as patch:
        full_disk(patch, ("best.safetensors",))
        with pytest.raises(OSError, match="No space left"):  # the command line says it in one line
            frostline.train(backbone, data, STRATEGY, study=tmp_path / "s", batch_size=8, **FAST)
    counted: list[int] = []
    run = frostline.train(
        backbone,
        data,
        STRATEGY,
        study=tmp_path / "s",
        batch_size=8,
        progress=lambda what, done, total: counted.append(done) if what == "train" else None,
        **FAST,
    )
    assert len(counted) <= 1  # all but the last step had been kept
    assert same(run, whole)
