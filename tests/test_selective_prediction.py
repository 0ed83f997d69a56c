"""When a run says that it does not know: bounds from held-out images, and what they promise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from frostline import metrics
from frostline.errors import UsageError
from frostline.feature_extraction import Frozen
from frostline.inference import selective_prediction
from tiny import tiny_backbone, tiny_model, write_folder


def test_a_bound_keeps_its_promise_on_new_images() -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.uniform(0.5, 1.0, size=n)
        honest = np.where(rng.random(n) < 0.5, 0, 1)  # class 1 is right less often than it says
        right = rng.random(n) < np.where(honest == 0, confidence, confidence - 0.2)
        p = np.stack(
            [
                np.where(honest == 0, confidence, 1 - confidence),
                np.where(honest == 0, 1 - confidence, confidence),
            ],
            axis=1,
        )
        return p, np.where(right, honest, 1 - honest)

    bounds = selective_prediction.bounds(*drawn(4000), 0.8)
    assert bounds[0] < bounds[1]
    p, targets = drawn(20000)
    for c in (0, 1):
        above = (p.argmax(axis=1) == c) & (p.max(axis=1) >= bounds[c])
        assert (targets[above] == c).mean() == pytest.approx(0.8, abs=0.03)


def test_a_class_that_nobody_was_given_is_taken_at_its_word() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert selective_prediction.bounds(p, np.array([0, 0]), 0.95)[1] == 0.95
    assert selective_prediction.bounds(p, np.array([1, 1]), 0.95)[0] > 0.9  # never right so far


def test_new_images_like_the_held_out_ones_are_familiar_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    like = lambda n: torch.randn(n, 16, generator=generator) + 4.0  # noqa: E731
    known = torch.nn.functional.normalize(like(300), dim=1).half()
    familiar = selective_prediction.FamiliarFeatures(known, selective_prediction.neighbour(like(200), known))
    assert (familiar.distance(like(2000)) <= familiar.bound).mean() == pytest.approx(0.95, abs=0.03)
    foreign = torch.randn(500, 16, generator=generator) - 4.0
    assert (familiar.distance(foreign) > familiar.bound).all()
    assert math.isinf(replace(familiar, distances=familiar.distances[:18]).bound)  # too few to say
    assert math.isinf(selective_prediction.FamiliarFeatures.of(like(0), like(20)).bound)  # no time for any


@pytest.mark.filterwarnings("ignore::frostline.errors.RunWarning")
def test_predict_says_when_it_is_unsure_without_training_images(tmp_path: Path) -> None:
    import shutil

    whole = frostline.load_data(write_folder(tmp_path / "images", per_class=24))
    parts = ["train"] * 12 + ["val"] * 8 + ["test"] * 4
    data = replace(
        whole, samples=tuple(replace(s, split=parts[int(Path(s.path).stem)]) for s in whole.samples)
    )
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", deterministic=True)
    shutil.copytree(tmp_path / "images" / "kind 0", tmp_path / "new")
    Image.new("RGB", (20, 20), (255, 0, 255)).save(tmp_path / "new" / "foreign.png")
    shutil.rmtree(tmp_path / "images")
    predictions = frostline.predict(
        run.study.path, tmp_path / "new", target_accuracy=0.9, module=tiny_model()
    )
    assert run.predict(tmp_path / "new", target_accuracy=0.9).rows == predictions.rows
    by_name = {Path(row.path).name: row.unsure for row in predictions}
    assert by_name.pop("foreign.png") == "unfamiliar"
    assert sum(why != "unfamiliar" for why in by_name.values()) >= 18
    plain = frostline.predict(run.study.path, tmp_path / "new", module=tiny_model())
    assert [row.top for row in plain] == [row.top for row in predictions]  # the answers are the same
    assert {row.unsure for row in plain} == {None}
    predictions.copy_to(tmp_path / "sorted")
    assert (tmp_path / "sorted" / "unsure" / "foreign.png").is_file()
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == len(predictions)
    assert {path.parent.name for path in (tmp_path / "sorted").rglob("*.png")} <= {*data.classes, "unsure"}
    with pytest.raises(UsageError, match="above 0 and below 1"):
        frostline.predict(run.study.path, tmp_path / "new", target_accuracy=95.0, module=tiny_model())


def test_what_a_probe_leaves_comes_from_rows_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    real = Frozen.launch

    def compute(self: Frozen, pixels: torch.Tensor, *taps: object) -> object:
        computed.append(len(pixels))
        return real(self, pixels, *taps)

    monkeypatch.setattr(Frozen, "launch", compute)
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=8), test_size=0.0, val_size=0.0)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", deterministic=True)
    assert sum(computed) == len(data.samples), "images passed the frozen layers again"
    assert selective_prediction.read(run.folder.path) is not None


def test_a_run_that_held_nothing_out_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="no predictions on held-out images"):
        selective_prediction.doubts(tmp_path / "run", 0.9)


def test_losses_have_the_intervals_of_what_is_independent() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([2, 1, 1], size=60)
    targets = rng.integers(0, 3, size=60)
    measured = metrics.believed(targets, p)
    assert measured["log_loss"] == pytest.approx(metrics.score("log_loss", targets, p))
    assert measured["brier"] == pytest.approx(((p - np.eye(3)[targets]) ** 2).sum(axis=1).mean())
    assert measured["brier_low"] < measured["brier"] < measured["brier_high"]
    twice = metrics.believed(np.tile(targets, 4), np.tile(p, (4, 1)), np.tile(np.arange(60), 4))
    alone = metrics.believed(np.tile(targets, 4), np.tile(p, (4, 1)))
    width = {
        k: f["brier_high"] - f["brier_low"]
        for k, f in (("once", measured), ("twice", twice), ("alone", alone))
    }
    assert width["twice"] == pytest.approx(width["once"], rel=0.05)  # copies are no new evidence
    assert width["alone"] < 0.6 * width["once"]
    assert metrics.believed(targets, p, np.zeros(60, dtype=int))["brier_low"] is None
    covered = 0
    for _ in range(200):
        q = rng.dirichlet([1, 1], size=80)
        y = (rng.random(80) < q[:, 1]).astype(int)
        expected = metrics.believed(y, q)
        covered += expected["brier_low"] <= 1 / 3 <= expected["brier_high"]  # E 2q(1-q), q uniform
    assert 180 <= covered <= 199


def test_all_probabilities_go_into_csv_parquet_and_json(tmp_path: Path) -> None:
    import csv

    import pyarrow.parquet as pq

    data = frostline.load_data(write_folder(tmp_path / "images", per_class=8))
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", deterministic=True)
    predictions = run.predict(tmp_path / "images", all_probabilities=True, min_confidence=0.6)
    assert predictions.probabilities is not None
    predictions.to_csv(tmp_path / "p.csv")
    predictions.to_parquet(tmp_path / "p.parquet")
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(rows[0]) == list(table)
    assert list(table)[:4] == ["path", "label", "probability", "unsure"]
    assert list(table)[4:] == [f"p({name})" for name in data.classes]
    values = np.array([[float(row[f"p({name})"]) for name in data.classes] for row in rows])
    assert np.allclose(values, predictions.probabilities, atol=1e-6)
    assert np.allclose(values.sum(axis=1), 1, atol=1e-5)
    stored = np.array([table[f"p({name})"] for name in data.classes]).T
    assert (stored == predictions.probabilities).all()
    for row in predictions:  # an abstention is marked as selective prediction marks it
        assert row.unsure == ("probability" if row.probability < 0.6 else None)
    copied = predictions.copy_to(tmp_path / "sorted")
    assert copied.copied.get("unsure", 0) == sum(row.unsure is not None for row in predictions)
    odd = replace(predictions, rows=[replace(predictions.rows[0], path="a\udcff.png")])
    for instead, words in ((tmp_path / "odd.csv", "instead"), (tmp_path / "odd.csv", "Rename that file")):
        with pytest.raises(UsageError, match=rf"cannot hold the name 'a.udcff.png'.*{words}"):
            odd.to_parquet(tmp_path / "odd.parquet")
        assert instead.read_bytes().splitlines()[1].startswith(b"a\xff.png,")
    named = replace(predictions, classes=["caf\udce9", *predictions.classes[1:]])
    with pytest.raises(UsageError, match=r"cannot hold the name 'caf.udce9'.*are in .*named.csv instead"):
        named.to_parquet(tmp_path / "named.parquet")
    plain = run.predict(tmp_path / "images")
    assert plain.probabilities is None
    assert {row.unsure for row in plain} == {None}
    with pytest.raises(UsageError, match="min_confidence must lie above 0"):
        run.predict(tmp_path / "images", min_confidence=1.5)
