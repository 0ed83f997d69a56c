"""Whether a card is starved, by an invented clock: no card is needed to ask the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from frostline.training.loop.input_starvation import AT_ONCE, Pace, starved_line


@dataclass
class Clock:
    """Seconds that pass where the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Moment:
    """A mark on the clock, in milliseconds as torch's events."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.at = clock, -1.0

    def record(self) -> None:
        self.at = self._clock()

    def query(self) -> bool:
        return self.at >= 0.0

    def elapsed_time(self, end: Moment) -> float:
        return 1000.0 * (end.at - self.at)


def paced(waiting_s: float, step_s: float, steps: int = 10, *, from_pixels: bool = True) -> Pace:
    clock = Clock()
    pace = Pace(lambda: Moment(clock), clock)
    with pace.epoch(from_pixels):
        for _ in range(steps):
            clock.now += waiting_s
            with pace.step(32):
                clock.now += step_s
    return pace


@pytest.mark.parametrize("steps", [10, AT_ONCE + 3])
def test_a_card_that_waits_is_starved(steps: int) -> None:
    pace = paced(0.3, 0.1, steps).as_dict()
    assert pace is not None
    assert pace["images_per_s"] == pytest.approx(80.0)
    assert pace["step_images_per_s"] == pytest.approx(320.0)
    assert pace["starved"]
    line = starved_line(pace, 16)
    assert "80 images a second came from 16 decoding threads" in line
    assert "More cores (workers)" in line
    assert "320" in line


def test_a_card_that_is_fed_is_not() -> None:
    pace = paced(0.01, 0.1).as_dict()
    assert pace is not None
    assert not pace["starved"]
    assert starved_line(pace, 16) == ""


def test_epochs_on_features_are_not_timed() -> None:
    assert paced(0.3, 0.1, from_pixels=False).as_dict() is None


def test_an_epoch_that_is_broken_off_does_not_count() -> None:
    clock = Clock()
    pace = Pace(lambda: Moment(clock), clock)
    with pytest.raises(RuntimeError), pace.epoch(True), pace.step(32):
        raise RuntimeError
    assert pace.as_dict() is None


@pytest.mark.usefixtures("on_processor")
def test_a_processor_is_not_timed() -> None:
    pace = Pace()
    with pace.epoch(True), pace.step(32):
        pass
    assert pace.as_dict() is None
    assert starved_line(None, 2) == ""
