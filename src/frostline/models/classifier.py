"""Locate a model's classifier, and replace it. Found by experiment, not by name.

The head is the last layer with parameters, or the smallest container around it, that can be replaced by
`Linear(feature_width, k)` so that the model returns exactly what that layer returns. There are three kinds:

- *flat*: it takes (n, feature_width); a plain `nn.Linear` goes there.
- *map*: it takes (n, feature_width, h, w), as SqueezeNet's convolutional classifier does; pooling, flattening
  and the new layer go there together, so logits are linear in the pooled features.
- *twins*: two such layers whose outputs are averaged (distilled models); both names get the same new layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.models.cutting.tracing import Call, Trace

TRIAL_CLASSES = 7  # any number that is no usual width or number of classes
INITIAL_STD = 0.01  # small enough that step 0 is near chance for features of usual size


@dataclass(frozen=True)
class Head:
    """The classifier that gets replaced: its name, what it takes, and how the replacement is built."""

    name: str
    width: int
    kind: str = "flat"  # "flat" (n, width), "map" (n, width, h, w), "map4": the same, returning (n, k, 1, 1)
    twin: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of the modules that get replaced."""
        return (self.name,) if self.twin is None else (self.name, self.twin)

    @property
    def plain(self) -> bool:
        """Return whether what the original head is given are the features themselves."""
        return self.kind == "flat" and self.twin is None

    def pool(self, value: Tensor) -> Tensor:
        """Return features (n, width) from what the head is given."""
        return value if self.kind == "flat" else nn.functional.adaptive_avg_pool2d(value, 1).flatten(1)

    def unpool(self, features: Tensor) -> Tensor:
        """Return what the replaced head pools to exactly these features (n, width)."""
        return features if self.kind == "flat" else features[:, :, None, None]

    def around(self, layer: nn.Module) -> nn.Module:
        """Return what goes into the model for a `layer` that takes (n, width)."""
        if self.kind == "flat":
            return layer
        shape = [nn.Unflatten(1, (-1, 1, 1))] if self.kind == "map4" else []
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), layer, *shape)

    def owns(self, name: str) -> bool:
        """Return whether a parameter, buffer or module of that dotted name belongs to the head."""
        return any(name == place or name.startswith(place + ".") for place in self.names)


def fresh_linear(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a layer with zero bias and small normal weights; the global random state is not touched."""
    layer: nn.Linear = nn.Linear(width, classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0.0, INITIAL_STD, generator=generator)
        layer.bias.zero_()
    return layer


def put_head(model: nn.Module, head: Head, layer: nn.Module) -> None:
    """Put `layer`, which takes features (n, head.width), in the head's place in `model`."""
    module = head.around(layer)
    for name in head.names:
        put_module(model, name, module)


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of that dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def find_head(model: nn.Module, images: Tensor, trace: Trace) -> Head:
    """Return the head of a model traced on `images` (n, 3, s, s). Raises `ModelError` if there is none."""
    if trace.output is None or trace.output.ndim != 2:
        output = "no tensor" if trace.output is None else f"shape {tuple(trace.output.shape)}"
        raise ModelError(
            f"A classifier's output of shape (images, classes) was expected; the model returned {output}. "
            "Pass a classification model with its classifier."
        )
    for head in _candidates(model, trace):
        if _holds(model, images, head):
            return head
    raise ModelError(
        "No classifier could be found: no last layer can be replaced by a linear one. "
        "Expected a model whose logits come out of a Linear layer, or a convolution that is then pooled."
    )


def _candidates(model: nn.Module, trace: Trace) -> Iterator[Head]:
    """Yield possible heads, the likeliest first: plain last layers, twins, then containers outwards."""
    last = [call for call in reversed(trace.calls) if _is_layer(model, call.module)]
    last.sort(key=lambda call: call.end, reverse=True)
    if not last:
        return
    for call in last[:1]:
        yield from _kinds(call)
    yield from _twins(trace, last[0])
    name = last[0].module
    while name := name.rpartition(".")[0]:
        for call in trace.of(name)[-1:]:
            yield from _kinds(call)


def _is_layer(model: nn.Module, name: str) -> bool:
    return next(model.get_submodule(name).parameters(recurse=False), None) is not None and name != ""


def _kinds(call: Call, twin: str | None = None) -> Iterator[Head]:
    value = _only_input(call)
    if value is not None and value.ndim == 2:
        yield Head(call.module, value.shape[1], "flat", twin)
    if value is not None and value.ndim == 4:
        yield Head(call.module, value.shape[1], "map", twin)
        yield Head(call.module, value.shape[1], "map4", twin)


def _only_input(call: Call) -> Tensor | None:
    args, _ = call.inputs
    return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None


def _twins(trace: Trace, last: Call) -> Iterator[Head]:
    """Yield pairs of modules that return the final shape; the last layer is within one of them."""
    shape = trace.output.shape if trace.output is not None else None
    ends = [call for call in trace.calls if isinstance(call.output, Tensor) and call.output.shape == shape]
    around = [call for call in ends if call.module and (last.module + ".").startswith(call.module + ".")]
    for second in around:
        for first in ends:
            if first.end < second.start and len(first.module) and _only_input(first) is not None:
                for head in _kinds(second):
                    yield Head(first.module, head.width, head.kind, second.module)


def _trial_layer(width: int) -> nn.Linear:
    """Return a layer whose outputs have both signs, so that a ReLU behind it is detected."""
    layer = fresh_linear(width, TRIAL_CLASSES, seed=0)
    with torch.no_grad():
        layer.weight[1] = -layer.weight[0]
    return layer


def _holds(model: nn.Module, images: Tensor, head: Head) -> bool:
    """Return whether the model returns just what a linear layer in the head's place returns."""
    layer = _trial_layer(head.width)
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, _i, output: outputs.append(output.clone()))
    originals = [(name, model.get_submodule(name)) for name in head.names]
    try:
        put_head(model, head, layer.to(images.device))
        with torch.no_grad():
            result = model(images)
    except Exception:  # whatever a model raises when a layer of another kind stands there: not the head
        return False
    finally:
        hook.remove()
        for name, module in originals:
            put_module(model, name, module)
    if len(outputs) != len(head.names) or not isinstance(result, Tensor):
        return False
    return result.shape == outputs[0].shape and torch.allclose(sum(outputs) / len(outputs), result)  # type: ignore[arg-type]
