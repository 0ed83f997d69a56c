"""The Manifest: what its digests notice (law 6), and that it is kept and read back whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data import Manifest, Sample, load_data
from frostline.errors import DataError
from test_dataset_sources import by_class, save, table

text = st.text(max_size=8)
samples = st.lists(
    st.builds(
        Sample,
        path=st.uuids().map(str),
        label=st.text(min_size=1, max_size=8),
        digest=st.integers(0, 30).map(lambda value: f"{value:064x}"),
        group=text,
        split=st.sampled_from(["train", "val", "test"]),
    ),
    min_size=1,
    max_size=12,
)


def manifest_of(rows: list[Sample], root: Path | None = None) -> Manifest:
    return Manifest(root, tuple(rows), tuple(sorted({row.label for row in rows})))


@settings(deadline=None)
@given(rows=samples, data=st.data())
def test_the_digest_ignores_order_names_and_root(rows: list[Sample], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    moved = [replace(row, path=f"new/{i}") for i, row in enumerate(shuffled)]
    one, other = manifest_of(rows), manifest_of(moved, Path("elsewhere"))
    assert one.digest == other.digest
    assert one.split_digest == other.split_digest
    assert one.test_digest == other.test_digest


@settings(deadline=None)
@given(rows=samples, data=st.data(), name=st.sampled_from(["label", "digest", "group"]))
def test_the_digest_notices_one_change(rows: list[Sample], data: st.DataObject, name: str) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    changed = list(rows)
    changed[at] = replace(rows[at], **{name: getattr(rows[at], name) + "x"})
    assert manifest_of(changed).digest != manifest_of(rows).digest


def test_the_split_digest_notices_a_change_of_part() -> None:
    rows = [Sample("1", "a", "0" * 64, "", "train"), Sample("2", "b", "1" * 64, "", "train")]
    moved = [rows[0], replace(rows[1], split="test")]
    one, other = manifest_of(rows), manifest_of(moved)
    assert one.digest == other.digest
    assert one.split_digest != other.split_digest
    assert one.test_digest != other.test_digest


def test_one_changed_byte_and_a_moved_folder(tmp_path: Path) -> None:
    first = load_data(by_class(tmp_path / "one", {"a": 4, "b": 4}))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert load_data(tmp_path / "two").split_digest == first.split_digest
    path = tmp_path / "two" / "a" / "000.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert load_data(tmp_path / "two").digest != first.digest


@settings(deadline=None)
@given(rows=samples)
def test_what_is_written_is_read_back(rows: list[Sample]) -> None:
    manifest = manifest_of(rows, Path("some where"))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_whole_manifest_is_kept(tmp_path: Path) -> None:
    by_class(tmp_path / "photos", {"a": 6, "b": 6})
    (tmp_path / "photos" / "a" / "bad.png").write_bytes(b"")
    save(tmp_path / "photos" / "a" / "same.png", 900)
    save(tmp_path / "photos" / "b" / "same.png", 900)
    data = load_data(tmp_path / "photos")
    assert data.skipped
    assert data.conflicts
    data.write(tmp_path / "manifest.jsonl")
    manifest = Manifest.load(tmp_path / "manifest.jsonl")
    assert manifest == data
    assert manifest.units(manifest.samples).tolist() == data.units(data.samples).tolist()
    assert manifest.read(manifest.samples[0]).size == (24, 24)


def test_a_manifest_that_was_touched_is_refused(tmp_path: Path) -> None:
    data = load_data(by_class(tmp_path / "photos", {"a": 4, "b": 4}))
    whole = data.to_json()
    lines = whole.splitlines()
    other = json.loads(lines[0]) | {"frostline_manifest": 1}
    for broken, words in {
        "\n".join(lines[:-1]): "cut short or edited",
        whole.replace('"b"', '"c"'): "cut short or edited",
        json.dumps(other): "has format 1; expected 2",
        "[1, 2]": "is not a manifest",
        "": "is not a manifest",
        json.dumps({"frostline_manifest": 2}): "is damaged",
    }.items():
        with pytest.raises(DataError, match=words):
            Manifest.from_json(broken)
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.load(tmp_path / "nowhere.jsonl")


def test_it_does_not_change() -> None:
    manifest = manifest_of([Sample("1", "a", "0" * 64, "", "train")])
    with pytest.raises(FrozenInstanceError):
        manifest.notes = ()  # type: ignore[misc]
    with pytest.raises(DataError, match="Unknown subset 'trian'"):
        manifest.subset("trian")


def test_groups_from_a_table_hold_in_folds(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 12, "b": 12})
    rows = [[f"{label}/{i:03d}.png", label, f"g{i // 3}{label}"] for label in "ab" for i in range(12)]
    data = load_data(table(tmp_path / "list.csv", ["path", "label", "group"], rows))
    train = data.subset("train")
    groups = [sample.group for sample in train]
    pairs = data.folds(train, 5, seed=0)
    assert 2 <= len(pairs) <= 4
    for learn, hold in pairs:
        assert not {groups[i] for i in learn} & {groups[i] for i in hold}
    assert any("8 groups" in note for note in data.notes)


def test_notes_say_what_is_odd(tmp_path: Path) -> None:
    by_class(tmp_path, {"cat": 3, "Cat": 3, "dog": 3})
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "x.png").write_bytes(b"")
    (tmp_path / "void").mkdir()
    notes = " ".join(load_data(tmp_path).notes)
    for words in (
        "'Cat' and 'cat' differ in case",
        "'gone' has no usable image",
        "void is empty",
        "9 images in 3",
    ):
        assert words in notes
