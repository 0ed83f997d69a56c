"""Images that a model is asked about, without labels: files, folders and tables, or images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from frostline.dataset.decoding import decode, find_images, open_image, size_fault
from frostline.dataset.objects import picture
from frostline.dataset.tables import read_paths
from frostline.errors import DamagedImage, DataError

OBJECTS = "OUST"  # kinds of numpy arrays that hold paths or objects, not pixels


@dataclass(frozen=True)
class Question:
    """One image to be looked at. `name` is its path, or "image" or "image[3]" for one in memory."""

    name: str
    source: Any  # a path, an encoded file's bytes, a PIL image, an array or a tensor

    def open(self) -> Image.Image:
        """Return it as upright RGB.

        Raises `DamagedImage` with its name and why it cannot be decoded, `DataError` for an array that is
        no image.
        """
        if isinstance(self.source, Path):
            return open_image(self.source)
        try:
            if isinstance(self.source, bytes):
                return decode(self.source)
            image = picture(self.source)
            if fault := size_fault(*image.size):
                raise DamagedImage(fault)
            return decode(image)
        except DamagedImage as error:
            raise DamagedImage(f"{self.name} {error}") from error
        except DataError as error:
            raise DataError(f"{self.name} cannot be used. {error}") from None


def questions(images: Any) -> list[Question]:
    """List what is asked about.

    `images`: a folder (flat or by class), a file, or a CSV with a column `path`; a PIL image; an array (H, W)
    or (H, W, 3), uint8 or floats in 0–1, a tensor (3, H, W), or a batch of four dimensions; an encoded file's
    bytes; or several of all these, in any iterable.
    Raises `DataError` for anything else, and where there is no image.
    """
    if not _is_several(images):
        return _single(images, "image")
    found = [question for n, item in enumerate(images) for question in _single(item, f"image[{n}]")]
    if not found:
        raise DataError("No image found in nothing. Expected a folder, files or images.")
    return found


def _is_several(images: Any) -> bool:
    """Whether these are several images, each to be looked at by itself, rather than one."""
    shape = getattr(images, "shape", None)
    if shape is not None and _kind(images) not in OBJECTS:
        return len(shape) == 4
    one = isinstance(images, str | Path | bytes | Image.Image | Mapping) or hasattr(images, "read")
    return isinstance(images, Iterable) and not one


def _kind(array: Any) -> str:
    return getattr(getattr(array, "dtype", None), "kind", "-")  # a torch tensor's has none


def _single(item: Any, name: str) -> list[Question]:
    if isinstance(item, str | Path):
        return [Question(str(path), path) for path in _paths(Path(item))]
    if isinstance(item, bytes | Image.Image) or hasattr(item, "shape"):
        return [Question(name, item)]
    raise DataError(
        f"{name} is a {type(item).__name__}; expected a path, a PIL image, an array (H, W) or (H, W, 3), or "
        "several of these."
    )


def _paths(path: Path) -> list[Path]:
    if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
        return find_images(path)
    listed = map(Path, read_paths(path))
    return [found if found.is_absolute() else path.parent / found for found in listed]
