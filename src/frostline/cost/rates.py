"""The measured rates of one network on one machine, as data.

Seconds and bytes are per image unless a name says otherwise. A *stage* here reaches from one offered cut to
the next, so it may hold several of the backbone's stages where it offers few cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from frostline.cost.decoding_overlap import IN_BETWEEN, Pipeline

PIXEL_CHANNELS = 3
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Line:
    """A linear cost: `fixed` seconds, and `each` more for every byte (or number)."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Return the seconds for that many."""
        return self.fixed + self.each * count


@dataclass(frozen=True)
class Learning:
    """The training cost of one stage in one numeric plan: seconds and bytes per image."""

    forward_s: float
    backward_s: float
    fixed_s: float  # forward and backward of a step, whatever its images
    kept_bytes: float  # held from forward to backward

    def times(self, ratio: float) -> Learning:
        """Return what takes `ratio` times as long."""
        return replace(
            self,
            forward_s=ratio * self.forward_s,
            backward_s=ratio * self.backward_s,
            fixed_s=ratio * self.fixed_s,
        )


@dataclass(frozen=True)
class StageRates:
    """The costs of one stage, frozen and training, per image."""

    name: str
    cut: int  # the offered cut that it begins at
    parameters: int
    row_bytes: int  # of a row at that cut, as the frozen part returns it; at cut 0 the pixels
    frozen_s: float  # forward as inference, in the way frozen layers are computed
    evaluation_s: float  # forward in plain float32, as final figures are computed
    plan: str  # in which training from this cut learns, by name
    learning: Mapping[str, Learning]  # by plan


@dataclass(frozen=True)
class Peaks:
    """Memory in bytes: of the process, and on top of it of each kind of pass."""

    base: int  # above the imports: backbone, kernels, what earlier work left
    frozen: int  # frozen batches through all layers
    evaluation: int  # float32 evaluation batches through all layers
    step: int  # steps in which all learns, beside what is kept for the backward pass
    # On a GPU, of tensors that are alive at once, an image: in a frozen pass, and in one of evaluation.
    live_frozen: int = 0
    live_evaluation: int = 0


@dataclass(frozen=True)
class Rates:
    """The costs of one network on one machine at one image size."""

    name: str
    size: int  # pixels a side
    threads: int
    batch: int  # images a training step, of the steps that were measured
    stages: tuple[StageRates, ...]
    depth: int  # the backbone's own number of stages, the head among them
    feature_width: int
    frozen_batch: int  # images a frozen pass; fewer are filled up
    value_bytes: int  # of a number in a kept row
    copies: bool  # frozen layers are computed on a copy of the model (folded, or laid out otherwise)
    evaluation_batch: int
    file_s: float  # an image from its file
    crop_s: float  # the evaluation view of a decoded picture
    normalise_s: float  # pixels as the network takes them
    augment_s: float  # an augmented view of a decoded picture
    picture_bytes: int  # a decoded picture
    sheet_s: float  # the picture of augmented images that a run writes
    read: Line  # a row read from the cache, by its bytes
    keep: Line  # a row written to the cache, by its bytes
    write: Line  # a file onto the disk, by its bytes
    find: Line  # finding a cut's rows in the cache, by the numbers below it (they are hashed)
    look_s: float  # the disk timed again, as a run does for each cut
    touch_s: float  # a byte of memory that was not used before
    step_s: float  # of each training step whatever learns
    update_s: float  # optimizer and clipping, per parameter that learns and step
    copy_s: float  # the model copied
    frozen_copy_s: float  # the frozen part's copy made ready
    solve: Line  # a head solved for with one L2, by images × numbers an image × classes
    solve_grid: Line  # with every L2 of the grid, one after another
    temperature_s: float  # a temperature fitted to logits, and its log loss
    summary_s: float  # a run's figures of test
    peaks: Peaks
    statistics: tuple[int, ...] = ()  # numbers an image of each stage's statistics, the last stage first
    notes: tuple[str, ...] = ()  # what is doubtful about them
    device: str = ""  # what they were measured on: its kind ("cpu", "cuda", "mps"), then names
    others: float = 0.0  # cores' worth of work that others did when they were measured, or checked last
    pipeline: Pipeline = IN_BETWEEN  # how pictures are decoded beside computing
    # What whole runs took beside what these rates say, by which predictions are multiplied: those that train,
    # and those whose head is solved for alone.
    factor: float = 1.0
    solved_factor: float = 1.0

    def correction(self, *, trains: bool) -> float:
        """Return what predictions are multiplied by, of runs that train or whose head is solved for alone."""
        return self.factor if trains else self.solved_factor

    @property
    def on_gpu(self) -> bool:
        """Whether they were measured on a GPU, which has memory of its own."""
        return self.device.partition(" ")[0] not in ("", "cpu")

    @property
    def parameters(self) -> int:
        """Of the whole network with its new head."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def model_bytes(self) -> int:
        """The weights in float32."""
        return FLOAT_BYTES * self.parameters

    @property
    def pixel_bytes(self) -> int:
        """An image as the network takes it, before normalising."""
        return PIXEL_CHANNELS * self.size**2

    @property
    def pass_s(self) -> float:
        """An image from its file through all layers in plain float32, as final figures are computed."""
        return self.file_s + self.crop_s + self.normalise_s + sum(s.evaluation_s for s in self.stages)

    def columns(self, layers: int | str) -> int:
        """Return the numbers an image that a solved head is given: `Hyperparameters.layers` says of where."""
        if layers == "last":
            return self.feature_width
        return self.feature_width + sum(self.statistics[: layers if isinstance(layers, int) else None])

    @property
    def last(self) -> StageRates:
        """The head."""
        return self.stages[-1]

    def offered(self, cut: int) -> int:
        """Return the offered cut at that index, else the nearest earlier one, as `Backbone.cut` does."""
        return max(stage.cut for stage in self.stages if stage.cut <= cut)

    def at(self, cut: int) -> StageRates:
        """Return the stage that begins at an offered cut."""
        return next(stage for stage in self.stages if stage.cut == cut)

    def above(self, cut: int, rate: Callable[[StageRates], float]) -> float:
        """Sum a rate over the stages that learn from `cut`."""
        return sum(rate(stage) for stage in self.stages if stage.cut >= cut)

    def below(self, cut: int, rate: Callable[[StageRates], float]) -> float:
        """Sum a rate over the stages that are frozen at `cut`."""
        return sum(rate(stage) for stage in self.stages if stage.cut < cut)

    def times(self, ratio: float) -> Rates:
        """Return the rates of a network that takes `ratio` times as long in everything it computes."""
        stages = tuple(
            replace(
                stage,
                frozen_s=ratio * stage.frozen_s,
                evaluation_s=ratio * stage.evaluation_s,
                learning={name: learning.times(ratio) for name, learning in stage.learning.items()},
            )
            for stage in self.stages
        )
        around = ("normalise_s", "touch_s", "step_s", "update_s", "copy_s", "frozen_copy_s")
        changed: dict[str, Any] = {name: ratio * getattr(self, name) for name in around}
        return replace(self, stages=stages, **changed)

    def as_dict(self) -> dict[str, Any]:
        """The rates as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rates:
        """Read rates back."""
        stages = tuple(
            StageRates(
                **{
                    **stage,
                    "learning": {name: Learning(**rates) for name, rates in stage["learning"].items()},
                }
            )
            for stage in data["stages"]
        )
        lines = {key: Line(**data[key]) for key in ("read", "keep", "write", "find", "solve", "solve_grid")}
        rest = {
            "stages": stages,
            "peaks": Peaks(**data["peaks"]),
            "statistics": tuple(data.get("statistics", ())),
            "notes": tuple(data.get("notes", ())),
            "pipeline": Pipeline(**data.get("pipeline", {})),
        }
        return cls(**{**data, **lines, **rest})
