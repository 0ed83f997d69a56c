"""The pages for those who come from elsewhere: what they show of frostline runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from tiny import write_folder

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("from-fastai.md", "from-keras.md", "from-ultralytics.md")
THEIRS = ("fastai", "keras", "ultralytics")  # a block that imports one of these is theirs


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def quick(code: str) -> str:
    """The same on smaller images and for fewer epochs."""
    tiny = 'load_backbone("timm/test_resnet.r160_in1k", size=32, random=True)'
    code = re.sub(r'load_backbone\("lite0"[^)]*\)', tiny, code)
    code = re.sub(r"@\d+", "@1", code).replace("--size 224", "--size 32").replace("--to onnx", "--to delta")
    code = re.sub(r"(frostline\.train\(.*)\)$", r"\1, deterministic=True)", code, flags=re.MULTILINE)
    code = code.replace("frostline train", "frostline train --deterministic")
    return re.sub(r"epochs=\d+", "epochs=1", code)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_cache")
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", per_class=12)
    write_folder(tmp_path / "new-photos", per_class=1, seed=9)
    (tmp_path / "new-photos" / "kind 0" / "000.png").rename(tmp_path / "new-photos" / "one.png")
    theirs, ours, known = 0, 0, {}
    for block in blocks(page, "python"):
        code = compile(quick(block), page, "exec")
        if re.search(rf"^(from|import) ({'|'.join(THEIRS)})\b", block, re.MULTILINE):
            theirs += 1
        else:
            exec(code, known)
            ours += 1
    assert theirs
    assert ours >= 2
    for line in [line for block in blocks(page, "sh") for line in block.splitlines()]:
        result = CliRunner().invoke(cli, shlex.split(quick(line))[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", PAGES)
def test_every_strategy_and_name_on_the_page_exists(page: str) -> None:
    text = (DOCS / page).read_text()
    names = "|".join((*frostline.strategies.KINDS,))
    mentions = re.findall(rf"[`\"]((?:{names})(?:\([^`\"…]*\))?)[`\"]", text)
    assert len(mentions) >= 5
    for strategy in mentions:
        assert frostline.parse(strategy.replace("(k)", "(1)").replace("=n", "=1"))
    for name in re.findall(r"frostline\.(\w+)", text):
        assert name in frostline.__all__
    for link in re.findall(r"\]\(([\w.-]+)\)", text):
        assert (DOCS / link).is_file()
