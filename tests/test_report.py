"""The report: from the folder alone, the same bytes, nothing hostile runs, nothing damaged stops it."""

from __future__ import annotations

import html
import html.parser
import http.client
import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import frostline
import studies
from frostline.cli.main import cli
from frostline.errors import StudyError, UsageError
from frostline.inference import error_gallery
from frostline.inference.prediction_rows import Prediction, Predictions
from frostline.reports import charts, notebook, page, prediction_table, tried_strategies, usage_section
from frostline.reports.conclusions import DISTANCES, EXPECTATIONS, conclusions
from frostline.reports.display_names import shortened, unique_names, visible
from frostline.reports.live_page import server, state_of
from frostline.reports.network_chart import flow
from frostline.reports.study_reader import read
from frostline.reports.writer import read_context, sections
from frostline.sentences import Closeness
from frostline.strategies import hyperparameters, lr_schedule, parse, schedule
from frostline.unfreezing import groups
from tiny import tiny_backbone, write_table

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
        "comparisons/abc/looks.json",
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
        spare = ("metrics.jsonl", "plan.json", "looks.json", "environment.json", "answer.json")
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
        (fitted / "fit.json").write_text(json.dumps({**fit, "asked": {**fit["asked"], "source": source}}))
        assert usage_section.repeat(read_context(fitted)).startswith(
            f"frostline fit {source_argument} --minutes 5"
        )
    compared = studies.compared(tmp_path / "compared")
    file = next(compared.glob("comparisons/*/comparison.json"))
    arguments = {"strategies": ["linear_probe", "full"], "search": ["lr", "augment"], "draws": 4}
    file.write_text(json.dumps({**json.loads(file.read_text()), "asked": arguments}))
    command = usage_section.repeat(read_context(compared))
    assert "--strategies linear_probe,full --search lr --search augment --draws 4" in command
    manifest = compared / "manifest.jsonl"
    header, *rows = manifest.read_text().splitlines()
    split_header = {
        **json.loads(header),
        "given": ["test"],
        "shares": [0.0, 0.3],
    }  # a test part of the source's own
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
    file.write_text(json.dumps({**json.loads(file.read_text()), "asked": by_option}))
    words = usage_section.repeat(read_context(compared)).split(" --")
    assert {"cuts", "set lr=0.0003", "set bn=eval", "imbalance weights"} < set(words)
    assert not any(word.startswith("strategies") for word in words)


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


# --- figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("similarity", "closeness"),
    [(1.0, "NEAR"), (0.55, "NEAR"), (0.54, "BETWEEN"), (0.25, "BETWEEN"), (0.24, "FAR"), (0.0, "FAR")],
)
def test_a_similarity_has_one_word_everywhere(similarity: float, closeness: str) -> None:
    assert Closeness.of(similarity) is Closeness[closeness]
    assert set(DISTANCES) == set(EXPECTATIONS) == set(Closeness)


def test_a_candidates_runs_are_found_by_the_paths_that_the_comparison_wrote(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    (file,) = study.glob("comparisons/*/comparison.json")
    result = json.loads(file.read_text())
    for row in result["standings"]:
        row["strategy"] = "head"  # no run has this strategy
    result["standings"][0]["trials"].pop()
    file.write_text(json.dumps(result))
    rows = tried_strategies.strategy_rows(read(study))
    assert [[run.path for run in row.runs] for row in rows] == [
        sorted(row["trials"]) for row in result["standings"]
    ]
    assert [len(row.runs) for row in rows] == [1, 2, 2, 2]
    assert [row.winner for row in rows] == [row["winner"] for row in result["standings"]]


def test_trials_of_an_unfinished_comparison_are_found_by_the_paths_that_were_written(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", finished=False)
    data = read(study).data
    assert data is not None
    # A run on a fold that looks like a trial, and is none: made by another comparison, or by the classifier.
    fold, held = study / "splits" / "fold0", data.samples[:9]
    stranger = studies.write_run(fold, "top_k(1)", data, keep="last", val=held, seed=7)
    files = sorted(study.glob("comparisons/*/trials/*.json"))
    named = [file for file in files if json.loads(file.read_text())["strategy"] == "top_k(1)"]
    rows = {row.strategy: row for row in tried_strategies.strategy_rows(read(study))}
    assert set(rows) == set(studies.TRIED)
    assert len(files) == sum(row.count for row in rows.values()) == 2 * len(studies.TRIED)
    assert rows["full"].epoch_share == 0.25
    paths = [run.path for run in rows["top_k(1)"].runs]
    assert paths == sorted(json.loads(file.read_text())["run"] for file in named)
    assert stranger.relative_to(study).as_posix() not in paths
    named[0].write_text("{}")
    named[1].write_text(named[1].read_text().replace("splits/", "../splits/"))
    contents = read(study)
    assert "top_k(1)" not in {row.strategy for row in tried_strategies.strategy_rows(contents)}
    assert [str(file) in problem for file, problem in zip(named, contents.problems, strict=True)] == [
        True,
        True,
    ]


def test_figures_are_what_they_say(tmp_path: Path) -> None:
    contents = read(studies.compared(tmp_path / "study"))
    predictions = prediction_table.evaluation_predictions(contents)
    assert predictions is not None
    assert predictions.basis == "out of fold"
    matrix = prediction_table.confusion(predictions)
    assert matrix.sum() == len(predictions.paths)
    accuracy, low, high = prediction_table.interval(contents, predictions)
    assert accuracy == pytest.approx(np.trace(matrix) / matrix.sum())
    assert low < accuracy < high
    rows = prediction_table.classes(predictions)
    assert [row.recall for row in rows] == sorted(row.recall for row in rows)
    calibration = prediction_table.calibration(predictions)
    assert sum(b.n_images for b in calibration.bins) == len(predictions.paths)
    assert calibration.accuracy == pytest.approx(accuracy)
    wrong = prediction_table.mistakes(predictions)
    assert len(wrong) == (predictions.predicted != predictions.targets).sum()
    margin = (
        predictions.probabilities[wrong, predictions.predicted[wrong]]
        - predictions.probabilities[wrong, predictions.targets[wrong]]
    )
    assert (np.diff(margin) <= 0).all()


def test_labels_that_are_wrong_are_doubted(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study")
    data = read(study).data
    assert data is not None
    table = study / "comparisons" / "abc" / "out-of-fold.csv"
    studies.write_answers(table, data.classes, data.samples, 1.0)
    assert (
        prediction_table.label_issues(read(study), prediction_table.label_predictions(read(study))).tolist()
        == []
    )  # type: ignore[arg-type]
    lines = table.read_text().splitlines()
    lines[4] = re.sub(",cat,", ",newt,", lines[4], count=1)  # said to be a newt, and looks like a cat
    table.write_text("\n".join(lines) + "\n")
    contents = read(study)
    predictions = prediction_table.label_predictions(contents)
    assert predictions is not None
    assert prediction_table.label_issues(contents, predictions).tolist() == [3]


def test_what_was_tried_and_the_front_of_it(tmp_path: Path) -> None:
    contents = read(studies.compared(tmp_path / "study"))
    rows = {row.strategy: row for row in tried_strategies.strategy_rows(contents)}
    assert set(rows) == set(studies.TRIED)
    assert rows["gradual_unfreeze"].winner
    assert not rows["full"].complete
    assert all(len(row.runs) == 2 for row in rows.values())
    assert rows["full"].low is not None  # from its runs' own tables
    assert [row.cut for row in rows.values()] == [0, 0, 2, 3]
    front = tried_strategies.pareto_front(rows.values())
    assert [row.strategy for row in front] == ["linear_probe", "top_k(1)", "gradual_unfreeze"]


@pytest.mark.parametrize("strategy", ["top_k(2, epochs=3)", "gradual_unfreeze", "phases(0@2, all@3*0.0005)"])
def test_rates_drawn_are_the_rates_trained_with(strategy: str, tmp_path: Path) -> None:
    """The rates of the flow against the optimizer's own groups and shares, on a tiny network."""
    data = studies.begin(tmp_path / "study")
    studies.write_run(tmp_path / "study", strategy, data)
    contents = read(tmp_path / "study")
    drawn = flow(contents, contents.runs[0])
    assert drawn is not None
    parsed, below = hyperparameters(parse(strategy)), len(studies.STAGES) - 1
    phases = schedule(parse(strategy), stages=below + 1, images=len(data.part("train")), batch=32)
    column = 0
    for phase in phases:
        for epoch in range(phase.epochs):
            steps = range(epoch * phase.steps_per_epoch, (epoch + 1) * phase.steps_per_epoch)
            share = np.mean([lr_schedule.scale(step, phase.steps, parsed.warmup) for step in steps])
            for place, stage in enumerate(drawn.stages):
                rate = stage.rates[column]
                if place < phase.cut:
                    assert rate is None
                else:
                    assert rate == pytest.approx(share * phase.lr * parsed.layer_decay ** (below - place))
            column += 1
    assert column == len(drawn.columns)


def test_peaks_are_the_optimizers() -> None:
    backbone = tiny_backbone()
    parsed = hyperparameters(parse("full"))
    parameter_groups = groups(backbone, backbone.adapt(3), 0.01, parsed.layer_decay, parsed.weight_decay)
    for group in parameter_groups:
        below = len(backbone.stages) - 1 - group["stage"]
        assert group["peak"] == lr_schedule.peak(0.01, parsed.layer_decay, below)


# --- the command, and watching -----------------------------------------------------------------------------


def test_the_command_prints_the_conclusions_and_one_object(tmp_path: Path) -> None:
    study = studies.fitted(tmp_path / "study")
    result = CliRunner().invoke(
        cli, ["report", str(study), "--output", str(tmp_path / "page.html"), "--json"]
    )
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert output["report"] == str(tmp_path / "page.html")
    assert len(output["conclusions"]) <= 10
    assert "gradual_unfreeze" in output["conclusions"][0]
    assert (tmp_path / "page.html").is_file()
    result = CliRunner().invoke(cli, ["report", str(study)])
    assert "91.0 %" in result.stdout
    refused = CliRunner().invoke(cli, ["report", str(tmp_path / "no")])
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_watched_study_follows_its_files_on_loopback_alone(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", finished=False)
    served = server(study)
    port = served.server_address[1]
    assert served.server_address[0] == "127.0.0.1"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        status, first = get(port, "/")
        assert status == 200
        assert b"1 run unfinished" in first
        assert b"connect-src &#39;self&#39;" in first
        state = get(port, "/state")[1]
        data = read(study).data
        assert data is not None
        studies.write_run(study / "splits" / "fold2", "full", data, keep="last", val=data.samples[:9])
        assert get(port, "/state")[1] != state
        assert b"unfinished" not in get(port, "/")[1].split(b"<main")[0]
        assert get(port, "/", host="evil.example")[0] == 403
        assert get(port, "/../study.json")[0] == 404
        with pytest.raises(UsageError, match="--port"):
            server(study, port)
    finally:
        served.shutdown()
        served.server_close()
    assert state_of(study) == state_of(study)


# --- what training leaves ----------------------------------------------------------------------------------


def test_a_real_run_leaves_its_network_and_looks(tmp_path: Path) -> None:
    """A whole run on a tiny network, from images to page, with mistakes that can be looked at."""
    table = write_table(tmp_path / "images", train=8, test=10)
    text = table.read_text()
    swapped = re.sub(r"^(0_01\d\.png),kind 0,test", r"\1,kind 1,test", text, flags=re.MULTILINE)
    table.write_text(swapped)  # test images with wrong labels: mistakes are certain
    data = frostline.load_data(table, near_copies=False)
    options: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
    run = frostline.train(tiny_backbone(), data, "top_k(1, epochs=6)", study=tmp_path / "study", **options)
    gallery = json.loads((run.folder.path / "looks.json").read_text())
    assert 0 < len(gallery["rows"]) <= error_gallery.MOST
    assert gallery["note"] == ""
    for row in gallery["rows"]:
        for name in (row["picture"], row["map"]):
            with Image.open(run.folder.path / "looks" / name) as picture:
                assert picture.format == "JPEG"
    assert json.loads((run.folder.path / "backbone.json").read_text()) == tiny_backbone().as_dict()
    report = frostline.report(run.study)
    assert report.notes == ()
    page_text = report.path.read_text()
    assert page_text.count("data:image/jpeg;base64,") == 2 * len(gallery["rows"])
    assert "class-activation map" in page_text


def test_a_map_sums_to_the_logit() -> None:
    """The mean of a class's map is its logit without bias; a network without pooling has no map."""
    backbone = tiny_backbone()
    model = backbone.adapt(3, seed=1)
    pixels = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    maps = error_gallery.class_maps(backbone, model, pixels, [0, 2])
    assert maps is not None
    assert maps.shape[0] == 2
    assert maps.min() == 0.0
    assert maps.max() == 1.0
    model.pool = torch.nn.AdaptiveMaxPool2d(1)
    assert error_gallery.class_maps(backbone, model, pixels, [0, 2]) is None


def test_a_comparison_leaves_looks_by_the_models_that_answered(tmp_path: Path) -> None:
    """Out of fold: maps come from the fold that had not seen the image; the page shows them."""
    table = write_table(tmp_path / "images", train=8)
    table.write_text("\n".join(line.replace(",train", ",") for line in table.read_text().splitlines()))
    data = frostline.load_data(table, test_size=0.0, val_size=0.0, near_copies=False)
    options: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1, "repeats": 1}
    comparison = frostline.compare(
        tiny_backbone(), data, ["linear_probe", "head(epochs=2)"], study=tmp_path / "study", **options
    )
    gallery = json.loads((comparison.folder / "looks.json").read_text())
    wrong = sum(
        row.split(",")[1] != row.split(",")[2]
        for row in (comparison.folder / "out-of-fold.csv").read_text().splitlines()[1:]
    )
    assert len(gallery["rows"]) == min(wrong, error_gallery.MOST)
    assert all(row["map"] for row in gallery["rows"])
    report = frostline.report(comparison.study)
    assert report.notes == ()
    assert "frostline compare" in report.path.read_text()
    assert "linear_probe" in comparison._repr_html_()
    assert len(comparison.to_pandas()) == 2
    assert comparison.plot().spec["data"]["values"]
    assert "epoch" in comparison.run.to_pandas() or comparison.run.strategy == "linear_probe"


# --- notebooks ------------------------------------------------------------------------------------------


def test_a_notebooks_table_escapes_and_pandas_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = notebook.table_html("<b>", [{"a": "<script>", "b": 0.123456}, {"a": None}])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert list(notebook.frame([{"a": 1}]).columns) == ["a"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        notebook.frame([])


def test_every_chart_is_one_that_vega_lite_knows(tmp_path: Path) -> None:
    import vl_convert

    context = read_context(studies.fitted(tmp_path / "study", studies.EVIL))
    charts = [chart for section in sections(context) for chart in page.all_charts(section)]
    assert len(charts) >= 11
    for chart in charts:
        assert vl_convert.vegalite_to_vega(chart.spec)["marks"]
        assert chart.rows
        assert all(len(row) == len(chart.header) for row in chart.rows)
    drawn = notebook.plot(charts[0].spec)._repr_mimebundle_()
    assert "<svg" in drawn["image/svg+xml"]
    assert "var(--" not in json.dumps(drawn["application/vnd.vegalite.v6+json"])


def test_answers_and_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Predictions((Prediction("a<b>.png", (("cat", 0.9),)),), (), "run", "why", "head")
    assert "a&lt;b&gt;.png" in answers._repr_html_()
    assert list(answers.to_pandas()["label"]) == ["cat"]
    assert answers.plot().spec["data"]["values"][0]["count"] == 1
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    kernel = SimpleNamespace(kernel=True)
    display = SimpleNamespace(HTML=str, display=lambda html, display_id: shown.append(html) or Handle())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel, display=display))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    progress = frostline.Progress()
    progress("<train>", 1, 2)
    progress("<train>", 2, 2)
    assert [text.count("&lt;train&gt;") for text in shown] == [1, 1]


def test_what_was_forecast_stands_beside_what_was_measured(tmp_path: Path) -> None:
    section = usage_section.forecasts(read_context(studies.fitted(tmp_path / "study")))
    assert section is not None
    assert "lp_ft: forecast 70–85 %, measured 91.0 % (80.0–97.0 %), above it." in section.lead
