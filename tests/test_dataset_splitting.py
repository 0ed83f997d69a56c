"""Splits: what is never parted, and how even it comes out (law 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data import SUBSETS, Sample
from frostline.data.manifest_entries import SkippedImage
from frostline.data.sources.common import ImageEntry
from frostline.data.splits.folding import unit_ids
from frostline.data.splits.split_notes import about_split
from frostline.data.splits.train_val_test import Split, SplitOptions, split

QUICK = settings(max_examples=60, deadline=None)
WISH = SplitOptions(seed=0, test=0.2, val=0.2)


def content(name: object) -> str:
    return hashlib.sha256(repr(name).encode()).hexdigest()


def images(counts: dict[str, int], group: str = "") -> list[ImageEntry]:
    return [ImageEntry(f"{label}/{i}", label, group) for label, count in counts.items() for i in range(count)]


def split_of(
    entries: Sequence[ImageEntry], wish: SplitOptions = WISH, near: Sequence[tuple[int, int]] = ()
) -> Split:
    return split(entries, [content(image.path) for image in entries], near, wish)


def counts_of(entries: Sequence[ImageEntry], outcome: Split, subset: str) -> dict[str, int]:
    labels = [image.label for image, name in zip(entries, outcome.subsets, strict=True) if name == subset]
    return {label: labels.count(label) for label in {image.label for image in entries}}


def notes_of(entries: Sequence[ImageEntry], outcome: Split, wish: SplitOptions = WISH) -> list[str]:
    samples = [
        Sample(image.path, image.label, content(image.path), image.group, subset)
        for image, subset in zip(entries, outcome.subsets, strict=True)
        if subset
    ]
    classes = sorted({sample.label for sample in samples})
    notes = about_split(samples, classes, {image.split for image in entries} - {""}, wish, ())
    return [finding.note for finding in notes]


labelled = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from("abc"), st.sampled_from(["", "", "", "g1", "g2", "g3", "g4"])
    ),
    min_size=2,
    max_size=120,
    unique_by=lambda row: row[0],
)


def found_of(rows: Sequence[tuple[int, str, str]]) -> list[ImageEntry]:
    return [ImageEntry(str(name), label, group) for name, label, group in rows]


@QUICK
@given(rows=labelled, seed=st.integers(0, 100), data=st.data())
def test_neither_order_nor_names_decide(
    rows: list[tuple[int, str, str]], seed: int, data: st.DataObject
) -> None:
    entries = found_of(rows)
    digests = [content(image.path) for image in entries]
    order = data.draw(st.permutations(range(len(entries))))
    first = split(entries, digests, [], SplitOptions(seed, 0.2, 0.2)).subsets
    renamed = [ImageEntry(f"elsewhere/{entries[i].path}", entries[i].label, entries[i].group) for i in order]
    second = split(renamed, [digests[i] for i in order], [], SplitOptions(seed, 0.2, 0.2)).subsets
    assert [first[i] for i in order] == second


@QUICK
@given(rows=labelled, seed=st.integers(0, 100))
def test_groups_never_straddle(rows: list[tuple[int, str, str]], seed: int) -> None:
    entries = found_of(rows)
    outcome = split_of(entries, SplitOptions(seed, 0.3, 0.3))
    for group in {image.group for image in entries} - {""}:
        assert (
            len(
                {
                    subset
                    for image, subset in zip(entries, outcome.subsets, strict=True)
                    if image.group == group
                }
            )
            == 1
        )


@QUICK
@given(
    rows=labelled,
    copies=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), max_size=30),
    near=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), max_size=30),
    given_subsets=st.lists(st.sampled_from(["", "train", "val", "test"]), min_size=120, max_size=120),
    given_at_all=st.booleans(),
)
def test_copies_never_straddle(
    rows: list[tuple[int, str, str]],
    copies: list[tuple[int, int]],
    near: list[tuple[int, int]],
    given_subsets: list[str],
    given_at_all: bool,
) -> None:
    n = len(rows)
    entries = [
        ImageEntry(image.path, image.label, image.group, subset if given_at_all else "")
        for image, subset in zip(found_of(rows), given_subsets, strict=False)
    ]
    digests = [content(image.path) for image in entries]
    for i, j in copies:
        digests[i % n] = digests[j % n]
    pairs = [(i % n, j % n) for i, j in near]
    outcome = split(entries, digests, pairs, SplitOptions(0, 0.3, 0.3))
    for digest in set(digests):
        at = [i for i in range(n) if digests[i] == digest and outcome.subsets[i]]
        assert len({outcome.subsets[i] for i in at}) <= 1
        if len({entries[i].label for i in at}) > 1:
            assert {outcome.subsets[i] for i in at} == {"train"}
    if not given_at_all:
        assert all(outcome.subsets[i] == outcome.subsets[j] for i, j in pairs)


@pytest.mark.parametrize(
    ("size", "test", "val"), [(3, 1, 0), (7, 1, 0), (20, 4, 0), (45, 9, 0), (100, 20, 16), (500, 100, 80)]
)
def test_each_class_has_the_rounded_share(size: int, test: int, val: int) -> None:
    entries = images({"a": size, "b": size, "c": size})
    for seed in range(10):
        outcome = split_of(entries, SplitOptions(seed, 0.2, 0.2))
        assert set(counts_of(entries, outcome, "test").values()) == {test}
        assert set(counts_of(entries, outcome, "val").values()) == {val}
        assert not any(" % was requested" in note for note in notes_of(entries, outcome))


@QUICK
@given(
    sizes=st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=60), min_size=2, max_size=5),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 1000),
)
def test_each_class_has_its_share_within_one_unit(sizes: list[list[int]], share: float, seed: int) -> None:
    """Groups of one class each, of any size; also of val, which is a share of the rest."""
    entries = [
        ImageEntry(f"{label}/{group}/{i}", str(label), f"{label}/{group}")
        for label, groups in enumerate(sizes)
        for group, size in enumerate(groups)
        for i in range(size)
    ]
    outcome = split_of(entries, SplitOptions(seed, share, share))
    test, val, train = (counts_of(entries, outcome, subset) for subset in ("test", "val", "train"))
    for label, groups in enumerate(sizes):
        name, images = str(label), sum(groups)
        assert abs(test[name] - share * images) <= max(groups)
        assert 1 <= test[name] < images
        assert train[name] >= 1
        if any(val.values()) and len(groups) > 2:
            assert abs(val[name] - share * (images - test[name])) <= max(groups)


@QUICK
@given(rows=labelled, seed=st.integers(0, 100), share=st.floats(0.05, 0.9))
def test_no_unit_is_left_that_would_bring_the_shares_nearer(
    rows: list[tuple[int, str, str]], seed: int, share: float
) -> None:
    """Groups that span classes: as near as taking one more gets, as Σ (share missed)² / images counts."""
    entries = found_of(rows)
    outcome = split_of(entries, SplitOptions(seed, share, 0))
    labels, test = {label for _, label, _ in rows}, counts_of(entries, outcome, "test")
    whole = {label: sum(image.label == label for image in entries) for label in labels}

    def distance(more: dict[str, int]) -> float:
        return sum((share * whole[c] - test[c] - more.get(c, 0)) ** 2 / whole[c] for c in labels)

    units: dict[str, list[int]] = {}
    for i, image in enumerate(entries):
        units.setdefault(image.group or image.path, []).append(i)
    for at in units.values():
        more = {c: sum(entries[i].label == c for i in at) for c in {entries[i].label for i in at}}
        if outcome.subsets[at[0]] == "train" and all(test[c] + n < whole[c] for c, n in more.items()):
            assert distance(more) >= distance({}) - 1e-9


def test_seeds_differ() -> None:
    entries = images({"a": 50, "b": 50})
    assert (
        split_of(entries, SplitOptions(0, 0.2, 0)).subsets
        != split_of(entries, SplitOptions(1, 0.2, 0)).subsets
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_classes(size: int) -> None:
    entries = images({"many": 40, "few": size})
    for seed in range(20):
        outcome = split_of(entries, SplitOptions(seed, 0.2, 0.2))
        assert counts_of(entries, outcome, "test")["few"] == (0 if size == 1 else 1)
        assert counts_of(entries, outcome, "val") == {"many": 0, "few": 0}
    assert any("have no image in test: 'few'" in note for note in notes_of(entries, outcome)) == (size == 1)


@pytest.mark.parametrize(("per_class", "has_val"), [(124, False), (126, True)])
def test_val_needs_two_hundred_images(per_class: int, has_val: bool) -> None:
    outcome = split_of(images({"a": per_class, "b": per_class}), SplitOptions(3, 0.2, 0.2))
    learn = len(outcome.subsets) - outcome.subsets.count("test")
    assert ("val" in outcome.subsets) == (learn >= 200)
    assert split_of(images({"a": 300, "b": 300, "c": 9})).subsets.count("val") == 0


def test_a_share_of_nothing_holds_nothing_out() -> None:
    found, wish = images({"a": 200, "b": 200}), SplitOptions(0, 0.0, 0.0)
    outcome = split_of(found, wish)
    assert set(outcome.subsets) == {"train"}
    assert any("no test set" in note for note in notes_of(found, outcome, wish))


@QUICK
@given(seed=st.integers(0, 500))
def test_few_speakers_are_shared_out_whole(seed: int) -> None:
    entries = [
        ImageEntry(f"{speaker}/{label}/{i}", label, speaker)
        for speaker in "uvwxyz"
        for label in "ab"
        for i in range(40)
    ]
    outcome = split_of(entries, SplitOptions(seed, 0.2, 0.2))
    assert [outcome.subsets.count(subset) for subset in SUBSETS] == [320, 80, 80]
    notes = notes_of(entries, outcome)
    assert "6 groups: 4 in train, 1 in val, 1 in test." in notes
    assert any(note.startswith("test holds 17 % of each class, where 20 %") for note in notes)


def test_one_group_cannot_be_split() -> None:
    outcome = split_of(images({"a": 20, "b": 20}, group="only"))
    assert set(outcome.subsets) == {"train"}


def test_an_uneven_group_is_not_tested_on_alone() -> None:
    entries = [ImageEntry(f"big/{i}", "a", "big") for i in range(60)] + images({"a": 40, "b": 50})
    for seed in range(20):
        outcome = split_of(entries, SplitOptions(seed, 0.2, 0.2))
        assert 10 <= counts_of(entries, outcome, "test")["a"] <= 40


def test_identical_images_with_two_labels() -> None:
    entries = [*images({"a": 30, "b": 30}), ImageEntry("x", "a"), ImageEntry("y", "b")]
    digests = [*(content(image.path) for image in entries[:-2]), content("x"), content("x")]
    for seed in range(10):
        outcome = split(entries, digests, [], SplitOptions(seed, 0.5, 0.2))
        assert outcome.subsets[-2:] == ["train", "train"]
    (conflict,) = outcome.conflicts
    assert (conflict.paths, conflict.labels) == (("x", "y"), ("a", "b"))
    assert any(one.kind == "conflict" and one.n == 2 for one in outcome.findings)


@QUICK
@given(seed=st.integers(0, 100), data=st.data())
def test_labels_of_a_given_test_part_decide_nothing(seed: int, data: st.DataObject) -> None:
    entries = [
        ImageEntry(image.path, image.label, "", "test" if i % 4 == 0 else "")
        for i, image in enumerate(images({"a": 150, "b": 150}))
    ]
    digests = [
        content(int(image.path.split("/")[1]) // 2 if i % 7 == 0 else i) for i, image in enumerate(entries)
    ]
    at = [i for i, image in enumerate(entries) if image.split == "test"]
    shuffled = list(entries)
    for i, j in zip(at, data.draw(st.permutations(at)), strict=True):
        shuffled[i] = ImageEntry(entries[i].path, entries[j].label, "", "test")
    outcomes = [
        split(version, digests, [], SplitOptions(seed, 0.2, 0.2)).subsets for version in (entries, shuffled)
    ]
    for subset in ("train", "val"):
        sides = [[i for i, name in enumerate(subsets) if name == subset] for subsets in outcomes]
        assert sides[0] == sides[1]


def test_copies_of_given_test_images_leave_train() -> None:
    entries = [
        ImageEntry("t", "a", split="test"),
        ImageEntry("c", "a", split="train"),
        ImageEntry("v", "a", split="val"),
    ]
    entries += [ImageEntry(f"{i}", "ab"[i % 2], split="train") for i in range(6)]
    outcome = split(entries, ["same"] * 3 + [content(i) for i in range(6)], [], WISH)
    assert outcome.subsets[:3] == ["test", "", ""]
    assert outcome.skipped[1] == SkippedImage("c", "a", "is an exact copy of t in the test set", "leak")


def test_a_share_of_a_given_subset_is_said_to_have_no_effect() -> None:
    samples = [
        Sample(f"{label}{n}.png", label, f"{label}{n}", "", "test" if n < 4 else "train")
        for label in "ab"
        for n in range(20)
    ]

    def told(options: SplitOptions, given_subsets: set[str]) -> list[str]:
        return [
            str(one) for one in about_split(samples, "ab", given_subsets, options, ()) if "effect" in str(one)
        ]

    asked = SplitOptions(0, test=0.5, val=0.0)
    assert told(asked, {"train", "test"}) == [
        "The test set is the source's own, of 8 image(s): the share that was asked for, 0.5, has no effect."
    ]
    assert not told(SplitOptions(0, 0.2, 0.2), {"train", "test"})
    assert not told(asked, set())


def test_groups_torn_by_a_given_split_are_named() -> None:
    entries = [ImageEntry(f"{i}", "ab"[i % 2], "g", "test" if i < 4 else "train") for i in range(8)]
    notes = notes_of(entries, split_of(entries))
    assert any("puts 1 group(s) into more than one subset (g)" in note for note in notes)


def test_units_join_through_groups_copies_and_pairs() -> None:
    ids = unit_ids(["g", "", "g", "", ""], ["1", "2", "3", "2", "4"], [(2, 3)])
    assert len(set(ids[:4].tolist())) == 1
    assert ids[4] not in ids[:4]
