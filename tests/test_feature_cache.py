"""The cache: rows are found by content, right or absent, whatever happens to the folder."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import cache_filling_process as filling
from cache_filling_process import ABOUT, FORM, fill, keys_for, right
from frostline.errors import CacheWarning, UsageError
from frostline.feature_cache import FeatureCache, Form, key_of
from frostline.feature_cache import cache_folder as folders
from frostline.feature_cache import prefix_features as shelving
from frostline.feature_cache import shard_file as sharding
from frostline.feature_cache.index import Index

KEYS = keys_for(100)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "rows"


def filled(place: Path, keys: list[bytes] = KEYS) -> FeatureCache:
    cache = FeatureCache(place)
    fill(cache.prefix(ABOUT), keys)
    return cache


def shard_files(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors"))


# --- what it is for -----------------------------------------------------------------------------------


def test_a_row_is_computed_once(place: Path) -> None:
    cache = FeatureCache(place)
    assert fill(cache.prefix(ABOUT), KEYS) == 100
    assert fill(cache.prefix(ABOUT), KEYS) == 0
    assert fill(FeatureCache(place).prefix(ABOUT), [*KEYS, *keys_for(110)]) == 10
    assert right(FeatureCache(place).prefix(ABOUT), keys_for(110)) == 110


def test_another_shelf_is_a_miss(place: Path) -> None:
    cache = filled(place)
    for about in ({**ABOUT, "cut": "top"}, {**ABOUT, "more": 0}, {"model": "arithmetic"}):
        assert right(cache.prefix(about), KEYS) == 0
    assert right(cache.prefix(dict(reversed(ABOUT.items()))), KEYS) == 100  # equal data, another order


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
@hypothesis_settings(max_examples=200)
def test_keys_tell_images_and_views_apart(digest: str, view: str, digest2: str, view2: str) -> None:
    digest, digest2 = digest.replace("\n", ""), digest2.replace("\n", "")  # digests are hex
    assert (key_of(digest, view) == key_of(digest2, view2)) == ((digest, view) == (digest2, view2))


@pytest.mark.parametrize(
    "form", [Form("bfloat16", (3, 4, 4), True), Form("float16", (7,)), Form("float32", ())]
)
def test_forms_survive(place: Path, form: Form) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, form.row_bytes), dtype=np.uint8)
    prefix = FeatureCache(place).prefix(ABOUT)
    prefix.put(KEYS[:5], rows, form)
    prefix.close()
    again = FeatureCache(place).prefix(ABOUT)
    assert again.form == form
    found, absent = again.read(KEYS[:6][::-1])
    assert absent == [0]
    assert np.array_equal(found[1:], rows[::-1])


def test_what_it_holds_and_how_often_it_helped(place: Path) -> None:
    cache = filled(place)
    prefix = cache.prefix(ABOUT)
    prefix.read([*KEYS, key_of("a stranger", "0")])
    prefix.close()
    (held,) = cache.holdings()
    assert held.about == ABOUT
    assert held.form == FORM
    assert (held.features, held.hits, held.misses) == (100, 100, 1)
    assert held.bytes == sum(path.stat().st_size for path in shard_files(place)) == cache.total_bytes()


def test_it_imports_no_torch() -> None:
    code = "import sys, frostline.feature_cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- bounded ------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(place)
    parts = [KEYS[:30], KEYS[30:60], KEYS[60:90]]
    for part in parts:
        fill(cache.prefix(ABOUT), part)
        time.sleep(0.01)
    reader = cache.prefix(ABOUT)
    reader.read(parts[0])
    reader.close()
    one = shard_files(place)[0].stat().st_size
    assert cache.prune(int(2.5 * one)) == pytest.approx(one, rel=0.2)
    assert [right(cache.prefix(ABOUT), part) for part in parts] == [30, 0, 30]
    assert cache.trouble == ""  # an evicted row is a miss, not damage


def test_the_limit_holds_while_it_is_filled(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelving, "SHARD_BYTES", 16 * FORM.row_bytes)
    cache = FeatureCache(place, limit_bytes=20_000)
    fill(cache.prefix(ABOUT), keys_for(400))
    assert 10_000 < sum(path.stat().st_size for path in shard_files(place)) <= 20_000
    assert right(cache.prefix(ABOUT), keys_for(400)[-16:]) == 16


def test_clear_leaves_nothing_and_goes_on(place: Path) -> None:
    cache = filled(place)
    assert cache.clear() > 0
    assert shard_files(place) == []
    assert cache.holdings() == []
    assert fill(cache.prefix(ABOUT), KEYS) == 100


# --- what it must withstand ---------------------------------------------------------------------------


def test_a_flipped_byte_in_a_row_is_a_miss_and_said_once(place: Path) -> None:
    filled(place)
    (shard,) = shard_files(place)
    data = bytearray(shard.read_bytes())
    data[-3] ^= 0x10  # in the last row
    data[-3 - 40 * FORM.row_bytes] ^= 0x01
    shard.write_bytes(data)
    cache = FeatureCache(place)
    with pytest.warns(CacheWarning, match="checksums differ") as caught:  # noqa: PT031
        assert right(cache.prefix(ABOUT), KEYS) == 98
        assert right(cache.prefix(ABOUT), KEYS) == 98
    assert len(caught) == 1
    assert fill(cache.prefix(ABOUT), KEYS) == 2
    assert right(FeatureCache(place).prefix(ABOUT), KEYS) == 100


def test_rows_that_changed_places_are_noticed(place: Path) -> None:
    filled(place)
    (shard,) = shard_files(place)
    data, size = bytearray(shard.read_bytes()), FORM.row_bytes
    data[-size:], data[-2 * size : -size] = data[-2 * size : -size], data[-size:]
    shard.write_bytes(data)
    with pytest.warns(CacheWarning, match="damaged"):
        assert right(FeatureCache(place).prefix(ABOUT), KEYS) == 98


@pytest.mark.parametrize("left", [0, 5, 200, 0.5, 0.99])
def test_a_truncated_shard_is_a_miss(place: Path, left: float) -> None:
    filled(place)
    (shard,) = shard_files(place)
    os.truncate(shard, int(left if left > 1 or left == 0 else left * shard.stat().st_size))
    cache = FeatureCache(place)
    with pytest.warns(CacheWarning, match="damaged"):
        there = right(cache.prefix(ABOUT), KEYS)
    assert there < 100
    assert fill(cache.prefix(ABOUT), KEYS) == 100 - there
    assert right(FeatureCache(place).prefix(ABOUT), KEYS) == 100


def test_a_lost_shard_is_a_miss(place: Path) -> None:
    filled(place)
    shard_files(place)[0].unlink()
    cache = FeatureCache(place)
    assert right(cache.prefix(ABOUT), KEYS) == 0
    assert fill(cache.prefix(ABOUT), KEYS) == 100


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped"])
def test_a_damaged_index_is_built_again_from_the_shards(place: Path, damage: str) -> None:
    filled(place)
    index = place / folders.INDEX
    data = bytearray(index.read_bytes())
    if damage == "garbage":
        data[:] = b"this is no database" * 100
    elif damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[100:2000] = bytes(1900)
    index.write_bytes(data)
    with pytest.warns(CacheWarning, match="index .* is damaged"):  # noqa: PT031
        cache = FeatureCache(place)
        assert right(cache.prefix(ABOUT), KEYS) in (0, 100)  # a miss at the moment it is noticed
    assert right(cache.prefix(ABOUT), KEYS) == 100
    assert fill(FeatureCache(place).prefix(ABOUT), KEYS) == 0


def test_an_index_that_is_gone_costs_rows_not_truth(place: Path) -> None:
    filled(place)
    (place / folders.INDEX).unlink()
    cache = FeatureCache(place)
    assert right(cache.prefix(ABOUT), KEYS) == 0
    assert cache.verify().adopted == 100
    assert right(cache.prefix(ABOUT), KEYS) == 100


def test_an_older_format_is_begun_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(place)
    monkeypatch.setattr(sharding, "FORMAT", sharding.FORMAT + 1)
    monkeypatch.setattr("frostline.feature_cache.index.FORMAT", sharding.FORMAT)
    cache = FeatureCache(place)
    with pytest.warns(CacheWarning, match="older format"):
        assert right(cache.prefix(ABOUT), KEYS) == 0
    assert fill(cache.prefix(ABOUT), KEYS) == 100
    assert right(FeatureCache(place).prefix(ABOUT), KEYS) == 100


def test_a_newer_format_is_left_alone(place: Path) -> None:
    filled(place)
    with sqlite3.connect(place / folders.INDEX) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = {path: path.read_bytes() for path in place.iterdir()}
    cache = FeatureCache(place)
    with pytest.warns(CacheWarning, match="newer frostline"):
        assert right(cache.prefix(ABOUT), KEYS) == 0
    assert list(cache.prefix(ABOUT).todo(KEYS, 10)) == []
    assert before == {path: path.read_bytes() for path in place.iterdir()}


def test_a_full_disk_stops_keeping_not_working(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(place, KEYS[:50])

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("frostline.system.directories.write_atomically", refuse)
    with pytest.warns(CacheWarning, match="takes no more features .No space left") as caught:
        computed = fill(cache.prefix(ABOUT), KEYS)
    assert len(caught) == 1
    assert computed <= 50
    assert not cache.writable
    assert right(cache.prefix(ABOUT), KEYS) == 50  # what was there can still be read
    assert cache.room_bytes() == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_can_be_read(place: Path) -> None:
    filled(place)
    place.chmod(0o500)
    (place / folders.INDEX).chmod(0o400)
    try:
        read_only(place)
    finally:
        place.chmod(0o700)


def test_an_index_that_cannot_be_written_can_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(place)
    opening = folders.Index

    def refuse(path: Path, *, read_only: bool = False) -> object:
        if read_only:
            return opening(path, read_only=True)
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(folders, "Index", refuse)
    read_only(place)


def read_only(place: Path) -> None:
    before = sorted(place.iterdir())
    cache = FeatureCache(place)
    with pytest.warns(CacheWarning, match="cannot be written") as caught:
        assert right(cache.prefix(ABOUT), KEYS) == 100
    assert right(cache.prefix({"another": "prefix"}), KEYS) == 0
    assert list(cache.prefix(ABOUT).todo(keys_for(120), 10)) == []
    assert len(caught) == 1
    assert sorted(place.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = FeatureCache(tmp_path / "file" / "rows")
    with pytest.warns(CacheWarning, match="cannot be used .*features are computed instead"):
        assert cache.prefix(ABOUT).missing(KEYS) == KEYS
    assert (cache.holdings(), cache.total_bytes(), cache.room_bytes()) == ([], 0, 0)
    for maintain in (cache.clear, cache.verify, lambda: cache.prune(1)):
        with pytest.raises(UsageError, match=r"cannot be used .*give another folder by --cache-dir"):
            maintain()


def test_an_index_that_cannot_be_written_is_no_success(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or one that is read-only under an index that opens: `clear` said that it had deleted."""

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    cache = filled(place)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "drop_shard", full)
        with (
            pytest.warns(CacheWarning),
            pytest.raises(UsageError, match=r"disk is full\)\. Free space there"),
        ):
            cache.clear()
    assert shard_files(place) == []  # so that there is room for the index, with the same call
    again = FeatureCache(place)
    assert again.clear() > 0
    assert again.holdings() == []


def test_verify_counts_and_repairs(place: Path) -> None:
    for part in (KEYS[:40], KEYS[40:70], KEYS[70:]):
        filled(place, part)
    sizes = {len(sharding.contents(path).keys): path for path in shard_files(place)}
    assert sorted(sizes) == [30, 40]  # two have 30
    data = bytearray(sizes[40].read_bytes())
    data[-1] ^= 1
    sizes[40].write_bytes(data)
    with sqlite3.connect(place / folders.INDEX) as connection:  # the index forgets this one
        number = connection.execute("SELECT id FROM shards WHERE name = ?", (sizes[30].name,)).fetchone()
        connection.execute("DELETE FROM shards WHERE id = ?", number)
        connection.execute("DELETE FROM rows WHERE shard = ?", number)
    connection.close()
    (place / "half.rows.safetensors").write_bytes(b"\x00" * 30)
    cache = FeatureCache(place)
    verified = cache.verify()
    assert (verified.intact, verified.damaged, verified.lost, verified.adopted) == (99, 1, 0, 30)
    assert right(cache.prefix(ABOUT), KEYS) == 99
    assert not (place / "half.rows.safetensors").exists()
    shard_files(place)[0].unlink()
    assert cache.verify().lost > 0
    assert cache.verify().lost == cache.verify().damaged == 0


# --- several processes, and sudden ends ---------------------------------------------------------------


def start(place: Path, count: int, *rest: str) -> subprocess.Popen[str]:
    script = Path(filling.__file__)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(place), str(count), *rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def kill_at_random(place: Path, times: int) -> None:
    """Kill a filling process at `times` random moments; whatever it left must be right."""
    rng = np.random.default_rng(0)
    keys, before = keys_for(4000), 0
    for _ in range(times):
        process = start(place, 4000)
        time.sleep(float(rng.uniform(0.0, 0.35)))
        on_disk = _indexed(place)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.communicate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            there = right(FeatureCache(place).prefix(ABOUT), keys)
        assert there >= max(before, on_disk)  # nothing that was on disk is lost
        before = there
    assert before > 0
    finished = start(place, 4000)
    assert finished.wait(120) == 0, finished.communicate()
    finished.communicate()
    assert right(FeatureCache(place).prefix(ABOUT), keys) == 4000


def _indexed(place: Path) -> int:
    index = place / folders.INDEX
    if not index.exists():
        return 0
    connection = sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True, timeout=20)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are not made yet
        return 0
    finally:
        connection.close()


@pytest.mark.slow
def test_kill_at_20_random_moments(place: Path) -> None:
    kill_at_random(place, 20)


@pytest.mark.slow
def test_kill_at_200_random_moments(place: Path) -> None:
    kill_at_random(place, 200)


def test_four_processes_share_the_work(place: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"computed {number}" for number in range(4)]
    processes = [start(place, 1500, str(out), "0.03") for out in outs]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    computed = [int(out.read_text()) for out in outs]
    assert 1500 <= sum(computed) <= 1.05 * 1500
    assert sum(count > 0 for count in computed) >= 2  # on a busy machine one may come late
    assert right(FeatureCache(place).prefix(ABOUT), keys_for(1500)) == 1500


def test_a_dead_process_holds_nothing_up(place: Path) -> None:
    process = start(place, 300, "ignored", "30")  # claims, then sleeps
    while not (place / folders.INDEX).exists() or not _claims(place):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    begun = time.monotonic()
    assert fill(FeatureCache(place).prefix(ABOUT), keys_for(300)) == 300
    assert time.monotonic() - begun < 20  # not the 60 s that a claim lasts


def _claims(place: Path) -> int:
    connection = sqlite3.connect(place / folders.INDEX, timeout=20)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM claims").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_closing_gives_every_file_back(place: Path) -> None:
    with FeatureCache(place) as cache:
        fill(cache.prefix(ABOUT), KEYS)
        assert right(cache.prefix(ABOUT), KEYS) == 100
        handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert right(cache.prefix(ABOUT), KEYS) == 0
    if handles:
        assert len(os.listdir("/proc/self/fd")) <= handles - 2  # the index and a shard
    assert cache.trouble == ""


def test_each_outermost_block_opens_the_files_again(place: Path) -> None:
    cache = FeatureCache(place)
    assert not place.exists()  # nothing is opened before it is used
    with cache:
        with cache:
            fill(cache.prefix(ABOUT), KEYS)
        assert right(cache.prefix(ABOUT), KEYS) == 100  # the inner block closed nothing
        earlier = cache.prefix(ABOUT)
    assert right(cache.prefix(ABOUT), KEYS) == 0
    with cache:
        assert right(cache.prefix(ABOUT), KEYS) == 100
        assert right(earlier, KEYS) == 0  # it belongs to the files that were closed


def test_trouble_of_one_block_is_not_the_next_ones(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    cache = FeatureCache(place)
    with monkeypatch.context() as full, cache:
        full.setattr("frostline.system.directories.write_atomically", refuse)
        with pytest.warns(CacheWarning, match="No space left"):
            fill(cache.prefix(ABOUT), KEYS)
        assert not cache.writable
    with cache:
        assert cache.writable
        assert fill(cache.prefix(ABOUT), KEYS) == 100


def test_a_pickled_cache_opens_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FeatureCache("rows", limit_bytes=10_000_000) as cache:
        fill(cache.prefix(ABOUT), KEYS)
        packed = pickle.dumps(cache)
    monkeypatch.chdir("/")
    with pickle.loads(packed) as copied:
        assert (copied.path, copied.room_bytes()) == (tmp_path / "rows", 10_000_000)
        assert right(copied.prefix(ABOUT), KEYS) == 100


def test_rates_are_measured_and_leave_nothing(place: Path) -> None:
    with FeatureCache(place) as cache:
        read_s, keep_s = cache.seconds_per_row(4000)
        assert 0 < read_s < 0.01
        assert 0 < keep_s < 1
        assert cache.total_bytes() == 0
        assert [path.name for path in place.iterdir()] == [folders.INDEX]


def test_a_shard_that_another_process_took_in_first_is_no_damage(place: Path) -> None:
    cache = filled(place)
    (shard,) = shard_files(place)
    says = sharding.contents(shard)
    index = folders.Index(place / folders.INDEX)
    index.add(
        index.prefix_id(says.prefix, says.description)[0], says.form, shard.name, 1, says.keys, says.checks
    )
    index.close()
    assert right(cache.prefix(ABOUT), KEYS) == 100
    assert cache.trouble == ""


def test_before_it_waits_for_others_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = iter([(KEYS[:50], KEYS[50:]), ([], KEYS[50:]), (KEYS[50:], [])])
    monkeypatch.setattr(shelving.CachedPrefix, "_claim", lambda *_: next(claims))
    assert list(FeatureCache(tmp_path).prefix(ABOUT).todo(KEYS, 50)) == [KEYS[:50], [], KEYS[50:]]
