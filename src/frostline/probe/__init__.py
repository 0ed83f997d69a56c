"""Heads that are solved for instead of trained: logistic regression and closed-form ridge on features.

feature_scaling ── logistic · ridge     features made ready once; one head for one L2
gpu_loss                                the loss and its slope on a GPU, where features are many
l2_selection                            which L2, by images that a fit has not seen

Features have shape (n, width), targets (n,). They are centred and divided by one number, their root mean
square length, never by a spread per feature: folding per-feature standardisation back into a head gives
features that barely vary on the training set enormous weights, which wake up under augmentation
(tests/test_starting_head.py shows it). Imports no torch before a GPU solves.
"""

from __future__ import annotations

from frostline.config import L2_GRID
from frostline.probe.feature_scaling import Solution, block_scales
from frostline.probe.l2_selection import (
    Folds,
    answers,
    choose,
    least_loss_near_best,
    logistic,
    out_of_fold,
    path,
    ridge,
)
from frostline.probe.ridge import GRID as RIDGE_GRID

SOLVERS = {"logistic": L2_GRID, "ridge": RIDGE_GRID}

__all__ = [
    "RIDGE_GRID",
    "SOLVERS",
    "Folds",
    "Solution",
    "answers",
    "block_scales",
    "choose",
    "least_loss_near_best",
    "logistic",
    "out_of_fold",
    "path",
    "ridge",
]
