"""The command line others script against: one JSON object, exit codes, one clear message."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

import frostline as package
from frostline.cli.command_context import Verb
from frostline.cli.commands import plan
from frostline.cli.main import cli
from frostline.cli.output import run_text
from frostline.errors import CacheWarning, UsageError
from frostline.feature_cache import FeatureCache, Form, key_of
from tiny import write_folder, write_table

pytestmark = pytest.mark.usefixtures("warm_cache")

PROMISED = set(
    "strategy accuracy val_accuracy balanced_accuracy low high n_train n_val n_test seconds "  # noqa: SIM905
    "peak_memory_bytes trainable_parameters run study test_evaluations features".split()
)
SMALL = ["--size", "32", "--deterministic", "--threads", "1"]


def frostline(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def one_object(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 1
    document = json.loads(lines[0])
    assert document["schema"] == 2
    return document


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "images", train=10, test=6)


def test_help_is_fast_and_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['frostline', '--help']\n"
        "import frostline.cli as c\n"
        "try: c.main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    beside = (
        "import numpy, click, rich.table, json, asyncio"  # a machine's pace changes by half within minutes
    )
    seconds: dict[str, list[float]] = {code: [], beside: []}
    for each in 5 * [code, beside]:
        start = os.times()
        done = subprocess.run([sys.executable, "-c", each], capture_output=True, text=True, check=True)
        end = os.times()  # its processor seconds: others may be at work, too
        seconds[each].append(
            end.children_user + end.children_system - start.children_user - start.children_system
        )
        if each == code:
            assert done.stderr.strip() == "False"
            assert "train" in done.stdout
    assert min(seconds[code]) < 1.5 * min(seconds[beside])  # 0.8 to 1.0 on a quiet machine


@pytest.mark.parametrize("words", [["--help"], ["no-such-command"]])
def test_the_end_of_a_process_looks_for_no_cycles(words: list[str]) -> None:
    """Among a million objects of torch and timm that took longer than answering for a small image."""
    code = (
        f"import gc, sys; sys.argv = ['frostline', *{words}]\n"
        "import frostline.cli as c\n"
        "try: c.main()\n"
        "finally: print(gc.get_freeze_count() > 0, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "True"


def test_train_then_predict(table: Path, tmp_path: Path) -> None:
    study = str(tmp_path / "study")
    result = one_object(
        frostline(
            "train", str(table), "--strategy", "top_k( 1 , epochs=2)", "--study", study, *SMALL, "--json"
        )
    )
    assert set(result) >= PROMISED
    assert result["strategy"] == "top_k(1, epochs=2)"
    assert (result["n_train"], result["n_val"], result["n_test"]) == (30, 0, 18)
    assert 0 <= result["low"] <= result["accuracy"] <= result["high"] <= 1
    assert result["peak_memory_bytes"] > 1e6
    again = one_object(
        frostline("train", str(table), "--strategy", "top_k(1,epochs=2)", "--study", study, *SMALL, "--json")
    )
    assert (again["run"], again["accuracy"]) == (result["run"], result["accuracy"])
    assert again["seconds"] < result["seconds"]
    assert (result["reused"], again["reused"]) == (False, True)

    pictures = sorted(table.parent.glob("*.png"))
    answers = one_object(frostline("predict", study, str(table.parent), "--json"))["predictions"]
    assert sorted(a["path"] for a in answers) == [str(p) for p in pictures]
    with open(Path(study) / "runs" / result["run"] / "predictions-test.csv", newline="") as file:
        predicted = {row["path"]: row["predicted"] for row in csv.DictReader(file)}
    labels = {Path(a["path"]).name: a["label"] for a in answers}
    assert predicted
    assert all(labels[Path(path).name] == label for path, label in predicted.items())
    assert all(0 <= a["probability"] <= 1 for a in answers)


@pytest.mark.slow
def test_a_comparison_that_is_finished_says_so_and_predict_names_who_it_passed_over(
    table: Path, tmp_path: Path
) -> None:
    study = str(tmp_path / "study")
    train = ["train", str(table), "--study", study, *SMALL, "--strategy", "head(epochs=1)"]
    run = one_object(frostline(*train, "--json"))["run"]
    assert "Already finished, shown again: run" in frostline(*train).stdout
    race = ["compare", str(table), "--study", study, *SMALL, "--repeats", "1"]
    race += ["--strategies", "linear_probe, head(epochs=2)"]
    first = frostline(*race)
    assert first.exit_code == 0, first.output
    assert "Already finished" not in first.output
    assert "Also compared, trained in this study before: head(epochs=1)." in first.stderr
    again = frostline(*race)
    assert again.stdout.startswith("Already finished, shown again, with the figures from then.")
    result = one_object(frostline(*race, "--json"))
    assert (result["reused"], result["joined"], result["not_compared"]) == (True, ["head(epochs=1)"], [])
    late = one_object(frostline(*train[:-1], "head(epochs=3)", "--json"))["run"]
    answers = one_object(frostline("predict", study, str(table.parent), "--json"))
    assert answers["run"] == result["predicting"]["run"]
    assert [(row["run"], row["reason"]) for row in answers["passed_over"]] == [
        (late, "not evaluated on a val set")
    ]
    text = frostline("predict", study, str(table.parent)).stderr
    assert f"Passed over: head(epochs=3) (run {late}): not evaluated on a val set." in text
    assert one_object(frostline("predict", study, str(table.parent), "--run", run, "--json"))["run"] == run


def test_what_is_to_be_remembered_is_asked_through_the_old_head(table: Path, tmp_path: Path) -> None:
    """Labels are numbers of the network's own outputs; others are refused before anything is trained."""
    study = tmp_path / "study"
    call = ["train", str(table), "--strategy", "linear_probe", "--study", str(study), *SMALL, "--json"]
    refused = frostline(*call, "--source-data", str(table))
    assert refused.exit_code == 1
    assert "of lite0: kind 0" in refused.output
    assert not list(study.glob("runs/*"))
    own = table.with_name("own.csv")
    own.write_text(table.read_text().replace("kind ", "7"))
    forgetting = one_object(frostline(*call, "--source-data", str(own)))["forgetting"]
    assert (forgetting["lost"], forgetting["n_images"]) == (
        0.0,
        18,
    )  # the layers are as before; the test set is asked
    assert json.loads(next(study.glob("runs/*/forgetting.json")).read_text()) == forgetting


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            {"val_quadratic_kappa": 0.5, "quadratic_kappa": 0.25, "val_accuracy": 1.0},
            "0.2500 on test, 0.5000 on val",
        ),
        ({"val_quadratic_kappa": None, "quadratic_kappa": 0.25}, "0.2500 on test."),
        ({"val_accuracy": 1.0, "val_goodness": 1.0, "accuracy": 0.5}, ""),
    ],
)
def test_the_metric_that_choices_are_made_by_is_printed(result: dict[str, float | None], line: str) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    run_text._metric(console, result)
    printed = console.export_text()
    assert line in printed if line else not printed


def test_predict_takes_files_folders_and_tables(table: Path, tmp_path: Path) -> None:
    study, pictures = str(tmp_path / "study"), sorted(table.parent.glob("*.png"))
    one_object(
        frostline("train", str(table), "--strategy", "linear_probe", "--study", study, *SMALL, "--json")
    )
    listed = tmp_path / "some.csv"
    listed.write_text("path\n" + "\n".join(str(p) for p in pictures[:3]) + "\n")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for given, count in ((pictures[:2], 2), ([listed], 3), ([table.parent], len(pictures))):
        result = one_object(frostline("predict", study, *map(str, given), "--top", "2", "--json"))
        assert len(result["predictions"]) == count
        assert all(len(row["top"]) == 2 for row in result["predictions"])
    result = one_object(frostline("predict", study, str(pictures[0]), str(broken), "--json"))
    assert len(result["predictions"]) == 1
    assert result["unreadable"][0]["path"] == str(broken)
    output = tmp_path / "answers.csv"
    assert frostline("predict", study, str(table.parent), "--output", str(output)).exit_code == 0
    with open(output, newline="") as file:
        assert [*next(csv.reader(file))] == ["path", "label", "probability"]
    copies = str(tmp_path / "sorted")
    sort = ("predict", study, str(table.parent), "--copy-to", copies)
    rows, labels = one_object(frostline(*sort, "--json")), {}
    for path in (tmp_path / "sorted").glob("*/*.png"):
        labels[path.name] = path.parent.name
    assert labels == {Path(row["path"]).name: row["label"] for row in rows["predictions"]}
    assert rows["copied"]["copied"] == len(pictures) == sum(f["copied"] for f in rows["copied"]["folders"])
    again = frostline(*sort)
    assert "there already" in again.stdout
    assert one_object(frostline(*sort, "--json"))["copied"]["copied"] == 0
    missing = frostline("predict", study, str(tmp_path / "nowhere"))
    assert missing.exit_code == 1
    assert "nowhere" in missing.stderr


def test_stages(tmp_path: Path) -> None:
    picture = tmp_path / "stages.png"
    result = one_object(frostline("stages", "lite0", "--size", "64", "--plot", str(picture), "--json"))
    names = [stage["name"] for stage in result["stages"]]
    assert names == ["stem", *(f"blocks.{i}" for i in range(7)), "head"]
    assert [cut["index"] for cut in result["cuts"]] == list(range(9))
    assert all(cut["verified"] for cut in result["cuts"])
    assert sum(stage["compute_share"] for stage in result["stages"]) == pytest.approx(1)
    with Image.open(picture) as drawn:
        assert drawn.width > 600
    shown = frostline("stages", "timm/resnet18", "--no-pretrained", "--size", "64")
    assert shown.exit_code == 0
    assert "layer4" in shown.stdout


def test_a_person_reads_tables(table: Path, tmp_path: Path) -> None:
    shown = frostline(
        "train", str(table), "--strategy", "linear_probe", "--study", str(tmp_path / "study"), *SMALL
    )
    assert shown.exit_code == 0
    for word in ("accuracy", "95 % interval", "commonest class", "kind 0", "Next: frostline predict"):
        assert word in shown.stdout, word
    assert "30 train" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "nowhere"], 1, "nowhere"),
        (["train", ".", "--strategy", "topk(2)"], 2, "Did you mean 'top_k'"),
        (["train", ".", "--strategy", "full(lr=0)"], 2, "lr must be"),
        (["train", ".", "--metric", "acuracy"], 2, "acuracy"),
        (["train"], 2, "DATA"),
        (["predict", "nowhere", "x.jpg"], 1, "does not exist. Expected a folder that"),
        (["compare", ".", "--cuts", "--strategies", "head,full"], 2, "give one of the two"),
        (["compare", ".", "--draws", "3"], 2, "give --search"),
        (["train", ".", "--continue", ".", "--extra-epochs", "2"], 2, "not the folder of a run"),
        (["train", ".", "--patience", "0"], 2, "--patience"),
        (["compare", ".", "--strategies", ""], 2, "names no strategy"),
        (["fit", ".", "--strategies", " , "], 2, "names no strategy"),
        (["compare", ".", "--strategies", "top_k(2, head=mlp(64),full"], 2, "is not a strategy"),
        (["stages", "lite9"], 1, "lite"),
        (["stages", "timm/resnet18"], 1, "random weights"),
    ],
)
def test_refusals_are_one_message(arguments: list[str], code: int, words: str) -> None:
    result = frostline(*arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_refusal_in_json_is_one_object_too() -> None:
    result = frostline("train", "nowhere", "--json")
    assert result.exit_code == 1
    assert "nowhere" in json.loads(result.stdout)["error"]


@pytest.mark.slow
def test_more_epochs_need_no_more_than_the_run(table: Path, tmp_path: Path) -> None:
    """Data, network and options are the parent's; what contradicts it is refused."""
    study = tmp_path / "study"
    words = ("--strategy", "head(lr=0.01, epochs=1)", "--study", str(study), "--augment", "light", *SMALL)
    parent = one_object(frostline("train", str(table), *words, "--json"))
    place = str(study / "runs" / parent["run"])
    shown = frostline("train", "--continue", place, "--extra-epochs", "2", "--lr", "0.002")
    assert shown.exit_code == 0, shown.output
    assert f"2 epochs after run {parent['run']}" in " ".join(shown.stdout.split())
    schedule, *lines = [line for line in shown.stderr.splitlines() if "epoch" in line]
    assert f"It trains on from run {parent['run']}: 2 epochs more of" in schedule
    assert [line.split(":")[0].strip() for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "\r" not in shown.stderr
    child = one_object(
        frostline("train", "--continue", place, "--extra-epochs", "2", "--lr", "2e-3", "--json")
    )
    assert (child["reused"], child["parent"]["run"], child["augment"]) == (True, parent["run"], "light")
    assert child["parent"]["lr"] == 0.002  # before the rate in the parent's brackets
    assert child["weights_digest"] != parent["weights_digest"]
    for more, message in (
        (("--strategy", "full"), "strategy=full, and it is head(lr=0.01, epochs=1)"),
        (("--seed", "4"), "seed=4, and it has 0"),
        (("--size", "64"), "sees images in another way"),
        (("--study", str(tmp_path / "other")), "leave"),
    ):
        refused = frostline("train", "--continue", place, "--extra-epochs", "2", *more)
        assert refused.exit_code == 2, refused.output
        assert message in refused.stderr
    assert frostline("train", "--continue", place).exit_code == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_then_continued(number: int, code: int, table: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = [sys.executable, "-m", "frostline", "train", str(table), "--study", str(study), *SMALL]
    command += ["--strategy", "full(epochs=300)", "--augment", "none"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
    )
    until = time.monotonic() + 60
    while not list(study.glob("runs/*/plan.json")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert "the same command resumes" in errors
    assert (study / "study.json").exists()
    assert not list(study.glob("runs/*/result.json"))


def test_a_folder_per_class_is_split_for_you(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", per_class=15)
    (folder / "kind 0" / "broken.png").write_bytes(b"")
    result = one_object(
        frostline(
            "train",
            str(folder),
            "--strategy",
            "linear_probe",
            "--study",
            str(tmp_path / "study"),
            *SMALL,
            "--json",
        )
    )
    assert result["n_test"] > 0
    assert result["n_train"] + result["n_val"] + result["n_test"] == 45
    assert result["skipped"] == 1
    refused = frostline("train", str(folder), "--strict", "--study", str(tmp_path / "other"), *SMALL)
    assert refused.exit_code == 1
    assert "broken.png" in refused.stderr


# --- cache --------------------------------------------------------------------------------------------


def fill_cache() -> None:
    prefix = FeatureCache().prefix({"prefix": "x"}, {"model": "tiny [1]", "cut": "blocks.1", "index": 2})
    keys = [key_of(str(number), "0") for number in range(50)]
    prefix.put(keys, np.zeros((50, 4000), dtype=np.uint8), Form("float32", (1000,)))
    prefix.close()
    reader = FeatureCache().prefix({"prefix": "x"})
    reader.read([*keys, key_of("stranger", "0")])
    reader.close()


def test_store_shows_what_it_holds(own_cache: Path) -> None:
    assert "Nothing is cached" in frostline("cache").output
    fill_cache()
    shown = frostline("cache").output
    for words in ("tiny [1]", "blocks.1", "50", "4.0 kB", "98.0 %"):
        assert words in shown
    contents = json.loads(frostline("cache", "--json").stdout)
    assert contents["bytes"] == sum(path.stat().st_size for path in own_cache.glob("rows/*.safetensors"))
    (prefix,) = contents["entries"]
    assert (prefix["features"], prefix["hits"], prefix["misses"]) == (50, 50, 1)
    assert prefix["about"]["model"] == "tiny [1]"


def test_store_is_verified_pruned_and_cleared(own_cache: Path) -> None:
    fill_cache()
    (shard,) = own_cache.glob("rows/*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    contents = json.loads(frostline("cache", "verify", "--json").stdout)
    assert (contents["intact"], contents["damaged"]) == (49, 1)
    assert "49 features are intact" in frostline("cache", "verify").output
    assert json.loads(frostline("cache", "--json", "prune", "--max-size", "1GB").stdout)["freed_bytes"] == 0
    assert json.loads(frostline("cache", "prune", "--max-size", "100 kB", "--json").stdout)["bytes"] == 0
    fill_cache()
    assert "deleted from" in frostline("cache", "clear").output
    assert "Nothing is cached" in frostline("cache").output


@pytest.mark.parametrize("size", ["much", "-3GB", "5 parsecs", "", "5"])
def test_a_wrong_size_is_said(size: str) -> None:
    result = frostline("cache", "prune", "--max-size", size)
    assert result.exit_code == 2
    assert "Expected a number with a unit" in result.output


def test_trouble_with_the_store_is_one_line_of_plain_words(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "rows").write_text("a file")
    done = subprocess.run(
        [sys.executable, "-m", "frostline", "cache", "--cache-dir", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("Warning: The feature cache")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_warning_of_two_parts_of_the_work_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(cli, info_name="measure"), Verb({"as_json": False, "quiet": True, "cache_dir": None}):
        for message in ("the cache is full", "the cache is full", "something else"):
            warnings.warn(CacheWarning(message), stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["Warning: the cache is full", "Warning: something else"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [["cache"], ["cache", "--json"], ["strategies"], ["strategies", "--json"]])
def test_output_that_cannot_be_written_is_one_line(words: list[str]) -> None:
    """With --json there were two tracebacks; else words of files that had nothing to do with it."""
    command = f"{sys.executable} -m frostline {' '.join(words)}"
    full = subprocess.run(["sh", "-c", f"{command} > /dev/full"], capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stderr == (
        "The output cannot be written (No space left on device). Free space, or direct it to another place, "
        "and repeat the command.\n"
    )
    closed = subprocess.run(["sh", "-c", f"{command} | true"], capture_output=True, text=True)
    assert closed.stderr == ""


def test_measure_prints_what_it_promises_and_a_table(table: Path) -> None:
    words = ["measure", str(table), "--size", "32", "--threads", "1", "--quiet"]
    result = one_object(frostline(*words, "--json"))
    assert {"value", "low", "high", "by_stage"} <= set(result["similarity"])
    assert (result["n_images"], result["n_classes"]) == (48, 3)
    assert {row["stage"] for row in result["probe_by_stage"]} == {"stem", *(f"blocks.{i}" for i in range(7))}
    shown = frostline(*words)
    assert shown.exit_code == 0, shown.output
    for text in (
        "30 training images of 3 classes",
        "Similarity to what lite0 was trained on: 0.",
        "\n blocks.6 ",
    ):
        assert text in shown.stdout
    assert shown.stdout.count("\n blocks.6 ") == 2  # whole in both tables, in a terminal of 80 columns


def test_plan_recommends_with_costs_and_reasons(table: Path) -> None:
    words = ["plan", str(table), "--size", "32", "--threads", "1", "--quiet"]
    result = one_object(frostline(*words, "--json"))
    promised = {"strategy", "expected_accuracy", "low", "high", "seconds", "disk_bytes", "reason"}
    promised |= {"seconds_low", "seconds_high", "expected_regret"}
    assert result["recommended"] in {option["strategy"] for option in result["options"]}
    assert all(promised <= set(option) for option in result["options"])
    assert result["basis"] == "measured"  # small tasks had 32 px
    assert 0 <= result["expected_regret"] <= result["worst_regret"] < 0.2
    shown = frostline(*words, "--minutes", "60", "--memory", "64GB", "--disk", "10GB")
    assert shown.exit_code == 0, shown.output
    assert "Recommended: " in shown.stdout
    rows = [line.rstrip() for line in shown.stdout.splitlines()]
    assert any(row.endswith(" recommended") for row in rows)  # whole, in a terminal of 80 columns
    assert any(row.endswith(" n.s.") for row in rows)
    assert "n.s.: not significantly different from the recommended one." in rows
    assert f"\n  frostline train {table} --size 32 --minutes 60 --threads 1 --strategy" in shown.stdout
    nothing = frostline(*words, "--minutes", "0.0001")
    assert nothing.exit_code == 2
    assert "No strategy fits the budget (0.0001 min). The quickest, " in nothing.output
    wrong = frostline(*words, "--memory", "4 apples")
    assert wrong.exit_code == 2
    assert "is not a size" in wrong.output


def test_the_command_that_plan_names_splits_and_reads_as_plan_did() -> None:
    plain = {
        "model": "lite0",
        "architecture": None,
        "size": None,
        "seed": 0,
        "test_size": 0.2,
        "val_size": 0.2,
    }
    plain |= {"minutes": None, "threads": None, "cache_dir": None, "strict": False, "plain_timm": False}
    plain |= {"split_names": None, "path_column": None, "label_column": None, "group_by": None}
    assert plan._train("photos", plain) == "frostline train photos"
    assert plan._train("photos", {**plain, "workers": "auto"}) == "frostline train photos"
    assert plan._train("photos", {**plain, "workers": 0}) == "frostline train photos --workers 0"
    options = {"seed": 3, "val_size": 0.0, "minutes": 10.0, "cache_dir": "my cache", "strict": True}
    options["group_by"] = "re:^(P\\d+)_"
    words = (
        "frostline train 'my photos' --seed 3 --val-size 0 --minutes 10 --cache-dir 'my cache' "
        "--group-by 're:^(P\\d+)_' --strict"
    )
    assert plan._train("my photos", {**plain, **options}) == words
    assert plan._train("photos", {**plain, "plain_timm": True}) == "frostline train photos --plain-timm"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--minutes", "nan", "is not a number of minutes"),
        ("--minutes", "inf", "is not a number of minutes"),
        ("--minutes", "-1", "x>0"),
        ("--memory", "nan", "is not a size"),
        ("--memory", "inf", "is not a size"),
        ("--disk", "1e400", "is not a size"),
    ],
)
def test_a_budget_that_is_no_number_is_wrong_usage(option: str, value: str, words: str) -> None:
    result = frostline("plan", "images", option, value)
    assert result.exit_code == 2
    assert words in result.output


def test_plan_and_measure_say_little_of_few_images(tmp_path: Path) -> None:
    few = write_table(tmp_path / "few", train=1, test=1)
    words = ["--size", "32", "--threads", "1", "--quiet", "--json"]
    measured = one_object(frostline("measure", str(few), *words))
    assert measured["similarity"] is None
    assert measured["probe_by_stage"] == []
    planned = one_object(frostline("plan", str(few), *words))
    assert all(option["expected_accuracy"] is None for option in planned["options"])


def test_compare_races_the_top_of_the_advice(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [SimpleNamespace(strategy=name, fits=name != "full") for name in ("lp_ft", "full", "head")]
    advice = SimpleNamespace(recommended="head", options=options)
    raced: list[str] = []

    def compare(*_: object, strategies: list[str], **__: object) -> None:
        raced.extend(strategies)
        raise UsageError("seen enough")

    monkeypatch.setattr(package, "plan", lambda *_, **__: SimpleNamespace(advice=advice))
    monkeypatch.setattr(package, "compare", compare)
    result = frostline("compare", str(table), "--strategies", "advised", "--size", "32")
    assert (result.exit_code, raced) == (2, ["linear_probe", "head", "lp_ft"])
    assert "Comparing linear_probe, head, lp_ft." in result.output
    assert frostline("compare", str(table), "--strategies", "advisd").exit_code == 2
    monkeypatch.setattr("frostline.pipelines.time_limits.measuring_s", lambda *_, **__: 100.0)
    few = frostline("compare", str(table), "--strategies", "advised", "--size", "32", "--minutes", "1")
    assert few.exit_code == 2
    assert "--minutes 1 is less than the" in few.output
    assert "Or name strategies, which need no measuring." in " ".join(few.output.split())
