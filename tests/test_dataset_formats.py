"""What files are is in their content; what can't be read is named, and nothing is left out without a word."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deep_examples import dicom, tiff
from frostline.data import load_data, open_image, prediction_inputs
from frostline.data.pixels import formats
from frostline.data.pixels.decoding import picture
from frostline.errors import DamagedImage, DataError
from test_dataset_decoding import encoded, noise
from test_dataset_depth import folder_of, twelve_bits

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200


def names(images: Any) -> list[str]:
    return [Path(question.name).name for question in prediction_inputs(images)]


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    """A JPEG called .HEIC and pictures without an ending were left out, and `unreadable` was empty."""
    files = {
        "phone.HEIC": encoded(noise(), "JPEG"),
        "IMG_0001": encoded(noise(), "JPEG"),
        "scan.bak": encoded(noise(), "TIFF"),
        "real.HEIC": HEIC,
        "drawing.psd": b"8BPS\0\1" + b"\0" * 100,
        "labels.csv.txt": b"path,label\n",
        "LICENSE": b"Apache",
    }
    whole = prediction_inputs(folder_of(tmp_path, files))
    assert [Path(q.name).name for q in whole.inputs] == [
        "IMG_0001", "drawing.psd", "phone.HEIC", "real.HEIC", "scan.bak",
    ]  # fmt: skip
    assert [Path(name).name for name in whole.other_files] == ["LICENSE", "labels.csv.txt"]
    assert open_image(tmp_path / "phone.HEIC").size == (32, 32)
    with pytest.raises(DamagedImage, match="is a Photoshop file"):
        open_image(tmp_path / "drawing.psd")


def test_training_takes_the_same_files(tmp_path: Path) -> None:
    for n in range(3):
        folder_of(
            tmp_path,
            {f"a/IMG_{n}": encoded(noise(seed=n)), f"b/{n}.HEIC": encoded(noise(seed=9 + n), "JPEG")},
        )
    folder_of(tmp_path, {"loose": encoded(noise(seed=99)), "README": b"no picture", "a/x.heic": HEIC})
    data = load_data(tmp_path)
    assert len(data.samples) == 6
    assert {gone.path for gone in data.skipped} == {"a/x.heic", "loose"}


@pytest.mark.ecosystem
def test_shards_are_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for n in range(6):
            for end, content in (
                ("", encoded(noise(seed=n))),
                (".cls", b"ab"[n % 2 : n % 2 + 1]),
                (".md", b"hm"),
            ):
                member = tarfile.TarInfo(f"{n}{end}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert len(load_data(path).samples) == 6
    assert len(prediction_inputs(path)) == 6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((8, 8, 13), np.uint16), r"TIFF with 13 band\(s\) of 16 bits \(whole numbers\)"),
        (np.zeros((8, 8, 3), np.float32), r"TIFF with 3 band\(s\) of 32 bits \(floats\)"),
        (np.zeros((8, 8), np.float64), r"TIFF with 1 band\(s\) of 64 bits \(floats\)"),
    ],
)
def test_bands_that_are_not_read_are_said(values: Any, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It was "not an image in a format known here (…, TIFF, …)", with a line that Pillow printed."""
    with pytest.raises(DamagedImage, match=words):
        open_image(tiff(values))
    assert capfd.readouterr() == ("", "")


def test_pages_and_frames_are_said(tmp_path: Path) -> None:
    """The first page was taken, silently."""
    buffer = io.BytesIO()
    pages = [Image.fromarray(twelve_bits(290, seed=n)) for n in range(3)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    for n in range(4):
        folder_of(tmp_path, {f"{'ab'[n % 2]}/{n}.png": encoded(noise(seed=n))})
    moving = encoded(noise(seed=50), "GIF", save_all=True, append_images=[noise(seed=51)])
    folder_of(tmp_path, {"a/stack.tif": buffer.getvalue(), "b/moving.gif": moving})
    sentence = "2 file(s) hold several pages or frames; the first of each is used: a/stack.tif, b/moving.gif."
    assert sentence in load_data(tmp_path).notes
    assert sentence in load_data(tmp_path).notes  # from memory
    assert np.array_equal(picture(buffer.getvalue()).deep.values, np.asarray(pages[0]))


def test_a_raw_file_is_no_thumbnail() -> None:
    """Pillow shows the preview in a camera's raw file, 160 pixels wide, without a word."""
    buffer = io.BytesIO()
    noise(64).save(buffer, "TIFF", tiffinfo={254: 1})
    with pytest.raises(DamagedImage, match="is a camera's raw file"):
        open_image(buffer.getvalue())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "installed", lambda name: False)
    with pytest.raises(DamagedImage, match=r'HEIC picture, as phones .*pip install "frostline\[formats\]"'):
        open_image(HEIC)
    with pytest.raises(DamagedImage, match=r'DICOM image: pip install "frostline\[formats\]"'):
        open_image(b"\0" * 128 + b"DICM" + b"\0" * 50)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": b"x", "b": b"y"})
    with pytest.raises(DataError, match="holds no image files; it holds 2 other"):
        prediction_inputs(tmp_path)


@pytest.mark.ecosystem
def test_heic_is_read_where_its_library_is(tmp_path: Path) -> None:
    import pillow_heif

    buffer = io.BytesIO()
    red = Image.new("RGB", (64, 48), (200, 30, 30))
    pillow_heif.from_pillow(red).save(buffer)
    seen = open_image(buffer.getvalue())
    assert seen.size == (64, 48)
    assert np.abs(np.asarray(seen, dtype=int) - (200, 30, 30)).max() < 8
    folder_of(tmp_path, {"a.HEIC": buffer.getvalue(), "b": buffer.getvalue()})
    assert names(tmp_path) == ["a.HEIC", "b"]


@pytest.mark.ecosystem
def test_dicom_values_are_the_modalitys() -> None:
    values = twelve_bits(290)
    deep = picture(dicom(values, RescaleSlope="2", RescaleIntercept="-1024")).deep
    assert deep.kind == "DICOM CT"
    assert np.array_equal(deep.values, 2.0 * values - 1024)
    turned = picture(dicom(values, PhotometricInterpretation="MONOCHROME1")).deep
    assert np.array_equal(turned.values, 4095.0 - values)
    signed = (values.astype(np.int16) - 400).astype(np.int16)
    padded = signed.copy()
    padded[0] = -2000
    seen = picture(dicom(padded, PixelPaddingValue=-2000)).deep.values
    assert np.array_equal(seen[1:], signed[1:].astype(np.float32))
    assert (seen[0] == signed[1:].min()).all()


@pytest.mark.ecosystem
def test_dicom_of_eight_bits_is_a_plain_picture() -> None:
    colours = np.asarray(noise(16))
    assert np.array_equal(np.asarray(open_image(dicom(colours))), colours)
    grey = colours[..., 0].copy()
    assert np.array_equal(np.asarray(open_image(dicom(grey)))[..., 0], grey)
    turned = open_image(dicom(grey, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(np.asarray(turned)[..., 0], 255 - grey)


@pytest.mark.ecosystem
def test_a_patient_is_a_group_and_frames_are_said(tmp_path: Path) -> None:
    files = {
        f"{label}/{n}": dicom(
            twelve_bits(290, seed=2 * n + (label == "a")), PatientID=f"{label} Smith {n // 2}"
        )
        for label in "ab"
        for n in range(10)
    }
    files["a/movie.dcm"] = dicom(np.stack([twelve_bits(290, seed=77), twelve_bits(290, seed=78)]))
    data = load_data(folder_of(tmp_path, files))
    of_patient: dict[str, set[str]] = {}
    for sample in data.samples:
        if sample.group:
            of_patient.setdefault(sample.group, set()).add(sample.split)
    assert len(of_patient) == 10
    assert all(len(parts) == 1 for parts in of_patient.values())
    assert "Smith" not in data.to_json()
    assert any("20 DICOM file(s) name 10 patient(s)" in note for note in data.notes)
    assert any(
        "1 file(s) hold several pages or frames; the first of each is used: a/movie" in n for n in data.notes
    )
    assert load_data(tmp_path).to_json() == data.to_json()


@pytest.mark.ecosystem
def test_dicom_that_holds_no_picture_has_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    whole = dicom(twelve_bits(290))
    for bad in (whole[:400], whole[:-900], whole[:140], whole[:132] + b"\xff" * 300):
        with pytest.raises(DamagedImage):
            open_image(bad)
    assert capfd.readouterr() == ("", "")
    huge = dicom(twelve_bits(290), Rows=60000, Columns=60000)
    with pytest.raises(DamagedImage, match="decompression bomb"):
        open_image(huge)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_deflate", "tiff_lzw"])
def test_a_damaged_tiff_prints_nothing_of_its_own(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """libtiff wrote to standard error what the reason says in words."""
    made = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(
        made, format="TIFF", compression=compression
    )
    content = bytearray(made.getvalue())
    where = content.index(b"\xff\xd8") + 2 if compression == "jpeg" else 8
    content[where : where + 200] = bytes(200)
    with pytest.raises(DamagedImage):
        picture(bytes(content))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["a/path", 3.0, None])
def test_one_object_in_an_array_is_no_image(value: Any) -> None:
    """Found by fuzzing: an array of no dimensions was iterated over."""
    with pytest.raises(DataError, match=r"shape \(\)"):
        prediction_inputs(np.array(value, dtype=object))[0].open()
