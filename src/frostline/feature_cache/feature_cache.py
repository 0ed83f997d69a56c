"""The feature cache: rows of prefixes in one bounded folder, and its upkeep."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from frostline.errors import UsageError
from frostline.feature_cache.cache_folder import Folder
from frostline.feature_cache.index import Index, PrefixSummary, RowLocation
from frostline.feature_cache.prefix_features import CachedPrefix, key_of
from frostline.feature_cache.shard_file import Form
from frostline.system import directories

FOLDER = "rows"  # below `directories.home()`

# The least recently used shards are deleted above this size. A choice: room for about 100,000
# rows of an EfficientNet's last blocks at 224 px, and a tenth of a small laptop's disk.
DEFAULT_LIMIT_BYTES = 20_000_000_000
KEEP_FREE_SHARE = 0.05  # of the disk, whatever the limit says

NEVER_S = 1e9  # what keeping a row costs where nothing can be kept
PROBE_BYTES = 8_000_000  # written and read to measure a disk: a few milliseconds on most
PROBE_BATCH = 32  # rows read at a time, as training does


@dataclass(frozen=True)
class PrefixUsage:
    """One cached prefix as `frostline cache` lists it. Sizes in bytes; `used` in seconds since 1970."""

    about: dict[str, Any]
    form: Form | None
    features: int
    bytes: int
    hits: int
    misses: int
    used: float


@dataclass(frozen=True)
class Checked:
    """The result of `FeatureCache.verify`, in rows."""

    intact: int  # `adopted` ones included
    damaged: int  # dropped: bytes that differ from their checksum
    lost: int  # dropped: their shard is gone
    adopted: int  # in shards that the index did not know


class FeatureCache:
    """A bounded folder of features. Safe with several processes at once.

    Made once by an entry point and handed down. Files are opened by the first use, and by `with`, which
    closes them at the end of the outermost block; the next block opens them again. A pickled copy holds the
    folder's path and opens files of its own.

    Raises nothing for the state of the disk where features are read and kept: `trouble` is the first error,
    with a `CacheWarning`. What maintains the folder raises.

    Parameters
    ----------
    folder : path or None
        None is below the cache folder (`FROSTLINE_CACHE_DIR`).
    limit_bytes : int
        The least recently used features are deleted above it.
    """

    def __init__(self, folder: str | Path | None = None, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._path = Path(folder) if folder else directories.home() / FOLDER
        self._limit_bytes = limit_bytes
        self._opened: Folder | None = None
        self._blocks = 0  # `with` blocks that have been entered and not left

    @property
    def _folder(self) -> Folder:
        if self._opened is None:
            self._opened = Folder(self._path, self._limit_bytes)
        return self._opened

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same folder, whatever its working directory is."""
        return partial(FeatureCache, limit_bytes=self._limit_bytes), (self._path.resolve(),)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def trouble(self) -> str:
        """The first thing that went wrong, a sentence without its full stop; empty if nothing did."""
        return self._folder.trouble

    @property
    def writable(self) -> bool:
        """Return whether new rows are kept."""
        return self._folder.writable

    def demand_writable(self) -> None:
        """Raise `UsageError` where rows can't be kept or deleted, for who came for nothing else."""
        if not self._folder.writable:
            raise UsageError(f"{self.trouble}. Free space there, or give another folder by --cache-dir.")

    def close(self) -> None:
        """Close every file; until the next `with`, all rows are misses."""
        self._folder.close()

    def __enter__(self) -> FeatureCache:
        if not self._blocks and self._opened is not None and self._opened.closed:
            self._opened = None
        _ = self._folder
        self._blocks += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks -= 1
        if not self._blocks:
            self.close()

    def prefix(
        self, description: Mapping[str, Any], display: Mapping[str, Any] | None = None
    ) -> CachedPrefix:
        """Return the cached features of one prefix.

        Parameters
        ----------
        description : mapping
            Plain data that determines the features, besides the image and its view.
        display : mapping or None
            Stored for display; does not affect what is found.

        Returns
        -------
        CachedPrefix
        """
        digest = hashlib.sha256(_text(description).encode()).hexdigest()
        return CachedPrefix(self._folder, digest, _text({**description, **(display or {})}))

    def descriptions(self) -> list[dict[str, Any]]:
        """Return the description of each prefix with rows: `description` and `display` together."""
        none: list[str] = []
        return [json.loads(text) for text in self._folder.attempt(lambda index: index.abouts(), none)]

    def room_bytes(self) -> int:
        """Return how many bytes may be held: the limit, or the free disk space."""
        if not self.writable:
            return 0
        try:
            disk = shutil.disk_usage(self.path)
        except OSError:
            return 0
        free = disk.free - int(disk.total * KEEP_FREE_SHARE)
        return max(0, min(self._folder.limit_bytes, self.total_bytes() + free))

    def seconds_per_row(self, row_bytes: int) -> tuple[float, float]:
        """Return the seconds to read and to write one row, measured on this disk (reads come from memory)."""
        if not self.writable:
            return 0.0, NEVER_S
        count = max(16, min(256, PROBE_BYTES // max(1, row_bytes)))
        keys = [key_of(str(number), "rate") for number in range(count)]
        rows = np.random.default_rng(0).integers(0, 256, (count, row_bytes), dtype=np.uint8)
        folder = self.path / f".rate-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with FeatureCache(folder) as cache:
                cached = cache.prefix({})
                begun = time.perf_counter()
                cached.put(keys, rows, Form("bfloat16", (row_bytes // 2,)))
                cached.flush()
                written = time.perf_counter()
                for start in range(0, count, PROBE_BATCH):
                    cached.read(keys[start : start + PROBE_BATCH])
                return (time.perf_counter() - written) / count, (written - begun) / count
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def total_bytes(self) -> int:
        """Return what all rows take on disk."""
        return self._folder.attempt(lambda index: index.total_bytes(), 0)

    def prune(self, limit_bytes: int) -> int:
        """Delete the least recently used rows until at most `limit_bytes` are left; return what went.

        Raises `UsageError` where the folder can't be written.
        """
        freed_bytes = self._folder.evict(limit_bytes)
        self.demand_writable()
        return freed_bytes

    def clear(self) -> int:
        """Delete every row; return how many bytes that were. Raises `UsageError` as `prune` does."""
        return self.prune(0)

    def holdings(self) -> list[PrefixUsage]:
        """Return every prefix that holds rows."""
        summaries: list[PrefixSummary] = self._folder.attempt(lambda index: index.summary(), [])
        return [PrefixUsage(_about(summary[0]), *summary[1:]) for summary in summaries]

    def verify(self) -> Checked:
        """Read every row and drop those that are wrong; take in shards that the index does not know.

        Raises `UsageError` where that needed writing, and the folder can't be written.
        """
        checked = self._folder.attempt(self._verify, None)
        if checked is None:
            self.demand_writable()
        return checked or Checked(0, 0, 0, 0)

    def _verify(self, index: Index) -> Checked:
        adopted = self._folder.adopt(index, {name for _, name, _ in index.shards()})
        intact = damaged = lost = 0
        for number, name, _ in index.shards():
            rows = index.rows_of(number)
            if not (self.path / name).exists():
                lost += len(rows)
                index.drop_shard(number)
                continue
            damaged_rows = self._damaged(
                number, rows, {prefix: index.form(prefix) for prefix in {r[0] for r in rows}}
            )
            for prefix, key, place in damaged_rows:
                index.drop_rows(prefix, [(key, place)])
            damaged += len(damaged_rows)
            intact += len(rows) - len(damaged_rows)
        return Checked(intact, damaged, lost, adopted)

    def _damaged(
        self, shard: int, rows: Sequence[tuple[int, bytes, RowLocation]], forms: Mapping[int, Form | None]
    ) -> list[tuple[int, bytes, RowLocation]]:
        opened = self._folder.opened(shard)
        damaged = []
        for prefix, key, place in rows:
            form = forms[prefix]
            row = np.empty(form.row_bytes if form else 0, dtype=np.uint8)
            if opened is None or form is None or not opened.read(place.position, key, place.check, row):
                damaged.append((prefix, key, place))
        return damaged


def _about(text: str) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except (ValueError, TypeError, RecursionError):  # an index that somebody else wrote
        return {}
    return description if isinstance(description, dict) else {}


def _text(description: Mapping[str, Any]) -> str:
    """Write plain data so that equal data are equal text."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"))
