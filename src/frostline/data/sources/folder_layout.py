"""The meaning of an image set's folders, from names alone: subsets (train, val, test) or classes.

Subsets are folders that people call so: `train/` and `test/`, but also `Training/` and `Testing/`,
`seg_train/` and `seg_test/`, `train/` and `holdout/`. A folder that holds nothing but one of its own name is
looked through. What could be either is refused, with the option that decides it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from frostline.data.findings import Finding
from frostline.data.sources.common import subset_named
from frostline.errors import DataError, UsageError, did_you_mean, option

# Words within a folder's name that make it a subset, beyond those that are one alone (`common.SUBSET_NAMES`):
# the keywords of Hugging Face's `datasets`, which looks for them between other characters, too; "holdout" is
# ours.
SUBSET_WORDS = {"eval": "test", "evaluation": "test", "holdout": "test"}
SUBSETS = ("train", "val", "test")
NO_SUBSETS = "none"  # what `split_names` is where folders that look like subsets are classes
SHOWN = 5  # folders in a message
# Of the names of all their subfolders, folders share this much: then these are the classes. A choice.
SHARED = 0.5


@dataclass
class Tree:
    """A folder: those inside it by name, and whether files lie directly in it."""

    folders: dict[str, Tree] = field(default_factory=dict)
    files: bool = False

    @classmethod
    def of(cls, files: Iterable[str]) -> Tree:
        """Return the folders of files, given by paths with forward slashes."""
        root = cls()
        for file in files:
            *folders, _ = file.split("/")
            tree = root
            for name in folders:
                tree = tree.folders.setdefault(name, cls())
            tree.files = True
        return root

    def at(self, path: Iterable[str]) -> Tree:
        """Return a folder below this one."""
        tree = self
        for name in path:
            tree = tree.folders[name]
        return tree


Path = tuple[str, ...]


@dataclass(frozen=True)
class FolderLayout:
    """The folders that hold class folders, with their subset ("" where unnamed), and unlabelled ones."""

    classes_in: dict[Path, str]
    unlabelled: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()


SplitNames = Mapping[str, str] | str | None  # folder → subset, or `NO_SUBSETS`, or nothing


def checked_split_names(split_names: SplitNames) -> SplitNames:
    """Return it as it is. Raises `UsageError` where it names a subset that there is not."""
    if split_names is None or split_names == NO_SUBSETS:
        return split_names
    if isinstance(split_names, str) or not split_names:
        raise UsageError(
            f"{option('split_names')} is {split_names!r}; expected folders with the subset each is, such as "
            f"{{'fold0': 'train', 'fold1': 'test'}}, or {NO_SUBSETS!r}."
        )
    invalid = [subset for subset in split_names.values() if subset not in SUBSETS]
    if invalid:
        raise UsageError(
            f"There is no subset {invalid[0]!r}; there are {', '.join(SUBSETS)}."
            f"{did_you_mean(invalid[0], SUBSETS)}"
        )
    return split_names


def split_names_text(split_names: SplitNames) -> str:
    """Return them as the option takes them: "train=fold0,test=fold1"."""
    if isinstance(split_names, Mapping):
        return ",".join(f"{subset}={folder}" for folder, subset in split_names.items())
    return split_names or ""


def layout_of(
    tree: Tree, root: str, split_names: SplitNames = None, groups_inside: bool = False
) -> FolderLayout:
    """Return what the folders below `root` (its name, for messages) mean.

    `groups_inside` says that folders below classes are groups: patients, clips. Raises `DataError` where it
    is unclear what is a class.
    """
    base = _through(tree, (), root.rpartition("/")[2])
    base = base if tree.at(base).folders else ()
    folders = tree.at(base).folders
    inside = {name: tree.at(_through(tree, (*base, name), name)) for name in folders}
    message = f"{root}/ holds only a folder of the same name; that one is used."
    findings = [Finding("assumed", 1, message)] if base else []
    if isinstance(split_names, Mapping):
        return _as_said(tree, base, root, split_names, findings)
    if split_names is None:
        subsets = {name: subset for name in folders if (subset := subset_of(name))}
        if _are_subsets(inside, subsets, root):
            return _in_subsets(tree, base, subsets, findings)
        if not groups_inside:
            _refuse_doubtful(inside, root)
    return FolderLayout({base: ""}, findings=tuple(findings))


def subset_of(name: str) -> str | None:
    """Return the subset that a folder's name contains; None where it contains none or two."""
    exact = subset_named(name)
    name_words = re.split(r"[\W\d_]+", name.lower())
    joined = [*name_words, *("".join(pair) for pair in pairwise(name_words))]  # hold_out
    subsets = {subset for word in joined if (subset := subset_named(word) or SUBSET_WORDS.get(word))}
    return exact or (subsets.pop() if len(subsets) == 1 else None)


def _are_subsets(folders: Mapping[str, Tree], subsets: Mapping[str, str], root: str) -> bool:
    """Return whether the folders are subsets. Raises `DataError` where only some are."""
    nested = [name for name in subsets if folders[name].folders]
    if "train" not in subsets.values() or not any(subsets[name] == "train" for name in nested):
        if len(subsets) > 1 and all(subset_named(name) for name in subsets):
            raise DataError(
                f"{root} has {_listed(subsets)} but no class folders under train/; expected "
                "train/CLASS/image.jpg."
            )
        return False
    other_folders = [name for name in folders if name not in subsets]
    if other_folders and not (len(subsets) > 1 and _share_names([folders[name] for name in nested])):
        if len(subsets) > 1 and all(subset_named(name) for name in subsets):
            raise DataError(
                f"{root} mixes subsets ({_listed(subsets)}) with other folders ({_listed(other_folders)}); "
                "expected either train/ val/ test/ or a folder per class. Move the others out, or name the "
                f"subsets with --split-names {_example(subsets)}."
            )
        return False  # a class may be called train
    if strange := [name for name in other_folders if folders[name].folders]:
        raise DataError(
            f"{root} mixes subsets ({_listed(subsets)}) with other folders ({_listed(strange)}). Move those "
            f"out, or name the subsets with --split-names {_example(subsets)}."
        )
    doubled = [subset for subset in SUBSETS if list(subsets.values()).count(subset) > 1]
    if doubled:
        several = [name for name in subsets if subsets[name] == doubled[0]]
        raise DataError(
            f"{root} has two folders for {doubled[0]}: {_listed(several)}. Move one out, or say "
            f"what they are with --split-names {_example(subsets)}."
        )
    return True


def _in_subsets(tree: Tree, base: Path, subsets: Mapping[str, str], findings: list[Finding]) -> FolderLayout:
    folders = tree.at(base).folders
    classes_in, unlabelled = {}, []
    for name in folders:
        inner = _through(tree, (*base, name), name)
        if name in subsets and tree.at(inner).folders:
            classes_in[inner] = subsets[name]
        else:
            unlabelled.append((*base, name))
    if any(subset_named(name) is None for name in subsets):
        assigned = ", ".join(f"{name}/ is {subset}" for name, subset in subsets.items())
        findings.append(
            Finding(
                "assumed",
                len(subsets),
                f"Folders read as subsets: {assigned}.",
                "If that is wrong, use --split-names.",
            )
        )
    if unlabelled:
        flat = _listed(path[-1] for path in unlabelled)
        why = f"Images in {flat} have no label, since there are no class folders: they are skipped."
        findings.append(Finding("assumed", len(unlabelled), why))
    return FolderLayout(classes_in, tuple(unlabelled), tuple(findings))


def _as_said(
    tree: Tree, base: Path, root: str, split_names: Mapping[str, str], findings: list[Finding]
) -> FolderLayout:
    folders = tree.at(base).folders
    missing = [name for name in split_names if name not in folders]
    if missing:
        raise DataError(
            f"{root} has no folder {missing[0]!r}, which --split-names names; it has {_listed(folders)}."
            f"{did_you_mean(missing[0], list(folders))}"
        )
    classes_in = {_through(tree, (*base, name), name): subset for name, subset in split_names.items()}
    unnamed = [(*base, name) for name in folders if name not in split_names]
    if unnamed:
        names = _listed(path[-1] for path in unnamed)
        findings.append(Finding("assumed", len(unnamed), f"--split-names does not name {names}: skipped."))
    return FolderLayout(classes_in, tuple(unnamed), tuple(findings))


def _refuse_doubtful(folders: Mapping[str, Tree], root: str) -> None:
    """Raise `DataError` where what would be classes hold folders of the same names: are those the classes?"""
    if len(folders) > 1 and _share_names(list(folders.values())):
        inside = sorted(set.intersection(*(set(folder.folders) for folder in folders.values())))
        names = list(folders)
        raise DataError(
            f"{root} holds {_listed(names)}, and each of them holds {_listed(inside)}. Which are the "
            f"classes? If those inside are, name the subset of each folder: --split-names "
            f"train={names[0]},test={names[-1]}. If {_listed(names)} are the classes: --split-names "
            f"{NO_SUBSETS}, or --group-by parent where those inside are groups, such as patients."
        )


def _share_names(folders: list[Tree]) -> bool:
    """Return whether all of these hold subfolders, and mostly of the same two or more names."""
    names = [set(folder.folders) for folder in folders]
    shared, together = set.intersection(*names), set.union(*names)
    return len(shared) > 1 and len(shared) >= SHARED * len(together)


def _through(tree: Tree, path: Path, name: str) -> Path:
    """Return the folder to look in: of one that holds nothing but a folder of its own name, that one."""
    folder = tree.at(path)
    while len(folder.folders) == 1 and not folder.files:
        (inner,) = folder.folders
        if inner.casefold() != name.casefold():
            break
        path, folder = (*path, inner), folder.folders[inner]
    return path


def _listed(names: Iterable[str]) -> str:
    quoted = [f"{name}/" for name in names]
    return ", ".join(quoted[:SHOWN]) + (f" and {len(quoted) - SHOWN} more" if len(quoted) > SHOWN else "")


def _example(subsets: Mapping[str, str]) -> str:
    return ",".join(f"{subset}={name}" for name, subset in subsets.items())
