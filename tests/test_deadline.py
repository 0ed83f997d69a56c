"""What comes before a first run looks at the clock: networks and timings that are slow beyond expectation."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from click.testing import CliRunner
from torch import Tensor

import frostline
from frostline import probe
from frostline.cli.command_context import Verb
from frostline.cli.main import cli
from frostline.errors import NoTime, StudyError, UsageError
from frostline.feature_extraction import Frozen
from frostline.models import building
from frostline.models.cutting import cuts, cuts_cache
from frostline.profiling import numeric_search, training_rates
from frostline.progress import Activity, Progress
from frostline.system import deadline
from frostline.system.timing import Stopwatch
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_folder, write_table

PIECE_S = 9.0  # pretended seconds of each slow piece
LIMIT_S = 60.0
OPTIONS = {"flip": "none", "threads": 1}
REFUSED = r"--minutes 1 is less than the (\d+) s that .* need here; give at least ([\d.]+)\. .*resumes"


class Clock:
    """A clock that can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s, self._monkeypatch = 0.0, monkeypatch
        for name in ("perf_counter", "process_time"):  # slow by its own work, not by others'
            monkeypatch.setattr(time, name, self._ahead_of(getattr(time, name)))

    def _ahead_of(self, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: real() + self.ahead_s

    def slow(self, owner: Any, name: str) -> list[str]:
        """Let a function take `PIECE_S` more; return a list that grows with its calls."""
        real, calls = getattr(owner, name), list[str]()

        def slowly(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            self.ahead_s += PIECE_S
            return real(*args, **kwargs)

        self._monkeypatch.setattr(owner, name, slowly)
        return calls


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def assert_in_time(watch: Stopwatch, error: UsageError | str) -> None:
    assert watch.seconds <= LIMIT_S + max(3.0, 0.05 * LIMIT_S)
    stated = re.search(REFUSED, str(error))
    assert stated is not None, error
    assert float(stated[1]) >= LIMIT_S
    assert 60 * float(stated[2]) > float(stated[1])


def searched(name: str = "tiny") -> frostline.Backbone:
    """Return a network whose cuts are remembered by its name, as timm's are."""
    source = {"kind": "timm", "architecture": name}
    return building.assemble(tiny_model(), PREPROCESSING, name=name, source=source)


def test_a_slow_search_for_cuts_ends_in_time_and_goes_on_where_it_stopped(clock: Clock) -> None:
    whole = building.find(tiny_model(), PREPROCESSING.size)
    proofs, watch = clock.slow(cuts, "second_half"), Stopwatch()
    clock.slow(cuts, "traced")
    with pytest.raises(UsageError) as refused, deadline.within(1.0, watch):
        searched()
    assert_in_time(watch, refused.value)
    assert 0 < len(proofs) < 2 * len(whole.cuts)
    before = len(proofs)
    with deadline.within(1.0, Stopwatch()):  # the same minutes are enough now
        backbone = searched()
    assert backbone.cuts == whole.cuts
    assert len(proofs) - before < 2 * len(whole.cuts) - 2  # what was proved is not proved again
    assert not list(Path(cuts_cache.directories.folder("cuts")).glob("*.started.json"))


def test_a_search_passes_the_whole_network_five_times_and_two_second_halves_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time beside a training step's: each of these passes has two or three images."""
    model, inputs, proofs = tiny_model(), list[int](), list[str]()
    model.stem.conv.register_forward_pre_hook(lambda _, args: inputs.append(len(args[0])))
    real = cuts.second_half
    monkeypatch.setattr(cuts, "second_half", lambda *args: proofs.append("") or real(*args))
    search = building.find(model, PREPROCESSING.size)
    assert len(search.cuts) == 5
    assert len(proofs) == 2 * (len(search.cuts) - 1)
    assert sum(inputs) == 2 + 3 + 2 + 2 + 3  # two traces, the head, what crosses the cuts in two batches


def test_without_a_limit_nothing_is_stopped(clock: Clock) -> None:
    clock.slow(cuts, "second_half")
    clock.slow(cuts, "traced")
    assert len(searched().cuts) == 5


@pytest.mark.parametrize("verb", ["train", "compare", "fit"])
def test_a_command_hands_its_minutes_to_the_search_for_cuts(
    verb: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frostline, "load_backbone", lambda *_, **__: searched())
    monkeypatch.setattr("frostline.models.zoo.load_backbone", lambda *_, **__: searched())
    clock.slow(cuts, "second_half")
    clock.slow(cuts, "traced")
    watch = Stopwatch()
    monkeypatch.setattr("frostline.cli.command_context.Stopwatch", lambda *_: watch)
    images = write_folder(tmp_path / "photos", per_class=4)
    words = [verb, str(images), "--minutes", "1", "--study", str(tmp_path / "study"), "--quiet"]
    outcome = CliRunner().invoke(cli, words)
    assert outcome.exit_code == 2
    assert_in_time(watch, outcome.stderr)


def test_a_comparison_refuses_in_time_where_timing_the_network_is_slow(clock: Clock, tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    timings, watch = clock.slow(training_rates, "_timed"), Stopwatch()
    given = {"study": tmp_path / "study", "minutes": 1.0, **OPTIONS}
    clock.slow(training_rates, "_kept_bytes")
    with pytest.raises(UsageError) as refused:
        frostline.compare(tiny_backbone(), data, ("linear_probe", "top_k(1, epochs=1)"), watch=watch, **given)
    assert_in_time(watch, refused.value)
    assert timings


def test_fit_answers_by_its_probe_where_timing_the_network_is_slow(clock: Clock, tmp_path: Path) -> None:
    lines: list[str] = []
    clock.slow(training_rates, "_timed")
    clock.slow(training_rates, "_kept_bytes")
    images, watch = write_folder(tmp_path / "photos", per_class=6), Stopwatch()
    fitted = frostline.fit(
        images,
        model=tiny_backbone(),
        minutes=1.0,
        study=tmp_path / "study",
        watch=watch,
        log=lines.append,
        **OPTIONS,
    )
    assert (fitted.strategy, fitted.comparison) == ("linear_probe", None)
    assert_in_time(watch, next(line for line in lines if "The probe is the model" in line))


def test_a_run_gives_up_slow_timings_and_computes_the_plain_way(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    watch, real = Stopwatch(), Frozen.launch

    def slowly(self: Frozen, pixels: Tensor, *taps: Any) -> Any:
        clock.ahead_s += PIECE_S if len(pixels) == numeric_search.TRIAL else 0.0  # as timings have it
        return real(self, pixels, *taps)

    monkeypatch.setattr(Frozen, "launch", slowly)
    run = frostline.train(
        tiny_backbone(), data, "top_k(1, epochs=1)", study=tmp_path / "a", minutes=1.0, watch=watch, **OPTIONS
    )
    assert "too short" in run.numeric_plan["reason"]
    assert run.steps > 0
    assert watch.seconds <= LIMIT_S


def test_the_longest_piece_decides_whether_another_fits(clock: Clock) -> None:
    watch = Stopwatch()

    def pieces() -> None:
        for piece_s in (20.0, *[3.0] * 20):
            deadline.unit()
            clock.ahead_s += piece_s

    with (
        deadline.within(1.0, watch, reserve_s=2.0),
        deadline.work("two kinds of pieces", units=100),
        pytest.raises(UsageError, match=REFUSED),
    ):
        pieces()
    assert 35.0 <= watch.seconds <= 40.0  # 20 s more did not fit


def test_reading_looks_at_the_clock_only_while_there_is_more_to_do(clock: Clock) -> None:
    done_counts: list[int] = []
    progress = Progress.of(lambda what, done, total: done_counts.append(done))
    with deadline.within(1.0, Stopwatch()):
        checked = deadline.telling(progress, deadline.READING)
        clock.ahead_s += LIMIT_S
        checked(Activity.INDEX, 9, 9)  # all is done: what comes next decides
        with pytest.raises(UsageError, match=REFUSED):
            checked(Activity.DECODE, 1, 9)
    assert done_counts == [9, 1]
    assert deadline.telling(progress, deadline.READING) is progress  # no limit around


def test_what_keeps_its_own_time_is_not_stopped(clock: Clock) -> None:
    with deadline.within(1.0, Stopwatch()):
        clock.ahead_s += 2 * LIMIT_S
        with deadline.lifted(), deadline.work("a last training"):
            deadline.unit()
        with deadline.work("another search"), pytest.raises(UsageError):
            deadline.unit()


def test_a_short_limit_inside_a_long_one_never_outlasts_it(clock: Clock) -> None:
    with deadline.within(1.0, Stopwatch(), reserve_s=0.0), deadline.at_most(500.0):
        clock.ahead_s += LIMIT_S + 1.0
        with deadline.work("timing"), pytest.raises(UsageError):
            deadline.unit()


def test_an_alarm_interrupts_what_cannot_look_at_the_clock() -> None:
    """An import, a download: by a signal, which `except Exception` does not take for a fault."""
    before = signal.getsignal(signal.SIGALRM)
    watch, began = Stopwatch(59.0 - deadline.EXIT_S), time.perf_counter()

    def endless() -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    with pytest.raises(deadline.Rang, match=REFUSED), deadline.alarm(1.0, watch):
        endless()
    assert time.perf_counter() - began < 3.0
    with deadline.alarm(1.0, Stopwatch(60.0)):  # which rings at once, but nothing is left to interrupt
        deadline.disarm()
        time.sleep(0.05)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_command_whose_imports_are_slow_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(57.0)
    monkeypatch.setattr("frostline.cli.command_context.Stopwatch", lambda *_: watch)
    monkeypatch.setattr(Verb, "start", lambda _: time.sleep(30.0))
    images = write_folder(tmp_path / "photos", per_class=4)
    outcome = CliRunner().invoke(cli, ["train", str(images), "--minutes", "1"])
    assert outcome.exit_code == 2
    assert_in_time(watch, outcome.stderr)


def test_the_end_is_reckoned_longer_where_others_take_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 10.0)
    with deadline.within(1.0, Stopwatch(40.0)):  # four times as slow as it is
        limit = deadline._limit.get()
        assert limit is not None
        assert limit.after_s == pytest.approx(4 * deadline.EXIT_S, rel=0.01)


def test_solving_for_a_head_looks_at_the_clock(clock: Clock) -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 5)), rng.integers(3, size=60)
    whole = probe.logistic(features, targets, 3, l2=1e-3)
    with deadline.within(1.0, Stopwatch(), 1.0):
        inside = probe.logistic(features, targets, 3, l2=1e-3)
    np.testing.assert_array_equal(inside.weight, whole.weight)
    watch = Stopwatch()
    with deadline.within(1.0, watch, 1.0):
        clock.ahead_s += LIMIT_S
        with pytest.raises(NoTime, match=REFUSED):
            probe.logistic(features, targets, 3, l2=1e-3)


def test_a_probe_that_takes_too_long_is_refused(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.slow(np, "vdot")  # once in each step of a fit
    data = frostline.load_data(write_table(tmp_path / "images", train=12), near_copies=False)
    watch = Stopwatch()
    with pytest.raises(NoTime) as refused:
        frostline.train(
            tiny_backbone(), data, "linear_probe", study=tmp_path / "a", minutes=1.0, watch=watch, **OPTIONS
        )
    assert_in_time(watch, refused.value)


def test_another_process_is_waited_for_no_longer_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "first.lock"
    with filelock.FileLock(path), deadline.within(0.001, Stopwatch()):
        refusal = r"^--minutes 0\.001 are over while another process trains .* in .*resumes\.$"
        with (
            pytest.raises(StudyError, match=refusal),
            deadline.exclusive(path, "trains the first model"),
        ):
            pass
    with deadline.within(0.001, Stopwatch()), deadline.exclusive(path, "trains the first model"):
        pass  # it is free again


def test_what_was_forgotten_is_not_measured_without_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, progress: Progress, **__: Any) -> None:
        clock.ahead_s += LIMIT_S
        progress(Activity.FORGETTING, 1, 9)

    clock = Clock(monkeypatch)
    monkeypatch.setattr(frostline, "forgetting", late)
    table = write_table(tmp_path / "images", train=10, test=6)
    own = table.with_name("own.csv")
    own.write_text(table.read_text().replace("kind ", "7"))
    words = ["train", str(table), "--strategy", "linear_probe", "--study", str(tmp_path / "study")]
    words += ["--model", "lite0", "--size", "32", "--threads", "1", "--minutes", "1", "--json"]
    outcome = CliRunner().invoke(cli, [*words, "--source-data", str(own)])
    assert outcome.exit_code == 0, outcome.output
    assert "What the model forgot was not measured. --minutes 1 is less than" in outcome.stderr
    assert "forgetting" not in outcome.stdout


def test_only_the_commands_whose_minutes_limit_themselves_open_a_limit() -> None:
    options = {"as_json": False, "quiet": True, "cache_dir": None, "minutes": 1.0}
    assert Verb(options)._minutes is None  # `plan --minutes` is the budget of a run
