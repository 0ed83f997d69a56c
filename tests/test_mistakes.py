"""Wrong combinations of options, each with its one message: what was found, and what to do."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from frostline.cli.output_files import checked_output
from frostline.config import NAMES, read_yaml
from frostline.errors import StudyError, UsageError, at_the_prompt, option
from frostline.models.zoo import load_backbone
from frostline.selection.candidates import listed, searched
from frostline.strategies.overrides import unused_options
from tiny import PREPROCESSING, tiny_backbone, tiny_model, write_folder, write_table

# The command, what it says it found, and what it says to do.
MISTAKES = [
    ("train . --strategy linear_probe --lr 0.1", "lr=0.1 has no effect on linear_probe", "take one of head"),
    ("train . --strategy top_k(2,lr=0.1) --lr 0.2", "lr=0.2 beside top_k(2, lr=0.1)", "Give one of the two"),
    ("train . --lr 0.1 --set lr=0.2", "lr=0.1 and, among hyperparameters, lr=0.2", "Give one of the two"),
    ("train . --set lr=0.1 --set lr=0.2", "lr is given twice", "Give each hyperparameter once"),
    ("train . --set lr", "'lr' is not KEY=VALUE", "such as layer_decay=0.8"),
    ("train . --set leyer_decay=0.5", "hyperparameter 'leyer_decay'", "Did you mean 'layer_decay'?"),
    ("train . --set k=3", "k is part of a strategy's name", "write it in its brackets"),
    ("train . --set bn=evel", "found 'evel'", "Did you mean 'eval'?"),
    ("train . --lr 50", "found 50", "lr must be above 0 and at most 10"),
    ("train . --epochs 0", "found 0", "epochs must be above 0"),
    ("train . --strategy head --set layer_decay=0.5", "layer_decay=0.5 has no effect on head", "take one of"),
    ("train . --strategy lp_ft --set feature_augment=0.2", "no effect on lp_ft", "take one of head, top_k"),
    ("train . --strategy scratch --set l2_sp=0.1", "it has no pretrained weights", "take one of top_k"),
    ("train . --strategy phases(0@3,all@5) --epochs 9", "each of its phases names its own", "Leave it out"),
    ("train . --strategy linear_probe(ridge) --label-smoothing 0.1", "ridge fits labels", "Leave it out"),
    ("train . --no-pretrained", "random weights, and top_k(2) freezes layers", "(scratch, full)"),
    ("train . --strategy lp_ft --no-pretrained", "lp_ft freezes layers or starts from", "(scratch, full)"),
    ("compare . --no-pretrained", "strategies that freeze layers", "--strategies scratch,full"),
    ("compare . --strategies full,head --no-pretrained", "and head freezes layers", "(scratch, full)"),
    (
        "compare . --strategies linear_probe,linear_probe(ridge) --lr 1",
        "lr=1 has no effect",
        "Leave it out",
    ),
    (
        "compare . --strategies head(epochs=3),full --epochs 5",
        "epochs=5.0 beside head(epochs=3)",
        "one of the",
    ),
    ("compare . --cuts --strategies head,full", "--strategies names others", "give one of the two"),
    ("compare . --draws 3", "--draws is the number of variants", "give --search"),
    ("fit . --strategies linear_probe --epochs 5", "epochs=5 has no effect on linear_probe", "take one of"),
    ("fit . --model lite0 --models lite0,lite1", "model (one backbone) or models", "not both"),
    ("train . --strategy linear_probe --patience 3", "counts epochs, and linear_probe is", "leave it out"),
    ("compare . --strategies linear_probe,linear_probe(ridge) --patience 3", "without any", "leave it out"),
    ("fit . --strategies linear_probe --patience 3", "--patience counts epochs", "leave it out"),
    (
        "train . --strategy linear_probe --batch-size 16",
        "--batch-size 16 has no effect on",
        "take a strategy",
    ),
    (
        "train . --strategy linear_probe --flip none",
        "solved for, without steps",
        "such as head, top_k or lp_ft",
    ),
    ("train . --strategy linear_probe --rotate 90", "--rotate 90 has no effect on", "Leave it out"),
    ("train . --strategy linear_probe --augment strong", "--augment strong has no effect on", "Leave it out"),
    ("train . --strategy linear_probe(ridge) --min-crop 0.5", "no effect on linear_probe(ridge)", "Leave it"),
    ("train . --strategy linear_probe --views 3", "--views 3 has no effect on", "that keeps layers frozen"),
    ("train . --strategy full --views 3", "full (it keeps no layer frozen)", "that keeps layers frozen"),
    (
        "compare . --strategies linear_probe,linear_probe(ridge) --flip horizontal",
        "linear_probe, linear_probe(ridge) (its head is solved for",
        "Leave it out",
    ),
    ("fit . --strategies linear_probe --rotate 90", "--rotate 90 has no effect on linear_probe", "Leave it"),
    ("compare . --continue s/runs/1a2b", "--continue trains on from one finished run", "to frostline train"),
    ("fit . --extra-epochs 3", "frostline fit compares strategies", "frostline train DATA --continue"),
    ("fit . --no-pretrained", "the advice is about pretrained ones", "--strategies scratch,full"),
    ("fit . --strategies head,full --no-pretrained", "and head freezes layers", "(scratch, full)"),
    (
        "fit . --models lite0,lite1 --strategies full --no-pretrained",
        "--models chooses by what pretrained weights know",
        "one architecture with --model",
    ),
    ("compare . --search lr,laier_decay", "'laier_decay' cannot be searched", "Did you mean 'layer_decay'?"),
    ("compare . --search lr=1e-5..1e-2", "cannot be searched", "the range is the setting's own"),
    ("train . --workers many", "neither auto nor a number of threads", "0 or more"),
    ("train . --logger tensorbord", "--logger must be one of", "Did you mean 'tensorboard'?"),
    ("train . --interpolate-weights 1.5", "'1.5'", "a number between 0 and 1"),
    ("train . --device gpu1", "'gpu1' names no device", "Expected auto, cpu, cuda"),
    ("train --ray photos/", "'photos/' is not the address", "write --ray last"),
    ("train . --split-names train", "'train' is neither none", "train=FOLDER,test=FOLDER"),
    ("predict . . --output nowhere/x.csv", "nowhere, which does not exist", "Make that folder first"),
    ("predict . . --output answers.xlsx", "names answers.xlsx", "Expected FILE.csv or FILE.parquet"),
    (
        "train . --set schedule=cosin",
        "found 'cosin' for schedule. Did you mean 'cosine'?",
        "step, one_cycle, constant.",
    ),
    ("evaluate . . --plot confusion.txt", "confusion.txt", ".png"),
    ("evaluate . . --confusion confusion.xlsx", "names confusion.xlsx", "Expected FILE.csv"),
    ("strategies topk", "Unknown strategy 'topk'", "Did you mean 'top_k'?"),
]


def test_there_are_twenty() -> None:
    assert len({words for words, _, _ in MISTAKES}) >= 20


@pytest.mark.parametrize(("words", "problem", "remedy"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_wrong_combination_is_one_message(
    words: str, problem: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.split())
    assert problem in message
    assert remedy in message
    assert "Traceback" not in result.output
    assert not result.stdout
    assert not list(tmp_path.iterdir())  # refused before anything is made


def test_no_study_begins_in_the_folder_of_its_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_folder(photos / "train", per_class=6)
    write_folder(photos / "test", per_class=3, seed=1)
    names = sorted(path.relative_to(photos) for path in photos.rglob("*"))
    data = frostline.load_data(photos)
    message = r"holds images of the data \(.*\.png\).* Name a folder of its own with study\."
    for study in ("photos", "photos/train", "photos/train/kind 0"):
        with pytest.raises(StudyError, match=message):
            frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / study)
    assert sorted(path.relative_to(photos) for path in photos.rglob("*")) == names
    for place in ("photos/frostline-study", "."):
        run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / place)
    assert frostline.load_data(photos).samples == data.samples
    with pytest.raises(StudyError, match=r"is a run of the study .*\. Name the folder of a study\."):
        frostline.train(tiny_backbone(), data, "linear_probe", study=run)


def test_a_table_may_lie_beside_its_study(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path))
    frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path)
    assert frostline.load_data(tmp_path / "table.csv").samples == data.samples


OVERWRITING = [
    ("predict s k.csv --output k.csv", "k.csv, which this command reads"),
    ("predict s photos ~/k.csv --output ./k.csv", "k.csv, which this command reads"),
    ("predict s photos --output s/runs/1/table.csv", "a file of the study"),
    ("evaluate s k.csv --confusion k.csv", "k.csv, which this command reads"),
    ("evaluate s photos --predictions k.csv --confusion k.csv", "k.csv, which this command reads"),
    ("evaluate s photos --plot photos/hat/0.png", "a picture in photos, where it would be one of the images"),
    ("evaluate s photos --plot photos/new.png", "a picture in photos, where it would be one of the images"),
    ("report s --output photos/hat/0.png", "Expected FILE.html"),
    ("report s --output s/manifest.jsonl", "Expected FILE.html"),
    ("check photos --page k.csv", "Expected FILE.html"),
    ("extract photos --output k.csv", "Expected FILE.parquet"),
    ("stages --plot k.csv", "Expected FILE.png"),
    ("predict s photos --output link.csv", "a file of the study"),
    ("predict s photos k.csv --output=~/k.csv", "k.csv, which this command reads"),
]


@pytest.mark.parametrize(("words", "problem"), OVERWRITING, ids=[words for words, _ in OVERWRITING])
def test_no_output_replaces_what_a_command_reads(
    words: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("k.csv", "photos/hat/0.png", "s/study.json", "s/manifest.jsonl", "s/runs/1/table.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("as it was")
    Path("link.csv").symlink_to(tmp_path / "s/runs/1/table.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 2, result.output
    assert problem in " ".join(result.stderr.split())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.read_text() for path in files} == {"as it was"}


def test_outputs_of_ones_own_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("s/study.json", "s/confusion.png", "s/results/p.csv", "photos/hat/0.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("before")
    Path("s/runs").mkdir()
    read = {"images": ["photos"], "others": ["s"]}
    for file in ("s/confusion.png", "s/new.png", "s/results/p.csv", "photos/p.csv"):
        assert checked_output("--output", file, (".png", ".csv"), **read) == file
    assert checked_output("--output", "~/p.csv", (".csv",), **read) == str(tmp_path / "p.csv")
    assert checked_output("--output", None, (".csv",)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nlr: 0.1\nseed: 2\n", "names 'seed' twice"),
        ("lr: yes\n", "gives lr a truth value, true"),
        ("keep: last\n", "has no option for"),
        ("sead: 1\n", "Did you mean 'seed'?"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_one_message(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    result = CliRunner().invoke(cli, ["train", str(tmp_path), "--config", str(file)])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_option_is_unused_where_no_strategy_uses_it() -> None:
    options: dict[str, Any] = {"flip": "none", "batch_size": 16, "views": 3, "rotate": "none", "seed": 7}

    def unused(*names: str) -> set[str]:
        return set(unused_options(options, [frostline.parse(name) for name in names]))

    assert unused("linear_probe", "linear_probe(ridge)") == {"flip", "batch_size", "views"}
    assert unused("linear_probe", "full") == unused("lp_ft") == unused("phases(all@3)") == {"views"}
    assert not unused("linear_probe", "head")
    assert not any(unused(name) for name in ("top_k(2)", "gradual_unfreeze", "phases(0@1, all@3)"))


def test_in_python_and_from_a_file_an_option_without_effect_is_told(tmp_path: Path) -> None:
    photos, lines = write_folder(tmp_path / "photos", classes=2, per_class=4), list[str]()
    data, config = frostline.load_data(photos), frostline.Config(flip="none", deterministic=True, threads=1)
    frostline.train(
        tiny_backbone(), data, "linear_probe", study=tmp_path / "s", config=config, log=lines.append
    )
    told = "flip='none' has no effect on linear_probe (its head is solved for, without steps)."
    assert lines.count(told) == 1
    batched = {"batch_size": 16, "flip": "none", "deterministic": True}
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", threads=1, **batched)
    assert run.reused  # nor does it make another run, and the test set is not evaluated again
    stepped = [
        frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", flip=flip).reused
        for flip in ("none", "horizontal")
    ]
    assert stepped == [False, False]
    file = tmp_path / "options.yaml"  # of an earlier run, say: it is to be repeatable
    file.write_text("strategy: linear_probe\nflip: none\nbatch_size: 16\n")
    words = ["train", str(photos), "--config", str(file), "--model", "timm/test_resnet", "--size", "32"]
    result = CliRunner().invoke(cli, [*words, "--no-pretrained", "--study", str(tmp_path / "t")])
    assert "no effect" not in result.stderr  # it is refused for its random weights alone
    assert "freezes layers or starts" in result.stderr


def test_what_nothing_can_vary_is_not_searched() -> None:
    head = listed(["head"], "none", 1)
    with pytest.raises(UsageError, match=r"search='layer_decay' has no effect on head.*take one of top_k"):
        searched(head, ["lr", "layer_decay"], 2, 0)
    assert searched(head, ["lr"], 2, 0)


def test_messages_name_options_as_their_reader_writes_them(tmp_path: Path) -> None:
    assert option("min_recall", 0.98) == "min_recall=0.98"
    assert option("golden", False) == "golden=False"
    with at_the_prompt():
        assert option("min_recall", 0.98) == "--min-recall 0.98"
        assert (option("golden", False), option("int8", True)) == ("--no-golden", "--int8")
        assert (option("continue_from"), option("search")) == ("--continue", "--search")
    photos = write_folder(tmp_path / "photos", classes=2, per_class=4)
    with pytest.raises(UsageError, match="name it with positive"):
        frostline.train(tiny_backbone(), frostline.load_data(photos), "head", min_recall=0.9)
    words = ["train", str(photos), "--min-recall", "0.9", "--size", "32", "--study", str(tmp_path / "s")]
    result = CliRunner().invoke(cli, words)
    assert "--min-recall is of one class: name it with --positive" in result.stderr
    assert option("min_recall") == "min_recall"  # the command has ended


def test_fit_without_pretrained_weights_is_given_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def fit(data: str, **options: Any) -> None:
        given.append(options["model"])
        raise UsageError("that is all")

    monkeypatch.setattr(frostline, "fit", fit)
    words = ["fit", str(tmp_path), "--no-pretrained", "--strategies", "scratch,full", "--size", "32"]
    result = CliRunner().invoke(cli, [*words, "--model", "timm/test_resnet", "--study", str(tmp_path / "s")])
    assert "that is all" in result.stderr
    assert [(one.name, one.has_random_weights, one.preprocessing.size) for one in given] == [
        ("timm/test_resnet", True, 32)
    ]


def test_no_message_spells_an_option_itself() -> None:
    """Every option with an underscore goes through `option`: which spelling is right, only that knows."""
    names = {*NAMES, *(str(p.name) for command in cli.commands.values() for p in command.params)}
    names -= {
        "weight_decay",
        "label_smoothing",
        "refit_layers",
        "plain_timm",
    }  # in a strategy's brackets; a file's name
    spelled = re.compile(rf"(?<![\w.\-/`'])({'|'.join(sorted(n for n in names if '_' in n))})\b(?![.(])")
    source = Path(frostline.__file__).parent
    messages = []
    for path in source.rglob("*.py"):
        if path.is_relative_to(source / "integrations"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                texts = [
                    part.value
                    for part in ast.walk(node.exc)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value
                ]
                messages += [f"{path}: {text}" for text in texts if spelled.search(text)]
    assert messages == []


def test_options_that_contradict_each_other_with_images_are_refused_before_training(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", classes=2, per_class=4)
    words = ["train", str(photos), "--study", str(tmp_path / "s"), "--size", "32", "--strategy", "full"]
    words += ["--model", "timm/test_resnet", "--no-pretrained", "--quiet"]
    for options, remedy in (
        (["--deterministic", "--precision", "bfloat16"], "drop one of"),
        (["--interpolate-weights", "auto", "--val-size", "0"], "there is no val set"),
        (
            ["--batch-size", "1", "--set", "bn=train"],
            "needs batches of 2 or more images, found --batch-size 1",
        ),
    ):
        result = CliRunner().invoke(cli, [*words, *options])
        assert result.exit_code == 2, result.output
        assert remedy in result.stderr
        assert "Traceback" not in result.output
    assert not list(tmp_path.glob("s/runs/*"))


def test_random_weights_are_of_an_architecture_and_need_no_download(tmp_path: Path) -> None:
    photos, study = write_folder(tmp_path / "photos", classes=2, per_class=4), str(tmp_path / "s")
    words = ["train", str(photos), "--size", "32", "--strategy", "full", "--no-pretrained", "--epochs", "1"]
    words += ["--deterministic", "--threads", "1", "--flip", "none"]
    result = CliRunner().invoke(
        cli, [*words, "--model", "timm/test_resnet", "--study", study]
    )  # nothing is on disk
    assert result.exit_code == 0, result.output
    assert "full(epochs=1) leaves BatchNorm's statistics as they are" in result.stderr
    assert read_yaml(next(Path(study).glob("runs/*/config.yaml")))["no_pretrained"] is True
    again = CliRunner().invoke(cli, [*words, "--model", study, "--study", str(tmp_path / "t")])
    assert again.exit_code == 2, again.output
    assert "which was trained before" in again.stderr
    assert "Expected a name such as lite0" in again.stderr
    with pytest.raises(UsageError, match="a module of your own"):
        load_backbone(tiny_model(), preprocessing=PREPROCESSING, random=True)
