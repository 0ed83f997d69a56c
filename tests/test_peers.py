"""The benchmark beside other libraries: that it learns from train alone, and counts what it says."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tiny import write_table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TIMED = {"cpu_s", "wall_s", "import_cpu_s", "imported_bytes", "peak_bytes"}


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("contenders")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peers")


@pytest.mark.usefixtures("warm_cache")
def test_contenders_learn_from_the_same_rows_and_tell_what_that_took(
    contenders: ModuleType, peers: ModuleType, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "images", train=8, val=0, test=4)
    sheet = tmp_path / "absolute.csv"
    sheet.write_text(table.read_text().replace("\n", f"\n{table.parent}/").rsplit("\n", 1)[0] + "\n")
    weights = peers.weights(tmp_path / "peers.jsonl")
    for name, settings in (("sklearn", {}), ("frostline", {"strategy": "linear_probe"})):
        folder = tmp_path / name
        folder.mkdir()
        task = contenders.Task(name, str(sheet), 32, 0, str(folder), str(weights), settings)
        clock = contenders.Clock()
        assert contenders.CONTENDERS[name](task, clock) > 0.7, name
        assert clock.found.keys() == TIMED
        assert clock.found["cpu_s"] > 0
    # The last one's table names no test image.
    learned = (tmp_path / "frostline" / "learn.csv").read_text()
    assert [path for path in task.paths if path in learned] == []
    assert all(path in learned for path, _ in task.rows("train"))


def test_answers_are_compared_in_order(contenders: ModuleType, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,label,split\na,x,test\nb,y,train\nc,y,test\n")
    task = contenders.Task("none", str(sheet), 32, 0, str(tmp_path), "")
    assert (task.paths, contenders.right(task, ["x", "x"])) == (["a", "c"], 0.5)
    with pytest.raises(ValueError, match="longer"):
        contenders.right(task, ["x"])


def row(name: str, seed: int, accuracy: float, cpu_s: float) -> dict[str, Any]:
    figures = {"wall_s": cpu_s, "import_cpu_s": 1.0, "peak_bytes": 2e6, "imported_bytes": 1e6}
    return {
        "name": name,
        "set": "a",
        "size": 96,
        "seed": seed,
        "accuracy": accuracy,
        "cpu_s": cpu_s,
        **figures,
    }


def test_a_peer_stands_beside_the_soonest_of_ours_that_is_as_good(peers: ModuleType) -> None:
    rows = [row("frostline linear_probe", seed, 0.70 + seed / 100, 2.0) for seed in (0, 1)]
    rows += [row("frostline top_k(1)", seed, 0.80, 5.0 + seed) for seed in (0, 1)]
    rows += [row("fastai fine_tune", seed, 0.75, (25.0, 60.0)[seed]) for seed in (0, 1)]
    rows += [row("vyntri", seed, 0.69, 1.0) for seed in (0, 1)]
    lines = list(peers.ratio_lines(rows))
    assert "| fastai fine_tune | 75.0 | top_k(1) | 7.07 (5.00–10.00) |" in lines
    assert "| vyntri | 69.0 | linear_probe | 0.50 (0.50–0.50) |" in lines
    heads = list(peers.headlines(rows))
    assert heads[0].endswith("fastai fine_tune takes 19.36 × its seconds.")
    assert heads[1].endswith("no peer gets there.")
    assert "frostline top_k(1) +5.0 (n = 2)" in heads[2]
    paired = list(peers.paired_lines([*rows, row("vyntri", 2, 0.1, 1.0)]))  # a draw that ours has not seen
    assert "| vyntri | frostline linear_probe | +1.5 ± 6.4 | 0.50 (0.50–0.50) | 2 |" in paired


def test_the_soonest_setting_within_a_point_of_the_best_is_chosen(peers: ModuleType) -> None:
    names = [f"fastai fine_tune {{{n}}}" for n in range(3)]
    scores = ((0.60, 1.0), (0.695, 4.0), (0.70, 9.0))
    rows = [row(name, 0, *score) for name, score in zip(names, scores, strict=True)]
    assert peers.chosen(rows) == {"fastai fine_tune": names[1]}
