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
    phases(0@3, 2@5, all@10)    your own list: stages unfrozen below the head @ epochs

Settings follow in the brackets: `top_k(2, lr=0.0005, bn=eval)`. What is not named keeps its default.
`schedule` turns a strategy into cuts and steps for one backbone and one number of images.

strategy                                what a strategy is, the named ones, all defaults with their sources
validation ── notation · constructors   what makes sense; from text, and from Python
overrides · describing                  hyperparameters given beside strategies; all of them in a list
phase_resolution ── lr_schedule         from a strategy to cuts and steps; the rate at each step
batch_rule                              images a step by a rule, and how the rate follows
"""

from frostline.strategies.batch_rule import BatchSize, batch_size, halved, names_rate
from frostline.strategies.constructors import (
    full,
    gradual_unfreeze,
    head,
    linear_probe,
    lp_ft,
    phases,
    scratch,
    top_k,
)
from frostline.strategies.describing import descriptions
from frostline.strategies.notation import parse, parse_list, read_strategy
from frostline.strategies.overrides import Overridden, at_defaults, overridden, patience_fault
from frostline.strategies.phase_resolution import (
    ResolvedPhase,
    builds_on_pretrained,
    continued,
    epochs_for,
    scaled,
    schedule,
    stretched,
)
from frostline.strategies.strategy import (
    ALL,
    BN_POLICIES,
    KINDS,
    LATER,
    LAYERS,
    NAMED,
    SCHEDULES,
    SEVERAL,
    SOLVED_SMOOTHING,
    Hyperparameters,
    Phase,
    Strategy,
    hyperparameters,
)
from frostline.strategies.validation import checked, loader_line, optimizers, timm_loadable

__all__ = [
    "ALL",
    "BN_POLICIES",
    "KINDS",
    "LATER",
    "LAYERS",
    "NAMED",
    "SCHEDULES",
    "SEVERAL",
    "SOLVED_SMOOTHING",
    "BatchSize",
    "Hyperparameters",
    "Overridden",
    "Phase",
    "ResolvedPhase",
    "Strategy",
    "at_defaults",
    "batch_size",
    "builds_on_pretrained",
    "checked",
    "continued",
    "descriptions",
    "epochs_for",
    "full",
    "gradual_unfreeze",
    "halved",
    "head",
    "hyperparameters",
    "linear_probe",
    "loader_line",
    "lp_ft",
    "names_rate",
    "optimizers",
    "overridden",
    "parse",
    "parse_list",
    "patience_fault",
    "phases",
    "read_strategy",
    "scaled",
    "schedule",
    "scratch",
    "stretched",
    "timm_loadable",
    "top_k",
]
