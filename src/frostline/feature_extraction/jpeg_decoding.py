"""Plain JPEGs decoded by torchcodec: Pillow's bits, with less under the interpreter's lock.

Both decode by libjpeg-turbo; a test compares them (`tests/test_jpeg_decoding.py`). libjpeg writes a line to
stderr where a file holds more bytes than it should, which Pillow keeps quiet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.pixels.decoding import JpegDecoder
from frostline.feature_extraction.numeric_key import version


def jpeg_decoder() -> JpegDecoder | None:
    """Return torchcodec's decoder; `None` where it can't be loaded, and Pillow decodes.

    It takes a JPEG of three colours or grey and returns uint8 of shape (height, width, 3). It raises
    `RuntimeError` for a damaged one.
    """
    return None if _torchcodec() is None else _decoded


def decoder_name(fast: bool = True) -> str:
    """Return which library decodes plain JPEGs, with its version; without `fast` pixels it is Pillow."""
    package = "torchcodec" if fast and _torchcodec() is not None else "pillow"
    return f"{package} {version(package)}"


@cache
def _torchcodec() -> Callable[[bytes], Tensor] | None:
    try:
        decoders = importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):  # not there, or built for another torch
        return None
    decode_jpeg: Callable[[bytes], Tensor] = decoders.decode_jpeg
    return decode_jpeg


def _decoded(data: bytes) -> NDArray[np.uint8]:
    decode_jpeg = _torchcodec()
    assert decode_jpeg is not None
    return decode_jpeg(data).permute(1, 2, 0).numpy()
