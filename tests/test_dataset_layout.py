"""Which folders are subsets and which are classes: layouts that people have, and what names cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frostline
from frostline.cli.main import cli
from frostline.data import load_data
from frostline.data.sources.folder_layout import Tree, layout_of, subset_of
from frostline.errors import DataError, FrostlineError, UsageError
from tiny import write_folder

LABELS = {"kind 0", "kind 1", "kind 2"}


def subsets_below(root: Path, folders: dict[str, int]) -> Path:
    """Write a folder of classes below each name."""
    for seed, (name, per_class) in enumerate(folders.items()):
        write_folder(root / name, per_class=per_class, seed=seed)
    return root


def counts(root: Path, **options: object) -> dict[str, int]:
    data = load_data(root, val_size=0.0, **options)  # type: ignore[arg-type]
    assert set(data.classes) == LABELS
    return {subset: len(data.subset(subset)) for subset in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"seg_train/seg_train": 6, "seg_test/seg_test": 2}, (18, 0, 6)),
        ({"train": 6, "eval": 2}, (18, 0, 6)),
        ({"train": 6, "holdout": 2}, (18, 0, 6)),
        ({"train": 6, "hold-out": 2}, (18, 0, 6)),
        ({"Training": 6, "Testing": 2}, (18, 0, 6)),
        ({"train2017": 6, "val2017": 3, "test2017": 2}, (18, 9, 6)),
        ({"train_set": 6, "validation_set": 3}, (None, 9, None)),
    ],
)
def test_folders_that_people_name_as_subsets(
    tmp_path: Path, folders: dict[str, int], expected: tuple[int | None, ...]
) -> None:
    sizes = counts(subsets_below(tmp_path / "set", folders))
    wrong = [p for p, n in zip(sizes, expected, strict=True) if n is not None and sizes[p] != n]
    assert not wrong, sizes
    notes = load_data(tmp_path / "set").notes
    aliased = any(name.split("/")[0].lower() not in ("train", "training", "testing") for name in folders)
    assert any("read as subsets" in note for note in notes) == aliased


def test_a_set_in_a_folder_of_its_own_name_is_looked_through(tmp_path: Path) -> None:
    subsets_below(tmp_path / "photos" / "Photos", {"train": 5, "test": 2})
    assert counts(tmp_path / "photos") == {"train": 15, "val": 0, "test": 6}
    assert any("of the same name; that one is used" in note for note in load_data(tmp_path / "photos").notes)


def test_a_flat_part_has_no_labels_and_is_said_to_be_left_out(tmp_path: Path) -> None:
    root = subsets_below(tmp_path / "set", {"train": 10, "val": 3})
    write_folder(tmp_path / "more", classes=1, per_class=4, seed=9)
    (tmp_path / "more" / "kind 0").rename(root / "test1")
    data = load_data(root)
    assert {s.path.split("/")[0] for s in data.samples} == {"train", "val"}
    assert len([gone for gone in data.skipped if gone.path.startswith("test1/")]) == 4
    assert any("Images in test1/ have no label" in note for note in data.notes)
    (root / "test1").rename(root / "seg_pred")  # whatever it is called
    assert any("Images in seg_pred/ have no label" in note for note in load_data(root).notes)


@pytest.mark.parametrize("folders", [("fold0", "fold1", "fold2"), ("site_a", "site_b"), ("2019", "2020")])
def test_folders_that_share_the_names_inside_them_are_asked_about(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    root = subsets_below(tmp_path / "set", dict.fromkeys(folders, 5))
    last = folders[-1]
    with pytest.raises(DataError, match=rf"--split-names train={folders[0]},test={last}") as error:
        load_data(root)
    assert "--split-names none" in str(error.value)
    subsets_by_name = {name: "test" if name == last else "train" for name in folders}
    sizes = counts(root, split_names=subsets_by_name)
    assert (sizes["train"], sizes["test"]) == (15 * (len(folders) - 1), 15)
    assert set(load_data(root, split_names="none").classes) == set(folders)


def test_real_classes_stay_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", per_class=5)
    for old, new in (("kind 0", "bus"), ("kind 1", "car"), ("kind 2", "train")):
        (tmp_path / "set" / old).rename(tmp_path / "set" / new)
    assert load_data(tmp_path / "set").classes == ("bus", "car", "train")
    (tmp_path / "set" / "train").rename(tmp_path / "set" / "train station")
    assert load_data(tmp_path / "set").classes == ("bus", "car", "train station")


def test_a_hidden_folder_of_pictures_is_said_to_be_left_out(tmp_path: Path) -> None:
    root = subsets_below(tmp_path / "photos", {"train": 6})
    for name in (".kind 3", ".ipynb_checkpoints", ".empty"):
        (root / "train" / name).mkdir()
    for name in (".kind 3", ".ipynb_checkpoints"):
        sorted((root / "train" / "kind 0").iterdir())[0].rename(root / "train" / name / "picture.png")
    (said,) = [f.message for f in load_data(root).findings if f.kind == "left_out"]
    assert (
        said == "train/.kind 3/ is skipped: it is hidden, since its name begins with a dot. "
        "Rename it if it is a class."
    )


def test_test_rows_without_labels_are_no_reason_to_say_that_there_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", per_class=20)
    rows = [
        (path.relative_to(tmp_path).as_posix(), path.parent.name)
        for path in sorted((tmp_path / "photos").glob("*/*"))
    ]
    lines = [
        f"{path},{'' if n % 5 == 0 else label},{'test' if n % 5 == 0 else 'train'}"
        for n, (path, label) in enumerate(rows)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    data = load_data(tmp_path / "labels.csv")
    (said,) = [f.message for f in data.findings if f.kind == "no_test"]
    assert said == "The source has no labelled test set; one was drawn from train."


def test_what_split_names_says_must_be_there_and_be_subsets(tmp_path: Path) -> None:
    root = subsets_below(tmp_path / "set", {"fold0": 5, "fold1": 5})
    with pytest.raises(DataError, match=r"no folder 'fold2'.*Did you mean"):
        load_data(root, split_names={"fold0": "train", "fold2": "test"})
    with pytest.raises(UsageError, match=r"no subset 'tset'.*Did you mean 'test'"):
        load_data(root, split_names={"fold0": "train", "fold1": "tset"})
    with pytest.raises(UsageError, match="split_names is"):
        load_data(root, split_names="fold0")
    only = load_data(root, split_names={"fold0": "train"})
    assert any("does not name fold1/" in note for note in only.notes)
    (tmp_path / "table.csv").write_text("path,label\n")
    with pytest.raises(UsageError, match="split_names is for folders"):
        load_data(tmp_path / "table.csv", split_names={"a": "train"})


@pytest.mark.ecosystem
def test_an_address_is_read_as_a_folder_is(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    root = subsets_below(tmp_path / "set", {"seg_train/seg_train": 5, "seg_test/seg_test": 2})
    for path in root.rglob("*.png"):
        memory.pipe(f"/layout/{path.relative_to(root).as_posix()}", path.read_bytes())
    data = load_data("memory://layout", val_size=0.0)
    assert set(data.classes) == LABELS
    assert (len(data.subset("train")), len(data.subset("test"))) == (15, 6)


def test_the_command_line_takes_it_and_the_report_repeats_it(tmp_path: Path) -> None:
    from click.testing import CliRunner

    root = subsets_below(tmp_path / "set", {"fold0": 8, "fold1": 4})
    refused = CliRunner().invoke(cli, ["train", str(root), "--size", "32", "--json"])
    assert refused.exit_code == 1
    assert "--split-names" in json.loads(refused.stdout)["error"]
    data = load_data(root, split_names={"fold0": "train", "fold1": "test"})
    assert data.reading == {"split_names": "train=fold0,test=fold1"}
    assert type(data).from_json(data.to_json()) == data
    backbone = frostline.load_backbone("timm/test_efficientnet", size=32, random=True)
    run = frostline.train(backbone, data, "linear_probe", study=tmp_path / "study", deterministic=True)
    page = Path(frostline.report(run.study).path).read_text(encoding="utf-8")
    assert "--split-names train=fold0,test=fold1" in page


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("train", "train"),
        ("TRAIN_images", "train"),
        ("my-test-set", "test"),
        ("hold_out", "test"),
        ("dev2", "val"),
        ("train_test", None),
        ("trainer", None),
        ("contest", None),
        ("", None),
    ],
)
def test_the_part_in_a_name(name: str, subset: str | None) -> None:
    assert subset_of(name) == subset


words = st.sampled_from(["train", "test", "val", "seg_test", "fold0", "cat", "dog", "eval", "x"])
trees = st.recursive(
    st.builds(Tree, files=st.booleans()),
    lambda inner: st.builds(Tree, folders=st.dictionaries(words, inner, max_size=4), files=st.booleans()),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(tree=trees)
def test_every_layout_is_read_or_refused_in_words(tree: Tree) -> None:
    try:
        layout = layout_of(tree, "root")
    except FrostlineError:
        return
    top = {path[0] for path in (*layout.classes_in, *layout.unlabelled) if path}
    assert () in layout.classes_in or top <= set(tree.folders)
    for path in layout.classes_in:
        tree.at(path)


TRAIN = st.sampled_from(["train", "Training", "seg_train", "train_set", "train2017", "TRAIN-images"])
OTHER = st.sampled_from(
    ["test", "Testing", "val", "valid", "eval", "holdout", "hold_out", "test1", "seg_test"]
)
LEAF = Tree(files=True)


@settings(max_examples=150, deadline=None)
@given(
    train=TRAIN,
    others=st.sets(OTHER, min_size=1, max_size=2),
    classes=st.sets(st.sampled_from(["cat", "dog", "owl", "test tube", "train"]), min_size=2, max_size=4),
    doubled=st.booleans(),
    loose=st.sampled_from(["", "images", "notes", "cat"]),
)
def test_parts_by_any_alias_are_never_trained_on_as_classes(
    train: str, others: set[str], classes: set[str], doubled: bool, loose: str
) -> None:
    """Refused, or looked into: no subset is left standing where a class would be."""
    subsets = {train, *others}
    inside = Tree(dict.fromkeys(classes, LEAF))
    tree = Tree({subset: Tree({subset: inside}) if doubled else inside for subset in subsets})
    tree.folders |= {loose: LEAF} if loose else {}
    try:
        layout = layout_of(tree, "root")
    except FrostlineError:
        return
    for path, subset in layout.classes_in.items():
        assert subset
        assert set(tree.at(path).folders) == classes
    assert "train" in layout.classes_in.values()
    assert {path[0] for path in layout.unlabelled} <= {loose}
