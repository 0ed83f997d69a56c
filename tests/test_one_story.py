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
from frostline import sentences
from frostline.cli.output import comparison_text, run_text
from frostline.data import Manifest
from frostline.selection import anytime
from tiny import picture, tiny_backbone, write_folder, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}
STRATEGIES = ("linear_probe", "top_k(1, epochs=2)", "head(epochs=2)")
FEW = ("linear_probe", "head(epochs=1)")  # where it matters that there was a comparison, not of how many
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
    story: Story = defaultdict(set)
    for pattern in (
        rf"Accuracy {NUMBER} \({SPAN}\)",
        rf"an accuracy of {NUMBER} on new images \({SPAN}\)",
    ):
        story["headline"] |= set(re.findall(pattern, text))
    story["headline"] |= set(re.findall(rf"headline's {NUMBER} \({SPAN}\)", text))
    story["headline"] |= set(
        re.findall(rf"{NUMBER} accuracy on new images\s+by .*95 % interval {SPAN}", text)
    )
    story["strategies tried"] |= set(re.findall(r"(\d+) (?:strategy|strategies) (?:tried|raced|w)", text))
    story["runs"] |= set(re.findall(r"(\d+) runs? in ", text))
    story["lowered"] |= set(re.findall(r"owered by (\d+\.\d) points", text))
    story["lowered"] |= set(re.findall(r"is (\d+\.\d) points below the chosen", text))
    story["balanced"] |= set(re.findall(rf"balanced accuracy {NUMBER}", text))
    story["worst class"] |= set(
        re.findall(rf"(?:worst class|Hardest class:) ([\w ]+?)(?:, recall)? {NUMBER} (?:of|on) (\d+) i", text)
    )
    story["log loss"] |= set(re.findall(r"Log loss is (\d\.\d{3}) \((\d\.\d{3})–(\d\.\d{3})\)", text))
    story["calibration error"] |= set(re.findall(r"calibration error is (\d+\.\d) points", text))
    story["looks"] |= set(re.findall(r"(\d+) configurations (?:have been|were) evaluated", text))
    story["looks"] |= {"1"} if re.search("that no (?:decision|choice) has (?:used|seen)", text) else set()
    story["looks"] |= {"1"} if re.search(r"\bonce\b", text) and "test" in text else set()
    return story


def of_page(path: Path) -> Story:
    """What the report says, its tables and the facts under its headline included."""
    page = Reader()
    page.feed(path.read_text(encoding="utf-8"))
    story = of_text(page.text)
    for name in ("strategies tried", "runs"):
        story[name] |= {page.facts[name]} if name in page.facts else set()
    for caption in ("What was tried", "Accuracy against time"):
        for name, accuracy, span, *_ in page.tables[caption][1:]:
            story[f"row {name}"] |= {(accuracy, span)} if accuracy else set()
    for name, _, measured in page.tables["Accuracy: expected and measured"][1:]:
        story[f"row {name}"].add(tuple(re.fullmatch(rf"({NUMBER}) \(({SPAN})\)", measured).group(1, 3)))  # type: ignore[union-attr]
    shown = page.tables["Recall and precision by class"][1:]
    lowest = min((float(row[2].split()[0]) for row in shown), default=None)
    if lowest is not None and story["worst class"]:
        story["worst class's share"] = {f"{lowest:.1f}", next(iter(story["worst class"]))[1]}
    return story


def of_json(result: dict[str, Any]) -> Story:
    """What a program reads, in the digits that people are shown."""
    story: Story = defaultdict(set)
    metrics = result if "headline" not in result or result["accuracy"] is not None else result["headline"]
    if metrics["accuracy"] is not None:
        story["headline"].add(tuple(f"{100 * metrics[key]:.1f}" for key in ("accuracy", "low", "high")))
    for row in result.get("tried", result.get("standings", [])):
        if row["accuracy"] is not None:
            span = None if row["low"] is None else f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"
            story[f"row {row['strategy']}"].add((f"{100 * row['accuracy']:.1f} %", span))
    rows = result.get("tried", result.get("standings", []))
    if rows:
        story["strategies tried"].add(str(sum(row["runs"] > 0 for row in rows)))
        story["runs"].add(str(sum(row["runs"] for row in rows)))
    for key in ("strategies_tried", "runs"):
        story[key.replace("_", " ")] |= {str(result[key])} if key in result else set()
    if metrics.get("log_loss_low") is not None:
        losses = (f"{metrics[key]:.3f}" for key in ("log_loss", "log_loss_low", "log_loss_high"))
        story["log loss"].add(tuple(losses))
        story["calibration error"].add(f"{100 * metrics['ece']:.1f}")
    if metrics.get("worst_class"):
        worst = metrics["worst_class"]
        story["worst class"].add((worst["label"], f"{100 * worst['accuracy']:.1f}", str(worst["n"])))
        story["balanced"].add(f"{100 * metrics['balanced_accuracy']:.1f}")
    if result.get("optimism"):
        story["lowered"].add(f"{100 * result['optimism']:.1f}")
    if result.get("test_evaluations") is not None:
        story["looks"].add(str(result["test_evaluations"]))
    return story


def of_terminal(text: str) -> Story:
    """What a person saw at the prompt; rows of its tables are `name  71.3 %  60.1–80.2 %  …`."""
    story = of_text(text)
    row = r"^ (\S.*?)  +(\d+\.\d %)  +([\d.]+–[\d.]+ %)"
    for name, accuracy, span in re.findall(row, text, re.MULTILINE):
        story[f"row {name}"].add((accuracy, span))
    return story


def check(*stories: Story) -> Story:
    """Fail where one name has two values; returns all that was told."""
    merged: Story = defaultdict(set)
    for story in stories:
        for name, values in story.items():
            merged[name] |= values
    assert {name: values for name, values in merged.items() if len(values) > 1} == {}
    return merged


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


def fitted(images: Path, study: Path, **overrides: Any) -> Any:
    options = {
        "model": tiny_backbone(),
        "strategies": STRATEGIES,
        "repeats": 2,
        "minutes": 5.0,
        **OPTIONS,
        **overrides,
    }
    return frostline.fit(images, study=study, **options)


@pytest.mark.usefixtures("wide")
def test_a_fit_tells_one_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = fitted(hard_folder(tmp_path / "photos", 20, 18, 4), tmp_path / "study")
    comparison_text.fitted(fit)
    terminal = capsys.readouterr().out
    stored = json.loads((tmp_path / "study/fit.json").read_text())
    stories = (of_page(Path(fit.report)), of_terminal(terminal), of_json(fit.result), of_json(stored))
    assert all(story["headline"] and story["row linear_probe"] for story in stories)
    story = check(*stories)
    assert story["strategies tried"] == {"3"}
    assert story["runs"]
    assert len(story["headline"]) == len(story["worst class"]) == len(story["balanced"]) == 1
    assert story["log loss"]
    ((_, low, high),) = story["headline"]
    ((_, span),) = story[f"row {fit.strategy}"]
    ends = [float(end) for end in re.findall(r"[\d.]+", span)]
    lead = 100 * fit.optimism
    assert [float(low), float(high)] == pytest.approx(
        [ends[0] - lead, ends[1] - lead], abs=0.11
    )  # of one kind
    assert sum(name.startswith("row ") for name in story) == 3
    assert "Classes are imbalanced (5 to 1)" in terminal  # 20 against 4
    assert "Classes are imbalanced (5 to 1)" in Path(fit.report).read_text()
    assert {"balanced_accuracy", "majority_share", "worst_class"} <= set(fit.result)


@pytest.mark.usefixtures("wide")
def test_a_race_cut_short_counts_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three strategies began, one on all folds and one on a single one: the page says two."""
    whole = anytime.next_task

    def cut_short(board: anytime.Scoreboard) -> anytime.NextTrial:
        return anytime.NextTrial(None, "the time is up") if len(board.results) == 6 else whole(board)

    monkeypatch.setattr(anytime, "next_task", cut_short)
    fit = fitted(hard_folder(tmp_path / "photos", 15, 15, 15), tmp_path / "study", repeats=1)
    comparison_text.fitted(fit)
    page = Path(fit.report)
    story = check(of_page(page), of_terminal(capsys.readouterr().out), of_json(fit.result))
    assert story["strategies tried"] == {"2"}
    assert story["runs"] == {"6"}
    assert "1 more did not start within the time" in page.read_text()


@pytest.mark.usefixtures("wide")
def test_a_test_part_that_was_looked_at_three_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=9, test=8))
    for strategy in STRATEGIES:
        run = frostline.train(tiny_backbone(), data, strategy, study=tmp_path / "study", **OPTIONS)
    run_text.run(run)
    for line in run_text.warnings(run.result):
        print(line)
    page = frostline.report(tmp_path / "study").path
    assert of_page(page)["headline"]
    story = check(of_page(page), of_text(capsys.readouterr().out), {"looks": {str(run.test_evaluations)}})
    assert story["looks"] == {"3"}
    assert story["strategies tried"] == story["runs"] == {"3"}
    assert len(story["headline"]) == 1


@pytest.mark.usefixtures("wide")
def test_a_comparison_with_a_test_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = frostline.load_data(write_table(tmp_path / "images", train=9, test=8))
    comparison = frostline.compare(
        tiny_backbone(), data, STRATEGIES, repeats=1, study=tmp_path / "study", **OPTIONS
    )
    comparison_text.comparison(comparison)
    page = frostline.report(tmp_path / "study").path
    story = check(of_page(page), of_terminal(capsys.readouterr().out), of_json(comparison.result))
    assert story["looks"] == {"1"}
    assert len(story["headline"]) == 1


# --- figures that are unknown --------------------------------------------------------------------------


def test_one_image_a_class_has_no_figure_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages: list[str] = []
    fit = fitted(write_folder(tmp_path / "photos", per_class=1), tmp_path / "study", log=messages.append)
    comparison_text.fitted(fit)
    assert (fit.accuracy, fit.low, fit.balanced_accuracy) == (None, None, None)
    assert "accuracy is unknown" in " ".join(messages)
    for text in (capsys.readouterr().out, Path(fit.report).read_text()):
        assert "accuracy is unknown" in " ".join(text.split()).replace("&#39;", "'")
    assert frostline.predict(tmp_path / "study", tmp_path / "photos", module=tiny_backbone().model)


def test_copies_of_one_image_are_one_image(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=1)
    for file in list(photos.glob("*/*.png")):
        (file.parent / "copy.png").write_bytes(file.read_bytes())
    assert fitted(photos, tmp_path / "study").accuracy is None


def test_one_training_image_a_class_is_measured_on_the_test_part(tmp_path: Path) -> None:
    fit = fitted(write_table(tmp_path / "images", train=1, test=4), tmp_path / "study")
    assert (fit.strategy, fit.basis) == ("linear_probe", "test set")
    assert fit.low < fit.accuracy <= fit.high
    assert (fit.run.n_train, fit.run.n_test, fit.run.test_evaluations) == (3, 12, 1)
    assert frostline.predict(fit.study, tmp_path / "images", module=tiny_backbone().model).run == fit.run.run


@pytest.mark.usefixtures("wide")
def test_a_class_that_was_never_asked_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = fitted(hard_folder(tmp_path / "photos", 1, 12), tmp_path / "study", repeats=1, strategies=FEW)
    comparison_text.fitted(fit)
    assert fit.absent_classes == ["kind 0"]
    assert fit.balanced_accuracy is None
    assert "kind 0 was not evaluated" in capsys.readouterr().out
    page = Path(fit.report).read_text()
    assert "kind 0 was not evaluated" in page
    assert "Every class has" not in page


def test_a_class_without_a_test_image_has_no_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "images", train=6, test=4)
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if not row.endswith("kind 2,test")) + "\n")
    data = frostline.load_data(table)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "study", **OPTIONS)
    run_text.run(run)
    assert (run.per_class["kind 2"]["recall"], run.per_class["kind 2"]["images"]) == (None, 0)
    assert run.balanced_accuracy is None
    assert run.absent_classes == ["kind 2"]
    text = capsys.readouterr().out
    assert "kind 2 was not evaluated" in text
    assert "no images" in text


# --- the page's cards -------------------------------------------------------------------------------------


def test_a_mistake_that_may_be_mislabelled_is_shown_once_with_both_facts(tmp_path: Path) -> None:
    import studies
    from frostline.reports.writer import read_context, sections

    study = studies.compared(tmp_path / "study")
    data = Manifest.load(study / "manifest.jsonl")
    table = study / "comparisons" / "abc" / "out-of-fold.csv"
    studies.write_answers(table, data.classes, data.samples, 1.0)
    lines = table.read_text().splitlines()
    lines[4] = re.sub(",cat,", ",newt,", lines[4], count=1)
    table.write_text("\n".join(lines) + "\n")
    built = {section.key: section for section in sections(read_context(study))}
    (card,) = built["mistakes"].more["cards"]
    assert card["label_issue"]
    assert built["labels"].more["cards"] == []
    assert any("marked there" in line for line in built["labels"].lead)
    text = frostline.report(study).path.read_text()
    assert text.count(card["path"]) == 2  # its title and its name, on one card
    assert "Its label may be wrong." in text


def test_a_card_without_a_picture_says_why(tmp_path: Path) -> None:
    import studies

    study = studies.compared(tmp_path / "study")
    for picture_file in (study / "comparisons" / "abc" / "error-gallery").glob("*.jpg"):
        picture_file.unlink()
    text = frostline.report(study).path.read_text()
    assert text.count("The study has pictures of the most confident mistakes only.") == text.count(
        'class="look-at"'
    )


# --- short reprs ------------------------------------------------------------------------------------------


def test_what_is_printed_is_short(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", per_class=6)
    fit = fitted(photos, tmp_path / "study", repeats=1, strategies=FEW)
    backbone, data = tiny_backbone(), frostline.load_data(photos)
    assert fit.comparison is not None
    predictions = frostline.predict(tmp_path / "study", photos, module=tiny_backbone().model)
    for result in (data, fit, fit.run, fit.comparison, fit.signals, fit.advice, predictions, backbone):
        text = repr(result)
        assert text.startswith(f"<{type(result).__name__}")
        assert len(text) < 600
        assert len(text.splitlines()) <= 3
        assert data.samples[0].digest not in text
    assert repr(data).startswith("<Manifest: 18 images of 3 classes (kind 0, kind 1, kind 2): ")
    assert f"{100 * fit.accuracy:.1f} %" in repr(fit)


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
    assert after.skipped == ()
    for name, kind in (
        ("my study/", "a study"),
        ("my model/", "an export"),
        ("kind 0/its model/", "an export"),
    ):
        assert any(note.startswith(f"{name} is {kind} that frostline wrote") for note in after.notes)


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert [sentences.signed(value) for value in (-0.04, 0.04, 0.0, -0.06, 0.06)] == [
        "0.0",
        "0.0",
        "0.0",
        "-0.1",
        "+0.1",
    ]
    assert (sentences.signed(-0.0004, 3), sentences.signed(0.0005, 3)) == ("0.000", "+0.001")
    headline = {"basis": "out of fold", "images": 9, "pool": 9, "folds": 5, "optimism": 0.0004}
    assert "lowered" not in sentences.basis(headline)
    assert "lowered by 0.1 points" in sentences.basis({**headline, "optimism": 0.0006})
