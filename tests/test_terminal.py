"""Tables in terminals: no word of a text and no number is cut where there are 80 columns."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from rich.table import Table

import frostline
from frostline.cli.output import comparison_text, formatting, run_text

NAMES = ("strategy", "accuracy", "95 %", "")
ROWS = [
    (("linear_probe", "95.5 %", "88.0–99.0 %", ""), "bold"),
    (("full(lr=0.001, layer_decay=1)", "95.5 %", "88.0–99.0 %", "not significantly different, 3 of 5"), None),
    (("gradual_unfreeze, strong", "", "", "no time left; trained before by somebody else"), None),
]
TEXTS = {"strategy": len("gradual_unfreeze,"), "": len("significantly")}


def printed(
    table: object, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    formatting.console_out().print(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [56, 64, 80, 99, 100, 140])
def test_words_and_numbers_are_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = printed(formatting.table("A title", NAMES, ROWS, TEXTS), width, monkeypatch, capsys)
    words = out.split()
    for cells, _ in ROWS:
        assert {word for cell in cells for word in cell.split()} <= set(words)
    assert max(map(len, out.splitlines())) <= width
    if width == 140:  # nothing has to fold
        assert len(out.splitlines()) == 2 + 2 + len(ROWS) + 1


def test_standings_are_read_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"strategy": "lp_ft(refit_layers=4)", "augment": "standard", "accuracy": 0.955, "low": 0.88}
    row |= {"high": 0.99, "run_seconds": 123.0, "repeats": 1, "runs": 5, "share": 1.0, "folds": 5}
    row |= {"score": 0.955, "model": "lite0"}
    part = {**row, "repeats": 0, "folds": 2, "joined": True, "strategy": "full(lr=0.001, layer_decay=1)"}
    result = {"metric": "balanced_accuracy", "standings": [row, part], "augment": "standard", "folds": 5}
    result |= {"winner": row["strategy"], "model": "lite0", "models": ["lite0", "lite1"]}
    monkeypatch.setenv("COLUMNS", "80")
    out = printed(comparison_text.standings(result), 80, monkeypatch, capsys)
    assert {"lp_ft(refit_layers=4)", "score", "95.5", "88.0–99.0", "trained", "folds"} <= set(out.split())
    assert "balanced accuracy decides" in out


def test_a_run_with_a_rule_says_that_its_table_does_not_follow_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"operating_point": {"sentences": ["The rule."]}, "accuracy": 0.9}
    run_text._decided(formatting.console_out(), result)
    assert "The accuracy above is of the likeliest class" in capsys.readouterr().out
    run_text._decided(formatting.console_out(), {**result, "accuracy": None})
    assert capsys.readouterr().out == "The rule.\n"
    run_text._decided(formatting.console_out(), {**result, "operating_point": None})
    assert capsys.readouterr().out == ""


def test_names_give_a_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder's name may hold an escape sequence, which `check` and `train` printed as it was."""
    orders = "cat\x1b[31m\x1b]0;title\x07\x9b2J"
    out = formatting.console_out()
    row = Table("class")
    row.add_row(orders)
    out.print(row)
    out.print(f"first line of {orders}\nsecond line")
    text = capsys.readouterr().out
    assert not {letter for letter in text if unicodedata.category(letter) == "Cc"} - {"\n"}
    assert text.count("cat\\u001b[31m\\u001b]0;title\\u0007\\u009b2J") == 2
    assert text.endswith("\nsecond line\n")
    assert not [
        path.name
        for path in Path(frostline.__file__).with_name("cli").rglob("*.py")
        if re.search(r"\bConsole\((?!Console)", path.read_text()) and path.name != "formatting.py"
    ]  # one place makes consoles
