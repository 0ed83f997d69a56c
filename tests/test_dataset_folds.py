"""Folds: even in each class, units kept whole, and known images keep theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from frostline.data import Manifest, Sample
from frostline.data.splits.folding import Pairs, fold_of, folds, numbered, unit_ids
from frostline.data.splits.splitting import unit_keys
from frostline.errors import DataError
from frostline.selection import resampling
from frostline.selection.resampling import Cell
from test_dataset_splitting import QUICK, content, found_of, labelled


def made(targets: list[int] | np.ndarray, units: np.ndarray | None, k: int, seed: int) -> Pairs:
    """Fold images that have no groups unless `units` says so."""
    labels = np.asarray(targets)
    ids = np.arange(len(labels)) if units is None else units
    keys = [f"image {content(unit)}" for unit in range(int(ids.max()) + 1)]
    return folds(labels, ids, keys, k, seed)


def manifest(counts: dict[str, int], groups: int = 0) -> Manifest:
    samples = tuple(
        Sample(f"{label}/{i}", label, content((label, i)), f"{label}{i % groups}" if groups else "", "train")
        for label, count in counts.items()
        for i in range(count)
    )
    return Manifest(None, samples, tuple(sorted(counts)), shares=(0.0, 0.0), seed=0)


@QUICK
@given(rows=labelled, k=st.integers(2, 6), seed=st.integers(0, 50))
def test_folds_cover_everything_once_and_part_nothing(
    rows: list[tuple[int, str, str]], k: int, seed: int
) -> None:
    entries = found_of(rows)
    units = unit_ids([image.group for image in entries], [content(image.path) for image in entries], [(0, 1)])
    targets = np.unique([image.label for image in entries], return_inverse=True)[1]
    pairs = made(targets, units, k, seed)
    assert len(pairs) <= k
    assume(pairs)
    assert sorted(np.concatenate([hold for _, hold in pairs]).tolist()) == list(range(len(entries)))
    for learn, hold in pairs:
        assert not set(units[learn].tolist()) & set(units[hold].tolist())
        assert len(learn) + len(hold) == len(entries)


@QUICK
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=40), min_size=2, max_size=4),
    k=st.integers(2, 6),
    seed=st.integers(0, 50),
)
def test_each_class_is_spread_within_one_unit(sizes: list[list[int]], k: int, seed: int) -> None:
    groups = [(label, size) for label, mine in enumerate(sizes) for size in mine]
    targets = np.repeat([label for label, _ in groups], [size for _, size in groups])
    units = np.repeat(np.arange(len(groups)), [size for _, size in groups])
    pairs = made(targets, units, k, seed)
    assert len(pairs) == min(k, *(len(mine) for mine in sizes))
    spread = np.array([np.bincount(targets[hold], minlength=len(sizes)) for _, hold in pairs])
    for label, mine in enumerate(sizes):
        assert spread[:, label].min() > 0
        assert np.ptp(spread[:, label]) <= max(mine)


def test_folds_are_fewer_where_classes_do_not_allow_them() -> None:
    def count(sizes: list[int], k: int) -> int:
        return len(made(np.repeat(np.arange(len(sizes)), sizes), None, k, 0))

    assert count([20, 20], 5) == 5
    assert count([20, 3], 5) == 3
    assert count([20, 1], 5) == 5  # a class of one image only learns
    assert count([1, 1], 5) == 0
    assert made([0, 0, 1, 1], np.zeros(4, dtype=np.int64), 2, 0) == []
    assert manifest({"a": 2}).folds((), 5, 0) == []


def test_folds_are_stratified_and_repeat() -> None:
    targets = np.repeat([0, 1], [60, 30])
    for learn, hold in made(targets, None, 3, 0):
        assert np.bincount(targets[hold]).tolist() == [20, 10]
        assert len(learn) == 60
    again = [hold.tolist() for _, hold in made(targets, None, 3, 0)]
    assert again == [hold.tolist() for _, hold in made(targets, None, 3, 0)]
    assert again != [hold.tolist() for _, hold in made(targets, None, 3, 1)]


@QUICK
@given(
    rows=labelled,
    later=labelled,
    gone=st.sets(st.integers(0, 400)),
    seed=st.integers(0, 50),
    k=st.integers(2, 6),
)
def test_known_images_keep_their_fold(
    rows: list[tuple[int, str, str]],
    later: list[tuple[int, str, str]],
    gone: set[int],
    seed: int,
    k: int,
) -> None:
    """Images come and go, with groups; the fold is the same unless a newcomer ties two folds together."""

    def dealt(
        images: list[tuple[int, str, str]], before: dict[int, int]
    ) -> tuple[dict[int, int], np.ndarray]:
        groups, digests = [group for _, _, group in images], [content(name) for name, _, _ in images]
        units = unit_ids(groups, digests, [])
        targets = np.unique([label for _, label, _ in images], return_inverse=True)[1]
        earlier = np.array([before.get(name, -1) for name, _, _ in images])
        fold = fold_of(targets, units, unit_keys(units, groups, digests), k, seed, earlier)
        return dict(zip((name for name, _, _ in images), fold.tolist(), strict=False)), units

    first, _ = dealt(rows, {})
    names = {name for name, _, _ in rows}
    after = [row for row in rows if row[0] not in gone] + [row for row in later if row[0] not in names]
    assume(first and len(after) > 1)
    second, units = dealt(after, first)
    assume(second)
    for unit in set(units.tolist()):
        mine = [name for (name, _, _), at in zip(after, units, strict=True) if at == unit]
        assert len({second[name] for name in mine}) == 1
        places = {first[name] for name in mine if name in first}
        if len(places) == 1:
            assert {second[name] for name in mine} == places


def test_a_newcomer_goes_to_the_fold_where_its_class_is_short() -> None:
    data = manifest({"a": 20, "b": 20})
    pairs = data.folds(data.samples, 5, 7)
    before = {7: numbered(pairs, [sample.digest for sample in data.samples])}
    short = [sample for sample in data.samples if not (sample.label == "a" and before[7][sample.digest] == 3)]
    newcomers = [Sample(f"new/{i}", "a", content(("new", i)), "", "train") for i in range(4)]
    grown = replace(data, samples=(*short, *newcomers), earlier_folds=before)
    held = grown.folds(grown.samples, 5, 7)[3][1]
    assert {grown.samples[at].path for at in held.tolist()} >= {sample.path for sample in newcomers}


def test_a_unit_that_ties_folds_together_goes_where_most_of_it_was() -> None:
    targets, units = np.repeat([0, 1], 10), np.concatenate([np.zeros(4, dtype=np.int64), np.arange(1, 17)])
    before = np.array([1, 2, 2, -1, *range(3), *range(3), *range(3), *range(3), *range(4)])
    before[-1] = 0
    fold = fold_of(targets, units, [f"image {content(unit)}" for unit in range(17)], 3, 0, before)
    assert fold[:4].tolist() == [2] * 4
    assert fold[4:].tolist() == before[4:].tolist()


def test_adding_one_image_moves_no_other_where_folds_are_remembered() -> None:
    data = manifest({"a": 30, "b": 31}, groups=9)
    before = {3: numbered(data.folds(data.samples, 5, 3), [sample.digest for sample in data.samples])}
    one = Sample("new", "b", content("new"), "", "train")
    grown = replace(data, samples=(one, *data.samples), earlier_folds=before)
    after = numbered(grown.folds(grown.samples, 5, 3), [sample.digest for sample in grown.samples])
    assert {digest: fold for digest, fold in after.items() if digest != one.digest} == before[3]


@settings(deadline=None, max_examples=30)
@given(learned=st.sets(st.integers(0, 59)), groups=st.sampled_from([0, 8]), repeat=st.integers(0, 2))
def test_what_was_learned_is_never_held_out(learned: set[int], groups: int, repeat: int) -> None:
    data = manifest({"a": 30, "b": 30}, groups)
    digests = frozenset(data.samples[at].digest for at in learned)
    data = replace(data, learned=digests)
    tied = {s.group or s.path for s in data.samples if s.digest in digests}
    for learn, hold in data.folds(data.samples, 5, 1):
        assert not {data.samples[at].group or data.samples[at].path for at in hold.tolist()} & tied
        assert sorted([*learn.tolist(), *hold.tolist()]) == list(range(60))
    if not resampling._splits(data, 0, 0):
        with pytest.raises(DataError, match=f"has already learned from {len(learned)} of 60 images"):
            resampling.folds_of(data, 0)
        return
    for fold in range(resampling.folds_of(data, 0)):
        val = resampling.split(data, Cell(repeat, fold), 0).subset("val")
        assert val
        assert not {sample.group or sample.path for sample in val} & tied


def test_what_was_learned_leaves_a_given_val_part() -> None:
    data = manifest({"a": 10, "b": 10})
    samples = tuple(replace(s, split="val") if i % 2 else s for i, s in enumerate(data.samples))
    data = replace(data, samples=samples, predefined=("train", "val"), learned=frozenset([samples[1].digest]))
    assert len(resampling.split(data, Cell(0, 0), 0).subset("val")) == 9
    assert resampling.folds_of(data, 0) == 1
    nothing = replace(data, learned=frozenset(sample.digest for sample in samples))
    with pytest.raises(DataError, match="already learned from 20 of 20 images"):
        resampling.folds_of(nothing, 0)


def test_a_study_remembers_folds(tmp_path: Path) -> None:
    data = manifest({"a": 12, "b": 12})
    data.keep_in(tmp_path, resampling.remembered(data, 5, 2))
    before = [numbered(resampling._splits(data, r, 5), [s.digest for s in data.samples]) for r in range(2)]
    grown = replace(data, samples=(Sample("new", "a", content("new"), "", "train"), *data.samples))
    for repeat in range(2):
        pairs = resampling._splits(grown.recalled(tmp_path), repeat, 5)
        after = numbered(pairs, [sample.digest for sample in grown.samples])
        assert {digest: at for digest, at in after.items() if digest != content("new")} == before[repeat]
