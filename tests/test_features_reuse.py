"""Rows of frozen layers lead to later ones, are read or computed by arithmetic, and are made ahead."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frostline
from feature_examples import FAST, frozen_at, items_of, missing, way, weights
from frostline import feature_extraction as freezing
from frostline.cost import RowRates, read_or_recompute
from frostline.data import Manifest
from frostline.errors import CacheWarning, UsageError
from frostline.feature_cache import CachedPrefix, FeatureCache
from frostline.feature_extraction import Frozen, ahead
from frostline.feature_extraction.image_batches import Images
from tiny import PREPROCESSING, tiny_backbone, write_folder, write_table


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


# --- a later cut from an earlier one ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet18",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("timm/vit_tiny_patch16_224", "timm/densenet121")
        ),
        "lite0",
    ],
)
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_rows_of_an_earlier_cut_lead_to_the_same_bits(
    name: str, precision: str, data: Manifest, calls: list[int], warm_cache: Path
) -> None:
    size = 224 if "vit" in name else 64
    backbone = frostline.load_backbone(name, size=size, **({} if name == "lite0" else {"random": True}))
    images = Images(data, data.subset("val"), backbone.preprocessing)
    items = [[(position, 0) for position in range(len(images))]]
    early, late = backbone.cuts[2], backbone.cuts[-2]
    how = way(precision, 8)
    live = torch.cat(list(frozen_at(late.index, how, backbone=backbone, cache=False).batches(images, items)))
    frozen_at(early.index, how, backbone=backbone).fill(images, items[0])
    calls.clear()
    frozen = frozen_at(late.index, how, backbone=backbone)
    frozen.fill(images, items[0])
    assert len(calls) == 1  # one batch, to see that it holds
    assert torch.equal(torch.cat(list(frozen.batches(images, items))), live)
    assert missing(images, frozen) == 0


def test_a_bridge_that_does_not_hold_is_not_used(
    data: Manifest, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING)
    items = items_of(images, (0,))
    flat = list(itertools.chain.from_iterable(items))
    live = torch.cat(list(frozen_at(3, cache=False).batches(images, items)))
    frozen_at(1).fill(images, flat)
    real = Frozen._from_rows

    def wrong(*given: Any) -> Any:
        z, statistics = real(*given)  # type: ignore[misc]
        return z * 1.0001, statistics

    monkeypatch.setattr(Frozen, "_from_rows", wrong)
    calls.clear()
    frozen_at(3).fill(images, flat)
    assert calls.count(3) == 1 + 5  # the trial, then everything from pixels
    assert torch.equal(torch.cat(list(frozen_at(3).batches(images, items))), live)


def test_a_schedule_with_several_cuts_computes_each_layer_once(
    data: Manifest, tmp_path: Path, calls: list[int]
) -> None:
    strategy = "phases(0@2, 1@2, 2@2, 3@2)"
    run = frostline.train(
        tiny_backbone(), data, strategy, study=tmp_path / "s", cache="keep", views=2, **FAST
    )
    images = 36 + 12
    from_pixels = [cut for cut in calls if cut == 1]
    assert (
        len(from_pixels) == 2 * 1 + 2
    )  # two views of 36 in batches of 64, val, test: the earliest cut alone
    assert len(calls) - len(from_pixels) <= 3 * 3  # one batch each, to see that a bridge holds
    assert run.features["computed"] <= 4 * (2 * 36 + 12) + len(calls) * images


@pytest.mark.slow
def test_four_training_processes_share_one_store(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=200, test=4)
    script = Path(__file__).with_name("training_together.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(script), str(table), str(tmp_path / f"study {number}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:  # torch is imported by now in all of them
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.communicate()
    results = []
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        results.append(json.loads(out))
    needed = 3 * 600 + 12  # three views of each training image; test
    assert needed <= sum(each["computed"] for each in results) <= 1.05 * needed
    assert len({Path(each["weights"]).read_bytes() for each in results}) == 1


def test_a_head_that_starts_from_a_probe_costs_no_pass_of_its_own(
    data: Manifest, tmp_path: Path, calls: list[int]
) -> None:
    frostline.train(tiny_backbone(), data, "top_k(1, epochs=3)", study=tmp_path / "s", cache="keep", **FAST)
    assert calls.count(3) == 3 + 2  # three views of the training images; val, test
    assert calls.count(4) <= 1  # one batch, to see that rows of cut 3 lead there


# --- reading or computing -----------------------------------------------------------------------------


def test_reading_or_computing_is_arithmetic() -> None:
    rates = RowRates(
        row_bytes=1000, pixel_bytes=150_000, decode_s=1e-3, prefix_s=3e-3, read_s=1e-5, keep_s=1e-4
    )
    assert read_or_recompute(rates, uses=2, missing=1).keep
    assert not read_or_recompute(rates, uses=1, missing=1).keep  # computed once anyway
    assert read_or_recompute(rates, uses=1, missing=1, along=True).keep
    assert read_or_recompute(rates, uses=1, missing=0).keep
    early = RowRates(
        row_bytes=400_000, pixel_bytes=150_000, decode_s=3e-4, prefix_s=1e-4, read_s=9e-4, keep_s=3e-3
    )
    for uses in (1, 3, 30):
        assert not read_or_recompute(early, uses=uses, missing=0).keep
    large = replace(rates, row_bytes=151_000, decode_s=2e-4, prefix_s=2e-4)
    assert read_or_recompute(replace(large, row_bytes=150_000), uses=2, missing=1).keep
    assert not read_or_recompute(large, uses=2, missing=1).keep  # 0.65 of computing: not worth the room
    why = read_or_recompute(rates, uses=2, missing=1).why
    assert "1.00 × 4.10 + 2.0 × 0.010 = 4.12 ms" in why
    assert "2.0 × (1.00 decode + 3.00 frozen layers) = 8.00 ms" in why


def test_a_row_larger_than_its_pixels_is_not_kept_untimed(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(tiny_backbone(), data, "phases(3@4, 0@2)", study=tmp_path / "s", **FAST)
    rows = {row["cut"]: row for row in run.numeric_plan["frozen"]["cached"]}
    assert rows[1]["views"] == []  # 8 × 16 × 16 float32 against 3 × 16 × 16 bytes
    assert "8,192 bytes, an image's pixels 768" in rows[1]["why"]
    assert rows[4]["views"]


def test_no_more_views_are_kept_than_the_store_has_room_for(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "frostline.feature_cache.feature_cache.KEEP_FREE_SHARE", 0.0
    )  # however full the disk is
    free = frostline.train(tiny_backbone(), data, "head(epochs=8)", study=tmp_path / "a", **FAST)
    monkeypatch.setattr(FeatureCache, "room_bytes", lambda self: int(2.5 * 36 * 24 * 4))
    tight = frostline.train(tiny_backbone(), data, "head(epochs=8)", study=tmp_path / "b", **FAST)
    assert [row["views"] for row in free.numeric_plan["frozen"]["cached"]] == [[0, 1, 2]]
    assert [row["views"] for row in tight.numeric_plan["frozen"]["cached"]] == [[0, 1]]
    assert weights(free) == weights(tight)


@pytest.mark.parametrize("views", [0, 1, 3])
def test_views_are_as_many_as_asked_for(
    views: int, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    real = Images.view_name
    monkeypatch.setattr(Images, "view_name", lambda self, view: (seen.add(view), real(self, view))[1])
    frostline.train(tiny_backbone(), data, "head(epochs=5)", study=tmp_path / "s", views=views, **FAST)
    assert seen - {0} == set(range(1, views or 6))


@pytest.mark.parametrize("trouble", ["full", "damaged", "gone"])
def test_trouble_with_the_store_changes_nothing_but_the_time(
    trouble: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "a", cache="keep", **FAST)
    if trouble == "full":
        FeatureCache().clear()
        real = frostline.system.directories.write_atomically

        def refuse(path: Path, content: bytes) -> None:
            if ".rows." in path.name:
                raise OSError(28, "No space left on device", str(path))
            real(path, content)

        monkeypatch.setattr("frostline.system.directories.write_atomically", refuse)
    elif trouble == "damaged":
        for shard in FeatureCache().path.glob("*.safetensors"):
            content = bytearray(shard.read_bytes())
            content[-2] ^= 4
            shard.write_bytes(content)
    else:
        place = FeatureCache().path
        shutil.rmtree(place)
        place.write_text("a file where the folder should be")
    with pytest.warns(CacheWarning) as caught:
        again = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "b", cache="keep", **FAST)
    assert len(caught) == 1
    assert weights(again) == weights(plain)


# --- decoding ahead -----------------------------------------------------------------------------------


def test_what_is_made_ahead_comes_in_order_and_errors_come_through() -> None:
    assert list(ahead(iter(range(50)))) == list(range(50))
    assert list(ahead(iter([]))) == []

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    made = ahead(broken())
    assert next(made) == 1
    with pytest.raises(ValueError, match="broken"):
        next(made)


def test_no_more_is_made_ahead_than_was_said() -> None:
    made: list[int] = []

    def count() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    stream = ahead(count())
    for number in stream:
        if number == 10:
            break
    stream.close()
    assert len(made) <= 11 + freezing.AHEAD


def test_a_damaged_image_is_said_while_rows_are_filled(data: Manifest) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING)
    assert data.root
    (data.root / data.subset("train")[3].path).write_bytes(b"no image any more")
    with pytest.raises(frostline.errors.DataError, match="has changed"):
        frozen_at(2).fill(images, [(position, 0) for position in range(len(images))])
    assert np.isin(missing(images, frozen_at(2)), range(1, 37))


@pytest.mark.parametrize("strategy", ["linear_probe", "top_k(1, epochs=4)", "gradual_unfreeze(2, epochs=6)"])
def test_a_store_that_was_filled_before_leaves_nothing_to_compute(tmp_path: Path, strategy: str) -> None:
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=16), near_copies=False)
    given = {"deterministic": True, "flip": "none", "threads": 1, "seed": 3}
    filled = frostline.fill_cache(tiny_backbone(), data, strategy, **given)
    assert filled.computed > 0
    run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "s", cache="keep", **given)
    assert run.features["computed"] == 0
    assert run.features["from_cache"] > 0
    assert frostline.fill_cache(tiny_backbone(), data, strategy, **given).computed == 0


def test_a_disk_that_fills_up_is_no_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=8), near_copies=False)

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr("frostline.system.directories.write_atomically", refuse)
        with (
            pytest.warns(frostline.errors.CacheWarning),
            pytest.raises(UsageError, match=r"No space left on device\)\. Free space there"),
        ):
            frostline.fill_cache(tiny_backbone(), data, "top_k(1)", **FAST)
    assert frostline.fill_cache(tiny_backbone(), data, "top_k(1)", **FAST).computed > 0


def test_the_config_of_a_run_fills_what_that_run_reads(tmp_path: Path) -> None:
    """Also hyperparameters of its strategy, and fields that mean nothing to features."""
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=8), near_copies=False)
    config = frostline.Config(
        deterministic=True, flip="none", threads=1, epochs=3, metric="macro_f1", cache="keep"
    )
    filled = frostline.fill_cache(tiny_backbone(), data, "top_k(1)", config=config)
    assert filled.computed > 0
    run = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "s", config=config)
    assert run.features["computed"] == 0
    with pytest.raises(UsageError, match=r"Unknown option 'epoch'\. Did you mean 'epochs'"):
        frostline.fill_cache(tiny_backbone(), data, epoch=3)  # type: ignore[call-arg]


def test_one_cut_is_filled_with_the_views_that_were_asked_for(tmp_path: Path) -> None:
    data = frostline.load_data(write_folder(tmp_path / "images", per_class=8), near_copies=False)
    filled = frostline.fill_cache(
        tiny_backbone(), data, cut=2, views=3, deterministic=True, flip="none", threads=1
    )
    rest = len(data.samples) - len(data.subset("train"))
    assert filled.views == {2: 3}
    assert filled.wanted == filled.computed == 3 * len(data.subset("train")) + rest
    with pytest.raises(UsageError, match="Nothing is frozen before cut 0"):
        frostline.fill_cache(tiny_backbone(), data, cut=0, deterministic=True)


def test_what_another_process_waits_for_is_put_before_more_is_claimed(
    data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(data, data.subset("train"), PREPROCESSING)
    put: list[bytes] = []
    real = CachedPrefix.put
    monkeypatch.setattr(
        CachedPrefix, "put", lambda self, keys, *rows: (put.extend(keys), real(self, keys, *rows))[1]
    )

    def todo(_: CachedPrefix, keys: list[bytes], batch: int) -> Iterator[list[bytes]]:
        first = keys[: 3 * batch]
        for start in range(0, len(first), batch):
            yield first[start : start + batch]
        yield []
        assert put == first
        for start in range(len(first), len(keys), batch):
            yield keys[start : start + batch]

    monkeypatch.setattr(CachedPrefix, "todo", todo)
    frozen_at(2, way(batch=8)).reading(0).fill(images, [(at, 0) for at in range(len(images))], workers=2)
    assert len(put) == len(images)
