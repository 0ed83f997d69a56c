"""Frozen layers are computed once, and nobody can tell from the result."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import frostline
from frostline import backbone as bb
from frostline import frozen as freezing
from frostline import numerics
from frostline.augment import Policy
from frostline.backbone import Backbone
from frostline.cost import RowRates, read_or_recompute
from frostline.dataset import Manifest
from frostline.errors import StoreWarning
from frostline.frozen import Frozen, Way, ahead, features
from frostline.frozen import way as way_module
from frostline.images import MIRRORED, Images
from frostline.store import Store
from frostline.training import Run, planning
from tiny import PREPROCESSING, TinyNet, tiny_backbone, tiny_model, write_table

FAST = {"exact": True, "threads": 1, "flip": "none"}
STRATEGIES = (
    "linear_probe",
    "head",
    "top_k(1)",
    "top_k(2)",
    "gradual_unfreeze",
    "lp_ft",
    "full",
    "phases(1@2, 0@1, all@1)",
)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cuts whose prefix was run on pixels, as they are run."""
    found: list[int] = []
    real = Frozen.compute

    def spy(self: Frozen, pixels: torch.Tensor) -> torch.Tensor:
        found.append(self.cut.index)
        return real(self, pixels)

    monkeypatch.setattr(Frozen, "compute", spy)
    return found


def way(precision: str = "float32", batch: int = 8) -> Way:
    return Way(numerics.pinned_plan(precision, 1), batch)


def frozen_at(
    index: int, how: Way | None = None, *, backbone: Backbone | None = None, store: bool = True
) -> Frozen:
    backbone = backbone or tiny_backbone()
    return Frozen(backbone, backbone.model, backbone.cut(index), how or way(), Store() if store else None)


def items_of(images: Images, views: tuple[int, ...] = (0, 1)) -> list[list[tuple[int, int]]]:
    flat = [(position, view) for view in views for position in range(len(images))]
    return [flat[i : i + 7] for i in range(0, len(flat), 7)]


def weights(run: Run) -> bytes:
    return run.folder.weights.read_bytes()


# --- law 2: stored rows equal live rows ---------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_stored_rows_equal_live_rows(index: int, precision: str, data: Manifest) -> None:
    images = Images(data, data.part("train"), PREPROCESSING, policy=Policy("standard"), seed=3)
    items = items_of(images, (0, 1, MIRRORED))
    live = list(frozen_at(index, way(precision), store=False).batches(images, items))
    first = list(frozen_at(index, way(precision)).batches(images, items))
    kept = frozen_at(index, way(precision))
    again = list(kept.batches(images, items))
    assert kept.counts.rows_computed == 0
    assert kept.counts.rows_read == 3 * len(images)
    for one, other, third in zip(live, first, again, strict=True):
        assert one.dtype == other.dtype == third.dtype
        assert torch.equal(one, other)
        assert torch.equal(one, third)
        assert one.is_contiguous(memory_format=torch.channels_last) == third.is_contiguous(
            memory_format=torch.channels_last
        )


def test_rows_do_not_depend_on_what_they_are_computed_with(data: Manifest) -> None:
    """Also a batch of one: it is filled up to the size that all batches have."""
    backbone = frostline.load_backbone("timm/resnet18", random=True, size=32)
    images = Images(data, data.part("train"), backbone.preprocessing)
    orders = [[[5]], [[0, 1, 2, 3, 4, 5]], [[9, 5], [3]], [list(range(30, 5, -1)), [5, 0]]]
    rows = []
    for order in orders:
        frozen = frozen_at(3, way("float32", 16), backbone=backbone, store=False)
        flat = list(itertools.chain.from_iterable(order))
        found = torch.cat(list(frozen.batches(images, [[(p, 0) for p in batch] for batch in order])))
        rows.append(found[flat.index(5)])
    assert all(torch.equal(rows[0], row) for row in rows)


def test_features_are_what_the_model_feeds_its_head(data: Manifest) -> None:
    backbone = tiny_backbone()
    images = Images(data, data.part("train"), PREPROCESSING)
    seen: list[torch.Tensor] = []
    hook = backbone.model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[union-attr]
    plan = numerics.exact_plan(1)
    with torch.no_grad():
        for pixels in images.evaluation(len(images)):
            backbone.model(plan.batch(pixels, PREPROCESSING.normalise))
    hook.remove()
    assert features(frozen_at(4), images) == pytest.approx(seen[0].numpy(), abs=1e-5)


# --- the choice changes no bit ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kept_computed_cold_and_warm_give_the_same_weights(
    strategy: str, data: Manifest, tmp_path: Path
) -> None:
    done = {}
    for name, rows in (("computed", "compute"), ("cold", "keep"), ("warm", "keep"), ("auto", "auto")):
        place = tmp_path / name
        done[name] = frostline.train(tiny_backbone(), data, strategy, study=place, rows=rows, **FAST)
    assert len({weights(run) for run in done.values()}) == 1
    assert done["computed"].store["rows_read"] == 0
    if strategy not in ("full",):
        assert done["warm"].store["rows_computed"] == 0
        assert done["warm"].store["rows_read"] > 0
    losses = [[row.get("val_loss") for row in run.folder.metrics()] for run in done.values()]
    assert all(found == losses[0] for found in losses)


def test_workers_and_layouts_change_no_bit(data: Manifest, tmp_path: Path) -> None:
    done = []
    for name, options in (("a", {}), ("b", {"workers": 2}), ("c", {"workers": 2, "rows": "compute"})):
        done.append(
            frostline.train(
                tiny_backbone(), data, "top_k(1, epochs=2)", study=tmp_path / name, **FAST, **options
            )
        )
        Store().clear()
    assert len({weights(run) for run in done}) == 1
    assert done[1].store["rows_computed"] > 0


@pytest.mark.parametrize("rows", ["keep", "compute"])
def test_learning_contiguous_above_a_channels_last_prefix(
    rows: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix then runs on a copy of the model in its own memory format."""
    real = planning.begin

    def contiguous(*given: object) -> planning.Plan:
        plan = real(*given)  # type: ignore[arg-type]
        plan.numbers = dataclasses.replace(plan.numbers, channels_last=False)
        assert plan.way.plan.channels_last
        return plan

    monkeypatch.setattr(planning, "begin", contiguous)
    run = frostline.train(tiny_backbone(), data, "top_k(2)", study=tmp_path / rows, rows=rows, **FAST)
    monkeypatch.undo()
    other = frostline.train(tiny_backbone(), data, "top_k(2)", study=tmp_path / "other", **FAST)
    for key, value in frostline.load_model(run.study.path, module=tiny_model()).state_dict().items():
        expected = frostline.load_model(other.study.path, module=tiny_model()).state_dict()[key]
        assert torch.allclose(value, expected, atol=1e-3), key


@pytest.mark.parametrize("strategy", ["top_k(2)", "gradual_unfreeze"])
def test_killed_and_resumed_reads_the_same_rows(
    strategy: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frostline.training import loop

    whole = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "whole", **FAST)
    shutil.rmtree(Store().path)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    real, left = loop._validate, [5]

    def stop(*given: object) -> object:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(loop, "_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "broken", **FAST)
    shutil.rmtree(Store().path)  # and the store is lost on top
    resumed = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "broken", **FAST)
    assert weights(resumed) == weights(whole)


def test_a_warm_run_never_calls_the_prefix(data: Manifest, tmp_path: Path, calls: list[int]) -> None:
    for strategy in ("linear_probe", "head", "top_k(2)"):
        frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "a", rows="keep", **FAST)
        assert calls
        calls.clear()
        run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "b", rows="keep", **FAST)
        assert not calls
        assert run.store["rows_computed"] == 0


def test_ten_new_images_cost_ten_rows(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=20)
    rows = table.read_text().splitlines()
    train = [row for row in rows if row.endswith("train")]
    table.write_text("\n".join(row for row in rows if row not in train[::6]) + "\n")
    few = frostline.load_data(table, near_copies=False)
    first = frostline.train(tiny_backbone(), few, "linear_probe", study=tmp_path / "a", **FAST)
    table.write_text("\n".join(rows) + "\n")
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")  # names and places have no say
    more = frostline.load_data(tmp_path / "elsewhere" / "table.csv", near_copies=False)
    second = frostline.train(tiny_backbone(), more, "linear_probe", study=tmp_path / "b", **FAST)
    assert first.store["rows_computed"] == 50 + 24  # train and test
    assert second.store == {"rows_computed": 10, "rows_read": 60 + 24}


# --- a change is a miss, never a wrong hit ------------------------------------------------------------


def missing(images: Images, frozen: Frozen) -> int:
    return frozen.missing(images, [(position, 1) for position in range(len(images))])


@pytest.mark.parametrize(
    "change",
    ["one bit", "a statistic", "a setting", "a size", "precision", "batch", "a version", "the device", "cut"],
)
def test_another_way_of_computing_is_a_miss(
    change: str, data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(data, data.part("train"), PREPROCESSING, policy=Policy("standard"), seed=1)
    items = items_of(images, (1,))
    frozen_at(2).fill(images, itertools.chain.from_iterable(items))
    assert missing(images, frozen_at(2)) == 0
    model, how, index, preprocessing = tiny_model(), way(), 2, PREPROCESSING
    assert isinstance(model, TinyNet)
    if change == "one bit":
        flat = model.blocks[0].conv.weight.data.view(torch.int32)
        flat.view(-1)[5] ^= 1
    elif change == "a statistic":
        model.stem.bn.running_var.view(torch.int32)[0] ^= 1
    elif change == "a setting":
        model.stem.bn.eps *= 2
    elif change == "a size":
        preprocessing = PREPROCESSING.with_size(24)
    elif change == "precision":
        how = way("bfloat16")
    elif change == "batch":
        how = way(batch=9)
    elif change == "a version":
        monkeypatch.setattr(way_module.metadata, "version", lambda name: "0")
    elif change == "the device":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    else:
        index = 3
    backbone = frostline.load_backbone(model, preprocessing=preprocessing)
    assert missing(images, frozen_at(index, how, backbone=backbone)) == len(images)


def test_weights_above_the_cut_and_hidden_state_have_the_right_say(data: Manifest) -> None:
    images = Images(data, data.part("train"), PREPROCESSING)
    frozen_at(2).fill(images, [(position, 1) for position in range(len(images))])
    model = tiny_model()
    assert isinstance(model, TinyNet)
    model.blocks[2].conv.weight.data += 1  # above the cut
    assert (
        missing(images, frozen_at(2, backbone=frostline.load_backbone(model, preprocessing=PREPROCESSING)))
        == 0
    )
    model.blocks[0].secret = {"scale": [2.0]}  # type: ignore[assignment] # nothing that extra_repr would show
    assert (
        missing(images, frozen_at(2, backbone=frostline.load_backbone(model, preprocessing=PREPROCESSING)))
        == 36
    )


@pytest.mark.parametrize("other", [Policy("light"), Policy("standard", "horizontal"), Policy("strong")])
def test_another_augmentation_is_a_miss_but_view_0_is_shared(other: Policy, data: Manifest) -> None:
    first = Images(data, data.part("train"), PREPROCESSING, policy=Policy("standard"), seed=1)
    frozen_at(2).fill(first, [(position, view) for position in range(len(first)) for view in (0, 1)])
    for policy, seed, expected in ((other, 1, 36), (Policy("standard"), 2, 36), (Policy("standard"), 1, 0)):
        images = Images(data, data.part("train"), PREPROCESSING, policy=policy, seed=seed)
        assert missing(images, frozen_at(2)) == expected
        assert frozen_at(2).missing(images, [(position, 0) for position in range(36)]) == 0


def test_a_module_typed_at_a_prompt_is_like_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, type[nn.Module]] = {}
    code = "class Typed(Base):\n    def forward(self, x):\n        return super().forward(x)\n"
    exec(code, {"Base": TinyNet, "__name__": "typed"}, scope)
    model = scope["Typed"]()
    backbone = frostline.load_backbone(model.eval(), preprocessing=PREPROCESSING)
    here = bb.prefix_digest(backbone, model, backbone.cut(2))
    assert here == bb.prefix_digest(backbone, model, backbone.cut(2))
    bb.identity._source.cache_clear()
    monkeypatch.setattr(bb.identity.os, "getpid", lambda: 1)
    assert here != bb.prefix_digest(backbone, model, backbone.cut(2))


# --- a later cut from an earlier one ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224", "timm/densenet121", "lite0"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rows_of_an_earlier_cut_lead_to_the_same_bits(
    name: str, precision: str, data: Manifest, calls: list[int], warm_store: Path
) -> None:
    size = 224 if "vit" in name else 64
    backbone = frostline.load_backbone(name, size=size, **({} if name == "lite0" else {"random": True}))
    images = Images(data, data.part("val"), backbone.preprocessing)
    items = [[(position, 0) for position in range(len(images))]]
    early, late = backbone.cuts[2], backbone.cuts[-2]
    how = way(precision, 8)
    live = torch.cat(list(frozen_at(late.index, how, backbone=backbone, store=False).batches(images, items)))
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
    images = Images(data, data.part("train"), PREPROCESSING)
    items = items_of(images, (0,))
    flat = list(itertools.chain.from_iterable(items))
    live = torch.cat(list(frozen_at(3, store=False).batches(images, items)))
    frozen_at(1).fill(images, flat)
    real = Frozen._from_rows
    monkeypatch.setattr(Frozen, "_from_rows", lambda *given: real(*given) * 1.0001)  # type: ignore[operator]
    calls.clear()
    frozen_at(3).fill(images, flat)
    assert calls.count(3) == 1 + 5  # the trial, then everything from pixels
    assert torch.equal(torch.cat(list(frozen_at(3).batches(images, items))), live)


def test_a_schedule_with_several_cuts_computes_each_layer_once(
    data: Manifest, tmp_path: Path, calls: list[int]
) -> None:
    strategy = "phases(0@2, 1@2, 2@2, 3@2)"
    run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "s", rows="keep", views=2, **FAST)
    images = 36 + 12
    from_pixels = [cut for cut in calls if cut == 1]
    assert (
        len(from_pixels) == 2 * 1 + 2
    )  # two views of 36 in batches of 64, val, test: the earliest cut alone
    assert len(calls) - len(from_pixels) <= 3 * 3  # one batch each, to see that a bridge holds
    assert run.store["rows_computed"] <= 4 * (2 * 36 + 12) + len(calls) * images


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
    found = []
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        found.append(json.loads(out))
    needed = 3 * 600 + 12  # three views of each training image; test
    assert needed <= sum(each["rows_computed"] for each in found) <= 1.05 * needed
    assert len({Path(each["weights"]).read_bytes() for each in found}) == 1


def test_a_head_that_starts_from_a_probe_costs_no_pass_of_its_own(
    data: Manifest, tmp_path: Path, calls: list[int]
) -> None:
    frostline.train(tiny_backbone(), data, "top_k(1, epochs=3)", study=tmp_path / "s", rows="keep", **FAST)
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
    rows = {row["cut"]: row for row in run.numeric_plan["frozen"]["rows"]}
    assert rows[1]["views_kept"] == []  # 8 × 16 × 16 float32 against 3 × 16 × 16 bytes
    assert "8,192 bytes, an image's pixels 768" in rows[1]["why"]
    assert rows[4]["views_kept"]


def test_no_more_views_are_kept_than_the_store_has_room_for(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = frostline.train(tiny_backbone(), data, "head(epochs=8)", study=tmp_path / "a", **FAST)
    monkeypatch.setattr(Store, "room_bytes", lambda self: int(2.5 * 36 * 24 * 4))
    tight = frostline.train(tiny_backbone(), data, "head(epochs=8)", study=tmp_path / "b", **FAST)
    assert [row["views_kept"] for row in free.numeric_plan["frozen"]["rows"]] == [[0, 1, 2]]
    assert [row["views_kept"] for row in tight.numeric_plan["frozen"]["rows"]] == [[0, 1]]
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
    plain = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "a", rows="keep", **FAST)
    if trouble == "full":
        Store().clear()
        real = frostline.places.write_atomically

        def refuse(path: Path, content: bytes) -> None:
            if ".rows." in path.name:
                raise OSError(28, "No space left on device", str(path))
            real(path, content)

        monkeypatch.setattr("frostline.places.write_atomically", refuse)
    elif trouble == "damaged":
        for shard in Store().path.glob("*.safetensors"):
            content = bytearray(shard.read_bytes())
            content[-2] ^= 4
            shard.write_bytes(content)
    else:
        place = Store().path
        shutil.rmtree(place)
        place.write_text("a file where the folder should be")
    with pytest.warns(StoreWarning) as said:
        again = frostline.train(tiny_backbone(), data, "top_k(1)", study=tmp_path / "b", rows="keep", **FAST)
    assert len(said) == 1
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
    images = Images(data, data.part("train"), PREPROCESSING)
    assert data.root
    (data.root / data.part("train")[3].path).write_bytes(b"no image any more")
    with pytest.raises(frostline.errors.DataError, match="has changed"):
        frozen_at(2).fill(images, [(position, 0) for position in range(len(images))])
    assert np.isin(missing(images, frozen_at(2)), range(1, 37))
