"""Protection and what it protects: L2-SP, interpolation, drift, forgetting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import frostline
from frostline.data import Manifest
from frostline.diagnostics import feature_drift
from frostline.errors import DataError, ModelError, UsageError
from frostline.strategies import hyperparameters, parse
from frostline.training.train_request import TrainRequest
from tiny import tiny_backbone, write_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    manifest = frostline.load_data(write_folder(tmp_path_factory.mktemp("images"), per_class=24))
    parts = ["train"] * 14 + ["val"] * 5 + ["test"] * 5
    cut = [replace(s, split=parts[int(Path(s.path).stem)]) for s in manifest.samples]
    return replace(manifest, samples=tuple(cut))


def _run(data: Manifest, strategy: str, study: Path, **options: object) -> frostline.Run:
    return frostline.train(
        tiny_backbone(),
        data,
        strategy,
        study=study,
        deterministic=True,
        threads=1,
        **options,  # type: ignore[arg-type]
    )


def _away(run: frostline.Run) -> float:
    """How far the weights below the head went."""
    start = tiny_backbone().model
    moved = frostline.load_model(run.folder, module=start).state_dict()
    own = {name: parameter.detach() for name, parameter in start.named_parameters()}
    return float(sum(((moved[k] - v) ** 2).sum() for k, v in own.items() if not k.startswith("head")))


def test_l2_sp_draws_to_the_start_and_not_to_zero(data: Manifest, tmp_path: Path) -> None:
    # The last weights: which epoch is best on 15 val images is a matter of a ten-thousandth in log loss.
    free, held = (_run(data, f"full(epochs=3{s})", tmp_path, keep="last") for s in ("", ", l2_sp=1000"))
    went = [_away(run) for run in (free, held)]
    how = [{key: run.result[key] for key in ("steps", "stopped", "notes")} for run in (free, held)]
    assert how[0] == how[1] == {"steps": free.result["steps_planned"], "stopped": None, "notes": []}
    assert went[1] < 0.05 * went[0], (went, [run.folder.metrics() for run in (free, held)])


def test_l2_sp_is_notation_and_changes_no_digest_where_it_is_not_asked_for(data: Manifest) -> None:
    assert str(parse("lp_ft(l2_sp=0.01)")) == "lp_ft(l2_sp=0.01)"
    assert hyperparameters(parse("lp_ft(l2_sp=0.01)")).l2_sp == 0.01
    config = TrainRequest(backbone=tiny_backbone(), data=data, strategy=parse("lp_ft")).identity()
    assert "l2_sp" not in config["hyperparameters"]
    assert "interpolate_weights" not in config
    for wrong in ("scratch(l2_sp=0.1)", "linear_probe(l2_sp=0.1)", "full(l2_sp=-1)", "full(l2_sp=nan)"):
        with pytest.raises(UsageError, match="l2_sp"):
            parse(wrong)


def test_a_half_way_point_is_a_half_way_point() -> None:
    backbone = tiny_backbone()
    one, other = backbone.adapt(3, seed=1), tiny_backbone(1).adapt(3, seed=2)
    for share in (0.0, 0.5, 1.0):
        weights = frostline.interpolate_weights(one, other, share).state_dict()
        for key, value in weights.items():
            if value.is_floating_point():
                wanted = (1 - share) * one.state_dict()[key] + share * other.state_dict()[key]
                assert torch.allclose(value, wanted, atol=1e-6)
    assert torch.equal(frostline.interpolate_weights(one, other, 1.0).head.weight, other.head.weight)
    with pytest.raises(ModelError, match=r"head\.weight"):
        frostline.interpolate_weights(one, backbone.adapt(4), 0.5)


@pytest.mark.usefixtures("on_processor")
def test_interpolation_is_chosen_on_val_and_says_what_it_tried(data: Manifest, tmp_path: Path) -> None:
    run = _run(data, "lp_ft(epochs=3)", tmp_path, interpolate_weights="auto")
    interpolation = run.result["interpolation"]
    tried = [(point["share"], point["statistics"]) for point in interpolation["points"]]
    between = [(share, way) for share in (0.2, 0.4, 0.6, 0.8) for way in ("kept", "re-estimated")]
    assert tried == [(0.0, "kept"), *between, (1.0, "kept")]
    best = max(p["val_accuracy"] for p in interpolation["points"])
    reached = {(p["share"], p["statistics"]): p["val_accuracy"] for p in interpolation["points"]}
    assert reached[interpolation["share"], interpolation["statistics"]] == best
    assert run.val_accuracy == pytest.approx(best)
    shuffled = replace(
        data,
        samples=tuple(
            replace(s, label="kind 0" if s.label == "kind 1" else "kind 1") if s.split == "test" else s
            for s in data.samples
        ),
    )
    other = _run(shuffled, "lp_ft(epochs=3)", tmp_path / "shuffled", interpolate_weights="auto")
    assert other.folder.weights.read_bytes() == run.folder.weights.read_bytes()  # test chooses nothing


@pytest.mark.usefixtures("on_processor")
def test_the_ends_of_the_line_are_the_probe_and_the_plain_run(data: Manifest, tmp_path: Path) -> None:
    plain, end = (_run(data, "lp_ft(epochs=2)", tmp_path, interpolate_weights=share) for share in (None, 1.0))
    assert plain.folder.weights.read_bytes() == end.folder.weights.read_bytes()
    assert plain.folder.name != end.folder.name
    start, probe = (
        _run(data, "lp_ft(epochs=2)", tmp_path, interpolate_weights=0.0),
        _run(data, "linear_probe", tmp_path),
    )
    assert _away(start) == 0.0
    assert start.accuracy == pytest.approx(probe.accuracy)


def test_statistics_that_training_moved_are_estimated_anew_in_between(data: Manifest, tmp_path: Path) -> None:
    start = tiny_backbone().model.stem.bn.running_mean
    for bn, moves in (("affine", False), ("train", True)):
        half = _run(data, f"lp_ft(epochs=2, bn={bn})", tmp_path, interpolate_weights=0.5)
        model = frostline.load_model(half.folder, module=tiny_backbone().model)
        assert torch.equal(model.stem.bn.running_mean, start) != moves
        assert half.result["interpolation"]["statistics"] == ("re-estimated" if moves else "kept")


@pytest.mark.parametrize(
    ("strategy", "point", "why"),
    [
        ("linear_probe", 0.5, "trains pretrained"),
        ("scratch", 0.5, "trains pretrained"),
        ("full(head=cosine)", 0.5, "linear head"),
        ("full", 1.5, "between 0"),
        ("full", "half", "auto"),
    ],
)
def test_what_has_no_line_is_refused(
    data: Manifest, tmp_path: Path, strategy: str, point: object, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        _run(data, strategy, tmp_path, interpolate_weights=point)
    no_val = replace(data, samples=tuple(s for s in data.samples if s.split != "val"))
    with pytest.raises(UsageError, match="no val set"):
        _run(no_val, "full", tmp_path / "b", interpolate_weights="auto")


def test_debiased_cka_knows_the_same_and_the_unrelated() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(40, 100))
    turned = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    assert feature_drift.cka(one, 3.0 * one @ turned + 7.0) == pytest.approx(1.0)
    unrelated = [feature_drift.cka(one, rng.normal(size=(40, 100))) for _ in range(50)]
    assert abs(np.mean(unrelated)) < 0.03  # the plain estimate says 0.7 for so few images
    assert np.isnan(feature_drift.cka(one, np.ones((40, 3))))


def test_what_is_frozen_does_not_drift(data: Manifest, tmp_path: Path) -> None:
    run = _run(data, "top_k(1, epochs=4)", tmp_path)
    drift = run.result["drift"]
    assert list(drift) == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert [drift[s] for s in ("stem", "blocks.0", "blocks.1")] == [0.0] * 3
    assert drift["blocks.2"] > 1e-4
    assert "drift" not in _run(data, "linear_probe", tmp_path).result


def test_forgetting_asks_the_original_head(data: Manifest) -> None:
    backbone = tiny_backbone()
    numbers = {name: str(place) for place, name in enumerate(data.classes)}
    own = replace(
        data,
        classes=tuple(numbers.values()),
        samples=tuple(replace(s, label=numbers[s.label]) for s in data.samples),
    )
    same = frostline.forgetting(backbone, backbone.adapt(3), own)  # another head, the same layers
    assert same.before == same.after
    assert same.lost == 0
    assert -0.3 < same.low < 0 < same.high < 0.3  # on other images an answer may change all the same
    assert same.n_images == len(data.subset("test"))
    with pytest.raises(DataError, match="not classes of TinyNet: kind 0"):
        frostline.forgetting(backbone, backbone.adapt(3), data)
