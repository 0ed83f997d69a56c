"""One shard: an immutable safetensors file that holds rows of one prefix, and describes them.

Its header repeats everything in the index (prefix, keys, checksums), so an index that was lost is
built again from the shards. A shard is written beside its place, synced, and renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from frostline.system import directories

FORMAT = 1  # of a shard and of the index; raised when either changes its meaning
SUFFIX = ".rows.safetensors"
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
KEY_BYTES = 16
# A choice: 4 GB in float32, hundreds of times a layer's output for one image of 4096 pixels a side.
MAX_ROW_ITEMS = 1 << 30

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """Dtype and shape of one row.

    Attributes
    ----------
    dtype : str
        "float32", "float16" or "bfloat16".
    shape : tuple of int
    channels_last : bool
        Whether the bytes are in the order (height, width, channel) of a shape (c, h, w).
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return ITEM_BYTES[self.dtype] * int(np.prod(self.shape, dtype=np.int64))

    def to_json(self) -> str:
        """Return the form as text that `from_json` reads."""
        return json.dumps([self.dtype, list(self.shape), self.channels_last])

    @classmethod
    def from_json(cls, text: str) -> Form:
        """Read a form. Raises `ValueError` where it is none."""
        try:
            dtype, shape, channels_last = json.loads(text)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no form of a row: {error}") from None
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise ValueError(f"unknown element type {str(dtype)[:40]!r}")
        if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"no shape of a row: {str(shape)[:80]}")
        if math.prod(shape) > MAX_ROW_ITEMS:
            raise ValueError(f"a row of shape {str(shape)[:80]} is larger than any layer's output")
        return cls(dtype, tuple(shape), bool(channels_last))


@dataclass(frozen=True)
class Contents:
    """The contents of a shard's header."""

    prefix: str  # digest
    description: str  # JSON: what the prefix's rows were computed from
    form: Form
    keys: tuple[bytes, ...]
    checks: tuple[int, ...]


def check_of(key: bytes, row: Bytes) -> int:
    """Return the checksum of a row under its key: CRC-32, so a row under another row's key shows as well."""
    return zlib.crc32(row.data, zlib.crc32(key))


def write(
    path: Path, prefix: str, description: str, form: Form, keys: Sequence[bytes], rows: Bytes
) -> list[int]:
    """Write `rows`, uint8 of shape (n, row_bytes), whole or not at all; return their checksums.

    Raises `OSError` where the disk refuses.
    """
    checks = [check_of(key, row) for key, row in zip(keys, rows, strict=True)]
    metadata = {
        "format": str(FORMAT),
        "shelf": prefix,
        "about": description,
        "form": form.to_json(),
        "keys": b"".join(keys).hex(),
        "checks": "".join(f"{check:08x}" for check in checks),
    }
    directories.write_atomically(path, save({"rows": rows}, metadata=metadata))
    return checks


def contents(path: Path) -> Contents:
    """Read what a shard says of itself. Raises `OSError` or `ValueError` where it is damaged or foreign."""
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            count, row_bytes = file.get_slice("rows").get_shape()
        if metadata["format"] != str(FORMAT):
            raise ValueError(f"its format is {metadata['format']}, expected {FORMAT}")
        prefix, description, form = metadata["shelf"], metadata["about"], Form.from_json(metadata["form"])
        keys = _split(bytes.fromhex(metadata["keys"]), KEY_BYTES)
        checks = tuple(int.from_bytes(check, "big") for check in _split(bytes.fromhex(metadata["checks"]), 4))
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"not a whole shard ({error})") from error
    if not (len(keys) == len(checks) == count and form.row_bytes == row_bytes):
        raise ValueError(f"its header says {len(keys)} rows of {form}, it holds {count} of {row_bytes} bytes")
    return Contents(prefix, description, form, keys, checks)


def _split(joined: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(joined[i : i + size] for i in range(0, len(joined), size))


class Opened:
    """A shard open for reading rows by place. Raises `OSError` where it is gone."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        # The format: eight bytes that give the header's length, the header, then the rows.
        self._offset = 8 + int.from_bytes(os.pread(self._handle, 8, 0), "little")

    def read(self, place: int, key: bytes, check: int, into: Bytes) -> bool:
        """Fill `into`, uint8 of shape (row_bytes,), with the row at `place`; False where it isn't right."""
        offset = self._offset + place * len(into)
        if offset >= 1 << 62 or not len(into):  # a damaged header
            return False
        complete = os.preadv(self._handle, [into.data], offset) == len(into)
        return complete and check_of(key, into) == check

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)
