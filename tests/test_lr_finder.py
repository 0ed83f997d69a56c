"""The LR range test: each group its own suggestion, nothing left changed, an honest refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import frostline
from frostline.errors import UsageError
from frostline.models.backbone import weights_digest
from frostline.training.techniques import lr_finder
from frostline.training.techniques.lr_finder import suggest
from tiny import tiny_backbone, write_table


@pytest.mark.usefixtures("on_processor")
def test_each_stage_gets_its_own_and_nothing_is_touched(tmp_path: Path) -> None:
    """fastai #2892, ignite #2703: state that leaks, one value for all groups."""
    data, backbone = frostline.load_data(write_table(tmp_path / "i"), near_copies=False), tiny_backbone()
    torch.manual_seed(3)
    before, state = weights_digest(backbone.model), torch.get_rng_state()
    sweeps = frostline.lr_find(backbone, data, "top_k(2)")
    assert list(sweeps) == ["blocks.1", "blocks.2", "head"]
    assert weights_digest(backbone.model) == before
    assert torch.equal(torch.get_rng_state(), state)
    again = frostline.lr_find(backbone, data, "top_k(2)")
    assert again == sweeps
    assert sweeps["head"].suggestion is not None
    assert len({sweep.losses for sweep in sweeps.values()}) == 3


def test_the_steepest_fall_is_suggested() -> None:
    rates = np.geomspace(1e-6, 1, 60)
    losses = (
        1.0 + 1.0 / (1.0 + np.exp(3 * (np.log(rates) - np.log(1e-3)))) + np.maximum(0, np.log(rates / 0.1))
    )
    assert suggest("g", rates, losses).suggestion == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize(
    "losses",
    [
        np.full(60, 2.0),
        np.linspace(2, 5, 60),
        2 + 0.05 * np.sin(np.arange(60)),
        np.r_[2.0, np.full(59, np.nan)],
    ],
)
def test_without_a_falling_part_there_is_no_suggestion(losses: np.ndarray) -> None:
    suggestion = suggest("g", np.geomspace(1e-6, 1, 60), losses)
    assert suggestion.suggestion is None
    assert "fall" in suggestion.reason or "diverged" in suggestion.reason


def test_a_linear_probe_has_nothing_to_sweep(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "i"), near_copies=False)
    sweeps = lr_finder.lr_find(tiny_backbone(), data, "linear_probe")
    assert sweeps == {}
    with pytest.raises(UsageError, match="no sweep to draw"):
        sweeps.plot()


def test_a_plot_has_a_line_for_each_stage_and_a_point_for_each_suggestion() -> None:
    rates = np.geomspace(1e-6, 1, 60)
    falling = suggest("blocks.1", rates, 1.0 / (1.0 + np.exp(3 * np.log(rates / 1e-3))))
    flat = suggest("head", rates, np.full(60, 0.9))
    sweeps = lr_finder.Sweeps({"blocks.1": falling, "head": flat})
    assert sweeps.suggestions == {"blocks.1": falling.suggestion, "head": None}
    axes = sweeps.plot(Figure().add_subplot())
    curve, point, level = axes.get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == (list(falling.rates), list(falling.losses))
    assert list(point.get_xdata()) == [falling.suggestion]
    assert point.get_ydata()[0] in falling.losses
    assert list(level.get_ydata()) == list(flat.losses)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["blocks.1", "head"]
    assert axes.get_xscale() == "log"
