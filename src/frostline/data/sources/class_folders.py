"""A folder per class, or train/ val/ test/ with a folder per class inside each."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from frostline.data.findings import Finding
from frostline.data.sources.common import ImageEntry, Source, listing, outside
from frostline.data.sources.file_listing import (
    HIDDEN_NAMES,
    find_images,
    is_hidden,
    is_picture,
    missing_message,
    own,
    walk_files,
)
from frostline.data.sources.folder_layout import FolderLayout, SplitNames, Tree, layout_of
from frostline.data.sources.table_cells import TABLE_SUFFIXES
from frostline.errors import DataError

# Below the root lie at most: a folder of the same name, a subset, one of its name, and classes.
DEPTH = 5
# Hidden folders that hold copies of pictures and are never a class: of Jupyter, of file managers.
OF_TOOLS = {".ipynb_checkpoints", ".thumbnails", *HIDDEN_NAMES}


def read_folder(root: Path, split_names: SplitNames = None, groups_inside: bool = False) -> Source:
    """List a folder of labelled images; the class is the first folder below the root or the subset.

    `split_names` says which folders are which subset, where their names don't; `groups_inside` that folders
    below classes are groups (`folder_layout`).

    Raises:
        DataError: there are no class folders, or subsets and classes are mixed up.
    """
    if not root.is_dir():
        raise DataError(missing_message(root))
    root = root.absolute()  # the manifest and the memory outlive the working directory
    if kind := own(root):
        article = "an" if kind == "export" else "a"
        raise DataError(
            f"{root} is {article} {kind} that frostline wrote, not labelled images. Expected the folder or "
            "table that it was made from."
        )
    source = Source(root, hint="Only image files inside the class folders count.")
    layout = layout_of(_tree(root, DEPTH), str(root), split_names, groups_inside)
    source.findings += layout.findings
    for path, subset in layout.classes_in.items():
        _read_classes(root.joinpath(*path), subset, source)
    for path in layout.unlabelled:
        _skip_folder(root.joinpath(*path), source)
    inside = _folders(root)
    source.findings += [_left_out(root, folder, kind) for folder, kind in _own_inside(root, layout)]
    source.findings += [_left_out_hidden(root, folder) for folder in _hidden_inside(root, layout)]
    if not source.images:
        raise DataError(_nothing_found(root, inside))
    if len(inside) == 1 and len(_folders(inside[0])) > 1 and layout.classes_in == {(): ""}:
        raise DataError(
            f"{root} holds one folder, {inside[0].name}/, which would be the only class. "
            f"Did you mean {inside[0]}?"
        )
    return source


def _tree(folder: Path, depth: int) -> Tree:
    """Return the folders below one, so many levels deep."""
    try:
        folders = _folders(folder)
        files = any(not child.is_dir() and not is_hidden(child.name) for child in folder.iterdir())
    except OSError:  # reported for the class that cannot be opened
        return Tree()
    return Tree({child.name: _tree(child, depth - 1) for child in folders} if depth else {}, files)


def _skip_folder(folder: Path, source: Source) -> None:
    """List the images of a folder that is neither a subset nor a class, as skipped."""
    assert source.root is not None
    for file in walk_files(folder):
        if is_picture(file):
            path = file.relative_to(source.root).as_posix()
            source.skipped.append(outside(path))


def _read_classes(folder: Path, subset: str, source: Source) -> None:
    """Add every file of every class folder; image files beside them have no label and are skipped."""
    assert source.root is not None
    for child in sorted(folder.iterdir()):
        if is_hidden(child.name):
            continue
        if child.is_dir():
            if own(child):
                continue
            _read_class(child, subset, source)
        elif is_picture(child):
            path = child.relative_to(source.root).as_posix()
            source.skipped.append(outside(path))


def _read_class(folder: Path, subset: str, source: Source) -> None:
    assert source.root is not None
    label = unicodedata.normalize("NFC", folder.name)  # macOS spells é as two characters
    own_folders: list[tuple[Path, str]] = []
    files = walk_files(folder, own_folders)
    source.findings += [_left_out(source.root, place, kind) for place, kind in sorted(own_folders)]
    source.images += [
        ImageEntry(file.relative_to(source.root).as_posix(), label, split=subset) for file in files
    ]
    if not files:
        relative = folder.relative_to(source.root).as_posix()
        source.findings.append(Finding("empty", 1, f"The folder {relative} is empty."))


def _folders(folder: Path) -> list[Path]:
    inside = (child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
    return sorted(child for child in inside if not own(child))


def _own_inside(root: Path, layout: FolderLayout) -> list[tuple[Path, str]]:
    """Return the folders of frostline's own that stand where classes or subsets do, and what they are."""
    inside = _beside_classes(root, layout)
    return [(child, kind) for child in inside if not is_hidden(child.name) and (kind := own(child))]


def _hidden_inside(root: Path, layout: FolderLayout) -> list[Path]:
    """Return hidden folders that stand where classes do and hold a picture; no tool's own."""

    def holds_picture(folder: Path) -> bool:
        try:
            return any(map(is_picture, folder.iterdir()))
        except OSError:  # nobody's class: it can't be opened
            return False

    hidden = [child for child in _beside_classes(root, layout) if is_hidden(child.name)]
    return [child for child in hidden if child.name.lower() not in OF_TOOLS and holds_picture(child)]


def _beside_classes(root: Path, layout: FolderLayout) -> list[Path]:
    """Return all folders that stand where classes or subsets do."""
    places = dict.fromkeys([root, *(root.joinpath(*path) for path in layout.classes_in)])
    return [child for place in places for child in sorted(place.iterdir()) if child.is_dir()]


def _left_out_hidden(root: Path, folder: Path) -> Finding:
    relative = folder.relative_to(root).as_posix()
    why = "it is hidden, since its name begins with a dot. Rename it if it is a class."
    return Finding("left_out", 1, f"{relative}/ is skipped: {why}")


def _left_out(root: Path, folder: Path, kind: str) -> Finding:
    article = "an" if kind == "export" else "a"
    relative = folder.relative_to(root).as_posix()
    return Finding(
        "left_out", 1, f"{relative}/ is {article} {kind} that frostline wrote, not a class: it is skipped."
    )


def _nothing_found(root: Path, inside: list[Path]) -> str:
    """Return why a folder holds no labelled image, with the nearest thing that would do."""
    files = [child for child in sorted(root.iterdir()) if child.is_file() and not is_hidden(child.name)]
    tables = [file for file in files if file.suffix.lower() in TABLE_SUFFIXES]
    expected = " Expected a folder per class (cats/, dogs/), or train/ val/ test/ with those inside."
    if tables:
        return f"{root} holds no class folders.{expected} Did you mean the table {tables[0]}?"
    if inside:
        names = listing([f"{folder.name}/" for folder in inside])
        files_inside = any(not child.is_dir() for folder in inside for child in folder.iterdir())
        lacking = "no class folders inside the subsets" if files_inside else "no file inside them"
        return f"{root} holds folders, but {lacking}:{names}\n{expected.strip()}"
    try:
        loose = len(find_images(root))
    except DataError:
        return f"{root} is empty: it holds no images.{expected}"
    parent = root.resolve().parent
    guess = f" Did you mean {str(parent)!r}?" if len(_folders(parent)) > 1 else ""
    return f"{root} holds {loose} image(s) but no class folders, so they have no labels.{expected}{guess}"
