"""Images are sorted into folders: every one once, nothing overwritten, nothing written outside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data import folder_names, sort_into, unsure_folder_name
from frostline.errors import DataError, UsageError
from frostline.system import directories


def put(path: Path, content: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_a_taken_name_gets_a_suffix_and_a_second_time_copies_nothing(tmp_path: Path) -> None:
    images = [
        (put(tmp_path / "a" / "x.jpg", "one"), "cat"),
        (put(tmp_path / "b" / "x.jpg", "two"), "cat"),
        (put(tmp_path / "b" / "y.jpg", "three"), "dog"),
    ]
    put(tmp_path / "out" / "dog" / "y.jpg", "somebody's own")
    done = sort_into(tmp_path / "out", images)
    assert (done.copied, done.already_there, done.failed) == ({"cat": 2, "dog": 1}, {}, [])
    files = tree(tmp_path / "out")
    assert sorted(files.values()) == ["one", "somebody's own", "three", "two"]
    assert (files["cat/x.jpg"], files["dog/y.jpg"]) == ("one", "somebody's own")
    again = sort_into(tmp_path / "out", images[::-1])
    assert (again.copied, again.already_there) == ({}, {"cat": 2, "dog": 1})
    assert tree(tmp_path / "out") == files
    assert tree(tmp_path / "a") == {"x.jpg": "one"}


def test_images_that_lie_in_the_folder_are_left(tmp_path: Path) -> None:
    image = put(tmp_path / "photos" / "x.jpg", "one")
    place = tmp_path / "photos" / "sorted"
    assert sort_into(place, [(image, "cat")]).copied == {"cat": 1}
    again = sort_into(place, [(image, "cat"), (str(place / "cat" / "x.jpg"), "dog")])
    assert (again.copied, again.already_there, again.inside) == ({}, {"cat": 1}, 1)


def test_an_image_that_is_gone_is_listed(tmp_path: Path) -> None:
    done = sort_into(tmp_path / "out", [(str(tmp_path / "gone.jpg"), "cat"), ("image[0]", "cat")])
    assert [reason for _, reason in done.failed] == ["does not exist"] * 2
    assert done.as_dict()["copied"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    image = put(tmp_path / "x.jpg", "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads elsewhere; nothing is written outside"):
        sort_into(tmp_path / "out", [(image, "cat")])
    (tmp_path / "out" / "dog").mkdir()
    (tmp_path / "out" / "dog" / "x.jpg").symlink_to(tmp_path / "elsewhere" / "new.jpg")
    assert sort_into(tmp_path / "out", [(image, "dog")]).copied == {"dog": 1}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_files_have_no_links_images_are_copied_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("os.link", refuse)
    sort_into(tmp_path / "out", [(put(tmp_path / "x.jpg", "one"), "cat")])
    assert tree(tmp_path / "out") == {"cat/x.jpg": "one"}


def test_a_full_disk_is_one_message_and_leaves_no_half_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [(put(tmp_path / f"{n}.jpg", str(n)), "cat") for n in range(2)]
    real = os.link

    def fill(source: Path, place: Path) -> None:
        if place.name == "1.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, place)

    monkeypatch.setattr("os.link", fill)
    monkeypatch.setattr("os.rename", fill)
    with pytest.raises(DataError, match=r"No space left on device\). 1 of 2 images were copied"):
        sort_into(tmp_path / "out", images)
    assert tree(tmp_path / "out") == {"cat/0.jpg": "0"}


def test_a_file_is_no_folder_to_copy_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a file; expected a folder"):
        sort_into(Path(put(tmp_path / "out", "")), [])


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, frostline.system.directories as p; "
        "print(p.temporary(pathlib.Path(sys.argv[1])))"
    )
    folder = tmp_path / "out" / "cat"
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "copy"], capture_output=True, text=True, check=True
    )
    dead, mine = Path(done.stdout.strip()), directories.temporary(folder / "copy")
    elsewhere = folder / f".copy.{'0' * 8}-1.tmp"
    for path in (dead, mine, elsewhere):
        path.write_text("half")
    old = folder / f".copy.{'0' * 8}-2.tmp"
    old.write_text("half")
    os.utime(old, (1, 1))
    sort_into(tmp_path / "out", [(put(tmp_path / "x.jpg", "one"), "cat")])
    # another machine's is left for a day; this process's own name is used and freed
    assert sorted(path.name for path in folder.iterdir()) == [elsewhere.name, "x.jpg"]


@given(
    st.lists(st.text(max_size=200) | st.sampled_from(["..", ".", "CON", "a/b", "A", "a", "../../x", "nul.b"]))
)
def test_every_label_has_a_folder_of_its_own_in_the_folder(labels: list[str]) -> None:
    names = folder_names(labels)
    assert set(names) == set(labels)
    assert len({name.casefold() for name in names.values()}) == len(names)
    for name in names.values():
        assert Path("/sorted") / name == Path("/sorted/" + name)
        assert Path(os.path.normpath(f"/sorted/{name}")).parent == Path("/sorted")
        assert not name.startswith(".")
        assert 0 < len(name.encode()) <= 200
        assert not set(name) & set('/\\:*?"<>|\0\n')
    assert unsure_folder_name(names.values()) not in names.values()


def test_plain_labels_keep_their_names() -> None:
    labels = ["cat", "kind 0", "Größe", "日本", "3.5 mm", "👩\u200d👧"]
    assert folder_names(labels) == {label: label for label in labels}
    assert unsure_folder_name(["Unsure"]) == "unsure-images"
