"""Scores of features for labels, without fitting a classifier that is used later: LogME, H-score, k-NN.

Features have shape (n, width), targets (n,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frostline.probe import Folds

Ints = NDArray[np.int64]
Features = NDArray[np.floating]

NEIGHBOURS = 5  # scikit-learn's default; odd, so that two classes rarely tie
ROUNDS = 20  # of LogME's fixed point: it settles in under ten on every set that was tried
SETTLED = 1e-3  # relative change of the ratio at which it has settled (the value of its authors' paper)


def log_me(features: Features, targets: Ints, classes: int) -> float:
    """Return LogME: the log evidence per image of Bayesian linear regression onto each class, averaged.

    arXiv 2102.11005. The prior's and the noise's precision are set by the fixed point of its section 4.
    """
    x = features.astype(np.float64)
    n, width = x.shape
    length = float(np.sqrt((x**2).sum() / n))
    if not length:  # every image looks alike, so there is nothing but noise
        shares = np.bincount(targets, minlength=classes) / n
        return float(np.mean([-0.5 * (np.log(2 * np.pi * max(share, 1 / n)) + 1) for share in shares]))
    x /= length  # changes no evidence, and keeps the small constants below small
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    sigma = singular**2
    evidences = []
    for label in range(classes):
        y = (targets == label).astype(np.float64)
        along = (left.T @ y) ** 2
        outside = max(0.0, float(y @ y - along.sum()))
        alpha = beta = 1.0
        for _ in range(ROUNDS):
            ratio = alpha / beta
            freedom = float((sigma / (sigma + ratio)).sum())
            size = float((sigma * along / (sigma + ratio) ** 2).sum())  # |mean of the weights|²
            error = outside + float((along * (ratio / (sigma + ratio)) ** 2).sum())
            noise = n - len(sigma) + float((ratio / (sigma + ratio)).sum())  # n - freedom
            alpha, beta = freedom / (size + 1e-9), noise / (error + 1e-9)
            if abs(alpha / beta - ratio) <= SETTLED * ratio:
                break
        log_det = float(np.log(alpha + beta * sigma).sum()) + (width - len(sigma)) * np.log(alpha)
        evidence = width * np.log(alpha) + n * np.log(beta) - n * np.log(2 * np.pi) - log_det
        evidences.append((evidence - beta * error - alpha * size) / (2 * n))
    return float(np.mean(evidences))


def h_score(features: Features, targets: Ints, classes: int) -> float:
    """Return the H-score: how much of the features' spread lies between class means (Bao et al. 2019).

    tr(cov⁻¹ cov_between), both shrunk by what Ledoit and Wolf find (arXiv 2110.06893): without that it grows
    with the width alone. At most `classes` − 1.
    """
    from scipy import linalg
    from sklearn.covariance import ledoit_wolf

    x = features.astype(np.float64)
    x = x - x.mean(axis=0)
    covariance, shrunk = ledoit_wolf(x, assume_centered=True)
    present = [targets == label for label in range(classes) if (targets == label).any()]
    means = np.stack([x[members].mean(axis=0) for members in present])
    try:
        solved = linalg.cho_solve(linalg.cho_factor(covariance), means.T)
    except linalg.LinAlgError:  # not shrunk, and fewer images than features
        solved = np.linalg.lstsq(covariance, means.T, rcond=None)[0]
    between = (means * solved.T).sum(axis=1)  # of each class: mean · cov⁻¹ mean
    return float(
        (1.0 - shrunk) * sum(members.mean() * b for members, b in zip(present, between, strict=True))
    )


def nearest_neighbours(features: Features, targets: Ints, folds: Folds) -> float:
    """Return the share of held-out images whose five nearest by cosine vote for the right class."""
    from sklearn.neighbors import KNeighborsClassifier

    correct = []
    for train, held_out in folds:
        classifier = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine")
        correct.append(
            classifier.fit(features[train], targets[train]).predict(features[held_out]) == targets[held_out]
        )
    return float(np.concatenate(correct).mean())
