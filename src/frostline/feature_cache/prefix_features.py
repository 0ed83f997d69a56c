"""The cached features of one frozen prefix, read and filled by several processes at once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from frostline.feature_cache.cache_folder import NOT_CACHED, Folder
from frostline.feature_cache.index import LEASE_S, Index, RowLocation
from frostline.feature_cache.shard_file import KEY_BYTES, Bytes, Form

# A shard is closed at this size or age: a killed process loses no more than that, and there are few files.
SHARD_BYTES = 16_000_000
SHARD_AGE_S = 3.0

CLAIMED_AT_ONCE = 256  # rows: small enough that four processes share a set of 1,000 evenly
WAIT_S = 0.05  # between two looks for rows that other processes compute


def key_of(digest: str, view: str) -> bytes:
    """Return the key of a row.

    Parameters
    ----------
    digest : str
        SHA-256 of the image.
    view : str
        Name of what is done to its pixels.

    Returns
    -------
    bytes
        16 bytes of BLAKE2b.
    """
    return hashlib.blake2b(f"{digest}\n{view}".encode(), digest_size=KEY_BYTES).digest()


class CachedPrefix:
    """The cached features of one prefix; rows differ in the image and its view alone.

    Read with `read`. To fill: compute what `todo` yields, `put` it, and `close` at the end.
    """

    def __init__(self, folder: Folder, digest: str, description: str) -> None:
        self.digest = digest
        self.about = description
        self._folder = folder
        self._form: Form | None = None
        self._numbered = (-1, -1)  # (generation of the index, number in it)
        self._lock = threading.RLock()  # `todo` may run in the thread that decodes ahead
        self._waiting: list[tuple[bytes, Bytes]] = []
        self._waiting_bytes = 0
        self._since = self._renewed = time.monotonic()
        self._claimed: set[bytes] = set()
        self._used: set[int] = set()
        self._hits = self._misses = 0

    @property
    def form(self) -> Form | None:
        """Dtype and shape of a row; None before one is cached."""
        if self._form is None:
            self._folder.attempt(self._number, None)
        return self._form

    def _number(self, index: Index) -> int:
        generation, number = self._numbered
        if generation != self._folder.generation or self._form is None:
            number, form = index.prefix_id(self.digest, self.about)
            self._numbered = (self._folder.generation, number)
            self._form = self._form or form
        return number

    # --- reading ---------------------------------------------------------------------------------------

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys that no row is kept for, each once."""
        located = self._locate(keys)
        return [key for key in dict.fromkeys(keys) if key not in located]

    def _locate(self, keys: Iterable[bytes]) -> dict[bytes, RowLocation]:
        if self.form is None:
            return {}
        return self._folder.attempt(lambda index: index.locate(self._number(index), keys), {})

    def read(self, keys: Sequence[bytes]) -> tuple[Bytes, list[int]]:
        """Return the rows of keys, and the positions that are missing.

        A row whose checksum differs is dropped, with one warning.

        Parameters
        ----------
        keys : sequence of bytes

        Returns
        -------
        rows : ndarray of uint8, shape (len(keys), row_bytes)
        missing : list of int
            Positions whose row is not set.
        """
        places = self._locate(keys)
        rows: Bytes = np.empty((len(keys), self._form.row_bytes if self._form else 0), dtype=np.uint8)
        missing: list[int] = []
        vanished: list[tuple[bytes, RowLocation]] = []
        damaged: list[tuple[bytes, RowLocation]] = []
        for position, key in enumerate(keys):
            place = places.get(key)
            shard = self._folder.opened(place.shard) if place else None
            if place and shard and shard.read(place.position, key, place.check, rows[position]):
                self._used.add(place.shard)
                continue
            missing.append(position)
            if place:
                (damaged if shard else vanished).append((key, place))
        self._hits += len(keys) - len(missing)
        self._misses += len(missing)
        if vanished or damaged:
            self._drop([*vanished, *damaged], len(damaged))
        return rows, missing

    def _drop(self, dropped: list[tuple[bytes, RowLocation]], damaged: int) -> None:
        """Drop rows that could not be read, with a warning for damaged ones."""
        if self._folder.writable:
            self._folder.attempt(lambda index: index.drop_rows(self._number(index), dropped), None)
        if damaged:
            self._folder.warn_once(
                f"The cache {self._folder.path} held damaged features ({damaged}: their checksums differ)",
                "computed again. `frostline cache verify` checks the others.",
            )

    # --- filling ---------------------------------------------------------------------------------------

    def todo(self, keys: Sequence[bytes], batch: int) -> Iterator[list[bytes]]:
        """Yield the keys that this process should compute, at most `batch` at a time, until none is missing.

        Rows that other processes are computing are waited for at the end, and taken over if those stop.
        Before it waits, it yields an empty list: others may wait for what was yielded, so that must be
        computed and put before the next is asked for.
        """
        waiting = self.missing(keys)
        while waiting and self._folder.writable:
            claimed_any, busy = False, []
            for start in range(0, len(waiting), CLAIMED_AT_ONCE):
                claimed, claimed_by_others = self._claim(waiting[start : start + CLAIMED_AT_ONCE])
                busy += claimed_by_others
                claimed_any = claimed_any or bool(claimed)
                for i in range(0, len(claimed), batch):
                    yield claimed[i : i + batch]
            if busy and not claimed_any:
                yield []
                self.flush()  # others may be waiting for ours
                time.sleep(WAIT_S)
            waiting = busy

    def _claim(self, keys: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        none: tuple[list[bytes], list[bytes]] = ([], [])
        claimed, busy = self._folder.attempt(lambda index: index.claim(self._number(index), keys), none)
        with self._lock:
            self._claimed.update(claimed)
        return claimed, busy

    def put(self, keys: Sequence[bytes], rows: Bytes, form: Form) -> None:
        """Add rows; they are on disk after the next flush.

        Parameters
        ----------
        keys : sequence of bytes
        rows : ndarray of uint8, shape (n, row_bytes)
        form : Form
        """
        if not self._folder.writable:
            return
        if (self.form or form) != form:
            self._folder.warn_once(
                f"Features in the cache {self._folder.path} changed from {self.form} to {form}",
                NOT_CACHED,
            )
            return
        self._form = form
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting += zip(keys, rows, strict=True)
            self._waiting_bytes += rows.nbytes
            if self._waiting_bytes >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_AGE_S:
                self.flush()

    def flush(self) -> None:
        """Put on disk what waits, and renew the claims on what doesn't yet."""
        with self._lock:
            if self._waiting and self._form is not None:
                keys = [key for key, _ in self._waiting]
                rows = np.stack([row for _, row in self._waiting])
                self._folder.write(self.digest, self.about, self._form, keys, rows)
                self._claimed.difference_update(keys)
            self._waiting, self._waiting_bytes = [], 0
            if self._claimed and time.monotonic() - self._renewed > LEASE_S / 4:
                self._folder.attempt(lambda index: index.renew(), None)
                self._renewed = time.monotonic()

    def close(self) -> None:
        """Flush, give up claims that came to nothing, and note what was used."""
        self.flush()
        claimed, used, counts = sorted(self._claimed), sorted(self._used), (self._hits, self._misses)
        self._claimed, self._used, self._hits, self._misses = set(), set(), 0, 0
        if not self._folder.writable:
            return
        if claimed:
            self._folder.attempt(lambda index: index.release(self._number(index), claimed), None)
        if any(counts):
            self._folder.attempt(lambda index: index.note_use(self._number(index), used, *counts), None)
