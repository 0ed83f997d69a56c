"""The simulation of a large pass obeys what can be reckoned by hand, and docs/scale.md is what it says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]

import generate_scale  # noqa: E402

from scale import Fleet, frozen_pass, trials  # noqa: E402

EVEN = Fleet(workers=8, image_s=0.001, index_s=0.0, spread=0.0, slow_share=0.0)


def test_the_page_is_what_the_generator_writes() -> None:
    assert generate_scale.OUT.read_text(encoding="utf-8") == generate_scale.page()


def test_a_pass_takes_what_its_slowest_part_takes() -> None:
    passed = frozen_pass(EVEN, 8_000)
    assert passed.seconds == pytest.approx(1.0)
    assert (passed.idle_share, passed.waiting_share, passed.redone_share) == (pytest.approx(0.0), 0.0, 0.0)
    crowded = frozen_pass(replace(EVEN, workers=800, index_s=0.0001), 800_000)
    assert crowded.seconds == pytest.approx(80.0, rel=0.05)  # 800,000 rows pass the index one by one
    assert crowded.waiting_share > 0.9
    divided = frozen_pass(replace(EVEN, workers=800, index_s=0.0001, indexes=800), 800_000)
    assert divided.seconds == pytest.approx(1.1, rel=0.01)


def test_a_lost_node_costs_its_blocks_and_the_time_until_it_is_back() -> None:
    sound = frozen_pass(replace(EVEN, workers=16), 16_000_000, blocks_each=41)
    lost = frozen_pass(replace(EVEN, workers=16, lost=1), 16_000_000, blocks_each=41)
    away = 300.0 * 8 / 16  # of one node of two
    assert sound.seconds + away * 0.9 < lost.seconds < sound.seconds + away + 2 * sound.seconds / 41
    assert 0 < lost.redone_share < 1 / 41


def test_a_race_waits_at_the_end_of_each_rung() -> None:
    assert trials(1, [[1.0] * 10], 0.0, 0.0).idle_share == pytest.approx(0.0)
    assert trials(100, [[1.0] * 10], 0.0, 0.0).idle_share > 0.9
    one, many = (trials(4, [[10.0] * n, [10.0] * n], 0.5, 0.01) for n in (4, 8))
    assert many.seconds > 1.5 * one.seconds
    assert many.runs == 16
