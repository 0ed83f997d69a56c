"""The code in docs/elsewhere.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "elsewhere.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("place", range(2))
def test_the_page_runs(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) == 2
    assert len(BLOCKS[0].splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[place], "elsewhere.md", "exec"), {})
