"""The index of cached rows: one SQLite file beside the shards.

It can be lost: the shards hold all it knows but the counts. Short transactions, the rollback journal (it
works where folders are read-only or shared over a network), and claims, by which processes that fill one
prefix at once divide the rows among themselves.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.feature_cache.shard_file import FORMAT, SUFFIX, Form
from frostline.system.liveness import ProcessId

TIMEOUT_S = 30.0  # to wait for another process's write; ours take milliseconds
# A claim that its owner has not renewed for so long may be taken over (a machine that died; a process of
# this machine that died is seen at once).
LEASE_S = 60.0
SHARD = re.compile(rf"[\w-]+{re.escape(SUFFIX)}", re.ASCII)
BATCH_ROWS = 500  # SQLite's oldest limit on the `?` of one statement is 999; stay below it

TABLES = """
CREATE TABLE IF NOT EXISTS shelves (
    id INTEGER PRIMARY KEY, digest TEXT UNIQUE, about TEXT, form TEXT,
    hits INTEGER DEFAULT 0, misses INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, shelf INTEGER, bytes INTEGER, used REAL);
CREATE TABLE IF NOT EXISTS rows (
    shelf INTEGER, key BLOB, shard INTEGER, place INTEGER, checksum INTEGER,
    PRIMARY KEY (shelf, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_by_shard ON rows (shard);
CREATE TABLE IF NOT EXISTS claims (
    shelf INTEGER, key BLOB, owner TEXT, until REAL, PRIMARY KEY (shelf, key)) WITHOUT ROWID;
"""


# (description, form, rows, bytes, hits, misses, last used) of a prefix
PrefixSummary = tuple[str, Form | None, int, int, int, int, float]


class OtherFormat(Exception):
    """The index was written by another version of this format; `version` is its number."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format {version}, expected {FORMAT}")
        self.version = version


@dataclass(frozen=True, slots=True)
class RowLocation:
    """The shard and position of a row."""

    shard: int
    position: int
    check: int

    def __post_init__(self) -> None:
        for number in (self.shard, self.position, self.check):  # SQLite keeps whatever was put into a column
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"a row lies at {str(number)[:40]!r}")


class Index:
    """The index of one folder. Every method is one transaction; raises `sqlite3.Error`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        mode = "ro" if read_only else "rwc"
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(read_only)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, read_only: bool) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version == 0 and not read_only:
            with self._writing() as do:
                for statement in TABLES.split(";"):
                    do.execute(statement)
                do.execute(f"PRAGMA user_version = {FORMAT}")
        elif version != FORMAT:
            raise OtherFormat(version)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    # --- prefixes --------------------------------------------------------------------------------------

    def prefix_id(self, digest: str, description: str) -> tuple[int, Form | None]:
        """Return a prefix's number and the form of its rows, if any; adds the prefix where needed."""
        find = "SELECT id, form FROM shelves WHERE digest = ?"
        rows = self._all(find, (digest,))
        if not rows:
            with self._writing() as do:
                do.execute(
                    "INSERT OR IGNORE INTO shelves (digest, about) VALUES (?, ?)", (digest, description)
                )
            rows = self._all(find, (digest,))
        return rows[0][0], Form.from_json(rows[0][1]) if rows[0][1] else None

    def form(self, prefix: int) -> Form | None:
        """Return the form of a prefix's rows, if it has any."""
        rows = self._all("SELECT form FROM shelves WHERE id = ?", (prefix,))
        return Form.from_json(rows[0][0]) if rows and rows[0][0] else None

    def abouts(self) -> list[str]:
        """Return the description of every prefix that had a row."""
        return [about for (about,) in self._all("SELECT about FROM shelves WHERE form IS NOT NULL")]

    def summary(self) -> list[PrefixSummary]:
        """Return (about, form, rows, bytes, hits, misses, last used) of every prefix with rows."""
        rows = self._all(
            "SELECT about, form, (SELECT COUNT(*) FROM rows WHERE shelf = shelves.id), "
            "COALESCE((SELECT SUM(bytes) FROM shards WHERE shelf = shelves.id), 0), hits, misses, "
            "(SELECT MAX(used) FROM shards WHERE shelf = shelves.id) FROM shelves"
        )
        return [(r[0], Form.from_json(r[1]) if r[1] else None, *r[2:]) for r in rows if r[3]]

    # --- rows ------------------------------------------------------------------------------------------

    def locate(self, prefix: int, keys: Iterable[bytes]) -> dict[bytes, RowLocation]:
        """Return where each of the keys lies, for those that lie somewhere."""
        unique_keys = list(dict.fromkeys(keys))
        places: dict[bytes, RowLocation] = {}
        for start in range(0, len(unique_keys), BATCH_ROWS):
            batch = unique_keys[start : start + BATCH_ROWS]
            marks = ",".join("?" * len(batch))
            for key, *place in self._all(
                f"SELECT key, shard, place, checksum FROM rows WHERE shelf = ? AND key IN ({marks})",
                (prefix, *batch),
            ):
                places[key] = RowLocation(*place)
        return places

    def add(
        self,
        prefix: int,
        form: Form,
        name: str,
        size_bytes: int,
        keys: Sequence[bytes],
        checks: Sequence[int],
    ) -> None:
        """Note a shard that is on disk (again, if `verify` met it first), and end the claims on its rows."""
        with self._writing() as do:
            do.execute("UPDATE shelves SET form = ? WHERE id = ?", (form.to_json(), prefix))
            shard = do.execute(
                "INSERT OR REPLACE INTO shards (name, shelf, bytes, used) VALUES (?, ?, ?, ?)",
                (name, prefix, size_bytes, time.time()),
            ).lastrowid
            rows = [
                (prefix, key, shard, place, check)
                for place, (key, check) in enumerate(zip(keys, checks, strict=True))
            ]
            do.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", rows)
            do.executemany("DELETE FROM claims WHERE shelf = ? AND key = ?", [(prefix, key) for key in keys])

    def drop_rows(self, prefix: int, rows: Iterable[tuple[bytes, RowLocation]]) -> None:
        """Drop rows that are damaged or missing, unless another process replaced them."""
        with self._writing() as do:
            do.executemany(
                "DELETE FROM rows WHERE shelf = ? AND key = ? AND shard = ?",
                [(prefix, key, place.shard) for key, place in rows],
            )

    # --- shards ----------------------------------------------------------------------------------------

    def shard_name(self, shard: int) -> str | None:
        """Return a shard's file name."""
        rows = self._all("SELECT name FROM shards WHERE id = ?", (shard,))
        return _file_name(rows[0][0]) if rows else None

    def shards(self) -> list[tuple[int, str, int]]:
        """Return (number, name, bytes) of every shard, the least recently used first."""
        rows = self._all("SELECT id, name, bytes FROM shards ORDER BY used, id")
        return [(number, _file_name(name), size) for number, name, size in rows]

    def total_bytes(self) -> int:
        """Return what all shards take on disk."""
        return int(self._all("SELECT COALESCE(SUM(bytes), 0) FROM shards")[0][0])

    def rows_of(self, shard: int) -> list[tuple[int, bytes, RowLocation]]:
        """Return (shelf, key, place) of a shard's rows."""
        rows = self._all("SELECT shelf, key, shard, place, checksum FROM rows WHERE shard = ?", (shard,))
        return [(row[0], row[1], RowLocation(*row[2:])) for row in rows]

    def drop_shard(self, shard: int) -> None:
        """Forget a shard and its rows."""
        with self._writing() as do:
            do.execute("DELETE FROM rows WHERE shard = ?", (shard,))
            do.execute("DELETE FROM shards WHERE id = ?", (shard,))

    def note_use(self, prefix: int, shards: Iterable[int], hits: int, misses: int) -> None:
        """Note which shards were read just now, and how many rows were found and not found."""
        now = time.time()
        with self._writing() as do:
            do.executemany("UPDATE shards SET used = ? WHERE id = ?", [(now, shard) for shard in shards])
            do.execute(
                "UPDATE shelves SET hits = hits + ?, misses = misses + ? WHERE id = ?", (hits, misses, prefix)
            )

    # --- claims ----------------------------------------------------------------------------------------

    def claim(self, prefix: int, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Claim the keys that no process has computed; return (claimed, claimed by others).

        Keys in neither list are cached already.
        """
        me, now = _own_name(), time.time()
        with self._writing() as do:
            located = self.locate(prefix, keys)
            owners = self._owners(prefix, [key for key in keys if key not in located])
            busy = [key for key, (owner, until) in owners.items() if _holds(owner, until, now)]
            busy_keys = set(busy)
            claimed = [key for key in dict.fromkeys(keys) if key not in located and key not in busy_keys]
            do.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                [(prefix, key, me, now + LEASE_S) for key in claimed],
            )
        return claimed, busy

    def _owners(self, prefix: int, keys: Sequence[bytes]) -> dict[bytes, tuple[str, float]]:
        owners: dict[bytes, tuple[str, float]] = {}
        for start in range(0, len(keys), BATCH_ROWS):
            batch = keys[start : start + BATCH_ROWS]
            marks = ",".join("?" * len(batch))
            for key, owner, until in self._all(
                f"SELECT key, owner, until FROM claims WHERE shelf = ? AND key IN ({marks})", (prefix, *batch)
            ):
                owners[key] = (owner, until)
        return owners

    def renew(self) -> None:
        """Hold this process's claims for another lease."""
        with self._writing() as do:
            do.execute("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + LEASE_S, _own_name()))

    def release(self, prefix: int, keys: Iterable[bytes]) -> None:
        """Give up claims that were not fulfilled."""
        with self._writing() as do:
            do.executemany("DELETE FROM claims WHERE shelf = ? AND key = ?", [(prefix, key) for key in keys])


def _file_name(name: object) -> str:
    """Return a shard's name. Raises `ValueError` for any other file's: shards are deleted by name."""
    if not isinstance(name, str) or not SHARD.fullmatch(name):
        raise ValueError(f"it names the file {str(name)[:80]!r} as a shard")
    return name


def _own_name() -> str:
    """Name this process so that another can tell whether it still runs."""
    own = ProcessId.own()
    return f"{own.host} {own.number} {own.started:.2f}"


def _holds(owner: str, until: float, now: float) -> bool:
    """Return whether a claim is another running process's."""
    if owner == _own_name() or until < now:
        return False
    host, number, started = owner.rsplit(" ", 2)
    return ProcessId(host, int(number), float(started)).runs()
