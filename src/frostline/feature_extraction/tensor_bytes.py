"""Feature tensors to bytes and back: dtype, shape and memory format included."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.feature_cache import Form

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
