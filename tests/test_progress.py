"""How far long work is: one class for all of it."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path

import pytest

import frostline
from frostline.progress import Progress

SOURCE = Path(frostline.__file__).parent


def test_lines_come_every_ten_seconds_and_say_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = frostline.Progress()
    for done, now_s in enumerate((100.0, 105.0, 110.0, 115.0, 120.0), 1):
        now[:] = [now_s]
        progress("train", done, 20)
    progress("unnamed", 1, 2)  # other work begins anew
    assert capsys.readouterr().err.splitlines() == [
        "  Training: 3 of 20, about 57 s left",
        "  Training: 5 of 20, about 60 s left",
    ]


def test_a_terminal_gets_a_bar_and_lines_go_past_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress()
    progress("train", 1, 20)
    progress.log("a line")
    progress.close()
    shown = capsys.readouterr().err
    assert "Training" in shown
    assert "1/20" in shown
    assert "a line\n" in shown


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=True)
    progress("train", 3, 3)
    progress.log("a line")
    progress.close()
    assert capsys.readouterr() == ("", "")
    assert not progress.heard


def test_functions_are_called_as_one_object() -> None:
    steps: list[tuple[str, int, int]] = []
    lines: list[str] = []
    progress = Progress.of(lambda *step: steps.append(step), lines.append)
    progress("train", 1, 2)
    progress.log("a line")
    assert (steps, lines, progress.heard) == ([("train", 1, 2)], ["a line"], True)
    assert Progress.of(progress) is progress
    others: list[str] = []
    apart = Progress.of(progress, others.append)
    apart("train", 2, 2)
    apart.log("another")
    assert (steps[-1], lines, others) == (("train", 2, 2), ["a line"], ["another"])
    assert not Progress.of(None, lines.append).heard


def test_a_counter_adds_up_and_is_never_past_the_end() -> None:
    steps: list[tuple[str, int, int]] = []
    count = Progress.of(lambda *step: steps.append(step)).counter("frozen layers", 5)
    for more in (2, 3, 1):
        count(more)
    assert steps == [("frozen layers", 2, 5), ("frozen layers", 5, 5), ("frozen layers", 6, 6)]


def test_there_is_one_class_and_one_bar() -> None:
    places = set()
    for path in SOURCE.rglob("*.py"):
        file = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "progress" in node.name.lower():
                places.add((file, node.name))
            elif isinstance(node, ast.ImportFrom) and node.module in ("rich.progress", "tqdm", "tqdm.auto"):
                places.add((file, node.module))
    assert places == {("progress.py", "Progress"), ("progress.py", "rich.progress")}
