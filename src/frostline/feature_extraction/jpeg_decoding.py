"""Plain JPEGs decoded by torchcodec: Pillow's bits, with less under the interpreter's lock.

Both decode by libjpeg-turbo; a test compares them (`tests/test_jpeg_decoding.py`). libjpeg writes a line to
stderr where a file holds more bytes than it should, which Pillow keeps quiet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@cache
def torchcodecs_decoder() -> Callable[[Tensor], Tensor] | None:
    """Return torchcodec's decoder of JPEGs; `None` where it can't be loaded, and Pillow decodes."""
    try:
        decoder: Callable[[Tensor], Tensor] = importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, AttributeError, OSError, RuntimeError):  # not there, too old, or for another torch
        return None
    return decoder


def decoded(data: bytearray) -> NDArray[np.uint8]:
    """Return the pixels of a plain JPEG, shape (height, width, 3), by torchcodec.

    `data` holds no EXIF, by which torchcodec would turn the picture. It goes there as a tensor: with bytes,
    torchcodec changes the process's filters of warnings for a moment, which other threads would meet.
    Raises `RuntimeError` for a damaged file.
    """
    decode_jpeg = torchcodecs_decoder()
    assert decode_jpeg is not None
    return decode_jpeg(torch.frombuffer(data, dtype=torch.uint8)).permute(1, 2, 0).numpy()
