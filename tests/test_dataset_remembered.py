"""What a study remembers of its images: known ones keep their subset, and nothing leaks where they meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import frostline
from frostline.cli.main import cli
from frostline.data import SUBSETS, Manifest, load_data
from frostline.data.sources.common import ImageEntry
from frostline.data.splits.folding import unit_ids
from frostline.data.splits.saved_splits import Assignment, assigned, remember
from frostline.data.splits.train_val_test import Split, SplitOptions, split
from frostline.errors import DataError, StudyError
from frostline.studies.study_folder import Study
from test_dataset_manifest import manifest_of, samples
from test_dataset_sources import by_class, save, table
from test_dataset_splitting import QUICK, content, counts_of, images
from tiny import tiny_backbone, write_folder

MOST = 120
WISH = SplitOptions(seed=0, test=0.2, val=0.2)
pairs = st.lists(st.tuples(st.integers(0, MOST - 1), st.integers(0, MOST - 1)), max_size=25)


def sides_of(digests: list[str], outcome: Split) -> dict[str, str]:
    return {digest: subset for digest, subset in zip(digests, outcome.subsets, strict=True) if subset}


@QUICK
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=MOST, max_size=MOST),
    groups=st.lists(st.sampled_from(["", "", "", "g1", "g2", "g3", "g4"]), min_size=MOST, max_size=MOST),
    copies=pairs,
    near=pairs,
    first=st.sets(st.integers(0, MOST - 1), min_size=2),
    second=st.sets(st.integers(0, MOST - 1), min_size=2),
    regrouped=st.booleans(),
    seed=st.integers(0, 100),
)
def test_known_images_stay_and_no_unit_is_on_two_sides(
    labels: list[str],
    groups: list[str],
    copies: list[tuple[int, int]],
    near: list[tuple[int, int]],
    first: set[int],
    second: set[int],
    regrouped: bool,
    seed: int,
) -> None:
    """Images, copies and groups come and go between two loads; groups may be named only at the second."""
    names = [content(i) for i in range(MOST)]
    for i, j in copies:
        names[i] = names[j]

    def load(here: set[int], named: bool, sides: dict[str, str]) -> tuple[list[int], list[str], Split]:
        at = sorted(here)
        place = {i: position for position, i in enumerate(at)}
        entries = [ImageEntry(str(i), labels[i], groups[i] if named else "") for i in at]
        tied = [(place[i], place[j]) for i, j in near if i in place and j in place]
        digests = [names[i] for i in at]
        units = unit_ids([image.group for image in entries], digests, tied)
        return units.tolist(), digests, split(entries, digests, tied, SplitOptions(seed, 0.3, 0.3), sides)

    _, before, outcome = load(first, not regrouped, {})
    sides = sides_of(before, outcome)
    units, digests, outcome = load(second, True, sides)
    doubtful = {conflict.digest for conflict in outcome.conflicts}
    for unit in set(units):
        at = [i for i, other in enumerate(units) if other == unit]
        guards = {SUBSETS.index(sides[digests[i]]) for i in at if digests[i] in sides}
        assert len({outcome.subsets[i] for i in at} - {""}) <= 1
        for i in at:
            side, subset = sides.get(digests[i]), outcome.subsets[i]
            doubt = digests[i] in doubtful and max(guards, default=0) > 0
            torn = len(guards) > 1 and side != SUBSETS[max(guards)]
            assert (subset == "") == (doubt or torn)
            assert (i in outcome.skipped) == (subset == "")
            assert not subset or side in (None, subset)
    assert any(one.kind == "tied" for one in outcome.findings) == bool(outcome.skipped)


def test_newcomers_go_where_a_class_is_short() -> None:
    before = images({"a": 20, "b": 20})
    digests = [content(image.path) for image in before]
    sides = sides_of(digests, split(before, digests, [], WISH))
    grown = [
        *before,
        *(ImageEntry(f"new/{i}", "a") for i in range(20)),
        *(ImageEntry(f"more/{i}", "b") for i in range(5)),
    ]
    outcome = split(grown, [content(image.path) for image in grown], [], WISH, sides)
    assert outcome.subsets[:40] == [sides[digest] for digest in digests]
    assert counts_of(grown, outcome, "test") == {"a": 8, "b": 5}

    no_tests = [image for image in grown if sides.get(content(image.path)) != "test"]
    outcome = split(no_tests, [content(image.path) for image in no_tests], [], WISH, sides)
    assert counts_of(no_tests, outcome, "test") == {"a": 7, "b": 4}  # of 36 and 21: newcomers alone
    assert all(outcome.subsets[i] == "train" for i, image in enumerate(no_tests) if image in before)


def test_a_newcomer_that_ties_train_to_test_teaches_nobody() -> None:
    entries = [*images({"a": 30, "b": 30}), ImageEntry("bridge", "a")]
    digests = [content(image.path) for image in entries]
    first = split(entries[:-1], digests[:-1], [], WISH)
    train, test = first.subsets.index("train"), first.subsets.index("test")
    outcome = split(entries, digests, [(train, 60), (60, test)], WISH, sides_of(digests[:-1], first))
    assert [outcome.subsets[at] for at in (train, test, 60)] == ["", "test", ""]
    reason = "belongs together with images of the test set that stay there"
    assert {at: (image.kind, image.reason) for at, image in outcome.skipped.items()} == dict.fromkeys(
        (train, 60), ("tied", reason)
    )
    assert any(one.kind == "tied" and one.n == 2 for one in outcome.findings)
    assert [subset for at, subset in enumerate(outcome.subsets) if at not in (train, 60)] == [
        subset for at, subset in enumerate(first.subsets) if at != train
    ]


def test_the_source_has_the_say_where_it_names_a_part() -> None:
    entries = [
        ImageEntry(f"{label}/{i}", label, split="test" if i < 3 else "train")
        for label in "ab"
        for i in range(9)
    ]
    digests = [content(image.path) for image in entries]
    outcome = split(entries, digests, [], WISH, dict.fromkeys(digests, "test"))
    assert outcome.subsets == [image.split for image in entries]
    drawn = [replace(image, split="train") for image in entries]  # a source without a test set
    outcome = split(drawn, digests, [], WISH, {digests[4]: "test"})
    assert outcome.subsets[4] == "test"


def test_keeping_splits_anew_around_what_is_pinned(tmp_path: Path) -> None:
    data = load_data(by_class(tmp_path / "photos", {"a": 25, "b": 25}), seed=3)
    assert data.seed == 3
    assert data.keeping({}) == data
    assert data.keeping({sample.digest: sample.split for sample in data.samples}) == data
    tested = data.subset("test")
    moved = data.keeping({sample.digest: "train" for sample in tested})
    assert not {sample.digest for sample in moved.subset("test")} & {sample.digest for sample in tested}
    assert moved.counts == data.counts
    assert moved.digest == data.digest
    everything = data.keeping({sample.digest: "train" for sample in data.samples})
    assert not everything.subset("test")
    assert everything.notes[0] == "50 images in 2 classes: 50 train (25 a class), 0 val, 0 test."
    assert data.notes[0] not in everything.notes
    assert Manifest.from_json(moved.to_json()) == moved
    with pytest.raises(DataError, match="load the data again"):
        manifest_of([*data.samples]).keeping({})


def test_keeping_leaves_given_parts_and_copies_alone(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 30, "b": 30})
    save(root / "a" / "same.png", 900)
    save(root / "b" / "same.png", 900)
    rows = [
        [f"{label}/{path.name}", label, "val" if path.name < "005" else "train"]
        for label in "ab"
        for path in sorted((root / label).glob("*.png"))
    ]
    data = load_data(table(root / "list.csv", ["path", "label", "split"], rows))
    assert data.conflicts
    assert data.keeping({}) == data
    moved = data.keeping({sample.digest: "test" for sample in data.samples if sample.split != "test"})
    assert [s.path for s in moved.subset("val")] == [s.path for s in data.subset("val")]
    assert {gone.path for gone in moved.skipped} == {"a/same.png", "b/same.png"}


@QUICK
@given(rows=samples, seed=st.integers(), learned=st.booleans())
def test_seed_and_learned_are_written_and_read(rows: list, seed: int, learned: bool) -> None:
    plain = replace(manifest_of(rows), seed=seed, shares=(0.2, 0.2))
    data = replace(plain, learned=frozenset(row.digest for row in rows) if learned else frozenset())
    assert Manifest.from_json(data.to_json()) == data
    assert (data.digest, data.split_digest) == (plain.digest, plain.split_digest)
    assert ('"learned"' in data.to_json().splitlines()[0]) == learned


def test_load_data_applies_what_a_study_remembers(tmp_path: Path) -> None:
    photos, study = write_folder(tmp_path / "photos", per_class=12), tmp_path / "study"
    data = load_data(photos, near_copies=False)
    frostline.train(tiny_backbone(), data, "linear_probe", study=study, threads=1, deterministic=True)
    before = {sample.path: sample.split for sample in data.samples}
    again = load_data(photos, near_copies=False, seed=9, study=study)
    assert {sample.path: sample.split for sample in again.samples} == before
    assert again.notes == data.notes
    for path, seed in (("kind 0/new.png", 1), ("kind 0/newer.png", 2), ("kind 1/new.png", 3)):
        save(photos / path, seed)
    (photos / "kind 2" / "000.png").unlink()
    grown = load_data(photos, near_copies=False, seed=9, study=study)
    after = {sample.path: sample.split for sample in grown.samples}
    assert all(after[path] == subset for path, subset in before.items() if path in after)
    with pytest.raises(StudyError, match="other data"):  # a study doesn't grow yet
        frostline.train(tiny_backbone(), grown, "linear_probe", study=study, threads=1, deterministic=True)
    assert {**assigned(study).sides, **{s.digest: s.split for s in data.samples}} == assigned(study).sides
    folds = grown.recalled(study).earlier_folds
    assert folds == grown.earlier_folds
    assert {len(of_digest) for of_digest in folds.values()} == {len(data.subset("train"))}


def test_a_run_uses_the_folds_that_its_study_remembers(tmp_path: Path) -> None:
    data = load_data(write_folder(tmp_path / "photos", per_class=12), near_copies=False)
    frostline.train(
        tiny_backbone(), data, "linear_probe", study=tmp_path / "one", threads=1, deterministic=True
    )
    ((seed, drawn),) = assigned(tmp_path / "one").folds.items()
    others = dict(zip(drawn, reversed(drawn.values()), strict=True))
    other = tmp_path / "other"
    Study.open(other, data=data.digest, split=data.split_digest, test=data.test_digest)
    remember(other, {}, {seed: others})
    frostline.train(tiny_backbone(), data, "linear_probe", study=other, threads=1, deterministic=True)
    assert others != drawn
    assert assigned(other).folds == {seed: others}


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    photos = by_class(tmp_path / "photos", {"a": 4, "b": 4})
    with pytest.raises(StudyError, match="does not exist"):
        load_data(photos, study=tmp_path / "nowhere")
    with pytest.raises(StudyError, match="is not a study: it holds no study"):
        load_data(photos, study=photos)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"seeds":[],"images":[]}',
        '{"seeds":["1"],"images":{}}',
        '{"seeds":[],"images":{"abc":["train"]}}',
        json.dumps({"seeds": [], "images": {"0" * 64: ["exam"]}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: ["train"]}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: ["train", -1]}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: ["train", 10**9]}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: ["train", True]}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: []}}),
        json.dumps({"seeds": [1], "images": {"0" * 64: [["train"], 0]}}),
    ],
)
def test_a_damaged_memory_is_one_message(tmp_path: Path, text: str) -> None:
    photos = by_class(tmp_path / "photos", {"a": 4, "b": 4})
    data = load_data(photos)
    Study.open(tmp_path / "study", data=data.digest, split=data.split_digest, test=data.test_digest)
    assert load_data(photos, study=tmp_path / "study") == data  # it has begun, and remembers nothing
    (tmp_path / "study" / "assignment.json").write_text(text)
    with pytest.raises(StudyError, match=r"assignment\.json cannot be read"):
        load_data(photos, study=tmp_path / "study")


def test_what_is_remembered_adds_up(tmp_path: Path) -> None:
    one, other = content(1), content(2)
    remember(tmp_path, {one: "train"}, {7: {one: 0}})
    remember(tmp_path, {other: "test"}, {7: {other: 3}, 8: {one: 1}})
    (tmp_path / "study.json").write_text("{}")
    assert assigned(tmp_path) == Assignment(
        {one: "train", other: "test"}, {7: {one: 0, other: 3}, 8: {one: 1}}
    )
    inner = tmp_path / "splits" / "1a2b"
    inner.mkdir(parents=True)
    remember(inner, {one: "val"})
    assert not list(inner.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("warm_cache")
def test_the_command_line_keeps_the_parts_of_its_study(tmp_path: Path) -> None:
    """Another seed, and fit after train: the same subsets as the study has, where it was refused before."""
    photos, study = write_folder(tmp_path / "photos", per_class=10), tmp_path / "study"
    options = ["--study", str(study), "--size", "32", "--deterministic", "--threads", "1", "--json"]
    tested = []
    for seed in ("0", "1"):
        call = ["train", str(photos), "--strategy", "linear_probe", "--seed", seed, *options]
        done = CliRunner().invoke(cli, call)
        assert done.exit_code == 0, done.output
        run = study / "runs" / json.loads(done.stdout)["run"]
        lines = (run / "predictions-test.csv").read_text().splitlines()[1:]
        tested.append({line.split(",")[0] for line in lines})
    assert tested[0] == tested[1]
    assert len(tested[0]) == 6
    call = ["fit", str(photos), "--strategies", "linear_probe", "--repeats", "1", *options]
    done = CliRunner().invoke(cli, call)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["basis"] == "test set"
