"""Law 1: for every offered cut the two halves are the whole. And that running them leaves no trace."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backbone_examples import FAMILIES, PLAIN, SIDE, Odd, example, images
from frostline.errors import ModelError
from frostline.models import Backbone, assemble, freeze, prefix, set_training, suffix
from frostline.models.cutting.cuts import TOLERANCE
from frostline.models.cutting.nested_values import packed, shape_between, unpacked


def halves(backbone: Backbone, model: nn.Module, index: int, x: Tensor) -> Tensor:
    cut = backbone.cut(index)
    assert cut.index == index
    with torch.no_grad(), suffix(backbone, model, cut) as run:
        return run(prefix(backbone, model, cut)(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_halves_are_the_whole(family: str) -> None:
    backbone = example(family)
    model = backbone.adapt(5, seed=2)
    for tried in (model,) if not backbone.classifier.plain else (model, backbone.model):
        for count in (1, 4):
            x = images(count)
            with torch.no_grad():
                whole = tried(x)
            for cut in backbone.cuts:
                outputs = halves(backbone, tried, cut.index, x)
                close = TOLERANCE * float(whole.abs().max())
                torch.testing.assert_close(outputs, whole, rtol=0, atol=close, msg=f"{family} at {cut}")


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_batches_mix(family: str) -> None:
    backbone = example(family)
    model = backbone.adapt(5, seed=2)
    with torch.no_grad():
        whole = model(images(4))[[3, 0]]
        for cut in backbone.cuts:
            run_first = prefix(backbone, model, cut)
            z = torch.cat([run_first(images(4)[2:])[1:], run_first(images(4)[:3])[:1]])
            with suffix(backbone, model, cut) as run:
                torch.testing.assert_close(run(z), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_are_offered_from_all_to_only_the_head(family: str) -> None:
    backbone = example(family)
    indices = [cut.index for cut in backbone.cuts]
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] == len(backbone.stages) - 1
    assert all(cut.verified and cut.name == backbone.stages[cut.index].name for cut in backbone.cuts)
    x = images(2)
    with torch.no_grad():
        features = prefix(backbone, backbone.adapt(3), backbone.cuts[-1])(x)
    assert features.shape == (2, backbone.feature_width)


def test_most_kinds_have_a_cut_at_every_stage() -> None:
    for family in set(FAMILIES) - {"odd"}:
        assert len(example(family).cuts) == len(example(family).stages) >= 6, family


def test_a_side_input_loses_the_cuts_it_crosses_and_says_so() -> None:
    backbone = example("odd")
    assert [stage.name for stage in backbone.stages] == ["stem", *(f"blocks.{i}" for i in range(6)), "head"]
    assert [cut.index for cut in backbone.cuts] == [0, 4, 5, 6, 7]
    assert "No exact cut between blocks.1 and blocks.2." in backbone.notes
    assert backbone.cut(3).index == 0  # the nearest earlier one trains more, never less
    assert backbone.cut(6).index == 6


def test_gradients_through_the_second_half_are_the_whole_models() -> None:
    for family in ("resnet", "vit", "squeezenet"):
        backbone = example(family)
        cut = backbone.cuts[-3]
        model, twin = backbone.adapt(4, seed=1), backbone.adapt(4, seed=1)
        for one in (model, twin):
            freeze(backbone, one, cut)
            set_training(backbone, one, cut)
        z = prefix(backbone, model, cut)(images(3)).detach()
        torch.manual_seed(1)
        with suffix(backbone, model, cut) as run:
            run(z).square().sum().backward()
        torch.manual_seed(1)
        twin(images(3)).square().sum().backward()
        for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None and b.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=f"{family} {name}")


def test_autocast_and_channels_last_work() -> None:
    backbone = example("resnet")
    model = backbone.adapt(4).to(memory_format=torch.channels_last)
    cut, x = backbone.cuts[2], images(2).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole = model(x)
        with suffix(backbone, model, cut) as run:
            torch.testing.assert_close(run(prefix(backbone, model, cut)(x)), whole, rtol=0.05, atol=0.05)


def test_the_model_works_as_ever_inside_the_block_and_is_as_before_after_it() -> None:
    backbone = example("resnet")
    model = backbone.adapt(4)
    before, keys, x = (
        {name: dict(m.__dict__) for name, m in model.named_modules()},
        list(model.state_dict()),
        images(2),
    )
    cut = backbone.cuts[3]
    with torch.no_grad():
        whole = model(x)
        with suffix(backbone, model, cut) as run:
            assert torch.equal(model(x), whole)
            assert torch.equal(run(prefix(backbone, model, cut)(x)), whole)
            with pytest.raises(RuntimeError):
                run(torch.zeros(2, 1, 1, 1))  # of the wrong shape
            assert torch.equal(model(x), whole)
        with pytest.raises(RuntimeError), suffix(backbone, model, cut) as run:
            run(torch.zeros(2, 1, 1, 1))
        assert torch.equal(model(x), whole)
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert list(model.state_dict()) == keys


def test_a_stored_activation_is_never_changed() -> None:
    backbone = example("in place")
    model = backbone.adapt(4)
    for cut in backbone.cuts:
        z = prefix(backbone, model, cut)(images(2)).detach()
        before = z.clone()
        with torch.no_grad(), suffix(backbone, model, cut) as run:
            run(z)
        assert torch.equal(z, before)


def test_a_frozen_activation_is_not_random_while_the_model_trains() -> None:
    backbone = example("odd")  # its dropout works on both sides of the cut
    model, cut = backbone.adapt(4), example("odd").cut(5)
    with torch.no_grad():
        expected = prefix(backbone, model, cut)(images(3))
        set_training(backbone, model, cut)
        assert model.training
        assert torch.equal(prefix(backbone, model, cut)(images(3)), expected)
        assert model.training


def test_a_model_changed_after_loading_is_refused() -> None:
    backbone = example("sequential")
    model = backbone.adapt(4)
    model.forward = lambda x: x.mean((2, 3))  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="without calling"):
        prefix(backbone, model, backbone.cuts[2])(images(2))


def test_found_cuts_are_remembered_and_a_damaged_store_only_costs_time(own_cache) -> None:  # type: ignore[no-untyped-def]
    source = {"kind": "timm", "architecture": "odd"}  # a named architecture, whose code does not change
    first = assemble(Odd(), PLAIN, name="odd", source=source)
    (kept,) = (own_cache / "cuts").iterdir()
    start = time.perf_counter()
    again = assemble(Odd(), PLAIN, name="odd", source=source)
    assert time.perf_counter() - start < 0.2
    assert (again.cuts, again.stages, again.notes) == (first.cuts, first.stages, first.notes)
    assert [cut.recipe for cut in again.cuts] == [cut.recipe for cut in first.cuts]
    kept.write_bytes(kept.read_bytes()[:100])
    assert assemble(Odd(), PLAIN, name="odd", source=source).cuts == first.cuts


@given(
    st.lists(st.tuples(st.integers(1, 3), st.lists(st.integers(1, 4), max_size=2)), min_size=1, max_size=3),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_packing_round_trips(kinds: list[tuple[int, list[int]]], count: int) -> None:
    shapes = [shape_between((2 * k, *rest), (3 * k, *rest), (2, 3)) for k, rest in kinds]
    values = [torch.randn(k * count, *rest) for k, rest in kinds]
    z = packed(values, shapes, count)
    assert len(z) == count
    assert all(torch.equal(a, b) for a, b in zip(unpacked(z, shapes), values, strict=True))
    rows = packed(
        [
            v.reshape(count, k, *v.shape[1:])[:1].flatten(0, 1)
            for v, (k, _) in zip(values, kinds, strict=True)
        ],
        shapes,
        1,
    )
    assert torch.equal(rows, z[:1])  # a row is one image's, whatever the batch


def test_a_second_half_costs_little_more_than_its_layers() -> None:
    """What stubbing adds to one forward of the second half, against the same layers called by hand."""
    backbone = example("resnet")
    model, cut = backbone.adapt(4), backbone.cut(4)
    assert cut.boundary == "layer4"
    z = prefix(backbone, model, cut)(images(2, SIDE)).detach()

    def by_hand() -> Tensor:
        result: Tensor = model.fc(model.global_pool(model.layer4(z)))
        return result

    with torch.no_grad(), suffix(backbone, model, cut) as run:
        gaps = []
        for _ in range(15):
            start = time.perf_counter()
            by_hand()
            middle = time.perf_counter()
            run(z)
            gaps.append((time.perf_counter() - middle) - (middle - start))
    assert statistics.median(gaps) < 0.003  # seconds; 0.1 ms or less is usual
