"""`--test-data`: another folder or table is the test set alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from frostline.errors import DataError, UsageError
from tiny import picture, tiny_backbone, write_folder, write_table


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder to learn from, and another with two of its pictures and a class that it doesn't have."""
    photos = write_folder(tmp_path / "photos", per_class=12)
    new = write_folder(tmp_path / "new", per_class=5, seed=7)
    (new / "kind 9").mkdir()
    shutil.move(new / "kind 2" / "000.png", new / "kind 9" / "000.png")
    for name in ("000.png", "001.png"):
        shutil.copy(photos / "kind 0" / name, new / "kind 0" / f"copy {name}")
    return photos, new


def test_the_test_part_is_the_other_folder(places: tuple[Path, Path], tmp_path: Path) -> None:
    photos, new = places
    data = frostline.load_data(photos, test_data=new, near_copies=False)
    assert {str(Path(sample.path).relative_to(new)) for sample in data.subset("test")} == {
        f"kind {kind}/{n:03}.png" for kind in range(3) for n in range(5) if (kind, n) != (2, 0)
    }
    assert len(data.subset("train")) + len(data.subset("val")) == 36  # none was drawn for test
    assert data.predefined == ("test",)
    assert data.classes == ("kind 0", "kind 1", "kind 2")
    assert any("kind 9 (1 image)" in note for note in data.notes)
    copies = [gone for gone in data.skipped if gone.kind == "leak"]
    assert len(copies) == 2
    assert copies[0].reason == "is an exact copy of kind 0/000.png, which may be learned from"
    assert any("exact copy" in finding.message for finding in data.findings)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study")
    assert run.n_test == 14
    again = frostline.load_data(photos, test_data=new, near_copies=False, study=tmp_path / "study")
    assert again.split_digest == data.split_digest


def test_an_image_that_both_sources_name_is_learned_from(tmp_path: Path) -> None:
    """Absolute paths are the same in both tables: the one of DATA stays, as a copy's original does."""
    photos = write_folder(tmp_path / "photos", per_class=12)
    rows = [f"{photo},{photo.parent.name}" for photo in sorted(photos.glob("*/*.png"))]
    (tmp_path / "tables").mkdir()
    (learned, new) = tables = [tmp_path / "tables" / name for name in ("learned.csv", "new.csv")]
    for table, own in zip(tables, (rows[:32], rows[30:]), strict=True):
        table.write_text("\n".join(["path,label", *own]))
    data = frostline.load_data(learned, test_data=new, near_copies=False)
    assert (len(data.samples), len(data.subset("test"))) == (36, 4)
    assert [gone.reason for gone in data.skipped] == ["is an image of DATA, which may be learned from"] * 2
    with pytest.raises(DataError, match=r"No image of test_data can be used: 32 images of it are images of"):
        frostline.load_data(learned, test_data=learned)


def test_a_table_may_be_the_test_part_of_a_folder(places: tuple[Path, Path], tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", train=0, test=3, seed=5)
    data = frostline.load_data(places[0], test_data=table, near_copies=False)
    assert len(data.subset("test")) == 9


def test_what_makes_no_sense_gets_one_message(places: tuple[Path, Path], tmp_path: Path) -> None:
    photos, new = places
    with pytest.raises(UsageError, match=r"test_size=0\.3 draws a test set, and test_data is one"):
        frostline.load_data(photos, test_data=new, test_size=0.3)
    with pytest.raises(DataError, match="exact copies"):
        frostline.load_data(photos, test_data=photos, near_copies=False)
    with pytest.raises(UsageError, match="DATA has a test set"):
        frostline.load_data(write_table(tmp_path / "parts"), test_data=new, near_copies=False)
    with pytest.raises(UsageError, match="in files on this machine"):
        frostline.load_data(_Pairs(), test_data=new)
    other = tmp_path / "other"
    (other / "cat").mkdir(parents=True)
    shutil.copy(photos / "kind 0" / "000.png", other / "cat")
    (other / "dog").mkdir()
    shutil.copy(photos / "kind 1" / "000.png", other / "dog")
    with pytest.raises(DataError, match=r"None of the classes of test_data \(cat, dog\)"):
        frostline.load_data(photos, test_data=other, near_copies=False)
    for command in ("train", "compare"):
        words = [command, str(photos), "--test-data", str(new), "--test-size", "0.3"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 2
        assert "give one of the two" in result.output


class _Pairs:
    """A dataset in memory."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[object, int]:
        import numpy as np

        return picture(index % 2, np.random.default_rng(index)), index % 2
