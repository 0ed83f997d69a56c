"""Going back towards the pretrained network, chosen by answers out of fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frostline
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.selection import outcome_text, wise_ft_share
from frostline.selection.significance import HeldOutPredictions
from frostline.system.timing import Stopwatch
from frostline.training.techniques.wise_ft import POINTS
from tiny import tiny_backbone, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

OPTIONS: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1, "repeats": 1}
STRATEGY = "full(epochs=6, lr=0.01)"


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    table = write_table(tmp_path / "images", train=10, test=4)
    table.write_text("\n".join(line.replace(",val", ",") for line in table.read_text().splitlines()))
    return frostline.load_data(table, near_copies=False)


def raced(data: Manifest, study: Path, *strategies: str, **given: Any) -> Any:
    return frostline.compare(tiny_backbone(), data, strategies, study=study, least=1, **OPTIONS, **given)


@pytest.mark.slow
def test_the_share_is_chosen_by_images_that_the_folds_had_not_learned_from(
    data: Manifest, tmp_path: Path
) -> None:
    lines: list[str] = []
    comparison = raced(data, tmp_path / "study", STRATEGY, interpolate_weights="auto", log=lines.append)
    interpolation, plain = comparison.result["interpolation"], raced(data, tmp_path / "study", STRATEGY)
    assert [point["share"] for point in interpolation["points"]] == list(POINTS)
    pretrained, adapted = interpolation["points"][0], interpolation["points"][-1]
    assert adapted["accuracy"] == plain.standings[0]["accuracy"]
    probe = raced(data, tmp_path / "study", "linear_probe(layers=last)")
    assert pretrained["accuracy"] == probe.standings[0]["accuracy"]
    (best,) = (point for point in interpolation["points"] if point["share"] == interpolation["share"])
    for other in interpolation["points"]:
        assert other["accuracy"] <= best["accuracy"] or other["log_loss"] > best["log_loss"]
    assert len(interpolation["by_fold"]) == 5
    assert set(interpolation["by_fold"]) <= set(POINTS)
    assert comparison.run.result.get("interpolation", {"share": 1.0})["share"] == interpolation["share"]
    assert any(
        "Interpolating weights: 5 run(s) predict their held-out images at 6 share(s)" in s for s in lines
    )
    assert any("interpolat" in line for line in comparison.result["verdict"])
    again = raced(data, tmp_path / "study", STRATEGY, interpolate_weights="auto")
    assert again.result["interpolation"]["points"] == interpolation["points"]


@pytest.mark.slow
def test_a_share_that_is_asked_for_is_taken(data: Manifest, tmp_path: Path) -> None:
    comparison = raced(data, tmp_path / "study", STRATEGY, interpolate_weights=0.4)
    (point,) = comparison.result["interpolation"]["points"]
    assert point["share"] == comparison.run.result["interpolation"]["share"] == 0.4
    assert comparison.result["out_of_fold"]["accuracy"] == pytest.approx(point["accuracy"])
    probe = raced(data, tmp_path / "study", "linear_probe(layers=last)", interpolate_weights=0.4)
    assert "interpolation" not in probe.result  # nothing lies between a probe and itself
    with pytest.raises(UsageError, match=r"between 0 and 1, found 1\.5"):
        raced(data, tmp_path / "study", STRATEGY, interpolate_weights=1.5)


def test_a_head_solved_for_after_training_is_not_interpolated(data: Manifest, tmp_path: Path) -> None:
    lines: list[str] = []
    strategy = "top_k(1, epochs=1, refit_layers=2)"
    comparison = raced(data, tmp_path / "study", strategy, interpolate_weights=0.4, log=lines.append)
    assert "interpolation" not in comparison.result
    assert comparison.run.layers == 2
    assert any("is not interpolated: it ends with another head" in line for line in lines)


def test_with_one_part_held_out_it_says_that_the_same_images_chose(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=10, val=6), near_copies=False)
    comparison = raced(data, tmp_path / "study", STRATEGY, interpolate_weights="auto")
    interpolation = comparison.result["interpolation"]
    assert not interpolation["unbiased"]
    assert interpolation["by_fold"] == [interpolation["share"]]
    at_share = {**interpolation, "share": 0.2}
    assert "on the same images that its accuracy is reported on" in outcome_text._interpolated(
        at_share, "accuracy"
    )
    assert "same images" not in outcome_text._interpolated({**at_share, "unbiased": True}, "accuracy")


def test_a_folds_own_images_have_no_say_in_its_share() -> None:
    """Point 0 is right on the first fold alone, point 1 on the others: the first is judged by point 1."""
    targets = np.tile([0, 1], 15)
    right = 4.0 * np.eye(2)[targets]
    wrong = -right
    first = np.arange(30) < 10
    share_logits = np.stack([np.where(first[:, None], right, wrong), np.where(first[:, None], wrong, right)])
    cells, images = np.repeat([0, 1, 2], 10), np.arange(30)
    predictions = HeldOutPredictions(
        images, np.zeros(30, dtype=np.int64), images, targets, share_logits[1], share_logits[1]
    )
    request: Any = type("CompareRequest", (), {"config": Config(), "metric": "accuracy"})()
    interpolation = wise_ft_share._chosen(request, (0.0, 1.0), share_logits, cells, predictions, Stopwatch())
    assert interpolation.share == 1.0
    assert interpolation.report["by_fold"] == [1.0, 1.0, 1.0]
    guesses = interpolation.predictions.probabilities.argmax(axis=1)
    assert (guesses == targets).tolist() == (~first).tolist()
