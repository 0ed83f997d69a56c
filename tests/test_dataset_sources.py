"""Every way of handing over labelled images, and one message for every way of getting it wrong."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from frostline.data import Pairs, load_data
from frostline.errors import DataError, UsageError


def save(path: Path, seed: int, size: tuple[int, int] = (24, 24)) -> Path:
    """Save an image of noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def by_class(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """Write `counts[label]` images into a folder per class."""
    seed = start
    for label, count in counts.items():
        for index in range(count):
            seed += 1
            save(root / label / f"{index:03d}.png", seed)
    return root


def table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_a_folder_per_class(tmp_path: Path) -> None:
    data = load_data(by_class(tmp_path, {"cats": 8, "dogs": 6}))
    assert data.classes == ("cats", "dogs")
    assert len(data.samples) == 14
    assert data.counts["cats"]["val"] == 0
    assert any("No val set" in note for note in data.notes)
    assert data.read(data.samples[0]).size == (24, 24)
    assert data.targets(data.samples).tolist() == [0] * 8 + [1] * 6


class _Elsewhere:
    """A path that is no `Path`, as those of other libraries and `os.scandir`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_whatever_stands_for_a_path_is_one(tmp_path: Path) -> None:
    folder = by_class(tmp_path / "folder", {"cats": 4, "dogs": 4})
    data = load_data(_Elsewhere(folder))
    assert data.samples == load_data(folder).samples
    rows = [(str(folder / s.path), s.label) for s in data.samples]
    of_table = load_data(_Elsewhere(table(tmp_path / "t.csv", ["path", "label"], rows)))
    assert [s.digest for s in of_table.samples] == [s.digest for s in data.samples]
    images = [_Elsewhere(folder / s.path) for s in data.samples]
    assert len(load_data(Pairs(images, [s.label for s in data.samples])).samples) == 8


def test_a_relative_path_outlives_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_class(tmp_path / "photos", {"a": 3, "b": 3})
    monkeypatch.chdir(tmp_path)
    data = load_data("photos")
    monkeypatch.chdir("/")
    assert data.read(data.samples[0]).size == (24, 24)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, frostline.data; sys.exit(' '.join({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False).stderr == b"\n"


def test_names_with_spaces_and_other_scripts(tmp_path: Path) -> None:
    data = load_data(by_class(tmp_path, {"große Bäume": 3, "小 鳥": 3}))
    assert data.classes == ("große Bäume", "小 鳥")
    assert all(data.read(sample).mode == "RGB" for sample in data.samples)


def test_decomposed_names_are_one_class(tmp_path: Path) -> None:
    by_class(tmp_path / "train", {"e\u0301t\u00e9": 3, "hiver": 3})
    by_class(tmp_path / "test", {"\u00e9t\u00e9": 3, "hiver": 3}, start=50)
    assert load_data(tmp_path).classes == ("hiver", "\u00e9t\u00e9")


@pytest.mark.skipif(os.name != "posix", reason="needs names that are not Unicode")
def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    try:
        os.rename(tmp_path / "a" / "000.png", os.fsencode(tmp_path / "a") + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this file system keeps Unicode names only")
    data = load_data(tmp_path)
    assert len(data.samples) == 6
    assert type(data).from_json(data.to_json()).digest == data.digest


def test_parts_as_folders(tmp_path: Path) -> None:
    for start, (subset, count) in enumerate({"training": 5, "validation": 3, "test": 2}.items()):
        by_class(tmp_path / subset, {"a": count, "b": count}, start=100 * start)
    data = load_data(tmp_path)
    assert data.counts == {label: {"train": 5, "val": 3, "test": 2} for label in "ab"}


def test_train_and_val_without_test(tmp_path: Path) -> None:
    by_class(tmp_path / "train", {"a": 20, "b": 20})
    by_class(tmp_path / "val", {"a": 4, "b": 4}, start=100)
    data = load_data(tmp_path)
    assert data.counts["a"]["val"] == 4
    assert 0 < data.counts["a"]["test"] < 20
    assert any("drawn from train" in note for note in data.notes)


def test_images_without_a_class_are_set_aside(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    save(tmp_path / "loose.png", 99)
    assert [gone.path for gone in load_data(tmp_path).skipped] == ["loose.png"]


def test_hidden_files_are_nobody(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    assert load_data(tmp_path).skipped == ()


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "b" / "root").symlink_to("/", target_is_directory=True)
    (tmp_path / "b" / "loop.png").symlink_to(tmp_path / "b" / "loop.png")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load_data(tmp_path)
    assert len(data.samples) == 6
    assert {gone.path for gone in data.skipped} == {"b/loop.png", "b/gone.png"}


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (gone,) = load_data(tmp_path).skipped
    assert "pipe" in gone.reason


def rows_of(root: Path, splits: bool = False) -> list[list[str]]:
    """List a folder per class as rows of a table."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    subsets = ["train", "test", "train"] if splits else [""]
    return [[path, path.split("/")[0], subsets[i % len(subsets)], ""] for i, path in enumerate(paths)]


def test_csv_and_parquet_equal_the_folder(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 9, "b": 9})
    rows = rows_of(tmp_path)
    folder = load_data(tmp_path)
    text = load_data(table(tmp_path / "list.csv", ["path", "label", "split", "group"], rows))
    columns = dict(zip(["path", "label"], zip(*rows, strict=True), strict=False))
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "list.parquet"
    )
    assert text.split_digest == folder.split_digest == load_data(tmp_path / "list.parquet").split_digest


def test_parquet_labels_may_be_numbers(tmp_path: Path) -> None:
    by_class(tmp_path, {"1": 4, "2": 4})
    paths = [row[0] for row in rows_of(tmp_path)]
    pq.write_table(pa.table({"path": paths, "label": [1.0] * 4 + [2.0] * 4}), tmp_path / "n.parquet")
    assert load_data(tmp_path / "n.parquet").classes == ("1", "2")


def test_the_given_split_is_obeyed(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 9, "b": 9})
    rows = rows_of(tmp_path, splits=True)
    data = load_data(table(tmp_path / "list.csv", ["path", "label", "split", "group"], rows))
    assert [sample.path for sample in data.subset("test")] == [row[0] for row in rows if row[2] == "test"]


def test_absolute_and_windows_paths(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 4, "b": 4})
    rows = rows_of(tmp_path)
    rows[0][0] = str(tmp_path / rows[0][0])
    rows[1][0] = rows[1][0].replace("/", "\\")
    data = load_data(table(tmp_path / "list.csv", ["Path ", "LABEL", "split", "group"], rows))
    assert [sample.path for sample in data.samples[:2]] == ["a/000.png", "a/001.png"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    lines = [["path", "label"], *[row[:2] for row in rows_of(tmp_path)], []]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert len(load_data(tmp_path / "list.csv").samples) == 6


def test_all_mistakes_of_a_table_at_once(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 2, "b": 2})
    rows = [
        ["a/000.png", "a", "trian", ""],
        ["a/001.png", "", "", ""],
        ["b/000.png", "b", "", ""],
        ["b/000.png", "a", "", ""],
        ["b/001.png", "b", "train", ""],
        ["b/001.png", "b", "test", ""],
    ]
    with pytest.raises(DataError) as caught:
        load_data(table(tmp_path / "list.csv", ["path", "label", "split", "group"], rows))
    message = str(caught.value)
    assert "3 mistake(s)" in message
    for words in (
        "'trian'",
        "Did you mean 'train'?",
        "several labels",
        "row 4",
        "in row 6, 'train'",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["paths", "label"], "'path' is missing (found 'paths', 'label'); rename 'paths' to 'path'"),
        (["path", "label", "groups"], "Did you mean 'group'?"),
        (["path", "label", "label"], "appears twice"),
        (["file", "kind"], "'label' is missing"),
    ],
)
def test_columns_that_are_wrong(tmp_path: Path, columns: list[str], words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(table(tmp_path / "list.csv", columns, [["x"] * len(columns)]))
    assert words in str(caught.value)


def test_missing_files_are_listed_and_all_missing_refused(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    rows = [*rows_of(tmp_path), ["a/lost.png", "a", "", ""]]
    columns = ["path", "label", "split", "group"]
    (gone,) = load_data(table(tmp_path / "list.csv", columns, rows)).skipped
    assert (gone.path, gone.reason) == ("a/lost.png", "does not exist")
    with pytest.raises(
        DataError, match=r"None of 7 images can be used\. Paths that are not absolute count from"
    ):
        load_data(table(tmp_path / "elsewhere" / "list.csv", columns, rows))


def test_messages_for_folders_that_will_not_do(tmp_path: Path) -> None:
    photos = by_class(tmp_path / "photos", {"cats": 2})
    with pytest.raises(DataError, match=r"photso does not exist.*Did you mean 'photos'"):
        load_data(tmp_path / "photso")
    with pytest.raises(DataError, match="Found one class, 'cats'"):
        load_data(photos)
    with pytest.raises(DataError, match="no class folders, so they have no labels"):
        load_data(photos / "cats")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load_data(tmp_path / "empty")
    by_class(photos, {"dogs": 2}, start=9)
    (tmp_path / "outer").mkdir()
    photos.rename(tmp_path / "outer" / "photos")
    with pytest.raises(DataError, match=r"Did you mean .*outer/photos"):
        load_data(tmp_path / "outer")
    with pytest.raises(DataError, match="is a single file"):
        load_data(tmp_path / "outer" / "photos" / "cats" / "000.png")
    with pytest.raises(DataError, match="Found a int"):
        load_data(3)


def test_a_table_beside_loose_images_is_offered(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 1)
    table(tmp_path / "labels.csv", ["path", "label"], [["x.png", "a"]])
    with pytest.raises(DataError, match=r"Did you mean the table .*labels\.csv"):
        load_data(tmp_path)


def test_parts_mixed_with_other_folders(tmp_path: Path) -> None:
    for subset in ("train", "test"):
        by_class(tmp_path / subset, {"a": 2, "b": 2}, start=len(subset) * 10)
    save(tmp_path / "extra" / "x.png", 9)
    flat = load_data(tmp_path)
    assert any("Images in extra/ have no label" in note for note in flat.notes)
    assert [gone.path for gone in flat.skipped] == ["extra/x.png"]
    save(tmp_path / "extra" / "a" / "y.png", 9)
    with pytest.raises(DataError, match="mixes subsets"):
        load_data(tmp_path)


def test_flat_parts_are_not_classes(tmp_path: Path) -> None:
    by_class(tmp_path, {"train": 3, "test": 3})
    with pytest.raises(DataError, match="no class folders under train/"):
        load_data(tmp_path)


def test_a_class_in_test_only_is_refused(tmp_path: Path) -> None:
    by_class(tmp_path / "train", {"a": 3, "b": 3})
    by_class(tmp_path / "test", {"a": 2, "bee": 2}, start=50)
    with pytest.raises(DataError, match=r"No training image for 'bee'"):
        load_data(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.0, 20])
def test_shares_out_of_range(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="test_size must be at least 0 and below 1, such as") as caught:
        load_data(tmp_path, test_size=share)
    assert ("For 20 % write 0.2." in str(caught.value)) == (share == 20)
