"""A folder that appears whole or not at all, and takes no one else's place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.errors import StudyError
from frostline.system import directories
from frostline.system.directories import CONFIG, exported_as

OLD = "old"  # the ending of an earlier export while the new one takes its place


def checked(out: Path, kind: str) -> Path:
    """Return the folder's full path. Raises `StudyError` where something else is there."""
    place = out.expanduser().absolute()
    place = place.resolve() if place.is_symlink() else place
    if place.exists() and not place.is_dir():
        raise StudyError(f"{out} is a file. Name a folder with --out.")
    if place == Path.cwd() or place in Path.cwd().parents:
        raise StudyError(f"{out} is the folder you are in, or above it. Name another with --out.")
    if place.is_dir() and any(place.iterdir()):
        _refuse_strangers(place, out, kind)
    return place


def _refuse_strangers(place: Path, out: Path, kind: str) -> None:
    if exported_as(place) != kind:
        raise StudyError(
            f"{out} is not empty, and holds no earlier {kind} export. Nothing was written: name another "
            "folder with --out."
        )
    card = json.loads((place / CONFIG).read_text(encoding="utf-8"))["frostline"]
    known = {CONFIG, *map(str, card.get("files", ()))}
    strange = sorted(entry.name for entry in place.iterdir() if entry.name not in known)
    if strange:
        raise StudyError(
            f"{out} holds an earlier export and {len(strange)} more ({', '.join(strange[:3])}), which would "
            "be lost. Nothing was written: move them, or name another folder with --out."
        )


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """Yield a new folder beside `place`, which takes its place if the block ends well, else is removed.

    Raises `StudyError` where nothing can be written, or the disk is full.
    """
    temporary = directories.temporary(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _tidy(place)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _sync(temporary)
        _swap(temporary, place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StudyError(
            f"The export cannot be written to {place} ({reason}). Nothing was left there."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tidy(place: Path) -> None:
    """Remove what a killed export left beside `place`; an export that it had put aside comes back."""
    for old in directories.left_behind(place, OLD):
        if not place.exists():
            old.rename(place)
    for left in [*directories.left_behind(place), *directories.left_behind(place, OLD)]:
        shutil.rmtree(left, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _swap(new: Path, place: Path) -> None:
    """Put `new` where `place` is; what was there is removed last."""
    old = directories.temporary(place, OLD)
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
