"""Files that a command is to write: checked first, so that none replaces what the command reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from frostline.errors import UsageError

PAGES = (".html", ".htm", "")


def checked_output(
    option: str,
    file: str | None,
    endings: Sequence[str],
    *,
    images: Iterable[str] = (),
    others: Iterable[str] = (),
) -> str | None:
    """Return a file's path with `~` expanded. Raises `UsageError` where it may not be written.

    Parameters
    ----------
    option : str
        As it is given, such as "--output".
    file : str or None
        None: nothing is written.
    endings : sequence of str
        Expected of its name, in lower case; "" allows none.
    images : iterable of str
        Files, folders and addresses of images that the command reads.
    others : iterable of str
        What else it reads.
    """
    if file is None:
        return None
    from frostline.data.pixels import formats
    from frostline.data.sources.file_listing import is_study, own
    from frostline.studies.study_folder import OF_STUDIES

    path = Path(file).expanduser()
    if not (folder := path.absolute().parent).is_dir():
        raise UsageError(f"{option} names a file in {folder}, which does not exist. Make that folder first.")
    if path.suffix.lower() not in endings:
        names = " or ".join(f"FILE{ending}" for ending in endings if ending)
        raise UsageError(f"{option} names {path.name}. Expected {names}.")
    sources = [Path(name).expanduser() for name in (*images, *others)]
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise UsageError(f"{option} names {file}, which this command reads. Name another file.")
    place = path.resolve()
    for name in images if path.suffix.lower() in formats.suffixes() else ():
        source = Path(name).expanduser()
        if source.is_dir() and not own(source) and place.is_relative_to(source.resolve()):
            raise UsageError(
                f"{option} names a picture in {name}, where it would be one of the images. Name a file "
                "outside."
            )
    for parent in place.parents:
        if is_study(parent) and place.relative_to(parent).parts[0] in OF_STUDIES:
            raise UsageError(f"{option} names {file}, a file of the study {parent}. Name another file.")
    return str(path)
