"""Strategies as data: what learns, when, and how fast. Imports no torch.

A `Strategy` is a name and its settings: frozen, hashable, and equal to what `parse` reads back from its
notation. It is the row label everywhere.

    linear_probe            logistic regression on frozen features; `linear_probe(ridge)` is the closed form
    head                    one phase, only the head learns
    top_k(2)                the head and the two stages below it learn, the bottom stays frozen
    lp_ft                   the head starts from a probe, then everything learns
    gradual_unfreeze        head first, then one stage more at a time
    full                    everything learns from the first step
    scratch                 everything learns, from random weights: the honest baseline
    phases(0@3, 2@5, all@10)    your own list: stages thawed below the head @ epochs

Settings follow in the brackets: `top_k(2, lr=0.0005, bn=eval)`. What is not named keeps its default.
`schedule` turns a strategy into cuts and steps for one backbone and one number of images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from frostline.errors import UsageError, did_you_mean

BN_POLICIES = ("eval", "affine", "train", "recalibrate")
ALL = -1  # `Phase.thaw`: every stage learns, down to the stem


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one cut. `thaw` counts stages below the head; `ALL` means every stage."""

    thaw: int
    epochs: float | None = None  # None: its equal share of what the number of images asks for
    lr: float | None = None  # None: the strategy's

    def __str__(self) -> str:
        text = "all" if self.thaw == ALL else str(self.thaw)
        text += "" if self.epochs is None else f"@{_number(self.epochs)}"
        return text + ("" if self.lr is None else f"*{_number(self.lr)}")


@dataclass(frozen=True)
class Strategy:
    """A named plan for adapting a backbone.

    `lr` is the head's peak learning rate (AdamW); a stage d below the head learns at
    `lr * layer_decay ** d`. `None` means the named strategy's own default (`settings` fills it in).
    """

    name: str
    k: int | None = None
    solver: str | None = None
    phases: tuple[Phase, ...] = ()
    head: str = "linear"
    start: str | None = None
    start_l2: float | None = None
    lr: float | None = None
    layer_decay: float | None = None
    epochs: float | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    smoothing: float | None = None
    clip: float | None = None
    frofa: float | None = None
    bn: str | None = None
    l2_sp: float | None = None

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
class Settings:
    """Every number a run needs, none of them missing. Defaults carry their source."""

    # AdamW at the head: fastai ships 2e-3, AutoGluon 1e-4 to 4e-4; twice the rate and decay 0.7 were worse
    # on one set (docs/LOG.md 2026-11-23).
    lr: float = 1e-3
    layer_decay: float = 0.9
    warmup: float = 0.1  # share of a phase's steps; 5-10 % is what AutoGluon and AutoTrain ship
    weight_decay: float = 0.01  # AdamW's own default; never on 1-D parameters (timm, nanoGPT)
    smoothing: float = 0.1  # label smoothing, arXiv 1512.00567; timm's default
    clip: float = 1.0  # global gradient norm: AutoGluon, big_vision transfer
    frofa: float = 0.0  # strength of brightness on frozen features, arXiv 2403.10519; see docs/LOG.md
    # Statistics fixed, weight and bias learn: batch statistics of 32 images cost 5 points (docs/LOG.md
    # 2026-11-23). With `train`, running statistics move with each layer's own momentum (lite0's and torch's
    # is 0.1).
    bn: str = "affine"
    start: str = "fresh"  # the head's first weights: fresh | probe
    start_l2: float = 1e-2  # L2 of the probe that a head may start from; `lp_ft` measured at three values
    solver: str = "logistic"
    # L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483): this over 2 times the squared distance of the
    # pretrained weights to where they started joins the loss, in place of their weight decay. The paper tried
    # 1e-3 to 1 and kept 0.1 or 0.01, with SGD; 0 is off.
    l2_sp: float = 0.0


_ANY = (
    "head",
    "start",
    "start_l2",
    "lr",
    "layer_decay",
    "epochs",
    "warmup",
    "weight_decay",
    "smoothing",
    "clip",
)


@dataclass(frozen=True)
class _Kind:
    """What one named strategy is: its phases, the settings it changes, and what may be set."""

    phases: Callable[[Strategy, int, float], tuple[Phase, ...]]  # (strategy, stages below the head, epochs)
    defaults: dict[str, float | str] = field(default_factory=dict)
    allowed: tuple[str, ...] = (*_ANY, "bn", "l2_sp")
    passes: float = 1.0  # beside what the number of images asks for
    takes: str = ""  # the positional argument: "k", "solver", "phases" or none


def _gradual(strategy: Strategy, below: int, total: float) -> tuple[Phase, ...]:
    lr = strategy.lr or settings(strategy).lr
    deepest = below if strategy.k is None else min(strategy.k, below)
    # A tenth less at each thaw: what is already warm should move less while the next stage wakes up. Half
    # the passes go to the last phase: with equal shares it stayed half-trained (docs/LOG.md 2026-11-23).
    epochs = [total / 2 / max(1, deepest)] * deepest + [total / 2]
    return tuple(Phase(i, epochs[i], lr * 0.9**i) for i in range(deepest + 1))


KINDS: dict[str, _Kind] = {
    "linear_probe": _Kind(lambda s, n, e: (), allowed=("smoothing",), takes="solver"),
    "head": _Kind(lambda s, n, e: (Phase(0),), {"lr": 3e-3}, allowed=(*_ANY, "frofa")),
    "top_k": _Kind(
        lambda s, n, e: (Phase(s.k or 0),),
        {"start": "probe"},
        allowed=(*_ANY, "bn", "frofa", "l2_sp"),
        passes=1.5,
        takes="k",
    ),
    "lp_ft": _Kind(lambda s, n, e: (Phase(ALL),), {"start": "probe"}),
    "gradual_unfreeze": _Kind(
        _gradual, {"start": "probe"}, allowed=(*_ANY, "bn", "frofa", "l2_sp"), takes="k"
    ),
    # A fresh head sends noise down at first, which AdamW scales up to full steps: at 1e-3 `full` stood still
    # on spectrograms (49 % against 79 % at 5e-4; docs/LOG.md 2026-11-23). A head from a probe bears 1e-3.
    "full": _Kind(lambda s, n, e: (Phase(ALL),), {"lr": 5e-4}),
    "scratch": _Kind(
        lambda s, n, e: (Phase(ALL),), {"layer_decay": 1.0, "bn": "train", "lr": 2e-3}, allowed=(*_ANY, "bn")
    ),
    "phases": _Kind(lambda s, n, e: s.phases, allowed=(*_ANY, "bn", "frofa", "l2_sp"), takes="phases"),
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


def settings(strategy: Strategy) -> Settings:
    """Return the strategy's settings with every default filled in."""
    kind = KINDS[strategy.name]
    own = {f.name: getattr(strategy, f.name, None) for f in fields(Settings)}
    chosen = {**kind.defaults, **{key: value for key, value in own.items() if value is not None}}
    return replace(Settings(), **chosen)


# --- the notation -------------------------------------------------------------------------------------


def parse(text: str) -> Strategy:
    """Read a strategy from its notation; `parse(str(s)) == s`. Raises `UsageError` naming what is wrong."""
    match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} is not a strategy. Expected a name like 'full' or 'top_k(2, lr=0.0005)'.")
    name, inside = match.group(1), match.group(2) or ""
    if name not in KINDS:
        raise _unknown(name)
    values: dict[str, object] = {}
    phases: list[Phase] = []
    for part in split(inside):
        key, sign, value = part.partition("=")
        if sign:
            _set(values, name, key.strip(), _value(name, key.strip(), value.strip()))
        elif KINDS[name].takes == "phases":
            phases.append(_phase(part))
        elif KINDS[name].takes:
            _set(values, name, KINDS[name].takes, _value(name, KINDS[name].takes, part))
        else:
            raise UsageError(
                f"{name} takes no bare argument, found {part!r}. Settings are written key=value."
            )
    return checked(Strategy(name, phases=tuple(phases), **values))  # type: ignore[arg-type]


def _unknown(name: str) -> UsageError:
    return UsageError(f"Unknown strategy {name!r}.{did_you_mean(name, KINDS)} Known: {', '.join(KINDS)}.")


def split(inside: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts = re.split(r",\s*(?![^()]*\))", inside.strip())
    return [part.strip() for part in parts if part.strip()]


def _set(values: dict[str, object], name: str, key: str, value: object) -> None:
    if key in values:
        raise UsageError(f"{name} names {key!r} twice. Name each setting once.")
    values[key] = value


def _value(name: str, key: str, text: str) -> object:
    allowed = (*KINDS[name].allowed, KINDS[name].takes)
    if key not in allowed or not key:
        known = [word for word in allowed if word]
        raise UsageError(
            f"{name} has no setting {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
        )
    if key in ("head", "start", "bn", "solver"):
        return text
    try:
        return int(text) if key == "k" else float(text)
    except ValueError:
        kind = "a whole number" if key == "k" else "a number"
        raise UsageError(f"{name}: {key} must be {kind}, found {text!r}.") from None


def _phase(text: str) -> Phase:
    match = re.fullmatch(r"(all|\d+)(?:@([\d.eE+-]+))?(?:\*([\d.eE+-]+))?", text.strip())
    try:
        if match is None:
            raise ValueError
        thaw = ALL if match.group(1) == "all" else int(match.group(1))
        epochs = None if match.group(2) is None else float(match.group(2))
        return Phase(thaw, epochs, None if match.group(3) is None else float(match.group(3)))
    except ValueError:
        raise UsageError(
            f"{text!r} is not a phase. Expected THAW@EPOCHS*LR, such as 0@3 (head only for 3 epochs), "
            "2@5*0.0005 or all@10."
        ) from None


def _number(value: object) -> str:
    """Write a value so that reading it back gives the same one, and as short as that allows."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


# --- what is allowed ----------------------------------------------------------------------------------

_RANGES: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, 10.0, "above 0 and at most 10 (freeze a layer with the cut, not with a rate of 0)"),
    "layer_decay": (0.0, 1.0, "above 0 and at most 1 (freeze a layer with the cut, not with a decay of 0)"),
    "epochs": (0.0, 1e5, "above 0"),
    "start_l2": (0.0, 1e6, "above 0"),
    "clip": (0.0, 1e9, "above 0"),
}


def checked(strategy: Strategy) -> Strategy:
    """Return `strategy` if every setting makes sense; raise one `UsageError` listing all that do not."""
    if strategy.name not in KINDS:
        raise _unknown(strategy.name)
    wrong = [*_wrong_numbers(strategy), *_wrong_words(strategy)]
    if strategy.name == "top_k" and (strategy.k is None or strategy.k < 1):
        wrong.append("top_k needs the number of stages to thaw below the head, 1 or more: top_k(2)")
    if strategy.name == "gradual_unfreeze" and strategy.k is not None and strategy.k < 1:
        wrong.append("gradual_unfreeze(k) thaws k stages one after another, 1 or more")
    if strategy.name == "phases" and not strategy.phases:
        wrong.append("phases needs at least one phase: phases(0@3, all@10)")
    if wrong:
        raise UsageError(f"{strategy.name}: " + "; ".join(wrong) + ".")
    return strategy


def _wrong_numbers(strategy: Strategy) -> Iterable[str]:
    for key, (low, high, rule) in _RANGES.items():
        value = getattr(strategy, key)
        if value is not None and not low < value <= high:
            yield f"{key} must be {rule}, found {value:g}"
    for key in ("smoothing", "warmup", "frofa"):
        value = getattr(strategy, key)
        if value is not None and not 0 <= value < 1:
            yield f"{key} must be at least 0 and below 1, found {value:g}"
    if strategy.weight_decay is not None and not 0 <= strategy.weight_decay <= 10:
        yield f"weight_decay must lie between 0 and 10, found {strategy.weight_decay:g}"
    if strategy.l2_sp is not None and not 0 <= strategy.l2_sp <= 1e4:
        yield f"l2_sp must lie between 0 and 10000, found {strategy.l2_sp:g}"
    for phase in strategy.phases:
        if phase.epochs is not None and not 0 < phase.epochs < 1e5:
            yield f"a phase's epochs must be above 0, found {phase.epochs:g}"
        if phase.lr is not None and not 0 < phase.lr <= 10:
            yield f"a phase's learning rate must be above 0 and at most 10, found {phase.lr:g}"


def _wrong_words(strategy: Strategy) -> Iterable[str]:
    words = {"bn": BN_POLICIES, "start": ("fresh", "probe"), "solver": ("logistic", "ridge")}
    for key, known in words.items():
        value = getattr(strategy, key)
        if value is not None and value not in known:
            yield f"{key} must be one of {', '.join(known)}, found {value!r}{did_you_mean(value, known)}"
    if not re.fullmatch(r"linear|cosine|mlp\([1-9]\d{0,4}\)", strategy.head):
        yield f"head must be linear, cosine or mlp(WIDTH), found {strategy.head!r}"
    if strategy.start == "probe" and strategy.head != "linear":
        yield f"a probe's weights fit a linear head only, found head={strategy.head}"


# --- from plan to steps -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """One phase made concrete for a backbone and a number of images."""

    cut: int  # stages below this index are frozen
    epochs: int
    steps_per_epoch: int
    lr: float  # the head's peak
    batches: int  # that the training part makes; a phase of less than an epoch stops before the last

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole segment."""
        return self.epochs * self.steps_per_epoch


def epochs_for(images: int) -> float:
    """How many passes a training part of this size asks for (fractional; phases share it).

    20 at 80 images, 12 at 400, 8 at 2,000, never under 4 or over 40: fewer passes, more steps, as there are
    more images. With 9 passes at 400 images the last block was undertrained on the farthest of six sets
    (docs/LOG.md 2026-11-23).
    """
    return float(min(40.0, max(4.0, 20.0 * (80.0 / max(images, 1)) ** 0.3)))


def schedule(strategy: Strategy, *, stages: int, images: int, batch: int) -> tuple[Segment, ...]:
    """Return what to run, phase by phase.

    `stages` counts the head; `images` is the size of the training part; `batch` the images per step.
    A phase that thaws more stages than there are thaws them all; one of less than an epoch has as many
    steps as its share of the epoch.
    """
    known = settings(strategy)
    total = strategy.epochs or epochs_for(images) * KINDS[strategy.name].passes
    phases = KINDS[strategy.name].phases(strategy, stages - 1, total)
    smallest = 2 if known.bn in ("train", "recalibrate") else 1  # batch statistics need two images
    batches = max(1, min(math.ceil(images / batch), images // smallest))
    segments = []
    for phase in phases:
        epochs = phase.epochs if phase.epochs is not None else total / len(phases)
        steps = batches if epochs >= 1 else max(1, round(epochs * batches))
        cut = _cut(phase, stages)
        segments.append(Segment(cut, max(1, round(epochs)), steps, phase.lr or known.lr, batches))
    return tuple(segments)


def stretched(strategy: Strategy, *, stages: int, epochs: float, steps_per_epoch: int) -> tuple[Segment, ...]:
    """Return the phases for a loop whose length is given: they share all its steps.

    Each phase begins with an epoch where there are epochs enough, else at its share of the steps.
    Raises `UsageError` where the strategy trains nothing, or asks for another number of epochs.
    """
    if not strategy.trains:
        raise UsageError(f"{strategy} is solved for and has no steps; use head, or frostline.train.")
    phases = KINDS[strategy.name].phases(strategy, stages - 1, float(epochs))
    steps = round(epochs * steps_per_epoch)
    if steps < len(phases):
        raise UsageError(f"{strategy} has {len(phases)} phases, and the loop {max(0, steps)} step(s).")
    shares = _shares(strategy, phases, float(epochs))
    unit = steps_per_epoch if steps >= len(phases) * steps_per_epoch else 1
    ends = [unit * end for end in _ends(shares, steps // unit)]
    ends[-1] = steps
    return tuple(
        _segment(_cut(phase, stages), end - start, phase.lr or settings(strategy).lr, steps_per_epoch)
        for phase, start, end in zip(phases, [0, *ends], ends, strict=False)
    )


def _cut(phase: Phase, stages: int) -> int:
    return 0 if phase.thaw == ALL else max(0, stages - 1 - phase.thaw)


def _segment(cut: int, steps: int, lr: float, steps_per_epoch: int) -> Segment:
    if steps % steps_per_epoch:
        return Segment(cut, 1, steps, lr, steps)
    return Segment(cut, steps // steps_per_epoch, steps_per_epoch, lr, steps_per_epoch)


def _shares(strategy: Strategy, phases: tuple[Phase, ...], epochs: float) -> list[float]:
    """Return each phase's part of all epochs, 0–1: what is named keeps it, the others share the rest."""
    named = [phase.epochs for phase in phases if phase.epochs is not None]
    left = epochs - sum(named)
    unnamed = len(phases) - len(named)
    asked = strategy.epochs if strategy.epochs is not None else sum(named) if not unnamed else epochs
    if not math.isclose(asked, epochs) or (unnamed and left <= 0):
        raise UsageError(
            f"{strategy} names {strategy.epochs or sum(named):g} epochs, and the loop has {epochs:g}. "
            "Give both the same number, or leave it out of the strategy."
        )
    return [(left / unnamed if phase.epochs is None else phase.epochs) / epochs for phase in phases]


def _ends(shares: Sequence[float], total: int) -> list[int]:
    """Return where each share of `total` ends, in whole numbers, each at least one after the one before."""
    ends: list[int] = []
    for index in range(len(shares)):
        wanted = round(sum(shares[: index + 1]) * total)
        least = (ends[-1] if ends else 0) + 1
        ends.append(max(least, min(wanted, total - (len(shares) - 1 - index))))
    return ends


def scaled(strategy: Strategy, share: float, images: int) -> Strategy:
    """Return the same strategy with a share of its epochs: every phase is there, each of them shorter.

    `images` is the size of the training part, which the epochs follow from where none are named.
    """
    if not strategy.trains or share == 1.0:
        return strategy
    kind = KINDS[strategy.name]
    total = share * (strategy.epochs or epochs_for(images) * kind.passes)
    phases = tuple(
        phase if phase.epochs is None else replace(phase, epochs=float(f"{share * phase.epochs:.3g}"))
        for phase in strategy.phases
    )
    return replace(strategy, epochs=float(f"{total:.3g}"), phases=phases)


# --- the names, as functions --------------------------------------------------------------------------


def _named(name: str, positional: dict[str, object], options: dict[str, object]) -> Strategy:
    for key in options:
        if key not in KINDS[name].allowed:
            raise UsageError(f"{name} has no setting {key!r}.{did_you_mean(key, KINDS[name].allowed)}")
    return checked(Strategy(name, **positional, **options))  # type: ignore[arg-type]


def linear_probe(solver: str | None = None, **options: object) -> Strategy:
    """Logistic regression (or `"ridge"`, closed form) on frozen features."""
    return _named("linear_probe", {"solver": solver}, options)


def head(**options: object) -> Strategy:
    """Only the head learns."""
    return _named("head", {}, options)


def top_k(k: int, **options: object) -> Strategy:
    """The head and the `k` stages below it learn."""
    return _named("top_k", {"k": k}, options)


def lp_ft(**options: object) -> Strategy:
    """The head starts from a probe, then everything learns (Kumar et al., arXiv 2202.10054)."""
    return _named("lp_ft", {}, options)


def gradual_unfreeze(k: int | None = None, **options: object) -> Strategy:
    """Head first, then one stage more at a time, down to `k` stages below the head (all by default)."""
    return _named("gradual_unfreeze", {"k": k}, options)


def full(**options: object) -> Strategy:
    """Everything learns from the first step."""
    return _named("full", {}, options)


def scratch(**options: object) -> Strategy:
    """Everything learns, from random weights."""
    return _named("scratch", {}, options)


def phases(*steps: Phase, **options: object) -> Strategy:
    """Your own list of phases."""
    return _named("phases", {"phases": tuple(steps)}, options)
