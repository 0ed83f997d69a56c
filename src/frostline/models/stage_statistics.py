"""What each stage answers, in a few numbers an image: statistics over space, from one forward pass.

A map (n, c, h, w) gives mean and standard deviation of each channel; tokens (n, t, c) give the class token
where there is one, and mean and standard deviation of the others; a vector gives itself. Heads that read
several stages are Head2Toe's idea (Evci et al. 2022, arXiv 2201.03529).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from frostline.models.cutting.nested_values import tensors

if TYPE_CHECKING:
    from frostline.models.backbone import Backbone

VERSION = 2  # raised when the same outputs give other numbers
# Images of the pass that finds the outputs: more than one, so that a batch is told from anything else.
TRIED = 3
# Added to a variance before its root, so that the gradient is finite where a channel does not vary. Far
# below what normalised activations vary by (about 1).
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Tap:
    """One stage's statistics: where they are read, and how many numbers they are.

    Attributes
    ----------
    stage : int
        Index of the stage.
    module : str
        Dotted name of the module whose output is read.
    widths : tuple of int
        Of each statistic: mean and standard deviation, say.
    last : bool
        The last stage before the head: what its pooled output says is left to the head's own input.
    """

    stage: int
    module: str
    widths: tuple[int, ...]
    last: bool = False

    @property
    def width(self) -> int:
        """How many numbers all its statistics are."""
        return sum(self.widths)


def statistics(output: Tensor, last: bool = False) -> Tensor:
    """Return the statistics of a stage's output side by side, (n, width) of float32; see `parts_of`."""
    none = output.new_zeros(output.shape[0], 0)  # `len` would fix an exported program's batch
    return torch.cat(parts_of(output, last) or [none], dim=1)


def parts_of(output: Tensor, last: bool = False) -> list[Tensor]:
    """Return each statistic of a stage's output.

    Parameters
    ----------
    output : Tensor, shape (n, c, h, w), (n, h, w, c), (n, tokens, c) or (n, c)
    last : bool
        Leave the first part out, which the head is given anyway: the mean, or the class token.

    Returns
    -------
    list of Tensor of float32, shape (n, width)
    """
    values = output.float()
    if values.ndim == 2:
        return [] if last else [values]
    first = _class_tokens(values.shape[1]) if values.ndim == 3 else 0
    parts = [values[:, 0]] if first else []
    parts += _mean_and_std(values[:, first:] if first else values, _space(values.shape))
    return parts[1:] if last else parts


def _space(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the dimensions of space, or of tokens."""
    if len(shape) == 3:
        return (1,)
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:  # channels last
        return (1, 2)
    return tuple(range(2, len(shape)))


def _varies(shape: Sequence[int]) -> tuple[bool, bool, bool]:
    """Return whether an output has places, more than one, and more than one channel: else nothing varies."""
    space = _space(shape)
    places = math.prod(shape[place] for place in space)
    return len(shape) > 2, places > 1, math.prod(shape[1:]) > places


def _mean_and_std(values: Tensor, space: tuple[int, ...]) -> list[Tensor]:
    mean = values.mean(dim=space, keepdim=True)
    variance = (values - mean).square().mean(dim=space)
    return [mean.flatten(1), (variance + LEAST_VARIANCE).sqrt()]


def _class_tokens(tokens: int) -> int:
    """Return how many tokens stand before the patches: the fewest that leave a square grid, at most 5."""
    return next((n for n in range(6) if math.isqrt(tokens - n) ** 2 == tokens - n > 0), 0)


_TAPS: weakref.WeakKeyDictionary[Backbone, tuple[Tap, ...]] = weakref.WeakKeyDictionary()


def stage_taps(backbone: Backbone) -> tuple[Tap, ...]:
    """Return where the statistics of each stage are read, the last stage first.

    Only stages that end at an offered cut have one: what they answer depends on nothing after it. Found by
    one forward pass of empty images. Of a stage's modules it is the last one that answers for each image, and
    before it is pooled: a pooled map has no standard deviation.
    """
    if backbone not in _TAPS:
        _TAPS[backbone] = _find(backbone)
    return _TAPS[backbone]


def _find(backbone: Backbone) -> tuple[Tap, ...]:
    offered = {cut.index - 1 for cut in backbone.cuts}
    outputs: dict[int, tuple[str, Tensor]] = {}
    like, size = next(backbone.model.parameters()), backbone.preprocessing.size

    def listen(stage: int, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            value = first_tensor(output)
            if value is None or len(value) != TRIED:  # windows, or tokens before images
                return
            if stage not in outputs or _varies(value.shape) >= _varies(outputs[stage][1].shape):
                outputs[stage] = (name, value)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for index, stage in enumerate(backbone.stages[:-1]):
            for name in stage.modules if index in offered else ():
                hook = backbone.model.get_submodule(name).register_forward_hook(listen(index, name))
                stack.callback(hook.remove)
        backbone.model(torch.zeros(TRIED, 3, size, size, device=like.device, dtype=like.dtype))
    last = len(backbone.stages) - 2
    taps = [
        Tap(index, name, tuple(part.shape[1] for part in parts_of(value, index == last)), index == last)
        for index, (name, value) in sorted(outputs.items(), reverse=True)
    ]
    return tuple(tap for tap in taps if tap.width or tap.last)


def first_tensor(output: Any) -> Tensor | None:
    """Return the first floating-point tensor with two dimensions or more in what a module returned."""
    return next((t for t in tensors(output) if t.is_floating_point() and t.ndim >= 2), None)


@contextmanager
def collecting(model: nn.Module, wanted: Sequence[Tap]) -> Iterator[dict[int, Tensor]]:
    """Yield a dictionary into which each forward pass of `model` writes (n, width) by stage index."""
    collected: dict[int, Tensor] = {}

    def listen(tap: Tap) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            value = first_tensor(output)
            if value is not None:
                collected[tap.stage] = statistics(value, tap.last)

        return hook

    with ExitStack() as stack:
        for tap in wanted:
            stack.callback(model.get_submodule(tap.module).register_forward_hook(listen(tap)).remove)
        yield collected
