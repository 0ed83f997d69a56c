"""Text on its way out: names that an encoding can't hold, and names that are no text."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.cli import main
from frostline.inference.prediction_rows import Prediction, Predictions
from frostline.system import directories
from frostline.system.text_output import encoded, never_fail
from tiny import write_table

NAMES = ("Straße", "日本語", "caf\udce9", "\ud800", "cat")  # the third is a byte, the fourth half a character


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_is_written_and_file_names_keep_their_bytes(text: str) -> None:
    assert isinstance(encoded(text), bytes)
    name = os.fsencode(text) if not any(0xD800 <= ord(letter) < 0xE000 for letter in text) else None
    assert name is None or encoded(text) == name


@given(st.binary(max_size=20))
def test_bytes_of_a_file_name_come_out_as_they_went_in(name: bytes) -> None:
    assert encoded(os.fsdecode(name)) == name


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1", "cp932", "utf-8"])
def test_a_terminal_shows_every_name(encoding: str) -> None:
    raw = io.BytesIO()
    stream = Terminal(raw, encoding=encoding)
    never_fail(stream)
    print(*NAMES, "8 × 8 …", sep="|", file=stream, flush=True)
    shown = raw.getvalue().decode(encoding).strip().split("|")
    assert shown[2:5] == ["caf\\xe9", "\\ud800", "cat"]
    assert shown[0] == ("Straße" if encoding in ("latin-1", "cp437", "utf-8") else "Stra\\xdfe")
    assert shown[5].replace("×", "x").replace("…", "...") == "8 x 8 ..."


def test_a_pipe_gets_bytes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    never_fail(stream)
    print("caf\udce9", file=stream, flush=True)
    assert raw.getvalue() == b"caf\xe9\n"


def test_a_table_of_answers_holds_every_row(tmp_path: Path) -> None:
    """A name that isn't UTF-8 ended the file in the middle."""
    rows = tuple(Prediction(f"{name}.jpg", ((name, 0.5),)) for name in NAMES)
    Predictions(rows, (), "run", "why", "head").to_csv(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_bytes().split(b"\r\n")[1:-1]
    assert lines[2] == b"caf\xe9.jpg,caf\xe9,0.5"
    assert len(lines) == len(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_is_written_through_a_link_and_a_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there")
    directories.write_whole(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"1"
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    directories.write_whole(tmp_path / "pipe", b"2")
    assert os.read(reading, 9) == b"2"
    assert (tmp_path / "pipe").is_fifo()
    os.close(reading)


def run_main(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command line with standard streams of another encoding."""
    raw = [io.BytesIO(), io.BytesIO()]
    streams = [Terminal(binary, encoding=encoding, errors="strict") for binary in raw]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setattr(sys, "argv", ["frostline", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        for stream in streams:
            stream.flush()
    return int(code or 0), *(binary.getvalue().decode(encoding) for binary in raw)  # type: ignore[return-value]


@pytest.mark.usefixtures("warm_cache")
def test_every_verb_says_what_it_found_on_any_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "images", train=4, test=3)
    monkeypatch.setenv("COLUMNS", "500")
    folder = os.fsencode(table.parent)
    first = next(table.parent.glob("*.png"))
    odd = [os.fsdecode(folder + b"/" + name) for name in (b"caf\xe9.png", "日本 ß.png".encode())]
    for name in odd:
        Path(name).write_bytes(first.read_bytes())
    Path(os.fsdecode(folder + b"/broken \xe9.png")).write_bytes(b"no image")
    table.write_text(table.read_text().replace("kind 0", "Straße 日本"), encoding="utf-8")
    study = str(tmp_path / "study")
    small = [
        "--strategy",
        "linear_probe",
        "--size",
        "32",
        "--deterministic",
        "--threads",
        "1",
        "--study",
        study,
    ]
    code, _, said = run_main(monkeypatch, "ascii", "train", str(table), *small)
    assert code == 0, said
    for encoding in ("ascii", "cp932"):
        code, out, said = run_main(monkeypatch, encoding, "predict", study, str(table.parent))
        assert code == 0, said
        assert "caf\\" in out
        assert "not readable" in out
    output = tmp_path / "answers.csv"
    code, _, said = run_main(
        monkeypatch, "ascii", "predict", study, str(table.parent), "--output", str(output)
    )
    assert code == 0, said
    with open(output, newline="", encoding="utf-8", errors="surrogateescape") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(list(table.parent.glob("*.png"))) - 1
    assert {*odd} <= {*paths}


@pytest.mark.usefixtures("warm_cache")
def test_a_missing_folder_for_the_answers_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path / "nowhere" / "a.csv")
    code, _, said = run_main(monkeypatch, "ascii", "predict", "no-study", "no-image", "--output", where)
    assert code == 2
    assert "Make that folder first" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("kind", [io.TextIOWrapper, Terminal])
def test_an_encoding_of_wide_letters_takes_the_bytes_of_names(encoding: str, kind: Any) -> None:
    """Found by fuzzing: one byte is no letter of theirs, and Python's codec refused it."""
    out = io.BytesIO()
    stream = kind(out, encoding=encoding, newline="")
    never_fail(stream)
    stream.write("caf\udce9")
    stream.flush()
    assert out.getvalue().decode(encoding).lstrip("\ufeff") == r"caf\xe9"
