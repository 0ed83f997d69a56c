"""Rows as tensors and as bytes, batches of one size, and work done ahead in another thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.feature_cache import Form

AHEAD = 2  # batches decoded before they are needed: one in work, one waiting

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

T = TypeVar("T")


def padded(batch: Tensor, size: int) -> Tensor:
    """Return a batch filled up to `size` rows with copies of its last row.

    Parameters
    ----------
    batch : Tensor, shape (n, …)
    size : int

    Returns
    -------
    Tensor, shape (max(n, size), …)
    """
    missing = size - len(batch)
    if missing <= 0:
        return batch
    return torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


def same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def to_bytes(z: Tensor) -> tuple[Form | None, NDArray[np.uint8]]:
    """Return the form and bytes of rows, uint8 of shape (n, row_bytes); no form for a type we don't keep."""
    name = NAMES.get(z.dtype)
    if name is None:
        return None, np.empty((len(z), 0), dtype=np.uint8)
    shape = tuple(z.shape[1:])
    last = z.ndim == 4 and not z.is_contiguous() and z.is_contiguous(memory_format=torch.channels_last)
    flat = (z.permute(0, 2, 3, 1) if last else z).contiguous().reshape(len(z), -1)
    return Form(name, shape, last), flat.view(torch.uint8).numpy()


def from_bytes(rows: NDArray[np.uint8], form: Form) -> Tensor:
    """Return rows as they were given to `to_bytes`, memory format included."""
    flat = torch.from_numpy(rows).view(DTYPES[form.dtype])
    if not form.channels_last:
        return flat.reshape(len(rows), *form.shape)
    c, h, w = form.shape
    return flat.reshape(len(rows), h, w, c).permute(0, 3, 1, 2)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, computed up to `AHEAD` items early in another thread."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
