"""Solved heads agree with scikit-learn's, are chosen out of fold, and are safe to start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold

from frostline import metrics, probe
from frostline.config import L2_GRID
from frostline.probe import gpu_loss


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 30)
    features = rng.normal(size=(90, 20)) + 2.0 * rng.normal(size=(3, 20))[targets] + 5.0
    return features.astype(np.float32), targets


def folds(targets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(StratifiedKFold(5, shuffle=True, random_state=0).split(targets, targets))


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_logistic_regression_is_scikit_learns(blobs: tuple[np.ndarray, np.ndarray], l2: float) -> None:
    features, targets = blobs
    solution = probe.logistic(features, targets, 3, l2=l2)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    scaled = centred / np.sqrt((centred**2).sum(1).mean())
    other = LogisticRegression(C=1 / (l2 * len(targets)), tol=1e-10, max_iter=10_000).fit(scaled, targets)
    assert metrics.softmax(solution.logits(features)) == pytest.approx(other.predict_proba(scaled), abs=2e-3)


@pytest.mark.parametrize("rows", [90, 12])  # more images than features, and fewer
def test_ridge_is_scikit_learns(blobs: tuple[np.ndarray, np.ndarray], rows: int) -> None:
    features, targets = (part[:: 90 // rows][:rows] for part in blobs)
    solution = probe.ridge(features, targets, 3, l2=0.01)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    scaled = centred / np.sqrt((centred**2).sum(1).mean())
    other = Ridge(alpha=0.01 * rows).fit(scaled, 2 * np.eye(3)[targets] - 1)
    assert solution.logits(features) == pytest.approx(other.predict(scaled), abs=1e-6)


@pytest.mark.parametrize("solver", probe.SOLVERS)
def test_noise_is_not_mistaken_for_knowledge(solver: str) -> None:
    """More features than images: a fit is perfect, a choice by held-out images must know better."""
    rng = np.random.default_rng(3)
    features, targets = rng.normal(size=(60, 600)), np.tile(np.arange(2), 30)
    solution = probe.choose(features, targets, 2, folds(targets), solver=solver)
    assert (solution.logits(features).argmax(1) == targets).mean() == 1.0
    assert solution.cv_score is not None
    assert solution.cv_score < 0.75


def test_features_that_do_not_vary_get_no_weight(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    """They would wake up under augmentation: a per-feature standardisation gives them huge weights."""
    features, targets = blobs
    quiet = 1e-7 * np.random.default_rng(1).normal(size=(90, 5)).astype(np.float32)
    solution = probe.logistic(np.concatenate([features, quiet], axis=1), targets, 3, l2=1e-3)
    assert np.abs(solution.weight[:, 20:]).max() < 1e-3 * np.abs(solution.weight[:, :20]).max()


def test_smoothed_labels_keep_logits_in_range(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    features, targets = blobs
    sharp = probe.logistic(features, targets, 3, l2=1e-6)
    soft = probe.logistic(features, targets, 3, l2=1e-6, label_smoothing=0.1)
    assert np.ptp(soft.logits(features)) < 0.5 * np.ptp(sharp.logits(features))


@pytest.mark.parametrize("fit", [probe.logistic, probe.ridge])
def test_an_image_of_weight_two_counts_as_two(
    blobs: tuple[np.ndarray, np.ndarray], fit: Callable[..., probe.Solution]
) -> None:
    features, targets = blobs
    first = targets == 0
    weighted = fit(features, targets, 3, l2=0.01, weights=np.where(first, 2.0, 1.0))
    twice = fit(np.concatenate([features, features[first]]), np.r_[targets, targets[first]], 3, l2=0.01)
    assert weighted.logits(features) == pytest.approx(twice.logits(features), abs=5e-3)


def test_a_fit_takes_tens_of_steps_where_directions_differ_by_orders_of_magnitude(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import scipy.optimize

    steps: list[int] = []
    real = scipy.optimize.minimize

    def counting(*arguments: object, **options: object) -> object:
        outcome = real(*arguments, **options)  # type: ignore[call-overload]
        steps.append(outcome.nfev)
        return outcome

    monkeypatch.setattr(scipy.optimize, "minimize", counting)
    rng = np.random.default_rng(0)
    targets = np.tile(np.arange(5), 60)
    spread = np.arange(1, 201) ** -1.0  # as the features of a network fall off
    features = (rng.normal(size=(300, 200)) + rng.normal(size=(5, 200))[targets]) * spread
    head = probe.choose(features, targets, 5, folds(targets))
    assert head.cv_images == 300
    assert len(steps) < 8 * 5 + 1, "more than eight of eleven L2s were tried"
    assert max(steps) < 80


def test_very_many_classes_are_chosen_for_by_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.probe import l2_selection

    rng = np.random.default_rng(0)
    targets = np.tile(np.arange(20), 6)
    features = rng.normal(size=(120, 30)) + 2.0 * rng.normal(size=(20, 30))[targets]
    whole = probe.choose(features, targets, 20, folds(targets))
    monkeypatch.setattr(l2_selection, "ONE_FOLD", 1)
    one = probe.choose(features, targets, 20, folds(targets))
    assert (whole.cv_images, one.cv_images) == (120, 24)
    assert probe.answers(features, targets, 20, folds(targets)).shape == (120, 20)
    right = [(head.logits(features).argmax(1) == targets).mean() for head in (whole, one)]
    assert right[1] == pytest.approx(right[0], abs=0.1)


def test_without_folds_the_middle_of_the_grid_is_taken() -> None:
    features, targets = np.eye(3), np.arange(3)
    solution = probe.choose(features, targets, 3, [])
    assert solution.l2 in L2_GRID
    assert solution.cv_score is None


def test_a_head_that_a_card_solves_for_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretended_card import CARD, pretended

    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    features = (rng.normal(size=(60, 8)) + np.eye(8)[targets] * 2).astype(np.float32)
    here = probe.logistic(features, targets, 3, l2=1e-3, label_smoothing=0.1)
    steps: list[int] = []
    real = gpu_loss.LossOnCard.__call__

    def counted(self: gpu_loss.LossOnCard, *head: Any) -> Any:
        steps.append(1)
        return real(self, *head)

    monkeypatch.setattr(gpu_loss.LossOnCard, "__call__", counted)
    monkeypatch.setattr(gpu_loss, "device_for", lambda multiplications: CARD)
    with pretended():
        there = probe.logistic(features, targets, 3, l2=1e-3, label_smoothing=0.1)
    assert len(steps) > 3
    np.testing.assert_allclose(there.weight, here.weight, rtol=2e-2, atol=2e-3)
    assert (there.logits(features).argmax(1) == here.logits(features).argmax(1)).all()


def test_only_a_card_and_only_many_features_are_worth_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from frostline.system import devices

    assert gpu_loss.device_for(gpu_loss.FROM) is None  # a processor computes here
    monkeypatch.setattr(devices, "_best", lambda: "cuda")
    assert gpu_loss.device_for(gpu_loss.FROM) == "cuda"
    assert gpu_loss.device_for(gpu_loss.FROM - 1) is None
