"""Datasets in Python: Hugging Face `Dataset`, `DatasetDict`, and anything like a torch `Dataset`.

Neither library is imported: a Hugging Face dataset is known by its module's name, a torch one by having a
length and items. Items are named "dataset[12]", or "train[12]" where there are subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from frostline.data.labels import LABEL_COLUMNS, is_missing, read_labels
from frostline.data.manifest_entries import SkippedImage
from frostline.data.pixels import deep_pixels
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.sources.common import ImageEntry, Source, listing, subset_named, unknown_subset
from frostline.errors import DamagedImage, DataError, did_you_mean

NAME = "dataset"  # what an item's path starts with where the source has no subsets

CHANNELS = (3, 4)  # RGB and RGBA
ROW_OF_AN_IMAGE = (
    "An image has shape {shape}: that is one row of an image (h, w, channels), so one image was passed "
    "as if it were several. Pass a batch of one: x[None], or [x]."
)

Content = Image.Image | Deep | bytes


def is_hugging_face(source: object) -> bool:
    """Return whether `source` is an object of the `datasets` library."""
    return type(source).__module__.split(".")[0] == "datasets"


def is_indexable(source: object) -> bool:
    """Return whether `source` can be read like a torch Dataset: it has a length and items."""
    return hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping)


def demand_no_frame(source: object) -> None:
    """Raise `DataError` for a pandas or polars DataFrame: a table is read from its file."""
    if type(source).__module__.split(".")[0] in ("pandas", "polars"):
        raise DataError(
            f"Found a {type(source).__name__} in memory; expected the path of a table. Write it, with the "
            "columns path and label (of pandas: to_csv('images.csv', index=False))."
        )


def read_torch(dataset: Any) -> Source:
    """List a torch Dataset of `(image, label)` items, images as PIL, array (H, W[, C]) or tensor (C, H, W).

    Raises:
        DataError: items are something else, or change from one access to the next.
    """
    if len(dataset) == 0:
        raise DataError("The dataset is empty; expected items (image, label).")
    _demand_pairs(dataset[0])
    _demand_steady(dataset)
    names = _class_names(dataset)
    source = Source(None, items=_Fetcher({NAME: partial(_torch_item, dataset)}))
    values: dict[str, Any] = {}
    for index in range(len(dataset)):
        path = f"{NAME}[{index}]"
        try:
            values[path] = dataset[index][1]
        except Exception as error:  # the user's own code; one item must not stop the rest
            source.skipped.append(SkippedImage(path, "", _failed(error)))
    labels = read_labels(values.values(), names)
    source.images = [ImageEntry(path, label) for path, label in zip(values, labels, strict=True)]
    return source


def read_hugging_face(
    source: Any,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
) -> Source:
    """List a Hugging Face Dataset or DatasetDict by its Image, ClassLabel and, if there, "group" columns.

    `image_column` and `label_column` name them where there are several, `group_column` one that is called
    otherwise.

    Raises:
        DataError: it is streamed, has no such columns, or its subsets have unknown names.
    """
    if not hasattr(source, "__len__"):
        raise DataError("Streamed Hugging Face datasets have no length: load it without streaming=True.")
    tables = dict(source) if isinstance(source, Mapping) else {NAME: source}
    unknown = [unknown_subset(name) for name in tables if name != NAME and not subset_named(name)]
    if unknown:
        raise DataError(f"The DatasetDict cannot be used as it is:{listing(unknown)}")
    fetchers: dict[str, Callable[[int], Content]] = {}
    result = Source(None)
    for name, table in tables.items():
        fetchers[name] = _read_subset(name, table, result, image_column, label_column, group_column)
    result.items = _Fetcher(fetchers)
    return result


def picture(item: Any) -> Image.Image | Deep:
    """Return an item's image as PIL: PIL itself, an array (H, W[, C]), or a tensor (C, H, W).

    Integers other than uint8 are deep pixels, whatever their values. Floats must lie in 0–1. Raises
    `DataError` where they were normalised already.
    """
    if isinstance(item, Image.Image):
        return item
    tensor = hasattr(item, "detach")
    pixels = np.asarray(item.detach().cpu().numpy() if tensor else item)
    if tensor and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)  # (C, H, W) → (H, W, C)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise DataError(
            f"An image has shape {tuple(pixels.shape)}; expected (H, W), (H, W, 3) or a tensor (C, H, W)."
        )
    if pixels.ndim == 2 and pixels.shape[1] in CHANNELS:
        raise DataError(ROW_OF_AN_IMAGE.format(shape=tuple(pixels.shape)))
    if pixels.size == 0 or pixels.dtype.kind not in "biuf":
        raise DataError(
            f"An image has shape {tuple(pixels.shape)} of {pixels.dtype}; expected integers or floats in "
            "0–1, at least one."
        )
    if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
        try:
            return deep_pixels.of_array(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
        except DamagedImage as error:
            raise DataError(f"An image {error}.") from None
    return Image.fromarray(np.ascontiguousarray(_bytes_of(pixels)))


def _bytes_of(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(pixels * 255).astype(np.uint8)
    raise DataError(
        f"An image has {pixels.dtype} values from {low:.3g} to {high:.3g}; expected integers or floats in "
        "0–1. If it was normalised, pass it without that step: the backbone normalises."
    )


def _demand_pairs(item: Any) -> None:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"The dataset's items are {type(item).__name__}; expected pairs (image, label).")
    picture(item[0])


def _demand_steady(dataset: Any) -> None:
    """Refuse a dataset whose first image differs when it is read twice."""
    items = (picture(dataset[0][0]) for _ in range(2))
    once, again = (item.values if isinstance(item, Deep) else np.asarray(item) for item in items)
    if not np.array_equal(once, again):
        raise DataError(
            "The dataset returns other pixels each time item 0 is read: it augments. "
            "Pass it without random transforms; augmentation is configured for training."
        )


def _class_names(dataset: Any) -> list[str]:
    """Return `dataset.classes`, looked for through wrappers such as torch's Subset, or an empty list."""
    for _ in range(10):  # wrappers around wrappers; far more than anyone stacks
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple):
            return [str(name) for name in names]
        dataset = getattr(dataset, "dataset", None)
    return []


def _torch_item(dataset: Any, index: int) -> Content:
    return picture(dataset[index][0])


def _hugging_face_item(table: Any, column: str, index: int) -> Content:
    return _encoded(table[index][column])


@dataclass(frozen=True)
class _Fetcher:
    """From "train[12]" to that item's image; a class, so that worker processes can be given it."""

    subsets: Mapping[str, Callable[[int], Content]]

    def __call__(self, path: str) -> Content:
        name, _, index = path[:-1].rpartition("[")
        try:
            return self.subsets[name](int(index))
        except DamagedImage:
            raise
        except Exception as error:  # the user's own code or files
            raise DamagedImage(_failed(error)) from error


def _failed(error: Exception) -> str:
    return f"cannot be read from the dataset ({type(error).__name__}: {error})"


def _read_subset(
    name: str,
    table: Any,
    result: Source,
    image_column: str | None,
    label_column: str | None,
    group_column: str | None = None,
) -> Callable[[int], Content]:
    """Add one Hugging Face table's rows to `result`; return the function from row to image."""
    features = table.features
    if not features:
        raise DataError(
            f"The Hugging Face table {name!r} has no typed columns; expected Image and ClassLabel ones."
        )
    image_column = _column_called(image_column, features) or _image_column(features)
    label_column = _column_called(label_column, features) or _label_column(features)
    plain = table.with_format(None)
    labels = read_labels(plain[label_column][:], _names(features[label_column]))
    group_column = _column_called(group_column, features) or "group"
    groups = plain[group_column][:] if group_column in features else [None] * len(labels)
    subset = subset_named(name) or ""
    result.images += [
        ImageEntry(f"{name}[{index}]", label, "" if is_missing(group) else str(group), subset)
        for index, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    encoded = plain.cast_column(image_column, type(features[image_column])(decode=False))
    return partial(_hugging_face_item, encoded, image_column)


def _names(feature: Any) -> Sequence[str]:
    """Return a ClassLabel's names, through a list of them, else nothing."""
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _encoded(value: dict[str, Any] | None) -> bytes:
    """Return the file's bytes that an undecoded Hugging Face Image holds or points to."""
    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise DamagedImage("holds no image")
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    with open(value["path"], "rb") as file:
        return file.read()


def _column_called(name: str | None, features: Mapping[str, Any]) -> str | None:
    if name and name not in features:
        raise DataError(
            f"There is no column {name!r} among {', '.join(features)}.{did_you_mean(name, features)}"
        )
    return name


def _image_column(features: Mapping[str, Any]) -> str:
    columns = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(columns) != 1:
        kinds = ", ".join(f"{name}: {type(feature).__name__}" for name, feature in features.items())
        raise DataError(f"Found {len(columns)} image columns; expected exactly one. The columns are {kinds}.")
    return columns[0]


def _label_column(features: Mapping[str, Any]) -> str:
    typed = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    present = [name for name in LABEL_COLUMNS if name in features]
    if len(typed) == 1:
        return typed[0]
    candidates = [name for name in present if name in typed] if typed else present
    if candidates:
        return candidates[0]
    guess = did_you_mean("label", features)
    raise DataError(
        f"Found {len(typed)} ClassLabel columns and none of {', '.join(LABEL_COLUMNS)} among "
        f"{', '.join(features)}; expected one column of labels.{guess}"
    )
