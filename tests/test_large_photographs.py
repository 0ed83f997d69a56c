"""Large JPEGs are recognised by their first rows and perceptual hash: training never decodes them whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import frostline
from frostline.data import Manifest, fingerprints_of, load_labelled, recognised
from frostline.data.pixels import decoding, jpeg_digests
from frostline.data.pixels.decoding import Picture
from frostline.data.seen_images import NAME, Fingerprints
from tiny import tiny_backbone

WIDTH, HEIGHT = 1200, 1040  # as flat as a large JPEG may be, so that the test is quick
ORIENTATION = 0x112  # EXIF's tag


def scene(seed: int, noise: int = 0) -> Image.Image:
    """Return a photograph: blurred shapes that `seed` draws, under a sensor's noise that `noise` draws."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(noise).integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(smooth, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return _saved(image, "JPEG", **{"quality": 90, **options})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training photographs, and a test image of each class, as PNG."""
    folder, rows = tmp_path_factory.mktemp("photographs"), ["path,label,split"]
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(jpeg(scene(number, noise=number)))
        rows.append(f"{number}.jpg,{'ab'[number % 2]},train")
    for number in (100, 101):
        scene(number).resize((64, 64)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},test")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def decoded_whole(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of all files that are decoded whole."""
    sizes: list[tuple[int, int]] = []
    real = decoding.picture

    def spy(content: Any) -> Picture:
        result = real(content)
        sizes.append(result.rgb().size)
        return result

    monkeypatch.setattr(decoding, "picture", spy)
    return sizes


def test_a_cold_probe_decodes_no_training_photograph_whole(
    photographs: Path, decoded_whole: list[tuple[int, int]], tmp_path: Path
) -> None:
    data = frostline.load_data(photographs / "table.csv")
    run = frostline.train(
        tiny_backbone(), data, "linear_probe(layers=last)", study=tmp_path / "study", threads=1
    )
    assert run.decoding["pixels"] == "fast"
    assert set(decoded_whole) == {(64, 64)}, "test images are decoded, training images at a fraction only"
    prints = Fingerprints.read(run.folder.path)
    assert prints is not None
    assert prints.tops.any(axis=1).sum() == prints.hashes.any(axis=1).sum() - 2 == 8


def _prints(folder: Path) -> Fingerprints:
    return fingerprints_of(frostline.load_data(folder / "table.csv")).learned


def _recognised(folder: Path, prints: Fingerprints, images: dict[str, bytes]) -> dict[str, str]:
    """Return by name the side of each image, "near" for one that only looks alike, or ""."""
    rows = ["path,label"]
    for number, (name, content) in enumerate(images.items()):
        (folder / name).write_bytes(content)
        rows.append(f"{name},{'ab'[number % 2]}")
    (folder / "new.csv").write_text("\n".join(rows))
    data = load_labelled(folder / "new.csv").manifest
    seen = recognised(data, prints)
    return {
        sample.path: seen.sides.get(sample.digest, "near" if sample.digest in seen.near else "")
        for sample in data.samples
    }


def _png(image: Image.Image) -> bytes:
    return _saved(image, "PNG", compress_level=0)


def test_copies_of_a_training_photograph_are_known_and_other_pictures_are_not(
    photographs: Path, tmp_path: Path
) -> None:
    original = (photographs / "0.jpg").read_bytes()
    decoded = Image.open(io.BytesIO(original))
    banner = scene(50, noise=50)
    banner.paste(Image.open(photographs / "0.jpg").crop((0, 0, WIDTH, 200)))
    sides = _recognised(
        tmp_path,
        _prints(photographs),
        {
            "copy.jpg": original,
            "saved.png": _png(decoded),
            "saved.tif": _saved(decoded, "TIFF"),
            "turned.png": _png(decoded.rotate(90, expand=True)),  # another picture, as it always was
            "described.jpg": original[:2] + _comment(b"edited in the archive") + original[2:],
            "again.jpg": jpeg(decoded, quality=70),
            "next-frame.jpg": jpeg(scene(0, noise=77)),  # a fixed camera's
            "banner.png": _png(banner),
            "other.jpg": jpeg(scene(60)),
        },
    )
    assert sides == {
        **dict.fromkeys(["copy.jpg", "saved.png", "saved.tif", "described.jpg"], "train"),
        **dict.fromkeys(["again.jpg", "next-frame.jpg"], "near"),
        **dict.fromkeys(["turned.png", "banner.png", "other.jpg"], ""),
    }


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _comment(text: bytes) -> bytes:
    return b"\xff\xfe" + (2 + len(text)).to_bytes(2, "big") + text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_first_rows_are_those_of_the_picture_however_it_is_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = jpeg(scene(1, noise=1), exif=exif)
    digest = jpeg_digests.digest_of(content)
    whole = decoding.picture(content)
    assert digest
    assert jpeg_digests.candidates(whole).count(digest) == 1
    assert whole.image is not None
    assert digest not in jpeg_digests.candidates(Picture("", ImageOps.invert(whole.image)))


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"restart_marker_rows": 1},
        {"optimize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("grey", [False, True])
def test_first_rows_are_the_same_bytes_as_those_of_the_whole(options: dict[str, Any], grey: bool) -> None:
    image = scene(2, noise=2)
    content = jpeg(image.convert("L") if grey else image, **options)
    digest = jpeg_digests.digest_of(content)
    assert digest
    assert digest == jpeg_digests.candidates(decoding.picture(content))[0]


def test_what_first_rows_cannot_tell_is_decoded_whole(
    tmp_path: Path, decoded_whole: list[tuple[int, int]]
) -> None:
    image = scene(3)
    flat_top = image.copy()
    flat_top.paste((250, 250, 250), (0, 0, WIDTH, 300))
    files = {
        "progressive.jpg": jpeg(image, progressive=True),
        "flat-top.jpg": jpeg(flat_top),
        "small.jpg": jpeg(image.resize((300, 200))),
        "cmyk.jpg": jpeg(image.convert("CMYK")),
        "broken.jpg": b"\xff\xd8\xff",
        "empty.jpg": b"",
    }
    assert not any(map(jpeg_digests.digest_of, files.values()))
    rows = ["path,label,split"]
    for number, name in enumerate(("progressive.jpg", "flat-top.jpg", "small.jpg")):
        (tmp_path / name).write_bytes(files[name])
        rows.append(f"{name},{'ab'[number % 2]},train")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    prints = _prints(tmp_path)
    assert sorted(decoded_whole) == [(300, 200), (WIDTH, HEIGHT), (WIDTH, HEIGHT)]
    assert prints.pixels.any(axis=1).all()
    assert not prints.tops.any()


def test_without_a_perceptual_hash_training_photographs_are_decoded_whole(
    photographs: Path, decoded_whole: list[tuple[int, int]]
) -> None:
    prints = fingerprints_of(frostline.load_data(photographs / "table.csv", near_copies=False))
    assert decoded_whole.count((WIDTH, HEIGHT)) == 8
    assert prints.pixels.any(axis=1).all()
    assert not prints.tops.any()


def test_fingerprints_from_before_are_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    prints = Fingerprints.of(["1" * 64], [b"a" * 8], [b"h" * 32], ["train"])
    prints.write(tmp_path / NAME)
    tensors = load_file(tmp_path / NAME)
    del tensors["tops"]
    save_file(tensors, tmp_path / NAME)
    back = Fingerprints.read(tmp_path)
    assert back is not None
    assert back.sides_of(["2" * 64], [b"a" * 8]) == ["train"]
    assert not back.tops.any()


def test_a_photograph_is_decoded_without_a_copy_and_others_are_left_alone(photographs: Path) -> None:
    content = (photographs / "0.jpg").read_bytes()
    decoded = decoding.picture(content).rgb()
    assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(io.BytesIO(content))))
    assert decoded.info == {}
    handed = Image.open(io.BytesIO(content))
    handed.info["dpi"] = (72, 72)
    picture = decoding.picture(handed).rgb()
    assert picture is not handed
    assert handed.info["dpi"] == (72, 72), "a caller's image is copied"
    picture.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(handed), np.asarray(decoded))


def test_a_manifest_tells_first_rows_of_its_files(photographs: Path) -> None:
    data: Manifest = frostline.load_data(photographs / "table.csv", near_copies=False)
    by_path = {sample.path: sample for sample in data.samples}
    assert data.top_digest(by_path["0.jpg"]) == jpeg_digests.digest_of((photographs / "0.jpg").read_bytes())
    assert data.top_digest(by_path["100.png"]) == b""
