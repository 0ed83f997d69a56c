"""The report: from the folder alone, the same bytes, nothing hostile runs, nothing damaged stops it."""

from __future__ import annotations

import html
import html.parser
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import frostline
import studies
from frostline.cli.main import cli
from frostline.errors import StudyError
from frostline.reports import charts, page, usage_section
from frostline.reports.conclusions import conclusions, duration
from frostline.reports.display_names import shortened, unique_names, visible
from frostline.reports.study_reader import read
from frostline.reports.writer import read_context, sections
from tiny import write_folder

KINDS = {
    "trained": studies.trained,
    "compared": studies.compared,
    "unfinished": lambda place: studies.compared(place, finished=False),
    "cuts": lambda place: studies.compared(place, cuts=True),
    "fitted": studies.fitted,
}
EXPECTED = {
    "trained": "images tried cut classes mistakes trust use",
    "compared": "images tried cut classes mistakes trust foresight use",
    "unfinished": "images tried cut",
    "cuts": "images tried cut classes mistakes trust foresight use",
    "fitted": "images seeing tried cut classes mistakes trust foresight use",
}
MOST_BYTES = 3_000_000


class Reader(html.parser.HTMLParser):
    """What a browser would see: scripts, attributes, ids, and text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data


def looked_at(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


# --- the page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_tells_what_it_holds_and_no_more(kind: str, tmp_path: Path) -> None:
    study = KINDS[kind](tmp_path / "study")
    report = frostline.report(study)
    assert report.notes == ()
    assert 1 <= len(report.lines) <= 10
    assert report.bytes == report.path.stat().st_size < MOST_BYTES
    reader = looked_at(report.path)
    shown = [attributes["id"] for tag, attributes in reader.tags if tag == "section" and "id" in attributes]
    expected = EXPECTED[kind].split()
    assert [key for key in shown if key != "labels"] == expected  # doubts depend on the draw
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', report.path.read_text(), re.DOTALL)[1])  # type: ignore[index]
    places = {attributes["data-chart"] for _, attributes in reader.tags if "data-chart" in attributes}
    assert places == set(specs) != set()


def test_what_adapting_changed_is_told_of_the_model_that_answers(tmp_path: Path) -> None:
    study = studies.trained(tmp_path / "study")
    folder = read(study).best_run.folder  # type: ignore[union-attr]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "drift": {"stem": 0.01, "blocks.0": 0.345}}))
    forgetting = {"before": 0.8, "after": 0.5, "lost": 0.3, "low": 0.25, "high": 0.351, "n_images": 120}
    (folder / "forgetting.json").write_text(json.dumps(forgetting))
    text = looked_at(frostline.report(study).path).text
    assert "What adapting changed in the network" in text
    assert "0.345" in text
    assert "On 120 images of its own classes, through its own head, the network's accuracy was 80.0 %" in text
    assert "30.0 points (25.0 to 35.1) forgotten" in text


def test_the_same_study_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first = studies.fitted(tmp_path / "a" / "study")
    shutil.copytree(first, tmp_path / "b" / "study")
    first_page, other_page = (frostline.report(tmp_path / name / "study").path.read_bytes() for name in "ab")
    again = frostline.report(first).path.read_bytes()
    assert first_page == other_page == again
    assert str(tmp_path).encode() not in first_page
    assert b"/somewhere" not in first_page


def test_the_page_loads_nothing_from_outside(tmp_path: Path) -> None:
    report = frostline.report(studies.fitted(tmp_path / "study"))
    reader = looked_at(report.path)
    for _, attributes in reader.tags:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and "http-equiv" in a)
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy
    addresses = set(re.findall(r"https?://[\w./-]+", report.path.read_text()))
    names = re.compile(r"http://www\.w3\.org/|https://vega\.github\.io/schema/")  # of formats; never fetched
    assert [address for address in addresses if not names.match(address)] == []
    assert "url(" not in report.path.read_text().split("<script")[0]


def test_names_from_users_stay_text(tmp_path: Path) -> None:
    report = frostline.report(studies.fitted(tmp_path / "study", studies.EVIL))
    text = report.path.read_text()
    reader = looked_at(report.path)
    assert report.notes == ()
    assert [a for _, a in reader.tags if any(name.startswith("on") for name in a)] == []
    scripts = [a.get("type") for tag, a in reader.tags if tag == "script"]
    assert scripts == ["application/json", "module", "module"]
    assert text.count("</script>") == 3
    assert text.count("</style>") == 1
    assert "\u202e" not in text
    assert "\\u202e" in reader.text  # written out
    assert "49" not in [row.strip() for row in reader.text.split("\n")]  # no template inside a name
    assert "<script>document.title" in reader.text  # a name is shown as it is, as text


def test_the_verb_says_in_lines_what_the_page_says(tmp_path: Path) -> None:
    """`tests/test_imports.py` shows that it imports no network."""
    text = CliRunner().invoke(cli, ["report", str(studies.fitted(tmp_path / "study"))])
    assert text.exit_code == 0, text.output
    assert len(text.stdout.splitlines()) >= 5


# --- damage -----------------------------------------------------------------------------------------------

DAMAGE = ("", "{", "[]", "null", '{"a": 1}', "\x00\xff\ufffd", '{"standings": [{"strategy": 5}]}')


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_is_damaged_the_rest_is_told_and_the_file_is_named(damage: str, tmp_path: Path) -> None:
    study = studies.fitted(tmp_path / "whole")
    run = json.loads((study / "answer.json").read_text())["run"]
    names = [
        "manifest.jsonl",
        "backbone.json",
        "signals.json",
        "advice.json",
        "fit.json",
        "answer.json",
        "comparisons/abc/comparison.json",
        "comparisons/abc/plan.json",
        "comparisons/abc/out-of-fold.csv",
        "comparisons/abc/error-gallery.json",
        *(
            f"{run}/{name}"
            for name in ("config.json", "result.json", "metrics.jsonl", "backbone.json", "environment.json")
        ),
    ]
    for name in names:
        (study / name).rename(tmp_path / "kept")
        (study / name).write_text(damage, encoding="utf-8")
        context = read_context(study)
        text = page.render(context, sections(context)).decode()
        # answer.json is asked while a comparison is at work, and this one has ended
        spare = ("metrics.jsonl", "plan.json", "error-gallery.json", "environment.json", "answer.json")
        harmless = name.endswith(spare)
        assert context.contents.problems or harmless or "standings" in damage or '"a"' in damage, name
        shown = html.unescape(text)
        assert [note for note in context.contents.problems if visible(note) not in shown] == []
        (tmp_path / "kept").replace(study / name)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    table = study / "comparisons" / "abc" / "out-of-fold.csv"
    table.write_text("path,label\nx")
    report = frostline.report(study)
    assert any(str(table) in note for note in report.notes)
    with pytest.raises(StudyError, match="is not a study"):
        frostline.report(tmp_path)
    with pytest.raises(StudyError, match="does not exist"):
        frostline.report(tmp_path / "nothing")


# --- names --------------------------------------------------------------------------------------------


def test_a_winner_without_epochs_leaves_the_curves_to_the_others(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    file = next(study.glob("comparisons/*/comparison.json"))
    result = json.loads(file.read_text())
    for row in result["standings"]:
        row["winner"] = row["strategy"] == "linear_probe"
    file.write_text(json.dumps(result))
    section = next(s for s in sections(read_context(study)) if s.key == "tried")
    assert section.more["shown"] not in section.more["has_curves"]
    for chart in section.more["curves"]:
        assert chart.spec["params"][0]["value"] in section.more["has_curves"]
        assert chart.rows


def test_runs_that_earlier_commands_made_count_with_their_seconds(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    file = next(study.glob("comparisons/*/comparison.json"))
    document = json.loads(file.read_text())
    lead = "".join(next(s for s in sections(read_context(study)) if s.key == "tried").lead)
    assert "in 3 min of 5 min." in lead
    document["seconds"] = 27.0
    file.write_text(json.dumps(document))
    all_s = sum(row["seconds"] for row in document["standings"])
    lead = "".join(next(s for s in sections(read_context(study)) if s.key == "tried").lead)
    assert f"which took {duration(all_s)} in all." in lead
    assert "27 s" not in lead
    assert ("time spent", duration(all_s)) in page._facts(read_context(study))


def test_accuracy_and_seconds_stand_against_the_cut(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", cuts=True)
    section = next(s for s in sections(read_context(study)) if s.key == "cut")
    accuracy, seconds = section.charts
    assert (accuracy.key, seconds.key) == ("cut-curve", "cut-seconds")
    assert [row[:2] for row in accuracy.rows] == [row[:2] for row in seconds.rows]
    assert not any("the fewest stages" in line for line in section.lead)  # not all ran on every repeat
    file = next(study.glob("comparisons/*/comparison.json"))
    result = json.loads(file.read_text())
    difference = {
        "leader": "full",
        "other": "top_k(1)",
        "mean": 0.1,
        "low": 0.0,
        "high": 0.2,
        "separated": False,
    }
    file.write_text(json.dumps({**result, "differences": [difference]}))
    section = next(s for s in sections(read_context(study)) if s.key == "cut")
    assert any("the fewest stages" in line for line in section.lead)


def test_the_terminal_names_the_study_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    studies.trained(Path("all my studies/one"))
    report = frostline.report("all my studies/one")
    assert report.lines[-1] == "Label new images: frostline predict 'all my studies/one' IMAGES"
    assert "frostline export one" in report.path.read_text()
    assert "frostline predict one IMAGES" in report.path.read_text()  # the same page wherever the folder lies


def test_the_command_that_repeats_it_names_what_was_asked_for(tmp_path: Path) -> None:
    fitted = studies.fitted(tmp_path / "fitted")
    fit = json.loads((fitted / "fit.json").read_text())
    for source, source_argument in ((None, "DATA"), ("my photos/", "'my photos/'"), ("list.csv", "list.csv")):
        (fitted / "fit.json").write_text(json.dumps({**fit, "options": {**fit["options"], "source": source}}))
        assert usage_section.repeat(read_context(fitted)).startswith(
            f"frostline fit {source_argument} --minutes 5"
        )
    plain = {**fit["options"], "source": None, "plain_timm": True}
    (fitted / "fit.json").write_text(json.dumps({**fit, "options": plain}))
    assert "--plain-timm" in usage_section.repeat(read_context(fitted)).split()
    compared = studies.compared(tmp_path / "compared")
    file = next(compared.glob("comparisons/*/comparison.json"))
    arguments = {"strategies": ["linear_probe", "full"], "search": ["lr", "augment"], "draws": 4}
    file.write_text(json.dumps({**json.loads(file.read_text()), "options": arguments}))
    command = usage_section.repeat(read_context(compared))
    assert "--strategies linear_probe,full --search lr --search augment --draws 4" in command
    manifest = compared / "manifest.jsonl"
    header, *rows = manifest.read_text().splitlines()
    split_header = {
        **json.loads(header),
        "predefined": ["test"],
        "shares": [0.0, 0.3],
    }  # a test set of the source's own
    manifest.write_text("\n".join([json.dumps(split_header), *rows]) + "\n")
    assert usage_section.repeat(read_context(compared)).endswith(" --val-size 0.3")
    reading = {"group_by": "re:^(P\\d+)_", "path_column": "file", "label_column": "what it is"}
    manifest.write_text("\n".join([json.dumps({**split_header, "reading": reading}), *rows]) + "\n")
    source_argument = "--path-column file --label-column 'what it is' --group-by 're:^(P\\d+)_'"
    for study in (compared, fitted):
        (study / "manifest.jsonl").write_text(manifest.read_text())
        assert source_argument in usage_section.repeat(read_context(study))
    assert usage_section.repeat(read_context(compared)).startswith("frostline compare DATA ")
    by_option: dict[str, Any] = {
        "cuts": True,
        "hyperparameters": {"lr": 3e-4, "bn": "eval"},
        "imbalance": "weights",
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), "options": by_option}))
    words = usage_section.repeat(read_context(compared)).split(" --")
    assert {"cuts", "set lr=0.0003", "set bn=eval", "imbalance weights"} < set(words)
    assert not any(word.startswith("strategies") for word in words)


def test_random_weights_are_repeated_of_the_run_that_began_with_them(tmp_path: Path) -> None:
    study = studies.trained(tmp_path / "study")
    random, *others = sorted((study / "runs").glob("*/config.json"))
    config = json.loads(random.read_text())
    random.write_text(json.dumps({**config, "source": {"kind": "timm", "random": True}}))
    lines = usage_section.repeat(read_context(study)).splitlines()
    assert len(others) >= 1
    assert [config["strategy"] in line for line in lines if "--no-pretrained" in line] == [True]


@pytest.mark.usefixtures("warm_cache")
def test_the_printed_commands_make_the_same_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of the best run stood in every command, its size too; those of an operating point in none."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", classes=2, per_class=15)
    (tmp_path / "COSTS.csv").write_text("label,kind 0,kind 1\nkind 0,0,1\nkind 1,5,0\n")
    given = (
        "--strategy linear_probe --size 32",
        "--strategy linear_probe --size 40 --positive 'kind 1' --min-recall 0.6",
        "--strategy linear_probe --size 32 --metric sensitivity@specificity=0.8 --positive 'kind 0'",
        "--strategy 'top_k(1)' --size 32 --epochs 1 --min-crop 0.6 --rotate 90 --interpolate-weights 0.5",
        "--strategy head --size 32 --epochs 2 --pixels reference --minutes 5",
        "--strategy linear_probe --size 32 --seed 2 --costs COSTS.csv",
    )
    outputs = []
    for options in given:
        command = [
            "train",
            "photos/",
            *shlex.split(options),
            "--threads",
            "1",
            "--study",
            "my study",
            "--quiet",
        ]
        outputs.append(CliRunner().invoke(cli, command))
    assert [output.exit_code for output in outputs] == [0] * 6, outputs
    assert "Next: frostline predict 'my study' YOUR_IMAGES" in outputs[0].output
    assert "weights are interpolated at 0.5" in " ".join(outputs[3].output.split())
    context = read_context(tmp_path / "my study")
    commands = usage_section.repeat(context).splitlines()
    for command in commands:
        again = [*shlex.split(command)[1:], "--threads", "1", "--study", "two", "--quiet"]
        assert CliRunner().invoke(cli, again).exit_code == 0, command
    for pattern in ("runs/*/config.json", "runs/*/operating-point.json"):
        names = [
            sorted(str(file.relative_to(tmp_path / study)) for file in (tmp_path / study).glob(pattern))
            for study in ("my study", "two")
        ]
        assert names[0] == names[1]
    assert {"linear_probe at 32 px", "linear_probe at 40 px"} < {row.title for row in context.rows}
    assert not any("Training a head" in line for line in conclusions(context))


def test_the_page_says_what_the_head_reads_and_what_loads_it(tmp_path: Path) -> None:
    study = studies.trained(tmp_path / "study")
    for layers, libraries, title in (
        (4, [], "with a file that loads it"),
        (None, ["timm"], "for timm"),
    ):
        for file in (study / "runs").glob("*/result.json"):
            result = {**json.loads(file.read_text()), "layers": layers, "loads_in": libraries}
            file.write_text(json.dumps(result))
        section = usage_section.usage(read_context(study))
        assert section is not None
        assert any(f"the last {layers} stages" in line for line in section.lead) == bool(layers)
        assert any(title in name for name, _ in section.more["codes"])


def test_a_class_that_is_never_answered_has_a_column() -> None:
    value = {"true": "ant", "predicted": "bee", "kind": "wrong", "share": 1.0, "images": 3}
    drawn = charts.confusion([value], ["ant", "bee", "cat"], counts=True)
    for layer in drawn["layer"]:
        for side in ("x", "y"):
            assert layer["encoding"][side]["scale"]["domain"] == ["ant", "bee", "cat"]


def test_training_a_head_is_not_called_unfreezing_layers(tmp_path: Path) -> None:
    context = read_context(studies.compared(tmp_path / "study"))
    assert any(line.startswith("Unfreezing layers") for line in conclusions(context))
    probe = next(row for row in context.rows if row.strategy == "linear_probe")
    head = replace(probe, strategy="head", winner=True, seconds=1.5 * (probe.seconds or 0))
    others = [replace(row, winner=False) for row in context.rows]
    line = next(x for x in conclusions(replace(context, rows=[head, *others])) if "linear probe" in x)
    assert line.startswith("Training a head (head)")
    assert "1.5 times its time" in line


def test_names_are_shortened_and_stay_apart() -> None:
    assert visible("a\u202eb\x00\n") == "a\\u202eb\\u0000\\u000a"
    assert visible("שלום 猫 é\u200d") == "שלום 猫 é\u200d"
    assert len(shortened("y" * 300)) == 48
    names = unique_names(["x" * 300 + "<b>", "x" * 300 + "<b>", "x" * 300, "", "a"])
    assert len(set(names)) == 5
    assert visible("\udc80") == "\\udc80"


def test_what_was_forecast_stands_beside_what_was_measured(tmp_path: Path) -> None:
    section = usage_section.forecasts(read_context(studies.fitted(tmp_path / "study")))
    assert section is not None
    assert "lp_ft: forecast 70–85 %, measured 91.0 % (80.0–97.0 %), above it." in section.lead
