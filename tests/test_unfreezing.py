"""Freezing in other people's loops: nothing they call un-freezes, and nothing is lost when the cut moves."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import frostline
from frostline import strategies as fs
from frostline.errors import ModelError, UsageError
from frostline.models import BN_POLICIES, Backbone, keeps_statistics, release
from frostline.strategies import lr_schedule
from frostline.unfreezing import adamw, adapted_in
from tiny import tiny_backbone

STRATEGY = "gradual_unfreeze(2, lr=0.01)"  # three phases, which share eight epochs as 2, 2, 4
EPOCHS, STEPS = 8, 3


def batch(step: int, size: int = 6) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(step)
    return torch.randn(size, 3, 16, 16, generator=made), torch.randint(0, 3, (size,), generator=made)


class Loop:
    """A loop as people write it."""

    def __init__(self, backbone: Backbone, wrap: Any = lambda model: model) -> None:
        self.model = backbone.adapt(3)
        self.called = wrap(self.model)
        self.optimizer = torch.optim.AdamW(frostline.param_groups(backbone, self.model))
        self.schedule = frostline.Unfreezing(
            self.optimizer, backbone, self.called, STRATEGY, epochs=EPOCHS, steps_per_epoch=STEPS
        )

    def epoch(self, number: int) -> None:
        self.called.train()
        for step in range(STEPS):
            torch.manual_seed(100 * number + step)  # of dropout
            x, y = batch(STEPS * number + step)
            self.optimizer.zero_grad(set_to_none=False)
            F.cross_entropy(self.called(x), y).backward()
            self.optimizer.step()
            self.schedule.step()
        self.called.eval()
        with torch.no_grad():
            self.called(batch(999)[0])

    def saved(self) -> bytes:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def stages_that_moved(backbone: Backbone, before: dict[str, Tensor], model: nn.Module) -> set[int]:
    stage_of = backbone.stage_of(model)
    now = model.state_dict()
    return {stage_of[name] for name, value in before.items() if not torch.equal(value, now[name])}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- train() --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bn", BN_POLICIES)
def test_nobodys_train_unfreezes(bn: str, backbone: Backbone) -> None:
    """Lightning #18930: a validation ends with `train()` on whatever contains the model."""
    around = nn.Sequential(nn.Identity(), backbone.adapt(3))
    model, cut = around[1], backbone.cut(3)
    frostline.freeze(backbone, around, cut, bn=bn)
    expected = dict(frostline.models.training_modes(backbone, model, cut, bn))
    assert set(expected.values()) == {True, False}
    for call in (around.train, model.train, model.stem.train, model.blocks.train, model.blocks[0].bn.train):
        around.eval()
        assert not any(module.training for module in around.modules())
        call()
        inside = set(call.__self__.modules()) if hasattr(call, "__self__") else set(call.module.modules())
        assert [m.training for m in expected] == [learns and m in inside for m, learns in expected.items()]
    assert model.train(False) is model
    assert not any(module.training for module in model.modules())


def test_a_later_cut_and_letting_go(backbone: Backbone) -> None:
    model = backbone.adapt(3).train()
    frostline.freeze(backbone, model, 4)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert [n for n, m in model.named_modules() if m.training] == ["", "head"]
    frostline.freeze(backbone, model, 0, bn="train")
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    frostline.freeze(backbone, model, 4)
    release(model)
    assert all(m.training for m in model.train().modules())


def test_a_copy_keeps_its_own_modules_still(backbone: Backbone) -> None:
    model = backbone.adapt(3)
    frostline.freeze(backbone, model, 4)
    other = copy.deepcopy(model)
    other.train()
    assert not model.training
    assert [n for n, m in other.named_modules() if m.training] == ["", "head"]
    assert list(model.state_dict()) == list(backbone.adapt(3).state_dict())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_what_freezes_again_is_not_moved_by_what_it_was_given_before(
    optimizer: type[torch.optim.Optimizer], backbone: Backbone
) -> None:
    model = backbone.adapt(3)
    frostline.freeze(backbone, model, 0)
    made = optimizer(frostline.param_groups(backbone, model), lr=0.1, weight_decay=0.1)
    for cut in (0, 4):
        frostline.freeze(backbone, model, cut)
        before = state(model)
        for step in range(2):
            F.cross_entropy(model.train()(batch(step)[0]), batch(step)[1]).backward()
            made.step()
            made.zero_grad(set_to_none=False)
        assert stages_that_moved(backbone, before, model) == set(range(cut, 5))


# --- groups ---------------------------------------------------------------------------------------------


def test_every_parameter_is_in_one_group_frozen_ones_too(backbone: Backbone) -> None:
    model = backbone.adapt(3)
    frostline.freeze(backbone, model, 4)
    made = frostline.param_groups(backbone, model, lr=0.1, layer_decay=0.5, weight_decay=0.3)
    covered = [id(p) for group in made for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in model.parameters())
    assert {group["lr"] for group in made} == {0.1 * 0.5**depth for depth in range(5)}
    assert all(group["weight_decay"] == (0.3 if p.ndim > 1 else 0) for group in made for p in group["params"])


# --- the schedule ---------------------------------------------------------------------------------------


def test_the_cut_moves_with_the_epochs_and_nothing_else_about_the_optimizer_does(backbone: Backbone) -> None:
    loop = Loop(backbone)
    groups, cuts = len(loop.optimizer.param_groups), []
    for number in range(EPOCHS):
        before, cut = state(loop.model), loop.schedule.cut
        first = loop.optimizer.state.get(loop.model.head.weight, {}).get("step", torch.tensor(0.0)).item()
        loop.epoch(number)
        cuts.append(cut.index)
        assert stages_that_moved(backbone, before, loop.model) == set(range(cut.index, 5))
        assert loop.optimizer.state[loop.model.head.weight]["step"].item() == first + STEPS
        assert loop.model.stem.conv.weight not in loop.optimizer.state  # frozen: no gradient and no state
        assert len(loop.optimizer.param_groups) == groups
    assert cuts == [4, 4, 3, 3, 2, 2, 2, 2]
    norms = [m for m in loop.model.modules() if keeps_statistics(m)]
    modules = [m for m in backbone.model.modules() if keeps_statistics(m)]
    assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms, modules, strict=True))


def test_groups_that_thaw_late_follow_the_schedule(backbone: Backbone) -> None:
    """transformers #20029, pytorch #79888: rates of late groups stood still, or nobody set them."""
    loop = Loop(backbone)
    rates = []
    for _ in range(EPOCHS * STEPS):
        rates.append({group["stage"]: group["lr"] for group in loop.optimizer.param_groups})
        loop.optimizer.step()
        loop.schedule.step()
    known = fs.hyperparameters(fs.parse(STRATEGY))
    for phase, first in zip(loop.schedule.phases, (0, 6, 12), strict=True):
        for step in range(phase.steps):
            share = lr_schedule.scale(step, phase.steps, known.warmup)
            expected = {stage: share * phase.lr * 0.9 ** (4 - stage) for stage in range(5)}
            assert rates[first + step] == pytest.approx(expected)
    assert {group["lr"] for group in loop.optimizer.param_groups} == {0.0}  # after the end
    loop.schedule.step()
    assert loop.schedule.get_last_lr() == [0.0] * len(loop.optimizer.param_groups)


@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 6])
def test_resumed_in_the_middle_equals_uninterrupted(stopped: int, backbone: Backbone) -> None:
    """Lightning #21901, #6891: what was thawed stays thawed, and the optimizer's groups fit."""
    whole = Loop(backbone)
    for number in range(stopped):
        whole.epoch(number)
    saved = whole.saved()
    again = Loop(backbone)
    again.load(saved)
    learning = [name for name, p in whole.model.named_parameters() if p.requires_grad]
    assert [name for name, p in again.model.named_parameters() if p.requires_grad] == learning
    assert again.schedule.get_last_lr() == whole.schedule.get_last_lr()
    for loop in (whole, again):
        for number in range(stopped, EPOCHS):
            loop.epoch(number)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_compiled_model_trains_what_thaws() -> None:
    """pytorch #139476: a graph compiled while layers were frozen kept them so."""
    backbone = tiny_backbone()
    compiled = Loop(backbone, lambda model: torch.compile(model, backend="aot_eager"))
    plain = Loop(backbone)
    for number in range(EPOCHS):
        before, cut = state(compiled.model), compiled.schedule.cut.index
        for loop in (plain, compiled):
            loop.epoch(number)
        assert stages_that_moved(backbone, before, compiled.model) == set(range(cut, 5))
    torch.compiler.reset()


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def compiled_from_inside(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.compile(backend="aot_eager")
    return model


def compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="aot_eager")
    return model


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(compiled_in_place, marks=pytest.mark.slow),
        pytest.param(compiled_from_inside, marks=pytest.mark.slow),
        pytest.param(compiled_forward, marks=pytest.mark.slow),
    ],
)
def test_however_a_user_compiled_what_thaws_learns(way: Any) -> None:
    backbone = tiny_backbone()
    loop = Loop(backbone, way)
    for number in (0, 2, 4):  # the first epoch of each phase, and one of each that ends it
        for epoch in (number, number + 1):
            before, cut = state(loop.model), loop.schedule.cut.index
            loop.epoch(epoch)
            assert stages_that_moved(backbone, before, loop.model) == set(range(cut, 5))
    torch.compiler.reset()


def test_a_thawed_stage_without_a_gradient_is_an_error_in_a_loop_of_ones_own(backbone: Backbone) -> None:
    loop = Loop(backbone)
    blocks = loop.model.blocks
    blocks.register_forward_hook(lambda module, given, result: result.detach())  # as a stale graph would
    for number in range(2):
        loop.epoch(number)  # the head alone learns, and does
    with pytest.raises(ModelError, match=r"1 of 2 stages .* no gradient: .*blocks\.2\.conv\.weight"):
        loop.epoch(2)


def test_gradients_that_are_dropped_after_the_step_are_seen(backbone: Backbone) -> None:
    model = backbone.adapt(3)
    optimizer = torch.optim.SGD(frostline.param_groups(backbone, model), lr=0.1)
    schedule = frostline.Unfreezing(optimizer, backbone, model, "full", epochs=1, steps_per_epoch=2)
    for step in range(2):

        def closure(step: int = step) -> float:  # as Lightning does: the backward pass is in the step
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch(step)[0]), batch(step)[1])
            loss.backward()
            return loss.item()

        optimizer.step(closure)
        optimizer.zero_grad()
        schedule.step()


class Wrapped(torch.optim.Optimizer):
    """An optimizer that another library has wrapped, without torch's own state, as accelerate does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.defaults = optimizer.defaults

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def test_gradients_are_looked_at_through_a_wrapped_optimizer(backbone: Backbone) -> None:
    model = backbone.adapt(3)
    optimizer = Wrapped(torch.optim.SGD(frostline.param_groups(backbone, model), lr=0.1))
    schedule = frostline.Unfreezing(optimizer, backbone, model, "full", epochs=1, steps_per_epoch=2)
    model.blocks.register_forward_hook(lambda module, given, result: result.detach())
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    with pytest.raises(ModelError, match="no gradient"):
        optimizer.step()
    assert schedule.cut.index == 0


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(
        ["head", "top_k(2)", "gradual_unfreeze", "gradual_unfreeze(3)", "phases(0, 1, all)"]
    ),
    epochs=st.floats(0.4, 30),
    steps=st.integers(8, 50),
)
def test_phases_share_every_step_of_a_loop(text: str, epochs: float, steps: int) -> None:
    try:
        phases = fs.stretched(fs.parse(text), stages=6, epochs=epochs, steps_per_epoch=steps)
    except UsageError:
        assert round(epochs * steps) < 6
        return
    assert sum(phase.steps for phase in phases) == round(epochs * steps)
    assert all(phase.steps > 0 for phase in phases)
    assert [s.cut for s in phases] == sorted((s.cut for s in phases), reverse=True)
    if round(epochs * steps) >= len(phases) * steps:
        assert all(phase.steps % steps == 0 for phase in phases[:-1])


@pytest.mark.parametrize("text", ["head(epochs=12)", "gradual_unfreeze(2, epochs=8)", "phases(0@3, all@5)"])
def test_the_phases_are_those_of_train(text: str) -> None:
    plan = fs.parse(text)
    own = fs.schedule(plan, stages=5, images=96, batch=32)
    theirs = fs.stretched(plan, stages=5, epochs=sum(s.epochs for s in own), steps_per_epoch=3)
    assert theirs == own


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linear_probe", "has no steps"),
        ("phases(0@3, all@4)", "names 7 epochs, and the loop has 8"),
        ("head(epochs=3)", "names 3 epochs, and the loop has 8"),
        (
            "head(label_smoothing=0.2, clip_grad=3)",
            "label_smoothing is up to your loss; clip_grad is up to your loop",
        ),
        ("full(bn=recalibrate)", "after training"),
        ("full(weight_decay=0.2)", r"whose groups have \[0.01\]"),
        ("lp_ft(head_init=fresh)", "head_init is up to"),
    ],
)
def test_what_a_scheduler_cannot_follow_is_said(text: str, words: str, backbone: Backbone) -> None:
    model = backbone.adapt(3)
    optimizer = torch.optim.AdamW(frostline.param_groups(backbone, model))
    with pytest.raises(UsageError, match=words):
        frostline.Unfreezing(optimizer, backbone, model, text, epochs=8, steps_per_epoch=3)


def test_an_optimizer_that_lacks_what_will_thaw_is_refused(backbone: Backbone) -> None:
    model = backbone.adapt(3)
    frostline.freeze(backbone, model, 4)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    with pytest.raises(ModelError, match=r"blocks\.2\.conv\.weight.*frozen ones too"):
        frostline.Unfreezing(optimizer, backbone, model, "top_k(1)", epochs=2, steps_per_epoch=3)
    frostline.Unfreezing(optimizer, backbone, model, "head", epochs=2, steps_per_epoch=3)


def test_another_schedule_cannot_go_on(backbone: Backbone) -> None:
    saved = Loop(backbone).schedule.state_dict()
    model = backbone.adapt(3)
    made = frostline.Unfreezing(
        adamw(backbone, model, "full"), backbone, model, "full", epochs=8, steps_per_epoch=3
    )
    with pytest.raises(UsageError, match=r"gradual_unfreeze.*and this run's: full"):
        made.load_state_dict(saved)


def test_a_model_of_another_kind_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ModelError, match=r"made by `backbone\.adapt"):
        frostline.freeze(backbone, nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), 1)
    with pytest.raises(ModelError, match="holds no model"):
        adapted_in(backbone, nn.Sequential(backbone.model.blocks, backbone.model.head))


# --- two processes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    """Lightning #20340: gradients of what thawed after DDP was made were never exchanged."""
    script = Path(__file__).parent / "unfreezing_together.py"
    command = [sys.executable, str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("alone", "0", "1"))
    start = tiny_backbone().adapt(3).state_dict()
    for name, value in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        assert torch.allclose(two[0][name], value, atol=1e-5), name
    moved = {name for name, value in one.items() if not torch.equal(value, start[name])}
    assert "blocks.0.conv.weight" not in moved
    assert {"blocks.1.conv.weight", "blocks.2.conv.weight", "head.weight"} <= moved
