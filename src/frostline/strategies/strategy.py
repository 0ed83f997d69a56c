"""What a strategy is, the named ones, and what each setting is where nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

BN_POLICIES = ("eval", "affine", "train", "recalibrate")
LAYERS = ("last", "all", "auto")  # words for the stages that a solved head reads; or a number of them
SCHEDULES = ("cosine", "linear", "step", "one_cycle", "constant")  # of the rate, within a phase
# Stages that a solved head reads, with mean and spread: on six sets 5 points above the last alone
# (docs/LOG.md 2026-11-28).
SEVERAL = 4
ALL = -1  # `Phase.unfrozen`: every stage learns, down to the stem


@dataclass(frozen=True)
class Phase:
    """Training with one cut. `unfrozen` counts the stages below the head that learn; `ALL` means all."""

    unfrozen: int
    epochs: float | None = None  # None: its equal share of what the number of images asks for
    lr: float | None = None  # None: the strategy's

    def __str__(self) -> str:
        text = "all" if self.unfrozen == ALL else str(self.unfrozen)
        text += "" if self.epochs is None else f"@{_number(self.epochs)}"
        return text + ("" if self.lr is None else f"*{_number(self.lr)}")


@dataclass(frozen=True)
class Strategy:
    """A named plan for adapting a backbone.

    `lr` is the head's peak learning rate; a stage d below the head learns at
    `lr * layer_decay ** d`. `None` means the named strategy's own default (`hyperparameters` fills it in).
    """

    name: str
    k: int | None = None
    solver: str | None = None
    phases: tuple[Phase, ...] = ()
    head: str = "linear"
    head_init: str | None = None
    head_init_l2: float | None = None
    lr: float | None = None
    layer_decay: float | None = None
    epochs: float | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    clip_grad: float | None = None
    feature_augment: float | None = None
    bn: str | None = None
    l2_sp: float | None = None
    layers: int | str | None = None
    optimizer: str | None = None
    schedule: str | None = None
    mixup: float | None = None
    cutmix: float | None = None
    ema: float | None = None

    def __str__(self) -> str:
        parts = [str(value) for value in (self.k, self.solver) if value is not None]
        parts += [str(phase) for phase in self.phases]
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name not in _POSITIONAL and value != entry.default:
                parts.append(f"{entry.name}={_number(value)}")
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    @property
    def pretrained(self) -> bool:
        """False for `scratch`: the pretrained weights are thrown away."""
        return self.name != "scratch"

    @property
    def trains(self) -> bool:
        """False for `linear_probe`: the head is solved for, no gradient passes the network."""
        return self.name != "linear_probe"


_POSITIONAL = ("name", "k", "solver", "phases")


@dataclass(frozen=True)
class Hyperparameters:
    """Every number a run needs, none of them missing. Defaults carry their source."""

    # AdamW at the head: fastai ships 2e-3, AutoGluon 1e-4 to 4e-4; twice the rate and decay 0.7 were worse
    # on one set (docs/LOG.md 2026-11-23).
    lr: float = 1e-3
    layer_decay: float = 0.9
    warmup: float = 0.1  # share of a phase's steps; 5-10 % is what AutoGluon and AutoTrain ship
    weight_decay: float = 0.01  # AdamW's own default; never on 1-D parameters (timm, nanoGPT)
    label_smoothing: float = 0.1  # label smoothing, arXiv 1512.00567; timm's default
    clip_grad: float = 1.0  # global gradient norm: AutoGluon, big_vision transfer
    feature_augment: float = (
        0.0  # strength of brightness on frozen features, arXiv 2403.10519; see docs/LOG.md
    )
    # Statistics fixed, weight and bias learn: batch statistics of 32 images cost 5 points (docs/LOG.md
    # 2026-11-23). With `train`, running statistics move with each layer's own momentum (lite0's and torch's
    # is 0.1).
    bn: str = "affine"
    head_init: str = "fresh"  # the head's first weights: fresh | probe
    head_init_l2: float = 1e-2  # L2 of the probe that a head may start from; `lp_ft` measured at three values
    solver: str = "logistic"
    # L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483): this over 2 times the squared distance of the
    # pretrained weights to where they started joins the loss, in place of their weight decay. The paper tried
    # 1e-3 to 1 and kept 0.1 or 0.01, with SGD; 0 is off.
    l2_sp: float = 0.0
    # Which stages a solved head reads: the last alone ("last"), the last so many, "all", or as many as
    # out-of-fold predictions like best ("auto").
    layers: int | str = "last"
    # Of `timm.optim`, by name. `lr` and `weight_decay` above are meant for AdamW, and stay for any other.
    optimizer: str = "adamw"
    schedule: str = "cosine"  # of the rate after the warm-up, in each phase: one of `SCHEDULES`
    # Alpha of the Beta distribution that two pictures' shares are drawn from, 0: off (Zhang et al., arXiv
    # 1710.09412, used 0.1 to 0.4 on ImageNet; Yun et al., arXiv 1905.04899, 1 for pasted rectangles). With
    # both, each batch is mixed one way or the other, as likely (timm's switch_prob).
    mixup: float = 0.0
    cutmix: float = 0.0
    # Largest decay of the exponential moving average of the weights, which is what a run keeps; 0: off.
    # timm's warm-up of the decay goes before it: 1 - (1 + step) ** (-2 / 3).
    ema: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed, so that nothing frozen layers answer can be used twice."""
        return self.mixup > 0 or self.cutmix > 0


# What came after the first configurations were digested: said of a run only where it is not this.
LATER = {
    name: getattr(Hyperparameters, name)
    for name in ("l2_sp", "layers", "optimizer", "schedule", "mixup", "cutmix", "ema")
}
_ANY = (
    "head",
    "head_init",
    "head_init_l2",
    "lr",
    "layer_decay",
    "epochs",
    "warmup",
    "weight_decay",
    "label_smoothing",
    "clip_grad",
    "optimizer",
    "schedule",
    "mixup",
    "cutmix",
    "ema",
)
# Share of a phase's steps in which `one_cycle` goes up: torch's OneCycleLR has it (pct_start).
ONE_CYCLE_WARMUP = 0.3


@dataclass(frozen=True)
class Kind:
    """What one named strategy is: its phases, the settings it changes, and what may be set."""

    phases: Callable[[Strategy, int, float], tuple[Phase, ...]]  # (strategy, stages below the head, epochs)
    defaults: dict[str, int | float | str] = field(default_factory=dict)
    allowed: tuple[str, ...] = (*_ANY, "bn", "l2_sp")
    passes: float = 1.0  # beside what the number of images asks for
    takes: str = ""  # the positional argument: "k", "solver", "phases" or none


def _gradual(strategy: Strategy, below: int, total: float) -> tuple[Phase, ...]:
    lr = strategy.lr or hyperparameters(strategy).lr
    deepest = below if strategy.k is None else min(strategy.k, below)
    # A tenth less at each unfreezing: what is already warm should move less while the next stage wakes up.
    # Half the passes go to the last phase: with equal shares it stayed half-trained (docs/LOG.md 2026-11-23).
    epochs = [total / 2 / max(1, deepest)] * deepest + [total / 2]
    return tuple(Phase(i, epochs[i], lr * 0.9**i) for i in range(deepest + 1))


KINDS: dict[str, Kind] = {
    "linear_probe": Kind(
        lambda s, n, e: (), {"layers": SEVERAL}, allowed=("label_smoothing", "layers"), takes="solver"
    ),
    "head": Kind(lambda s, n, e: (Phase(0),), {"lr": 3e-3}, allowed=(*_ANY, "feature_augment")),
    "top_k": Kind(
        lambda s, n, e: (Phase(s.k or 0),),
        {"head_init": "probe"},
        allowed=(*_ANY, "bn", "feature_augment", "l2_sp"),
        passes=1.5,
        takes="k",
    ),
    "lp_ft": Kind(lambda s, n, e: (Phase(ALL),), {"head_init": "probe"}),
    "gradual_unfreeze": Kind(
        _gradual, {"head_init": "probe"}, allowed=(*_ANY, "bn", "feature_augment", "l2_sp"), takes="k"
    ),
    # A fresh head sends noise down at first, which AdamW scales up to full steps: at 1e-3 `full` stood still
    # on spectrograms (49 % against 79 % at 5e-4; docs/LOG.md 2026-11-23). A head from a probe bears 1e-3.
    "full": Kind(lambda s, n, e: (Phase(ALL),), {"lr": 5e-4}),
    "scratch": Kind(
        lambda s, n, e: (Phase(ALL),), {"layer_decay": 1.0, "bn": "train", "lr": 2e-3}, allowed=(*_ANY, "bn")
    ),
    "phases": Kind(
        lambda s, n, e: s.phases, allowed=(*_ANY, "bn", "feature_augment", "l2_sp"), takes="phases"
    ),
}

NAMED = (
    "linear_probe",
    "head",
    "top_k(1)",
    "top_k(2)",
    "top_k(3)",
    "lp_ft",
    "gradual_unfreeze",
    "full",
    "scratch",
)


def hyperparameters(strategy: Strategy) -> Hyperparameters:
    """Return the strategy's settings with every default filled in."""
    kind = KINDS[strategy.name]
    own = {f.name: getattr(strategy, f.name, None) for f in fields(Hyperparameters)}
    given = {key: value for key, value in own.items() if value is not None}
    cycle = {"warmup": ONE_CYCLE_WARMUP} if strategy.schedule == "one_cycle" else {}
    chosen = {**kind.defaults, **cycle, **given}
    return replace(Hyperparameters(), **chosen)


def _number(value: object) -> str:
    """Write a value so that reading it back gives the same one, and as short as that allows."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
