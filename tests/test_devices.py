"""Where things compute: one name for a device, one owner of a caller's module, and what a card refuses."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import frostline
from frostline.cli.main import cli
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.feature_extraction import ForwardConfig
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.selection import backbone_screening
from frostline.system import devices, numerics
from frostline.training import numeric_plan
from frostline.training.techniques.batchnorm_recalibration import recalibrate
from pretended_card import CARD, pretended
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_table

FAST: dict[str, Any] = {"deterministic": True, "threads": 1, "flip": "none", "batch_size": 12}
NO_CARD = not torch.cuda.is_available()
without_card = pytest.mark.skipif(not NO_CARD, reason="asks for a GPU that is not there, and one is")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    table = write_table(tmp_path_factory.mktemp("images") / "images", train=10, val=4, test=4)
    return frostline.load_data(table, near_copies=False)


# --- the name of a device -----------------------------------------------------------------------------


def test_the_processor_is_everywhere() -> None:
    assert devices.resolve("cpu") == torch.device("cpu")
    assert devices.resolve("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    "name",
    [
        *("gpu", "cuda:", "cuda:x", "cuda:01", "cuda:99999999999", "cuda:\u0661", "CPU", "", "cpu:0", 0),
        None,
    ],
)
def test_what_names_no_device_is_refused(name: Any, data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, cuda, cuda:1"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "s", device=name)


@without_card
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_card_that_is_not_there_is_one_message(name: str) -> None:
    with pytest.raises(UsageError, match=rf"device is {name}, and torch .* finds cpu.* here\. Take device="):
        devices.resolve(name)


def test_a_card_with_a_higher_number_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.resolve("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"cpu, cuda:0, cuda:1 here\. Take device='cuda:1' or"):
        devices.resolve("cuda:2")


def test_auto_is_the_device_of_the_block_around() -> None:
    with pretended():
        assert str(devices.current()) == CARD
        with devices.computing("cpu"), devices.computing("auto"):
            assert devices.current().type == "cpu"
            assert numerics.exact_plan(1).device == "cpu"
        assert str(devices.current()) == CARD


@without_card
def test_the_command_line_says_it_before_it_reads_images(tmp_path: Path) -> None:
    write_table(tmp_path / "images", train=2)
    outcome = CliRunner().invoke(cli, ["train", str(tmp_path / "images" / "table.csv"), "--device", "cuda"])
    assert outcome.exit_code == 2
    assert "device is cuda, and torch" in outcome.output
    assert "Traceback" not in outcome.output
    outcome = CliRunner().invoke(cli, ["train", str(tmp_path), "--device", "gpu"])
    assert outcome.exit_code == 2
    assert "names no device" in outcome.output


def test_every_verb_that_computes_with_a_model_takes_a_device() -> None:
    def verbs(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            yield f"{before}{name}", command
            if isinstance(command, click.Group):
                yield from verbs(command, f"{name} ")

    takes = {
        name for name, command in verbs(cli) if any("--device" in param.opts for param in command.params)
    }
    computes = {
        "train",
        "fit",
        "compare",
        "demo",
        "measure",
        "plan",
        "predict",
        "evaluate",
        "export",
        "extract",
        "cache fill",
    }
    others = {"check", "report", "models", "stages"}  # stages: of one image, on the processor
    others |= {"strategies", "cache", "cache prune", "cache verify", "cache clear"}
    assert takes == computes
    assert {name for name, _ in verbs(cli)} == computes | others, "a new verb: does it compute with a model?"


# --- the caller's module ------------------------------------------------------------------------------


@dataclass
class World:
    """What public functions are called with."""

    backbone: Backbone
    module: nn.Module
    data: Manifest
    study: Path
    place: Path

    @property
    def images(self) -> Images:
        return Images(self.data, self.data.subset("train"), PREPROCESSING)

    @property
    def modules(self) -> list[nn.Module]:
        return [self.backbone.model, self.module]


def own_classes(data: Manifest) -> Manifest:
    """The images, with labels that are classes of the tiny network."""
    rename = {name: str(place) for place, name in enumerate(data.classes)}
    samples = tuple(replace(sample, label=rename[sample.label]) for sample in data.samples)
    return replace(data, samples=samples, classes=tuple(rename.values()))


CALLS: dict[str, Callable[[World], object]] = {
    "compare": lambda w: frostline.compare(
        w.backbone, w.data, "linear_probe,head(epochs=1)", study=w.place, repeats=1, **FAST
    ),
    "drift": lambda w: frostline.drift(w.backbone, w.module, w.images),
    "evaluate": lambda w: frostline.evaluate(w.study, w.data, module=w.module),
    "extract_features": lambda w: frostline.extract_features(w.backbone, w.data, threads=1),
    "export": lambda w: frostline.export(w.study, "torch", output=w.place / "out", module=w.module),
    "fill_cache": lambda w: frostline.fill_cache(w.backbone, w.data, "head", **FAST),
    "fit": lambda w: frostline.fit(
        w.data.root / "table.csv" if w.data.root else "",
        model=w.backbone,
        strategies="linear_probe",
        study=w.place,
        repeats=1,
        deterministic=True,
        threads=1,
    ),
    "forgetting": lambda w: frostline.forgetting(w.backbone, w.module, own_classes(w.data)),
    "interpolate_weights": lambda w: frostline.interpolate_weights(w.module, w.backbone.model, 0.5),
    "load_backbone": lambda w: frostline.load_backbone(w.module, preprocessing=PREPROCESSING),
    "load_model": lambda w: frostline.load_model(w.study, module=w.module),
    "lr_find": lambda w: frostline.lr_find(w.backbone, w.data, "top_k(1)", batch_size=12),
    "measure": lambda w: frostline.measure(w.backbone, w.data, threads=1),
    "plan": lambda w: frostline.plan(w.backbone, w.data, threads=1),
    "predict": lambda w: frostline.predict(w.study, [picture(w)], module=w.module),
    "train": lambda w: frostline.train(
        w.backbone, w.data, "full(epochs=1, bn=recalibrate)", study=w.place, interpolate_weights=0.5, **FAST
    ),
}
NO_MODULE = {"demo", "load_data", "parse", "report"}  # takes none
ON_PURPOSE = {"freeze", "param_groups"}  # say what learns in the module that they are given


def picture(world: World) -> Any:
    return world.data.read(world.data.samples[0])


def test_no_public_function_is_forgotten() -> None:
    functions = {name for name in frostline.__all__ if inspect.isfunction(getattr(frostline, name))}
    assert functions == set(CALLS) | NO_MODULE | ON_PURPOSE


WITHOUT_DEVICE = {"interpolate_weights", "load_backbone", "load_model"}  # weights alone


@pytest.mark.parametrize("name", sorted(set(CALLS) - WITHOUT_DEVICE))
def test_every_public_function_that_computes_takes_a_device(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(frostline, name)
    monkeypatch.setattr(frostline, name, functools.partial(function, device="quantum"))
    with pytest.raises(UsageError, match="device is 'quantum'; expected auto, cpu, cuda"):
        CALLS[name](world)


def odd(module: nn.Module) -> nn.Module:
    """Give every part a state that nobody would put it back to by chance."""
    for place, part in enumerate(module.modules()):
        part.training = place % 3 != 1
    for place, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(place % 2 == 0)
        parameter.grad = torch.full_like(parameter, 7.0) if parameter.requires_grad else None
    return module


def state(module: nn.Module) -> list[Any]:
    """Where and how a module is: all that a call must leave."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    held = [
        (name, id(t), type(t), str(t.device), t.stride(), t.dtype, t.requires_grad, t.is_leaf)
        for name, t in tensors
    ]
    values = [t.detach().cpu().numpy().tobytes() for _, t in tensors]
    grads = [None if p.grad is None else (str(p.grad.device), p.grad.flatten()[0].item()) for _, p in tensors]
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]
    return [held, values, grads, hooks, [part.training for part in module.modules()]]


@pytest.fixture(scope="module")
def study(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studies") / "study"
    with pytest.MonkeyPatch.context() as patch, devices.computing("cpu"):
        patch.setenv("FROSTLINE_CACHE_DIR", str(place.parent / "cache"))
        frostline.train(tiny_backbone(), data, "linear_probe", study=place, **FAST)
    return place


@pytest.fixture
def world(data: Manifest, study: Path, tmp_path: Path) -> World:
    backbone = tiny_backbone()
    odd(backbone.model)
    return World(backbone, odd(tiny_model(1)), data, study, tmp_path / "place")


@pytest.mark.parametrize("where", ["processor", "card"])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_callers_module_is_where_and_how_it_was(name: str, where: str, world: World) -> None:
    """On a card that is pretended: the module moves there and, if nobody cares, stays."""
    before = [state(module) for module in world.modules]
    with pretended() if where == "card" else devices.computing("cpu"):
        CALLS[name](world)
    for module, was in zip(world.modules, before, strict=True):
        for now, then in zip(state(module), was, strict=True):
            assert now == then


class Enough(Exception):
    """A caller's progress raises it."""


@pytest.mark.parametrize("where", ["processor", "card"])
@pytest.mark.parametrize("name", ["measure", "train", "predict"])
def test_also_where_the_call_raises(name: str, where: str, world: World) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise Enough

    calls: dict[str, Callable[[], object]] = {
        "measure": lambda: frostline.measure(world.backbone, world.data, threads=1, progress=stop),
        "train": lambda: frostline.train(
            world.backbone, world.data, "full(epochs=1)", study=world.place, progress=stop, **FAST
        ),
        "predict": lambda: frostline.predict(
            world.study, [picture(world)], module=world.module, progress=stop
        ),
    }
    before = [state(module) for module in world.modules]
    with pretended() if where == "card" else devices.computing("cpu"):
        around = devices.current()
        with pytest.raises(Enough):
            calls[name]()
        assert devices.current() == around
    assert [state(module) for module in world.modules] == before


def test_whatever_is_done_to_a_module_is_undone(world: World) -> None:
    """What `.to` does on another device it does for another type, too."""
    module = world.module
    before = state(module)

    def change() -> None:
        module.double().to(memory_format=torch.channels_last)
        module.train().requires_grad_(True)
        for part in module.modules():
            for key, buffer in list(part._buffers.items()):
                if buffer is not None:
                    part._buffers[key] = buffer + 1
        assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float64}
        raise Enough

    with pytest.raises(Enough), devices.left_as_found(module):
        change()
    assert state(module) == before


def test_a_function_that_forgets_the_module_is_found() -> None:
    """The pretended card can fail: a move that nobody takes back, and a batch that stays behind."""
    module = odd(tiny_model())
    before = state(module)
    with pretended():
        module.to(CARD)
        with pytest.raises(RuntimeError, match="same device"):
            module(torch.zeros(2, 3, 16, 16))
        assert str(module(torch.zeros(2, 3, 16, 16).to(CARD)).device) == CARD
        with pytest.raises(RuntimeError):
            module(torch.zeros(2, 3, 16, 16).to(CARD)).detach().numpy()
    assert [row[3] for row in state(module)[0]] != [row[3] for row in before[0]]


# --- every kind that broke on a card ------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["linear_probe", "head(epochs=1)", "lp_ft(epochs=1)", "full(epochs=1, clip_grad=0.1)"]
)
def test_strategies_train_on_a_card_and_predict(strategy: str, data: Manifest, tmp_path: Path) -> None:
    """Clipped gradients, a solved head, kept rows, drift, class maps, doubts: all on the card and back."""
    with pretended():
        run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "s", **FAST)
        assert run.numeric_plan["device"] == CARD
        assert run.device_peak_bytes is None or run.device_peak_bytes >= 0
        answers = run.predict([data.read(sample) for sample in data.subset("test")], target_accuracy=0.8)
        again = run.predict([data.read(sample) for sample in data.subset("test")], device="cpu")
    assert [row.label for row in answers] == [row.label for row in again]
    there = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "p", device="cpu", **FAST)
    assert there.accuracy == pytest.approx(run.accuracy, abs=0.1)


def test_signals_of_a_card_are_those_of_the_processor(data: Manifest) -> None:
    """The random twin's pixels stayed behind."""
    with pretended():
        on_gpu = frostline.measure(tiny_backbone(), data, rates=False, threads=1).as_dict()
    on_cpu = frostline.measure(tiny_backbone(), data, rates=False, threads=1, device="cpu").as_dict()
    assert on_gpu["similarity"]["value"] == pytest.approx(on_cpu["similarity"]["value"], abs=1e-4)
    for there, here in zip(on_gpu["probe_by_stage"], on_cpu["probe_by_stage"], strict=True):
        assert there["accuracy"] == pytest.approx(here["accuracy"], abs=0.05)
        assert there["random"] == pytest.approx(here["random"], abs=0.1)


@pytest.mark.parametrize("place", [CARD, "cpu"])
def test_statistics_are_estimated_where_the_model_is(place: str, data: Manifest) -> None:
    backbone, found = tiny_backbone(), {}
    images = Images(data, data.subset("train"), PREPROCESSING)
    for name, around in (("card", pretended), ("processor", nullcontext)):
        with around():
            model = backbone.adapt(3)
            model = model.to(place if name == "card" else "cpu")
            plan = replace(numerics.exact_plan(1), device=CARD if name == "card" else "cpu")
            recalibrate(backbone, model, backbone.cut(2), images, plan)
            found[name] = {key: value.cpu() for key, value in model.state_dict().items()}
    for key, value in found["processor"].items():
        assert torch.allclose(found["card"][key].float(), value.float(), atol=1e-5), key


def test_latency_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(numerics, "now", lambda: waited.append("waits") or 0.001 * len(waited))
    latency_ms, _, _ = backbone_screening.measure_costs(tiny_backbone(), 3, threads=1)
    assert latency_ms == pytest.approx(1.0)
    assert len(waited) == 2 * (backbone_screening.WARM + backbone_screening.TIMED)


def test_the_clock_waits_for_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    with devices.computing("cpu"):
        numerics.now()
    assert waited == []
    numerics.now()
    assert waited == ["cuda"]


def test_rates_and_rows_name_the_device() -> None:
    with pretended():
        on_gpu, card_row = numerics.rates_key("x", 1), ForwardConfig(numerics.exact_plan(1), 8).describe()
        with devices.computing("cpu"):
            on_cpu, cpu_row = numerics.rates_key("x", 1), ForwardConfig(numerics.exact_plan(1), 8).describe()
    assert on_gpu != on_cpu
    assert on_cpu.startswith("x on cpu ")
    assert card_row["device"] != cpu_row["device"]


def test_a_seed_leaves_a_cards_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds every card that is in use, so these are put back as well."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.random_states() == [0, 1]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert devices.random_states() == []


# --- a run and its device -----------------------------------------------------------------------------


def test_a_study_remembers_the_device_in_the_numeric_plan_alone(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", device="cpu", **FAST)
    assert run.numeric_plan["device"] == "cpu"
    assert "device" not in (run.folder.path / "config.yaml").read_text()
    assert "device" not in json.loads((run.folder.path / "config.json").read_text())
    again = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", **FAST)
    assert again.reused


@pytest.mark.parametrize(
    ("begun_on", "device", "message"),
    [
        ("cuda:7", "auto", "began on cuda:7, and torch finds .* here. Go on where it began, or take another"),
        ("cpu", CARD, f"began on cpu, and device is {CARD}. Leave device out to go on there"),
    ],
)
def test_a_run_goes_on_where_it_began(
    begun_on: str, device: str, message: str, data: Manifest, tmp_path: Path
) -> None:
    with pretended() if device == CARD else nullcontext():
        with pytest.raises(UsageError, match=message):
            numeric_plan._demand_device(begun_on, device, "3f")
        numeric_plan._demand_device("cpu", "auto", "3f")
        numeric_plan._demand_device("cpu", "cpu", "3f")


# --- a card -------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_deterministic_runs_on_a_card_end_with_the_same_bytes(data: Manifest, tmp_path: Path) -> None:
    runs = [
        frostline.train(tiny_backbone(), data, "full(epochs=3)", study=tmp_path / name, device="cuda", **FAST)
        for name in ("a", "b")
    ]
    assert runs[0].weights_digest == runs[1].weights_digest


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_callers_module_stays_on_the_processor(name: str, world: World) -> None:
    before = [state(module) for module in world.modules]
    with devices.computing("cuda"):
        CALLS[name](world)
    assert [state(module) for module in world.modules] == before


@pytest.mark.gpu
def test_float16_learns_on_a_card(data: Manifest, tmp_path: Path) -> None:
    run = frostline.train(
        tiny_backbone(), data, "full(epochs=4)", study=tmp_path / "s", device="cuda", precision="float16"
    )
    assert run.numeric_plan["precision"] == "float16"
    assert run.numeric_plan["frozen"]["plan"]["precision"] == "float32"
    assert run.accuracy > 0.5
