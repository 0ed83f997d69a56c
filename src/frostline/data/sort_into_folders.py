"""Images copied into a folder for each label. Nothing is overwritten, and nothing written outside the folder.

A name that is taken by another picture gets a piece of its content's digest as a suffix, so the same images
sorted again find themselves, in whatever order they come.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.data.pixels.decoding import file_fault
from frostline.data.sources.file_listing import is_hidden
from frostline.data.sources.remote import is_address
from frostline.data.sources.tar_shards import is_member
from frostline.errors import DataError, UsageError
from frostline.system import directories

# What no name may hold on one of the three systems, and what Windows keeps for its devices.
FORBIDDEN = frozenset('/\\:*?"<>|')
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")]
)
JOINERS = "\u200c\u200d"  # of letters, in Persian, Indic scripts and emoji
MOST_BYTES = 120  # of a folder's name: eCryptfs takes 143, and a suffix comes on top
SUFFIXES = (0, 8, 64)  # hexadecimal digits of the content's digest, until a name is free
UNSURE = "unsure"  # the folder of images whose prediction is not trusted


@dataclass
class SortedImages:
    """The result of `sort_into`: images copied, and already there, by folder name."""

    folder: Path
    copied: dict[str, int] = field(default_factory=dict)
    already_there: dict[str, int] = field(default_factory=dict)
    inside: int = 0  # images that lie in the folder itself
    failed: list[tuple[str, str]] = field(default_factory=list)  # (path, why it could not be copied)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "to": str(self.folder),
            "copied": sum(self.copied.values()),
            "folders": [
                {
                    "name": name,
                    "copied": self.copied.get(name, 0),
                    "existing": self.already_there.get(name, 0),
                }
                for name in self.names
            ],
            "inside": self.inside,
            "failed": [{"path": path, "reason": reason} for path, reason in self.failed],
        }

    @property
    def names(self) -> list[str]:
        """The folders' names, sorted."""
        return sorted({*self.copied, *self.already_there})


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a folder name for each label: valid on every system, all different.

    Parameters
    ----------
    labels : iterable of str

    Returns
    -------
    dict of str to str
        Folder name by label.
    """
    names: dict[str, str] = {}
    used_names: set[str] = set()
    for label in sorted(set(labels)):
        name = _safe(label)
        if name != unicodedata.normalize("NFC", label) or name.casefold() in used_names:
            name = f"{name}-{hashlib.sha256(label.encode(errors='surrogatepass')).hexdigest()[:8]}"
        while name.casefold() in used_names:  # a label that looks like another one's suffix
            name = f"{name}_"
        used_names.add(name.casefold())
        names[label] = name
    return names


def unsure_folder_name(names: Iterable[str]) -> str:
    """Return a name for the folder of unsure predictions that no label's folder has."""
    used_names, name = {other.casefold() for other in names}, UNSURE
    while name in used_names:
        name = f"{name}-images"
    return name


def sort_into(target: Path, images: Sequence[tuple[str, str]]) -> SortedImages:
    """Copy images into folders below `target`; nothing is overwritten.

    Parameters
    ----------
    target : Path
    images : sequence of (path, folder name)

    Returns
    -------
    SortedImages
        Number of images copied, already there and failed.

    Raises
    ------
    UsageError
        `target` is a file, or one of its folders is a link that leads out of it.
    DataError
        The folder cannot be written; copied images stay.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; expected a folder to copy to, or a name that is free.")
    result = SortedImages(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        root = target.resolve()
        for name in sorted({name for _, name in images}):
            _prepare(root, root / name)
        for path, name in images:
            if is_address(path) or is_member(path):
                result.failed.append((path, "is not a local file: it lies at an address or in a shard"))
            else:
                _sort(Path(path), root, name, result)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror or error}). {sum(result.copied.values()):,} of "
            f"{len(images):,} images were copied; the same command resumes."
        ) from None
    return result


def _prepare(root: Path, folder: Path) -> None:
    if folder.resolve().parent != root:
        raise UsageError(f"{folder} leads elsewhere; nothing is written outside {root}. Remove the link.")
    folder.mkdir(exist_ok=True)
    for leftover in directories.left_behind(folder / "copy"):
        leftover.unlink(missing_ok=True)


def _sort(path: Path, root: Path, name: str, result: SortedImages) -> None:
    if fault := file_fault(path):
        result.failed.append((str(path), str(fault)))
    elif path.resolve().is_relative_to(root):
        result.inside += 1
    else:
        count = result.copied if _copied(path, root / name) else result.already_there
        count[name] = count.get(name, 0) + 1


def _copied(path: Path, folder: Path) -> bool:
    """Copy a file into a folder, or return False where its content lies there under its name already."""
    for digits in SUFFIXES:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:digits] if digits else ""
        place = folder / (f"{path.stem}-{digest}{path.suffix}" if digest else path.name)
        if not os.path.lexists(place) and _place(path, place):
            return True
        if place.is_file() and filecmp.cmp(path, place, shallow=False):
            return False
    raise DataError(f"{folder} holds other files under every name that {path} could have there. Move them.")


def _place(path: Path, place: Path) -> bool:
    """Copy a file so that it appears whole; return False where the name was taken meanwhile."""
    temporary = directories.temporary(place.parent / "copy")
    try:
        shutil.copy2(path, temporary)
        try:
            os.link(temporary, place)  # unlike a renaming, this never replaces a file
        except FileExistsError:
            return False
        except OSError:  # a file system without links, as on memory sticks
            os.rename(temporary, place)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _safe(label: str) -> str:
    """Return the label as one name on every system; unchanged where it is one already (in NFC)."""
    text = unicodedata.normalize("NFC", label)
    text = "".join("_" if _is_forbidden(letter) else letter for letter in text).strip().rstrip(".")
    text = text.encode()[:MOST_BYTES].decode(errors="ignore").strip().rstrip(".")
    if not text or is_hidden(text) or text.split(".")[0].strip().casefold() in DEVICES:
        text = f"_{text.lstrip('.')}"
    return text


def _is_forbidden(letter: str) -> bool:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in JOINERS
    return hidden or letter in FORBIDDEN
