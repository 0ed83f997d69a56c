"""Splits and folds: who keeps its side, what is never parted, and how even it comes out (law 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from frostline.dataset import PARTS
from frostline.dataset.folding import folds, unit_ids
from frostline.dataset.parts import Split, Wish, split
from frostline.dataset.sources import Found

QUICK = settings(max_examples=60, deadline=None)
WISH = Wish(seed=0, test=0.2, val=0.2)


def content(name: object) -> str:
    return hashlib.sha256(repr(name).encode()).hexdigest()


def images(counts: dict[str, int], group: str = "") -> list[Found]:
    return [Found(f"{label}/{i}", label, group) for label, count in counts.items() for i in range(count)]


def split_of(found: Sequence[Found], wish: Wish = WISH, near: Sequence[tuple[int, int]] = ()) -> Split:
    return split(found, [content(image.path) for image in found], near, wish)


def counts_of(found: Sequence[Found], outcome: Split, part: str) -> dict[str, int]:
    labels = [image.label for image, name in zip(found, outcome.parts, strict=True) if name == part]
    return {label: labels.count(label) for label in {image.label for image in found}}


labelled = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from("abc"), st.sampled_from(["", "", "", "g1", "g2", "g3", "g4"])
    ),
    min_size=2,
    max_size=120,
    unique_by=lambda row: row[0],
)


def found_of(rows: Sequence[tuple[int, str, str]]) -> list[Found]:
    return [Found(str(name), label, group) for name, label, group in rows]


@QUICK
@given(seed=st.integers(0, 1000), gone=st.sets(st.integers(0, 299), max_size=60), extra=st.integers(0, 60))
def test_an_image_keeps_its_side_when_others_come_and_go(seed: int, gone: set[int], extra: int) -> None:
    wish = Wish(seed, 0.2, 0.2)
    before = images({"a": 150, "b": 150})
    after = [image for i, image in enumerate(before) if i not in gone]
    after += [Found(f"new/{i}", "a") for i in range(extra)]
    sides = [
        dict(zip([image.path for image in found], split_of(found, wish).parts, strict=True))
        for found in (before, after)
    ]
    assert all(sides[0][path] == sides[1][path] for path in sides[0].keys() & sides[1].keys())


@QUICK
@given(rows=labelled, seed=st.integers(0, 100), data=st.data())
def test_neither_order_nor_names_decide(
    rows: list[tuple[int, str, str]], seed: int, data: st.DataObject
) -> None:
    found = found_of(rows)
    digests = [content(image.path) for image in found]
    order = data.draw(st.permutations(range(len(found))))
    first = split(found, digests, [], Wish(seed, 0.2, 0.2)).parts
    renamed = [Found(f"elsewhere/{found[i].path}", found[i].label, found[i].group) for i in order]
    second = split(renamed, [digests[i] for i in order], [], Wish(seed, 0.2, 0.2)).parts
    assert [first[i] for i in order] == second


@QUICK
@given(rows=labelled, seed=st.integers(0, 100))
def test_groups_never_straddle(rows: list[tuple[int, str, str]], seed: int) -> None:
    found = found_of(rows)
    outcome = split_of(found, Wish(seed, 0.3, 0.3))
    for group in {image.group for image in found} - {""}:
        assert (
            len({part for image, part in zip(found, outcome.parts, strict=True) if image.group == group}) == 1
        )


@QUICK
@given(
    rows=labelled,
    copies=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), max_size=30),
    near=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), max_size=30),
    given_parts=st.lists(st.sampled_from(["", "train", "val", "test"]), min_size=120, max_size=120),
    given_at_all=st.booleans(),
)
def test_copies_never_straddle(
    rows: list[tuple[int, str, str]],
    copies: list[tuple[int, int]],
    near: list[tuple[int, int]],
    given_parts: list[str],
    given_at_all: bool,
) -> None:
    n = len(rows)
    found = [
        Found(image.path, image.label, image.group, part if given_at_all else "")
        for image, part in zip(found_of(rows), given_parts, strict=False)
    ]
    digests = [content(image.path) for image in found]
    for i, j in copies:
        digests[i % n] = digests[j % n]
    pairs = [(i % n, j % n) for i, j in near]
    outcome = split(found, digests, pairs, Wish(0, 0.3, 0.3))
    for digest in set(digests):
        at = [i for i in range(n) if digests[i] == digest and outcome.parts[i]]
        assert len({outcome.parts[i] for i in at}) <= 1
        if len({found[i].label for i in at}) > 1:
            assert {outcome.parts[i] for i in at} == {"train"}
    if not given_at_all:
        assert all(outcome.parts[i] == outcome.parts[j] for i, j in pairs)


@QUICK
@given(sizes=st.lists(st.integers(2, 90), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_every_class_is_on_both_sides_within_bounds(sizes: list[int], seed: int) -> None:
    found = images({f"class {i}": size for i, size in enumerate(sizes)})
    outcome = split_of(found, Wish(seed, 0.2, 0.2))
    test = counts_of(found, outcome, "test")
    for i, size in enumerate(sizes):
        assert max(1, int(0.1 * size)) <= test[f"class {i}"] <= max(1, int(0.4 * size))
        assert counts_of(found, outcome, "train")[f"class {i}"] >= 1


def test_stratification_is_roughly_right() -> None:
    found = images({"a": 2000, "b": 500})
    outcome = split_of(found)
    for label, size in (("a", 2000), ("b", 500)):
        test, val = (counts_of(found, outcome, part)[label] / size for part in ("test", "val"))
        assert abs(test - 0.2) < 0.06  # three standard errors of the smaller class
        assert abs(val - 0.16) < 0.06


def test_seeds_differ() -> None:
    found = images({"a": 50, "b": 50})
    assert split_of(found, Wish(0, 0.2, 0)).parts != split_of(found, Wish(1, 0.2, 0)).parts


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_classes(size: int) -> None:
    found = images({"many": 40, "few": size})
    for seed in range(20):
        outcome = split_of(found, Wish(seed, 0.2, 0.2))
        assert counts_of(found, outcome, "test")["few"] == (0 if size == 1 else 1)
        assert counts_of(found, outcome, "val") == {"many": 0, "few": 0}
    assert any("have no image in test: 'few'" in note for note in outcome.notes) == (size == 1)


@pytest.mark.parametrize(("per_class", "has_val"), [(124, False), (126, True)])
def test_val_needs_two_hundred_images(per_class: int, has_val: bool) -> None:
    outcome = split_of(images({"a": per_class, "b": per_class}), Wish(3, 0.2, 0.2))
    learn = len(outcome.parts) - outcome.parts.count("test")
    assert ("val" in outcome.parts) == (learn >= 200)
    assert split_of(images({"a": 300, "b": 300, "c": 9})).parts.count("val") == 0


def test_a_share_of_nothing_holds_nothing_out() -> None:
    outcome = split_of(images({"a": 200, "b": 200}), Wish(0, 0.0, 0.0))
    assert set(outcome.parts) == {"train"}
    assert any("no test part" in note for note in outcome.notes)


@QUICK
@given(seed=st.integers(0, 500))
def test_few_speakers_are_shared_out_whole(seed: int) -> None:
    found = [
        Found(f"{speaker}/{label}/{i}", label, speaker)
        for speaker in "uvwxyz"
        for label in "ab"
        for i in range(40)
    ]
    outcome = split_of(found, Wish(seed, 0.2, 0.2))
    assert [outcome.parts.count(part) for part in PARTS] == [320, 80, 80]
    assert "6 groups: 4 in train, 1 in val, 1 in test." in outcome.notes


def test_one_group_cannot_be_split() -> None:
    outcome = split_of(images({"a": 20, "b": 20}, group="only"))
    assert set(outcome.parts) == {"train"}


def test_an_uneven_group_is_not_tested_on_alone() -> None:
    found = [Found(f"big/{i}", "a", "big") for i in range(60)] + images({"a": 40, "b": 50})
    for seed in range(20):
        outcome = split_of(found, Wish(seed, 0.2, 0.2))
        assert 10 <= counts_of(found, outcome, "test")["a"] <= 40


def test_identical_images_with_two_labels() -> None:
    found = [*images({"a": 30, "b": 30}), Found("x", "a"), Found("y", "b")]
    digests = [*(content(image.path) for image in found[:-2]), content("x"), content("x")]
    for seed in range(10):
        outcome = split(found, digests, [], Wish(seed, 0.5, 0.2))
        assert outcome.parts[-2:] == ["train", "train"]
    (conflict,) = outcome.conflicts
    assert (conflict.paths, conflict.labels) == (("x", "y"), ("a", "b"))
    assert any(note.startswith("2 images in 1 identical sets") for note in outcome.notes)


@QUICK
@given(seed=st.integers(0, 100), data=st.data())
def test_labels_of_a_given_test_part_decide_nothing(seed: int, data: st.DataObject) -> None:
    found = [
        Found(image.path, image.label, "", "test" if i % 4 == 0 else "")
        for i, image in enumerate(images({"a": 150, "b": 150}))
    ]
    digests = [
        content(int(image.path.split("/")[1]) // 2 if i % 7 == 0 else i) for i, image in enumerate(found)
    ]
    at = [i for i, image in enumerate(found) if image.split == "test"]
    shuffled = list(found)
    for i, j in zip(at, data.draw(st.permutations(at)), strict=True):
        shuffled[i] = Found(found[i].path, found[j].label, "", "test")
    outcomes = [split(version, digests, [], Wish(seed, 0.2, 0.2)).parts for version in (found, shuffled)]
    for part in ("train", "val"):
        sides = [[i for i, name in enumerate(parts) if name == part] for parts in outcomes]
        assert sides[0] == sides[1]


def test_copies_of_given_test_images_leave_train() -> None:
    found = [Found("t", "a", split="test"), Found("c", "a", split="train"), Found("v", "a", split="val")]
    found += [Found(f"{i}", "ab"[i % 2], split="train") for i in range(6)]
    outcome = split(found, ["same"] * 3 + [content(i) for i in range(6)], [], WISH)
    assert outcome.parts[:3] == ["test", "", ""]
    assert outcome.reasons[1] == "is an exact copy of t in the test part"


def test_groups_torn_by_a_given_split_are_named() -> None:
    found = [Found(f"{i}", "ab"[i % 2], "g", "test" if i < 4 else "train") for i in range(8)]
    assert any("puts 1 group(s) into more than one part (g)" in note for note in split_of(found).notes)


@QUICK
@given(rows=labelled, k=st.integers(2, 6), seed=st.integers(0, 50))
def test_folds_cover_everything_once_and_part_nothing(
    rows: list[tuple[int, str, str]], k: int, seed: int
) -> None:
    found = found_of(rows)
    units = unit_ids([image.group for image in found], [content(image.path) for image in found], [(0, 1)])
    targets = np.unique([image.label for image in found], return_inverse=True)[1]
    pairs = folds(targets, units, k, seed)
    assert len(pairs) <= k
    assume(pairs)
    assert sorted(np.concatenate([hold for _, hold in pairs]).tolist()) == list(range(len(found)))
    for learn, hold in pairs:
        assert not set(units[learn].tolist()) & set(units[hold].tolist())
        assert len(learn) + len(hold) == len(found)


def test_folds_are_fewer_where_classes_do_not_allow_them() -> None:
    def count(sizes: list[int], k: int) -> int:
        targets = np.repeat(np.arange(len(sizes)), sizes)
        return len(folds(targets, np.arange(len(targets)), k, 0))

    assert count([20, 20], 5) == 5
    assert count([20, 3], 5) == 3
    assert count([20, 1], 5) == 5  # a class of one image only learns
    assert count([1, 1], 5) == 0
    assert folds(np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64), 2, 0) == []


def test_folds_are_stratified_and_repeat() -> None:
    targets = np.repeat([0, 1], [60, 30])
    units = np.arange(90)
    for learn, hold in folds(targets, units, 3, 0):
        assert np.bincount(targets[hold]).tolist() == [20, 10]
        assert len(learn) == 60
    again = [hold.tolist() for _, hold in folds(targets, units, 3, 0)]
    assert again == [hold.tolist() for _, hold in folds(targets, units, 3, 0)]
    assert again != [hold.tolist() for _, hold in folds(targets, units, 3, 1)]


def test_units_join_through_groups_copies_and_pairs() -> None:
    ids = unit_ids(["g", "", "g", "", ""], ["1", "2", "3", "2", "4"], [(2, 3)])
    assert len(set(ids[:4].tolist())) == 1
    assert ids[4] not in ids[:4]
