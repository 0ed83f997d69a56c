"""The folder behind a feature cache: opening it, writing shards, evicting, and handling errors.

Nothing here raises for the state of the disk. The first error is reported once, as a `CacheWarning`; after it
nothing can be read, or nothing can be written.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from frostline.errors import CacheWarning
from frostline.feature_cache import shard_file
from frostline.feature_cache.index import Index, OtherFormat
from frostline.feature_cache.shard_file import SUFFIX, Bytes, Form

INDEX = "index.sqlite"
OPEN_SHARDS = 64  # open files, far below any system's limit
NOT_CACHED = "new features are not cached."
SAME = "features are computed instead; the result is the same."

T = TypeVar("T")


class Folder:
    """Shards and their index in one folder."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.trouble = ""  # the first error, without what it means for who computes features
        self.readable = self.writable = True
        self.closed = False
        self.generation = 0  # raised when the index is another one: its numbers mean something else then
        self._index: Index | None = None
        self._opened: OrderedDict[int, shard_file.Opened] = OrderedDict()
        self._open()

    # --- opening ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._index = Index(self.path / INDEX)
        except OtherFormat as other:
            self._replace(other)
        except sqlite3.OperationalError as error:
            self._open_to_read(error)
        except sqlite3.DatabaseError as error:
            self._rebuild(error)
        except OSError as error:
            self._give_up(f"The feature cache {self.path} cannot be used ({error.strerror or error})")

    def _open_to_read(self, error: Exception) -> None:
        """A folder that can't be written can still be read from."""
        self.writable = False
        try:
            self._index = Index(self.path / INDEX, read_only=True)
            self.warn_once(f"The feature cache {self.path} cannot be written ({error})", NOT_CACHED)
        except (sqlite3.Error, OtherFormat):
            self._give_up(f"The feature cache {self.path} cannot be opened ({error})")

    def _replace(self, other: OtherFormat) -> None:
        """An older format is begun anew, a newer one is left alone."""
        if other.version > shard_file.FORMAT:
            self._give_up(f"The feature cache {self.path} was written by a newer frostline ({other})")
            return
        self.warn_once(
            f"The feature cache {self.path} has an older format ({other})", "its features are computed again."
        )
        try:
            for path in [self.path / INDEX, *self.path.glob(f"*{SUFFIX}")]:
                path.unlink(missing_ok=True)
            self._index = Index(self.path / INDEX)
        except (sqlite3.Error, OSError) as error:
            self._give_up(f"The feature cache {self.path} cannot be created again ({error})")

    def _rebuild(self, error: Exception) -> None:
        """A damaged index is built again from the shards."""
        self.warn_once(f"The index of the feature cache {self.path} is damaged ({error})", "it is rebuilt.")
        self._forget()
        temporary = self.path / f".{INDEX}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            rebuilt = Index(temporary)
            self.adopt(rebuilt, indexed_names=set())
            rebuilt.close()
            (self.path / f"{INDEX}-journal").unlink(missing_ok=True)  # belongs to the damaged one
            os.replace(temporary, self.path / INDEX)
            self._index = Index(self.path / INDEX)
        except (sqlite3.Error, OtherFormat, OSError) as second:
            temporary.unlink(missing_ok=True)
            self._give_up(f"The index of the feature cache {self.path} cannot be rebuilt ({second})")

    def _forget(self) -> None:
        """Close the index and every shard that was opened by its numbers."""
        self.generation += 1
        for shard in list(self._opened):
            self.close_shard(shard)
        if self._index:
            self._index.close()
            self._index = None

    def close(self) -> None:
        """Give every file back; afterwards nothing is read or kept."""
        self.closed = True
        self._forget()
        self.readable = self.writable = False

    def adopt(self, index: Index, indexed_names: set[str]) -> int:
        """Take shards that are on disk into the index, delete what is no whole shard; return the rows."""
        adopted = 0
        for path in sorted(self.path.glob(f"*{SUFFIX}")):
            if path.name in indexed_names:
                continue
            try:
                header = shard_file.contents(path)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
                continue
            number, _ = index.prefix_id(header.prefix, header.description)
            index.add(number, header.form, path.name, path.stat().st_size, header.keys, header.checks)
            adopted += len(header.keys)
        return adopted

    # --- trouble ---------------------------------------------------------------------------------------

    def warn_once(self, trouble: str, consequence: str) -> None:
        """Warn, once in the life of this cache."""
        if not self.trouble:
            self.trouble = trouble
            warnings.warn(CacheWarning(f"{trouble}: {consequence}"), stacklevel=2)

    def _give_up(self, reason: str) -> None:
        self.readable = self.writable = False
        self.warn_once(reason, SAME)

    def attempt(self, work: Callable[[Index], T], otherwise: T) -> T:
        """Do `work` with the index. Errors are reported once, and `otherwise` is returned."""
        if self._index is None or not self.readable:
            return otherwise
        try:
            return work(self._index)
        except (sqlite3.OperationalError, OSError) as error:
            self.writable = False
            self.warn_once(f"The feature cache {self.path} cannot be written ({error})", NOT_CACHED)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            self._rebuild(error)
        return otherwise

    # --- shards ----------------------------------------------------------------------------------------

    def opened(self, shard: int) -> shard_file.Opened | None:
        """Return a shard open for reading, or None where it is gone."""
        shard_reader = self._opened.get(shard)
        if shard_reader is not None:
            self._opened.move_to_end(shard)
            return shard_reader
        name = self.attempt(lambda index: index.shard_name(shard), None)
        if name is None:
            return None
        try:
            shard_reader = shard_file.Opened(self.path / name)
        except OSError:
            return None
        self._opened[shard] = shard_reader
        if len(self._opened) > OPEN_SHARDS:
            self._opened.popitem(last=False)[1].close()
        return shard_reader

    def close_shard(self, shard: int) -> None:
        """Give a shard's file back, if it is open."""
        opened = self._opened.pop(shard, None)
        if opened:
            opened.close()

    def write(self, prefix: str, description: str, form: Form, keys: Sequence[bytes], rows: Bytes) -> bool:
        """Keep rows as one shard, then make room; tell whether they are on disk now."""
        if not self.writable:
            return False
        path = self.path / f"{prefix[:12]}-{uuid.uuid4().hex[:16]}{SUFFIX}"
        try:
            checks = shard_file.write(path, prefix, description, form, keys, rows)
            size_bytes = path.stat().st_size
        except OSError as error:
            self.writable = False
            self.warn_once(
                f"The feature cache {self.path} takes no more features ({error.strerror or error})", SAME
            )
            return False

        def add(index: Index) -> bool:
            number, _ = index.prefix_id(prefix, description)
            index.add(number, form, path.name, size_bytes, keys, checks)
            return True

        added = self.attempt(add, False)
        self.evict(self.limit_bytes)
        return added

    def evict(self, limit_bytes: int) -> int:
        """Delete the least recently used shards until at most `limit_bytes` are left; return what went."""
        return self.attempt(lambda index: self._evict(index, limit_bytes), 0)

    def _evict(self, index: Index, limit_bytes: int) -> int:
        total, deleted = index.total_bytes(), 0
        if total <= limit_bytes:
            return 0
        for number, name, size_bytes in index.shards():
            if total - deleted <= limit_bytes:
                break
            self.close_shard(number)
            # Before the index, which needs room to write; a row without its file is a miss.
            (self.path / name).unlink(missing_ok=True)
            index.drop_shard(number)
            deleted += size_bytes
        return deleted
