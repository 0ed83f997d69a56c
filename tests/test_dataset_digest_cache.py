"""The cache of image digests: it spares work, and losing it costs nothing else."""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frostline.data import image_scan, load_data
from frostline.data.decoding_threads import decoding_threads
from frostline.data.digest_cache import DECODER, CachedContent, DigestCache, FileKey
from frostline.errors import DataError, UsageError
from test_dataset_sources import by_class, save

LONG_AGO_NS = time.time_ns() - 3_600_000_000_000


def settled(root: Path) -> Path:
    """Let every file look an hour old, as data mostly is."""
    for path in root.rglob("*.png"):
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which files are read and decoded."""
    seen: list[str] = []
    of_file, mark = image_scan._of_file, image_scan._mark

    def noted_file(found, path, key):  # type: ignore[no-untyped-def]
        seen.append(f"hash {found.path}")
        return of_file(found, path, key)

    def noted_mark(image, source):  # type: ignore[no-untyped-def]
        seen.append(f"decode {image.entry.path}")
        return mark(image, source)

    monkeypatch.setattr(image_scan, "_of_file", noted_file)
    monkeypatch.setattr(image_scan, "_mark", noted_mark)
    return seen


def test_a_second_look_reads_only_what_changed(tmp_path: Path, reads: list[str]) -> None:
    settled(by_class(tmp_path, {"a": 4, "b": 4}))
    first = load_data(tmp_path)
    assert len(reads) == 16
    reads.clear()
    assert load_data(tmp_path).split_digest == first.split_digest
    assert reads == []
    save(tmp_path / "a" / "000.png", 500)
    assert load_data(tmp_path).digest != first.digest
    assert reads == ["hash a/000.png", "decode a/000.png"]


def test_another_picture_of_the_same_name_size_and_time_is_read(tmp_path: Path) -> None:
    """As archives restore them: only the file system's own time tells."""
    paths = [tmp_path / name / "000.bmp" for name in ("a", "b")]
    for shade, path in enumerate(paths):
        path.parent.mkdir()
        Image.new("RGB", (8, 8), (40, 90 * shade, 0)).save(path)
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    first = {sample.path: sample.digest for sample in load_data(tmp_path).samples}
    contents = [path.read_bytes() for path in paths]
    time.sleep(0.05)  # a tick of the file system's clock
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    second = {sample.path: sample.digest for sample in load_data(tmp_path).samples}
    assert (second["a/000.bmp"], second["b/000.bmp"]) == (first["b/000.bmp"], first["a/000.bmp"])


def test_a_file_that_turns_out_another_is_read_anew_when_the_data_is_loaded_again(
    tmp_path: Path,
) -> None:
    settled(by_class(tmp_path, {"a": 3, "b": 3}))
    data = load_data(tmp_path)
    path, memory = tmp_path / "a" / "000.png", DigestCache()
    status = path.stat()
    key = FileKey(os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    memory.remember(files=[(key, "ab" * 32)])  # no file system tells
    stale = load_data(tmp_path)
    (sample,) = (sample for sample in stale.samples if sample.path == "a/000.png")
    with pytest.raises(DataError, match="has changed since it was indexed: load the data again, or repeat"):
        stale.picture(sample)
    assert load_data(tmp_path).digest == data.digest


def test_a_renamed_folder_is_hashed_but_not_decoded(tmp_path: Path, reads: list[str]) -> None:
    settled(by_class(tmp_path / "old", {"a": 4, "b": 4}))
    first = load_data(tmp_path / "old")
    reads.clear()
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_data(tmp_path / "new").split_digest == first.split_digest
    assert {line.split()[0] for line in reads} == {"hash"}


def test_a_file_changed_this_second_is_not_trusted(tmp_path: Path, reads: list[str]) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    load_data(tmp_path)
    reads.clear()
    load_data(tmp_path)
    assert len([line for line in reads if line.startswith("hash")]) == 6


def test_threads_change_nothing(tmp_path: Path) -> None:
    by_class(tmp_path, {"a": 9, "b": 9})
    alone = load_data(tmp_path, workers=0).to_json()
    assert load_data(tmp_path, workers=3).to_json() == load_data(tmp_path, workers="auto").to_json() == alone


@pytest.mark.parametrize("workers", [-3, "many", True])
def test_what_is_no_number_of_threads_is_refused(workers: Any, tmp_path: Path) -> None:
    """By whatever decodes: here the first two of them."""
    expected = f'workers must be "auto", or 0 or more, found {workers!r}'
    with pytest.raises(UsageError, match=expected):
        load_data(tmp_path, workers=workers)
    with pytest.raises(UsageError, match=expected):
        decoding_threads(workers)


def test_progress_is_told(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    load_data(by_class(tmp_path, {"a": 3, "b": 3}), progress=lambda *step: steps.append(step))
    assert steps == [("indexing", 6, 6), ("looking for copies", 6, 6)]


def test_a_broken_store_is_done_without(tmp_path: Path, own_cache: Path) -> None:
    by_class(tmp_path, {"a": 3, "b": 3})
    whole = load_data(tmp_path)
    for path in (own_cache / "digests").iterdir():
        path.write_bytes(b"this is no database" * 99)
    data = load_data(tmp_path)
    assert data.split_digest == whole.split_digest
    assert any("could not be used" in note for note in data.notes)
    assert data.checked().split_digest == whole.split_digest


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / "file"))
    data = load_data(by_class(tmp_path / "photos", {"a": 3, "b": 3}))
    assert len(data.samples) == 6
    assert any("could not be used" in note for note in data.notes)


def test_another_decoders_verdict_does_not_count(own_cache: Path) -> None:
    memory, digest = DigestCache(), "ab" * 32
    memory.remember(contents=[CachedContent(digest, decoded=True, fault="is broken", mark=b"m")])
    assert memory.contents_of([digest]) == {digest: CachedContent(digest, True, "is broken", b"m")}
    (path,) = (own_cache / "digests").glob("*.sqlite")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE contents SET decoder = ?", (DECODER + ".old",))
    connection.close()
    assert memory.contents_of([digest]) == {}


def test_more_rows_than_one_statement_takes() -> None:
    memory = DigestCache()
    keys = [FileKey(f"/x/{i}".encode(), i, i) for i in range(1300)]
    memory.remember(files=[(key, f"{key.size_bytes:064x}") for key in keys])
    assert len(memory.digests_of(keys)) == 1300
    assert memory.digests_of([FileKey(b"/x/7", 7, 8)]) == {}
    assert memory.trouble == ""


def load_many(root: str) -> str:
    return "".join(load_data(root, seed=0).notes)


def test_several_processes_at_once(tmp_path: Path) -> None:
    settled(by_class(tmp_path, {"a": 5, "b": 5}))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        notes = list(pool.map(load_many, [str(tmp_path)] * 4))
    assert len(set(notes)) == 1
    assert "could not be used" not in notes[0]
