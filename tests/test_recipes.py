"""Recipes by name: schedules, optimizers, an average of the weights, mixed pictures, views at prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler

import frostline
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.strategies import SCHEDULES, hyperparameters, lr_schedule, optimizers, parse, schedule
from frostline.training.loop import trainer
from frostline.training.request import TrainRequest
from tiny import tiny_backbone, write_table

FAST = {"deterministic": True, "augment": "light", "flip": "none", "threads": 1}


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", val=6), near_copies=False)


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
    asked = TrainRequest(backbone=tiny_backbone(), data=data, strategy=parse(text)).identity()
    assert asked["hyperparameters"]["optimizer"] == "lion"


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


def test_a_run_by_another_optimizer_goes_on_where_it_was_killed(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAMB counts its steps in the group, LaProp keeps plain numbers, and a phase begins in between."""
    for name in ("lamb", "laprop"):
        text = f"gradual_unfreeze(1, epochs=4, optimizer={name})"
        whole, resumed = killed_and_resumed(text, data, tmp_path / name, monkeypatch, stop=5)
        assert same_bytes(whole, resumed)


def test_layers_learn_at_their_own_rates_with_another_optimizer(
    backbone: Backbone, data: Manifest, tmp_path: Path
) -> None:
    runs = [
        frostline.train(backbone, data, f"full(epochs=1{s})", study=tmp_path, **FAST)
        for s in ("", ", optimizer=lion", ", optimizer=lion, layer_decay=0.01")
    ]
    adamw, lion, still = (load_file(run.folder.weights)["stem.conv.weight"] for run in runs)
    start = backbone.model.state_dict()["stem.conv.weight"]
    assert not torch.equal(adamw, lion)
    assert (still - start).abs().max() < 0.1 * (lion - start).abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_learns_and_goes_on(
    name: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"gradual_unfreeze(1, epochs=4, optimizer={name})"
    whole, resumed = killed_and_resumed(text, data, tmp_path, monkeypatch, stop=5)
    assert same_bytes(whole, resumed)


# --- an average of the weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["gradual_unfreeze(1, epochs=4, ema=0.9)", "full(bn=train, epochs=4, ema=0.9)"])
def test_an_average_goes_on_where_its_run_was_killed(
    text: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = killed_and_resumed(text, data, tmp_path, monkeypatch, stop=5)
    assert same_bytes(whole, resumed)
    assert whole.folder.metrics()[-1]["val_loss"] == resumed.folder.metrics()[-1]["val_loss"]


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
    assert run.folder.metrics()[-1]["val_accuracy"] == pytest.approx(run.val_accuracy)


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
