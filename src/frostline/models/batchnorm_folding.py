"""BatchNorm folded into the convolution before it: the same function in fewer operations, while frozen.

In eval mode BatchNorm is a scale and a shift for each channel, which a convolution can do on its own (Jacob
et al., arXiv 1712.05877, section 3.2). Pairs are found by running the model, and proved before they are used.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from frostline.models.backbone import Backbone
from frostline.models.cutting.prefix_digest import prefix_digest
from frostline.models.cutting.prefix_suffix import prefix
from frostline.models.cutting.tracing import fed
from frostline.system import directories

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Relative difference that float32 may make: lite0 differs by 2e-6. A wrong pair differs by far more.
TOLERANCE = 1e-3


class _Skipping(TorchFunctionMode):
    """Makes folded BatchNorm layers return their input."""

    def __init__(self, folded: set[int]) -> None:
        super().__init__()
        self._folded = folded

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if func is nn.functional.batch_norm or func is torch.batch_norm:
            place = 1 if func is nn.functional.batch_norm else 3
            mean = args[place] if len(args) > place else keywords.get("running_mean")
            if id(mean) in self._folded:
                return args[0] if args else keywords["input"]
        return func(*args, **keywords)


def pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions whose output goes into a BatchNorm layer, with that layer's.

    `images` are (n, 3, s, s). Each module of a pair runs once, and its weights are its own.
    """
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return [
        (conv, norm)
        for conv, norm in fed(
            model, images, lambda m: isinstance(m, CONVOLUTIONS), lambda m: isinstance(m, _BatchNorm)
        )
        if all(users[id(p)] == 1 for p in model.get_submodule(conv).parameters())
    ]


class Folded:
    """A copy of a model in eval mode with BatchNorm layers folded into the convolutions before them.

    Parameters
    ----------
    model : nn.Module
    names : list of (convolution, BatchNorm)
        Dotted names of the pairs to fold.
    neutral : bool
        Make each folded BatchNorm return its input by its own numbers, instead of skipping it: inside a
        compiled graph, which then has nothing to do there.

    Notes
    -----
    The copy computes what the original does only inside `skipping()`.
    """

    def __init__(self, model: nn.Module, names: list[tuple[str, str]], *, neutral: bool = False) -> None:
        self._neutral = neutral
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._layers: list[_BatchNorm] = []
        for conv_name, norm_name in names:
            conv, norm = self.model.get_submodule(conv_name), self.model.get_submodule(norm_name)
            assert isinstance(norm, _BatchNorm)
            _fold(conv, norm)
            if neutral:
                _neutralise(norm)
            self._layers.append(norm)
        if not neutral and "timm.layers" in sys.modules:  # whose layers these are
            from frostline.models.same_padding import pad_in_reused_memory

            pad_in_reused_memory(self.model)

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Skip the folded BatchNorm layers inside the block."""
        if self._neutral:
            yield
            return
        with _Skipping({id(layer.running_mean) for layer in self._layers}):
            yield


def _fold(conv: nn.Module, norm: _BatchNorm) -> None:
    """Write a BatchNorm layer's scale and shift into a convolution, in double precision."""
    assert isinstance(conv.weight, Tensor)
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    weight = conv.weight
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    own = conv.bias.double() if isinstance(conv.bias, Tensor) else torch.zeros_like(scale)
    shift = (own - norm.running_mean.double()) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    with torch.no_grad():
        weight.copy_(weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _neutralise(norm: _BatchNorm) -> None:
    """Let a BatchNorm layer in eval mode return its input: scale 1, shift 0, exactly."""
    norm.eps = 0.0
    with torch.no_grad():
        for values, value in (
            (norm.running_mean, 0.0),
            (norm.running_var, 1.0),
            (norm.weight, 1.0),
            (norm.bias, 0.0),
        ):
            if isinstance(values, Tensor):
                values.fill_(value)


def foldable(backbone: Backbone) -> list[tuple[str, str]]:
    """Return the (convolution, BatchNorm) pairs that can be folded without changing the prefix of any cut.

    Empty where there are none, or where one proves wrong. Cached by the network's content.
    """
    network = prefix_digest(backbone, backbone.model, backbone.cuts[-1])
    key = f"{network} size {backbone.preprocessing.size} torch {torch.__version__}"
    folding = directories.remembered("folding", key, lambda: {"pairs": _proved(backbone)})
    return [(conv, norm) for conv, norm in folding["pairs"]]


def _proved(backbone: Backbone) -> list[tuple[str, str]]:
    size = backbone.preprocessing.size
    like = next(backbone.model.parameters())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(like.device)
    model = backbone.model.eval()
    names = [
        pair for pair in pairs(model, images) if all(_normal(model.get_submodule(name)) for name in pair)
    ]
    if not names:
        return []
    folded = Folded(model, names)
    with torch.no_grad():
        for cut in backbone.cuts[1:]:
            expected = prefix(backbone, model, cut)(images)
            with folded.skipping():
                actual = prefix(backbone, folded.model, cut)(images)
            if not (actual - expected).abs().max() <= TOLERANCE * expected.abs().max():
                return []
    return names


def _normal(module: nn.Module) -> bool:
    """Return whether a layer's weights are its own, without parametrisation, and its statistics are kept."""
    has_statistics = getattr(module, "running_var", 0) is not None
    return has_statistics and not nn.utils.parametrize.is_parametrized(module)
