"""List the image files of a folder: by name, else by content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frostline.data.pixels import formats
from frostline.errors import DataError, did_you_mean
from frostline.system import directories

HIDDEN_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})  # left behind by file managers


@dataclass(frozen=True)
class Listing:
    """Pictures, and files that are none by name or content; both sorted."""

    images: list[Path]
    other_files: list[Path]


def listed_in(path: str | Path) -> Listing:
    """List the files of a folder (flat or by class, however deep), or take a single file for a picture.

    Hidden files are left out. Raises `DataError` where there is no picture.
    """
    path = Path(path).expanduser()
    try:
        if path.is_file():
            return Listing([path], [])
        if not path.is_dir():
            raise DataError(missing_message(path))
    except OSError as error:  # a name of 300 characters
        raise DataError(f"{str(path)[:200]!r} cannot be opened ({error.strerror}).") from None
    files = sorted(walk_files(path))
    images = [file for file in files if is_picture(file)]
    if not images:
        other_files = f"; it holds {len(files)} other file(s)" if files else ""
        raise DataError(
            f"{path} holds no image files{other_files}; expected files such as "
            f"{', '.join(sorted(formats.suffixes() - set(formats.FOREIGN_ENDINGS)))}."
        )
    chosen = set(images)
    return Listing(images, [file for file in files if file not in chosen])


def find_images(path: str | Path) -> list[Path]:
    """Return the image files of a folder, however deep, or a single file.

    Raises
    ------
    DataError
        The path does not exist or holds no images.
    """
    return listed_in(path).images


def is_picture(path: Path) -> bool:
    """Return whether a file is meant for a picture: by its name, else by how it begins."""
    if path.suffix.lower() in formats.suffixes():
        return True
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return formats.is_picture(file.read(formats.HEAD_BYTES))
    except OSError:
        return False


def is_hidden(name: str) -> bool:
    """Return whether a file or folder name belongs to the system rather than to the user."""
    return name.startswith(".") or name.lower() in HIDDEN_NAMES


def own(folder: Path) -> str:
    """Return "study" or "export" for a folder that frostline wrote, which holds no data; "" for any other."""
    if (folder / "study.json").is_file() and ((folder / "runs").is_dir() or (folder / "splits").is_dir()):
        return "study"
    return "export" if directories.exported_as(folder) else ""


def is_study(folder: Path) -> bool:
    """Return whether a folder is a study."""
    return own(folder) == "study"


def walk_files(folder: Path, skipped: list[tuple[Path, str]] | None = None) -> list[Path]:
    """List every file below `folder` that is not hidden, sorted; a folder that cannot be opened is one.

    Links are followed, but no folder is walked twice and none that `folder` lies in. Folders of frostline's
    own are left out, and added to `skipped` with what they are.
    """
    files: list[Path] = []
    waiting, visited = [folder], {parent.resolve() for parent in folder.resolve().parents}
    while waiting:
        current = waiting.pop()
        target = current.resolve()
        if target in visited:
            continue
        visited.add(target)
        try:
            entries = [entry for entry in current.iterdir() if not is_hidden(entry.name)]
        except OSError:
            files.append(current)
            continue
        folders = [entry for entry in entries if entry.is_dir()]
        own_folders = {entry: kind for entry in folders if (kind := own(entry))}
        if skipped is not None:
            skipped += own_folders.items()
        waiting += [entry for entry in folders if entry not in own_folders]
        files += sorted(set(entries) - set(folders))
    return sorted(files)


def missing_message(path: Path) -> str:
    """Return a message that a path does not exist, with the nearest name that does."""
    parent = path.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    no_parent = "" if parent.is_dir() else f", nor does {parent}"
    guess = did_you_mean(path.name, names)
    return f"{path} does not exist{no_parent}; expected a folder or file of images.{guess}"
