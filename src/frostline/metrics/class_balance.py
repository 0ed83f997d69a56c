"""What one number hides: each class by itself, and what is due to how many images each has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from frostline.metrics.scores import METRICS, OVER_CLASSES, Floats, Ints, score

BALANCE = (
    "balanced_accuracy",
    "majority_class",
    "majority_share",
    "worst_class",
    "absent_classes",
    "class_ratio",
)


def summary(
    classes: Sequence[str], targets: Ints, probabilities: Floats, train_counts: Sequence[int] | Ints
) -> dict[str, Any]:
    """Return every metric, each class's precision and recall, and `balance`.

    Parameters
    ----------
    classes : sequence of str
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    train_counts : sequence of int, shape (classes,)
        Training images of each class.

    Returns
    -------
    dict
        Unknown values are None: a mean over classes where one has no images, a rate of no images.
    """
    from sklearn.metrics import precision_recall_fscore_support

    guesses = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, _, support = precision_recall_fscore_support(
        targets, guesses, labels=labels, zero_division=0.0
    )
    predicted_counts = np.bincount(guesses, minlength=len(classes))
    per_class = {
        name: {
            "precision": float(precision[c]) if predicted_counts[c] else None,
            "recall": float(recall[c]) if support[c] else None,
            "images": int(support[c]),
        }
        for c, name in enumerate(classes)
    }
    figures: dict[str, Any] = {name: score(name, targets, probabilities) for name in METRICS}
    imbalance = balance(classes, targets, guesses, train_counts)
    if imbalance["absent_classes"]:
        figures |= dict.fromkeys(OVER_CLASSES)
    return {**figures, **imbalance, "per_class": per_class}


def balance(
    classes: Sequence[str],
    targets: Ints,
    guesses: Ints,
    train_counts: Sequence[int] | Ints,
    images: Ints | None = None,
) -> dict[str, Any]:
    """Return what accuracy hides where classes are imbalanced.

    Parameters
    ----------
    classes : sequence of str
    targets, guesses : ndarray of int64, shape (n,)
    train_counts : sequence of int, shape (classes,)
        Training images of each class.
    images : ndarray of int64 or None, shape (n,)
        Rows with the same number are of the same image, which counts once, by the mean of its predictions.

    Returns
    -------
    dict
        `balanced_accuracy` (None where a class has no images); `majority_class` and `majority_share`, the
        accuracy of always predicting it; `worst_class` with its `label`, `n` images and `accuracy`;
        `absent_classes`, the classes without images; `class_ratio`, the most training images over the fewest.
    """
    _, first, place = np.unique(
        np.arange(len(targets)) if images is None else images, return_index=True, return_inverse=True
    )
    correct = np.bincount(place, weights=(guesses == targets)) / np.bincount(place)
    label = targets[first]
    n_images = np.bincount(label, minlength=len(classes))
    recall = {c: float(correct[label == c].mean()) for c in np.flatnonzero(n_images).tolist()}
    worst = min(recall, key=lambda c: (recall[c], -n_images[c], c))
    counts = np.asarray(train_counts)
    return {
        "balanced_accuracy": float(np.mean(list(recall.values()))) if n_images.all() else None,
        "majority_class": classes[int(counts.argmax())],
        "majority_share": float(n_images[counts.argmax()] / len(label)),
        "worst_class": {"label": classes[worst], "n": int(n_images[worst]), "accuracy": recall[worst]},
        "absent_classes": [classes[c] for c in np.flatnonzero(n_images == 0).tolist()],
        "class_ratio": float(counts.max() / max(1, counts.min())),
    }
