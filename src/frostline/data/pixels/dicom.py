"""DICOM images by pydicom: values as the modality means them, black for low; and the patient."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.pixels.deep_pixels import Deep
from frostline.errors import DamagedImage

SHOWN = 12  # of a patient id's SHA-256, in hex: a name for a group that is no name of a person

_lock = threading.Lock()  # its warnings are silenced for the whole process while it reads


@dataclass(frozen=True)
class DicomHeader:
    """The header: size, kind, frames and patient."""

    width: int
    height: int
    kind: str  # "DICOM CT"; "" for 8 bits a sample
    frames: int
    group: str  # of the patient; "" where none is named


def header(file: Any) -> DicomHeader:
    """Read a header. Raises `DamagedImage`, and whatever pydicom raises."""
    import pydicom

    with _quietly():
        return _header(pydicom.dcmread(file, stop_before_pixels=True))


def read(content: bytes) -> tuple[Deep | NDArray[np.uint8], int]:
    """Return deep pixels, or 8-bit ones (H, W[, 3]), of the first frame; and how many frames there are.

    Stored values become the modality's (slope and intercept), MONOCHROME1 is turned round, and padding
    becomes the lowest value. Raises `DamagedImage`, and whatever pydicom raises.
    """
    import pydicom
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    with _quietly():
        data = pydicom.dcmread(io.BytesIO(content))
        about = _header(data)
        stored: NDArray[Any] = np.asarray(pixel_array(data, index=0))
        if data.PhotometricInterpretation == "PALETTE COLOR":
            stored = np.asarray(apply_color_lut(stored, data))
            stored = (stored >> 8).astype(np.uint8) if stored.dtype.itemsize > 1 else stored
        if stored.ndim == 3:
            return (stored.astype(np.uint8) if not about.kind else Deep(about.kind, stored)), about.frames
        padding = data.get("PixelPaddingValue")
        padded = None if padding is None else stored == padding
        values = _upright_grey(stored, data)
        if not about.kind:
            return values.astype(np.uint8), about.frames
        values = np.asarray(apply_modality_lut(values, data)).astype(np.float32)
    if padded is not None and padded.any() and not padded.all():
        values[padded] = values[~padded].min()
    return Deep(about.kind, values), about.frames


def _header(data: Any) -> DicomHeader:
    if "Rows" not in data or "Columns" not in data:
        raise DamagedImage(f"is a DICOM file without an image ({data.get('Modality') or 'no modality'})")
    deep = int(data.get("BitsAllocated", 8)) > 8 or "RescaleSlope" in data or "ModalityLUTSequence" in data
    colour = (
        int(data.get("SamplesPerPixel", 1)) > 1 or data.get("PhotometricInterpretation") == "PALETTE COLOR"
    )
    if colour:
        deep = (
            int(data.get("BitsAllocated", 8)) > 8 and data.get("PhotometricInterpretation") != "PALETTE COLOR"
        )
    patient = str(data.get("PatientID") or "").strip()
    return DicomHeader(
        int(data.Columns),
        int(data.Rows),
        f"DICOM {data.get('Modality') or 'of no modality'}{' RGB' * colour}" if deep else "",
        int(data.get("NumberOfFrames") or 1),
        f"patient {hashlib.sha256(patient.encode()).hexdigest()[:SHOWN]}" if patient else "",
    )


def _upright_grey(stored: NDArray[Any], data: Any) -> NDArray[Any]:
    """Return stored values with low ones dark: MONOCHROME1 means the lowest to be white."""
    if data.PhotometricInterpretation != "MONOCHROME1":
        return stored
    top = -1 if int(data.PixelRepresentation) else 2 ** int(data.BitsStored) - 1
    return np.asarray(top - stored.astype(np.int64)).astype(np.int32)


@contextmanager
def _quietly() -> Iterator[None]:
    """A block in which pydicom's remarks on values that break the standard are not printed."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
