"""`frostline check`, and the one record of what there is to say that it shares with `load_data`'s notes."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import studies
from frostline.cli.main import cli
from frostline.data import KINDS, TROUBLE, Finding, Manifest, load_data
from frostline.errors import DataError
from frostline.reports import check_page


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class with one of nearly everything that can be wrong."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, count in {"bus": 60, "car": 40, "nan": 11, "Bus": 3}.items():
        (root / label).mkdir(exist_ok=True)
        for n in range(count):
            small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            small.resize((40, 40), Image.Resampling.BICUBIC).save(root / label / f"<{n}>{label}_{n:03}.png")
    first = sorted((root / "bus").iterdir())[0]
    shutil.copy(first, root / "bus" / "again.png")
    shutil.copy(sorted((root / "bus").iterdir())[4], root / "car" / "same.png")
    Image.open(sorted((root / "bus").iterdir())[9]).save(root / "car" / "near.bmp")
    Image.new("RGB", (40, 40), (10, 200, 10)).save(root / "car" / "flat.png")
    (root / "bus" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    Image.open(first).save(root / "loose.jpg")
    (root / "empty").mkdir()
    (root / "car" / "gone.png").symlink_to(root / "nowhere.png")
    for n in range(12):  # clips, for a proposal
        for frame in range(5):
            small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            name = f"clip{n:02}_{frame:03}.png"
            small.resize((40, 40), Image.Resampling.BICUBIC).save(root / ("bus", "car")[n % 2] / name)
    return root


def check(*words: object) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, words), "--quiet"])


def kinds_of(data: Manifest) -> dict[str, Finding]:
    return {finding.kind: finding for finding in data.findings}


EXPECTED = {
    "unreadable": 1,
    "missing": 1,
    "left_out": 1,
    "empty": 1,
    "label_words": 11,
    "class_names": 2,
    "conflict": 2,
    "near_conflict": 1,
    "copies": 2,
    "near_copies": 1,
    "flat": 1,
    "few": 1,
    "split": 178,
    "imbalance": 91,
    "groups_proposed": 12,
    "no_val": 143,
}


def test_everything_that_is_wrong_has_a_kind_a_number_and_what_to_do(photos: Path) -> None:
    data = load_data(photos)
    kinds = kinds_of(data)
    assert {kind: kinds[kind].n for kind in EXPECTED if kind in kinds} == EXPECTED
    for finding in data.findings:
        assert finding.message.endswith((".", "?"))
        assert finding.advice or finding.kind in ("class_names", "label_words") or not finding.trouble
        assert len(finding.examples) <= 12
    paths = {path.relative_to(photos).as_posix() for path in photos.rglob("*.*")}
    assert all(set(finding.examples) <= paths for finding in data.findings)
    assert {"bus/broken.png"} == set(kinds["unreadable"].examples)
    assert {"car/gone.png"} == set(kinds["missing"].examples)
    assert {"car/near.bmp"} < set(kinds["near_conflict"].examples)


def test_notes_and_findings_cannot_say_different_things(photos: Path) -> None:
    data = load_data(photos)
    aside = {"unreadable", "missing", "left_out"}  # which `skipped` lists, file by file
    assert sorted(data.notes) == sorted(one.note for one in data.findings if one.kind not in aside)
    assert Manifest.from_json(data.to_json()) == data
    assert {gone.kind for gone in data.skipped} == aside
    with pytest.raises(ValueError, match="Unknown kind of finding"):
        Finding("odd", 1, "Something.")


def test_what_decoding_shows_later_is_unreadable_and_said_once(photos: Path) -> None:
    data = load_data(photos, near_copies=False)
    damaged = sorted((photos / "car").glob("clip*"))[0]
    content = damaged.read_bytes()
    data = load_data(photos, near_copies=False)
    try:
        damaged.write_bytes(content[:200] + bytes(40) + content[240:])
        data = load_data(photos, near_copies=False).checked()
    finally:
        damaged.write_bytes(content)
    assert kinds_of(data)["unreadable"].n == 2


@pytest.mark.parametrize("cut", ["kind", "n", "examples", "aside"])
def test_a_manifest_with_a_finding_that_is_none_is_damaged(photos: Path, cut: str) -> None:
    header, *rows = load_data(photos).to_json().splitlines()
    made = json.loads(header)
    if cut == "aside":
        made["skipped"][0][3] = "odd"
    else:
        made["findings"][0] = {"kind": ["odd", 1, "x", "", []], "n": ["few", "1", "x", "", []]}.get(
            cut, ["few", 1, "x", "", [7]]
        )
    with pytest.raises(DataError, match="damaged"):
        Manifest.from_json("\n".join([json.dumps(made), *rows]) + "\n")


def test_json_says_what_load_data_says(photos: Path) -> None:
    done = check(photos, "--json")
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    data = load_data(photos)
    assert document["findings"] == [finding.as_dict() for finding in data.findings]
    assert document["classes"] == data.counts
    assert document["subsets"] == {subset: len(data.subset(subset)) for subset in ("train", "val", "test")}
    assert {gone["kind"] for gone in document["skipped"]} == {"unreadable", "missing", "left_out"}
    assert (document["failed"], document["page"], document["schema"]) == ([], None, 2)


def test_fail_on_ends_with_three_after_saying_everything(photos: Path, tmp_path: Path) -> None:
    failed = check(photos, "--fail-on", "flat, pages,conflict", "--json")
    assert failed.exit_code == 3
    assert json.loads(failed.stdout)["failed"] == ["flat", "conflict"]
    assert "Found what --fail-on names: flat, conflict." in failed.stderr
    assert check(photos, "--fail-on", "pages,leak").exit_code == 0
    every = json.loads(check(photos, "--fail-on", "any", "--json").stdout)["failed"]
    assert set(every) == set(EXPECTED) & set(TROUBLE)
    refused = check(tmp_path / "nothing", "--fail-on", "any", "--json")
    assert refused.exit_code == 1
    assert "does not exist" in json.loads(refused.stdout)["error"]


def test_a_kind_that_is_none_is_wrong_usage_and_the_kinds_are_named(photos: Path) -> None:
    wrong = check(photos, "--fail-on", "flat,confict")
    assert wrong.exit_code == 2
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", wrong.stderr).split())
    assert "There is no kind 'confict'. Did you mean 'conflict'?" in text
    assert all(kind in text for kind in KINDS)
    assert check(photos, "--fail-on", " , ").exit_code == 2
    assert check(photos, "--page", photos / "no" / "page.html").exit_code == 2


def test_a_person_reads_what_is_wrong_and_what_to_do(photos: Path) -> None:
    text = " ".join(check(photos, "--group-by", "re:^(<|clip\\d+)").stdout.split())
    assert "1 image(s) are one flat colour: car/flat.png." in text
    assert "→ Check them; remove those that show nothing." in text
    assert "14 groups: " not in text
    assert "groups_proposed" not in text
    assert re.search(r"\d+ groups: \d+ in train", text)
    assert "train (drawn)" in text


def test_the_page_shows_the_pictures_and_runs_nothing(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert check(photos, "--page", target, "--json").exit_code == 0
    page = target.read_text(encoding="utf-8")
    data = load_data(photos)
    for finding in data.findings:
        assert not finding.trouble or f"<code>{finding.kind}</code>" in page
    shown = sum(len(one.examples) for one in data.findings if one.trouble)
    assert page.count("data:image/jpeg;base64,") == shown - 2  # the broken one and the missing one
    assert page.count('class="no-picture"') == 2
    assert "&lt;0&gt;bus" in page
    assert "<script" not in page
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
    assert policy in html.unescape(page)
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert check_page.page(data, str(photos)) == target.read_bytes()
    with pytest.raises(DataError, match="cannot be written"):
        check_page.write(data, "photos", photos)


def test_a_page_of_images_in_memory_and_of_nothing_wrong() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8)
    pixels[5] = 7
    data = load_data([(Image.fromarray(one), n % 2) for n, one in enumerate(pixels)])
    assert check_page.page(data, "dataset").count(b"data:image/jpeg") == 1
    pixels[5] = pixels[4].T.reshape(16, 16, 3)
    data = load_data([(Image.fromarray(one), n % 2) for n, one in enumerate(pixels)])
    assert b"No problem was found" in check_page.page(data, "dataset")


def test_a_study_is_no_image_folder(tmp_path: Path) -> None:
    for name in ("runs", "thumbnails"):
        (tmp_path / "study" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (len(name), 0, 0)).save(tmp_path / "study" / name / "a.png")
    (tmp_path / "study" / "study.json").write_text("{}")
    result = check(tmp_path / "study")
    assert result.exit_code == 1
    assert "is a study that frostline wrote, not labelled images" in " ".join(result.output.split())


def test_what_is_cut_away_goes_by_how_pictures_become_square(tmp_path: Path) -> None:
    """By the option, else by what the study's best run was trained with."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for n in range(5):
            pixels = rng.integers(0, 255, (9, 27, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{n}.png")
    assert "66.7 %" in " ".join(check(tmp_path / "images").output.split())
    assert check(tmp_path / "images", "--resize", "squash", "--fail-on", "cut_away").exit_code == 0
    assert check(tmp_path / "images", "--fail-on", "cut_away").exit_code == 3
    study = studies.fitted(tmp_path / "study")
    for file in study.glob("**/config.json"):
        config = json.loads(file.read_text())
        seen = {**config.get("preprocessing", {}), "crop_mode": "squash", "crop_pct": 1.0}
        file.write_text(json.dumps({**config, "source": {}, "preprocessing": seen}))
    assert check(tmp_path / "images", "--study", study, "--fail-on", "cut_away").exit_code == 0
