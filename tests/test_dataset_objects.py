"""Datasets passed in Python: torch's and Hugging Face's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset

from deep_examples import png
from frostline.data import Manifest, load_data, open_image, prediction_inputs
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.sources.python_datasets import picture
from frostline.errors import DataError
from test_dataset_sources import by_class


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


class Items(Dataset[Any]):
    """A torch Dataset over a list."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


FORMS = {
    "pil": Image.fromarray,
    "array": lambda array: array,
    "float array": lambda array: array / 255,
    "tensor": lambda array: torch.from_numpy(array).permute(2, 0, 1),
    "float tensor": lambda array: torch.from_numpy(array).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_image_is_the_same_data(form: Any) -> None:
    data = load_data(Items([(form(pixels(i)), i % 2) for i in range(12)], ["cat", "dog"]))
    plain = load_data(Items([(Image.fromarray(pixels(i)), ["cat", "dog"][i % 2]) for i in range(12)]))
    assert data.classes == ("cat", "dog")
    assert data.split_digest == plain.split_digest
    assert data.samples[3].path == "dataset[3]"
    assert np.array_equal(np.asarray(data.read(data.samples[3])), pixels(3))


def test_grey_images_and_labels_as_tensors() -> None:
    items = [
        (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i)), torch.tensor(i % 3))
        for i in range(9)
    ]
    data = load_data(Items(items))
    assert data.classes == ("0", "1", "2")
    assert data.read(data.samples[0]).mode == "RGB"


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
@pytest.mark.parametrize("form", [lambda array: array, lambda array: array.astype(">u2")], ids=["<", ">"])
def test_deep_arrays_are_what_deep_files_are(form: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    """One with no value above 255 was taken for 8 bits, and any other refused."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, top, shape, dtype=np.uint16) for top in (200, 4000, 250, 3000) * 3]
    data = load_data(Items([(form(array), i % 2) for i, array in enumerate(arrays)]))
    files = {f"{i % 2}/{i:02}.png": png(array) for i, array in enumerate(arrays)}
    for sample in data.samples:
        number = int(sample.path[len("dataset[") : -1])
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        path = tmp_path / str(number % 2) / f"{number:02}.png"
        path.write_bytes(files[f"{number % 2}/{number:02}.png"])
        expected = np.asarray(open_image(path, data.rendering))
        assert np.array_equal(np.asarray(data.read(sample)), expected)
        (question,) = prediction_inputs(form(arrays[number]))
        assert np.array_equal(np.asarray(question.open(data.rendering)), expected)
    assert data.rendering.kinds == ("uint16 RGB" if len(shape) == 3 else "uint16",)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.int32, np.int64])
def test_the_type_of_integers_decides_not_their_values(kind: Any) -> None:
    seen = picture(np.arange(64).reshape(8, 8).astype(kind))
    assert isinstance(seen, Deep)
    assert seen.kind == np.dtype(kind).name


def test_transparency_of_deep_arrays() -> None:
    colours = np.full((8, 9, 4), 65535, np.uint16)
    colours[0, 0, 3] = 0
    seen = picture(colours)
    assert isinstance(seen, Deep)
    assert seen.size == (9, 8)
    assert seen.alpha is not None
    assert (seen.alpha[0, 0], seen.alpha[1, 1]) == (0, 255)
    with pytest.raises(DataError, match=r"fourth channel of int64.*image\[\.\.\., :3\]"):
        picture(colours.astype(np.int64))


def test_class_names_are_found_through_a_subset() -> None:
    whole = Items([(Image.fromarray(pixels(i)), i % 2) for i in range(12)], ["cat", "dog"])
    assert load_data(Subset(whole, range(2, 10))).classes == ("cat", "dog")


def test_one_bad_item_is_set_aside() -> None:
    good = [(Image.fromarray(pixels(i)), i % 2) for i in range(8)]
    data = load_data(Items([*good, OSError("no such file"), (Image.new("RGB", (1, 1)), 0)]))
    assert [(gone.path, gone.reason) for gone in data.skipped] == [
        ("dataset[8]", "cannot be read from the dataset (OSError: no such file)"),
        ("dataset[9]", "has only 1×1 pixels"),
    ]


def random_item(seed: int) -> tuple[Image.Image, int]:
    return Image.fromarray(pixels(seed)), 0


class Augmenting(Items):
    """A dataset that never gives the same image twice."""

    calls = 0

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        return random_item(self.calls)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Items([]), "is empty"),
        (Items([Image.new("RGB", (8, 8))]), "expected pairs"),
        (Augmenting([0] * 4), "without random transforms"),
        (Items([(torch.randn(3, 8, 8), 0)] * 4), "pass it without that step"),
        (Items([(torch.rand(5, 8, 8), 0)] * 4), r"has shape \(8, 8, 5\)"),
        (Items([(pixels(0), [0.5, 0.5])] * 4), "soft labels"),
        (Items([(pixels(0), 7)] * 4, ["a", "b"]), "names 2 classes, 0 to 1"),
    ],
    ids=["empty", "no pairs", "augments", "normalised", "five channels", "soft", "out of range"],
)
def test_what_will_not_do(dataset: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(dataset)


def test_streams_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(DataError, match="a torch Dataset with a length"):
        load_data(Stream())


def test_a_kept_manifest_cannot_read_images_from_memory() -> None:
    data = load_data(Items([(Image.fromarray(pixels(i)), i % 2) for i in range(8)]))
    manifest = Manifest.from_json(data.to_json())
    assert manifest.split_digest == data.split_digest
    with pytest.raises(DataError, match="passed in Python"):
        manifest.read(manifest.samples[0])


@pytest.mark.ecosystem
def test_hugging_face_equals_the_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    by_class(tmp_path, {"cat": 6, "dog": 6})
    paths = sorted(tmp_path.rglob("*.png"))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "group": datasets.Value("string"),
        }
    )
    rows = {
        "image": [str(path) for path in paths],
        "label": [path.parent.name for path in paths],
        "group": [""] * len(paths),
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    data = load_data(made)
    assert data.classes == ("cat", "dog")
    assert data.split_digest == load_data(tmp_path).split_digest
    assert data.read(data.samples[0]).mode == "RGB"


@pytest.mark.ecosystem
def test_hugging_face_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})

    def part(start: int, count: int) -> Any:
        rows = {
            "img": [Image.fromarray(pixels(start + i)) for i in range(count)],
            "label": ["ab"[i % 2] for i in range(count)],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    subsets = datasets.DatasetDict({"train": part(0, 8), "validation": part(20, 4), "test": part(40, 4)})
    data = load_data(subsets)
    assert [len(data.subset(name)) for name in ("train", "val", "test")] == [8, 4, 4]
    assert data.subset("val")[0].path == "validation[0]"
    assert data.read(data.subset("val")[0]).size == (16, 16)
    with pytest.raises(DataError, match="split 'extra' is unknown"):
        load_data(datasets.DatasetDict({"train": part(0, 8), "extra": part(20, 4)}))
    with pytest.raises(DataError, match="Found 0 image columns"):
        load_data(subsets["train"].remove_columns(["img"]))
    with pytest.raises(DataError, match="expected one column of labels"):
        load_data(subsets["train"].rename_column("label", "what"))
    with pytest.raises(DataError, match="streaming"):
        load_data(subsets["train"].to_iterable_dataset())
