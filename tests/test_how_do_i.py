"""Sentences as a person says them, each with the one command or call that does it: docs/how-do-i.md runs."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from frostline.models.zoo import backbone_loading
from tiny import picture, write_folder

PAGE = Path(__file__).parents[1] / "docs" / "how-do-i.md"
SIDE = 32


class Sentence(NamedTuple):
    """A sentence of the page with what does it; `mark` is empty, slow or parse."""

    words: str
    mark: str
    language: str
    code: str


def sentences() -> list[Sentence]:
    parts = re.findall(
        r'^\*\*"([^\n]+?)"\*\*[^\n]*\n\n(?:<!-- (\w+) -->\n\n)?```(sh|python)\n(.*?)\n```$',
        PAGE.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [Sentence(*part) for part in parts]


def runs() -> list[Any]:
    return [
        pytest.param(one, id=one.words, marks=[pytest.mark.slow] if one.mark == "slow" else [])
        for one in sentences()
        if one.mark != "parse"
    ]


def tiny_network(source: Any, size: int | None, *rest: Any) -> frostline.Backbone:
    """Return a network of four small stages for any name."""
    return backbone_loading._from_name("timm/test_resnet", size or SIDE, True, None, "lite0")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files that the page's sentences name, and a study that was trained."""
    place, rng = tmp_path_factory.mktemp("workshop"), np.random.default_rng(3)
    write_folder(place / "photos", per_class=6)
    write_folder(place / "grades", per_class=6)
    (place / "photos" / "kind 2").rename(place / "photos" / "defect")
    names = ["kind 0", "kind 1", "defect"]
    with open(place / "costs.csv", "w", newline="") as file:
        costs = [
            [name, *(0 if other == name else 10 if name == "defect" else 1 for other in names)]
            for name in names
        ]
        csv.writer(file).writerows([["label", *names], *costs])
    (place / "new-photos").mkdir()
    parts = [["path", "label", "split"]]
    for file in sorted(place.glob("photos/*/*.png")):
        part = {0: "val", 1: "test"}.get(int(file.stem), "train")
        parts.append([str(file.relative_to(place)), file.parent.name, part])
    rows = [["path", "label", "camera"]]
    for n in range(12):
        picture(n % 3, rng).save(place / "new-photos" / f"{n}.png")
        rows.append([f"new-photos/{n}.png", names[n % 3], f"cam {n % 2}"])
    others = [row[:2] for row in rows]
    for name, lines in (("july.csv", rows), ("old-system.csv", others), ("with-val.csv", parts)):
        with open(place / name, "w", newline="") as file:
            csv.writer(file).writerows(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
        patch.setattr(backbone_loading, "_load", tiny_network)
        patch.chdir(place)
        for strategy in ("head(epochs=1)", "linear_probe"):
            words = f"train photos --strategy {strategy} --study frostline-study --size 32 --deterministic"
            words += "" if strategy == "linear_probe" else " --flip none"
            result = CliRunner().invoke(cli, [*words.split(), "--threads", "1", "--quiet"])
            assert result.exit_code == 0, result.output
        (config,) = (
            path
            for path in place.glob("frostline-study/runs/*/config.yaml")
            if "linear_probe" in path.read_text()
        )
        shutil.copy(config, place / "mine.yaml")
        yield place


@pytest.fixture(autouse=True)
def own_cache(workshop: Path) -> Path:
    """One cache for all sentences, in place of a fresh one for each test."""
    return workshop / "cache"


def one_that_trained() -> str:
    """Return the name of the workshop's run of a head, which is where the working folder is."""
    (config,) = (
        path for path in Path("frostline-study/runs").glob("*/config.yaml") if "head" in path.read_text()
    )
    return config.parent.name


def quick(code: str, study: Path) -> list[str]:
    """Return the words of the same command for small images, few epochs and a study of its own."""
    code = re.sub(r"@\d+", "@1", re.sub(r"--epochs \d+", "--epochs 1", code))
    code = code.replace("--size 384", "--size 32").replace("--draws 8", "--draws 2")
    code = code.replace("--device cuda:1", "--device cpu").replace("--extra-epochs 10", "--extra-epochs 1")
    if "--patience" in code:  # goes by val, which so few images have where it is named
        code = code.replace("photos/", "with-val.csv").replace("--epochs 1", "--epochs 3")
        code = re.sub(r"--patience \d+", "--patience 1", code)
    if "1a2b3c4d5e6f" in code:
        return shlex.split(code.replace("1a2b3c4d5e6f", one_that_trained()))[1:]
    words = shlex.split(re.sub(r"(fit|compare|plan) (.*--minutes) \d+", r"\1 \2 0.5", code))[1:]
    verb, trains = words[0], words[0] in ("train", "compare", "fit")
    added = {
        "--size": str(SIDE) if trains or verb in ("plan", "extract") else "",
        "--threads": "1" if trains or verb in ("plan", "extract") else "",
        "--study": str(study) if trains else "",
        "--repeats": "1" if verb in ("compare", "fit") else "",
        "--flip": "none" if trains and not re.search(r"--strategy \"?linear_probe|--config", code) else "",
        "--epochs": "1" if trains and not re.search(r"linear_probe( |$)|phases|--config", code) else "",
    }
    for option, value in added.items():
        words += [option, value] if value and option not in words else []
    return words + (["--deterministic"] if trains and "--deterministic" not in words else [])


def test_there_are_thirty_sentences_and_every_block_belongs_to_one() -> None:
    assert len(sentences()) >= 30
    assert len(sentences()) == len(re.findall(r"^```(?:sh|python)$", PAGE.read_text(), re.MULTILINE))
    assert {one.mark for one in sentences()} == {"", "slow", "parse"}


@pytest.mark.parametrize("sentence", runs())
def test_the_sentence_is_done(sentence: Sentence, workshop: Path, tmp_path: Path) -> None:
    if sentence.language == "sh":
        assert "\n" not in sentence.code
        result = CliRunner().invoke(cli, quick(sentence.code, tmp_path / "study"))
        assert result.exit_code == 0, result.output
    else:
        code = re.sub(r"epochs=\d+", "epochs=1", sentence.code)
        exec(compile(code, PAGE.name, "exec"), {"frostline": frostline, "torch": torch})


@pytest.mark.parametrize(
    "sentence", [one for one in sentences() if one.mark == "parse"], ids=lambda s: s.words
)
def test_the_sentence_for_other_hardware_is_understood(sentence: Sentence) -> None:
    words = shlex.split(sentence.code)
    verb, *rest = words[words.index("frostline") + 1 :]
    with cli.commands[verb].make_context(verb, rest) as context:
        assert context.params["data"] == "photos/"
