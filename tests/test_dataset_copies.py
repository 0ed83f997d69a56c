"""Near copies are found, and what merely looks alike is not taken for one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from frostline.data import load_data
from frostline.data.pixels.decoding import picture
from frostline.data.splits import near_duplicates
from frostline.data.splits.near_duplicates import MARK_BYTES, likeness, mark_of
from test_dataset_sources import save


def scene(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """Draw overlapping ellipses: smooth, with low and high frequencies, as a photograph has."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, w, h = (rng.random(4) * [size[0], size[1], size[0] / 2, size[1] / 2]).tolist()
        draw.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), tuple(rng.integers(0, 256, 3).tolist()))
    return image


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def marks_of(images: Sequence[Image.Image]) -> dict[str, bytes]:
    return {f"{i:064x}": mark_of(picture(image)) for i, image in enumerate(images)}


CHANGES = {
    "re-encoded": lambda image: jpeg(image, 60),
    "smaller": lambda image: image.resize((130, 98), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((320, 240), Image.Resampling.BICUBIC),
    "paler": lambda image: image.point(lambda value: int(20 + value * 0.85)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_pictures_are_found(change: object) -> None:
    originals = [scene(seed) for seed in range(20)]
    assert callable(change)
    alike = likeness(marks_of([*originals, *(change(image) for image in originals)]))
    expected = [(f"{i:064x}", f"{i + 20:064x}") for i in range(20)]
    assert len(set(expected) & set(alike.near)) >= 18  # a drawing has fewer frequencies than a photograph
    assert set(alike.near) <= set(expected)
    assert set(alike.near) <= set(alike.suspects)


def test_another_colour_is_a_suspect_only() -> None:
    image = scene(1)
    other = Image.merge("RGB", [image.convert("L")] * 3)
    tinted = Image.merge("RGB", [image.getchannel(i) for i in (2, 1, 0)])
    for version in (other, tinted):
        alike = likeness(marks_of([image, version]))
        assert alike.near == []


@pytest.mark.parametrize(
    ("side", "how"), [(8, 0), (32, Image.Resampling.NEAREST), (96, Image.Resampling.BICUBIC)]
)
def test_digits_on_black_are_not_copies(side: int, how: int) -> None:
    small = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in load_digits().images[:600]]
    alike = likeness(marks_of([image.resize((side, side), Image.Resampling(how)) for image in small]))
    assert alike.suspects == []


def test_blank_pages_are_not_copies() -> None:
    rng = np.random.default_rng(0)
    pages = [250 + rng.integers(0, 2, (40, 40, 3)) for _ in range(10)] + [np.full((40, 40, 3), 99)] * 2
    assert likeness(marks_of([Image.fromarray(page.astype(np.uint8)) for page in pages])).suspects == []


def test_noise_is_not_alike() -> None:
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(200)]
    assert likeness(marks_of(pages)).suspects == []


def test_a_crowd_of_one_picture_is_one_family_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "CROWD_IMAGES", 20)
    monkeypatch.setattr(near_duplicates, "MAX_SUSPECTS", 50)
    rng = np.random.default_rng(0)
    mark = np.frombuffer(mark_of(picture(scene(3))), np.uint8)
    crowd = np.repeat(mark[None], 2000, 0)
    crowd[np.arange(2000), rng.integers(0, near_duplicates.HASH_BYTES, 2000)] ^= 1 << rng.integers(
        0, 8, 2000
    ).astype(np.uint8)
    alike = likeness({f"{i:064x}": row.tobytes() for i, row in enumerate(crowd)})
    assert len(alike.near) == 1999
    thumbs = crowd.copy()
    thumbs[:, near_duplicates.HASH_BYTES :] = rng.integers(
        0, 256, (2000, MARK_BYTES - near_duplicates.HASH_BYTES)
    )
    other = likeness({f"{i:064x}": row.tobytes() for i, row in enumerate(thumbs)})
    assert other.near == []
    assert len(other.suspects) == 50
    assert other.cut_short


def test_nothing_at_all() -> None:
    assert likeness({}).suspects == []
    assert likeness({"a": b"", "b": b""}).suspects == []


def test_near_copies_stay_in_one_part_and_are_listed(tmp_path: Path) -> None:
    for label, start in (("a", 0), ("b", 100)):
        for i in range(12):
            (tmp_path / label).mkdir(exist_ok=True)
            image = scene(start + i)
            image.save(tmp_path / label / f"{i:02d}.png")
            jpeg(image, 90).save(tmp_path / label / f"{i:02d}_again.jpg", quality=90)
    for seed in range(3):
        data = load_data(tmp_path, seed=seed, test_size=0.3)
        subset = {sample.path: sample.split for sample in data.samples}
        assert len(data.near_copies) >= 20
        assert all(subset[one] == subset[other] for one, other in data.near_copies)
        assert all(one.rsplit("/")[1][:2] == other.rsplit("/")[1][:2] for one, other in data.near_copies)
        unit = dict(zip(subset, data.units(data.samples).tolist(), strict=True))
        assert all(unit[one] == unit[other] for one, other in data.near_copies)
    assert any("look alike" in note for note in data.notes)
    assert load_data(tmp_path, near_copies=False).suspects == ()


def test_exact_copies_stay_in_one_part(tmp_path: Path) -> None:
    for i in range(20):
        for label, start in (("a", 0), ("b", 50)):
            for name in ("one", "two"):
                save(tmp_path / label / f"{i}_{name}.png", start + i)
    data = load_data(tmp_path, test_size=0.4)
    subsets: dict[str, set[str]] = {}
    for sample in data.samples:
        subsets.setdefault(sample.digest, set()).add(sample.split)
    assert all(len(subset) == 1 for subset in subsets.values())
    assert any(note.startswith("40 image(s) are exact copies") for note in data.notes)


def test_near_copies_across_given_parts_are_said_to_flatter(tmp_path: Path) -> None:
    rows = ["path,label,split", "again.jpg,a,test"]
    for index in range(8):
        picture, label = scene(index), "ab"[index % 2]
        picture.save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{label},{'train' if index < 4 else 'test'}")
    jpeg(scene(0), 90).save(tmp_path / "again.jpg", quality=90)
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    notes = " ".join(load_data(tmp_path / "t.csv").notes)
    assert "makes accuracy too high" in notes
    assert "again.jpg" in notes
