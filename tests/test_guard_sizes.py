"""Sizes have limits, and readers bear damage: what claims to be large is refused before it grows.

The readers are fuzzed at length by benchmarks/fuzz.py; here its targets run on seeds damaged at random, and
what it found has a test each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frostline.data import Manifest, Sample
from frostline.data.pixels import decoding
from frostline.data.sources.table_cells import MAX_COLUMNS
from frostline.data.sources.tables import read_table
from frostline.errors import DamagedImage, DataError, ModelError, StudyError
from frostline.feature_cache import key_of, shard_file
from frostline.models import Preprocessing
from frostline.studies.study_folder import Study
from tiny import PREPROCESSING

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import fuzz

# --- sizes ------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that declares a size and holds whatever chunks are wanted before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + bytes(3 * min(width, 64)) for _ in range(min(height, 64))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(200_000_000), 9)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 1), (0, 5)])
def test_a_declared_size_out_of_range_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DamagedImage):
        decoding.decode(png(*size))


@pytest.mark.parametrize(
    "extra",
    [chunk(b"zTXt", b"a\0\0" + BOMB), chunk(b"iCCP", b"a\0\0" + BOMB), chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)],
)
def test_chunks_that_would_unpack_to_hundreds_of_megabytes_do_not(extra: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with contextlib.suppress(DamagedImage):
            decoding.decode(png(8, 8, extra))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_animations_give_their_first_frame_and_large_exif_is_borne() -> None:
    frames = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in range(200)]
    made = io.BytesIO()
    frames[0].save(made, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decoding.decode(made.getvalue()).getpixel((0, 0)) == (0, 0, 0)
    made = io.BytesIO()
    frames[0].save(made, format="JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + bytes(60_000))
    assert decoding.decode(made.getvalue()).size == (16, 16)


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7"]
)
def test_formats_that_are_programs_are_refused(content: bytes) -> None:
    with pytest.raises(DamagedImage):
        decoding.decode(content)


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(decoding.MAX_FILE_BYTES + 1)  # a hole: no disk is filled
    with pytest.raises(DamagedImage, match="cannot be decoded"):
        decoding.open_image(tmp_path / "a.jpg")


def test_preprocessing_has_a_largest_size() -> None:
    with pytest.raises(ModelError, match="4096"):
        Preprocessing.from_dict({**PREPROCESSING.as_dict(), "size": 10**6})
    with pytest.raises(ModelError, match="not a preprocessing"):
        Preprocessing.from_dict({**PREPROCESSING.as_dict(), "size": "64"})


def test_tables_have_a_largest_width_and_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"column{n}" for n in range(1_000_000)) + "\n")
    with pytest.raises(DataError, match="1,000,000 columns") as caught:
        read_table(tmp_path / "a.csv")
    assert len(str(caught.value)) < 2000
    names = ["path", "label", *(f"c{n}" for n in range(MAX_COLUMNS - 2))]
    (tmp_path / "b.csv").write_text(",".join(names) + "\n" + "a.png,x\n" * 20_000)
    assert len(read_table(tmp_path / "b.csv").images) == 1  # and 20,000 rows didn't grow to 200 million cells
    (tmp_path / "c.csv").write_text("path,label\n" + "x" * 200_000 + ",cat\n")
    with pytest.raises(DataError, match="field larger than field limit"):
        read_table(tmp_path / "c.csv")


def test_a_parquet_file_that_claims_billions_of_rows_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from frostline.data.sources import table_cells

    table = pyarrow.table({"path": ["a"] * 100, "label": ["x"] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_cells, "MAX_ROWS", 99)
        with pytest.raises(DataError, match="100 rows"):
            read_table(tmp_path / "a.parquet")


# --- the readers, damaged at random -----------------------------------------------------------------------


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_input_is_answered_or_refused(name: str) -> None:
    rng = random.Random(name)
    seeds = fuzz.seeds(name)
    for data in [
        *seeds,
        *(fuzz.damaged(rng.choice(seeds), rng) for _ in range(2 if name in ("page", "study") else 25)),
    ]:
        if (error := fuzz.once(name, data)) is not None:
            raise error


def test_the_short_form_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fuzz.TARGETS, "csv", lambda data, folder: json.loads("{"))
    assert isinstance(fuzz.once("csv", b""), ValueError)
    monkeypatch.setitem(fuzz.TARGETS, "csv", lambda data, folder: os.write(2, b"a decoder's own words"))
    assert isinstance(fuzz.once("csv", b""), fuzz.StrayOutput)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, st.sampled_from(["train", "val", "test"])), max_size=5))
def test_a_manifest_of_any_words_reads_back(rows: list[tuple[str, str, str, str]]) -> None:
    samples = tuple(
        Sample(path, label, f"{n:064x}", group, subset) for n, (path, label, group, subset) in enumerate(rows)
    )
    made = Manifest(None, samples, tuple(sorted({label for _, label, _, _ in rows})))
    assert Manifest.from_json(made.to_json()) == made


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("runs/plit.0\\ab-_\0 ~"), max_size=30))
def test_a_run_is_never_found_outside(where: str) -> None:
    study = Study("/somewhere/study")
    try:
        path = study.run_at(where).path
    except StudyError:
        return
    assert path.is_relative_to(study.path)
    assert ".." not in path.parts


@settings(max_examples=50, deadline=None)
@given(WORDS, WORDS)
def test_keys_of_rows_differ_where_image_or_view_does(one: str, other: str) -> None:
    a, b = key_of("0" * 64, one), key_of("0" * 64, other)
    assert len(a) == shard_file.KEY_BYTES
    assert (a == b) == (one == other)
