"""What a strategy is, the named ones, and what each setting is where nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

BN_POLICIES = ("eval", "affine", "train", "recalibrate")
LAYERS = ("last", "all", "auto")  # words for the stages that a solved head reads; or a number of them
SCHEDULES = ("cosine", "linear", "step", "one_cycle", "constant")  # of the rate, within a phase
# Stages that a solved head reads, with mean and spread: on six sets 5 points above the last alone
# (docs/LOG.md 2026-11-28).
SEVERAL = 4
ALL = -1  # `Phase.unfrozen`: every stage learns, down to the stem
SOLVED_SMOOTHING = 0.0  # label smoothing of a solved head where none is named: scikit-learn's has none
T = TypeVar("T")


def _setting(default: T, meaning: str, source: str = "") -> T:
    """Return a field with its meaning and its default's source: `frostline strategies` prints both."""
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True)
class Phase:
    """One phase of training, with one cut.

    Parameters
    ----------
    unfrozen : int
        Number of stages below the head that learn; 0 is the head alone, `ALL` (-1) everything.
    epochs : float or None
        Passes over the training images, above 0; None is an equal share of the strategy's epochs.
    lr : float or None
        Peak learning rate of the head, above 0 and at most 10; None is the strategy's.
    """

    unfrozen: int
    epochs: float | None = None  # None: its equal share of what the number of images asks for
    lr: float | None = None  # None: the strategy's

    def __str__(self) -> str:
        text = "all" if self.unfrozen == ALL else str(self.unfrozen)
        text += "" if self.epochs is None else f"@{_number(self.epochs)}"
        return text + ("" if self.lr is None else f"*{_number(self.lr)}")


@dataclass(frozen=True)
class Strategy:
    """A named strategy for adapting a backbone, with its settings.

    A setting that is None has the named strategy's own default, which `frostline strategies` lists with its
    source. `parse` and the functions that take a strategy check the values.

    Parameters
    ----------
    name : str
        linear_probe, head, top_k, lp_ft, gradual_unfreeze, full, scratch or phases.
    k : int or None
        Number of stages below the head that learn, 1 or more: top_k needs it; gradual_unfreeze: None is all.
    solver : str or None
        How linear_probe fits its head: "logistic" (logistic regression) or "ridge" (closed form).
    phases : tuple of Phase
        The phases of the strategy phases, in order; empty for all others.
    head : str
        New classifier: "linear", "cosine" or "mlp(WIDTH)", with WIDTH hidden units.
    head_init : str or None
        First weights of the head: "fresh" (random) or "probe" (fitted on frozen features; linear heads only).
    head_init_l2 : float or None
        L2 penalty of that probe, above 0.
    lr : float or None
        Peak learning rate of the head, above 0 and at most 10.
    layer_decay : float or None
        A stage d below the head learns at `lr * layer_decay ** d`; above 0 and at most 1.
    epochs : float or None
        Passes over the training images, shared by the phases, above 0. By default 20 for 80 images and 12 for
        400; 1.5 times as many for top_k.
    warmup : float or None
        Share of each phase's steps in which the learning rate rises, at least 0 and below 1.
    weight_decay : float or None
        The optimizer's weight decay, 0 to 10; not applied to parameters with one dimension (biases, norms).
    label_smoothing : float or None
        Share of each label that is spread over all classes, at least 0 and below 1.
    clip_grad : float or None
        Largest global gradient norm, above 0; larger gradients are scaled down to it.
    feature_augment : float or None
        Strength of random brightness changes of frozen features, at least 0 and below 1; 0 is off.
    bn : str or None
        BatchNorm after the cut: "eval" (fixed), "affine" (weight and bias learn), "train" (statistics change
        too) or "recalibrate" (as "train", with statistics estimated again after training).
    l2_sp : float or None
        L2-SP: strength of the pull towards the pretrained weights, in place of their weight decay, 0 to
        10,000; 0 is off.
    layers : int or str or None
        Last stages that linear_probe reads: a number, "last", "all" or "auto" (by out-of-fold log loss).
    optimizer : str or None
        Name of an optimizer in `timm.optim`, such as "adamw".
    schedule : str or None
        Learning rate after the warm-up, in each phase: "cosine", "linear", "step", "one_cycle" or "constant".
    mixup : float or None
        MixUp's alpha, of a Beta distribution of the two images' shares, 0 to 100; 0 is off.
    cutmix : float or None
        CutMix's alpha, of a Beta distribution of the pasted rectangle's area, 0 to 100; 0 is off.
    ema : float or None
        Largest decay of the moving average of the weights, which becomes the result, at least 0 and below 1;
        0 is off.
    refit_layers : int or None
        After training, the head is fitted again on statistics of this many last stages; 0 is off.
    """

    name: str
    k: int | None = _setting(None, "Stages below the head that learn")
    solver: str | None = None
    phases: tuple[Phase, ...] = _setting((), "Stages below the head that learn @ epochs * learning rate")
    head: str = _setting(
        "linear", "New classifier: linear, cosine or mlp(WIDTH)", "the classifier of ImageNet checkpoints"
    )
    head_init: str | None = None
    head_init_l2: float | None = None
    lr: float | None = None
    layer_decay: float | None = None
    epochs: float | None = _setting(
        None,
        "Passes over the training images, shared by the phases in whole epochs; by default 20 for 80 images, "
        "12 for 400, between 4 and 40 (top_k: 1.5 times as many)",
        "docs/LOG.md 2026-11-23",
    )
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
    refit_layers: int | None = None

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
    """Every number a run needs, none of them missing: defaults with their meaning and source."""

    # Twice the rate and decay 0.7 were worse on one set (docs/LOG.md 2026-11-23).
    lr: float = _setting(
        1e-3, "Peak learning rate of the head, AdamW", "fastai ships 2e-3, AutoGluon 1e-4 to 4e-4"
    )
    layer_decay: float = _setting(
        0.9,
        "A stage d below the head learns at lr * layer_decay ** d",
        "the idea: BEiT, arXiv 2106.08254; the value: docs/LOG.md 2026-11-23",
    )
    warmup: float = _setting(
        0.1, "Share of a phase's steps with a rising rate, 0–1", "AutoGluon and AutoTrain ship 5-10 %"
    )
    weight_decay: float = _setting(
        0.01, "AdamW's weight decay, on no 1-D parameter", "torch's AdamW; the exception: timm, nanoGPT"
    )
    label_smoothing: float = _setting(
        0.1, "Share of each label that is spread over all classes, 0–1", "arXiv 1512.00567; timm's default"
    )
    clip_grad: float = _setting(1.0, "Largest global gradient norm", "AutoGluon, big_vision transfer")
    feature_augment: float = _setting(
        0.0, "Strength of brightness changes on frozen features, 0–1", "arXiv 2403.10519; docs/LOG.md"
    )
    # Batch statistics of 32 images cost 5 points. With `train`, running statistics move with each layer's own
    # momentum (lite0's and torch's is 0.1).
    bn: str = _setting(
        "affine",
        "BatchNorm: eval (nothing changes), affine (weight and bias learn), train (statistics, too), "
        "recalibrate (statistics, at the end)",
        "docs/LOG.md 2026-11-23",
    )
    head_init: str = _setting(
        "fresh",
        "The head's first weights: fresh, or those of a probe",
        "torch's own; a probe: arXiv 2202.10054",
    )
    head_init_l2: float = _setting(
        1e-2, "L2 of the probe that a head starts from", "lp_ft at three values, docs/LOG.md"
    )
    solver: str = _setting(
        "logistic", "logistic, or ridge (closed form)", "logistic regression, as in arXiv 2103.00020"
    )
    # This over 2 times the squared distance of the pretrained weights to where they started joins the loss,
    # in place of their weight decay. The paper tried 1e-3 to 1 and kept 0.1 or 0.01, with SGD.
    l2_sp: float = _setting(
        0.0, "L2-SP: pull towards the pretrained weights; 0 is off", "arXiv 1802.01483 kept 0.1 or 0.01"
    )
    layers: int | str = _setting(
        "last",
        "Stages that a solved head reads: last, a number of the last, all, or auto (by out-of-fold log loss)",
        "the plain linear probe",
    )
    optimizer: str = _setting(
        "adamw",
        "Of timm.optim, by name; lr and weight_decay are meant for AdamW",
        "timm.optim.list_optimizers",
    )
    schedule: str = _setting(
        "cosine",
        "Of the rate after the warm-up, in each phase: cosine, linear, step, one_cycle or constant",
        "timm.scheduler; torch's OneCycleLR",
    )
    # With both, each batch is mixed one way or the other, as likely (timm's switch_prob).
    mixup: float = _setting(
        0.0,
        "Alpha of the Beta distribution of two pictures' shares; 0 is off",
        "arXiv 1710.09412: 0.1 to 0.4 on ImageNet",
    )
    cutmix: float = _setting(
        0.0, "As mixup, of the area of a pasted rectangle; 0 is off", "arXiv 1905.04899: 1"
    )
    # timm's warm-up of the decay goes before it: 1 - (1 + step) ** (-2 / 3).
    ema: float = _setting(
        0.0,
        "Largest decay of the average of the weights, which is what a run keeps; 0 is off",
        "timm.utils.ModelEmaV3",
    )

    refit_layers: int = _setting(
        0,
        "After training, the head is solved for anew, on statistics of so many last stages; 0 is off",
        "docs/LOG.md 2026-11-28; heads on several stages: Head2Toe, arXiv 2201.03529",
    )

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed, so that nothing frozen layers answer can be used twice."""
        return self.mixup > 0 or self.cutmix > 0


# What came after the first configurations were digested: said of a run only where it is not this.
LATER = {
    name: getattr(Hyperparameters, name)
    for name in ("l2_sp", "layers", "optimizer", "schedule", "mixup", "cutmix", "ema", "refit_layers")
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
_TUNED = (*_ANY, "bn", "refit_layers")  # where layers below the head learn, too
# Share of a phase's steps in which `one_cycle` goes up: torch's OneCycleLR has it (pct_start).
ONE_CYCLE_WARMUP = 0.3


@dataclass(frozen=True)
class StrategyKind:
    """What one named strategy is: its phases, the settings it changes, and what may be set."""

    phases: Callable[[Strategy, int, float], tuple[Phase, ...]]  # (strategy, stages below the head, epochs)
    defaults: dict[str, int | float | str] = field(default_factory=dict)
    allowed: tuple[str, ...] = (*_TUNED, "l2_sp")
    passes: float = 1.0  # beside what the number of images asks for
    takes: str = ""  # the positional argument: "k", "solver", "phases" or none
    sources: dict[str, str] = field(default_factory=dict)  # of the strategy's own defaults


def _gradual(strategy: Strategy, below: int, total: float) -> tuple[Phase, ...]:
    lr = strategy.lr or hyperparameters(strategy).lr
    deepest = below if strategy.k is None else min(strategy.k, below)
    # A tenth less at each unfreezing: what is already warm should move less while the next stage wakes up.
    # Half the passes go to the last phase: with equal shares it stayed half-trained (docs/LOG.md 2026-11-23).
    epochs = [total / 2 / max(1, deepest)] * deepest + [total / 2]
    return tuple(Phase(i, epochs[i], lr * 0.9**i) for i in range(deepest + 1))


_PROBE_FIRST = {"head_init": "Kumar et al., arXiv 2202.10054"}
KINDS: dict[str, StrategyKind] = {
    "linear_probe": StrategyKind(
        lambda s, n, e: (),
        {"layers": SEVERAL},
        allowed=("label_smoothing", "layers"),
        takes="solver",
        sources={
            "layers": "docs/LOG.md 2026-11-28",
            "label_smoothing": "scikit-learn's LogisticRegression has none; ridge takes none",
        },
    ),
    "head": StrategyKind(
        lambda s, n, e: (Phase(0),),
        {"lr": 3e-3},
        allowed=(*_ANY, "feature_augment"),
        sources={"lr": "a choice: three times the rate of a whole network"},
    ),
    "top_k": StrategyKind(
        lambda s, n, e: (Phase(s.k or 0),),
        {"head_init": "probe"},
        allowed=(*_TUNED, "feature_augment", "l2_sp"),
        passes=1.5,
        takes="k",
        sources=_PROBE_FIRST,
    ),
    "lp_ft": StrategyKind(lambda s, n, e: (Phase(ALL),), {"head_init": "probe"}, sources=_PROBE_FIRST),
    "gradual_unfreeze": StrategyKind(
        _gradual,
        {"head_init": "probe"},
        allowed=(*_TUNED, "feature_augment", "l2_sp"),
        takes="k",
        sources=_PROBE_FIRST,
    ),
    # A fresh head sends noise down at first, which AdamW scales up to full steps: at 1e-3 `full` stood still
    # on spectrograms (49 % against 79 % at 5e-4). A head from a probe bears 1e-3.
    "full": StrategyKind(
        lambda s, n, e: (Phase(ALL),), {"lr": 5e-4}, sources={"lr": "a fresh head, docs/LOG.md 2026-11-23"}
    ),
    "scratch": StrategyKind(
        lambda s, n, e: (Phase(ALL),),
        {"layer_decay": 1.0, "bn": "train", "lr": 2e-3},
        allowed=_TUNED,
        sources={
            "layer_decay": "no stage is pretrained",
            "bn": "random weights come without statistics",
            "lr": "a choice; fastai ships 2e-3",
        },
    ),
    "phases": StrategyKind(
        lambda s, n, e: s.phases, allowed=(*_TUNED, "feature_augment", "l2_sp"), takes="phases"
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
