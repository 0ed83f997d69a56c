"""Batches of frozen layers that are computed at the same time: the same rows, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import frostline
from feature_examples import frozen_at, items_of, way
from frostline import models as bb
from frostline.feature_cache import CachedPrefix, FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen, replicas, stage_features
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.system import numerics
from tiny import PREPROCESSING, tiny_backbone, write_table

LONG_S = 20.0


@pytest.fixture
def images(tmp_path: Path) -> Images:
    table = write_table(tmp_path / "images", train=30, val=2)
    data = frostline.load_data(table, near_copies=False)
    return Images(data, data.part("train"), PREPROCESSING)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with numerics.threads(2):
        yield


def folding(backbone: Backbone) -> ForwardConfig:
    return ForwardConfig(numerics.pinned_plan("float32", 1), 8, tuple(bb.foldable(backbone)))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("store", [False, True])
def test_the_rows_are_those_of_one_batch_after_another(images: Images, store: bool, folded: bool) -> None:
    backbone, rows = tiny_backbone(), {}
    config = folding(backbone) if folded else way()
    assert bool(config.folded) is folded
    for threads in (1, 2, 3):
        with numerics.threads(threads):
            frozen = frozen_at(3, config, backbone=backbone, store=store)
            if frozen.cache is not None:
                frozen.cache.clear()
                frozen.fill(images, [(place, 0) for place in range(len(images))])
            rows[threads] = torch.cat(list(frozen.batches(images, items_of(images, (0,)))))
            assert torch.get_num_threads() == threads
    assert len(rows[1]) == len(images) > 3 * config.batch
    assert torch.equal(rows[1], rows[2])
    assert torch.equal(rows[1], rows[3])


def test_statistics_of_stages_are_those_of_one_batch_after_another(images: Images) -> None:
    backbone, values = tiny_backbone(), []
    for threads in (1, 2):
        with numerics.threads(threads), FeatureCache() as cache:
            cache.clear()
            frozen = Frozen(backbone, backbone.model, backbone.cuts[-1], way(), cache)
            values.append(stage_features(frozen, images))
    assert (values[0] == values[1]).all()


class Meeting(nn.Module):
    """Waits until another batch is computed at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __deepcopy__(self, _: object) -> Meeting:
        return self

    def forward(self, x: Tensor) -> Tensor:
        BARRIER.wait(LONG_S)
        return x


BARRIER = threading.Barrier(2)


def test_two_batches_are_computed_at_the_same_time() -> None:
    model = nn.Sequential(Meeting(), nn.Linear(2, 2))
    with numerics.threads(2):
        outputs = list(
            replicas.mapped(
                lambda replica, x: replica(x),
                [torch.full((1, 2), float(number)) for number in range(6)],
                model,
                lambda: replicas.sharing_weights(model),
                2,
            )
        )
    assert torch.equal(
        torch.cat(outputs), model[1](torch.arange(6.0).reshape(6, 1).expand(6, 2).contiguous())
    )


def test_a_replica_shares_tensors_and_has_hooks_of_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    replica = replicas.sharing_weights(model)
    assert [id(t) for t in replica.state_dict(keep_vars=True).values()] == [
        id(t) for t in model.state_dict(keep_vars=True).values()
    ]
    replica[0].register_forward_hook(lambda *_: None)
    assert not model[0]._forward_hooks


def test_a_single_batch_takes_all_threads(two_threads: None) -> None:
    seen = []
    list(
        replicas.mapped(
            lambda _, item: seen.append((item, torch.get_num_threads(), threading.current_thread())),
            ["one"],
            None,
            lambda: None,
            2,
        )
    )
    assert seen == [("one", 2, threading.current_thread())]


def test_no_two_batches_on_one_replica_and_an_error_in_its_place(two_threads: None) -> None:
    busy: set[int] = set()

    def work(replica: int, item: int) -> int:
        assert replica not in busy
        busy.add(replica)
        if item == 7:
            raise ValueError("seven")
        busy.discard(replica)
        return item

    names, results = iter(range(1, 10)), []
    with pytest.raises(ValueError, match="seven"):
        results.extend(replicas.mapped(work, range(20), 0, lambda: next(names), 2))
    assert results == list(range(7))
    assert torch.get_num_threads() == 2
    assert next(names) == 2  # one more was made


def test_a_model_whose_second_half_runs_is_not_copied(
    images: Images, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    backbone.model.to(memory_format=torch.channels_last)  # so that frozen layers need no copy
    frozen = frozen_at(2, backbone=backbone, store=False)
    with numerics.threads(1):
        expected = torch.cat(list(frozen.batches(images, items_of(images, (0,)))))
    with bb.suffix(backbone, backbone.model, backbone.cut(2)):
        monkeypatch.setattr(replicas, "sharing_weights", lambda _: pytest.fail("copied"))
        rows = torch.cat(list(frozen.batches(images, items_of(images, (0,)))))
    assert torch.equal(rows, expected)


def test_what_another_process_waits_for_is_put_before_more_is_claimed(
    images: Images, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[bytes] = []
    place = CachedPrefix.put
    monkeypatch.setattr(
        CachedPrefix, "put", lambda self, keys, *rows: (put.extend(keys), place(self, keys, *rows))[1]
    )

    def todo(_: CachedPrefix, keys: list[bytes], batch: int) -> Iterator[list[bytes]]:
        first = keys[: 3 * batch]
        for start in range(0, len(first), batch):
            yield first[start : start + batch]
        yield []
        assert put == first
        yield keys[3 * batch :]

    monkeypatch.setattr(CachedPrefix, "todo", todo)
    frozen = Frozen(
        tiny_backbone(), tiny_backbone().model, tiny_backbone().cut(2), way(batch=8), FeatureCache(), layers=0
    )
    frozen.fill(images, [(place, 0) for place in range(len(images))])
    assert len(put) == len(images)


def test_a_card_computes_one_batch_after_another() -> None:
    assert [replicas.fitting(device, 16) for device in ("cpu", "cuda:0", "mps")] == [replicas.MOST, 1, 1]
