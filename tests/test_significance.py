"""How sure it is that one candidate leads another, and how that is said."""

from __future__ import annotations

import numpy as np
import pytest

from frostline import metrics, sentences
from frostline.selection import added_units, significance
from frostline.selection.outcome_text import _first, verdict_lines
from frostline.selection.significance import HeldOutPredictions


def answers(
    rate: float, *, images: int = 300, repeats: int = 3, seed: int = 0, ties: int = 1
) -> HeldOutPredictions:
    """Invent a candidate that is right about an image with some probability, in two classes."""
    rng = np.random.default_rng(seed)
    targets = np.tile(np.arange(images) % 2, repeats)
    right = rng.random(images * repeats) < rate
    guess = np.where(right, targets, 1 - targets)
    return HeldOutPredictions(
        images=np.tile(np.arange(images), repeats),
        repeats=np.repeat(np.arange(repeats), images),
        units=np.tile(np.arange(images) // ties, repeats),
        targets=targets,
        probabilities=np.eye(2)[guess] * 0.8 + 0.1,
    )


def test_a_clear_lead_is_separated_and_wins() -> None:
    held = {0: answers(0.9, seed=1), 1: answers(0.6, seed=2)}
    verdict = significance.judge(held, {0: 100.0, 1: 1.0}, "accuracy")
    assert (verdict.winner, verdict.leader, verdict.separated) == (0, 0, True)
    assert verdict.differences[1].mean == pytest.approx(0.3, abs=0.06)


def test_too_close_to_call_and_the_cheaper_wins() -> None:
    one = answers(0.8, seed=1)
    other = HeldOutPredictions(one.images, one.repeats, one.units, one.targets, one.probabilities.copy())
    other.probabilities[0] = other.probabilities[0][::-1]  # one image apart
    costs = {0: 100.0, 1: 1.0}
    verdict = significance.judge({0: one, 1: other}, costs, "accuracy")
    assert not verdict.separated
    assert verdict.winner == 1
    assert significance.judge({0: one, 1: other}, {0: 1.0, 1: 100.0}, "accuracy").winner == 0


def test_a_twentieth_of_the_time_decides_nothing() -> None:
    best = answers(0.8, seed=1)
    right = np.flatnonzero(best.probabilities.argmax(axis=1) == best.targets)
    held = {0: best}
    for place in (1, 2):  # one and two images fewer
        worse = best.probabilities.copy()
        worse[right[:place]] = worse[right[:place], ::-1]
        held[place] = HeldOutPredictions(best.images, best.repeats, best.units, best.targets, worse)
    some = {name: held[name] for name in (0, 1)}
    verdict = significance.judge(some, {0: 21.0, 1: 20.0}, "accuracy")
    assert (verdict.winner, verdict.leader, verdict.separated) == (0, 0, False)
    assert significance.judge(some, {0: 24.0, 1: 20.0}, "accuracy").winner == 1
    chain = {0: 111.0, 1: 109.0, 2: 100.0}  # the second saves nothing, and the third a tenth
    assert significance.judge(held, chain, "accuracy").winner == 2
    assert significance.judge(held, {0: 111.0, 1: 101.0, 2: 100.0}, "accuracy").winner == 2
    assert significance.judge(held, {0: 130.0, 1: 101.0, 2: 100.0}, "accuracy").winner == 1


def first_right(count: int, images: int = 60) -> HeldOutPredictions:
    """A candidate that is right about the first so many images."""
    return sure(np.arange(images) < count)


def test_a_cheaper_one_may_be_half_a_point_behind_at_most() -> None:
    held, seconds = {0: first_right(40), 1: first_right(42)}, {0: 1.0, 1: 50.0}
    verdict = significance.judge(held, seconds, "accuracy")  # 3.3 points, a standard error of 2.9
    assert not verdict.separated
    assert (verdict.winner, verdict.leader) == (1, 1)


@pytest.mark.parametrize(
    ("lead", "winner"),
    [
        ((0.05, 0.02), 0),  # earlier trials are surer than 60 images, and say otherwise
        ((0.05, 0.5), 1),  # ... not sure
        ((-0.05, 0.02), 1),  # ... and say the same
        ((0.0, 0.001), 0),  # as good, and cheaper
        (None, 1),
    ],
)
def test_what_was_measured_is_weighed_with_earlier_trials(
    lead: tuple[float, float] | None, winner: int
) -> None:
    held, seconds = {0: first_right(40), 1: first_right(42)}, {0: 1.0, 1: 50.0}
    leads = {} if lead is None else {(0, 1): lead, (1, 0): (-lead[0], lead[1])}
    verdict = significance.judge(held, seconds, "accuracy", leads=leads)
    assert (verdict.winner, verdict.leader) == (winner, 1)
    if lead:
        gap = verdict.differences[0]
        weights = np.array([1 / gap.error**2, 1 / lead[1] ** 2])
        both = np.average([-gap.mean, lead[0]], weights=weights)
        assert verdict.expected[0] == pytest.approx(both)


def test_earlier_trials_do_not_outweigh_a_significant_difference() -> None:
    held = {0: first_right(30), 1: first_right(50)}
    verdict = significance.judge(held, {0: 1.0, 1: 50.0}, "accuracy", leads={(0, 1): (0.3, 0.001)})
    assert verdict.separated
    assert verdict.winner == 1


@pytest.mark.parametrize(
    ("earlier", "expected", "said"),
    [
        (
            0.05,
            0.02,
            "; in earlier trials lp_ft was 5.0 points better on average. By both lp_ft is expected ",
        ),
        (-0.001, -0.002, "; in earlier trials lp_ft was 0.1 points worse on average. By both the two are "),
        (None, -0.004, " and by half a point at most: lp_ft is chosen because it is cheaper."),
    ],
)
def test_it_says_why_the_winner_is_not_who_scored_best(
    earlier: float | None, expected: float, said: str
) -> None:
    result = {
        "winner": "lp_ft",
        "repeats": 1,
        "standings": [{}, {}],
        "separated": False,
        "over_leader": {"measured": -0.011, "earlier": earlier, "expected": expected},
        "differences": [{"leader": "full", "other": "lp_ft", "separated": False}],
    }
    line = _first(result)
    assert line.startswith(f"full leads lp_ft by 1.1 points over 1 repeat, not significantly{said}")
    assert line.endswith(("is chosen.", "is chosen because it is cheaper."))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("log_loss", "by 0.004 of log loss over 1 repeat, not significantly and by 0.005 at most:"),
        (
            "macro_f1",
            "by 0.4 points of macro F1 over 1 repeat, not significantly and by half a point at most:",
        ),
    ],
)
def test_a_cheaper_winner_is_beside_the_leader_in_the_metrics_own_unit(metric: str, words: str) -> None:
    result = {
        "winner": "lp_ft",
        "repeats": 1,
        "standings": [{}, {}],
        "separated": False,
        "metric": metric,
        "over_leader": {"measured": -0.0041, "earlier": None, "expected": -0.0041},
        "differences": [{"leader": "full", "other": "lp_ft", "separated": False}],
    }
    assert _first(result) == f"full leads lp_ft {words} lp_ft is chosen because it is cheaper."


def test_nobody_leads_who_scores_the_same() -> None:
    level = {"leader": "lp_ft", "separated": False, "mean": 0.0, "low": -0.1, "high": 0.1}
    result = {
        "winner": "lp_ft",
        "repeats": 1,
        "standings": [{}, {}],
        "separated": False,
        "finished": True,
        "differences": [{**level, "other": "full"}, {**level, "other": "head", "mean": 0.02}],
    }
    same, over, *_ = verdict_lines(result)
    assert same == (
        "lp_ft and full score the same over 1 repeat: lp_ft is chosen, since full is not clearly cheaper."
    )
    assert over == "lp_ft over full: 0.0 points (-10.0 to +10.0), not significantly different."
    several = {**result, "metric": "macro_f1", "differences": [{**level, "other": one} for one in ("a", "b")]}
    assert _first(several) == (
        "lp_ft, a and b score the same by macro F1 over 1 repeat: lp_ft is chosen, since none of the others "
        "is clearly cheaper."
    )
    cheaper = {**result, "over_leader": {"measured": -0.0, "earlier": None, "expected": -0.0}}
    cheaper["differences"] = [{**level, "leader": "full", "other": "lp_ft"}]
    assert _first(cheaper) == (
        "full and lp_ft score the same over 1 repeat: lp_ft is chosen because it is cheaper."
    )
    cheaper["over_leader"] = {"measured": -0.0, "earlier": 0.02, "expected": 0.01}
    assert _first(cheaper).startswith("full and lp_ft score the same over 1 repeat; in earlier trials lp_ft")


def test_of_cuts_that_freeze_the_same_none_unfreezes_fewer_layers() -> None:
    result = {
        "winner": "linear_probe",
        "repeats": 1,
        "standings": [{}, {}],
        "separated": False,
        "differences": [{"leader": "head", "other": "linear_probe", "separated": False}],
    }
    assert _first(result).endswith("linear_probe is chosen because it is fitted without epochs.")
    deeper = {**result, "differences": [{**result["differences"][0], "leader": "top_k(1)"}]}
    assert _first(deeper).endswith("linear_probe is chosen because it unfreezes fewer layers.")


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_interval_of_a_difference_covers_the_truth(metric: str) -> None:
    inside = 0
    for seed in range(20):
        one, other = answers(0.8, seed=2 * seed, images=100), answers(0.75, seed=2 * seed + 1, images=100)
        interval = significance.difference(one, other, metric, seed)
        inside += interval.low <= 0.05 <= interval.high
    assert 16 <= inside <= 20


def test_images_that_hang_together_widen_the_interval() -> None:
    alone = significance.difference(answers(0.8, seed=1), answers(0.7, seed=2), "accuracy")

    def tied(rate: float, seed: int) -> HeldOutPredictions:
        right = answers(rate, seed=seed, images=30)
        rows = np.tile(np.repeat(np.arange(30), 10), 3) + np.repeat(np.arange(3) * 30, 300)
        return HeldOutPredictions(
            np.tile(np.arange(300), 3),
            np.repeat(np.arange(3), 300),
            right.units[rows],
            right.targets[rows],
            right.probabilities[rows],
        )

    together = significance.difference(tied(0.8, 1), tied(0.7, 2), "accuracy")
    assert together.error > 2 * alone.error


def sure(right: np.ndarray, repeats: int = 1) -> HeldOutPredictions:
    """Predictions in three classes that are right (n,) or not, the same in each repeat."""
    count = len(right)
    targets = np.arange(count) % 3
    guesses = np.where(right, targets, (targets + 1) % 3)
    return HeldOutPredictions(
        images=np.tile(np.arange(count), repeats),
        repeats=np.repeat(np.arange(repeats), count),
        units=np.tile(np.arange(count), repeats),
        targets=np.tile(targets, repeats),
        probabilities=np.tile(np.eye(3)[guesses] * 0.85 + 0.05, (repeats, 1)),
    )


def share_right(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """A caller's own metric."""
    return float((probabilities.argmax(axis=1) == targets).mean())


@pytest.mark.parametrize(
    ("metric", "repeats"),
    [
        *[("accuracy", 1), ("accuracy", 3), ("macro_f1", 1), ("log_loss", 1), (share_right, 3)],
        pytest.param("auroc", 1, marks=pytest.mark.slow),
    ],
)
def test_candidates_that_never_differ_may_differ_on_other_images(
    metric: metrics.Metric, repeats: int
) -> None:
    right = np.arange(60) % 5 > 0
    alike = significance.difference(sure(right, repeats), sure(right, repeats), metric)
    assert alike.mean == 0
    assert alike.low < -0.01
    assert alike.high > 0.01
    assert alike.error > 0


def shuffled(held: HeldOutPredictions, seed: int) -> HeldOutPredictions:
    """The same rows in another order."""
    order = np.random.default_rng(seed).permutation(len(held.images))
    return HeldOutPredictions(
        held.images, held.repeats, held.units, held.targets[order], held.probabilities[order]
    )


def of_own(own: np.ndarray) -> HeldOutPredictions:
    """Predictions in three classes that give each image's class a probability (n,)."""
    count = len(own)
    targets = np.arange(count) % 3
    probabilities = np.repeat((1 - own[:, None]) / 2, 3, axis=1)
    probabilities[np.arange(count), targets] = own
    return HeldOutPredictions(
        np.arange(count), np.zeros(count, np.int64), np.arange(count), targets, probabilities
    )


def test_the_interval_of_a_log_loss_is_a_paired_t_in_whatever_order() -> None:
    rng = np.random.default_rng(0)
    own = rng.uniform(0.5, 0.95, 60)
    other = own - rng.uniform(0, 0.2, 60)
    own[0] = 1 - 1e-7  # the first of its class is very sure
    gains = np.log(own) - np.log(other)
    half = 2.001 * gains.std(ddof=1) / 60**0.5  # Student's t of 59 degrees of freedom
    for seed in range(4):
        pair = [shuffled(of_own(values), seed) for values in (own, other)]
        gap = significance.difference(*pair, "log_loss")
        assert (gap.mean, gap.low, gap.high) == pytest.approx(
            (gains.mean(), gains.mean() - half, gains.mean() + half), rel=1e-3
        )


def test_repeats_that_differ_widen_the_interval_of_a_log_loss() -> None:
    def twice(moves: tuple[float, float]) -> HeldOutPredictions:
        halves = [of_own(np.linspace(0.5, 0.9, 60) - move) for move in moves]
        return HeldOutPredictions(
            np.tile(np.arange(60), 2),
            np.repeat([0, 1], 60),
            np.tile(np.arange(60), 2),
            np.concatenate([half.targets for half in halves]),
            np.concatenate([half.probabilities for half in halves]),
        )

    same = significance.difference(twice((0, 0)), twice((0.1, 0.1)), "log_loss")
    apart = significance.difference(twice((0, 0)), twice((0.0, 0.2)), "log_loss")
    assert apart.error > 5 * same.error
    assert same.separated
    assert not apart.separated


def test_added_units_are_the_same_in_whatever_order_images_stand() -> None:
    own = np.random.default_rng(0).uniform(0.1, 0.95, 60)
    samples = []
    for seed in range(4):
        held = shuffled(of_own(own), seed)
        both = [held.probabilities, held.probabilities**2]
        sample = added_units.add(held.targets, both, held.units, added_units.OF_TWO)
        samples.append([matrix[60:] for matrix in sample.probabilities])
    for sample in samples[1:]:
        np.testing.assert_array_equal(sample, samples[0])


@pytest.mark.parametrize("metric", ["accuracy", share_right])
def test_three_images_on_which_one_alone_is_right_show_little(metric: metrics.Metric) -> None:
    few = significance.difference(sure(np.ones(3, bool)), sure(np.zeros(3, bool)), metric)
    assert few.low < 0 < few.mean == few.high == 1
    assert not few.separated
    assert significance.difference(sure(np.ones(30, bool)), sure(np.zeros(30, bool)), metric).separated


@pytest.mark.parametrize("discordant", [0, 2, 4, 6, 12])
def test_the_interval_of_few_discordant_images_is_bonett_and_prices(discordant: int) -> None:
    count = 60
    other = np.ones(count, bool)
    other[:discordant] = False
    found = significance.difference(sure(np.ones(count, bool)), sure(other), "accuracy")
    first, second = (discordant + 1) / (count + 2), 1 / (count + 2)
    half = metrics.Z95 * ((first + second - (first - second) ** 2) / (count + 2)) ** 0.5
    assert found.low == pytest.approx(first - second - half, abs=0.02)
    assert found.high == pytest.approx(first - second + half, abs=0.02)


def test_the_verdict_says_how_much_was_seen() -> None:
    apart = {"leader": "full", "other": "head", "mean": 0.1, "low": 0.05, "high": 0.2, "separated": True}
    result = {
        "winner": "full",
        "repeats": 1,
        "standings": [{}, {}],
        "differences": [apart],
        "separated": False,  # on one repeat nothing is
        "finished": True,
        "accuracy": 0.9,
        "low": 0.8,
        "high": 0.95,
        "test_evaluations": 1,
    }
    first, *_ = verdict_lines(result)
    assert first == "full leads every other over 1 repeat: not enough to name a winner."
    headline = {**result, "basis": "test set"}
    assert "images that no decision has used" in sentences.accuracy(headline)
    assert "3 configurations have been evaluated on" in sentences.accuracy(
        {**headline, "test_evaluations": 3}
    )
    three = {**result, "repeats": 3, "separated": True}
    once = {**three, "differences": [{**apart, "repeats": 1}, {**apart, "mean": 0.2, "repeats": 3}]}
    first_alone = " on the first repeat alone"
    assert verdict_lines(once)[1:3] == [
        f"full over head{first_alone}: +10.0 points (+5.0 to +20.0), significant.",
        "full over head: +20.0 points (+5.0 to +20.0), significant.",
    ]
    assert verdict_lines(three)[0].startswith("full wins over 3 repeats, significantly better")
    for metric, first, second in (
        ("average_precision", "leads every other by average precision", "+10.0 points of average precision"),
        ("log_loss", "by log loss over 1 repeat", "log loss 0.100 lower (+0.050 to +0.200)"),
        ("quadratic_kappa", "by quadratic kappa", "quadratic kappa +0.100 (+0.050 to +0.200)"),
        ("profit", "by profit", "profit +0.100 (+0.050 to +0.200)"),
        ("sensitivity@specificity=0.9", "by sensitivity at a specificity of 0.9", "+10.0 points of sens"),
    ):
        lines = verdict_lines({**result, "metric": metric})
        assert first in lines[0]
        assert second in lines[1]
    alone = {**result, "differences": [], "folds": 1, "standings": [{"winner": True, "folds": 1}, {}]}
    assert (
        verdict_lines(alone)[0]
        == "full was evaluated on 1 repeat, and no other was: not enough to name a winner."
    )
    held = {**result, "folds": 5, "judged_on_folds": 1, "out_of_fold": {"images": 54}}
    assert verdict_lines(held)[0].startswith("full leads every other over one hold-out of 54 images")
    ahead = {**held, "out_of_fold": {"images": 54, "runs": list("abcde")}}  # the 54 are of all folds
    assert verdict_lines(ahead)[0].startswith("full leads every other over the first of 5 folds:")
    probed = {**held, "differences": [], "standings": [{"winner": True, "folds": 5}, {}]}
    assert verdict_lines(probed)[0].startswith("full was evaluated on all 5 folds, and no other was")


def test_a_challenger_is_promising_until_it_has_all_its_folds() -> None:
    result = {
        "winner": "head",
        "repeats": 1,
        "folds": 5,
        "standings": [{"winner": True, "folds": 5}, {}],
        "differences": [],
        "separated": False,
        "finished": False,
        "accuracy": None,
        "promising": [{"strategy": "full", "folds": 1, "ahead": 0.056, "beside": "head"}],
        "ended_because": "full would take about 40 s more, and 22 s were left.",
    }
    _, promising, ended = verdict_lines(result)
    assert promising == "full is promising: 1 of 5 folds, +5.6 points compared with head on the same images."
    assert ended == result["ended_because"]
