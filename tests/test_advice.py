"""Advice from invented experience: what it learns, what it refuses, and what it says when it knows little."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frostline.advice import Budget, Case, advice_wording, advise, recommendation
from frostline.advice.advice_wording import TIME_MARGIN
from frostline.advice.forecast import (
    EQUAL,
    OWN_CHANCE,
    UNKNOWN,
    average_leads,
    bases_of,
    choose_strategy,
    fit,
)
from frostline.advice.knowledge import Facts, Trial, read_experience, read_tasks
from frostline.cost import Cost
from frostline.errors import UsageError
from frostline.strategies import parse
from test_cost import DEAR

SETS = ("a", "b", "c", "d", "e", "f")
TWICE = (*SETS, "g", "h", "i", "j", "k", "l")  # enough to prove that departing from the default pays


def trials_of(gain: Any, seeds: int = 4, noise: float = 0.005, sets: tuple[str, ...] = SETS) -> list[Trial]:
    """Sets of rising similarity at two sizes; `gain(strategy, similarity, images)` over the probe."""
    rng = np.random.default_rng(0)
    trials = []
    for place, name in enumerate(sets):
        for images in (80, 400):
            for seed in range(seeds):
                facts = Facts(images, 10, 0.1 + 0.5 * place / (len(sets) - 1), 0.5, 0.02, 0.05)
                names = ("linear_probe", "top_k(1)", "lp_ft", "full")
                accuracy = {s: 0.5 + gain(s, facts.similarity, images) + noise * rng.normal() for s in names}
                trials.append(
                    Trial("net", 96, name, images // 10, seed, facts, accuracy, dict.fromkeys(names), {})
                )
    return trials


def by_similarity(strategy: str, similarity: float, images: int) -> float:
    return {"linear_probe": 0.0, "top_k(1)": 0.05, "lp_ft": 0.35 - 0.75 * similarity, "full": 0.03}[strategy]


def constantly(strategy: str, similarity: float, images: int) -> float:
    return {"linear_probe": 0.0, "top_k(1)": 0.05, "lp_ft": 0.1, "full": 0.09}[strategy]


SECONDS = {"linear_probe": 1.0, "top_k(1)": 3.0, "lp_ft": 20.0, "full": 25.0}


def facts(similarity: float) -> Facts:
    return Facts(200, 10, similarity, 0.5, 0.0, 0.05)


# --- the forecast -------------------------------------------------------------------------------------


def test_it_learns_what_similarity_decides() -> None:
    model = fit(trials_of(by_similarity, sets=TWICE), shrink=1.0)
    assert choose_strategy(model, facts(0.15), SECONDS).strategy == "lp_ft"
    assert choose_strategy(model, facts(0.55), SECONDS).strategy == "top_k(1)"
    expected = {e.strategy: e for e in model.forecasts(facts(0.3))}
    assert expected["lp_ft"].accuracy == pytest.approx(0.5 + 0.35 - 0.75 * 0.3, abs=0.02)
    assert expected["lp_ft"].low < expected["lp_ft"].accuracy < expected["lp_ft"].high


def test_shrunk_it_is_the_best_constant() -> None:
    model = fit(trials_of(by_similarity), shrink=1e9)
    for similarity in (0.1, 0.6):
        gains = dict(zip(model.strategies, model.gains(facts(similarity)), strict=True))
        assert gains["lp_ft"] == pytest.approx(0.35 - 0.75 * 0.35, abs=0.01)


def test_errors_come_from_sets_that_were_left_out() -> None:
    """One set behaves like no other: its errors must be large though the fit could have bent towards it."""
    odd = [
        replace(t, accuracy={s: a + (0.2 if s == "full" else 0.0) for s, a in t.accuracy.items()})
        if t.set == "c"
        else t
        for t in trials_of(constantly)
    ]
    model = fit(odd)
    place = model.strategies.index("full")
    assert model.errors is not None
    errors = {name: model.errors.values[place][[t.set == name for t in odd]] for name in SETS}
    assert errors["c"].mean() > 0.15
    assert abs(errors["a"].mean()) < 0.1
    assert model.half_width(place, facts(0.3)) > model.half_width(model.strategies.index("lp_ft"), facts(0.3))


def test_intervals_hold_four_outcomes_of_five() -> None:
    trials = trials_of(constantly, seeds=20, noise=0.03)
    model = fit(trials)
    new = trials_of(constantly, seeds=20, noise=0.03)
    held = [e.low <= t.accuracy[e.strategy] <= e.high for t in new for e in model.forecasts(t.facts)]
    assert 0.7 <= np.mean(held) <= 0.9


def test_of_two_that_cannot_be_separated_the_cheaper() -> None:
    close = {"linear_probe": 0.0, "top_k(1)": 0.0995, "lp_ft": 0.1, "full": 0.09}
    model = fit(trials_of(lambda s, similarity, images: close[s], noise=0.02))
    assert choose_strategy(model, facts(0.3), SECONDS).strategy == "top_k(1)"
    difference_error = fit(trials_of(constantly, noise=0.002))
    assert choose_strategy(difference_error, facts(0.3), SECONDS).strategy == "lp_ft"
    behind = {**close, "top_k(1)": 0.098}
    model = fit(trials_of(lambda s, similarity, images: behind[s], noise=0.002))
    assert choose_strategy(model, facts(0.3), SECONDS).strategy == "top_k(1)"
    as_quick = {**SECONDS, "top_k(1)": 0.95 * SECONDS["lp_ft"]}
    assert choose_strategy(model, facts(0.3), as_quick).strategy == "lp_ft"


@pytest.mark.parametrize(("spread", "picked"), [(0.001, "top_k(1)"), (0.005, "lp_ft")])
def test_a_cheaper_one_must_be_known_to_do_the_same(spread: float, picked: str) -> None:
    """Two standard errors over sets are added to how far it is behind."""
    lead = {name: 0.001 + (-1) ** place * spread for place, name in enumerate(SETS)}
    trials = [
        replace(trial, accuracy={"lp_ft": 0.6 + lead[trial.set], "top_k(1)": 0.6, "linear_probe": 0.5})
        for trial in trials_of(constantly, noise=0.0)
    ]
    model, own = fit(trials), trials[0].facts
    seconds = {"lp_ft": 10.0, "top_k(1)": 5.0, "linear_probe": 1.0}
    assert model.default == "lp_ft"
    error = model.difference_error("lp_ft", "top_k(1)")
    behind = model.mean_lead("lp_ft", "top_k(1)", own)
    assert behind + error < EQUAL  # with one they would be
    assert choose_strategy(model, own, seconds).strategy == picked


def test_leads_are_those_of_earlier_trials() -> None:
    """Of what is left to gain, and without the chance of which images were tested."""
    lead = {name: 0.1 + 0.03 * (-1) ** place for place, name in enumerate(SETS)}
    trials = [
        replace(trial, accuracy={"lp_ft": 0.6 + lead[trial.set], "top_k(1)": 0.6, "linear_probe": 0.5})
        for trial in trials_of(constantly, noise=0.0)
    ]
    model, own = fit(trials), trials[0].facts
    leads = model.leads(own)
    mean, spread = leads["lp_ft", "top_k(1)"]
    assert mean == pytest.approx(0.1, abs=0.01)
    assert 0.02 < spread < 0.05
    assert leads["top_k(1)", "lp_ft"] == pytest.approx((-mean, spread))
    easier = replace(own, linear_probe=1 - (1 - own.frozen) / 4)  # a quarter of the error: half the unit
    assert model.leads(easier)["lp_ft", "top_k(1)"][0] == pytest.approx(mean / 2)
    once = [replace(trials[0], accuracy={**trials[0].accuracy, "full": 0.9}), *trials[1:]]
    assert not any("full" in pair for pair in fit(once).leads(own))


def test_strategies_that_were_never_tried_beside_each_other_are_compared_by_way_of_their_base() -> None:
    trials = trials_of(constantly, seeds=8, noise=0.004)
    variants = ("lp_ft(epochs=4)", "lp_ft(refit_layers=4)")  # half of the trials have the one or the other
    gains = (-0.08, 0.015)
    trials = [
        replace(t, accuracy={**t.accuracy, variants[n % 2]: t.accuracy["lp_ft"] + gains[n % 2]})
        for n, t in enumerate(trials)
    ]
    model = fit(trials)
    steps = [model.difference_error(name, "lp_ft") for name in variants]
    assert model.difference_error(*variants) == pytest.approx(np.hypot(*steps))
    assert model.difference_error("full", variants[0]) < UNKNOWN  # tried beside it
    ten = dict.fromkeys(model.strategies, 10.0)
    forecasts = {e.strategy: e for e in model.forecasts(facts(0.3))}
    inputs = advice_wording.Inputs(
        facts(0.3), model, forecasts, ten, dict.fromkeys(ten, ""), variants[1], "lp_ft"
    )
    assert "points" in advice_wording.reason(inputs, variants[0])
    assert "not significantly different" not in advice_wording.reason(inputs, variants[0])


def test_departing_from_the_default_must_have_paid_on_sets_left_out() -> None:
    """Noise that differs from set to set is no reason to depart; what similarity decides is."""
    rng = np.random.default_rng(1)
    luck = {}
    for name in ("top_k(1)", "full"):
        drawn = 0.06 * rng.normal(size=len(SETS))
        luck |= {(s, name): value for s, value in zip(SETS, drawn - drawn.mean(), strict=True)}
    noisy = [
        replace(t, accuracy={s: a + luck.get((t.set, s), 0.0) for s, a in t.accuracy.items()})
        for t in trials_of(constantly)
    ]
    model = fit(noisy, shrink=0.1)
    assert (model.default, model.departs_from_default) == ("lp_ft", False)
    for similarity in (0.05, 0.3, 0.7):
        assert choose_strategy(model, facts(similarity), SECONDS).strategy == "lp_ft"
    assert fit(trials_of(by_similarity, sets=TWICE), shrink=1.0).departs_from_default
    without = {name: s for name, s in SECONDS.items() if name != "lp_ft"}
    assert choose_strategy(model, facts(0.3), without).strategy in without


def test_a_probe_of_fewer_images_widens_the_interval() -> None:
    trials = trials_of(constantly, noise=0.03)
    model = fit([replace(t, facts=replace(t.facts, measured=400)) for t in trials])
    widths = [model.half_width(0, replace(facts(0.3), measured=count)) for count in (1600, 400, 25)]
    assert widths[0] < widths[1] < widths[2] / 1.5


def test_every_set_weighs_the_same_however_many_trials_it_has() -> None:
    trials = trials_of(constantly)
    often = [t for t in trials for _ in range(20 if t.set == "a" else 1)]
    once, weighted = fit(trials), fit(often)
    assert weighted.mean == pytest.approx(once.mean)
    assert weighted.half_width(0, facts(0.3)) == pytest.approx(once.half_width(0, facts(0.3)))


def test_a_strategy_of_few_trials_is_compared_within_them() -> None:
    """It was tried where everything reached 20 points more: that is not its merit."""
    trials = trials_of(constantly)
    easy = [
        replace(t, accuracy={n: a + 0.2 for n, a in t.accuracy.items()} | {"new": t.accuracy["lp_ft"] + 0.2})
        for t in trials
    ]
    model = fit([*trials, *easy])
    assert model.mean_lead("new", "lp_ft", facts(0.3)) == pytest.approx(0.0, abs=0.01)


def test_regret_is_what_the_best_in_hindsight_had_more() -> None:
    model = fit(trials_of(constantly, noise=0.02))
    regrets = {
        name: np.mean(list(model.regret_by_set(facts(0.3), name, model.strategies).values()))
        for name in model.strategies
    }
    assert min(regrets, key=regrets.__getitem__) == "lp_ft"
    assert regrets["linear_probe"] == pytest.approx(0.11, abs=0.02)
    assert 0 < regrets["lp_ft"] < 0.02


def test_the_luck_of_few_test_images_is_no_regret() -> None:
    """All strategies are equally good: who leads on 50 test images was lucky."""
    noise = (0.25 * OWN_CHANCE / 50) ** 0.5
    lucky = trials_of(lambda strategy, similarity, images: 0.0, seeds=20, noise=noise)
    believed, known = (
        np.mean(list(model.regret_by_set(facts(0.3), "lp_ft", model.strategies).values()))
        for model in (fit(lucky), fit([replace(t, tested=50) for t in lucky]))
    )
    assert believed > 0.03
    assert known < believed / 2


def test_a_trial_with_few_test_images_weighs_less_within_its_set() -> None:
    trials = trials_of(constantly)
    loud = [
        replace(t, accuracy={**t.accuracy, "lp_ft": 0.0}, tested=20)
        if t.seed == 0
        else replace(t, tested=2000)
        for t in trials
    ]
    even = [replace(t, tested=0) for t in loud]
    leads = [average_leads(some)["lp_ft"] for some in (trials, loud, even)]
    assert leads[0] > leads[1] > leads[2] + 0.02


def test_a_variant_is_compared_with_its_strategy_without_it() -> None:
    """It was tried on small tasks alone, where the strategy itself gains less than elsewhere."""
    trials = trials_of(constantly)
    small = []
    for trial in trials:
        less = {name: 0.5 + (accuracy - 0.5) / 4 for name, accuracy in trial.accuracy.items()}
        small.append(replace(trial, accuracy={**less, "lp_ft(refit_layers=4)": less["lp_ft"] + 0.02}))
    model = fit([*trials, *small])
    assert model.mean_lead("lp_ft(refit_layers=4)", "lp_ft", facts(0.3)) == pytest.approx(0.02, abs=0.005)
    assert model.default == "lp_ft(refit_layers=4)"
    assert bases_of(model.strategies, [*trials, *small])["lp_ft"] is None


def test_small_tasks_are_trials_of_their_set(tmp_path: Path) -> None:
    known = {
        "n_classes": 3,
        "n_measured": 30,
        "similarity": 0.4,
        "probes": [0.5, 0.7, 0.6],
        "linear_probe": [0.8, 12.5],
        "curve": [[6, 0.4], [12, 0.5], [24, 0.6]],
        "log_me": [0.1, 0.3, 0.2],
        "h_score": [1.0, 2.0, 3.0],
    }
    row = {"recipe": 2, "task": 7, "set": "a", "model": "net", "size": 48, "n_train": 30, "n_test": 90}
    lines = [
        {**row, "signals": known, "runs": {"lp_ft": [0.9, None, 2.5]}},
        {**row, "task": 8, "signals": {**known, "curve": []}, "runs": {}},
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (trial,) = read_tasks(file)  # nothing could be measured in the second
    assert (trial.set, trial.per_class, trial.seed) == ("a", 10, 7)
    assert trial.facts.probe_variance == pytest.approx(0.8 * 0.2 / 12.5)
    assert (trial.tested, trial.test_variance) == (90, pytest.approx(0.9 * 0.1 / 90))
    assert trial.facts.linear_probe == 0.8
    assert trial.facts.frozen == 0.8  # of the linear_probe; else
    assert replace(trial.facts, linear_probe=None).frozen == pytest.approx(0.6)  # the mean of the best three
    assert trial.facts.depth_gain == pytest.approx(0.0)
    assert (trial.accuracy, trial.seconds) == ({"lp_ft": 0.9}, {"lp_ft": 2.5})
    file.write_text(2 * (json.dumps(lines[0]) + "\n"), encoding="utf-8")
    with pytest.raises(ValueError, match="1 tasks twice, such as task 7"):
        read_tasks(file)


def test_forecasts_start_from_a_linear_probe() -> None:
    """Its accuracy says what the probes of single stages don't."""
    rng = np.random.default_rng(2)
    trials = []
    for trial in trials_of(constantly):
        easier = float(rng.choice([-0.2, 0.2]))
        reached = {name: accuracy + easier for name, accuracy in trial.accuracy.items()}
        known = replace(trial.facts, linear_probe=0.55 + easier)
        trials.append(replace(trial, accuracy=reached, facts=known))
    blind = [replace(trial, facts=replace(trial.facts, linear_probe=None)) for trial in trials]
    before, after = fit(blind), fit(trials)
    asked = replace(facts(0.3), linear_probe=0.7)
    row = after.strategies.index("lp_ft")
    assert after.forecasts(asked)[row].accuracy == pytest.approx(0.75, abs=0.02)
    assert after.half_width(row, asked) < before.half_width(row, facts(0.3)) / 2
    told = [
        advise(case(probe_accuracy=probe), DEAR, Budget(), trials).option("lp_ft") for probe in (None, 0.7)
    ]
    told.append(advise(case(signals=probed(200, 200)), DEAR, Budget(), trials).option("lp_ft"))
    assert told[0].expected_accuracy == pytest.approx(0.55, abs=0.03)  # stages at 0.5 are all that is known
    assert told[1].expected_accuracy == pytest.approx(0.75, abs=0.03)
    assert (told[2].expected_accuracy, told[2].low) == (told[1].expected_accuracy, told[1].low)


def probed(units: int, effective: float, accuracy: float = 0.7) -> dict[str, Any]:
    """Signals of 200 measured images in so many groups, which say as much as `effective` independent ones."""
    several = {"accuracy": accuracy, "images": 200, "units": units, "effective_images": effective}
    return {**signals(), "linear_probe": several}


def test_images_that_come_in_groups_widen_the_interval() -> None:
    """Four speakers of fifty pictures each say less than two hundred pictures of anybody."""
    widths = {}
    for units, effective in ((200, 200.0), (4, 10.0)):
        facts = case(signals=probed(units, effective)).facts
        assert facts is not None
        assert facts.probe_variance == pytest.approx(0.7 * 0.3 / effective)
        option = advise(case(signals=probed(units, effective)), DEAR, Budget(), trials_of(constantly))
        row = option.option("lp_ft")
        assert row.high is not None
        assert row.low is not None
        widths[units] = row.high - row.low
    assert widths[4] > 1.5 * widths[200]


@pytest.mark.parametrize(("units", "effective", "all_of_them"), [(200, 200.0, 2000), (4, 10.0, 10.5)])
def test_more_images_of_the_same_groups_say_little_more(
    units: int, effective: float, all_of_them: float
) -> None:
    """A probe of 2,000 images of four speakers, of which 200 were measured."""
    given = case(signals=probed(units, effective, 0.6), train=2000, probe_accuracy=0.9).facts
    assert given is not None
    assert given.frozen == 0.9
    assert given.probe_variance == pytest.approx(0.9 * 0.1 / all_of_them, rel=0.05)


def test_nothing_is_promised_above_the_top() -> None:
    model = fit(trials_of(constantly))
    for expected in model.forecasts(replace(facts(0.3), probe=0.97)):
        assert expected.accuracy < 1.0


def test_the_packaged_experience_can_be_read_and_names_real_strategies() -> None:
    trials = read_experience()
    assert len({trial.set for trial in trials}) == 8
    assert advice_wording.UNFREEZING[0] == fit(trials).default  # what `fit` speaks of in its first lines
    for trial in trials:
        for name, accuracy in trial.accuracy.items():
            assert str(parse(name)) == name
            assert 0.0 <= accuracy <= 1.0
        assert 0.0 <= trial.facts.similarity <= 1.0


# --- the advice ---------------------------------------------------------------------------------------


def signals(similarity: float | None = 0.3, proven: bool = True, size: int = 96) -> dict[str, Any]:
    near = None if similarity is None else {"value": similarity, "proven": proven}
    probes = [{"stage": "block", "accuracy": 0.5}, {"stage": "last", "accuracy": 0.5}]
    curve = [{"accuracy": 0.4}, {"accuracy": 0.45}, {"accuracy": 0.5}]
    known = similarity is not None
    several = {"accuracy": 0.5, "images": 200, "units": 200, "effective_images": 200.0}
    return {
        "n_classes": 10,
        "input_size": size,
        "similarity": near,
        "probe_by_stage": probes if known else [],
        "learning_curve": curve if known else [],
        "linear_probe": several,
    }


def case(**changes: Any) -> Case:
    given = {"signals": signals(), "architecture": "net", "stages": 3, "train": 200, "val": 40, "test": 100}
    return Case(**{**given, "classes": 10, **changes})


def test_advice_names_everything_that_was_decided() -> None:
    advice = advise(case(), DEAR, Budget(), trials_of(constantly))
    assert advice.recommended == "lp_ft"
    assert advice.basis == "measured"
    assert advice.runner_up in {"full", "top_k(1)"}
    assert len(advice.why) == 2
    assert "60 %" in advice.why[0]
    assert "lp_ft" in advice.why[0]
    assert {"lr", "layer_decay", "cut", "epochs", "bn", "augment", "size"} <= set(advice.hyperparameters)
    assert all(set(option.hyperparameters) == set(advice.hyperparameters) for option in advice.options)
    assert advice.option("linear_probe").hyperparameters["lr"] is None  # nothing but a solved head
    plain = advice.as_dict()
    for option in plain["options"]:
        promised = "strategy expected_accuracy low high seconds peak_memory_bytes disk_bytes reason"
        assert set(promised.split()) <= set(option)
        assert option["low"] <= option["expected_accuracy"] <= option["high"]
        assert option["seconds"] > 0
    assert plain["options"][0]["strategy"] == "lp_ft"
    best = plain["options"][0]
    assert best["seconds_low"] < best["seconds"] < best["seconds_high"]
    assert best["expected_regret"] == advice.expected_regret
    assert advice.expected_regret is not None
    assert advice.worst_regret is not None
    assert 0 <= advice.expected_regret <= advice.worst_regret < 0.05
    assert f"to lose {advice_wording.points(advice.expected_regret)} to" in advice.why[1]


def test_a_departure_names_what_decided() -> None:
    advice = advise(case(signals=signals(0.62)), DEAR, Budget(), trials_of(by_similarity, sets=TWICE))
    assert advice.recommended == "top_k(1)"
    assert advice.why[1].startswith("On average lp_ft was best (")
    assert "but similarity is 0.62, 0.35 in earlier trials;" in advice.why[1]
    assert re.search(r"; next is [\w()]+ \(\d+ %, [^)]+\)\.$", advice.why[1])
    plain = advise(case(), DEAR, Budget(), trials_of(constantly)).why[1]
    assert re.match(
        r"It is 0\.9 points ahead of the next, full \(59 %, [^)]+\); it is expected to lose ", plain
    )


def test_a_budget_is_hard_and_what_it_costs_is_said() -> None:
    free = advise(case(), DEAR, Budget(), trials_of(constantly))
    limit = TIME_MARGIN * free.option("top_k(1)").cost.seconds
    tight = advise(case(), DEAR, Budget(seconds=limit), trials_of(constantly))
    assert tight.recommended == "top_k(1)"
    assert not tight.option("lp_ft").fits
    assert "does not fit" in tight.option("lp_ft").reason
    assert any("lp_ft" in line for line in tight.would_change)
    upper = free.option("top_k(1)").cost.peak_memory_upper_bytes
    small = advise(case(), DEAR, Budget(memory_bytes=upper), trials_of(constantly))
    assert all(o.cost.peak_memory_upper_bytes <= upper for o in small.options if o.fits)
    assert small.option(small.recommended).fits


def test_rows_that_do_not_fit_the_disk_are_computed_each_time() -> None:
    free = advise(case(), DEAR, Budget(), trials_of(constantly))
    assert free.option("top_k(1)").cost.disk_bytes > 0
    none = advise(case(), DEAR, Budget(disk_bytes=0), trials_of(constantly))
    assert none.option("top_k(1)").cache == "compute"
    assert none.option("top_k(1)").cost.disk_bytes == 0
    assert none.option("top_k(1)").fits


def test_nothing_fits_is_one_clear_message() -> None:
    with pytest.raises(
        UsageError, match=r"No strategy fits the budget \(.* min\). The quickest, .*, may take \d+ s\. A"
    ):
        advise(case(), DEAR, Budget(seconds=1e-6), trials_of(constantly))


def test_what_contradicting_limits_leave_out_is_said_of_each() -> None:
    costs = {"quick": Cost(1.0, 900, 900_000_000, 0, {}), "small": Cost(9.0, 100, 100_000_000, 0, {})}
    sentences = recommendation._nothing_fits(costs, Budget(seconds=2.0, memory_bytes=200_000_000))
    assert "(0.0333333 min, 200 MB of memory)" in sentences
    assert "The quickest, quick, may hold 900 MB of memory. The smallest, small, may take 13 s." in sentences


def test_what_does_not_fit_a_gpu_is_left_out() -> None:
    dear = replace(DEAR, device="a card")
    free = advise(case(), dear, Budget(), trials_of(constantly))
    peaks = {option.strategy: option.cost.device_peak_bytes or 0 for option in free.options}
    least = min(peaks.values())
    tight = advise(case(), dear, Budget(device_memory_bytes=least), trials_of(constantly))
    assert {o.strategy for o in tight.options if o.fits} == {n for n, peak in peaks.items() if peak == least}
    assert any("of a GPU's memory" in option.reason for option in tight.options)
    assert free.options[0].as_dict()["device_peak_bytes"] == peaks[free.options[0].strategy]


@pytest.mark.parametrize("seconds", [0.2, 12.4, 89.6, 100.0, 140.0, 5399.0, 5401.0, 9000.0])
def test_time_that_is_said_to_be_enough_is_enough(seconds: float) -> None:
    number, unit = advice_wording.enough(seconds).split()
    allowed = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
    assert seconds <= allowed <= max(1.0, 1.7 * seconds)
    assert advice_wording.minutes(0.001) != "0 s"


def test_random_weights_were_never_tried() -> None:
    advice = advise(case(random=True), DEAR, Budget(), trials_of(constantly))
    assert advice.basis == "extrapolated"
    assert "random weights" in advice.notes[0]


def test_fewer_images_than_were_tried_widen_with_their_number() -> None:
    widths = []
    for images in (40, 20, 10):
        option = advise(case(train=images), DEAR, Budget(), trials_of(constantly)).option("lp_ft")
        assert option.low is not None
        assert option.high is not None
        widths.append(option.high - option.low)
    assert widths[2] > 1.3 * widths[1] > 1.3 * widths[0] / 1.3


def test_a_probe_that_knows_the_commonest_class_alone_is_said() -> None:
    advice = advise(case(commonest=0.5), DEAR, Budget(), trials_of(constantly))
    assert any("commonest class (50 % against 50 %)" in note for note in advice.notes)
    assert not advise(case(commonest=0.3), DEAR, Budget(), trials_of(constantly)).notes


def test_without_similarity_the_probe_decides() -> None:
    silent = {**signals(), "similarity": None}
    advice = advise(case(signals=silent), DEAR, Budget(), trials_of(by_similarity))
    unproven = advise(case(signals=signals(proven=False)), DEAR, Budget(), trials_of(by_similarity))
    assert [o.expected_accuracy for o in advice.options] == [o.expected_accuracy for o in unproven.options]
    assert "similarity unknown" in advice.why[0]


@pytest.mark.parametrize(
    "budget",
    [
        Budget(seconds=0.0),
        Budget(seconds=float("nan")),
        Budget(memory_bytes=-1),
        Budget(disk_bytes=float("nan")),  # type: ignore[arg-type]
    ],
)
def test_a_budget_that_is_none_is_wrong_usage(budget: Budget) -> None:
    with pytest.raises(UsageError, match="found"):
        budget.check()


def test_what_was_never_tried_is_said_and_widens() -> None:
    known = advise(case(), DEAR, Budget(), trials_of(constantly))
    for changed in (
        case(architecture="other"),
        case(signals=signals(size=224)),
        case(train=20_000),
        case(classes=50),
        case(train=100, classes=2),
    ):
        new = advise(changed, DEAR, Budget(), trials_of(constantly))
        assert new.basis == "extrapolated"
        assert new.notes
        mine, before = new.option("lp_ft"), known.option("lp_ft")
        assert mine.high is not None
        assert mine.low is not None
        assert before.high is not None
        assert before.low is not None
        assert mine.high - mine.low > before.high - before.low


def test_where_timm_alone_loads_no_head_that_reads_several_stages_is_considered() -> None:
    more = {"linear_probe(layers=last)": -0.03, "lp_ft(refit_layers=4)": 0.12}
    trials = [
        replace(t, accuracy=t.accuracy | {name: 0.5 + gain for name, gain in more.items()})
        for t in trials_of(constantly)
    ]
    assert advise(case(), DEAR, Budget(), trials).recommended == "lp_ft(refit_layers=4)"
    advice = advise(case(plain_timm=True), DEAR, Budget(), trials)
    assert advice.recommended == "lp_ft"
    assert {o.strategy for o in advice.options} == {"linear_probe(layers=last)", "top_k(1)", "lp_ft", "full"}


def test_where_nothing_can_be_forecast_nothing_is_said_of_intervals() -> None:
    advice = advise(case(signals=signals(None), train=4), DEAR, Budget(), trials_of(constantly))
    assert (advice.basis, advice.notes) == ("none", ())


def test_what_unfreezing_gained_is_no_best_of_many() -> None:
    """Each set counts once, and what was tried beside the probe may have lost."""
    losses = {"linear_probe": 0.1, "top_k(1)": 0.2, "lp_ft": 0.05, "full": 0.3}
    trials = trials_of(lambda s, similarity, images: losses[s], noise=0.0)
    said = advice_wording.outlook([t for t in trials if t.set != "a" or t.seed == 0])
    assert "gained -5 points on average in earlier trials (-5 to -5 on 6 image sets)" in said


def test_an_unproven_similarity_decides_nothing() -> None:
    near, far = (
        advise(case(signals=signals(s, proven=False)), DEAR, Budget(), trials_of(by_similarity))
        for s in (0.01, 0.99)
    )
    assert near.recommended == far.recommended
    assert "unreliable" in near.why[0]


def test_three_images_get_no_forecast() -> None:
    advice = advise(case(signals=signals(None), train=3), DEAR, Budget(), trials_of(constantly))
    assert all(option.expected_accuracy is None for option in advice.options)
    assert advice.recommended == "linear_probe"
    assert "too few" in advice.why[0]
    assert len(advice.why) == 2


def test_images_that_cannot_be_parted_get_no_forecast_and_are_not_called_few() -> None:
    tied = {**signals(), "probe_by_stage": [], "learning_curve": []}
    advice = advise(case(signals=tied), DEAR, Budget(), trials_of(constantly))
    assert all(option.expected_accuracy is None for option in advice.options)
    assert "two independent images" in advice.why[0]


def test_a_head_that_timm_has_not_is_said_with_what_the_other_loses() -> None:
    both = [
        replace(t, accuracy={**t.accuracy, "lp_ft(refit_layers=4)": t.accuracy["lp_ft"] + 0.03})
        for t in trials_of(constantly)
    ]
    advice = advise(case(), DEAR, Budget(), both)
    assert advice.recommended == "lp_ft(refit_layers=4)"
    assert any(
        re.match(r"For weights that timm loads alone: lp_ft, 3\.\d points less", line)
        for line in advice.would_change
    )


def test_durations_are_shown_as_an_interval() -> None:
    assert advice_wording.seconds_between(19.2, 31.0) == "19–31 s"
    assert advice_wording.seconds_between(80.0, 130.0) == "80 s–2 min"
    assert advice_wording.seconds_between(18.9, 19.3) == "19 s"
