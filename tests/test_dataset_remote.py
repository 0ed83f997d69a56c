"""Images at addresses and in tar shards: tried again, never unpacked, no secrets kept."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import frostline
from frostline.data.sources import remote, tar_shards
from frostline.data.sources.remote import masked
from frostline.errors import DataError, RunWarning
from tiny import tiny_backbone, write_folder

pytestmark = pytest.mark.ecosystem


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An object store in memory that holds a folder of pictures."""
    import fsspec

    monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "WAIT_S", (0.001, 0.002))
    remote._said.clear()
    system = fsspec.filesystem("memory")
    system.put(str(write_folder(tmp_path / "photos", per_class=4)), "/bucket/photos", recursive=True)
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def counted(system: Any, monkeypatch: pytest.MonkeyPatch, fail: int = 0, cut: int = 0) -> list[str]:
    """Note every read; let the first `fail` of them fail and the next `cut` come short."""
    reads: list[str] = []
    plain = type(system).cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        reads.append(path)
        if len(reads) <= fail:
            raise TimeoutError("503 for https://user:secret@host/?X-Amz-Signature=abc")
        content = plain(self, path, start=start, end=end, **options)
        return content[:-7] if len(reads) <= fail + cut else content

    monkeypatch.setattr(type(system), "cat_file", cat_file)
    return reads


def write_shard(path: Path, photos: Path, *, by_json: bool = False) -> Path:
    with tarfile.open(path, "w") as tar:
        for index, file in enumerate(sorted(photos.rglob("*.png"))):
            label = file.parent.name
            add(tar, f"{index:04}.png", file.read_bytes())
            content = json.dumps({"label": label}) if by_json else label
            add(tar, f"{index:04}.{'json' if by_json else 'cls'}", content.encode())
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **settings: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in settings.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def test_a_folder_at_an_address_is_the_folder_and_is_read_once(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted(store, monkeypatch)
    here = frostline.load_data(tmp_path / "photos", near_copies=False)
    there = frostline.load_data("memory://bucket/photos", near_copies=False)
    assert there.digest == here.digest
    assert there.split_digest == here.split_digest
    assert len(reads) == 12
    again = frostline.load_data("memory://bucket/photos", near_copies=False)
    assert again == there
    assert len(reads) == 12  # the listing said that nothing changed


def test_an_object_that_changes_in_mid_run_is_noticed(store: Any) -> None:
    data = frostline.load_data("memory://bucket/photos")
    sample = data.samples[0]
    store.pipe_file(sample.path.removeprefix("memory:/"), b"something else")
    with pytest.raises(DataError, match="has changed since it was indexed"):
        data.read(sample)


def test_failures_pass_with_tries_and_one_warning(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(store, monkeypatch, fail=3)
    with pytest.warns(RunWarning, match="tried again") as caught:
        data = frostline.load_data("memory://bucket/photos")
    assert len(data.samples) == 12
    assert len(caught) == 1


def test_a_line_that_stays_dead_ends_with_one_message_without_secrets(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted(store, monkeypatch, fail=10**6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        with pytest.raises(DataError, match=r"could not be read in 5 tries \(TimeoutError\)") as refusal:
            frostline.load_data("memory://bucket/photos", workers=0)
    assert len(reads) == 5
    assert "secret" not in str(refusal.value)
    assert "Signature" not in str(refusal.value)


def test_short_reads_are_read_again(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = frostline.load_data("memory://bucket/photos", near_copies=False).digest
    monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(tmp_path / "other"))  # nothing is remembered
    counted(store, monkeypatch, cut=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        data = frostline.load_data("memory://bucket/photos", near_copies=False)
    assert data.digest == expected


def test_tables_may_hold_addresses_and_paths_and_keep_no_secret(tmp_path: Path, store: Any) -> None:
    names = sorted(store.find("/bucket/photos"))
    rows = [f"memory:/{name},{name.split('/')[-2]}" for name in names[:-1]]
    local = sorted((tmp_path / "photos").rglob("*.png"))[-1]
    rows.append(f"{local},{local.parent.name}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label", *rows]))
    data = frostline.load_data(table)
    assert data.digest == frostline.load_data(tmp_path / "photos").digest
    assert data.read(data.samples[-1]).size == data.read(data.samples[0]).size


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:pw@host:80/a.jpg?X-Amz-Signature=1#x", "https://host:80/a.jpg"),
        ("s3://key:secret@bucket/a?b.jpg", "s3://bucket/a?b.jpg"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret(address: str, shown: str) -> None:
    assert masked(address) == shown


@pytest.mark.parametrize("by_json", [False, True])
def test_shards_are_the_folder_here_and_far(tmp_path: Path, store: Any, by_json: bool) -> None:
    shard = write_shard(tmp_path / "photos-0.tar", tmp_path / "photos", by_json=by_json)
    expected = frostline.load_data(tmp_path / "photos")
    here = frostline.load_data(tmp_path / "photos-*.tar")
    assert here.digest == expected.digest
    store.put_file(str(shard), "/bucket/photos-0.tar")
    there = frostline.load_data("memory://bucket/photos-0.tar")
    assert there.digest == expected.digest
    assert "bucket/photos-0.tar!00" in there.samples[0].path
    assert there.read(there.samples[0]).tobytes() == here.read(here.samples[0]).tobytes()


@pytest.mark.parametrize(
    "order", ["turns", "sorted", "again", "labels last", "restarts", "with a note", "one key, one label"]
)
def test_each_image_of_a_shard_has_the_label_of_its_own_sample(tmp_path: Path, order: str) -> None:
    """Keys end at the first dot, and may come again: labels were the last one's, images the first one's."""
    photos = sorted(write_folder(tmp_path / "photos", per_class=4).rglob("*.png"))
    name = {
        "turns": lambda i: f"site{i % 3}.{i:04}",
        "sorted": lambda i: f"site.{i:04}",
        "again": lambda i: f"{i % 3}",
        "labels last": lambda i: f"{i:04}",
        "restarts": lambda i: f"{i % 4:04}",
        "with a note": lambda i: f"{i:04}",
        "one key, one label": lambda i: f"{i:04}",
    }[order]
    files = [(f"{name(i)}.png", photo.read_bytes()) for i, photo in enumerate(photos)]
    labels = [(f"{name(i)}.cls", photo.parent.name.encode()) for i, photo in enumerate(photos)]
    pairs = [file for pair in zip(files, labels, strict=True) for file in pair]
    if order == "labels last":
        pairs = files + labels
    if order == "with a note":  # a .json that says no label stands behind the one that does
        pairs = [
            file
            for pair in zip(pairs[::2], pairs[1::2], strict=True)
            for file in (*pair, (pair[0][0][:-3] + "json", b"{}"))
        ]
    if order == "one key, one label":  # WebDataset's parts of a sample
        pairs = [(file.replace(".png", ".left.png"), content) for file, content in pairs]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for file, content in pairs:
            add(tar, file, content)
    expected = frostline.load_data(tmp_path / "photos", near_copies=False)
    shard = frostline.load_data(tmp_path / "s.tar", near_copies=False)
    assert shard.digest == expected.digest
    assert {s.digest: s.label for s in shard.samples} == {s.digest: s.label for s in expected.samples}
    fetcher = remote.Fetcher()
    contents = [fetcher(shown) for shown in tar_shards.images_in(str(tmp_path / "s.tar"), fetcher)]
    assert contents == [photo.read_bytes() for photo in photos]


def test_an_image_with_two_labels_in_a_shard_is_set_aside(tmp_path: Path) -> None:
    photos = sorted(write_folder(tmp_path / "photos", per_class=4).rglob("*.png"))
    with tarfile.open(write_shard(tmp_path / "s.tar", tmp_path / "photos"), "a") as tar:
        add(tar, "x.a.png", photos[0].read_bytes() + b"\0")
        add(tar, "x.cls", b"kind 0")
        add(tar, "x.json", b'{"label": "kind 1"}')
    data = frostline.load_data(tmp_path / "s.tar", near_copies=False)
    assert len(data.samples) == len(photos)
    [skipped] = data.skipped
    assert skipped.reason == "has 2 labels beside it, 'kind 0', 'kind 1'; expected one"


def test_hostile_members_are_set_aside_and_nothing_is_unpacked(tmp_path: Path, store: Any) -> None:
    shard = write_shard(tmp_path / "a.tar", tmp_path / "photos")
    picture = next((tmp_path / "photos").rglob("*.png")).read_bytes()
    with tarfile.open(shard, "a") as tar:
        add(tar, "../out.png", picture)
        add(tar, "/etc/out.png", picture)
        add(tar, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "device.png", type=tarfile.CHRTYPE)
        add(tar, "lonely.png", picture)
    before = set(tmp_path.parent.rglob("*.png"))
    data = frostline.load_data(shard)
    reasons = {gone.path.rpartition("!")[2].strip(): gone.reason for gone in data.skipped}
    assert set(reasons) == {"../out.png", "/etc/out.png", "link.png", "device.png", "lonely.png"}
    assert "leads out" in reasons["../out.png"]
    assert "link or a device" in reasons["link.png"]
    assert "no label beside it" in reasons["lonely.png"]
    assert set(tmp_path.parent.rglob("*.png")) == before


def test_a_torn_or_compressed_shard_and_a_missing_one_are_told(tmp_path: Path, store: Any) -> None:
    torn = tmp_path / "torn.tar"
    torn.write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="not a plain tar file"):
        frostline.load_data(torn)
    with pytest.raises(DataError, match=r"does not exist|No shard"):
        frostline.load_data(tmp_path / "none.tar")
    with pytest.raises(DataError, match="table at an address"):
        frostline.load_data("memory://bucket/table.csv")
    with pytest.raises(DataError, match="does not know"):
        frostline.load_data("nowhere://bucket/photos")


def test_a_run_trains_from_an_address(tmp_path: Path, store: Any) -> None:
    from tiny import tiny_backbone

    data = frostline.load_data("memory://bucket/photos")
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study")
    assert run.n_train == len(data.subset("train"))


def test_predict_answers_for_images_at_addresses_and_in_shards(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(tmp_path / "photos", near_copies=False, test_size=0.0, val_size=0.0)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", deterministic=True)
    reads = counted(store, monkeypatch, fail=1)
    shard = write_shard(tmp_path / "new.tar", tmp_path / "photos")
    store.pipe_file("/bucket/photos/kind 0/notes.txt", b"no picture")
    store.pipe_file("/bucket/photos/kind 1/broken.png", b"no picture either")
    here = run.predict(tmp_path / "photos")
    with pytest.warns(RunWarning, match="tried again"):
        there = run.predict("memory://bucket/photos")
    assert [row.path for row in there] == [f"memory://bucket/photos/{_below(row.path)}" for row in here]
    assert [row.top for row in there] == [row.top for row in here]
    ((name, reason),) = there.unreadable
    assert name.endswith("broken.png")
    assert "is not an image in a format known here" in reason
    assert len(reads) == 1 + 13
    packed = run.predict(str(shard))
    assert [row.top for row in packed] == [row.top for row in here]
    assert packed.rows[0].path == f"{shard}!0000.png"
    one = run.predict("memory://bucket/photos/kind 2/000.png")
    same = next(row for row in here if row.path.endswith("kind 2/000.png"))
    assert (one.rows[0].label, one.rows[0].probability) == (same.label, pytest.approx(same.probability))
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"path\nmemory://bucket/photos/kind 2/000.png\n{here.rows[0].path}\n", encoding="utf-8")
    assert [row.label for row in run.predict(sheet)] == [same.label, here.rows[0].label]
    sorted_ = there.copy_to(tmp_path / "sorted")
    assert len(sorted_.failed) == len(there)
    assert "lies at an address" in sorted_.failed[0][1]


def test_predict_says_what_an_address_lacks(tmp_path: Path, store: Any) -> None:
    from frostline.data import prediction_inputs

    store.pipe_file("/bucket/words/notes.txt", b"no picture")
    with pytest.raises(DataError, match="holds no image; expected names ending in"):
        prediction_inputs("memory://bucket/words")
    with pytest.raises(DataError, match="table at an address"):
        prediction_inputs("memory://bucket/new.csv")
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        add(tar, "0.cls", b"cat")
    with pytest.raises(DataError, match="holds no image"):
        prediction_inputs(tmp_path / "empty.tar")


def _below(path: str) -> str:
    return path.rpartition("photos/")[2]
