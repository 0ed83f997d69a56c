"""Classifier heads. Input features (n, width), output logits (n, classes)."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from frostline.errors import StudyError
from frostline.models.classifier import fresh_linear, put_module
from frostline.models.stage_statistics import Tap, first_tensor, statistics

if TYPE_CHECKING:
    from frostline.models.backbone import Backbone

# A head that starts small starts from near-equal probabilities, so that its first gradients do not
# shake what lies below; timm's --head-init-scale and ConvNeXt's fine-tuning (0.001) have the same aim.
INIT_STD = 0.01
# Logits of a cosine head lie in ±scale; 10 lets a softmax over tens of classes come near 0 and 1
# (Gidaris & Komodakis, arXiv 1804.09458, start there) and the scale learns.
COSINE_SCALE = 10.0


class CosineHead(nn.Module):
    """Scaled cosine between feature and class vector; the scale learns. Shapes (n, width) → (n, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


READ_STAGES = ".read_stages"  # what a state dict of the head below has, and no other
MULTI_STAGE = "multi_stage"  # how an export names the kind of head below


class MultiStageHead(nn.Module):
    """A linear layer on the features before the head and on statistics of the stages before them.

    It stands where the network's own head stood. Forward hooks on the stages hand it their statistics during
    the same forward pass; they are methods of this module, so that a copy of the network listens to its own
    stages.

    Parameters
    ----------
    width : int
        Features before the head.
    classes : int
    taps : sequence of Tap
        The stages that are read, the last one first.
    calls : int
        How often the network calls this module in one forward pass.

    Attributes
    ----------
    weight : Parameter, shape (classes, width + sum of the taps' widths)
    bias : Parameter, shape (classes,)
    """

    read_stages: Tensor

    def __init__(self, width: int, classes: int, taps: Sequence[Tap], calls: int = 1) -> None:
        super().__init__()
        self.taps, self.calls = tuple(taps), calls
        self.weight = nn.Parameter(torch.zeros(classes, width + sum(tap.width for tap in taps)))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("read_stages", torch.tensor([tap.stage for tap in taps], dtype=torch.int64))
        self._pass = _Pass()
        self._hooks: list[Any] = []

    @property
    def layers(self) -> int:
        """How many stages it reads."""
        return len(self.taps)

    @property
    def feature_width(self) -> int:
        """How many features before the head it takes."""
        return self.weight.shape[1] - sum(tap.width for tap in self.taps)

    def attach(self, model: nn.Module) -> None:
        """Listen to the stages of `model`, in which this module is the head."""
        self.detach()
        for tap in self.taps:
            module = model.get_submodule(tap.module)
            self._hooks.append(module.register_forward_hook(partial(self._collect, tap.stage, tap.last)))

    def detach(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _collect(self, stage: int, last: bool, _module: nn.Module, _inputs: Any, output: Any) -> None:
        value = first_tensor(output)
        if value is not None:
            self._pass.collected[stage] = statistics(value, last)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (n, classes) of features (n, width) and of what the stages have just answered."""
        under_way = self._pass
        parts = [under_way.collected[tap.stage] for tap in self.taps]
        under_way.calls += 1
        if under_way.calls == self.calls:  # nothing of a batch is held beyond it
            under_way.collected.clear()
            under_way.calls = 0
        return self.of_statistics(torch.cat([features.float(), *parts], dim=1))

    def of_statistics(self, values: Tensor) -> Tensor:
        """Return logits (n, classes) of features and statistics side by side, (n, all widths)."""
        return F.linear(values.to(self.weight.dtype), self.weight, self.bias)


class _Pass(threading.local):
    """What a thread's forward pass has collected so far: threads may ask one network at the same time."""

    def __init__(self) -> None:
        self.collected: dict[int, Tensor] = {}
        self.calls = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:  # a copy of the network begins a pass of its own
        return _Pass, ()


def multi_stage_head_in(module: nn.Module) -> MultiStageHead | None:
    """Return the head of an adapted network that reads several stages; `None` where it has another."""
    return next((part for part in module.modules() if isinstance(part, MultiStageHead)), None)


def put_plain_head(model: nn.Module) -> bool:
    """Put a new linear head where one reads several stages, in place, and return whether there was one.

    What lies below is then a plain network, which can be cut behind any stage.
    """
    places = [
        (name, part)
        for name, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, MultiStageHead)
    ]
    if not places:
        return False
    several = places[0][1]
    several.detach()
    plain = fresh_linear(several.feature_width, several.weight.shape[0], seed=0).to(several.weight)
    for name, _ in places:  # twins share one layer
        put_module(model, name, plain)
    return True


def reads_several(state: Mapping[str, Tensor]) -> bool:
    """Return whether these are the weights of a network whose head reads several stages."""
    return any(key.endswith(READ_STAGES) for key in state)


def adapted_for(backbone: Backbone, state: Mapping[str, Tensor], head: str, classes: int) -> nn.Module:
    """Return an adapted copy of the backbone into which these weights fit; they are not loaded.

    Parameters
    ----------
    backbone : Backbone
    state : mapping of str to Tensor
        Weights of an adapted copy, the head's at least. They say how many stages the head reads.
    head : str
        Kind of head where it reads the last stage alone: linear, cosine or mlp(HIDDEN).
    classes : int

    Returns
    -------
    nn.Module

    Raises
    ------
    StudyError
        The head is one of an earlier version, which read other outputs of its stages.
    """
    of_head = tuple(f"{name}." for name in backbone.classifier.names)
    stages = [value for key, value in state.items() if key.startswith(of_head) and key.endswith(READ_STAGES)]
    if any(key.startswith(of_head) and key.endswith(".stages") for key in state):
        raise StudyError(
            "Its head reads several stages as an earlier version of frostline read them. Train it again."
        )
    if stages:
        return backbone.adapt(classes, layers=len(stages[0]))
    return backbone.adapt(classes, head=build_head(head, backbone.feature_width, classes, seed=0))


def _empty(width: int, classes: int) -> nn.Linear:
    """A linear layer without weights yet: making one the usual way draws on the global random state."""
    layer: nn.Linear = skip_init(nn.Linear, width, classes)  # type: ignore[no-untyped-call]
    return layer


def build_head(spec: str, width: int, classes: int, seed: int) -> nn.Module:
    """Return a fresh head for `linear`, `cosine` or `mlp(HIDDEN)`; the global random state is untouched."""
    hidden = re.fullmatch(r"mlp\((\d+)\)", spec)
    if hidden:
        middle = int(hidden.group(1))
        module: nn.Module = nn.Sequential(_empty(width, middle), nn.GELU(), _empty(middle, classes))
    elif spec == "cosine":
        module = CosineHead(width, classes)
    else:
        module = _empty(width, classes)
    generator = torch.Generator().manual_seed(seed)
    last = list(module.modules())[-1]
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                std = INIT_STD if part is last else (2.0 / part.in_features) ** 0.5
                part.weight.normal_(0.0, std, generator=generator)
                part.bias.zero_()
            elif isinstance(part, CosineHead):
                # Only directions count, and steps turn short vectors further: with entries of about 1 the
                # default rate learned 16 % of what it reaches 72 % of with these (docs/LOG.md 2026-12-01).
                part.weight.normal_(0.0, INIT_STD, generator=generator)
    return module


def linear_head(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear head holding given weights (classes, width) and bias (classes,)."""
    module = _empty(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module


def divide(head: nn.Module, temperature: float) -> None:
    """Divide a head's logits by a temperature for good, in place: then a plain softmax is calibrated.

    Exact for every kind of head, up to rounding: a linear layer and the last layer of an MLP have weight and
    bias divided, a cosine head its scale. `head` may be the module around it, which pools or reshapes.
    """
    last = [part for part in head.modules() if isinstance(part, nn.Linear | CosineHead | MultiStageHead)][-1]
    with torch.no_grad():
        for value in (last.scale,) if isinstance(last, CosineHead) else (last.weight, last.bias):
            value.copy_(value.double() / temperature)
