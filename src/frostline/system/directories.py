"""The cache folder: converted weights, cuts, digests, evaluations on test sets.

`--cache-dir DIR` sets it for a process, else `FROSTLINE_CACHE_DIR`, else the platform's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from frostline.system.liveness import began_after

VARIABLE = "FROSTLINE_CACHE_DIR"
CONFIG = "config.json"  # of an export: frostline's mark, and the format
FINGERPRINTS = "fingerprints.safetensors"  # beside the weights: of a run, an export, a delta
STALE_S = 24 * 3600.0  # a choice: no export and no copy of one image takes a day
CLOCK_S = 2.0  # file times are as coarse as that on FAT


def exported_as(folder: str | os.PathLike[str]) -> str | None:
    """Return the format of an export of frostline's; `None` for any other folder."""
    try:
        card = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))["frostline"]
        return str(card["export"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def files_in(folder: Path) -> list[str]:
    """Return the files in a folder and the folders in it: paths relative to it, with forward slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def home() -> Path:
    """Return the folder that outlives runs (not created yet)."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("frostline"))


def folder(name: str) -> Path:
    """Return `home()/name`, created. Raises `OSError` where that cannot be done."""
    path = home() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def remembered(
    kind: str, key: str, find: Callable[[], dict[str, Any]], about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what `find` returns, plain data, or what was stored for this key before.

    `about` is stored beside it, for people. A folder that can't be written costs finding it again,
    nothing else.
    """
    before = recalled(kind, key)
    return remember(kind, key, find(), about) if before is None else before


def recalled(kind: str, key: str) -> dict[str, Any] | None:
    """Return what is remembered for this key; `None` where nothing is, or it is damaged."""
    try:
        record = json.loads((home() / kind / _file(key)).read_text())
        if record["key"] == key and isinstance(record["value"], dict):
            return dict(record["value"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def remember(
    kind: str, key: str, value: dict[str, Any], about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write down what was found for this key, in place of what was there before; return it."""
    record = {"key": key, **({"about": about} if about else {}), "value": value}
    with contextlib.suppress(OSError):
        write_atomically(folder(kind) / _file(key), json.dumps(record).encode())
    return value


def _file(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, sync it, and rename it into place, so no reader sees half a file.

    The folder is synced too: what is written later can't outlive a power cut that this did not.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:  # it is of the file that was meant, not of the one beside it
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that a person named, whole or not at all; through a link, and to a pipe or a device."""
    if path.exists() and (not path.is_file() or path.is_relative_to("/dev") or path.is_relative_to("/proc")):
        with open(path, "wb") as file:  # renaming would put a file in a device's place
            file.write(data)
        return
    write_atomically(path.resolve(), data)


def temporary(path: Path, ending: str = "tmp") -> Path:
    """Return a hidden name beside `path`, this process's own; `left_behind` knows it."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.{ending}")


def left_behind(path: Path, ending: str = "tmp") -> list[Path]:
    """Return what processes that were killed left beside `path` under a name of `temporary`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-(\d+)\.{re.escape(ending)}")
    if not path.parent.is_dir():
        return []
    matches = [(entry, pattern.fullmatch(entry.name)) for entry in path.parent.iterdir()]
    return [entry for entry, match in matches if match and _is_stale(entry, match[1], int(match[2]))]


def _is_stale(entry: Path, host: str, process: int) -> bool:
    """Tell if the process that made this is gone. One of another machine is, for all we know, after a day."""
    try:
        modified = entry.lstat().st_mtime
        if host != _host():
            return time.time() - modified > STALE_S
        # A number is given out again: a process that began after the file was made isn't its maker.
        return process != os.getpid() and began_after(process, modified + CLOCK_S)
    except OSError:
        return False


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def sync_folder(path: Path) -> None:
    """See a folder's names to the disk, where the system can (Windows can't open a folder)."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
