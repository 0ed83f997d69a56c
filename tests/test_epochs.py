"""What is said of each epoch, stopping early, and training on from a finished run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import frostline
from frostline.data import Manifest
from frostline.models import Backbone
from frostline.strategies import ResolvedPhase
from frostline.training.loop.epoch_line import epoch_line
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


def test_train_tells_each_epoch_once(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
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
