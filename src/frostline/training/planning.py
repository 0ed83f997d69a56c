"""What is decided before the first step: how numbers are computed, and how images are augmented.

Everything that a timing or the disk decides is written into the run's `plan.json` and obeyed on resume.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from frostline import backbone as bb
from frostline import numerics
from frostline.augment import Policy
from frostline.backbone import Backbone, Cut
from frostline.frozen import Frozen, Way
from frostline.numerics import NumericPlan
from frostline.record import RunFolder
from frostline.strategy import settings
from frostline.training import flips
from frostline.training.request import Request

FROZEN_BATCHES = (32, 64)  # images a forward pass of the frozen part; the fastest per image is taken
TRIAL = 16  # images with which precisions are timed: what a person waits for once on a machine
FROZEN_BATCH = 64  # where nothing may be timed
VIEWS_APART = 1_000_000  # more than any run has epochs: the view numbers of repeats stay apart


@dataclass
class Plan:
    """How one run computes: `numbers` where layers learn, `way` where they are frozen.

    `views` views of each image, the plain one first, are cycled through while anything is frozen (0: a new
    augmented one each epoch). `kept` says which views of a cut are kept in the store (0 is the evaluation
    transform), `why` with which arithmetic.
    """

    numbers: NumericPlan
    way: Way
    views: int = 0
    whole: bool = False  # views and kept are decided
    kept: dict[int, tuple[int, ...]] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        frozen = {"plan": self.way.plan.as_dict(), "batch": self.way.batch, "views": self.views}
        frozen["folded"] = [list(pair) for pair in self.way.folded]
        frozen["whole"] = self.whole
        kept = [{"cut": c, "views_kept": list(v), "why": self.why[c]} for c, v in sorted(self.kept.items())]
        return {**self.numbers.as_dict(), "frozen": {**frozen, "rows": kept}}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Plan:
        """Read a plan back."""
        numbers = {key: value for key, value in found.items() if key != "frozen"}
        frozen, rows = found["frozen"], found["frozen"]["rows"]
        return cls(
            NumericPlan.from_dict(numbers),
            Way(
                NumericPlan.from_dict(frozen["plan"]),
                frozen["batch"],
                tuple((conv, norm) for conv, norm in frozen["folded"]),
            ),
            frozen["views"],
            frozen["whole"],
            {row["cut"]: tuple(row["views_kept"]) for row in rows},
            {row["cut"]: row["why"] for row in rows},
        )

    def view(self, drawn: int, repeat: int = 0) -> int:
        """Return the view that the `drawn`-th epoch (from 1) shows where a part is frozen."""
        return (drawn - 1 + repeat) % self.views if self.views else drawn + VIEWS_APART * repeat

    def keeps(self, cut: Cut, view: int) -> bool:
        """Whether rows of that view at that cut are kept and read."""
        return view in self.kept.get(cut.index, ())


def begin(request: Request, folder: RunFolder) -> Plan:
    """Return the plan that was made when the run began, else begin one and write it."""
    if (folder.path / "plan.json").exists():
        return Plan.from_dict(folder.read("plan.json"))
    way = frozen_way(request)
    if request.exact:
        numbers = numerics.exact_plan(request.threads)
    elif request.precision != "auto":
        numbers = numerics.pinned_plan(request.precision, request.threads)
    else:
        cuts = [segment.cut for segment in request.segments()]
        numbers = _timed_training(request, min(cuts)) if cuts else way.plan
    plan = Plan(numbers, way)
    folder.write("plan.json", plan.as_dict())
    return plan


def frozen_way(request: Request) -> Way:
    """Decide how frozen layers are computed: the same for every strategy, so that they share their rows."""
    if request.exact:
        return Way(numerics.exact_plan(request.threads), FROZEN_BATCH)
    if request.precision != "auto":
        return Way(numerics.pinned_plan(request.precision, request.threads), FROZEN_BATCH)
    backbone = request.backbone
    what = f"forward {backbone.name} {backbone.digest[:12]} size {backbone.preprocessing.size}"
    last = backbone.cuts[-1]
    tried = functools.cache(lambda plan: forward(backbone, Way(plan, TRIAL), last))
    plan = numerics.timed_plan(f"{what} images {TRIAL}", lambda plan: tried(plan)(), request.threads)
    pairs = tuple(bb.foldable(backbone))
    ways = {f"{size}": Way(plan, size) for size in FROZEN_BATCHES}
    if pairs:
        ways |= {f"{size} folded": Way(plan, size, pairs) for size in FROZEN_BATCHES}
    what = f"{what} {plan.precision} {plan.channels_last}"
    runs = {name: forward(backbone, way, last) for name, way in ways.items()}
    taken = numerics.seconds_of(what, runs, plan.threads)
    return min(ways.items(), key=lambda item: taken[item[0]] / item[1].batch)[1]


def forward(backbone: Backbone, way: Way, cut: Cut) -> Callable[[], None]:
    """Return one forward pass of the pretrained frozen part on black images; the first call prepares it."""
    frozen = Frozen(backbone, backbone.model, cut, way)
    size = backbone.preprocessing.size

    def run() -> None:
        frozen.compute(torch.zeros((way.batch, 3, size, size), dtype=torch.uint8))

    return run


def _timed_training(request: Request, cut: int) -> NumericPlan:
    """Time one training step on random pixels above `cut`."""
    backbone = request.backbone
    size, images = backbone.preprocessing.size, min(request.batch, TRIAL)
    pixels = torch.zeros((images, 3, size, size), dtype=torch.uint8)
    at, policy = backbone.cut(cut), settings(request.strategy).bn

    @functools.cache
    def prepared() -> nn.Module:
        model = copy.deepcopy(backbone.model)
        bb.freeze(backbone, model, at, policy)
        bb.set_training(backbone, model, at, policy)
        return model

    def step(plan: NumericPlan) -> None:
        model = plan.place(prepared())
        x = plan.batch(pixels, backbone.preprocessing.normalise)
        with plan.autocast(), torch.no_grad():
            z = bb.prefix(backbone, model, at)(x)
        with bb.suffix(backbone, model, at) as learning:
            with plan.autocast():
                out = learning(z)
            out.float().square().mean().backward()  # type: ignore[no-untyped-call]
            model.zero_grad()

    what = f"{backbone.name} {backbone.digest[:12]} size {size} images {images} cut {cut}"
    return numerics.timed_plan(what, step, request.threads)


def augmentation(request: Request, head: Frozen) -> tuple[Policy, dict[str, Any] | None]:
    """Decide the augmentation: as asked, with `auto` flips asked of the training images."""
    if not request.strategy.trains:
        return Policy("none"), None
    if request.flip != "auto":
        return Policy(request.augment, request.flip), None
    if request.augment in ("none", "custom"):
        return Policy(request.augment), None
    test = flips.try_flips(head, request.data, request.data.part("train"), request.seed, request.tell)
    return Policy(request.augment, "horizontal" if test.safe else "none"), test.as_dict()
