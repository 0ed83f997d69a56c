"""Labels that are none, several or numbers: one reader for every door, and nothing trained on nonsense."""

from __future__ import annotations

import json
import tarfile
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.data import load_data, read_labels
from frostline.data.sources import python_datasets
from frostline.data.splits import split_notes
from frostline.errors import DataError
from frostline.integrations.sklearn import FrostlineClassifier
from frostline.pipelines.evaluation.other_predictions import read_other
from test_dataset_objects import Items, pixels
from test_dataset_sources import by_class, save, table
from tiny import tiny_backbone

NOTHING = [
    None,
    float("nan"),
    np.float32("nan"),
    pd.NA,
    pd.NaT,
    "",
    "  ",
    [],
    Decimal("NaN"),
    torch.tensor(torch.nan),
]
SEVERAL: list[list[Any]] = [
    [["a", "b"], ["a"], ["b"]],
    [[0, 1, 1], [1, 0, 0], [0, 1, 0]],
    [np.array([0.2, 0.8])] * 3,
    [torch.tensor([1, 1])] * 3,
    ["Glas|wet", "Glas", "dry"],
    ["['Glas', 'wet']", "Glas", "dry"],
    ["Glas;wet", "Glas", "wet"],
    ["Glas, wet", "Glas, dry", "wet, dry"],
]
FRACTIONS: list[list[Any]] = [
    [0.5, 1.0, 2.0],
    [np.float32(0.25), None, np.float32(1)],
    [Decimal("1.5"), Decimal("2")],
    [torch.tensor(1.5), torch.tensor(2.5)],
    ["0.37", "12.1", "3"],
]


def test_one_value_is_one_class_in_whatever_form() -> None:
    values = ["cat", b"cat", ["cat"], np.array(["cat"]), "  cat ", np.str_("cat")]
    assert read_labels(values) == ["cat"] * 6
    ones = [1, 1.0, np.int64(1), torch.tensor(1), [1], np.array([1.0]), "1", Decimal(1)]
    assert read_labels(ones) == ["1"] * 8
    assert read_labels([0, [1], torch.tensor(1), -1, None], ["cat", "dog"]) == ["cat", "dog", "dog", "", ""]
    assert read_labels(["tench, Tinca tinca", "a; b"]) == ["tench, Tinca tinca", "a; b"]
    assert read_labels(["0.5", "1.0"] * 20) == ["0.5", "1.0"] * 20  # two doses, many images


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_what_is_missing_is_no_class(value: Any) -> None:
    assert read_labels([value, "cat"]) == ["", "cat"]


def test_the_name_of_a_known_class_may_look_like_several(tmp_path: Path) -> None:
    values = ["a|b", "c", "[x, y]"]
    assert read_labels(values, classes={"a|b", "[x, y]"}) == values
    with pytest.raises(DataError, match=r"1 of 3 images have several labels in one text, such as '\[x, y\]'"):
        read_labels(values, classes={"a|b"})
    predictions = tmp_path / "p.csv"
    predictions.write_text("path,label\n1.png,a|b\n2.png,c\n")
    assert read_other(predictions, ["1.png", "2.png"], None, {"a|b", "c"}).labels == ("a|b", "c")
    with pytest.raises(DataError, match="such as 'cat;dog'"):  # of two classes that are known
        read_labels(["cat", "dog", "cat;dog"], classes={"cat", "dog"})


@pytest.mark.parametrize("values", SEVERAL, ids=repr)
def test_several_labels_are_refused_with_how_many_images(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"^[123] of 3 images have several labels.*not supported yet"):
        read_labels(values)


@pytest.mark.parametrize("values", FRACTIONS, ids=repr)
def test_numbers_with_a_fraction_look_like_regression(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"[12] of [23] labels.*looks like regression"):
        read_labels(values)


@pytest.mark.parametrize("value", [{"a": 1}, b"\xff\xfe"], ids=repr)
def test_records_and_noise_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="expected"):
        read_labels([value])


@given(st.lists(st.text(st.characters(exclude_characters="|;,[]"), max_size=5) | st.none() | st.integers()))
def test_any_names_come_back_one_for_one(values: list[Any]) -> None:
    labels = read_labels(values)
    assert len(labels) == len(values)
    assert all(
        bool(label) == (value is not None and bool(str(value).strip()))
        for label, value in zip(labels, values, strict=True)
    )


# --- each door ------------------------------------------------------------------------------------------


def from_csv(folder: Path, labels: list[Any]) -> Any:
    rows = [[f"{n}.png", "" if label is None else label] for n, label in enumerate(labels)]
    return table(folder / "list.csv", ["path", "label"], rows)


def from_parquet(folder: Path, labels: list[Any]) -> Any:
    names = [f"{n}.png" for n in range(len(labels))]
    pq.write_table(pa.table({"path": names, "label": labels}), folder / "list.parquet")
    return folder / "list.parquet"


def from_torch(folder: Path, labels: list[Any]) -> Any:
    return Items([(pixels(n), label) for n, label in enumerate(labels)])


def from_shard(folder: Path, labels: list[Any]) -> Any:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for n, label in enumerate(labels):
            for name, data in (
                (f"{n}.png", (folder / f"{n}.png").read_bytes()),
                (f"{n}.json", json.dumps({"label": label}).encode()),
            ):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, BytesIO(data))
    return folder / "a.tar"


class Columns(dict[str, Any]):
    """As much of a Hugging Face table as is asked for its labels."""

    def __init__(self, labels: list[Any], feature: Any) -> None:
        super().__init__(label=labels)
        image = type("Image", (), {"__init__": lambda self, decode=True: None})()
        self.features = {"image": image, "label": feature}

    def with_format(self, _: None) -> Columns:
        return self

    def cast_column(self, *_: Any) -> Columns:
        return self


def from_hugging_face(folder: Path, labels: list[Any], feature: Any = None) -> Any:
    source = python_datasets.Source(None)
    python_datasets._read_subset("dataset", Columns(labels, feature), source, None, None)
    return source


DOORS = [from_csv, from_parquet, from_torch, from_shard, from_hugging_face]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(12):
        save(tmp_path / f"{n}.png", n)
    return tmp_path


@pytest.mark.parametrize("door", DOORS)
def test_missing_labels_are_set_aside_and_counted(door: Any, folder: Path) -> None:
    pytest.importorskip("tenacity" if door is from_shard else "numpy")
    source = door(folder, ["cat", "dog", None] * 4)
    if door is from_hugging_face:
        assert [image.label for image in source.images] == ["cat", "dog", ""] * 4
        return
    data = load_data(source, test_size=0.0)
    assert data.classes == ("cat", "dog")
    assert [gone.reason for gone in data.skipped] == ["has no label"] * 4
    assert "4 image(s) have no label and are skipped." in data.notes
    with pytest.raises(DataError, match=r"4 image\(s\) would be skipped"):
        load_data(source, strict=True)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("labels", [["Glas|wet", "Glas"] * 6, [["a", "b"], ["a"]] * 6], ids=["text", "lists"])
def test_several_labels_are_refused_at_every_door(door: Any, labels: list[Any], folder: Path) -> None:
    pytest.importorskip("tenacity" if door is from_shard else "numpy")
    with pytest.raises(DataError, match="6 of 12 images have several labels"):
        load_data(door(folder, labels))


@pytest.mark.parametrize("door", DOORS)
def test_numbers_measured_are_refused_at_every_door(door: Any, folder: Path) -> None:
    pytest.importorskip("tenacity" if door is from_shard else "numpy")
    with pytest.raises(DataError, match="looks like regression"):
        load_data(door(folder, [n + 0.25 for n in range(12)]))


def test_a_list_of_class_labels_is_read_by_its_names(folder: Path) -> None:
    """Hugging Face's `Sequence(ClassLabel)`: a number in a list was taken for a class called '[0]'."""
    feature = SimpleNamespace(feature=SimpleNamespace(names=["cat", "dog"]))
    source = from_hugging_face(folder, [[0], [1], []], feature)
    assert [image.label for image in source.images] == ["cat", "dog", ""]
    with pytest.raises(DataError, match="1 of 2 images have several"):
        from_hugging_face(folder, [[0, 1], [1]], feature)


def test_a_missing_group_is_no_group_called_nan() -> None:
    columns = Columns(["cat", "dog"] * 2, None)
    columns.features["patient"] = None
    columns["patient"] = ["p1", float("nan"), None, 7]
    source = python_datasets.Source(None)
    python_datasets._read_subset("dataset", columns, source, None, None, "patient")
    assert [image.group for image in source.images] == ["p1", "", "", "7"]


def test_parquet_bytes_are_text(folder: Path) -> None:
    data = load_data(from_parquet(folder, [b"cat", "große".encode()] * 6), test_size=0.0)
    assert data.classes == ("cat", "große")


@pytest.mark.parametrize("word", ["nan", "None", "NA", "n/a"])
def test_a_class_called_by_a_word_for_none_gets_a_note(word: str, tmp_path: Path) -> None:
    where = tmp_path / "photos" if "/" not in word else None
    if where:
        assert any(
            f"The class {word!r} (3 image(s))" in note
            for note in load_data(by_class(where, {word: 3, "cat": 3})).notes
        )
    for n in range(6):
        save(tmp_path / f"{n}.png", n)
    data = load_data(from_csv(tmp_path, [word, "cat"] * 3))
    assert any("a word for a missing label" in note for note in data.notes)
    assert set(data.classes) == {word, "cat"}


# --- the estimator -----------------------------------------------------------------------------------------

IMAGES = np.stack([pixels(n) for n in range(6)])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["a", None] * 3, "3 of 6 labels are missing"),
        (pd.Series(["a", pd.NA] * 3, dtype="string"), "3 of 6 labels are missing"),
        (["a", float("nan"), "b"] * 2, "2 of 6 labels are missing"),
        ([1.0, float("nan"), 0.0] * 2, "2 of 6 labels are missing"),
        (["Glas|wet", "dry"] * 3, "3 of 6 images have several labels"),
        (np.eye(3)[[0, 1, 2] * 2], "vector of numbers"),
        ([["a"], ["a", "b"]] * 3, "3 of 6 images have several labels"),
        (np.array(["a", 1] * 3, dtype=object), "several kinds"),
    ],
    ids=["None", "NA", "nan", "NaN", "joined", "one-hot", "lists", "mixed"],
)
def test_the_estimator_says_what_is_wrong_with_labels(y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FrostlineClassifier(tiny_backbone(), threads=1).fit(IMAGES, y)


def test_labels_that_are_empty_tensors_are_refused_in_words() -> None:
    """Found by fuzzing: whether a tensor of nothing is true, torch refuses to say, with a RuntimeError."""
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        FrostlineClassifier(tiny_backbone(), threads=1).fit(IMAGES, list(torch.zeros(6, 0)))


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("cat", "Cat ", "differ in case, spaces"),
        ("big cat", "big_cat", "differ in case, spaces, hyphens"),
        ("type-1", "type1", "differ in case, spaces, hyphens"),
        ("cat", "cat\u200b", "the form of their characters only"),  # a space of no width
        ("cat", "\uff43\uff41\uff54", "the form of their characters only"),  # of full width
        ("0", "0.0", "are the same number"),
        ("7", "007", "are the same number"),
        ("-1", "\u200b-1.00", "are the same number"),
        *(
            (one, other, "")
            for one, other in (
                ("1", "-1"),
                ("1-2", "12"),
                ("a 1 2", "a 12"),
                ("A", "A-"),
                ("A-", "A+"),
                ("1", "1.5"),
            )
        ),
    ],
)
def test_classes_that_a_reader_takes_for_one_are_asked_about(one: str, other: str, how: str) -> None:
    found = split_notes.about_losses([], [one, other])
    assert [how in finding.message for finding in found] == ([True] if how else [])
    for finding in found:
        assert repr(one) in finding.message
        assert repr(other) in finding.message
