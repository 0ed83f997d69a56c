"""Files with more than 8 bits a sample, as microscopes, cameras and instruments write them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

FORMATS = {"u": 1, "i": 2, "f": 3}  # TIFF 6.0, tag 339


def tiff(values: np.ndarray[Any, Any], order: str = "<", *, photometric: int | None = None) -> bytes:
    """Return an uncompressed TIFF of values (H, W[, C]), big-endian with `order` ">"."""
    height, width, channels = (*values.shape, 1)[:3]
    bits, data = values.dtype.itemsize * 8, values.astype(values.dtype.newbyteorder(order)).tobytes()
    colour = photometric if photometric is not None else (2 if channels > 2 else 1)
    entries: list[tuple[int, str, list[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [bits] * channels),
        (259, "H", [1]),
        (262, "H", [colour]),
        (273, "I", [0]),
        (277, "H", [channels]),
        (278, "I", [height]),
        (279, "I", [len(data)]),
        (339, "H", [FORMATS[values.dtype.kind]] * channels),
    ]
    if channels == 4:
        entries.insert(-1, (338, "H", [2]))
    after = 8 + 2 + 12 * len(entries) + 4
    extra, rows = b"", b""
    offset = after + sum(2 * channels for _, kind, v in entries if kind == "H" and 2 * len(v) > 4)
    for tag, kind, held in entries:
        packed = struct.pack(f"{order}{len(held)}{kind}", *([offset] if tag == 273 else held))
        if len(packed) > 4:
            place = after + len(extra)
            extra, packed = extra + packed, struct.pack(f"{order}I", place)
        rows += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(held)) + packed.ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return start + struct.pack(f"{order}H", len(entries)) + rows + b"\0\0\0\0" + extra + data


def png(values: np.ndarray[Any, Any]) -> bytes:
    """Return a PNG of 16 bits a sample from uint16 values (H, W[, C]), C of 2 to 4."""
    height, width, channels = (*values.shape, 1)[:3]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def ppm(values: np.ndarray[Any, Any], most: int = 65535) -> bytes:
    """Return a binary PGM or PPM of uint16 values (H, W[, 3])."""
    height, width, channels = (*values.shape, 1)[:3]
    start = f"P{6 if channels == 3 else 5} {width} {height} {most}\n".encode()
    return start + values.astype(">u2").tobytes()


def dicom(values: Any, **tags: Any) -> bytes:
    """Return a DICOM file of values (H, W), (H, W, 3) or (frames, H, W) of uint8, int16 or uint16."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    colour = values.shape[-1] == 3
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    data.Rows, data.Columns = values.shape[:2] if colour else values.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = values.dtype.itemsize * 8
    data.BitsStored = 12 if values.dtype == np.uint16 else data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.Modality = "CT"
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
