"""Networks with the same weights that do something else: features and runs of the other are not theirs."""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import frostline
from frostline.errors import ModelError
from frostline.models.cutting.prefix_digest import code_digest, prefix_digest
from tiny import PREPROCESSING, write_table

FACTOR = 1.0


KINDS: dict[type, Any] = {}  # holds a class whose methods name it, and a module of it


def helper(x: Tensor) -> Tensor:
    return x * FACTOR


class Base(nn.Module):
    """Two stages and a head; what it does beside depends on what it holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 3)
        self.act: Callable[[Tensor], Tensor] = torch.relu
        self.scale: Any = None
        self.hidden: list[nn.Module] = []

    def between(self, x: Tensor) -> Tensor:
        return helper(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.act(self.first(x)))
        for module in self.hidden:
            x = module(x)
        if self.scale is not None:
            x = x * torch.as_tensor(self.scale, dtype=x.dtype)[:, None, None]
        return self.fc(self.pool(self.second(x)).flatten(1))


class Child(Base):
    """Inherits everything."""

    def others(self) -> list[type]:
        return list(KINDS)


KINDS[Child] = [Child()]


def leaky(slope: float) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.leaky_relu(x, slope)


def conv(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv2d(8, 8, 1)


def with_hook(model: Base, factor: float) -> None:
    model.first.register_forward_hook(lambda module, args, output: output * factor)


def with_forward(model: Base, factor: float) -> None:
    plain = type(model.first).forward
    model.first.forward = types.MethodType(lambda self, x: plain(self, x) * factor, model.first)


CHANGES: dict[str, Callable[[Base, float], None]] = {
    "a partial": lambda m, f: setattr(m, "act", functools.partial(functional.leaky_relu, negative_slope=f)),
    "a closure": lambda m, f: setattr(m, "act", leaky(f)),
    "an array": lambda m, f: setattr(m, "scale", np.full(8, f)),
    "a hook": with_hook,
    "a forward of its own": with_forward,
    "a module in a list": lambda m, f: m.hidden.append(conv(int(10 * f))),
}


def loaded(change: Callable[[Base, float], None], factor: float) -> frostline.Backbone:
    model = Child()
    change(model, factor)
    return frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_module_holds_tells_it_apart(name: str) -> None:
    one, same, other = (loaded(CHANGES[name], factor) for factor in (0.1, 0.1, 0.9))
    cut = one.cuts[-1]
    digests = [prefix_digest(each, each.model, cut) for each in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    codes = [code_digest(each.model) for each in (one, same, other)]
    assert codes[0] == codes[1] != codes[2]


def test_so_does_what_its_methods_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model, here = Child(), sys.modules[__name__]
    before = code_digest(model)
    assert code_digest(Child()) == before
    monkeypatch.setattr(here, "FACTOR", 2.0)  # a constant that a function of a base class's method names
    assert code_digest(model) != before
    monkeypatch.undo()
    assert code_digest(model) == before
    monkeypatch.setattr(here, "helper", torch.neg)
    assert code_digest(model) != before


def test_neither_features_nor_runs_of_another_are_found(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "set"))
    runs = [
        frostline.train(
            loaded(CHANGES["a partial"], slope),
            data,
            "linear_probe",
            study=tmp_path / "study",
            deterministic=True,
            flip="none",
        )
        for slope in (0.0, 0.0, -1.0)
    ]
    assert [run.reused for run in runs] == [False, True, False]
    assert runs[0].folder.name != runs[2].folder.name
    assert runs[2].features["computed"] > 0


def test_weights_that_a_hook_uses_are_of_the_hooks_module() -> None:
    """`spectral_norm` and `prune` compute a weight in a hook, before the module's own forward."""
    model = Base()
    torch.nn.utils.spectral_norm(model.second)
    backbone = frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)
    adapted = backbone.adapt(3)
    stage_of = backbone.stage_of(adapted)
    assert stage_of["second.weight_orig"] == stage_of["second.weight_u"] == stage_of["second.bias"]
    frostline.freeze(backbone, adapted, 1)
    learning = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert "second.weight_orig" in learning
    assert "first.weight" not in learning


def halved(model: nn.Module) -> nn.Module:
    return model.half()


def broken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.get_submodule("second"), "weight", 0.5)
    model(torch.zeros(1, 3, 16, 16))
    return model


def lazy(model: nn.Module) -> nn.Module:
    model.fc = nn.LazyLinear(3)
    return model


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (halved, r"first\.weight of the module is float16; expected float32, .*module\.float\(\)"),
        (broken, r"first\.weight of the module holds NaN or infinity"),
        (pruned, r"a hook computes one of its weights .*prune\.remove"),
        (lazy, r"fc\.weight of the module has no shape yet"),
        (lambda model: model.to("meta"), r"first\.weight of the module has no values"),
        (lambda model: torch.jit.trace(model, torch.zeros(1, 3, 16, 16)), r"a program of torch\.jit"),
    ],
)
def test_a_module_that_cannot_be_adapted_is_one_message(
    changed: Callable[[nn.Module], nn.Module], said: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about what is deprecated
        model = changed(Base().eval())
    with pytest.raises(ModelError, match=said):
        frostline.load_backbone(model, preprocessing=PREPROCESSING)
