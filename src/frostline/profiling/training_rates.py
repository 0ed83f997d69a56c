"""Training costs of each stage: forward, backward and bytes kept between, in every numeric plan.

The network is run stage by stage under autograd, each stage from the detached output of the one before, at
two batch sizes: the slope is what an image costs, the rest what a step costs whatever its size. Whole steps
are then timed too, and every stage is scaled so that together they take what a whole step takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline import models as bb
from frostline.models import Backbone, Cut
from frostline.profiling import numeric_search
from frostline.system import deadline, devices, numerics
from frostline.system.numerics import NumericPlan
from frostline.system.timing import PeakMemory, resident_bytes

FEW, SOME, MANY = (
    2,
    8,
    numeric_search.TRIAL,
)  # images; training steps have more, and whole steps correct for it
LONG_S = 0.1  # some images that take so long tell as much as many: noise is a millisecond or two
REPEATS = 2  # the shortest counts: of a whole step each stage takes its share
# Of a stage's time is the images', and of a step's the stages', whatever differences of timings say.
LEAST = 0.05
WEIGHED = (2, 4)  # images in the two passes that count kept bytes
# A plan so much slower than the fastest with few images is not timed with many. A choice: plain float32 takes
# 1.5 to 1.7 times as long as channels-last on lite0 from 96 to 224 px, and a fifth of all the timings.
HOPELESS = 1.4

Row = tuple[float, float, float, float]  # as in `cost.Learning`
Rates = dict[str, list[Row]]  # plan → stages
Pass = tuple[float, float]  # seconds forward and backward


@dataclass(frozen=True)
class Measured:
    """A piece of work: its seconds once its memory is there, and how much of it that is at its highest."""

    first_s: float  # when it is not
    first_bytes: int  # what that touched
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Steps:
    """Training costs by stage, by step and by parameter, and the peak memory of a step."""

    rates: Rates
    parameters: list[int]  # by stage
    step_s: float
    update_s: float
    full_step: Measured  # a step in which all learns
    peak_bytes: int  # of it, beside what is kept for the backward pass

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Steps:
        """Return the costs that `dataclasses.asdict` described."""
        return cls(**{**data, "full_step": Measured(**data["full_step"])})


def steps(backbone: Backbone, batch: int, classes: int, threads: int) -> Steps:
    """Measure training steps of `batch` images, with all stages learning and with the head alone."""
    model = backbone.adapt(classes)
    parameters = _parameters(backbone, model)
    plans = numerics.candidates(threads)
    rates = _chains(backbone, model, plans, batch)
    step_seconds = {name: _step_s(rows, batch) for name, rows in rates.items()}
    name, last = numerics.fastest(step_seconds), backbone.cuts[-1]
    plan = plans[name]
    # A long step is timed with fewer images; what it needs beside what is kept grows with them, nearly.
    images = min(batch, MANY) if step_seconds[name] > numerics.ENOUGH_S else batch

    def whole(count: int) -> tuple[int, _Step, Measured]:
        made = _Step(backbone, model, backbone.cuts[0], plan, count)
        return count, made, measure_warm(made.run)

    images, step, full = numeric_search.with_fewer(whole, images)
    update_s = numerics.seconds(step.update) / sum(parameters)
    beside = (full.peak_bytes - images * sum(kept_bytes for *_, kept_bytes in rates[name])) * batch / images
    head_s = numerics.seconds(_Step(backbone, model, last, plan, images).run)
    step_s = max(0.0, head_s - _step_s(rates[name][-1:], images) - update_s * parameters[-1])
    # Timed apart, what lies beside the stages may come out longer than a whole step on a busy machine.
    learning_s = max(LEAST * full.seconds, full.seconds - step_s - update_s * sum(parameters))
    scale = learning_s / _step_s(rates[name], images)
    scaled = {
        plan: [
            (forward * scale, backward * scale, fixed * scale, kept_bytes)
            for forward, backward, fixed, kept_bytes in rows
        ]
        for plan, rows in rates.items()
    }
    return Steps(scaled, parameters, step_s, update_s, full, max(0, round(beside)))


def _step_s(rows: list[Row], images: int) -> float:
    """Return the seconds that a step of so many images takes in these stages."""
    return sum(fixed + images * (forward + backward) for forward, backward, fixed, _ in rows)


def chosen_plans(backbone: Backbone, rates: Rates, step_s: float, batch: int, threads: int) -> list[str]:
    """Return the plan that training from each cut takes, and let `train` find it without a timing."""
    names = []
    for place, cut in enumerate(backbone.cuts):
        step_seconds = {
            name: step_s + _step_s(rows[place:], numeric_search.trial_images(batch))
            for name, rows in rates.items()
        }
        remembered = numerics.note_seconds(
            numeric_search.trial_name(backbone, cut, numeric_search.trial_images(batch)),
            step_seconds,
            threads,
            lasting=True,
        )
        names.append(numerics.fastest(remembered))
    return names


def measure_warm(run: Callable[[], object]) -> Measured:
    """Measure calls of `run`: the memory it needs, and what it takes once that is there."""
    measured = peak(run)
    return replace(measured, seconds=numerics.seconds(run, warm=True))


def peak(run: Callable[[], object]) -> Measured:
    """Measure a call of `run` after one that prepares it, in memory that was given back before.

    The second call needs more than the first, which finds all of it in one piece; a third adds little.
    """
    deadline.unit()
    run()
    deadline.unit()
    with PeakMemory(0) as memory:
        before, start = resident_bytes(), numerics.now()
        run()
        seconds = numerics.now() - start
        return Measured(seconds, max(0, resident_bytes() - before), seconds, max(0, memory.bytes - before))


def _parameters(backbone: Backbone, model: nn.Module) -> list[int]:
    """Return the parameters of each stage between offered cuts."""
    stage_of = backbone.stage_of(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return [
        sum(size for name, size in sizes.items() if cut.index <= stage_of[name] < late)
        for cut, late in zip(backbone.cuts, _ends(backbone), strict=True)
    ]


def _ends(backbone: Backbone) -> list[int]:
    """Return the cut at which each stage ends."""
    return [*(cut.index for cut in backbone.cuts[1:]), len(backbone.stages)]


class _Step:
    """A whole training step at one cut, with the optimizer that training uses, at a rate of 0."""

    def __init__(self, backbone: Backbone, model: nn.Module, cut: Cut, plan: NumericPlan, batch: int) -> None:
        self._backbone, self._cut, self._plan = backbone, cut, plan
        self._model = plan.place(model)
        bb.freeze(backbone, model, cut)
        bb.set_training(backbone, model, cut)
        self._learning = [p for p in model.parameters() if p.requires_grad]
        fused = torch.device(plan.device).type in ("cpu", "cuda")  # as in training/optimizer.py
        self._optimizer = torch.optim.AdamW(self._learning, lr=0.0, fused=fused)
        x = plan.batch(_pixels(backbone, batch), backbone.preprocessing.normalise)
        with plan.autocast(), torch.no_grad():
            self._z = bb.prefix(backbone, model, cut)(x)

    def run(self) -> None:
        """Forward, backward, update."""
        with bb.suffix(self._backbone, self._model, self._cut) as learning:
            with self._plan.autocast():
                out = learning(self._z)
            loss = out.float().square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.update()

    def update(self) -> None:
        """Clip and update, once there are gradients."""
        torch.nn.utils.clip_grad_norm_(self._learning, 1.0)
        self._optimizer.step()


def _pixels(backbone: Backbone, images: int) -> Tensor:
    size = backbone.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)


def _chains(backbone: Backbone, model: nn.Module, plans: dict[str, NumericPlan], batch: int) -> Rates:
    """Return what each stage costs in each plan, unscaled; a hopeless plan's many images are reckoned.

    A GPU is given whole batches, as in `numeric_search.trial_images`.
    """
    few = {name: _timed(backbone, model, plan, FEW) for name, plan in plans.items()}
    pass_seconds = {name: sum(map(sum, stages)) for name, stages in few.items()}
    best = min(pass_seconds, key=lambda name: pass_seconds[name])
    images = SOME if pass_seconds[best] / FEW * SOME >= LONG_S else MANY
    if devices.current().type == "cuda":
        images = max(MANY, numeric_search.trial_images(batch))  # a line needs more than `FEW`

    def timed(count: int) -> tuple[int, dict[str, list[Pass]]]:
        passes = {best: _timed(backbone, model, plans[best], count)}
        for name, plan in plans.items():
            if pass_seconds[name] > HOPELESS * pass_seconds[best]:
                passes[name] = _as_many(few[name], few[best], passes[best])
            elif name != best:
                passes[name] = _timed(backbone, model, plan, count)
        return count, passes

    images, many = numeric_search.with_fewer(timed, images)
    return {name: _rows(backbone, model, plan, few[name], many[name], images) for name, plan in plans.items()}


def _as_many(few: list[Pass], few_best: list[Pass], many_best: list[Pass]) -> list[Pass]:
    """Let each stage grow with the images as it does in the best plan."""
    return [
        (own[0] * many[0] / best[0], own[1] * many[1] / best[1])
        for own, best, many in zip(few, few_best, many_best, strict=True)
    ]


def _rows(
    backbone: Backbone, model: nn.Module, plan: NumericPlan, few: list[Pass], many: list[Pass], images: int
) -> list[Row]:
    """Return the lines through few and that many images, stage by stage, and the bytes kept."""
    light, heavy = (
        _kept_bytes(backbone, _ready(backbone, model, plan), plan, weighed) for weighed in WEIGHED
    )
    rows = []
    for low, high, a, b in zip(few, many, light, heavy, strict=True):
        forward, backward = (_slope(*pair, images - FEW) for pair in zip(low, high, strict=True))
        fixed = max(0.0, sum(high) - images * (forward + backward))
        rows.append((forward, backward, fixed, (b - a) / (WEIGHED[1] - WEIGHED[0])))
    return rows


def _ready(backbone: Backbone, model: nn.Module, plan: NumericPlan) -> nn.Module:
    """Return the model where the plan wants it, all of it learning."""
    model = plan.place(model)
    bb.freeze(backbone, model, backbone.cuts[0])
    bb.set_training(backbone, model, backbone.cuts[0])
    return model


def _slope(few_s: float, many_s: float, more: int) -> float:
    """Return the seconds that an image adds, of `more`; none is free, though a timing may say so."""
    return max(many_s - few_s, LEAST * many_s) / more


def _timed(backbone: Backbone, model: nn.Module, plan: NumericPlan, images: int) -> list[Pass]:
    """Return the shortest seconds of each stage's forward and backward, after one pass that warms up."""
    model, passes = _ready(backbone, model, plan), []
    for _ in range(1 + REPEATS):
        row = []
        for run, z in _stages(backbone, model, plan, images):
            deadline.unit()
            begun = numerics.now()
            out = run(z)
            forward = numerics.now()
            out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
            row.append((forward - begun, numerics.now() - forward))
        passes.append(row)
    model.zero_grad(set_to_none=True)
    return [(min(f for f, _ in stage), min(b for _, b in stage)) for stage in zip(*passes[1:], strict=True)]


def _kept_bytes(backbone: Backbone, model: nn.Module, plan: NumericPlan, images: int) -> list[int]:
    """Return the bytes of the storages that each stage keeps for its backward pass, each counted once."""
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    storages: dict[int, Tensor] = {}  # by storage; kept alive, so that no address is used twice
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in storages and place not in weights:
            storages[place] = tensor
            sizes[-1] += tensor.untyped_storage().nbytes()
        return tensor

    alive = []
    for run, z in _stages(backbone, model, plan, images):
        deadline.unit()
        sizes.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive.append(run(z))
    return sizes


def _stages(
    backbone: Backbone, model: nn.Module, plan: NumericPlan, images: int
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Yield each stage as a function and its input; the caller runs it once before it asks for the next."""
    outputs: list[Tensor] = []

    def noted(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def forward(z: Tensor) -> Tensor:
            with plan.autocast():
                outputs.append(run(z))
            return outputs[-1]

        return forward

    z = plan.batch(_pixels(backbone, images), backbone.preprocessing.normalise)
    for early, late in zip(backbone.cuts, [*backbone.cuts[1:], None], strict=True):
        with _stage(backbone, model, early, late) as run:
            yield noted(run), z
        z = outputs.pop().detach().requires_grad_(True)


def _stage(
    backbone: Backbone, model: nn.Module, early: Cut, late: Cut | None
) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
    if late is None:
        return bb.suffix(backbone, model, early)
    return bb.between(backbone, model, early, late)
