"""Nested values of tensors as modules pass them around, and their shapes at any batch size.

A *shape* here is a tuple of whole numbers in which `-k` stands for `k` per image: `(-1, 64, 56, 56)` is one
row an image, `(-4, 49, 96)` four rows an image. Shapes come from running the model at two batch sizes.
A *pattern* describes a nested value in plain data that survives JSON:
`{"tensor": [-1, 64], "dtype": "float32"}`, `{"list": […]}`, `{"tuple": […]}`, `{"dict": {…}}` or
`{"plain": 7}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Pattern = dict[str, Any]
Shape = tuple[int, ...]


class Opaque(Exception):
    """Raised for a value that cannot be described; callers try another way."""


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside nested tuples, lists and dicts, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def with_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return `value` with each tensor replaced by `function(tensor)`, called in the order of `tensors`."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(with_tensors(item, function) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(with_tensors(item, function) for item in value)
    if isinstance(value, dict):
        return type(value)((key, with_tensors(item, function)) for key, item in value.items())
    return value


def shape_between(small: Sequence[int], large: Sequence[int], batches: tuple[int, int]) -> Shape:
    """Return the shape that gave `small` and `large` at the two batch sizes. Raises `Opaque` if none did."""
    if len(small) != len(large):
        raise Opaque("the number of dimensions depends on the batch")
    return tuple(_extent(a, b, batches) for a, b in zip(small, large, strict=True))


def _extent(small: int, large: int, batches: tuple[int, int]) -> int:
    if small == large:
        return small
    per_image, rest = divmod(small, batches[0])
    if rest == 0 and per_image * batches[1] == large:
        return -per_image
    raise Opaque(f"an extent of {small} and {large} is no multiple of the batch sizes {batches}")


def at_batch(shape: Sequence[int], images: int) -> Shape:
    """Return `shape` for a batch of that many images."""
    return tuple(extent if extent >= 0 else -extent * images for extent in shape)


def pattern_between(small: Any, large: Any, batches: tuple[int, int]) -> Pattern:
    """Describe a value seen at two batch sizes. Raises `Opaque` for what cannot be described."""
    if type(small) is not type(large):
        raise Opaque(f"a {type(small).__name__} and then a {type(large).__name__}")
    if isinstance(small, Tensor):
        shape = shape_between(small.shape, large.shape, batches)
        return {"tensor": list(shape), "dtype": str(small.dtype).removeprefix("torch.")}
    if type(small) in (tuple, list):
        if len(small) != len(large):
            raise Opaque("a sequence whose length depends on the batch")
        items = [pattern_between(a, b, batches) for a, b in zip(small, large, strict=True)]
        return {"tuple" if isinstance(small, tuple) else "list": items}
    if type(small) is dict and list(small) == list(large) and all(isinstance(key, str) for key in small):
        return {"dict": {key: pattern_between(small[key], large[key], batches) for key in small}}
    if small is None or (type(small) in (int, float, bool, str) and small == large):
        return {"plain": small}
    raise Opaque(f"a {type(small).__name__}")


def filled(pattern: Pattern, make_tensor: Callable[[Shape, torch.dtype], Tensor]) -> Any:
    """Return a value of that pattern; `make_tensor(shape, dtype)` makes tensors in the order of `tensors`."""
    kind, content = next(iter(pattern.items()))
    if kind == "tensor":
        return make_tensor(tuple(content), getattr(torch, pattern["dtype"]))
    if kind == "dict":
        return {key: filled(item, make_tensor) for key, item in content.items()}
    if kind == "plain":
        return content
    items = [filled(item, make_tensor) for item in content]
    return tuple(items) if kind == "tuple" else items


def packed(values: Sequence[Tensor], shapes: Sequence[Shape], images: int) -> Tensor:
    """Return several tensors as one with a row an image: (images, …) as it is, else (images, numbers)."""
    rows = [_rows(value, shape) for value, shape in zip(values, shapes, strict=True)]
    if len(rows) == 1 and shapes[0][batch_dimension(shapes[0])] == -1:
        return rows[0]
    return torch.cat([row.reshape(images, -1) for row in rows], dim=1)


def unpacked(z: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Return the tensors that `packed` made one of."""
    if len(shapes) == 1 and shapes[0][batch_dimension(shapes[0])] == -1:
        return [z.movedim(0, batch_dimension(shapes[0]))]
    values, start = [], 0
    for shape in shapes:
        moved = _rows_first(at_batch(shape, len(z)), batch_dimension(shape))
        width = moved.numel() // len(z)
        flat = z[:, start : start + width]
        values.append(flat.reshape(moved.shape).movedim(0, batch_dimension(shape)))
        start += width
    return values


def batch_dimension(shape: Shape) -> int:
    """Return the one dimension that grows with the batch. Raises `Opaque` if none or several do."""
    growing = [index for index, extent in enumerate(shape) if extent < 0]
    if len(growing) != 1:
        raise Opaque(f"{len(growing)} dimensions of {shape} grow with the batch")
    return growing[0]


def _rows(value: Tensor, shape: Shape) -> Tensor:
    return value.movedim(batch_dimension(shape), 0)


def _rows_first(shape: Shape, dimension: int) -> Tensor:
    """Return an empty tensor without memory, of `shape` with `dimension` moved to the front."""
    return torch.empty(shape, device="meta").movedim(dimension, 0)
