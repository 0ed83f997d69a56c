"""`--compile`: what is compiled, when it is paid back, and that nothing of it can be seen from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import frostline
from frostline import models as bb
from frostline import profiling
from frostline.cost import compile_tradeoff
from frostline.errors import TrainingError, UsageError
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.image_batches import Images
from frostline.models import CompiledRegions, frozen_regions, learning_regions
from frostline.system import compiling, devices, numerics
from frostline.training import compile_choice
from frostline.training.loop import trainer
from frostline.training.numeric_plan import Plan
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table

FAST = {"flip": "none", "threads": 1, "precision": "float32", "batch_size": 16}
STRATEGY = "gradual_unfreeze(2, epochs=3)"


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The graphs that are compiled, as they are: by a backend that needs no compiler."""
    from torch._dynamo.backends.debugging import aot_eager

    compiled: list[Any] = []

    def backend(graph: Any, examples: Any, **options: Any) -> Any:
        compiled.append(graph)
        return aot_eager(graph, examples, **options)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


def trained(tmp_path: Path, name: str, strategy: str = STRATEGY, **options: Any) -> frostline.Run:
    table = tmp_path / "images" / "table.csv"
    if not table.exists():
        write_table(tmp_path / "images", train=12, val=3)
    data = frostline.load_data(table, near_copies=False)
    return frostline.train(tiny_backbone(), data, strategy, study=tmp_path / name, **{**FAST, **options})


def weights_of(run: frostline.Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.folder.weights)


# --- which parts --------------------------------------------------------------------------------------------


def test_frozen_regions_lie_in_one_stage_and_hold_no_place_that_is_looked_at() -> None:
    backbone = tiny_backbone()
    names = frozen_regions(backbone, backbone.model)
    assert names == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]


def test_what_learns_is_compiled_as_a_whole_where_nothing_listens_inside() -> None:
    backbone = tiny_backbone()
    model = backbone.adapt(3)
    assert learning_regions(backbone, model, backbone.cuts[0]) == [""]
    third = backbone.cut(3)
    assert learning_regions(backbone, model, third) == ["blocks.2", "head"]
    assert learning_regions(backbone, model, third, frozen=True)[:3] == ["stem", "blocks.0", "blocks.1"]
    hook = model.blocks[1].conv.register_forward_hook(lambda *_: None)
    names = learning_regions(backbone, model, backbone.cuts[0])
    hook.remove()
    assert "blocks.1.conv" in names
    assert "blocks.1" not in names
    several = backbone.adapt(3, layers=2)  # a head that listens to stages
    assert "" not in learning_regions(backbone, several, backbone.cuts[0])


def test_a_model_is_as_it_was_after_the_block(graphs: list[Any]) -> None:
    model, x = tiny_model(), torch.randn(2, 3, 16, 16)
    keys, expected = list(model.state_dict()), model(x)
    own = model.stem.forward
    model.stem.__dict__["forward"] = own  # somebody's own forward on the instance stays
    regions = CompiledRegions(model, ["stem", "blocks.0"], "layers")
    with regions():
        torch.testing.assert_close(model(x), expected)
        assert list(model.state_dict()) == keys
    with pytest.raises(KeyError), regions():
        raise KeyError
    assert len(graphs) == 2
    assert model.stem.__dict__["forward"] is own
    assert "forward" not in model.blocks[0].__dict__


def test_more_modules_of_a_class_than_torch_has_graphs_for_are_compiled(graphs: list[Any]) -> None:
    model = nn.Sequential(*(nn.Linear(3 + i, 4 + i) for i in range(12)))
    with CompiledRegions(model, [str(i) for i in range(12)], "layers")():
        model(torch.randn(2, 3))
    assert len(graphs) == 12  # torch stops at 8 without a word


# --- frozen layers ------------------------------------------------------------------------------------------


def test_features_know_that_they_were_compiled_and_are_the_same_on_every_way(
    tmp_path: Path, graphs: list[Any]
) -> None:
    backbone = tiny_backbone()
    data = frostline.load_data(write_table(tmp_path / "i", train=4, test=0), test_size=0.0, near_copies=False)
    images = Images(data, data.subset("train"), PREPROCESSING)
    items = [(position, 0) for position in range(len(images))]
    pairs = tuple(bb.foldable(backbone))
    assert pairs
    eager = ForwardConfig(numerics.exact_plan(1), 8, pairs)
    config = ForwardConfig(numerics.exact_plan(1), 8, pairs, compiled=True)
    assert "compiled" not in eager.describe()  # rows of before are found
    assert config.describe()["compiled"]

    def features(config: ForwardConfig, index: int) -> torch.Tensor:
        frozen = Frozen(backbone, backbone.model, backbone.cut(index), config)
        return torch.cat(list(frozen.batches(images, [items])))

    for index in (1, 3, 4):
        torch.testing.assert_close(features(config, index), features(eager, index))
    assert graphs
    last = Frozen(backbone, backbone.model, backbone.cuts[-1], config)
    pixels = torch.stack([images[item] for item in items[:8]])
    with_statistics, without = last.compute(pixels, last.taps)[0], last.compute(pixels)[0]
    assert torch.equal(with_statistics, without)
    early, _ = Frozen(backbone, backbone.model, backbone.cut(2), config).compute(pixels)
    with last._inference() as model, bb.between(backbone, model, backbone.cut(2), last.cut) as run:
        assert torch.equal(run(early), without)  # so rows of one cut lead to those of a later one


def test_a_folded_layer_that_is_compiled_changes_nothing_on_its_own() -> None:
    backbone = tiny_backbone()
    folded = bb.Folded(backbone.model, bb.foldable(backbone), neutral=True)
    x = torch.randn(4, 8, 16, 16)
    assert torch.equal(folded.model.stem.bn(x), x)


# --- a run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["full(epochs=2)", pytest.param(STRATEGY, marks=pytest.mark.slow)])
def test_a_compiled_run_is_killed_and_ends_with_the_same_bytes(
    strategy: str, tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)
    whole = trained(tmp_path, "whole", strategy, compile="on")
    assert graphs
    if compiling.BACKEND != "inductor":  # which draws other numbers for dropout
        plain = weights_of(trained(tmp_path, "plain", strategy, compile="off"))
        assert list(weights_of(whole)) == list(plain)
        for name, value in weights_of(whole).items():
            torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4)

    class Killed(BaseException):
        pass

    def progress(what: str, done: int, of: int) -> None:
        if what == "train" and done == whole.steps // 2:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path, "killed", strategy, compile="on", progress=progress)
    states = list((tmp_path / "killed").glob("runs/*/state.safetensors"))
    from safetensors import safe_open

    with safe_open(states[0], "pt") as state:
        assert [key for key in state.keys() if "_orig_mod" in key] == []  # noqa: SIM118
    torch.compiler.reset()  # as a new process begins
    resumed = trained(tmp_path, "killed", strategy, compile="on")
    assert resumed.folder.weights.read_bytes() == whole.folder.weights.read_bytes()
    assert not any("_orig_mod" in name for name in weights_of(whole))
    phases = [True] * len({row["phase"] for row in whole.folder.metrics()})
    assert whole.numeric_plan["compiled"] == {"phases": phases, "frozen": True, "why": "asked for"}


@pytest.mark.slow
def test_every_phase_is_compiled_and_all_that_thaws_learns(tmp_path: Path, graphs: list[Any]) -> None:
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    run = trained(tmp_path, "s", compile="on", cache="compute", keep="last")
    after = weights_of(run)
    thawed = {name for name in after if name.startswith(("blocks.1", "blocks.2")) and "conv" in name}
    assert len(thawed) == 2
    assert all(not torch.equal(after[name], before[name]) for name in thawed)
    assert torch.equal(after["blocks.0.conv.weight"], before["blocks.0.conv.weight"])


def test_the_plan_is_obeyed_by_whoever_goes_on(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if what == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "s", "full(epochs=2)", progress=stop)
    assert not graphs  # auto is off on a processor
    written = next((tmp_path / "s").glob("runs/*/plan.json"))
    plan = json.loads(written.read_text())
    assert plan["compiled"]["phases"] == [False]
    assert "on a processor" in plan["compiled"]["why"]
    plan["compiled"]["phases"] = [True]
    written.write_text(json.dumps(plan))
    trained(tmp_path, "s", "full(epochs=2)")
    assert graphs


def test_a_plan_of_before_there_was_a_choice_is_read() -> None:
    way = ForwardConfig(numerics.exact_plan(1), 8)
    values = Plan(way.plan, way).as_dict()
    del values["compiled"]
    plan = Plan.from_dict(values)
    assert not plan.compiled.any
    assert not plan.compiled.learning(0)
    again = Plan(way.plan, way, compiled=compile_choice.Compiled((True, False), True, "asked for"))
    assert Plan.from_dict(again.as_dict()).compiled == again.compiled
    assert Plan.from_dict(again.as_dict()).forward_config.compiled


@pytest.mark.slow
def test_mixed_batches_pass_compiled_layers(tmp_path: Path, graphs: list[Any]) -> None:
    run = trained(tmp_path, "s", "top_k(1, epochs=1, mixup=0.2)", compile="on", cache="compute")
    assert run.steps > 0
    assert len(graphs) >= 4


# --- what can't be compiled ---------------------------------------------------------------------------------


def test_without_a_compiler_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "unavailable", lambda: "torch finds no C++ compiler")
    with pytest.raises(UsageError, match=r"compile=.on.: torch finds no C\+\+ compiler\. Leave compile out"):
        trained(tmp_path, "s", compile="on")
    with pytest.raises(UsageError, match=r"compile must be one of auto, on, off, found 'onn'"):
        trained(tmp_path, "t", compile="onn")


def test_a_gpu_whose_triton_can_build_nothing_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton is there, and would end the run at its first kernel."""
    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    header = tmp_path / "Python.h"
    header.touch()
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    assert compiling.unavailable() == ""
    header.unlink()
    assert compiling.unavailable().startswith(f"Triton needs {header}")
    header.touch()
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert compiling.unavailable().startswith("Triton finds no C compiler (gcc or clang)")
    monkeypatch.setenv("CC", "/opt/cc")
    assert compiling.unavailable() == ""


def test_what_cannot_be_compiled_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, examples: Any) -> Any:
        raise ValueError("no such kernel")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    torch.compiler.reset()
    with pytest.raises(TrainingError, match=r"could not compile .*no such kernel.*compile='off'"):
        trained(tmp_path, "s", "full(epochs=1)", compile="on")
    torch.compiler.reset()


def test_deterministic_lets_no_timing_choose_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.append(options))
    compiling.compiled(len, deterministic=True)
    compiling.compiled(len)
    assert [options["options"] for options in given] == [{"deterministic": True}, None]
    assert all(options["dynamic"] is False for options in given)  # else bits depend on earlier sizes


# --- whether it is paid back --------------------------------------------------------------------------------


def test_a_step_that_waits_for_pixels_gains_nothing() -> None:
    gained = compile_tradeoff.of_steps(1000, 0.1)
    assert gained.saved_s == pytest.approx(1000 * 0.1 * (1 - 4690 / 6750))
    assert not gained.pays
    assert compile_tradeoff.of_steps(3000, 0.1).pays
    assert compile_tradeoff.of_steps(3000, 0.1, pixels_s=0.2).saved_s == 0.0
    partly = compile_tradeoff.of_steps(3000, 0.1, pixels_s=0.09)
    assert partly.saved_s == pytest.approx(3000 * 0.01)
    assert not compile_tradeoff.of_steps(3000, 0.1, limit_s=60.0).pays
    assert compile_tradeoff.of_passes(10**6, 1 / 15340).saved_s == pytest.approx(
        10**6 * (1 / 15340 - 1 / 22880)
    )
    assert str(gained) == "not compiled: saves 31 s, takes 45 s"


@pytest.mark.parametrize(
    ("step_s", "deterministic", "phases", "why"),
    [
        (1.0, False, (False, False, True), "phase 3, compiled: saves"),
        (1e-6, False, (False, False, False), "phase 1, not compiled: saves 0 s, takes 45 s"),
        (1.0, True, (False, False, False), "no timed choice"),
    ],
)
def test_on_a_card_each_phase_is_decided_by_its_own_steps(
    step_s: float,
    deterministic: bool,
    phases: tuple[bool, ...],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[Any] = []
    monkeypatch.setattr(compile_choice, "decide", lambda request, *_, **__: requests.append(request) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, "s", "gradual_unfreeze(2, epochs=300)", deterministic=deterministic)
    monkeypatch.undo()
    backbone = requests[0].backbone

    def seconds(_: Any, cut: Any, *__: Any, **___: Any) -> float:
        return step_s if cut.index == backbone.cut(2).index else step_s / 1000

    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    monkeypatch.setattr(compiling, "unavailable", lambda: "")
    monkeypatch.setattr(profiling, "step_s", seconds)
    monkeypatch.setattr(profiling, "prefix_s", lambda *_: 1e-4)
    monkeypatch.setattr(profiling, "decode_s", lambda _: 1e-4)
    plan = numerics.exact_plan(1)
    decided = compile_choice.decide(requests[0], plan, ForwardConfig(plan, 64), timed=True)
    assert decided.phases == phases
    assert not decided.frozen
    assert why in decided.why
    assert (
        "too short" in compile_choice.decide(requests[0], plan, ForwardConfig(plan, 64), timed=False).why
        or deterministic
    )


@pytest.mark.slow
def test_inductor_compiles_a_run_and_it_resumes_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := compiling.unavailable():
        pytest.fail(reason)
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    test_a_compiled_run_is_killed_and_ends_with_the_same_bytes(STRATEGY, tmp_path, [1], monkeypatch)
