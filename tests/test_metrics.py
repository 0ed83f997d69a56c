"""Figures agree with their definitions; intervals know about groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from frostline import metrics
from frostline.errors import UsageError


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.choice(4, size=200, p=[0.6, 0.2, 0.15, 0.05])
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[targets]
    return targets, metrics.softmax(logits)


def test_scores_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    targets, p = answers
    guesses = p.argmax(1)
    assert metrics.score("accuracy", targets, p) == pytest.approx(sk.accuracy_score(targets, guesses))
    assert metrics.score("balanced_accuracy", targets, p) == pytest.approx(
        sk.balanced_accuracy_score(targets, guesses)
    )
    assert metrics.score("macro_f1", targets, p) == pytest.approx(
        sk.f1_score(targets, guesses, average="macro")
    )
    assert metrics.score("auroc", targets, p) == pytest.approx(
        sk.roc_auc_score(targets, p, multi_class="ovr")
    )
    assert metrics.score("log_loss", targets, p) == pytest.approx(sk.log_loss(targets, p))
    assert metrics.goodness("log_loss", targets, p) == -metrics.score("log_loss", targets, p)


def test_a_class_missing_from_the_part_does_no_harm(answers: tuple[np.ndarray, np.ndarray]) -> None:
    targets, p = answers
    keep = targets != 3
    for name in metrics.METRICS:
        assert np.isfinite(metrics.score(name, targets[keep], p[keep]))
    summary = metrics.summary("abcd", targets[keep], p[keep], [9, 9, 9, 1])
    assert summary["per_class"]["d"]["images"] == 0
    assert summary["per_class"]["d"]["recall"] is None
    assert [summary[name] for name in metrics.OVER_CLASSES] == [None] * 3
    assert summary["absent_classes"] == ["d"]
    assert summary["class_ratio"] == 9.0


def test_unknown_metric_gets_a_suggestion(answers: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="Did you mean 'accuracy'"):
        metrics.score("acuracy", *answers)


def test_wilson_interval_matches_a_published_value() -> None:
    # 81 of 263: Wilson's interval is 0.2553 to 0.3662 (Newcombe 1998, table I).
    targets = np.zeros(263, dtype=np.int64)
    guesses = np.r_[np.zeros(81, dtype=np.int64), np.ones(182, dtype=np.int64)]
    assert metrics.interval(targets, guesses) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_images_of_one_group_are_not_independent_evidence() -> None:
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(10), 40)
    right = np.repeat(rng.random(10) < 0.6, 40)  # a group is right or wrong as a whole
    targets = np.zeros(400, dtype=np.int64)
    guesses = np.where(right, 0, 1)
    alone = metrics.interval(targets, guesses)
    grouped = metrics.interval(targets, guesses, units)
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize("groups", [2, 3, 5, 10, 40])
def test_grouped_intervals_cover_what_they_promise(groups: int) -> None:
    """Accuracy differs from group to group (a beta with mean 0.8); the interval is of that mean."""
    rng = np.random.default_rng(groups)
    units, inside = np.repeat(np.arange(groups), 30), 0
    for _ in range(300):
        right = rng.random(30 * groups) < np.repeat(rng.beta(8, 2, size=groups), 30)
        low, high = metrics.interval(np.zeros(30 * groups, dtype=np.int64), np.where(right, 0, 1), units)
        inside += low <= 0.8 <= high
    assert inside / 300 > 0.9


def test_one_group_tells_nothing_and_one_pair_of_copies_little() -> None:
    zeros = np.zeros(1000, dtype=np.int64)
    assert metrics.interval(zeros, zeros, zeros) == (0.0, 1.0)
    pair = np.r_[0, np.arange(999)]
    low, high = metrics.interval(zeros, zeros, pair)
    assert high == 1.0
    assert low == pytest.approx(metrics.interval(zeros, zeros)[0], abs=1e-4)


def test_temperature_of_a_few_right_answers_is_not_certainty() -> None:
    logits, targets = 3.0 * np.eye(4), np.arange(4)
    assert 0.3 < metrics.fit_temperature(logits, targets) < 1.0


def test_temperature_undoes_a_known_sharpening() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5000, 5))
    targets = np.array([rng.choice(5, p=row) for row in metrics.softmax(logits)])
    assert metrics.fit_temperature(3.0 * logits, targets) == pytest.approx(3.0, rel=0.1)


def test_a_mean_of_equal_numbers_is_as_uncertain_as_what_was_not_seen() -> None:
    zeros = np.zeros(60)
    assert metrics.mean_interval(zeros) == (None, None)
    low, high = metrics.mean_interval(zeros, limits=(0.0, 50.0))
    assert low == 0
    assert high == pytest.approx(50 * binomtest(0, 60).proportion_ci(method="exact").high)
    pairs = np.arange(60) // 2
    assert metrics.mean_interval(zeros, pairs, limits=(0.0, 50.0))[1] == pytest.approx(
        50 * binomtest(0, 30).proportion_ci(method="exact").high
    )
    rare = np.eye(60)[0] * 50
    assert metrics.mean_interval(rare, limits=(0.0, 50.0))[0] == 0  # Student's t alone goes below
    certain = metrics.believed(np.zeros(60, np.int64), np.eye(2)[np.zeros(60, np.int64)])
    assert (certain["log_loss_low"], certain["log_loss_high"]) == (None, None)
    assert certain["brier_high"] > 0.1


def test_groups_that_answer_alike_say_as_much_as_one_image_each() -> None:
    groups = np.repeat(np.arange(10), 20)
    alike = (groups % 2).astype(np.float64)
    assert metrics.design_effect(alike) == 1.0
    assert metrics.design_effect(alike, groups) == pytest.approx(20 * 10 / 9)  # of ten, one degree is spent
    assert metrics.design_effect(alike, np.zeros(200, dtype=np.int64)) == 200.0
    mixed = np.tile([0.0, 1.0], 100)  # every group half right: grouping costs nothing
    assert metrics.design_effect(mixed, groups) == 1.0
