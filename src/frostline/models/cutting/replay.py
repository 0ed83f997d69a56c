"""Running one half of a model: up to a boundary, or from it on.

The first half runs the model and stops when the boundary is reached. The second half calls the whole model,
but the outermost modules that finish before the boundary return at once a placeholder of the shape that
was recorded for them, and at the boundary the stored activation takes the place of what came of that.
Placeholders hold NaN, so a model that still reads something from before the boundary returns NaN, never
something plausible. Only `forward` on module instances is exchanged; it returns as before outside a replay
and is put back at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.models.classifier import Head
from frostline.models.cutting.nested_values import (
    Pattern,
    Shape,
    at_batch,
    filled,
    packed,
    tensors,
    unpacked,
    with_tensors,
)


@dataclass(frozen=True)
class Recipe:
    """All that is needed to run the two halves of a model at one boundary, in plain data.

    `leaves` are the positions, among the tensors at the boundary, of those that depend on the images, and
    `shapes` their shapes. `stubs` gives for each stubbed module what it returns, call by call.
    """

    module: str
    at: str  # "input": what the module is given; "output": what it returns
    leaves: tuple[int, ...]
    shapes: tuple[Shape, ...]
    stubs: tuple[tuple[str, tuple[Pattern, ...]], ...]
    image: Shape  # of the model's input, per batch: (-1, 3, s, s)
    answer: Pattern | None = None  # of the boundary's output, where `at` is "output"
    solid: bool = False  # placeholders need memory of their own (the model views or changes them in place)
    copies: bool = False  # the second half changes its input in place, so it gets a copy
    head: Head | None = field(default=None)  # a head that pools or has a twin: z is its features already

    @property
    def places(self) -> tuple[str, ...]:
        """The modules at the boundary: one, or the two of a head with a twin."""
        return self.head.names if self.head else (self.module,)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Return the recipe that `as_dict` described."""
        stubs = tuple((name, tuple(patterns)) for name, patterns in data["stubs"])
        return cls(
            **{
                **data,
                "leaves": tuple(data["leaves"]),
                "shapes": tuple(tuple(shape) for shape in data["shapes"]),
                "stubs": stubs,
                "image": tuple(data["image"]),
                "head": Head(**data["head"]) if data["head"] else None,
            }
        )


Forward = Callable[..., Any]


def _modules(model: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the modules of those names, each once."""
    return list({id(module): module for module in map(model.get_submodule, names)}.values())


def _never_called(recipe: Recipe) -> ModelError:
    places = " and ".join(recipe.places)
    return ModelError(f"The model finished without calling {places}; it was changed after loading.")


class _Reached(Exception):
    """Raised at the boundary to leave the model; never seen outside."""


def first_half(model: nn.Module, recipe: Recipe, images: Tensor, call: Forward | None = None) -> Tensor:
    """Run `images` (n, 3, s, s) up to the boundary and return z, one tensor with a row an image.

    `call` runs the model in another way: on z of an earlier boundary, say, which is given as `images` then.
    """
    caught: list[Any] = []

    def catch(value: Any) -> None:
        caught.append(value)
        if len(caught) == len(recipe.places):
            raise _Reached

    with ExitStack() as stack, suppress(_Reached):
        _hook(stack, model, recipe, catch)
        (call or model)(images)
    if len(caught) < len(recipe.places):
        raise _never_called(recipe)
    return _stored(recipe, caught, len(images))


def first_halves(
    model: nn.Module, recipes: Sequence[Recipe], images: Tensor
) -> tuple[Any, list[Tensor | None]]:
    """Run `images` (n, 3, s, s) through the whole model once and return its output and z at each boundary.

    Each z is what `first_half` returns there, copied before the model can change it in place; `None` where
    the boundary can't be stored.
    """
    caught: list[list[Tensor]] = [[] for _ in recipes]

    def catching(recipe: Recipe, stored: list[Tensor]) -> Callable[[Any], None]:
        def catch(value: Any) -> None:
            if stored:  # the first call is the boundary
                return
            with suppress(Exception):  # whatever does not fit the recipe: the cut is not offered
                stored.append(_stored(recipe, [value], len(images)).clone())

        return catch

    with ExitStack() as stack:
        for recipe, stored in zip(recipes, caught, strict=True):
            _hook(stack, model, recipe, catching(recipe, stored))
        output = model(images)
    return output, [stored[0] if stored else None for stored in caught]


def _hook(stack: ExitStack, model: nn.Module, recipe: Recipe, catch: Callable[[Any], None]) -> None:
    """Call `catch` with what passes the boundary, for as long as the stack lasts."""
    for module in _modules(model, recipe.places):
        if recipe.at == "input":
            hook = module.register_forward_pre_hook(lambda _, *inputs: catch(inputs), with_kwargs=True)
        else:
            hook = module.register_forward_hook(lambda _, _given, output: catch(output))
        stack.callback(hook.remove)


def _stored(recipe: Recipe, caught: list[Any], images: int) -> Tensor:
    """Return what was caught at the places of a boundary as one tensor with a row an image."""
    if recipe.head is not None:
        pooled = [recipe.head.pool(next(tensors(value))) for value in caught]
        return pooled[0] if len(pooled) == 1 else torch.stack(pooled).mean(0)
    values = list(tensors(caught[0]))
    return packed([values[leaf] for leaf in recipe.leaves], recipe.shapes, images)


class _Replay:
    """The state of one second half: whether it is running, on what, and how often each stub was called."""

    def __init__(self, recipe: Recipe, fill: float) -> None:
        self.recipe, self.fill = recipe, fill
        self.z: Tensor | None = None
        self.arrived = False
        self.calls: dict[str, int] = {}

    def placeholder(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return the fill at that shape for as many images as z has, expanded from one number if it can."""
        assert self.z is not None
        if dtype.is_floating_point and self.z.dtype.is_floating_point:
            dtype = self.z.dtype
        value = self.fill if dtype.is_floating_point or dtype.is_complex else 0
        size = at_batch(shape, len(self.z))
        if self.recipe.solid:
            return torch.full(size, value, dtype=dtype, device=self.z.device)
        return torch.full((), value, dtype=dtype, device=self.z.device).expand(size)

    def stub(self, name: str, patterns: tuple[Pattern, ...]) -> Any:
        turn = self.calls.get(name, 0)
        self.calls[name] = turn + 1
        return filled(patterns[turn % len(patterns)], self.placeholder)

    def stored(self) -> Iterator[Tensor]:
        """Yield the tensors that z holds, in the order they had at the boundary."""
        assert self.z is not None
        z = self.z.clone() if self.recipe.copies else self.z
        if self.recipe.head is not None:
            return iter([self.recipe.head.unpool(z)])
        return iter(unpacked(z, self.recipe.shapes))

    def arrive(self, value: Any) -> Any:
        """Return `value` with what z holds in the place of the tensors that depend on the images."""
        self.arrived = True
        stored, position = self.stored(), iter(range(1 << 30))
        return with_tensors(
            value, lambda leaf: next(stored) if next(position) in self.recipe.leaves else leaf
        )


@contextmanager
def second_half(model: nn.Module, recipe: Recipe, fill: float = float("nan")) -> Iterator[Forward]:
    """Yield a function from z to the model's output; inside the block `model(x)` still works as ever."""
    replay = _Replay(recipe, fill)
    exchanged: list[tuple[nn.Module, Forward | None]] = []

    def exchange(module: nn.Module, make: Callable[[Forward], Forward]) -> None:
        exchanged.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = make(module.forward)

    def run(z: Tensor) -> Any:
        replay.z, replay.arrived = z, False
        replay.calls.clear()
        try:
            output = model(
                replay.placeholder(recipe.image, z.dtype if z.is_floating_point() else torch.float32)
            )
        finally:
            replay.z = None
        if not replay.arrived:
            raise _never_called(recipe)
        return output

    try:
        for name, patterns in recipe.stubs:
            exchange(model.get_submodule(name), partial(_stubbed, replay, name, patterns))
        for module in _modules(model, recipe.places):
            exchange(module, partial(_boundary, replay))
        yield run
    finally:
        for module, original in reversed(exchanged):
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original


def _stubbed(replay: _Replay, name: str, patterns: tuple[Pattern, ...], original: Forward) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if replay.z is None else replay.stub(name, patterns)

    return forward


def _boundary(replay: _Replay, original: Forward) -> Forward:
    recipe = replay.recipe

    def forward(*args: Any, **kwargs: Any) -> Any:
        if replay.z is None or (replay.arrived and len(recipe.places) == 1):
            return original(*args, **kwargs)
        if recipe.at == "input":
            args, kwargs = replay.arrive((args, kwargs))
            return original(*args, **kwargs)
        assert recipe.answer is not None
        return replay.arrive(filled(recipe.answer, replay.placeholder))

    return forward
