"""Law 3: below the cut nothing moves, bit for bit; above it exactly what the BatchNorm policy names does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backbone_examples import FAMILIES, example, images
from frostline.errors import ModelError, UsageError
from frostline.models import BN_POLICIES, Backbone, Cut, freeze, keeps_statistics, set_training


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(backbone: Backbone, model: nn.Module, cut: Cut, bn: str, steps: int = 3) -> None:
    freeze(backbone, model, cut, bn)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        set_training(backbone, model, cut, bn)
        model(images(4, seed=step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()  # as validation would
        with torch.no_grad():
            model(images(2))


@pytest.mark.parametrize("bn", BN_POLICIES)
@pytest.mark.parametrize("family", ["resnet", "efficientnet", "densenet", "sequential", "odd"])
def test_below_the_cut_nothing_moves_and_above_it_what_the_policy_names(family: str, bn: str) -> None:
    backbone = example(family)
    cut = backbone.cuts[len(backbone.cuts) // 2]
    torch.manual_seed(0)  # of the head and of dropout
    model = backbone.adapt(4, head=nn.Linear(backbone.feature_width, 4))
    stages, before = backbone.stage_of(model), snapshot(model)
    trained(backbone, model, cut, bn)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if stages[name] < cut.index]
    above = {name for name, stage in stages.items() if stage >= cut.index}
    norms = {name for name, module in model.named_modules() if keeps_statistics(module)}
    of_norms = {name for name in above if name.rpartition(".")[0] in norms}
    statistics = {name for name in of_norms if "running" in name or "num_batches" in name}
    expected = above - statistics if bn == "affine" else above - of_norms if bn == "eval" else above
    assert of_norms
    assert moved <= expected
    assert statistics & expected <= moved
    # With batch statistics a bias before the next BatchNorm changes nothing, so rounding alone moves it.
    idle = {name for name in expected if name.endswith("bias")} if bn in ("train", "recalibrate") else set()
    assert not expected - moved - idle


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_modules_stay_frozen_through_validation(family: str) -> None:
    backbone = example(family)
    model, cut = backbone.adapt(4), backbone.cuts[-2]
    spans = backbone.module_spans(model)
    for _ in range(2):
        set_training(backbone, model, cut)
        for name, module in model.named_modules():
            assert module.training == (spans[name][1] >= cut.index and not keeps_statistics(module)), name
        model.eval()
        assert not any(module.training for module in model.modules())


def test_a_moved_cut_unfreezes_what_was_frozen() -> None:
    backbone = example("resnet")
    model = backbone.adapt(4)
    freeze(backbone, model, backbone.cuts[-1])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    freeze(backbone, model, backbone.cuts[0])
    assert all(p.requires_grad for p in model.parameters())
    set_training(backbone, model, backbone.cuts[0], "train")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_and_buffer_has_a_stage_that_rises_with_use(family: str) -> None:
    backbone = example(family)
    for model in (
        backbone.adapt(4),
        backbone.adapt(4, head=nn.Sequential(nn.Linear(backbone.feature_width, 4))),
    ):
        stages = backbone.stage_of(model)
        names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
        assert stages.keys() == names | {n for n, _ in model.named_buffers(remove_duplicate=False)}
        assert set(stages.values()) == set(range(len(backbone.stages)))
    assert sum(stage.parameters for stage in backbone.stages) == sum(
        p.numel() for p in backbone.model.parameters()
    )
    assert sum(stage.compute_share for stage in backbone.stages) == pytest.approx(1)


def test_a_containers_own_parameters_belong_where_they_are_first_used() -> None:
    vit = example("vit")
    assert vit.stage_of(vit.adapt(3))["pos_embed"] == 0
    odd = example("odd")
    stages = odd.stage_of(odd.adapt(3))
    assert (stages["scale"], stages["side.weight"], stages["unused"], stages["blocks.3.one.weight"]) == (
        0,
        3,
        0,
        4,
    )


def test_names_that_belong_to_no_stage_stop_the_run_by_name() -> None:
    backbone = example("sequential")
    with pytest.raises(ModelError, match=r"module\.0\.weight"):
        backbone.stage_of(nn.ModuleDict({"module": backbone.adapt(3)}))
    model = backbone.adapt(3)
    model.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ModelError, match="extra"):
        freeze(backbone, model, backbone.cuts[1])


def test_an_unknown_policy_is_refused() -> None:
    backbone = example("sequential")
    with pytest.raises(UsageError, match="Did you mean 'affine'"):
        freeze(backbone, backbone.adapt(3), backbone.cuts[0], "afine")
