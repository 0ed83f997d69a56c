"""Images to predict, without labels: files, folders and tables, or images in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from frostline.data.pixels import decoding
from frostline.data.pixels.decoding import Picture, size_fault
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.formats import suffixes
from frostline.data.pixels.rendering import PLAIN, Rendering
from frostline.data.sources.file_listing import listed_in
from frostline.data.sources.python_datasets import demand_no_frame, picture
from frostline.data.sources.remote import Fetcher, ImageLocation, images_below, is_address, masked
from frostline.data.sources.table_cells import TABLE_SUFFIXES
from frostline.data.sources.tables import read_paths
from frostline.data.sources.tar_shards import images_in, is_shards
from frostline.errors import DamagedImage, DataError, RunWarning

OBJECTS = "OUST"  # kinds of numpy arrays that hold paths or objects, not pixels


@dataclass(frozen=True)
class PredictionInput:
    """One image to predict. `name` is its path, or "image" or "image[3]" for one in memory."""

    name: str
    source: Any  # a path, an encoded file's bytes or what fetches them, a PIL image, an array or a tensor

    @property
    def is_remote(self) -> bool:
        """Return whether it must be fetched from elsewhere."""
        return isinstance(self.source, _Fetched) and isinstance(self.source.fetch, Fetcher)

    @property
    def runs_own_code(self) -> bool:
        """Return whether a person's own code makes it: the items of their dataset."""
        return isinstance(self.source, _Fetched) and not self.is_remote

    def open(self, how: Rendering = PLAIN) -> Image.Image:
        """Return it as RGB. Raises as `picture` does."""
        return self.picture().rgb(how)

    def picture(self) -> Picture:
        """Decode it; a study's rendering makes RGB of that.

        Raises `DamagedImage` with its name and why it cannot be decoded, `DataError` for an array that is
        no image.
        """
        if isinstance(self.source, Path):
            return decoding.open_picture(self.source)
        try:
            if isinstance(self.source, bytes | _Fetched):
                content = self.source if isinstance(self.source, bytes) else self.source()
                return decoding.picture(content)
            image = picture(self.source)
            if fault := size_fault(*image.size):
                raise DamagedImage(fault)
            return decoding.picture(image)
        except DamagedImage as error:
            raise DamagedImage(f"{self.name} {error}") from error
        except DataError as error:
            raise DataError(f"{self.name} cannot be used. {error}") from None


@dataclass(frozen=True)
class _Fetched:
    """An image that is fetched when it is looked at, and not kept."""

    fetch: Callable[[str], Image.Image | Deep | bytes]
    name: str

    def __call__(self) -> Image.Image | Deep | bytes:
        return self.fetch(self.name)


@dataclass(frozen=True)
class PredictionInputs:
    """Images to predict, in order, and the files beside them that are not images."""

    inputs: tuple[PredictionInput, ...]
    other_files: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[PredictionInput]:
        return iter(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> PredictionInput:
        return self.inputs[place]


def prediction_inputs(images: Any, path_column: str | None = None) -> PredictionInputs:
    """Return the images to predict.

    Parameters
    ----------
    images : path, address, image, array, or iterable of these
        A folder (flat or by class), a file, a CSV with a column `path`, an address such as s3://bucket/new of
        a folder or a file, tar shards; a PIL image; an array (H, W) or (H, W, 3), uint8, floats in 0–1 or
        other integers (deep pixels), a tensor (3, H, W), or a batch of four dimensions; an encoded file's
        bytes.
    path_column : str or None
        Column of a table that holds the paths.

    Returns
    -------
    PredictionInputs

    Raises
    ------
    DataError
        The images are of another type, or there are none.
    """
    if not _is_several(images):
        return _input_of(images, "image", path_column)
    inputs = _joined(_input_of(item, f"image[{n}]", path_column) for n, item in enumerate(images))
    if not inputs.inputs:
        raise DataError("No images were given. Expected a folder, files or images.")
    return inputs


def inputs_of_entries(
    names: Iterable[str],
    root: Path | None,
    items: Callable[[str], Image.Image | Deep | bytes] | None = None,
) -> PredictionInputs:
    """Return the images of a manifest, by their names there, for prediction.

    Parameters
    ----------
    names : iterable of str
        Paths of samples.
    root : Path or None
        Where relative paths start from.
    items : callable or None
        Returns the image of a name, where images are no files.

    Returns
    -------
    PredictionInputs
    """
    if items is None:
        return PredictionInputs(tuple(PredictionInput(name, (root or Path()) / name) for name in names))
    return PredictionInputs(tuple(PredictionInput(name, _Fetched(items, name)) for name in names))


def _joined(several: Iterable[PredictionInputs]) -> PredictionInputs:
    parts = list(several)
    return PredictionInputs(
        tuple(item for part in parts for item in part.inputs),
        tuple(name for part in parts for name in part.other_files),
    )


def _is_several(images: Any) -> bool:
    """Return whether these are several images, each to be looked at by itself, rather than one."""
    shape = getattr(images, "shape", None)
    if shape is not None and (_kind(images) not in OBJECTS or not len(shape)):  # one object is no several
        return len(shape) == 4
    single = isinstance(images, str | os.PathLike | bytes | Image.Image | Mapping) or hasattr(images, "read")
    return isinstance(images, Iterable) and not single


def _kind(array: Any) -> str:
    return getattr(getattr(array, "dtype", None), "kind", "-")  # a torch tensor's has none


def _input_of(item: Any, name: str, path_column: str | None) -> PredictionInputs:
    demand_no_frame(item)
    if isinstance(item, str | os.PathLike):
        return _inputs_at(os.fspath(item), path_column)
    if isinstance(item, bytes | Image.Image) or hasattr(item, "shape"):
        return PredictionInputs((PredictionInput(name, item),))
    raise DataError(
        f"{name} is of type {type(item).__name__}; expected a path, a PIL image, an array (H, W) or "
        "(H, W, 3), or several of these."
    )


def _inputs_at(text: str, path_column: str | None) -> PredictionInputs:
    """List what a path or an address names."""
    path, fetcher = Path(text), Fetcher()
    ending = path.suffix.lower()
    if is_shards(text) and not path.is_dir():
        return _fetched(fetcher, images_in(text, fetcher))
    if is_address(text):
        if ending in TABLE_SUFFIXES:
            raise DataError(
                f"{masked(text)} is a table at an address; expected a local one. The images in it may "
                "lie at addresses."
            )
        single = ending in suffixes()
        image_names = (
            [fetcher.add(masked(text), ImageLocation(text))] if single else images_below(text, fetcher)
        )
        return _fetched(fetcher, image_names)
    if ending not in TABLE_SUFFIXES or not path.is_file():
        listing = listed_in(path)
        return PredictionInputs(
            tuple(PredictionInput(str(image), image) for image in listing.images),
            tuple(map(str, listing.other_files)),
        )
    table_paths, notes = read_paths(path, path_column)
    for note in notes:
        warnings.warn(f"{path}: {note}", RunWarning, stacklevel=2)
    return _joined(
        _inputs_at(path_or_address, None)
        if is_address(path_or_address)
        else PredictionInputs((PredictionInput(path_or_address, Path(path_or_address)),))
        for path_or_address in table_paths
    )


def _fetched(fetcher: Fetcher, names: Iterable[str]) -> PredictionInputs:
    return PredictionInputs(tuple(PredictionInput(name, _Fetched(fetcher, name)) for name in names))
