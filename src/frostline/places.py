"""Where things that outlive one run are kept: converted weights, remembered cuts, digests, test looks.

`--store DIR` sets it for a process, else `FROSTLINE_STORE`, else the platform's cache folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

VARIABLE = "FROSTLINE_STORE"


def home() -> Path:
    """Return the folder that outlives runs (not created yet)."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("frostline"))


def folder(name: str) -> Path:
    """Return `home()/name`, created. Raises `OSError` where that cannot be done."""
    path = home() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, sync it, and rename it into place, so no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
