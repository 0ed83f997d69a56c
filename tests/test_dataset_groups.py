"""Groups by --group-by, and groups that names give away: proposed, never applied unasked."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frostline.data import Manifest, load_data
from frostline.data.findings import Finding
from frostline.data.splits.grouping import folder_of, name_of, parsed, proposed
from frostline.errors import DataError, FrostlineError, UsageError
from tiny import write_table

CLIPS = [f"{label}/clip{clip}_{frame:03}.png" for label in "ab" for clip in range(5) for frame in range(6)]


@dataclass(frozen=True)
class Named:
    path: str
    label: str


def named(paths: Sequence[str]) -> list[Named]:
    return [Named(path, path.split("/")[0]) for path in paths]


def write(root: Path, paths: Sequence[str]) -> Path:
    """Write pictures of noise, no two alike."""
    rng = np.random.default_rng(0)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(root / path)
    return root


def load(root: Path, **options: object) -> Manifest:
    return load_data(root, near_copies=False, **options)  # type: ignore[arg-type]


def groups_of(data: Manifest) -> set[str]:
    return {sample.group for sample in data.samples}


def torn(data: Manifest, groups: Sequence[str]) -> set[str]:
    """Groups in more than one subset."""
    subsets: dict[str, set[str]] = {}
    for sample, group in zip(data.samples, groups, strict=True):
        subsets.setdefault(group, set()).add(sample.split)
    return {group for group, here in subsets.items() if len(here) > 1}


def test_frames_of_a_video_are_proposed_and_not_applied(tmp_path: Path) -> None:
    data = load(write(tmp_path, CLIPS))
    assert groups_of(data) == {""}
    (said,) = [one for one in data.findings if one.kind == "groups_proposed"]
    assert said.n == 5  # a clip of the same name in both classes is one
    assert "the largest has 12 (a/clip0_000.png, a/clip0_001.png" in said.message
    assert "--group-by auto" in said.advice
    assert said.note in data.notes
    held = [sample for sample in data.samples if sample.split != "train"]
    assert f"{len(held)} of {len(held)} val and test images share such a group with train" in said.message
    proposal = data.proposed_groups
    assert proposal is not None
    assert torn(data, proposal.groups)


def test_auto_applies_what_is_proposed_and_the_study_keeps_it(tmp_path: Path) -> None:
    root = write(tmp_path, CLIPS)
    plain, data = load(root), load(root, group_by="auto")
    groups = [sample.group for sample in data.samples]
    assert plain.proposed_groups is not None
    assert tuple(groups) == plain.proposed_groups.groups
    assert not torn(data, groups)
    assert data.reading == {"group_by": "auto"}
    assert data.digest != plain.digest  # a study refuses other groups
    assert Manifest.from_json(data.to_json()) == data
    assert not [one for one in data.findings if one.kind == "groups_proposed"]


@pytest.mark.parametrize(
    ("by", "path", "group"),
    [
        ("parent", "a/p1/x.png", "p1"),
        ("parent", "a/2024/p1/x.png", "2024/p1"),
        ("parent", "train/a/p1/x.png", "p1"),
        ("re:^(P\\d+)_", "a/P12_003.png", "P12"),
        ("re:P\\d+", "a/P12_003.png", "P12"),
        ("re:^(?:P(\\d+)|x)", "a/P12_003.png", "12"),
        ("re:/(p\\d|q)/", "a/p7/P12_003.png", "p7"),
        ("re:^a/(.)", "a/p7/x.png", "p"),
    ],
)
def test_what_a_rule_takes_for_the_group(tmp_path: Path, by: str, path: str, group: str) -> None:
    subset = "train/" if path.startswith("train/") else ""
    others = [f"{subset}{label}/q/P{n}_{i}.png" for label in "ab" for n in range(3) for i in range(3)]
    rest = [f"test/{label}/{n}/P{n}_1.png" for label in "ab" for n in range(3)] if subset else []
    data = load(write(tmp_path, [*others, path, *rest]), group_by=by, split_names=None if subset else "none")
    (sample,) = [sample for sample in data.samples if sample.path == path]
    assert sample.group == group


def test_images_that_no_rule_names_stand_alone_and_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path, [*CLIPS, "a/other.png", "b/one.png"])
    data = load(root, group_by="re:^(clip\\d)")
    assert Counter(sample.group == "" for sample in data.samples) == {False: 60, True: 2}
    assert any("2 image(s) have no group by --group-by re:^(clip" in note for note in data.notes)
    assert not torn(data, [sample.group or sample.path for sample in data.samples])


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("re:(", "not a regular expression"),
        ("re:", "expected parent, column:NAME, re:REGEX or auto"),
        ("column:", "expected parent"),
        ("parnet", "Did you mean 'parent'"),
        ("", "expected parent"),
        (7, "expected parent"),
    ],
)
def test_a_rule_that_is_none_is_refused(tmp_path: Path, by: object, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", "\\(")):
        load(write(tmp_path, CLIPS[:8]), group_by=by)


def test_a_rule_that_says_nothing_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, CLIPS)
    for by in ("parent", "re:patient", "re:(x*)y*$"):
        with pytest.raises(DataError, match="gives no image a group"):
            load(root, group_by=by)
    with pytest.raises(DataError, match="into one group, 'clip'"):
        load(root, group_by="re:clip")
    with pytest.raises(UsageError, match="a column of a table"):
        load(root, group_by="column:patient")


def table(root: Path, header: str, rows: Sequence[str]) -> Path:
    (root / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "t.csv"


def test_a_column_of_a_table(tmp_path: Path) -> None:
    write(tmp_path, CLIPS)
    rows = [f"{path},{path[0]},{path[6]},{'' if path == CLIPS[0] else path[:7]}" for path in CLIPS]
    where = table(tmp_path, "path,label,Patient,group", rows)
    assert groups_of(load(where, group_by="column:patient")) == set("01234")
    assert len(groups_of(load(where))) == 11  # the column `group` as ever, and one image without
    with pytest.raises(DataError, match="Did you mean 'patient'"):
        load(where, group_by="column:patiant")
    empty = table(tmp_path, "path,label,who", [f"{path},{path[0]}," for path in CLIPS])
    with pytest.raises(DataError, match="the column is empty"):
        load(empty, group_by="column:who")


def test_copies_and_groups_hang_together(tmp_path: Path) -> None:
    root = write(tmp_path, CLIPS)
    (root / "a" / "clip0_000.png").write_bytes((root / "a" / "clip1_000.png").read_bytes())
    data = load(root, group_by="auto")
    units = {sample.group: unit for sample, unit in zip(data.samples, data.units(data.samples), strict=True)}
    assert units["clip0"] == units["clip1"] != units["clip2"]


def test_patients_with_images_of_every_class_are_groups_and_no_classes(tmp_path: Path) -> None:
    root = write(tmp_path, [f"{label}/p{p}/{n}.png" for label in "ab" for p in range(4) for n in range(5)])
    with pytest.raises(DataError, match="--group-by parent where those inside are groups"):
        load(root)
    data = load(root, group_by="parent")
    assert data.classes == ("a", "b")
    assert groups_of(data) == {"p0", "p1", "p2", "p3"}
    assert not torn(data, [sample.group for sample in data.samples])


def test_folders_below_classes_are_proposed_before_names() -> None:
    nested = [f"{label}/p{p}/scan{p % 2}_{n}.png" for label in "ab" for p in range(4) for n in range(5)]
    proposal = proposed(named(nested))
    assert proposal is not None
    assert (proposal.by, proposal.option) == ("parent", "--group-by parent")
    assert set(proposal.groups) == {"p0", "p1", "p2", "p3"}


@pytest.mark.parametrize(
    "names",
    [
        [f"{label}/{label}_{n:03}.png" for label in ("cat", "dog") for n in range(500)],
        [f"{label}/n{label}_{n}.png" for label in ("cat", "dog") for n in range(50)] + ["cat/x_1", "cat/x_2"],
        [f"{label}/IMG_{n}.png" for label in "ab" for n in range(50)],
        [f"{label}/{kind}_{n}.png" for label in "ab" for kind in ("IMG", "DSC") for n in range(50)],
        [f"{label}/{n:05}.png" for label in "ab" for n in range(50)],
        [f"{label}/images/{n:05}.png" for label in "ab" for n in range(50)],
        [f"/sets/part-{n % 4}.tar!{n:05}.png" for n in range(50)],
        [f"dataset[{n}]" for n in range(50)],
        ["a/x.png", "b/y.png"],
        [],
    ],
)
def test_what_is_no_group(names: list[str]) -> None:
    assert proposed(named(names)) is None
    labels = [Named(path, "ab"[place % 2]) for place, path in enumerate(names)]
    assert len({image.label for image in labels}) != 1
    if not names or not names[0].startswith(("cat", "a/")):
        assert proposed(labels) is None


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("a/clip03_000123.jpg", "clip03"),
        ("a/P1-slice (12).png", "P1-slice"),
        ("a/2021-05-03.0001", "2021-05-03"),
        ("a/IMG_0001 (2).jpg", "IMG_0001"),
        ("a/000123.jpg", ""),
        ("a/1f9f9.png", ""),
        ("a/emoji-1f9f9.png", ""),
        ("a/cafe12.png", "cafe"),
        ("a/beach.jpg", ""),
        ("a/a_12.jpg", ""),
        ("set.tar!x/clip1_2.jpg", "clip1"),
    ],
)
def test_the_name_before_a_counter(path: str, group: str) -> None:
    assert name_of(Named(path, "a")) == group


def test_the_folder_below_the_class_folder() -> None:
    assert folder_of(Named("train/cat/cat/p1/x.png", "cat")) == "p1"
    assert folder_of(Named("train/train/x.png", "train")) == ""
    assert folder_of(Named("cafe\u0301/p/x.png", "caf\u00e9")) == "p"  # as macOS spells it
    assert folder_of(Named("scans/p1/x.png", "ill")) == "scans/p1"


letters = st.text(st.sampled_from("abc01 _-.()[]!/é\u0301\udcff"), max_size=12)
images = st.lists(st.builds(Named, letters, st.sampled_from(["a", "b", "c", ""])), max_size=40)


@settings(max_examples=300, deadline=None)
@given(images=images, by=st.one_of(letters, letters.map("re:{}".format), st.sampled_from(["parent", "auto"])))
def test_names_never_break_it_and_no_class_is_a_group(images: list[Named], by: str) -> None:
    with contextlib.suppress(FrostlineError):
        parsed(by)
    proposal = proposed(images)
    if proposal is None:
        return
    assert len(proposal.groups) == len(images)
    held: dict[str, set[str]] = {}
    for image, group in zip(images, proposal.groups, strict=True):
        held.setdefault(image.label, set()).add(group)
    several = sum(len(held[image.label] - {""}) > 1 for image in images)
    assert 2 * several >= len(images)


def clips(root: Path) -> Path:
    """Write clips whose ground tells them apart, and whose class can't be told from it."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir(parents=True)
        for clip in range(8):
            ground = rng.integers(30, 225, 3)
            for frame in range(6):
                pixels = ground + rng.integers(-25, 25, (20, 20, 3))
                name = f"{label}clip{clip}_{frame:03}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(root / label / name)
    return root


@pytest.mark.slow
def test_measure_says_what_both_splits_would(tmp_path: Path) -> None:
    import frostline
    from tiny import tiny_backbone

    root = clips(tmp_path / "clips")
    data, kept = (
        load(root, test_size=0.0, val_size=0.0),
        load(root, test_size=0.0, val_size=0.0, group_by="auto"),
    )
    signals = frostline.measure(tiny_backbone(), data, random=False, rates=False)
    assert signals.groups is not None
    assert (signals.groups.by, signals.groups.groups, signals.groups.images) == ("auto", 16, 96)
    assert signals.groups.accuracy > 0.75  # each frame's mates were learned from
    assert signals.groups.apart < 0.6  # chance is a half
    assert signals.notes[0] == signals.groups.sentence
    assert "--group-by auto" in signals.groups.sentence
    assert signals.as_dict()["groups"]["apart"] == signals.groups.apart
    again = frostline.measure(tiny_backbone(), kept, random=False, rates=False)
    assert again.groups is None
    assert abs(again.probe_by_stage[-1].accuracy - signals.groups.apart) < 1e-9  # of the very same folds


def test_a_study_keeps_its_groups(tmp_path: Path) -> None:
    """Images that come later are grouped as the first ones were, though nobody says so again."""
    root, study = write(tmp_path / "images", CLIPS), tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    load(root, group_by="auto").keep_in(study)
    data = load(root, study=study)
    assert data.reading["group_by"] == "auto"
    assert not torn(data, [name_of(sample) for sample in data.samples])
    assert "Groups are by auto, as in the study." in data.notes
    assert load(root, study=study, group_by="re:(clip.)").reading["group_by"] == "re:(clip.)"
    (study / "manifest.jsonl").write_text('["no header"]\n')
    with pytest.raises(DataError, match=r"manifest.jsonl is damaged: its first line reads"):
        load(root, study=study)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "re:"}, "expected parent, .* Nothing stands after 're:'"),
        ({"group_by": "column:patient"}, "^--group-by name.* a column of a table, and .* is not a table"),
        ({"path_column": "x", "label_column": "y"}, "^--path-column and --label-column name"),
    ],
)
def test_what_cannot_be_grouped_by_is_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(write(tmp_path, CLIPS), **options)


def test_folders_that_are_missing_are_no_matter_of_expressions(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load(write(tmp_path, CLIPS), group_by="parent")
    assert "expression" not in str(raised.value)


def test_classes_that_are_one_group_are_the_reason_for_no_test_part(tmp_path: Path) -> None:
    data = load(
        write(tmp_path, [f"{label}/{label}_{n}.png" for label in "ab" for n in range(9)]), group_by="re:^."
    )
    assert "2 class(es) are one group each, which stays in one subset: 'a', 'b'." in data.notes


def test_one_group_in_two_unicode_forms_is_one_and_other_spellings_are_asked_about(tmp_path: Path) -> None:
    spellings = ("J\u00fcrgen", "Ju\u0308rgen", "p1", "P1", "7", "07.0", "NA", "p2")
    table = write_table(tmp_path / "images", train=8, test=0)
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    lines = [f"{path},{label},{spellings[at % 8]}" for at, (path, label, _) in enumerate(rows)]
    table.write_text("\n".join(["path,label,group", *lines]), encoding="utf-8")
    data = load_data(table, near_copies=False)
    assert {sample.group for sample in data.samples} == {"J\u00fcrgen", "p1", "P1", "7", "07.0", "NA", "p2"}
    kinds = {finding.kind: finding for finding in data.findings}
    assert "2 group(s) may be spelt in several ways" in kinds["group_names"].message
    assert "'07.0' and '7', 'P1' and 'p1'" in kinds["group_names"].message
    assert kinds["group_names"].n == 4 * 3
    assert "'NA'" in kinds["group_words"].message
    assert kinds["group_words"].n == 3


def test_images_without_a_group_among_grouped_ones_are_counted(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=8, test=0)
    rows = [line.split(",")[:2] for line in table.read_text().splitlines()[1:]]

    def ungrouped(groups: list[str]) -> list[Finding]:
        lines = [f"{path},{label},{group}" for (path, label), group in zip(rows, groups, strict=True)]
        table.write_text("\n".join(["path,label,group", *lines]))
        findings = load_data(table, near_copies=False).findings
        return [finding for finding in findings if finding.kind == "ungrouped"]

    groups = ["" if at % 3 == 0 else f"patient {at // 2}" for at in range(len(rows))]
    (finding,) = ungrouped(groups)
    assert finding.message.startswith(f"{groups.count('')} of {len(groups)} image(s) have no group")
    without = {path for (path, _), group in zip(rows, groups, strict=True) if not group}
    assert set(finding.examples) <= without
    assert not ungrouped([""] * len(rows))
    assert not ungrouped([f"patient {at // 2}" for at in range(len(rows))])
