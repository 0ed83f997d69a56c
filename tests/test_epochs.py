"""What is said of each epoch, stopping early, and training on from a finished run."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import frostline
from frostline import metrics, sentences
from frostline import strategies as fs
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.strategies import ResolvedPhase
from frostline.training.loop import trainer
from frostline.training.loop.epoch_line import epoch_line
from frostline.training.request import TrainRequest
from tiny import tiny_backbone, write_table

FAST = {"deterministic": True, "augment": "light", "flip": "none"}


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", val=6), near_copies=False)


# --- an epoch is a line ---------------------------------------------------------------------------------


def test_an_epoch_is_a_line_with_the_time_left() -> None:
    phases = (ResolvedPhase(4, 2, 5, 1e-3, 5), ResolvedPhase(2, 8, 5, 9e-4, 5))
    row = {"phase": 0, "epoch": 1, "loss": 0.51234, "seconds": 20.0, "val_macro_f1": 0.875}
    assert epoch_line(row, phases, "macro_f1", 0.00042, best=True) == (
        "  epoch  2/10 (phase 1 of 2): loss 0.5123, val macro_f1 0.8750 (best), lr 0.00042, 20 s, "
        "about 2 min 40 s left"
    )
    last = {"phase": 1, "epoch": 7, "loss": 0.1, "seconds": 3700.0}
    assert epoch_line(last, phases, "accuracy", 1e-6, best=False) == (
        "  epoch 10/10 (phase 2 of 2): loss 0.1000, lr 1e-06, 1 h 01 min"
    )


def test_train_tells_each_epoch_once(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    lines: list[str] = []
    run = frostline.train(
        backbone, data, "top_k(1, epochs=3)", study=tmp_path / "s", log=lines.append, **FAST
    )
    assert len(lines) == 3
    for number, (line, row) in enumerate(zip(lines, run.folder.metrics(), strict=True), 1):
        shown = re.fullmatch(
            rf"  epoch {number}/3: loss ([\d.]+), val accuracy ([\d.]+)(?: \(best\))?, lr [\d.e-]+, [\d.]+ s"
            r"(, about [\d.]+ s left)?",
            line,
        )
        assert shown, line
        assert float(shown[1]) == pytest.approx(row["loss"], abs=1e-4)
        assert float(shown[2]) == pytest.approx(row["val_accuracy"], abs=1e-4)
        assert (shown[3] is None) == (number == 3)
    lines.clear()
    assert frostline.train(
        backbone, data, "top_k(1, epochs=3)", study=tmp_path / "s", log=lines.append, **FAST
    ).again
    assert not lines


# --- stopping early -------------------------------------------------------------------------------------


def score_of_epochs(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the metric on val be these figures, epoch by epoch, and the last one from then on."""
    real = trainer.Trainer._validate

    def validate(self: trainer.Trainer) -> dict[str, float]:
        score = scores[min(len(self.epochs), len(scores) - 1)]
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "goodness", lambda *_: score)
            return real(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", validate)


@pytest.mark.parametrize(
    ("text", "scores", "done", "best"),
    [
        ("full(epochs=9)", [0.5, 0.6, 0.6, 0.6], 4, 4),  # an equal value is no progress, but is the newer one
        ("full(epochs=9)", [0.5, 0.4, 0.6, 0.5, 0.5], 5, 3),
        ("full(epochs=9)", [math.nan, 0.1, math.nan, math.nan], 4, 2),
        ("full(epochs=4)", [0.1, 0.2, 0.3, 0.4], 4, 4),  # to its end
        ("full(epochs=3)", [0.3, 0.2, 0.1], 3, 1),  # over in its last epoch: nothing is saved
        # Only the last phase counts, against the best of all phases.
        ("phases(0@4, 1@4)", [0.9, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4], 6, 1),
        ("phases(0@4, 1@4)", [0.5, 0.1, 0.1, 0.1, 0.2, 0.6, 0.3, 0.3], 8, 6),
    ],
)
def test_patience_counts_epochs_of_the_last_phase_without_a_better_one(
    text: str,
    scores: list[float],
    done: int,
    best: int,
    backbone: Backbone,
    data: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score_of_epochs(monkeypatch, scores)
    lines: list[str] = []
    run = frostline.train(
        backbone, data, text, study=tmp_path / "s", patience=2, batch_size=16, log=lines.append, **FAST
    )
    planned = sum(p.epochs for p in fs.schedule(fs.parse(text), stages=5, images=36, batch=16))
    assert (len(run.folder.metrics()), run.best_epoch, run.stopped) == (done, best, None)
    early = run.early_stopping
    assert early is not None
    assert (early["patience"], early["epochs"], early["epochs_saved"]) == (2, done, planned - done)
    assert (early["seconds_saved"] > 0) == (done < planned)
    assert [line for line in lines if "Stopped early" in line] == (
        [f"  {sentences.stopped_early(early, best)}"] if done < planned else []
    )


def test_patience_is_in_the_digest_only_where_it_is_set(backbone: Backbone, data: Manifest) -> None:
    plain, patient = (
        TrainRequest(backbone, data, fs.parse("full"), Config(patience=patience)).identity()
        for patience in (None, 3)
    )
    assert patient == {**plain, "patience": 3}


def test_killed_and_resumed_it_stops_at_the_same_epoch_with_the_same_bytes(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed three times: in the second and fifth epoch, and between stopping early and the result."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    score_of_epochs(monkeypatch, [0.5, 0.4, 0.6, 0.5])
    options = {**FAST, "patience": 4, "batch_size": 16}
    whole = frostline.train(backbone, data, "full(epochs=12)", study=tmp_path / "whole", **options)
    assert len(whole.folder.metrics()) == 7

    class Killed(BaseException):
        pass

    steps: list[int] = []
    for stop in (5, 14, None):

        def progress(what: str, done: int, of: int, stop: int | None = stop) -> None:
            if what == "train":
                steps.append(done)
                if done == stop:
                    raise Killed

        def log(line: str) -> None:
            if "Stopped early" in line:
                raise Killed

        with pytest.raises(Killed):
            frostline.train(
                backbone, data, "full(epochs=12)", study=tmp_path / "s", progress=progress, log=log, **options
            )
    assert steps == [*range(1, 6), *range(5, 15), *range(14, 22)]
    resumed = frostline.train(backbone, data, "full(epochs=12)", study=tmp_path / "s", **options)
    assert resumed.early_stopping["epochs_saved"] == whole.early_stopping["epochs_saved"] == 5
    assert resumed.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
    losses = [[row["loss"] for row in run.folder.metrics()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_patience_that_can_do_nothing_is_refused_in_one_message(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    study, without_val = tmp_path / "s", write_table(tmp_path / "others")
    for text, options, message in (
        ("linear_probe", {"patience": 2}, "linear_probe is solved for without any: leave it out"),
        ("full", {"patience": 2, "keep": "last"}, "which keep=last does not: drop one"),
        ("full(epochs=3)", {"patience": 3}, "full.epochs=3. has 3 of them here. Give at most 2"),
        ("full(epochs=1)", {"patience": 1}, "is one epoch"),
        ("full", {"patience": 0}, "at least 1 epoch, found 0"),
    ):
        with pytest.raises(UsageError, match=message):
            frostline.train(backbone, data, text, study=study, **options)
    with pytest.raises(UsageError, match="there is no val part: give val_size"):
        frostline.train(backbone, frostline.load_data(without_val), "full", study=study, patience=2)
    with pytest.raises(UsageError, match="patience: not an option here"):
        frostline.compare(backbone, data, ["head", "full"], study=study, patience=2)
    assert not (study / "runs").exists()
