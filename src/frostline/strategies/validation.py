"""What a strategy may be set to: every mistake in one message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from frostline.errors import UsageError, did_you_mean, option
from frostline.strategies.strategy import BN_POLICIES, KINDS, LAYERS, SCHEDULES, Strategy, hyperparameters

_RANGES: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, 10.0, "above 0 and at most 10 (freeze a layer with the cut, not with a rate of 0)"),
    "layer_decay": (0.0, 1.0, "above 0 and at most 1 (freeze a layer with the cut, not with a decay of 0)"),
    "epochs": (0.0, 1e5, "above 0"),
    "head_init_l2": (0.0, 1e6, "above 0"),
    "clip_grad": (0.0, 1e9, "above 0"),
}

MOST_ALPHA = 100  # of MixUp and CutMix: from about there on two pictures have half a share each

# Optimizers by the start of their names, and why a run can't have them.
REFUSED = {
    "lbfgs": "it evaluates the loss several times a step (a closure), and a batch is seen once here",
    "adahessian": "it needs second derivatives, which the loop does not compute",
    "kron": "it draws on a random state of its own, so that a run that goes on would end with other bytes",
    "bnb": "it needs the package bitsandbytes, which frostline is not tested with; take one without bnb",
    "fused": "it needs NVIDIA's Apex; the one without fused is torch's, and fused where torch can",
}


def unknown(name: str) -> UsageError:
    """Return what to raise for a name that is no strategy's."""
    return UsageError(f"Unknown strategy {name!r}.{did_you_mean(name, KINDS)} Known: {', '.join(KINDS)}.")


def checked(strategy: Strategy) -> Strategy:
    """Return `strategy` if every setting makes sense; raise one `UsageError` listing all that do not."""
    if strategy.name not in KINDS:
        raise unknown(strategy.name)
    wrong = [*_wrong_numbers(strategy), *_wrong_words(strategy)]
    if strategy.name == "top_k" and (strategy.k is None or strategy.k < 1):
        wrong.append("top_k needs the number of stages to unfreeze below the head, 1 or more: top_k(2)")
    if strategy.name == "gradual_unfreeze" and strategy.k is not None and strategy.k < 1:
        wrong.append("gradual_unfreeze(k) unfreezes k stages one after another, 1 or more")
    if strategy.name == "phases" and not strategy.phases:
        wrong.append("phases needs at least one phase: phases(0@3, all@10)")
    if wrong:
        raise UsageError(f"{strategy.name}: " + "; ".join(wrong) + ".")
    return strategy


def timm_loadable(strategy: Strategy) -> Strategy:
    """Return the strategy with a head that timm has: linear, on the last stage alone.

    Raises `UsageError` where the strategy names another.
    """
    own = {
        f"head={strategy.head}": strategy.head != "linear",
        f"layers={strategy.layers}": strategy.layers not in (None, "last"),
        f"refit_layers={strategy.refit_layers}": bool(strategy.refit_layers),
    }
    if any(own.values()):
        other = next(setting for setting, stands in own.items() if stands)
        raise UsageError(
            f"{strategy}: timm alone cannot load a model with {other}. Leave that out, or "
            f"{option('plain_timm')}."
        )
    return replace(strategy, layers="last") if hyperparameters(strategy).layers != "last" else strategy


LOADERS = {"timm": "timm", "hf": "transformers"}  # what loads a network's weights alone, by its source's kind


def loader_line(strategies: Sequence[Strategy], kinds: Iterable[str]) -> str:
    """Return what loads the models of these strategies only with a loader of ours; "" where that is none.

    Parameters
    ----------
    strategies
        Checked strategies.
    kinds
        Of the networks' sources, such as "timm": one of another kind needs a loader with every head.
    """
    known = {str(strategy): hyperparameters(strategy) for strategy in strategies}
    several = [name for name, values in known.items() if values.layers != "last" or values.refit_layers]
    libraries = dict.fromkeys(LOADERS[kind] for kind in kinds if kind in LOADERS)
    if not several or not libraries:
        return ""
    return (
        f"The head of {', '.join(several)} reads several stages: {' or '.join(libraries)} alone cannot load "
        f"such a model, so an export brings a loader. {option('plain_timm', True)} keeps to heads that read "
        "the last stage."
    )


def _wrong_numbers(strategy: Strategy) -> Iterable[str]:
    for key, (low, high, rule) in _RANGES.items():
        value = getattr(strategy, key)
        if value is not None and not low < value <= high:
            yield f"{key} must be {rule}, found {value:g}"
    for key in ("label_smoothing", "warmup", "feature_augment", "ema"):
        value = getattr(strategy, key)
        if value is not None and not 0 <= value < 1:
            yield f"{key} must be at least 0 and below 1, found {value:g}"
    if strategy.weight_decay is not None and not 0 <= strategy.weight_decay <= 10:
        yield f"weight_decay must lie between 0 and 10, found {strategy.weight_decay:g}"
    if strategy.l2_sp is not None and not 0 <= strategy.l2_sp <= 1e4:
        yield f"l2_sp must lie between 0 and 10000, found {strategy.l2_sp:g}"
    refit = strategy.refit_layers
    if refit is not None and (refit < 0 or refit != int(refit)):
        yield f"refit_layers must be a whole number of stages, 0 (off) or more, found {refit:g}"
    for key in ("mixup", "cutmix"):
        value = getattr(strategy, key)
        if value is not None and not 0 <= value <= MOST_ALPHA:
            yield f"{key} is the alpha of a Beta distribution, 0 (off) to {MOST_ALPHA}, found {value:g}"
    for phase in strategy.phases:
        if phase.epochs is not None and not 0 < phase.epochs < 1e5:
            yield f"a phase's epochs must be above 0, found {phase.epochs:g}"
        if phase.lr is not None and not 0 < phase.lr <= 10:
            yield f"a phase's learning rate must be above 0 and at most 10, found {phase.lr:g}"


def _wrong_words(strategy: Strategy) -> Iterable[str]:
    named_values = {
        "bn": BN_POLICIES,
        "head_init": ("fresh", "probe"),
        "solver": ("logistic", "ridge"),
        "schedule": SCHEDULES,
    }
    for key, known in named_values.items():
        value = getattr(strategy, key)
        if value is not None and value not in known:
            yield f"found {value!r} for {key}.{did_you_mean(value, known)} Expected one of {', '.join(known)}"
    if strategy.optimizer is not None:
        yield from _wrong_optimizer(strategy.optimizer)
    layers = strategy.layers
    number = isinstance(layers, int) and not isinstance(layers, bool)
    if layers is not None and layers not in LAYERS and (not number or int(layers) < 1):
        yield f"layers must be a number of stages, 1 or more, or {', '.join(LAYERS)}; found {layers!r}"
    if not re.fullmatch(r"linear|cosine|mlp\([1-9]\d{0,4}\)", strategy.head):
        yield f"head must be linear, cosine or mlp(WIDTH), found {strategy.head!r}"
    if strategy.refit_layers and strategy.head != "linear":
        yield f"refit_layers ends with a linear head, found head={strategy.head}"
    if strategy.head_init == "probe" and strategy.head != "linear":
        yield f"a probe's weights fit a linear head only, found head={strategy.head}"


def optimizers() -> list[str]:
    """Return the names that `optimizer` may have: those of `timm.optim` but for `REFUSED`."""
    import timm.optim  # torch with it: nothing else in strategies needs that

    names = [str(name) for name in timm.optim.list_optimizers()]  # type: ignore[attr-defined]
    return [name for name in names if _refusal(name) is None]


def _refusal(name: str) -> str | None:
    return next((why for start, why in REFUSED.items() if name.startswith(start)), None)


def _wrong_optimizer(name: str) -> Iterable[str]:
    if name == "adamw":
        return
    if (why := _refusal(name)) is not None:
        yield f"optimizer {name} can't be had: {why}"
    elif name not in (known := optimizers()):
        yield (
            f"unknown optimizer {name!r}.{did_you_mean(name, known)} Known are those of timm.optim: "
            f"{', '.join(known)}"
        )
