"""Every choice is made by what it says it is made by, and every figure is what it says it is."""

from __future__ import annotations

import csv
import json
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torch import nn

import frostline
from frostline import metrics, probe
from frostline.config import L2_GRID
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.feature_extraction import Counts, ForwardConfig
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.studies.best_run import best_of
from frostline.studies.study_folder import Study, plain
from frostline.system import numerics
from frostline.system.timing import Stopwatch
from frostline.training.loop.batches import PhaseBatches
from frostline.training.loop.trainer import Trainer, TrainingState
from frostline.training.loop.weight_average import WeightAverage
from frostline.training.numeric_plan import Plan
from frostline.training.resilience.time_limit import TimeLimit
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.train_request import _identity
from tiny import PREPROCESSING, TinyNet, live_logits, picture, tiny_backbone, tiny_model, write_table

FAST = {"deterministic": True, "augment": "light", "flip": "none", "threads": 1}


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", val=8), near_copies=False)


# --- chosen on val ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_best_epoch_is_the_best_by_the_metric(metric: str, data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(
        tiny_backbone(), data, "full(lr=0.1, epochs=12)", study=tmp_path / "s", metric=metric, **FAST
    )
    values = [row[f"val_{metric}"] for row in run.folder.metrics()]
    good = [-v if metric == "log_loss" else v for v in values]
    assert run.best_epoch == 1 + max(range(len(good)), key=lambda i: (good[i], i))
    assert run.best_epoch < len(good) or metric == "accuracy", "a run that never gets worse shows nothing"
    at_best = run.folder.metrics()[run.best_epoch - 1]["val_accuracy"]
    assert run.val_accuracy == pytest.approx(at_best)


def test_metric_and_keeping_the_best_are_not_the_same_as_the_last(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs: accuracy likes the second best, log loss the third."""
    val = Images(data, data.subset("val"), PREPROCESSING)
    right = np.eye(3)[val.targets]
    wrong_once = right.copy()
    wrong_once[0] = np.roll(wrong_once[0], 1)
    answers = [0.1 * np.roll(right, 1, axis=1), 0.1 * right, 3.0 * wrong_once]
    for metric, best in (("accuracy", 2), ("log_loss", 3)):
        model, queue = nn.Linear(1, 1), list(answers)
        monkeypatch.setattr(Trainer, "_logits", lambda *_, queue=queue: queue.pop(0).astype(np.float32))
        setup = SimpleNamespace(
            phases=(), val=val, metric=metric, keep="best", budget=TimeLimit(None, 0.0, Stopwatch())
        )
        trainer = Trainer.__new__(Trainer)
        trainer._setup, trainer._model, trainer._state, trainer.epochs = setup, model, TrainingState(), []
        trainer._average = WeightAverage(model, [], 0.0, {})
        for epoch in (1, 2, 3):
            with torch.no_grad():
                model.weight.fill_(epoch)
            trainer.epochs.append(trainer._validate())
        assert trainer._state.best_epoch == best
        assert trainer._state.best_weights["weight"].item() == best


def test_temperature_is_fitted_on_val_and_used_in_prediction(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(tiny_backbone(), data, "full(lr=0.01)", study=tmp_path / "s", **FAST)
    model = frostline.load_model(run.study.path, module=tiny_model())
    val = Images(data, data.subset("val"), PREPROCESSING)
    raw = live_logits(model, val)
    assert run.temperature == pytest.approx(metrics.fit_temperature(raw, val.targets), rel=1e-3)
    assert abs(run.temperature - 1) > 0.02
    answers = frostline.predict(run.study.path, tmp_path / "images", module=tiny_model())
    given = {Path(row.path).name: row for row in answers.rows}
    with open(run.folder.path / "predictions-test.csv", newline="") as file:
        for row in csv.DictReader(file):
            answer = given[row["path"]]
            assert answer.label == row["predicted"]
            assert answer.probability == pytest.approx(float(row[f"p({answer.label})"]), abs=1e-3)


def test_a_finished_run_says_that_it_is_shown_again(data: Manifest, tmp_path: Path) -> None:
    first = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)
    second = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)
    assert (first.reused, second.reused) == (False, True)
    answers = frostline.predict(tmp_path / "s", tmp_path / "images", module=tiny_model())
    assert answers.strategy == "linear_probe"
    assert list(answers) == list(answers.rows)
    assert len(answers) == len(answers.rows) > 0
    assert answers[0].label in data.classes


def test_unfreezing_more_than_there_is_is_refused(data: Manifest, tmp_path: Path) -> None:
    for strategy in ("top_k(99)", "gradual_unfreeze(99)", "phases(0@1, 99@1)"):
        with pytest.raises(frostline.errors.UsageError, match=r"99 .* has 4: use 4 or less, lp_ft or full"):
            frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "s", **FAST)
    for strategy in ("linear_probe(layers=99)", "lp_ft(refit_layers=99)"):
        with pytest.raises(frostline.errors.UsageError, match=r"99 .* has 4 to read: use (refit_)?layers=4"):
            frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "s", **FAST)


def test_the_probe_is_chosen_by_the_metric() -> None:
    rng = np.random.default_rng(0)
    targets = np.r_[np.zeros(60, dtype=int), np.ones(12, dtype=int)]
    features = rng.normal(size=(72, 30)) + 0.8 * rng.normal(size=(2, 30))[targets]
    folds = list(StratifiedKFold(4).split(features, targets))
    held = np.concatenate([h for _, h in folds])
    rows = probe.out_of_fold(features, targets, 2, folds, L2_GRID)
    for metric in ("accuracy", "balanced_accuracy", "log_loss"):
        solution = probe.choose(features, targets, 2, folds, metric=metric)
        row = rows[L2_GRID.index(solution.l2)]
        p = metrics.softmax(row, metrics.fit_temperature(row, targets[held]))
        assert solution.cv_score == pytest.approx(metrics.goodness(metric, targets[held], p), abs=2e-3)
    good, loss = np.array([0.80, 0.90, 0.89, 0.88]), np.array([1.0, 0.9, 0.5, 0.4])
    assert probe.least_loss_near_best(good, loss, "accuracy", 100) == 2
    assert probe.least_loss_near_best(good, loss, "accuracy", 100_000) == 1
    assert probe.least_loss_near_best(-loss, loss, "log_loss", 100) == 3


def test_an_undefined_metric_is_refused_before_training(data: Manifest, tmp_path: Path) -> None:
    table = write_table(tmp_path / "i", val=3)
    rows = [r for r in table.read_text().splitlines() if not (r.endswith("val") and "kind 0" not in r)]
    table.write_text("\n".join(rows) + "\n")
    one_class = frostline.load_data(table, near_copies=False)
    with pytest.raises(UsageError, match="auroc is undefined"):
        frostline.train(tiny_backbone(), one_class, "head", study=tmp_path / "s", metric="auroc", **FAST)


def test_numbers_json_does_not_know_become_null() -> None:
    assert plain({"a": [float("nan"), 1.5, (float("inf"),)]}) == {"a": [None, 1.5, [None]]}


# --- what the settings do -----------------------------------------------------------------------------


def test_gradients_are_clipped(data: Manifest, tmp_path: Path) -> None:
    """A clip far below AdamW's epsilon stops all movement but decay, which is off here."""
    backbone = tiny_backbone()
    moved = []
    for clip in ("1.0", "1e-13"):
        run = frostline.train(
            backbone, data, f"full(clip_grad={clip}, weight_decay=0, epochs=2)", study=tmp_path / "s", **FAST
        )
        model = frostline.load_model(run.study.path, run=run.run, module=tiny_model())
        change = model.stem.conv.weight.detach() - backbone.model.stem.conv.weight.detach()
        moved.append(float(change.abs().max()))
    assert moved[1] < 1e-3 * moved[0]


@pytest.mark.parametrize("kind", ["weights", "sampler", "logit_adjustment"])
def test_a_solved_head_knows_about_imbalance(kind: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=30, test=10)
    rows = table.read_text().splitlines()
    rare = [r for r in rows if "kind 1,train" in r][4:]
    table.write_text("\n".join(r for r in rows if r not in rare) + "\n")
    data = frostline.load_data(table, near_copies=False)
    margins = []
    for name in ("none", kind):
        run = frostline.train(
            tiny_backbone(), data, "linear_probe", study=tmp_path / name, imbalance=name, **FAST
        )
        model = frostline.load_model(run.folder, module=tiny_model())
        rows = live_logits(model, Images(data, data.subset("test"), PREPROCESSING))
        margins.append(float((rows[:, 1] - np.maximum(rows[:, 0], rows[:, 2])).mean()))
    assert margins[1] > margins[0] + 0.01


def test_repeats_within_an_epoch_are_other_views(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=20, test=4)
    rows = table.read_text().splitlines()
    table.write_text("\n".join(r for r in rows if r not in [x for x in rows if "kind 1,train" in x][2:]))
    data = frostline.load_data(table, near_copies=False)
    images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"))
    balance = Balance("sampler", images.targets, 3)
    backbone = tiny_backbone()
    way = ForwardConfig(numerics.exact_plan(1), 8)
    for cut, views in ((0, 0), (2, 0), (2, 40)):
        phase = frostline.strategies.ResolvedPhase(cut=cut, epochs=1, steps_per_epoch=2, lr=1.0, batches=2)
        plan = Plan(way.plan, way, views)
        batches = PhaseBatches(backbone, backbone.model, [], [phase], 0, plan, None, Counts(), 0)
        items, targets = batches.epoch(images, balance, 0, 0, 0, 1)
        seen = [item for batch in items for item in batch]
        assert len(set(seen)) == len(seen) == len(images)
        assert len({position for position, _ in seen}) < len(seen)
        assert targets.tolist() == [int(images.targets[position]) for position, _ in seen]
        if views:
            assert {view for _, view in seen} <= set(range(views))


def test_flips_are_on_where_images_have_no_side(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    for index in range(60):
        kind = 2 * (index % 2)  # horizontal bars at two heights
        picture(kind, rng).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{kind},{'train' if index < 48 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = frostline.load_data(tmp_path / "t.csv", near_copies=False)
    run = frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", deterministic=True)
    assert run.flip == "horizontal"
    assert run.flip_test["safe"]
    pinned = frostline.train(
        tiny_backbone(),
        data,
        "head(epochs=1)",
        study=tmp_path / "s",
        deterministic=True,
        augment="none",
        flip="horizontal",
    )
    assert (pinned.augment, pinned.flip) == ("none", "horizontal")


def test_different_augmentations_are_different_configurations() -> None:
    def made(angle: float) -> object:
        return lambda image: image.rotate(angle)

    class Rotation:
        def __init__(self, angle: float) -> None:
            self.angle = angle

        def __call__(self, image: Image.Image) -> Image.Image:
            return image.rotate(self.angle)

        def method(self, image: Image.Image) -> Image.Image:
            return image.rotate(self.angle)

    for make in (made, Rotation, lambda a: Rotation(a).method):
        assert _identity(make(1.0)) == _identity(make(1.0))
        assert _identity(make(1.0)) != _identity(make(2.0))
    unnamed = Rotation(object())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="name"):
        _identity(unnamed)
    unnamed.name = "rotation by something"  # type: ignore[attr-defined]
    assert _identity(unnamed) == "custom rotation by something"


def test_images_can_be_sent_to_a_spawned_worker(data: Manifest) -> None:
    for name in ("none", "light", "standard", "strong", "randaugment"):
        images = Images(data, data.subset("train"), PREPROCESSING, policy=Policy(name, "both"))
        assert len(ForkingPickler.dumps(images)) > 100


# --- figures ------------------------------------------------------------------------------------------


def test_intervals_are_by_group_where_there_are_groups(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=12, test=8)
    rows = table.read_text().splitlines()
    grouped = [rows[0] + ",group"] + [
        f"{row},{row.split(',')[1] if row.endswith('test') else ''}" for row in rows[1:]
    ]
    table.write_text("\n".join(grouped) + "\n")
    data = frostline.load_data(table, near_copies=False)
    run = frostline.train(tiny_backbone(), data, "head(lr=0.001, epochs=1)", study=tmp_path / "s", **FAST)
    test = data.subset("test")
    with open(run.folder.path / "predictions-test.csv", newline="") as file:
        guesses = np.array([data.classes.index(r["predicted"]) for r in csv.DictReader(file)])
    expected = metrics.interval(data.targets(test), guesses, data.units(test))
    assert (run.low, run.high) == pytest.approx(expected)
    assert expected != pytest.approx(metrics.interval(data.targets(test), guesses))


def test_majority_is_the_training_parts_commonest_class(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=10, test=8)
    rows = [r for i, r in enumerate(table.read_text().splitlines()) if not ("kind 2,test" in r and i % 2)]
    rows = [r for i, r in enumerate(rows) if not ("kind 2" not in r and "train" in r and i % 3 == 0)]
    table.write_text("\n".join(rows) + "\n")
    data = frostline.load_data(table, near_copies=False)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)
    assert run.majority_share == pytest.approx(4 / 20)  # kind 2: commonest to train, rarest to test


def test_seconds_and_memory_are_of_the_run(data: Manifest, tmp_path: Path) -> None:
    start = time.perf_counter()
    small = frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", **FAST)
    wall = time.perf_counter() - start
    assert 0.2 * wall < small.seconds <= wall
    held: list[np.ndarray] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "train" and not held:
            held.append(np.ones(40_000_000))  # 320 MB

    large = frostline.train(
        tiny_backbone(), data, "head(epochs=2)", study=tmp_path / "s", progress=progress, **FAST
    )
    assert large.peak_memory_bytes > small.peak_memory_bytes + 250e6


def test_everything_that_ever_learned_is_counted(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(tiny_backbone(), data, "phases(all@1, 0@1)", study=tmp_path / "s", **FAST)
    assert run.trainable_parameters == sum(p.numel() for p in tiny_backbone().adapt(3).parameters())
    assert run.cut == "stem"


# --- studies ------------------------------------------------------------------------------------------


def fake_study(path: Path, runs: list[dict[str, object]]) -> Study:
    study = Study.open(path, data="d", split="s", test="t")
    for index, entry in enumerate(runs):
        folder = study.run({"metric": entry.get("metric", "accuracy"), "index": index, "strategy": "head"})
        folder.write("result.json", entry)
        time.sleep(0.01)
    return study


def test_the_run_that_answers_is_the_best_by_one_metric(tmp_path: Path) -> None:
    low = {"val_accuracy": 0.5, "val_goodness": 0.5}
    high = {"val_accuracy": 0.9, "val_goodness": 0.9}
    study = fake_study(tmp_path / "a", [high, low])
    assert best_of(study).folder.read("result.json")["val_accuracy"] == 0.9
    loss = {"metric": "log_loss", "val_accuracy": 0.95, "val_goodness": -0.2}
    study = fake_study(tmp_path / "b", [loss, high, low])
    best = best_of(study)
    folder, why = best.folder, best.why
    assert folder.read("result.json")["val_accuracy"] == 0.95
    assert "accuracy" in why
    none = {"val_accuracy": None, "val_goodness": None}
    why = best_of(fake_study(tmp_path / "c", [none, none])).why
    assert "newest" in why
    assert "(head)" in why


def test_a_study_inside_the_data_is_not_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for kind in (0, 1):
        for index in range(12):
            place = tmp_path / "photos" / str(kind)
            place.mkdir(parents=True, exist_ok=True)
            picture(kind, rng).save(place / f"{index}.png")
    monkeypatch.chdir(tmp_path / "photos")
    first = frostline.load_data(".", near_copies=False)
    frostline.train(tiny_backbone(), first, "linear_probe", **FAST)
    again = frostline.load_data(".", near_copies=False)
    assert again.digest == first.digest
    assert again.classes == ("0", "1")


def test_cuts_of_a_persons_own_code_are_proved_each_time() -> None:
    class Skipping(TinyNet):
        def __init__(self, skip: bool) -> None:
            super().__init__()
            self.skip = skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.stem(x)
            y = self.blocks[2](self.blocks[1](self.blocks[0](first)))
            y = self.pool(y).flatten(1)
            return self.head(y + first.mean() if self.skip else y)

    with torch.random.fork_rng():
        cuts = [
            len(frostline.load_backbone(Skipping(skip), preprocessing=PREPROCESSING).cuts)
            for skip in (False, True)
        ]
    assert cuts[1] < cuts[0]


def test_a_finished_run_is_read_from_a_study_that_cannot_be_written(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "study")

    monkeypatch.setattr(frostline.system.directories, "write_atomically", refuse)
    again = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)
    assert again.accuracy == run.accuracy
    assert json.loads((run.folder.path / "result.json").read_text())["run"] == run.run
