"""Law 5: the notation round-trips. And: bad settings get one message with all that is wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline import strategies as fs
from frostline.errors import UsageError
from frostline.strategies.overrides import no_use

rates = st.floats(1e-7, 10.0, exclude_min=True)
phase = st.builds(
    fs.Phase,
    unfrozen=st.integers(-1, 30),
    epochs=st.none() | st.floats(1e-3, 1e4),
    lr=st.none() | rates,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "lr": rates,
        "layer_decay": st.floats(1e-3, 1.0),
        "epochs": st.floats(1e-3, 1e4),
        "warmup": st.floats(0, 0.999),
        "weight_decay": st.floats(0, 10),
        "label_smoothing": st.floats(0, 0.999),
        "clip_grad": st.floats(1e-3, 1e6),
        "head_init_l2": st.floats(1e-6, 1e3),
        "head": st.sampled_from(["linear", "cosine", "mlp(7)"]),
    },
)


@st.composite
def any_strategy(draw: st.DrawFn) -> fs.Strategy:
    name = draw(st.sampled_from(sorted(fs.KINDS)))
    if name == "linear_probe":
        return fs.linear_probe(draw(st.sampled_from([None, "logistic", "ridge"])))
    chosen = draw(options)
    if name != "head" and draw(st.booleans()):
        chosen["bn"] = draw(st.sampled_from(fs.BN_POLICIES))
    if name == "phases":
        return fs.phases(*draw(st.lists(phase, min_size=1, max_size=5)), **chosen)
    if name == "top_k":
        return fs.top_k(draw(st.integers(1, 40)), **chosen)
    return getattr(fs, name)(**chosen)


@given(any_strategy())
def test_notation_round_trips(strategy: fs.Strategy) -> None:
    assert fs.parse(str(strategy)) == strategy
    assert hash(fs.parse(str(strategy))) == hash(strategy)


@given(st.lists(any_strategy(), max_size=5), st.sampled_from([",", ", ", " , ", ",,\n"]))
def test_a_list_of_notations_round_trips(many: list[fs.Strategy], comma: str) -> None:
    assert fs.parse_list(comma.join(map(str, many))) == many


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top_k(2, head=mlp(64),full", "not a strategy"),
        ("full),head", "'full\\)' is not a strategy"),
        ("head,topk(2)", "Did you mean 'top_k'"),
    ],
)
def test_what_is_wrong_in_a_list_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fs.parse_list(text)


@given(any_strategy(), st.integers(2, 40), st.integers(1, 10_000), st.integers(1, 256))
def test_a_schedule_is_runnable(strategy: fs.Strategy, stages: int, images: int, batch: int) -> None:
    phases = fs.schedule(strategy, stages=stages, images=images, batch=batch)
    assert all(0 <= s.cut < stages and s.steps >= 1 and s.lr > 0 for s in phases)
    assert bool(phases) == strategy.trains


@pytest.mark.parametrize("text", fs.NAMED)
def test_every_name_is_its_own_notation(text: str) -> None:
    assert str(fs.parse(text)) == text
    assert fs.NAMED


def test_gradual_unfreezing_goes_down_one_stage_at_a_time() -> None:
    cuts = [s.cut for s in fs.schedule(fs.gradual_unfreeze(), stages=9, images=100, batch=32)]
    assert cuts == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    rates = [s.lr for s in fs.schedule(fs.gradual_unfreeze(), stages=9, images=100, batch=32)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)


def test_more_images_mean_more_steps_and_fewer_passes() -> None:
    counts = (50, 80, 400, 2000, 50_000)
    passes = [fs.epochs_for(n) for n in counts]
    steps = [fs.schedule(fs.full(), stages=9, images=n, batch=32)[0].steps for n in counts]
    assert passes == sorted(passes, reverse=True)
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topk(2)", "Did you mean 'top_k'"),
        ("top_k", "number of stages"),
        ("top_k(0)", "1 or more"),
        ("top_k(two)", "whole number"),
        ("full(lr=0)", "freeze a layer with the cut"),
        ("full(lr=nan)", "lr must be"),
        ("full(learning_rate=1)", "no setting 'learning_rate'"),
        ("full(lr=1, lr=2)", "twice"),
        ("full(bn=evel)", "Did you mean 'eval'"),
        ("full(3)", "no bare argument"),
        ("head(bn=eval)", "no setting 'bn'"),
        ("head(head=mlp)", "mlp(WIDTH)"),
        ("lp_ft(head=cosine, head_init=probe)", "linear head only"),
        ("linear_probe(svm)", "logistic, ridge"),
        ("phases()", "at least one phase"),
        ("phases(0@x)", "not a phase"),
        ("phases(0@0)", "must be above 0"),
        ("", "not a strategy"),
        ("full(", "not a strategy"),
        ("full(layer_decay=2, warmup=1)", "layer_decay must be"),
        ("full(layer_decay=2, warmup=1)", "warmup must be"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        fs.parse(text)
    assert words in str(error.value)


def test_functions_refuse_what_the_notation_refuses() -> None:
    with pytest.raises(UsageError, match="no setting 'learning_rate'"):
        fs.full(learning_rate=1)


TAKEN = [(name, key) for name in sorted(fs.KINDS) for key in fs.KINDS[name].allowed]
OTHER = {  # else a number
    "head": "cosine",
    "head_init": "probe",
    "bn": "recalibrate",
    "layers": "all",
    "refit_layers": "2",
    "optimizer": "lion",
    "schedule": "linear",
}
ANOTHER = {"cosine": "mlp(3)", "probe": "fresh", "lion": "sgd", "linear": "step"}  # else 1


@pytest.mark.parametrize(("name", "key"), TAKEN)
def test_a_value_given_beside_a_strategy_is_that_of_its_brackets_or_refused(name: str, key: str) -> None:
    inside = {"top_k": "2", "phases": "0@1, all"}.get(name)
    value = OTHER.get(key, "0.25")
    plain = fs.parse(f"{name}({inside})" if inside else name)
    bracket = fs.parse(f"{name}({inside}, {key}={value})" if inside else f"{name}({key}={value})")
    if no_use(plain, key):
        with pytest.raises(
            UsageError, match=rf"{key}={value} has no effect on .*Leave it out, or take one of"
        ):
            fs.overridden([plain], {key: value})
        return
    assert fs.overridden([plain], {key: value}) == fs.Overridden((bracket,), {})
    assert fs.overridden([bracket], {key: value}).strategies == (bracket,)
    if bracket != plain:
        with pytest.raises(UsageError, match=f"names another {key} in its brackets"):
            fs.overridden([bracket], {key: ANOTHER.get(value, "1")})


def test_of_several_strategies_those_that_take_a_value_get_it_and_the_others_are_named() -> None:
    many = fs.parse_list("linear_probe, head, full(lr=0.1), linear_probe(ridge)")
    changed = fs.overridden(many, {"lr": 0.1, "label_smoothing": 0.2})
    assert [str(one) for one in changed.strategies] == [
        "linear_probe(label_smoothing=0.2)",
        "head(lr=0.1, label_smoothing=0.2)",
        "full(lr=0.1, label_smoothing=0.2)",
        "linear_probe(ridge)",
    ]
    first, second = changed.lines()
    assert first.startswith("lr has no effect on linear_probe, linear_probe(ridge) (its head is solved for")
    assert second.startswith("label_smoothing has no effect on linear_probe(ridge) (ridge fits")
    assert not fs.overridden(many, {}).lines()
    assert fs.at_defaults(fs.parse("lp_ft(epochs=4, lr=0.1)"), {"epochs": 1}) == fs.parse("lp_ft(lr=0.1)")
    assert fs.overridden(
        fs.parse_list("full"), {"head_init_l2": 1, "head_init": "probe"}
    ).strategies  # in any order


def test_every_hyperparameter_is_listed_with_meaning_default_and_source() -> None:
    listing = {one.name: one for one in fs.descriptions()}
    assert list(listing) == list(fs.KINDS)
    for name, description in listing.items():
        kind = fs.KINDS[name]
        names = [setting.name for setting in description.settings]
        assert set(names) == {*kind.allowed, *([kind.takes] if kind.takes else [])} - (
            {"layer_decay"} if name == "head" else set()
        )
        assert set(kind.defaults) | set(kind.sources) <= set(names)
        assert set(kind.defaults) <= set(kind.sources)  # a default of its own says why
        for setting in description.settings:
            assert setting.meaning
            assert setting.source or setting.name in ("k", "phases")
            if setting.default is None or name in ("top_k", "phases") or setting.name == "solver":
                continue
            named = fs.parse(f"{name}({setting.name}={setting.default})")
            if (name, setting.name) != ("linear_probe", "label_smoothing"):
                assert fs.hyperparameters(named) == fs.hyperparameters(fs.parse(name))


@pytest.mark.parametrize(
    ("text", "builds"),
    [("full", False), ("scratch", False), ("phases(all@2)", False), ("full(head_init=probe)", True)]
    + [(text, True) for text in ("linear_probe", "head", "top_k(3)", "lp_ft", "gradual_unfreeze(1)")],
)
def test_what_builds_on_pretrained_weights(text: str, builds: bool) -> None:
    assert fs.builds_on_pretrained(fs.parse(text)) is builds


def test_a_strategy_imports_no_torch() -> None:
    code = "import sys, frostline.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("epochs", [4, 6, 9, 10, 12, 24, 40])
@pytest.mark.parametrize(
    "name", ["gradual_unfreeze", "gradual_unfreeze(2)", "gradual_unfreeze(3)", "lp_ft", "full"]
)
def test_all_phases_together_have_the_epochs_that_they_share(name: str, epochs: int) -> None:
    """Each phase was rounded alone, half to even: of 24 epochs 28 were trained, of 40 only 36."""
    strategy = replace(fs.parse(name), epochs=float(epochs))
    phases = fs.schedule(strategy, stages=9, images=320, batch=32)
    part = any(phase.steps_per_epoch < 10 for phase in phases)  # the others are whole epochs all the same
    assert abs(sum(phase.steps for phase in phases) - 10 * epochs) <= (5 if part else 0)


def test_a_part_of_an_epoch_is_rounded_up_from_a_half() -> None:
    def epochs(text: str) -> list[tuple[int, int]]:
        phases = fs.schedule(fs.parse(text), stages=9, images=320, batch=32)
        return [(phase.epochs, phase.steps_per_epoch) for phase in phases]

    assert [epochs(f"full(epochs={n})")[0][0] for n in (1, 1.4, 1.5, 2.5, 3.5)] == [1, 1, 2, 3, 4]
    assert epochs("phases(0@1.5, 2@2.5, all@0.5)") == [(2, 10), (2, 10), (1, 5)]
    assert epochs("full(epochs=0.01)") == [(1, 1)]
