"""Files that a command is to write: checked first, so that none replaces what the command reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from frostline.errors import UsageError

PAGES = (".html", ".htm")


def demand_output(option: str, file: str | None, endings: Sequence[str], inputs: Iterable[str] = ()) -> None:
    """Raise `UsageError` where a file may not be written.

    Parameters
    ----------
    option : str
        As it is given, such as "--output".
    file : str or None
        None: nothing is written.
    endings : sequence of str
        Expected of its name, in lower case; "" allows none.
    inputs : iterable of str
        Files, folders and addresses that the command reads.
    """
    if file is None:
        return
    from frostline.data.pixels import formats
    from frostline.data.sources.file_listing import is_study

    path = Path(file)
    if not (folder := path.absolute().parent).is_dir():
        raise UsageError(f"{option} names a file in {folder}, which does not exist. Make that folder first.")
    if path.suffix.lower() not in endings:
        names = " or ".join(f"FILE{ending}" for ending in endings if ending)
        raise UsageError(f"{option} names {path.name}. Expected {names}.")
    parents = [parent.resolve() for parent in path.absolute().parents]
    for name in inputs:
        source = Path(name)
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(f"{option} names {file}, which this command reads. Name another file.")
        if path.suffix.lower() in formats.suffixes() and source.is_dir() and source.resolve() in parents:
            raise UsageError(
                f"{option} names a picture in {name}, where it would be one of the images. Name a file "
                "outside."
            )
    if path.exists() and path.suffix.lower() not in PAGES:
        study = next((parent for parent in parents if is_study(parent)), None)
        if study is not None:
            raise UsageError(f"{option} names {file}, a file of the study {study}. Name another file.")
