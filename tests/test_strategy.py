"""Law 5: the notation round-trips. And: bad settings get one message with all that is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline import strategies as fs
from frostline.errors import UsageError

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


def test_a_strategy_imports_no_torch() -> None:
    code = "import sys, frostline.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
