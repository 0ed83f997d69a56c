"""An output folder that is written atomically, and never replaces other files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.errors import StudyError, option
from frostline.system import directories
from frostline.system.directories import CONFIG, exported_as

OLD = "old"  # suffix of an earlier export while the new one replaces it


def checked_folder(out: Path, kind: str) -> Path:
    """Return the folder's full path. Raises `StudyError` where it holds anything but an earlier export."""
    folder = out.expanduser().absolute()
    folder = folder.resolve() if folder.is_symlink() else folder
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{out} is a file. Name a folder with {option('output')}.")
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise StudyError(
            f"{out} is the folder you are in, or above it. Name another with {option('output')}."
        )
    if folder.is_dir() and any(folder.iterdir()):
        _refuse_other_files(folder, out, kind)
    return folder


def _refuse_other_files(folder: Path, out: Path, kind: str) -> None:
    if exported_as(folder) != kind:
        raise StudyError(
            f"{out} is not empty, and holds no earlier {kind} export. Nothing was written: name another "
            f"folder with {option('output')}."
        )
    frostline_config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["frostline"]
    own_files = {CONFIG, *map(str, frostline_config.get("files", ()))}
    other_files = sorted(name for name in directories.files_in(folder) if name not in own_files)
    if other_files:
        raise StudyError(
            f"{out} holds an earlier export and {len(other_files)} more ({', '.join(other_files[:3])}), "
            "which would be lost. Nothing was written: move them, or name another folder with "
            f"{option('output')}."
        )


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces `folder` if the block succeeds and is removed otherwise.

    Raises `StudyError` where nothing can be written, or the disk is full.
    """
    temporary_folder = directories.temporary(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        shutil.rmtree(temporary_folder, ignore_errors=True)
        temporary_folder.mkdir()
        yield temporary_folder
        _sync(temporary_folder)
        _swap(temporary_folder, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StudyError(
            f"The export cannot be written to {folder} ({reason}). Nothing was left there."
        ) from None
    finally:
        shutil.rmtree(temporary_folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed export left beside `folder`, and restore the export that it had moved."""
    for backup in directories.left_behind(folder, OLD):
        if not folder.exists():
            backup.rename(folder)
    for leftover in [*directories.left_behind(folder), *directories.left_behind(folder, OLD)]:
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(folder: Path) -> None:
    for name in directories.files_in(folder):
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())


def _swap(new: Path, folder: Path) -> None:
    """Replace `folder` by `new`; the old one is removed last."""
    backup = directories.temporary(folder, OLD)
    if folder.exists():
        folder.rename(backup)
    try:
        new.rename(folder)
    except OSError:
        if backup.exists():
            backup.rename(folder)
        raise
    shutil.rmtree(backup, ignore_errors=True)
