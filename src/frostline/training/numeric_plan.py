"""What is decided before the first step: how numbers are computed, and how images are augmented.

Everything that a timing or the disk decides is written into the run's `plan.json` and obeyed on resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from frostline import profiling
from frostline.cost.cache_tradeoff import view_at
from frostline.distributed import process_group
from frostline.errors import NoTime, UsageError, option
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import MIRRORED, TURNED
from frostline.models import Cut
from frostline.strategies import BatchSize, hyperparameters
from frostline.studies.study_folder import RunFolder
from frostline.system import deadline, devices, numerics
from frostline.system.numerics import NumericPlan
from frostline.training import compile_choice
from frostline.training.compile_choice import Compiled
from frostline.training.techniques import flip_safety
from frostline.training.train_request import TrainRequest

TIMED_SHARE = 0.25  # of a limit on time may go into timings: a choice
TIMED_MOST = 1.5  # times that share, before timings are given up: neighbours make a step wander by half


@dataclass
class Plan:
    """How one run computes: `numbers` where layers learn, `way` where they are frozen.

    `views` views of each image, the plain one first, are cycled through while anything is frozen (0: a new
    augmented one each epoch). `cached` says which views of a cut are cached (0 is the evaluation
    transform), `why` with which arithmetic. `batch` is what a step learns from, and how the learning rate
    followed (None: a plan of before there was a choice). `compiled` is what `torch.compile` takes.
    """

    numbers: NumericPlan
    forward_config: ForwardConfig
    views: int = 0
    whole: bool = False  # views and kept are decided
    timed: bool = True  # False where a limit on time is too short to try ways of computing
    cached: dict[int, tuple[int, ...]] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)
    batch: BatchSize | None = None
    compiled: Compiled = field(default_factory=Compiled)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        frozen = {
            "plan": self.forward_config.plan.as_dict(),
            "batch": self.forward_config.batch,
            "views": self.views,
        }
        frozen["folded"] = [list(pair) for pair in self.forward_config.folded]
        frozen |= {"whole": self.whole, "timed": self.timed}
        cached = [{"cut": c, "views": list(v), "why": self.why[c]} for c, v in sorted(self.cached.items())]
        batch = {} if self.batch is None else {"batch": self.batch.as_dict()}
        compiled = {"compiled": self.compiled.as_dict()}
        return {**self.numbers.as_dict(), **batch, **compiled, "frozen": {**frozen, "cached": cached}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Read a plan back."""
        beside = ("frozen", "batch", "compiled")
        numbers = {key: value for key, value in values.items() if key not in beside}
        compiled = Compiled.from_dict(values["compiled"]) if "compiled" in values else Compiled()
        frozen, cached = values["frozen"], values["frozen"]["cached"]
        return cls(
            NumericPlan.from_dict(numbers),
            ForwardConfig(
                NumericPlan.from_dict(frozen["plan"]),
                frozen["batch"],
                tuple((conv, norm) for conv, norm in frozen["folded"]),
                compiled.frozen,
            ),
            frozen["views"],
            frozen["whole"],
            frozen["timed"],
            {row["cut"]: tuple(row["views"]) for row in cached},
            {row["cut"]: row["why"] for row in cached},
            BatchSize(**values["batch"]) if "batch" in values else None,
            compiled,
        )

    def on(self, device: str) -> Plan:
        """Return the same plan for a device."""
        forward_config = replace(self.forward_config, plan=replace(self.forward_config.plan, device=device))
        return replace(self, numbers=replace(self.numbers, device=device), forward_config=forward_config)

    def view(self, drawn: int, repeat: int = 0) -> int:
        """Return the view that the `drawn`-th epoch (from 1) shows where a part is frozen."""
        return view_at(drawn, self.views, repeat)

    def keeps(self, cut: Cut, view: int) -> bool:
        """Whether rows of that view at that cut are kept and read."""
        return view in self.cached.get(cut.index, ())


def begin(request: TrainRequest, folder: RunFolder) -> Plan:
    """Return the plan that was made when the run began, else begin one and write it.

    The first process of a job does that for all.
    """
    if process_group.size() > 1:
        return Plan.from_dict(process_group.decided(lambda: _begun(request, folder).as_dict()))
    return _begun(request, folder)


def _begun(request: TrainRequest, folder: RunFolder) -> Plan:
    if (folder.path / "plan.json").exists():
        plan = Plan.from_dict(folder.read("plan.json"))
        _demand_device(plan.numbers.device, request.config.device, folder.name)
        return plan
    plan = replace(new_plan(request), batch=request.batch)
    folder.write("plan.json", plan.as_dict())
    return plan


def _demand_device(begun_on: str, device: str, run: str) -> None:
    """Raise `UsageError` where a run would go on elsewhere than it began: its bits would be of two kinds."""
    try:
        device_begun_on = devices.resolve(begun_on)
    except UsageError:
        raise UsageError(
            f"Run {run} began on {begun_on}, and torch finds {', '.join(devices.available())} here. Go on "
            "where it began, or take another study."
        ) from None
    if device != devices.AUTO and not devices.same(device_begun_on, devices.resolve(device)):
        raise UsageError(
            f"Run {run} began on {begun_on}, and {option('device')} is {device}. Leave "
            f"{option('device')} out to go on there, or "
            "take another study."
        )


def new_plan(request: TrainRequest) -> Plan:
    """Return a new plan, without views and rows."""
    plan = _numbers(request)
    compiled = compile_choice.decide(request, plan.numbers, plan.forward_config, timed=plan.timed)
    return replace(
        plan, compiled=compiled, forward_config=replace(plan.forward_config, compiled=compiled.frozen)
    )


def _numbers(request: TrainRequest) -> Plan:
    """Return a plan that says how numbers are computed, and not yet what is compiled."""
    if not _affordable(request):
        return _untimed(request)
    if request.config.minutes is None or request.config.deterministic:
        return _plan(request)
    try:  # others may come to use the machine meanwhile
        with deadline.at_most(TIMED_MOST * TIMED_SHARE * 60.0 * request.config.minutes):
            return _plan(request)
    except NoTime:
        return _untimed(request)


def _affordable(request: TrainRequest) -> bool:
    """Whether timings fit into a limit on time: they are remembered, or take a small share of it."""
    if request.config.minutes is None or request.config.deterministic:
        return True
    try:
        with numerics.nothing_timed():
            _plan(request)
    except numerics.NotTimed:
        return (
            profiling.timing_s(request.backbone, request.config.threads)
            <= TIMED_SHARE * 60.0 * request.config.minutes
        )
    return True


def _untimed(request: TrainRequest) -> Plan:
    """Decide without timings, as `deterministic` does."""
    count = numerics.thread_count(request.config.threads)
    numbers = numerics.plain_plan(count, "the time is too short to try other ways")
    return Plan(numbers, ForwardConfig(numbers, profiling.frozen_batch()), timed=False)


def _plan(request: TrainRequest) -> Plan:
    backbone, threads = request.backbone, request.config.threads
    forward_config = profiling.forward_config(
        backbone,
        deterministic=request.config.deterministic,
        precision=request.config.precision,
        threads=threads,
    )
    if request.config.deterministic:
        numbers = numerics.exact_plan(threads)
    elif request.config.precision != "auto":
        numbers = numerics.pinned_plan(request.config.precision, threads)
    elif phases := request.phases():
        batch = math.ceil(request.batch.images / process_group.size())
        cut, bn = backbone.cut(min(phase.cut for phase in phases)), hyperparameters(request.strategy).bn
        numbers = profiling.training_plan(backbone, cut, bn=bn, batch=batch, threads=threads)
    else:
        numbers = forward_config.plan
    return Plan(numbers, forward_config)


def augmentation(request: TrainRequest, head: Frozen) -> tuple[Policy, dict[str, Any]]:
    """Decide the augmentation: as asked, with `auto` flips and rotation asked of the training images.

    Also returns what the images answered, as a run's result holds it.
    """
    if not request.strategy.trains:
        return Policy("none"), {"flip_test": None}

    def ask(view: int) -> flip_safety.FlipTest:
        train = request.data.subset("train")
        config = request.config
        progress = deadline.telling(request.progress, "loading and comparing images with their mirror images")
        return flip_safety.try_flips(
            head,
            request.data,
            train,
            config.seed,
            progress,
            view,
            fast=config.fast_pixels,
            workers=config.workers,
        )

    flip, rotate, tests = request.config.flip, request.config.rotate, dict[str, Any](flip_test=None)
    if flip == "auto" and request.augment in ("none", "custom"):
        flip = "none"
    elif flip == "auto":
        test = ask(MIRRORED)
        flip, tests["flip_test"] = "horizontal" if test.safe else "none", test.as_dict()
    if rotate == "auto":
        test = ask(TURNED)
        rotate, tests["rotate_test"] = "90" if test.safe else "none", test.as_dict()
    return Policy(request.augment, flip, request.config.min_crop, rotate), tests
