"""Cache of file digests, image traits and pixel digests, in one SQLite file.

Five tables: `files` says which content a path of this size and these times held; `contents` says what that
content turned out to be (sound, damaged and why, its perceptual mark, its traits); `pixels` digests what was
decoded, `tops` the first rows of large JPEGs, `edges` what such rows of a large picture may have been.
Losing any of it costs time, never correctness: where the cache cannot be used, `trouble` says so once
and every lookup is empty. Safe with several processes at once (write-ahead log, a time-out, no
connection kept open).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.data.pixels import formats
from frostline.data.pixels.image_traits import PLAIN, Traits
from frostline.system import directories

# Raise when a table changes, a mark (`near_duplicates.mark_of`) changes or every image gets a new trait:
# a new file is then begun.
FORMAT = 4

# Another Pillow may read what this one could not, and the other way round.
DECODER = formats.decoder()

# How long to wait for another process's write; ours take milliseconds, so this is generous.
TIMEOUT_S = 20.0

# SQLite's oldest limit on the `?` of one statement is 999; stay below it.
BATCH_ROWS = 500

TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size_bytes INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, digest BLOB)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (
    digest BLOB PRIMARY KEY, decoder TEXT, decoded INTEGER, fault TEXT, mark BLOB, traits TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pixels (
    digest BLOB PRIMARY KEY, decoder TEXT, pixels BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tops (
    digest BLOB PRIMARY KEY, decoder TEXT, pixels BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS edges (
    digest BLOB PRIMARY KEY, decoder TEXT, pixels BLOB) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class CachedContent:
    """The cached traits of one content."""

    digest: str
    decoded: bool  # its pixels were decoded, not its header alone
    fault: str = ""  # why it is not usable; "" = no fault known
    mark: bytes = b""  # `near_duplicates.mark_of`, where it was computed
    traits: Traits = PLAIN  # of a header that was not decoded: its kind and size alone


@dataclass(frozen=True, slots=True)
class FileKey:
    """Path, size and times of a file: unchanged means that its content is unchanged.

    Archives and copies restore the time of modification (`mtime`), and pictures of as many pixels may have as
    many bytes. The time of the last change (`ctime`) is the file system's own; 0 where there is none.
    """

    path: bytes
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = 0


class DigestCache:
    """The cache of digests. Every lookup is empty where the cache cannot be used."""

    def __init__(self) -> None:
        self.trouble = ""  # one sentence for the person, once something went wrong

    def digests_of(self, keys: Sequence[FileKey]) -> dict[FileKey, str]:
        """Return the digest of every file that is known and unchanged."""
        key_of = {key.path: key for key in keys}
        digests: dict[FileKey, str] = {}
        for *columns, digest in self._select("files", "path", list(key_of)):
            key = FileKey(*columns)
            if key_of[key.path] == key:
                digests[key] = digest.hex()
        return digests

    def forget_file(self, path: bytes) -> None:
        """Delete what a path held, where that turned out to be another content."""
        self._run(lambda connection: connection.execute("DELETE FROM files WHERE path = ?", (path,)))

    def contents_of(self, digests: Iterable[str]) -> dict[str, CachedContent]:
        """Return what this decoder found in each content, where it has been seen."""
        blobs = [bytes.fromhex(digest) for digest in dict.fromkeys(digests)]
        rows = self._select("contents", "digest", blobs)
        return {
            row[0].hex(): content for row in rows if row[1] == DECODER and (content := _content_of_row(row))
        }

    def pixels_of(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return the pixel digest (`pixel_digest.digest_of`) of contents that this decoder decoded."""
        return self._digests_in("pixels", digests)

    def tops_of(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return the digest of the first rows (`jpeg_digests.digest_of`); nothing where there is none."""
        return self._digests_in("tops", digests)

    def edges_of(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return the digests of pictures' edges (`jpeg_digests.candidates`), one after another."""
        return self._digests_in("edges", digests)

    def remember(
        self,
        files: Iterable[tuple[FileKey, str]] = (),
        contents: Iterable[CachedContent] = (),
        pixels: Iterable[tuple[str, bytes]] = (),
        tops: Iterable[tuple[str, bytes]] = (),
        edges: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Write all kinds of rows in one transaction."""
        digest_rows = {
            table: [(bytes.fromhex(digest), DECODER, value) for digest, value in pairs]
            for table, pairs in (("pixels", pixels), ("tops", tops), ("edges", edges))
        }
        file_rows = [
            (key.path, key.size_bytes, key.mtime_ns, key.ctime_ns, bytes.fromhex(digest))
            for key, digest in files
        ]
        content_rows = [
            (
                bytes.fromhex(content.digest),
                DECODER,
                content.decoded,
                content.fault,
                content.mark,
                content.traits.text(),
            )
            for content in contents
        ]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", file_rows)
            connection.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?)", content_rows)
            for table, rows in digest_rows.items():
                connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", rows)

        if file_rows or content_rows or any(digest_rows.values()):
            self._run(write)

    def _digests_in(self, table: str, digests: Iterable[str]) -> dict[str, bytes]:
        """Return what this decoder's rows of a table of digests hold."""
        blobs = [bytes.fromhex(digest) for digest in dict.fromkeys(digests)]
        rows = self._select(table, "digest", blobs)
        return {digest.hex(): value for digest, decoder, value in rows if decoder == DECODER}

    def _select(self, table: str, column: str, values: list[bytes]) -> list[Any]:
        """Return the rows of `table` whose `column` is among `values`."""
        rows: list[Any] = []

        def read(connection: sqlite3.Connection) -> None:
            for start in range(0, len(values), BATCH_ROWS):
                batch = values[start : start + BATCH_ROWS]
                marks = ",".join("?" * len(batch))
                rows.extend(connection.execute(f"SELECT * FROM {table} WHERE {column} IN ({marks})", batch))

        if values:
            self._run(read)
        return rows

    def _run(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do `work` in one transaction, unless the cache has failed or fails now."""
        if self.trouble:
            return
        try:
            _patiently(directories.folder("digests") / f"digests-{FORMAT}.sqlite", work)
        except (sqlite3.Error, OSError, ValueError, TypeError, AttributeError) as error:
            self.trouble = (
                f"The cache of image digests under {directories.home() / 'digests'} could not be used "
                f"({error}); all images were read. If it is broken, delete that folder; it holds only this."
            )


def _content_of_row(row: Any) -> CachedContent | None:
    """Return a row of `contents`; `None` where it says nothing that can be read."""
    digest, _, decoded, fault, mark, traits = row
    try:
        return CachedContent(digest.hex(), bool(decoded), fault, mark, Traits.read(traits))
    except (AttributeError, TypeError, ValueError):
        return None


def _patiently(path: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    """Do `work`, again while another process holds the file.

    SQLite's own time-out does not cover the moments in which a first process turns the log on or a last one
    folds it back: those raise "locked" at once.
    """
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return _once(path, work)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _once(path: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(TABLES)
        with connection:
            work(connection)
