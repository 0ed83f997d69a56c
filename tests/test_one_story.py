"""One study tells one story: whatever has one name has one value, in the report, the terminal and the JSON.

The checker reads what a person reads: the page's text, the lines of the terminal, the result as plain data.
"""

from __future__ import annotations

import html.parser
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frostline
from frostline.cli.output import comparison_text, fit_text, formatting
from frostline.data import Manifest
from frostline.selection import anytime
from tiny import picture, tiny_backbone, write_folder, write_table

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGIES = ("linear_probe", "top_k(1, epochs=2)", "head(epochs=2)")
NUMBER = r"(\d+\.\d) %"
SPAN = r"(\d+\.\d)–(\d+\.\d) %"
Story = dict[str, set[Any]]  # what is told, by its name


# --- the checker ------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """A page's text, a line for each block, and its tables by caption, each row a list of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tables, self.facts = "", defaultdict[str, list[list[str]]](list), dict[str, str]()
        self._skipped, self._at, self._caption, self._term = "", "", "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped = tag if tag in ("script", "style") else self._skipped
        self._at = tag if tag in ("caption", "th", "td", "dt", "dd") else self._at
        if tag in ("p", "li", "h1", "h2", "h3", "tr"):
            self.text += "\n"
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = "" if tag == self._skipped else self._skipped
        self._at = "" if tag == self._at else self._at

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        self.text += data
        if self._at == "caption":
            self._caption = data
        elif self._at in ("th", "td"):
            self.tables[self._caption][-1][-1] += data
        elif self._at == "dt":
            self._term = data
        elif self._at == "dd":
            self.facts.setdefault(self._term, data)


def of_text(text: str) -> Story:
    """What sentences say, by name; the same rules for a page and for a terminal."""
    told: Story = defaultdict(set)
    for pattern in (rf"Accuracy {NUMBER} \({SPAN}\)", rf"answers {NUMBER} of new images right \({SPAN}\)"):
        told["headline"] |= set(re.findall(pattern, text))
    told["headline"] |= set(re.findall(rf"headline's {NUMBER} \({SPAN}\)", text))
    told["headline"] |= set(
        re.findall(rf"{NUMBER} of new images answered right\s+by .*95 % interval {SPAN}", text)
    )
    told["strategies tried"] |= set(re.findall(r"(\d+) (?:strategy|strategies) (?:tried|raced|w)", text))
    told["runs"] |= set(re.findall(r"(\d+) runs? in ", text))
    told["lowered"] |= set(re.findall(r"owered by (\d+\.\d) points", text))
    told["lowered"] |= set(re.findall(r"is (\d+\.\d) points below the chosen", text))
    told["balanced"] |= set(re.findall(rf"balanced accuracy {NUMBER}", text))
    told["worst class"] |= set(
        re.findall(rf"(?:worst class|Hardest class:) ([\w ]+?),? {NUMBER} of (\d+) i", text)
    )
    told["log loss"] |= set(re.findall(r"Log loss is (\d\.\d{3}) \((\d\.\d{3})–(\d\.\d{3})\)", text))
    told["calibration error"] |= set(re.findall(r"levels is (\d+\.\d) points", text))
    told["looks"] |= set(re.findall(r"(\d+) configurations (?:have looked|were evaluated)", text))
    told["looks"] |= {"1"} if "that no choice has seen" in text else set()
    told["looks"] |= {"1"} if re.search(r"\bonce\b", text) and "test" in text else set()
    return told


def of_page(path: Path) -> Story:
    """What the report says, its tables and the facts under its headline included."""
    page = Reader()
    page.feed(path.read_text(encoding="utf-8"))
    told = of_text(page.text)
    for name in ("strategies tried", "runs"):
        told[name] |= {page.facts[name]} if name in page.facts else set()
    for caption in ("What was tried", "Accuracy against time"):
        for name, right, span, *_ in page.tables[caption][1:]:
            told[f"row {name}"] |= {(right, span)} if right else set()
    for name, _, found in page.tables["Accuracy: expected and found"][1:]:
        told[f"row {name}"].add(tuple(re.fullmatch(rf"({NUMBER}) \(({SPAN})\)", found).group(1, 3)))  # type: ignore[union-attr]
    shown = page.tables["Recognised, class by class"][1:]
    lowest = min((float(row[2].split()[0]) for row in shown), default=None)
    if lowest is not None and told["worst class"]:
        told["worst class's share"] = {f"{lowest:.1f}", next(iter(told["worst class"]))[1]}
    return told


def of_json(result: dict[str, Any]) -> Story:
    """What a program reads, in the digits that people are shown."""
    told: Story = defaultdict(set)
    figures = result if "headline" not in result or result["accuracy"] is not None else result["headline"]
    if figures["accuracy"] is not None:
        told["headline"].add(tuple(f"{100 * figures[key]:.1f}" for key in ("accuracy", "low", "high")))
    for row in result.get("tried", result.get("standings", [])):
        if row["accuracy"] is not None:
            span = None if row["low"] is None else f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"
            told[f"row {row['strategy']}"].add((f"{100 * row['accuracy']:.1f} %", span))
    rows = result.get("tried", result.get("standings", []))
    if rows:
        told["strategies tried"].add(str(sum(row["runs"] > 0 for row in rows)))
        told["runs"].add(str(sum(row["runs"] for row in rows)))
    for key in ("strategies_tried", "runs"):
        told[key.replace("_", " ")] |= {str(result[key])} if key in result else set()
    if figures.get("log_loss_low") is not None:
        losses = (f"{figures[key]:.3f}" for key in ("log_loss", "log_loss_low", "log_loss_high"))
        told["log loss"].add(tuple(losses))
        told["calibration error"].add(f"{100 * figures['ece']:.1f}")
    if figures.get("worst_class"):
        worst = figures["worst_class"]
        told["worst class"].add((worst["label"], f"{100 * worst['accuracy']:.1f}", str(worst["n"])))
        told["balanced"].add(f"{100 * figures['balanced_accuracy']:.1f}")
    if result.get("optimism"):
        told["lowered"].add(f"{100 * result['optimism']:.1f}")
    if result.get("test_looks") is not None:
        told["looks"].add(str(result["test_looks"]))
    return told


def of_terminal(text: str) -> Story:
    """What a person saw at the prompt; rows of its tables are `name  71.3 %  60.1–80.2 %  …`."""
    told = of_text(text)
    row = r"^ (\S.*?)  +(\d+\.\d %)  +([\d.]+–[\d.]+ %)"
    for name, right, span in re.findall(row, text, re.MULTILINE):
        told[f"row {name}"].add((right, span))
    return told


def check(*stories: Story) -> Story:
    """Fail where one name has two values; returns all that was told."""
    told: Story = defaultdict(set)
    for story in stories:
        for name, values in story.items():
            told[name] |= values
    assert {name: values for name, values in told.items() if len(values) > 1} == {}
    return told


# --- what it is asked about -------------------------------------------------------------------------------


def hard_folder(root: Path, *counts: int) -> Path:
    """Write a folder per class of which a third of the pictures look like the class before."""
    write_folder(root, classes=len(counts), per_class=0)
    rng = np.random.default_rng(7)
    for kind, count in enumerate(counts):
        for index in range(count):
            shown = (kind - 1) % len(counts) if index % 3 == 1 else kind
            picture(shown, rng).save(root / f"kind {kind}" / f"{index:03}.png")
    return root


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def fitted(images: Path, study: Path, **given: Any) -> Any:
    made = {
        "model": tiny_backbone(),
        "strategies": STRATEGIES,
        "repeats": 2,
        "minutes": 5.0,
        **OPTIONS,
        **given,
    }
    return frostline.fit(images, study=study, **made)


@pytest.mark.usefixtures("wide")
def test_a_fit_tells_one_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fitted(hard_folder(tmp_path / "photos", 20, 18, 4), tmp_path / "study")
    fit_text.fitted(found)
    terminal = capsys.readouterr().out
    stored = json.loads((tmp_path / "study/fit.json").read_text())
    stories = (of_page(Path(found.report)), of_terminal(terminal), of_json(found.result), of_json(stored))
    assert all(story["headline"] and story["row linear_probe"] for story in stories)
    told = check(*stories)
    assert told["strategies tried"] == {"3"}
    assert told["runs"]
    assert len(told["headline"]) == len(told["worst class"]) == len(told["balanced"]) == 1
    assert told["log loss"]
    ((_, low, high),) = told["headline"]
    ((_, span),) = told[f"row {found.strategy}"]
    ends = [float(end) for end in re.findall(r"[\d.]+", span)]
    lead = 100 * found.optimism
    assert [float(low), float(high)] == pytest.approx(
        [ends[0] - lead, ends[1] - lead], abs=0.11
    )  # of one kind
    assert sum(name.startswith("row ") for name in told) == 3
    assert "Classes are unequal (5 to 1)" in terminal  # 20 against 4
    assert "Classes are unequal (5 to 1)" in Path(found.report).read_text()
    assert {"balanced_accuracy", "majority_share", "worst_class"} <= set(found.result)


@pytest.mark.usefixtures("wide")
def test_a_race_cut_short_counts_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three strategies began, one on all folds and one on a single one: the page says two."""
    whole = anytime.next_task

    def cut_short(board: anytime.Scoreboard) -> anytime.NextTrial:
        return anytime.NextTrial(None, "the time is up") if len(board.results) == 6 else whole(board)

    monkeypatch.setattr(anytime, "next_task", cut_short)
    found = fitted(hard_folder(tmp_path / "photos", 15, 15, 15), tmp_path / "study", repeats=1)
    fit_text.fitted(found)
    page = Path(found.report)
    told = check(of_page(page), of_terminal(capsys.readouterr().out), of_json(found.result))
    assert told["strategies tried"] == {"2"}
    assert told["runs"] == {"6"}
    assert "1 more had no time to begin" in page.read_text()


@pytest.mark.usefixtures("wide")
def test_a_test_part_that_was_looked_at_three_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=9, test=8))
    for strategy in STRATEGIES:
        run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "study", **OPTIONS)
    formatting.run(run)
    for line in formatting.warnings(run.result):
        print(line)
    page = frostline.report(tmp_path / "study").path
    assert of_page(page)["headline"]
    told = check(of_page(page), of_text(capsys.readouterr().out), {"looks": {str(run.test_looks)}})
    assert told["looks"] == {"3"}
    assert told["strategies tried"] == told["runs"] == {"3"}
    assert len(told["headline"]) == 1


@pytest.mark.usefixtures("wide")
def test_a_comparison_with_a_test_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=9, test=8))
    found = frostline.compare(
        tiny_backbone(), data, STRATEGIES, repeats=1, study=tmp_path / "study", **OPTIONS
    )
    comparison_text.comparison(found)
    page = frostline.report(tmp_path / "study").path
    told = check(of_page(page), of_terminal(capsys.readouterr().out), of_json(found.result))
    assert told["looks"] == {"1"}
    assert len(told["headline"]) == 1


# --- figures that can't be known --------------------------------------------------------------------------


def test_one_image_a_class_has_no_figure_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    found = fitted(write_folder(tmp_path / "photos", per_class=1), tmp_path / "study", log=said.append)
    fit_text.fitted(found)
    assert (found.accuracy, found.low, found.balanced_accuracy) == (None, None, None)
    assert "can't be known" in " ".join(said)
    for text in (capsys.readouterr().out, Path(found.report).read_text()):
        assert "can't be known" in " ".join(text.split()).replace("&#39;", "'")
    assert frostline.predict(tmp_path / "study", tmp_path / "photos", module=tiny_backbone().model)


def test_copies_of_one_image_are_one_image(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=1)
    for file in list(photos.glob("*/*.png")):
        (file.parent / "copy.png").write_bytes(file.read_bytes())
    assert fitted(photos, tmp_path / "study").accuracy is None


def test_one_training_image_a_class_is_measured_on_the_test_part(tmp_path: Path) -> None:
    found = fitted(write_table(tmp_path / "images", train=1, test=4), tmp_path / "study")
    assert (found.strategy, found.basis) == ("linear_probe", "test part")
    assert found.low < found.accuracy <= found.high
    assert (found.run.n_train, found.run.n_test, found.run.test_looks) == (3, 12, 1)
    assert (
        frostline.predict(found.study, tmp_path / "images", module=tiny_backbone().model).run == found.run.run
    )


@pytest.mark.usefixtures("wide")
def test_a_class_that_was_never_asked_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fitted(hard_folder(tmp_path / "photos", 1, 12), tmp_path / "study", repeats=1)
    fit_text.fitted(found)
    assert found.never_asked == ["kind 0"]
    assert found.balanced_accuracy is None
    assert "kind 0 was never asked" in capsys.readouterr().out
    page = Path(found.report).read_text()
    assert "kind 0 was never asked" in page
    assert "Every class was" not in page


def test_a_class_without_a_test_image_has_no_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "images", train=6, test=4)
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if not row.endswith("kind 2,test")) + "\n")
    data = frostline.load_data(table)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", **OPTIONS)
    formatting.run(run)
    assert (run.per_class["kind 2"]["recall"], run.per_class["kind 2"]["images"]) == (None, 0)
    assert run.balanced_accuracy is None
    assert run.never_asked == ["kind 2"]
    text = capsys.readouterr().out
    assert "kind 2 was never asked" in text
    assert "never asked" in text


# --- the page's cards -------------------------------------------------------------------------------------


def test_a_mistake_that_may_be_mislabelled_is_shown_once_with_both_facts(tmp_path: Path) -> None:
    import studies
    from frostline.reports.sections import sections
    from frostline.reports.writer import gathered

    study = studies.compared(tmp_path / "study")
    data = Manifest.load(study / "manifest.jsonl")
    table = study / "comparisons" / "abc" / "out-of-fold.csv"
    studies.write_answers(table, data.classes, data.samples, 1.0)
    lines = table.read_text().splitlines()
    lines[4] = re.sub(",cat,", ",newt,", lines[4], count=1)
    table.write_text("\n".join(lines) + "\n")
    made = {section.key: section for section in sections(gathered(study))}
    (card,) = made["mistakes"].more["cards"]
    assert card["doubted"]
    assert made["labels"].more["cards"] == []
    assert any("marked there" in line for line in made["labels"].lead)
    text = frostline.report(study).path.read_text()
    assert text.count(card["path"]) == 2  # its title and its name, on one card
    assert "Its label may be wrong." in text


def test_a_card_without_a_picture_says_why(tmp_path: Path) -> None:
    import studies

    study = studies.compared(tmp_path / "study")
    for picture_file in (study / "comparisons" / "abc" / "looks").glob("*.jpg"):
        picture_file.unlink()
    text = frostline.report(study).path.read_text()
    assert text.count("The study keeps pictures of the surest mistakes alone.") == text.count(
        'class="look-at"'
    )


# --- short reprs ------------------------------------------------------------------------------------------


def test_what_is_printed_is_short(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=6)
    found = fitted(photos, tmp_path / "study", repeats=1)
    backbone, data = tiny_backbone(), frostline.load_data(photos)
    assert found.comparison is not None
    answers = frostline.predict(tmp_path / "study", photos, module=tiny_backbone().model)
    for one in (data, found, found.run, found.comparison, found.signals, found.advice, answers, backbone):
        text = repr(one)
        assert text.startswith(f"<{type(one).__name__}")
        assert len(text) < 600
        assert len(text.splitlines()) <= 3
        assert data.samples[0].digest not in text
    assert repr(data).startswith("<Manifest: 18 images of 3 classes (kind 0, kind 1, kind 2): ")
    assert f"{100 * found.accuracy:.1f} %" in repr(found)


# --- folders of frostline's own among the images ----------------------------------------------------------


def test_an_export_and_a_study_among_the_images_are_left_out_and_named(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=6)
    before = frostline.load_data(photos)
    frostline.train(tiny_backbone(), before, "linear_probe", study=photos / "my study", **OPTIONS)
    card = {"frostline": {"export": "timm", "files": ["example.png"]}}
    for place in (photos / "my model", photos / "kind 0" / "its model"):
        place.mkdir()
        (place / "config.json").write_text(json.dumps(card))
        (place / "example.png").write_bytes(next(photos.glob("kind 1/*.png")).read_bytes())
    after = frostline.load_data(photos)
    assert after.classes == before.classes
    assert after.digest == before.digest
    assert after.set_aside == ()
    for name, kind in (
        ("my study/", "a study"),
        ("my model/", "an export"),
        ("kind 0/its model/", "an export"),
    ):
        assert any(note.startswith(f"{name} is {kind} of frostline's") for note in after.notes)
