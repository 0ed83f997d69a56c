"""Tables as spreadsheets and people write them: read where there is one way to, and it is said."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from frostline.data import load_data, prediction_inputs, read_paths
from frostline.data.sources.table_cells import read_cells
from frostline.data.sources.tables import read_table
from frostline.errors import DataError, RunWarning, UsageError
from test_dataset_sources import by_class

PATHS = [f"{label}/{n:03}.png" for label in "ab" for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return by_class(tmp_path, {"a": 3, "b": 3})


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "list.csv").write_bytes(text.encode(encoding))
    return folder / "list.csv"


def lines(delimiter: str = ",", end: str = "", header: str = "path,label", slash: str = "/") -> str:
    rows = [
        header.replace(",", delimiter),
        *(f"{path.replace('/', slash)}{delimiter}{path[0]}" for path in PATHS),
    ]
    return "".join(row + end + "\n" for row in rows)


UNAMBIGUOUS = {
    "trailing commas": lines(end=",,,"),
    "sep=": "sep=;\n" + lines(";"),
    "quoted sep=": '"sep=;"\r\n' + lines(";").replace("\n", "\r\n"),
    "blank first line": "\n" + lines(),
    "blank first cells": ",,\n \n" + lines(),
    "old Mac": lines().replace("\n", "\r"),
    "pipe": lines("|"),
    "unused column twice": "path,label,x,x\n" + "".join(f"{path},{path[0]},1,2\n" for path in PATHS),
    "pandas' index": ",path,label\n" + "".join(f"{n},{path},{path[0]}\n" for n, path in enumerate(PATHS)),
    "filename,class": lines(header="filename,class"),
    "Image,Category": lines(header="Image,Category"),
    "backslashes": lines(slash="\\"),
    "no suffix": lines().replace(".png", ""),
}


@pytest.mark.parametrize("text", UNAMBIGUOUS.values(), ids=UNAMBIGUOUS.keys())
@pytest.mark.filterwarnings("ignore::frostline.errors.RunWarning")
def test_what_has_one_meaning_is_read_by_training_and_by_predict(text: str, folder: Path) -> None:
    where = written(folder, text)
    source = read_table(where)
    assert [(image.path, image.label) for image in source.images] == [(path, path[0]) for path in PATHS]
    assert [question.name for question in prediction_inputs(where)] == [str(folder / path) for path in PATHS]
    assert load_data(where).split_digest == load_data(folder).split_digest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("filename,class", "'filename' was read as path"),
        ("backslashes", "6 path(s) were read with / for \\"),
        ("no suffix", "6 path(s) had no suffix and were read as the .png files"),
    ],
)
def test_what_was_assumed_is_said(name: str, words: str, folder: Path) -> None:
    where = written(folder, UNAMBIGUOUS[name])
    assert any(words in note for note in load_data(where).notes)
    with pytest.warns(RunWarning) as caught:
        prediction_inputs(where)
    assert any(words in str(warning.message) for warning in caught)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
@pytest.mark.filterwarnings("ignore::frostline.errors.RunWarning")
def test_other_encodings_of_text(encoding: str, tmp_path: Path) -> None:
    by_class(tmp_path, {"Straße": 3, "Café": 3})
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    where = written(tmp_path, "path;label\n" + "".join(f"{p};{p.split('/')[0]}\n" for p in paths), encoding)
    data = load_data(where)
    assert data.classes == ("Café", "Straße")
    assert any("read as Windows-1252, for example 'Caf" in note for note in data.notes) == (
        encoding == "cp1252"
    )
    assert len(prediction_inputs(where)) == 6


@pytest.mark.skipif(os.name != "posix", reason="needs names that are not Unicode")
@pytest.mark.filterwarnings("ignore::frostline.errors.RunWarning")
def test_a_file_whose_name_is_bytes_is_found_from_a_table(folder: Path) -> None:
    """As `predict --output` writes them."""
    os.rename(folder / "a/000.png", os.fsencode(folder / "a") + b"/caf\xe9.png")
    (folder / "list.csv").write_bytes(lines().encode().replace(b"a/000", b"a/caf\xe9"))
    assert len(load_data(folder / "list.csv").samples) == 6
    assert all(question.open() for question in prediction_inputs(folder / "list.csv"))


@pytest.mark.parametrize("name", ["list.tsv", "LIST.TSV"])
def test_a_table_with_tabs_may_say_so(name: str, folder: Path) -> None:
    (folder / name).write_text(lines("\t"))
    assert len(load_data(folder / name).samples) == len(prediction_inputs(folder / name)) == 6
    alone = folder / "alone"
    alone.mkdir()
    (alone / name).write_text(lines("\t"))
    with pytest.raises(DataError, match=rf"Did you mean the table .*{name}\?"):
        load_data(alone)


def test_rows_that_name_no_subset_are_counted(folder: Path) -> None:
    subsets = ["train", "", "test", " ", "train", "test"]
    rows = [f"{path},{path[0]},{subset}" for path, subset in zip(PATHS, subsets, strict=True)]
    data = load_data(written(folder, "\n".join(["path,label,split", *rows])))
    assert "2 of 6 row(s) name no subset: they are train, and what is drawn from it." in data.notes
    assert len(data.subset("train")) == 4
    empty = [f"{path},{path[0]}," for path in PATHS]
    data = load_data(written(folder, "\n".join(["path,label,split", *empty])), test_size=0.0)
    assert not any("name no subset" in note for note in data.notes)


def test_fastai_s_is_valid_is_a_split(folder: Path) -> None:
    rows = [f"{path},{path[0]},{path.endswith('2.png')}" for path in PATHS]
    data = load_data(written(folder, "\n".join(["name,label,is_valid", *rows])), test_size=0.0)
    assert {sample.path for sample in data.subset("val")} == {"a/002.png", "b/002.png"}
    assert any(
        "'is_valid' was read as fastai does: 2 image(s) are val, 4 train" in note for note in data.notes
    )
    with pytest.raises(DataError, match="row 2: is_valid 'perhaps' is neither true nor false"):
        load_data(written(folder, f"name,label,is_valid\n{PATHS[0]},a,perhaps\n"))


def test_columns_are_named_where_there_are_several(folder: Path) -> None:
    header, rows = "file,image,kind,class", [f"{path},x,z,{path[0]}" for path in PATHS]
    where = written(folder, "\n".join([header, *rows]))
    with pytest.raises(DataError, match=r"'file', 'image' could each be it: name one, as --path-column file"):
        load_data(where)
    assert len(load_data(where, path_column="File").samples) == 6
    assert set(load_data(where, path_column="file", label_column="class").classes) == {"a", "b"}
    with pytest.raises(DataError, match=r"no column 'kin'.*Did you mean 'kind'"):
        load_data(where, path_column="file", label_column="kin")
    assert len(prediction_inputs(where, "file")) == 6
    with pytest.raises(UsageError, match=r"--label-column name.*is not a table"):
        load_data(folder, label_column="class")


def test_what_has_two_meanings_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / "a/000.jpg").write_bytes((folder / "a/000.png").read_bytes())
    where = written(folder, lines().replace(".png", ""))
    for read in (load_data, prediction_inputs):
        with pytest.raises(DataError, match=r"a/000 has no suffix. Did you mean 000.jpg or 000.png"):
            read(where)
    where = written(folder, "path,label\na/001.png,Salt, Pepper\n")
    with pytest.raises(DataError, match="row 2 has 3 cells under 2 columns"):
        load_data(where)


def test_a_list_of_paths_may_hold_commas(folder: Path) -> None:
    """One column has no separator: the line is the name."""
    (folder / "a/000.png").rename(folder / "a/x, y;z.png")
    assert prediction_inputs(written(folder, "path\na/x, y;z.png\n"))[0].open().size == (24, 24)


def test_images_inside_a_parquet_file_are_no_paths(folder: Path) -> None:
    image = [{"bytes": b"x", "path": "a"}] * 2
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), folder / "hf.parquet")
    for read in (load_data, prediction_inputs):
        with pytest.raises(DataError, match=r"not paths.*Hugging Face"):
            read(folder / "hf.parquet")


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.lists(st.tuples(CELL, st.lists(CELL, min_size=6, max_size=6)), max_size=3),
    delimiter=st.sampled_from(",;\t"),
    named=st.booleans(),
    blank=st.integers(0, 2),
    trailing=st.integers(0, 2),
    end=st.sampled_from(["\n", "\r\n"]),
    data=st.data(),
)
def test_what_else_a_table_holds_changes_nothing(  # type: ignore[no-untyped-def]
    folder: Path, extra, delimiter: str, named: bool, blank: int, trailing: int, end: str, data
) -> None:
    """Other columns of any name, in any order, under any of the separators, with blank lines and cells."""
    taken = {"path", "label", "split", "group", "is_valid", "groups", "splits"}
    others = [(f"x{name}", cells) for name, cells in extra if name.strip().lower() not in taken]
    columns = data.draw(st.permutations([("path", PATHS), ("label", [p[0] for p in PATHS]), *others]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerow([*(name for name, _ in columns), *[""] * trailing])
    for n in range(len(PATHS)):
        writer.writerow([*(cells[n] for _, cells in columns), *[""] * trailing])
    opening = f"sep={delimiter}{end}" if named else ""
    where = folder / "list.csv"
    where.write_text(opening + end * blank + text.getvalue(), encoding="utf-8", newline="")
    source = read_table(where)
    assert [(image.path, image.label) for image in source.images] == [(path, path[0]) for path in PATHS]
    assert read_paths(where)[0] == [str(folder / path) for path in PATHS]


NAMES = st.text(
    st.characters(codec="cp1252", exclude_categories=("Cc",)) | st.sampled_from(",;|\t\"'éß"), max_size=5
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=6, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n"]),
    trailing=st.integers(0, 2),
)
def test_labels_of_any_text_come_back_equal_or_are_refused(  # type: ignore[no-untyped-def]
    folder: Path, names, delimiter: str, quoting, encoding: str, end: str, trailing: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    rows = [("path", "label"), *zip(PATHS, names, strict=True)]
    writer.writerows([*row, *[""] * trailing] for row in rows)
    where = folder / "list.csv"
    content = text.getvalue().encode(encoding)
    if encoding == "cp1252" and not content.isascii():
        with contextlib.suppress(UnicodeDecodeError):  # bytes that are UTF-8, too, are read as that
            content.decode("utf-8")
            assume(False)
    where.write_bytes(content)
    try:
        source = read_table(where)
    except DataError:
        return
    expected = [unicodedata.normalize("NFC", name.strip()) for name in names]
    assert [(image.path, image.label) for image in source.images] == list(zip(PATHS, expected, strict=True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.jpg,cat\nb.jpg,"dog\nc.jpg,cat\n', "opened in line 3 or later and not closed"),
        ('a.jpg,"cat\nb.jpg,"dog"\nc.jpg,cat\n', r"opened in line 3 or before .* 'cat\\nb.jpg,dog\"'"),
        ('a.jpg,cat\n"b.jpg,dog\n"c.jpg",cat\n', "opened in line 4 or before"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(rows: str, message: str, tmp_path: Path) -> None:
    """The rest of the table became one label, without a word."""
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    with pytest.raises(DataError, match=f"has a quote that is {message}.*Close it"):
        load_data(tmp_path / "labels.csv")


def test_quoted_cells_of_several_lines_are_text(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text('path,label,remark\n"a ""b"".jpg" ,cat,"two\nlines, with ""quotes"""\n"c\nd.jpg",dog,\n')
    cells = read_cells(table)
    assert cells.rows([0, 1]) == [(3, ['a "b".jpg', "cat"]), (5, ["c\nd.jpg", "dog"])]
