"""Names of any kind write and read nothing outside of the study."""

from __future__ import annotations

import csv
import os
import socket
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.data.sources import file_listing
from frostline.data.sources.tables import read_table
from frostline.errors import CacheWarning, DataError
from frostline.feature_cache import FeatureCache, Form, key_of, shard_file
from tiny import PREPROCESSING, tiny_model, write_folder, write_table

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


DEEP = "[" * 100_000


# --- names ------------------------------------------------------------------------------------------------

NAMES = [
    "../../x",
    "..",
    "CON",
    "nul.png",
    "a:b",
    "x" * 200,
    "a\nb",
    "\u202egnp",
    "-rf",
    "{{7*7}}",
    "%2e%2e%2f",
]


def test_labels_of_any_kind_write_nothing_outside_of_the_study(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    write_table(inside / "images", classes=2, train=6, test=2)
    with open(inside / "images" / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = ["../../x", "/" + "y" * 300 + "\u202e"]
    table = inside / "images" / "odd.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        for number, row in enumerate(rows):
            writer.writerow([row["path"], labels[int(row["label"][-1])], row["split"], f"../{number}"])
    before = files_of(tmp_path, but=inside / "study")
    backbone = frostline.load_backbone(tiny_model(), preprocessing=PREPROCESSING, name="../../net")
    data = frostline.load_data(table, near_copies=False)
    run = frostline.train(backbone, data, "head(epochs=1)", study=inside / "study", flip="none", threads=1)
    frostline.report(inside / "study")
    assert set(data.classes) == set(labels)
    assert run.folder.path.parent == inside / "study" / "runs"
    assert files_of(tmp_path, but=inside / "study") == before


def files_of(folder: Path, but: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if but not in (path, *path.parents)}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_folder_of_any_name_is_a_label(tmp_path: Path, name: str) -> None:
    if "/" in name or name == "..":
        return
    write_folder(tmp_path, classes=1, per_class=4)
    (tmp_path / name).mkdir()
    Image.new("RGB", (9, 9), (0, 200, 0)).save(tmp_path / name / "a.png")
    assert name in frostline.load_data(tmp_path, near_copies=False).classes


def test_pipes_sockets_loops_and_links_out_are_borne(tmp_path: Path) -> None:
    root, outside = tmp_path / "images", tmp_path / "outside"
    write_folder(root, classes=2, per_class=4)
    outside.mkdir()
    Image.new("RGB", (9, 9), (200, 200, 0)).save(outside / "linked.png")
    place = root / "kind 0"
    os.mkfifo(place / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as door:
        here = Path.cwd()
        os.chdir(place)  # a socket's name has 108 bytes
        try:
            door.bind("door.jpg")
        finally:
            os.chdir(here)
    (place / "zero.jpg").symlink_to("/dev/zero")
    (place / "itself.jpg").symlink_to("itself.jpg")
    (place / "up").symlink_to(root)
    (place / "out").symlink_to(outside)
    data = frostline.load_data(root, near_copies=False)
    gone = {Path(one.path).name: one.reason for one in data.skipped}
    assert set(gone) == {"pipe.jpg", "door.jpg", "zero.jpg", "itself.jpg"}
    assert "pipe or a device" in gone["zero.jpg"]
    assert len(data.samples) == 9  # the linked picture counts: the person put the link there


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_damaged_archives_are_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError):
        frostline.load_data(tmp_path / name)


def test_paths_too_long_for_a_file_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        file_listing.find_images(tmp_path / ("x" * 300))
    long = "x" * 300
    (tmp_path / "a.csv").write_text(f"path,label\n{long}\\a.png,cat\n../{long},dog\na\0b,cat\n")
    assert len(read_table(tmp_path / "a.csv").images) == 3


def test_a_store_from_a_stranger_deletes_nothing_outside(tmp_path: Path) -> None:
    place, victim = tmp_path / "cache", tmp_path / "victim"
    victim.write_text("mine")
    with FeatureCache(place) as cache:
        prefix = cache.prefix({"a": 1})
        prefix.put([key_of("0" * 64, "0")], np.zeros((1, 16), dtype=np.uint8), Form("float32", (4,)))
        prefix.flush()
    with sqlite3.connect(place / "index.sqlite") as connection:
        connection.execute("UPDATE shards SET name = '../victim'")
    connection.close()
    with FeatureCache(place) as cache, pytest.warns(CacheWarning, match="names the file"):
        cache.clear()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "form", ['["float32", [-1, -4], 0]', '["float32", [4611686018427387904], 0]', DEEP, "7", "[[], 1, 2]"]
)
def test_forms_of_rows_that_no_layer_has_are_refused(form: str) -> None:
    with pytest.raises(ValueError):
        Form.from_json(form)


def test_a_shard_that_names_no_shelf_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file as save_arrays

    about = {"format": str(shard_file.FORMAT), "form": '["float32", [4], false]', "keys": "", "checks": ""}
    save_arrays({"rows": np.zeros((0, 16), dtype=np.uint8)}, tmp_path / "a", metadata=about)
    with pytest.raises(ValueError, match="not a whole shard"):
        shard_file.contents(tmp_path / "a")
