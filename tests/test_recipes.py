"""Recipes by name: schedules, optimizers, an average of the weights, mixed pictures, views at prediction."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import lr_scheduler

import frostline
from frostline import cost, metrics
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.feature_extraction.augmentation import Policy, Transform
from frostline.feature_extraction.image_batches import Images
from frostline.feature_extraction.random_transforms import rand_augment
from frostline.models import Backbone
from frostline.strategies import SCHEDULES, hyperparameters, lr_schedule, optimizers, parse
from frostline.training.loop import optimizer, trainer
from frostline.training.resilience import checkpoint
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.techniques.mixup import Mixing
from frostline.training.train_request import TrainRequest
from test_cost import DATA, INVENTED
from tiny import PREPROCESSING, live_logits, tiny_backbone, tiny_model

FAST = {"deterministic": True, "augment": "light", "flip": "none", "threads": 1}


def killed_and_resumed(
    text: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, **options: object
) -> tuple[frostline.Run, frostline.Run]:
    """Return the run that nothing stopped, and the one that was killed after `stop` steps and went on."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)

    class Killed(BaseException):
        pass

    def progress(what: str, done: int, of: int) -> None:
        if what == "train" and done == stop:
            raise Killed

    settings = {**FAST, **options}
    whole = frostline.train(tiny_backbone(), data, text, study=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        frostline.train(tiny_backbone(), data, text, study=tmp_path / "cut", progress=progress, **settings)
    assert list(tmp_path.glob("cut/runs/*/state.safetensors"))  # else it would begin anew, and end the same
    return whole, frostline.train(tiny_backbone(), data, text, study=tmp_path / "cut", **settings)


def same_bytes(first: frostline.Run, second: frostline.Run) -> bool:
    return first.folder.weights.read_bytes() == second.folder.weights.read_bytes()


# --- notation ---------------------------------------------------------------------------------------------


def test_recipes_are_notation_and_change_no_digest_where_they_are_not_asked_for(data: Manifest) -> None:
    text = "lp_ft(optimizer=lion, schedule=linear, mixup=0.2, cutmix=1.0, ema=0.999)"
    assert parse(str(parse(text))) == parse(text)
    plain = TrainRequest(backbone=tiny_backbone(), data=data, strategy=parse("lp_ft")).identity()
    assert not {"optimizer", "schedule", "mixup", "cutmix", "ema"} & set(plain["hyperparameters"])
    request = TrainRequest(backbone=tiny_backbone(), data=data, strategy=parse(text)).identity()
    assert request["hyperparameters"]["optimizer"] == "lion"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lp_ft(schedule=cosin)", "cosine"),
        ("lp_ft(optimizer=lyon)", "Did you mean 'lion'"),
        ("lp_ft(optimizer=lbfgs)", "closure"),
        ("lp_ft(optimizer=adahessian)", "second derivatives"),
        ("lp_ft(optimizer=kron)", "random state"),
        ("lp_ft(ema=1)", "below 1"),
        ("lp_ft(mixup=-1)", "Beta"),
        ("linear_probe(mixup=0.2)", "no setting"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


# --- schedules --------------------------------------------------------------------------------------------


def torch_shares(kind: str, steps: int) -> list[float]:
    """The same schedule by torch's own class, without warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    made = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "linear": lambda: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps),
        "step": lambda: lr_scheduler.StepLR(optimizer, steps // 3, gamma=0.1),
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, 1.0),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps),
    }[kind]()
    shares = []
    for _ in range(steps):
        shares.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step() if len(shares) < steps else None
    return shares


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_is_torchs(kind: str) -> None:
    warmup = hyperparameters(parse("full(schedule=one_cycle)")).warmup if kind == "one_cycle" else 0.0
    own = [lr_schedule.scale(step, 30, warmup, kind) for step in range(30)]
    assert own == pytest.approx(torch_shares(kind, 30), abs=1e-12)


# --- optimizers -------------------------------------------------------------------------------------------


def test_what_an_optimizer_keeps_comes_back_from_a_checkpoint() -> None:
    """LAMB counts its steps in the group; LaProp keeps plain numbers beside its tensors."""
    for name in ("lamb", "laprop", "adafactor"):
        after = []
        for broken in (False, True):
            model = nn.Linear(3, 2, bias=False)
            nn.init.constant_(model.weight, 0.5)

            def made(model: nn.Module = model, name: str = name) -> torch.optim.Optimizer:
                return create_optimizer_v2([{"params": [*model.parameters()], "name": "all"}], name, lr=0.1)

            current = made()
            for step in range(4):
                if broken and step == 2:
                    moments = checkpoint.moments_of(model, current)
                    current = made()
                    checkpoint.give_moments(model, current, moments)
                model.weight.grad = torch.full_like(model.weight, 1.0 + step)
                current.step()
            after.append(model.weight.detach())
        assert torch.equal(*after)


def test_layers_learn_at_their_own_rates_with_another_optimizer(backbone: Backbone) -> None:
    known = hyperparameters(parse("full(optimizer=lion, lr=0.1, layer_decay=0.5)"))
    made = optimizer.build(backbone, backbone.adapt(3), known.lr, known, None)
    assert type(made).__name__ == "Lion"
    last = len(backbone.stages) - 1
    rates = {group["stage"]: group["lr"] for group in made.param_groups}
    assert rates == pytest.approx({stage: 0.1 * 0.5 ** (last - stage) for stage in range(last + 1)})
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, known.weight_decay}


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_learns_and_goes_on(
    name: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"gradual_unfreeze(1, epochs=4, optimizer={name})"
    whole, resumed = killed_and_resumed(text, data, tmp_path, monkeypatch, stop=5)
    assert same_bytes(whole, resumed)


# --- an average of the weights ----------------------------------------------------------------------------


def test_a_run_keeps_and_validates_the_average_of_its_weights(
    backbone: Backbone, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against an average taken by hand of the weights after each step."""
    seen: list[torch.Tensor] = []
    own = trainer.Trainer._train_step

    def step(self: trainer.Trainer, *arguments: object) -> torch.Tensor:
        loss = own(self, *arguments)  # type: ignore[arg-type]
        seen.append(self._model.get_parameter("head.weight").detach().clone())
        return loss

    monkeypatch.setattr(trainer.Trainer, "_train_step", step)
    text = "full(epochs=3, ema=0.5, bn=train)"
    run = frostline.train(backbone, data, text, study=tmp_path, keep="last", **FAST)
    average = seen[0]
    for count, value in enumerate(seen[1:], 1):
        decay = min(0.5, 1 - (1 + count) ** (-2 / 3))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(load_file(run.folder.weights)["head.weight"], average)
    assert not torch.allclose(average, seen[-1])
    val = Images(data, data.subset("val"), PREPROCESSING)
    logits = torch.from_numpy(live_logits(frostline.load_model(run.folder, module=tiny_model()), val))
    loss = float(nn.functional.cross_entropy(logits, torch.from_numpy(val.targets)))
    assert run.folder.metrics()[-1]["val_loss"] == pytest.approx(loss, rel=1e-4)


def test_frozen_weights_have_no_average(backbone: Backbone, data: Manifest) -> None:
    from frostline import models as bb
    from frostline.training.loop.weight_average import WeightAverage

    model, cut = backbone.adapt(3), backbone.cut(3)
    bb.freeze(backbone, model, cut, "train")
    average = WeightAverage(model, bb.training_modes(backbone, model, cut, "train"), 0.9, {})
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    moving = {name for name in average.tensors if name.endswith(("running_mean", "running_var"))}
    assert set(average.tensors) == learning | moving
    assert moving
    assert not any(name.startswith("stem") for name in average.tensors)


# --- mixed pictures ---------------------------------------------------------------------------------------


def test_mixed_pictures_have_mixed_targets_by_the_seed_alone() -> None:
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8).contiguous()
    targets = torch.tensor([0, 1, 2, 0])
    for text in ("full(mixup=0.4)", "full(cutmix=1)", "full(mixup=0.4, cutmix=1)"):
        mixing = Mixing(hyperparameters(parse(text)), 3)
        before = torch.get_rng_state()
        mixed, shares = mixing(pixels, targets, 7)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(mixing(pixels, targets, 7)[0], mixed)
        assert not torch.equal(mixing(pixels, targets, 8)[0], mixed)
        own = shares[1, 1]  # the second image, of class 1 and grey 1, with the first, of class 0 and grey 0
        assert 0 < own < 1
        torch.testing.assert_close(shares[1], torch.tensor([1 - own, own, 0]))
        torch.testing.assert_close(mixed[1].mean(), own)


def test_the_loss_of_mixed_pictures_by_hand() -> None:
    """Class 0 has three images, class 1 one: it weighs three times as much. Smoothing 0.2 of two classes."""
    targets = torch.tensor([0, 0, 0, 1])
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.3, 0.7]]))
    shares = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    smooth = [[0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1], [0.8 * 0.5 + 0.1, 0.8 * 0.5 + 0.1]]
    losses = [[-math.log(0.8), -math.log(0.2)], [-math.log(0.3), -math.log(0.7)]]
    by_hand = {
        "none": sum(smooth[i][c] * losses[i][c] for i in range(2) for c in range(2)) / 2,
        "weights": sum(smooth[i][c] * losses[i][c] * (0.5, 1.5)[c] for i in range(2) for c in range(2))
        / (0.75 * 0.5 + 0.25 * 1.5 + 0.5 * 0.5 + 0.5 * 1.5),
    }
    odds = [[0.8 * 0.75, 0.2 * 0.25], [0.3 * 0.75, 0.7 * 0.25]]  # times the prior
    adjusted = [[-math.log(part / sum(row)) for part in row] for row in odds]
    by_hand["logit_adjustment"] = sum(smooth[i][c] * adjusted[i][c] for i in range(2) for c in range(2)) / 2
    for kind, value in by_hand.items():
        balance = Balance(kind, targets.numpy(), 2)
        assert float(balance.loss(logits, shares, 0.2)) == pytest.approx(value, rel=1e-6)


def test_the_loss_of_whole_shares_is_that_of_classes_and_pieces_add_up() -> None:
    torch.manual_seed(0)
    targets, logits = torch.tensor([0, 0, 0, 1, 2]), torch.randn(5, 3)
    whole = torch.nn.functional.one_hot(targets, 3).float()
    mixed = 0.7 * whole + 0.3 * whole.roll(1, 0)
    for kind in ("none", "weights", "logit_adjustment"):
        balance = Balance(kind, targets.numpy(), 3)
        torch.testing.assert_close(balance.loss(logits, whole, 0.1), balance.loss(logits, targets, 0.1))
        pieces = sum(
            balance.loss(logits[piece], mixed[piece], 0.1) * balance.share(mixed[piece], targets)
            for piece in (slice(0, 2), slice(2, 5))
        )
        torch.testing.assert_close(pieces, balance.loss(logits, mixed, 0.1))


def test_a_run_with_every_recipe_goes_on_where_it_was_killed(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a phase's end and in the middle of an epoch: moments, average and mixed pictures fit."""
    text = "gradual_unfreeze(1, epochs=3, optimizer=lamb, ema=0.9, mixup=0.4, cutmix=1)"
    whole, resumed = killed_and_resumed(text, data, tmp_path, monkeypatch, stop=5, imbalance="weights")
    assert same_bytes(whole, resumed)
    rows = whole.result["numeric_plan"]["frozen"]["cached"]
    assert rows
    assert all(row["why"].startswith("images are mixed") and set(row["views"]) <= {0} for row in rows)


def test_a_run_that_stops_early_with_every_recipe_goes_on_where_it_was_killed(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `patience` has counted and the average of the weights are in the same checkpoint."""
    scores = [
        0.5,
        0.6,
        0.4,
        0.5,
        0.5,
    ]  # the best is the second: one of patience 3 is counted when it is killed
    real = trainer.Trainer._validate

    def validate(self: trainer.Trainer) -> dict[str, float]:
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "goodness", lambda *_: scores[len(self.epochs)])
            return real(self)

    monkeypatch.setattr(trainer.Trainer, "_validate", validate)
    text, steps_an_epoch = "full(epochs=9, ema=0.9, mixup=0.4, cutmix=1)", 3
    whole, resumed = killed_and_resumed(
        text, data, tmp_path, monkeypatch, stop=3 * steps_an_epoch + 1, patience=3, batch_size=16
    )
    assert whole.early_stopping["epochs"] == resumed.early_stopping["epochs"] == 5
    assert same_bytes(whole, resumed)
    losses = [[row["loss"] for row in run.folder.metrics()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_features_of_mixed_pictures_are_computed_anew_each_epoch(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    run = frostline.train(backbone, data, "head(epochs=2, mixup=0.4)", study=tmp_path, cache="keep", **FAST)
    assert run.features["computed"] >= 2 * run.n_train + run.n_val


def test_the_plan_knows_what_mixed_pictures_cost() -> None:
    plain, mixed = (cost.predict(f"head(epochs=10{s})", INVENTED, **DATA) for s in ("", ", mixup=0.2"))
    factor = 1 + cost.estimate.BESIDE
    assert mixed.parts["frozen layers"] * factor > 10 * DATA["train"] * 1e-3 * factor
    assert mixed.parts["frozen layers"] > 2 * plain.parts["frozen layers"]
    assert mixed.disk_bytes < plain.disk_bytes


# --- RandAugment ------------------------------------------------------------------------------------------


def test_randaugment_is_torchvisions_by_name(data: Manifest) -> None:
    def view(name: str) -> torch.Tensor:
        policy = Policy(name, min_crop=0.9)
        return Images(data, data.subset("train"), PREPROCESSING, policy=policy)[(0, 1)]

    assert torch.equal(view("randaugment"), view("randaugment"))
    assert not torch.equal(view("randaugment"), view("standard"))
    assert rand_augment in Transform(Policy("randaugment"), PREPROCESSING)._steps


# --- views at prediction ----------------------------------------------------------------------------------


def test_probabilities_are_means_over_views(backbone: Backbone, data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path, **FAST)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(3)]
    predictor = run.predictor
    larger = PREPROCESSING.with_size(18)  # 16 × 256 / 224

    def by_hand(tta: str) -> list[float]:
        means = []
        for image in images:
            pixels, whole = PREPROCESSING.crop(image), larger.crop(image)
            corners = [whole[:, y : y + 16, x : x + 16] for y, x in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
            views = {"none": [pixels], "flip": [pixels, pixels.flip(-1)], "five_crop": corners}
            views["ten_crop"] = [*corners, *(view.flip(-1) for view in corners)]
            means.append(np.mean([predictor(view[None])[0] for view in views[tta]], axis=0).max())
        return means

    for tta in ("none", "flip", "five_crop", "ten_crop"):
        predictions = run.predict(images, tta=tta)
        assert [row.probability for row in predictions] == pytest.approx(by_hand(tta), rel=1e-5)
        assert any("means over" in note for note in predictions.notes) == (tta != "none")
    assert by_hand("flip") != pytest.approx(by_hand("none"), rel=1e-4)
    test = data.subset("test")
    whole = frostline.evaluate(run, data, tta="flip")
    plain = frostline.evaluate(run, data)
    assert len(whole.paths) == len(plain.paths) == len(test)
    assert not np.array_equal(whole.probabilities, plain.probabilities)
    with pytest.raises(UsageError, match="Did you mean 'flip'"):
        run.predict(images, tta="flips")
    with pytest.raises(UsageError, match="leave one of the two out"):
        run.predict(images, tta="flip", target_accuracy=0.9)
