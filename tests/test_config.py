"""One dataclass of options for train, compare and fit; a file of it repeats a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import frostline
from frostline.cli.config_file import NOT_KEPT, leave_config, names_in_file
from frostline.cli.main import cli
from frostline.config import FILE, NAMES, OF_COMMANDS, TRAIN_ALONE, Config, Options, read_yaml
from frostline.errors import UsageError
from frostline.training.train_request import TrainRequest
from tiny import tiny_backbone, write_folder, write_table

QUICK = ["--size", "32", "--threads", "1", "--json", "--quiet"]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_keywords_and_fields_are_the_same() -> None:
    assert tuple(Options.__annotations__) == NAMES
    types = [hint.__forward_arg__ for hint in Options.__annotations__.values()]
    assert types == list(Config.__annotations__.values())


def test_a_file_reads_back(tmp_path: Path) -> None:
    config = Config(seed=3, min_crop=0.5, rotate="90", interpolate_weights="auto", deterministic=True)
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
    assert read_yaml(tmp_path / "config.yaml")["rotate"] == "90"  # a word, not a number
    Config().save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "cannot be read as YAML"),
        ("- seed", "holds no options"),
        ("1: 2", "holds no options"),
        ("\ud800", "cannot be read as YAML"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=message):
        Config.load(tmp_path / "config.yaml")


def test_a_callable_is_in_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a Python object"):
        Config(augment=lambda image: image).save(tmp_path / "config.yaml")


def test_keywords_go_before_the_config_and_others_are_refused() -> None:
    assert Config.of(Config(seed=1, threads=2), {"seed": 5}) == Config(seed=5, threads=2)
    with pytest.raises(UsageError, match=r"'sed'.*Did you mean 'seed'"):
        Config.of(None, {"sed": 1})
    with pytest.raises(UsageError, match="views: not an option here"):
        Config.of(Config(views=3), {}, without=TRAIN_ALONE)


def test_a_config_and_its_keywords_make_the_same_run(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    options: dict[str, Any] = {"seed": 2, "batch_size": 8, "threads": 1, "flip": "none"}
    first = frostline.train(tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", **options)
    again = frostline.train(
        tiny_backbone(), data, "head(epochs=1)", study=tmp_path / "s", config=Config(**options)
    )
    assert again.reused
    assert again.folder == first.folder
    saved = read_yaml(first.folder.path / FILE)
    assert saved == {"model": "TinyNet", "strategy": "head(epochs=1)", **options}
    assert Config.load(first.folder.path / FILE) == Config(**options)
    with pytest.raises(UsageError, match="Unknown option 'batch'"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "s", batch=8)
    with pytest.raises(UsageError, match=r"Unknown option 'groupby'\. Did you mean 'group_by'\?.*test_data"):
        frostline.fit(data, study=tmp_path / "fit", groupby="parent")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="repeats: not an option here"):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "s", repeats=2)
    with pytest.raises(UsageError, match="keep: not an option here"):
        frostline.compare(tiny_backbone(), data, ["head", "full"], study=tmp_path / "s", keep="last")


def test_hyperparameters_in_brackets_by_keyword_and_in_a_config_make_the_same_run(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    options: dict[str, Any] = {"study": tmp_path / "s", "threads": 1, "flip": "none", "deterministic": True}

    def train(strategy: str | frostline.Strategy, **others: Any) -> frostline.Run:
        return frostline.train(tiny_backbone(), data, strategy, **options, **others)

    first = train("head(epochs=1, lr=1, clip_grad=2)")
    same = [
        train("head", epochs=1, lr=1, hyperparameters={"clip_grad": 2}),
        train("head(epochs=1)", hyperparameters={"lr": "1.0", "clip_grad": "2"}),
        train("head(lr=1)", lr=1.0, config=Config(epochs=1, hyperparameters={"clip_grad": 2.0})),
        train(frostline.strategies.head(epochs=1, lr=1, clip_grad=2)),
    ]
    assert all(run.reused for run in same)
    assert {run.folder.name for run in same} == {first.folder.name}
    saved = read_yaml(first.folder.path / FILE)
    assert saved["strategy"] == "head(lr=1, epochs=1, clip_grad=2)"  # once, and nowhere else
    assert not {"epochs", "lr", "hyperparameters"} & set(saved)


def test_hyperparameters_of_a_config_are_given_once() -> None:
    assert Config(lr=0.1, hyperparameters={"lr": "0.10", "bn": "eval"}).of_strategy == {
        "lr": 0.1,
        "bn": "eval",
    }
    with pytest.raises(UsageError, match=r"lr=0.1 and, among hyperparameters, lr=0.2"):
        _ = Config(lr=0.1, hyperparameters={"lr": 0.2}).of_strategy
    with pytest.raises(UsageError, match=r"hyperparameters is 'lr=0.1'; expected names with values"):
        _ = Config(hyperparameters="lr=0.1").of_strategy  # type: ignore[arg-type]


def test_what_makes_a_run_another_one_follows_the_config(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    backbone = tiny_backbone()

    def identity(**options: Any) -> dict[str, Any]:
        return TrainRequest(backbone, data, frostline.parse("head"), Config(**options)).identity()

    assert identity() == identity(threads=3, workers=1)  # how it is computed is not what it is
    for change in ({"seed": 1}, {"min_crop": 0.5}, {"rotate": "90"}, {"batch_size": 8}, {"keep": "last"}):
        assert identity(**change) != identity()


@pytest.mark.slow
def test_the_file_that_a_command_leaves_repeats_it(tmp_path: Path) -> None:
    photos, study = write_folder(tmp_path / "photos", per_class=8), tmp_path / "s"
    words = ("--strategy", "head(epochs=1)", "--study", str(study), "--seed", "3", "--rotate", "90", *QUICK)
    first = run("train", str(photos), *words)
    assert first.exit_code == 0, first.output
    (file,) = study.glob(f"runs/*/{FILE}")
    again = run("train", "--config", str(file), "--json", "--quiet")
    assert again.exit_code == 0, again.output
    told, said = (json.loads(result.stdout) for result in (first, again))
    assert said["reused"]
    assert said["run"] == told["run"]
    other = run("train", "--config", str(file), "--seed", "4", "--json", "--quiet")
    assert json.loads(other.stdout)["run"] != told["run"]  # the prompt goes first


def test_a_file_with_a_wrong_word_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for text, message in (("sed: 1", "Did you mean 'seed'?"), ("[", "cannot be read as YAML")):
        file.write_text(text)
        result = run("train", str(tmp_path), "--config", str(file))
        assert result.exit_code == 2
        assert message in result.stderr
    file.write_text("rotate: 45\n")
    result = run("train", str(tmp_path), "--config", str(file))
    assert result.exit_code == 2
    assert "'45' is not one of" in result.stderr


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", ["--test-size", "0", "--val-size", "0.0", "--interpolate-weights", "0", "--views", "0"]),
        ("train", ["--strict", "--logger", "mlflow", "--logger", "wandb", "--split-names", "test=fold1"]),
        ("train", ["--strategy", "top_k(2, lr=0.001)", "--source-data", "old", "--rotate", "90"]),
        (
            "compare",
            ["--no-earlier", "--search", "lr", "--draws", "2", "--strategies", "head,top_k(2, lr=0.1)"],
        ),
        ("fit", ["--models", "lite0,lite1", "--seed", "0", "--minutes", "2", "--flip", "none"]),
        ("train", ["--epochs", "3", "--lr", "3e-4", "--set", "layer_decay=0.8", "--set", "bn=eval"]),
        ("compare", ["--weight-decay", "0", "--label-smoothing", "0.2", "--imbalance", "weights"]),
        ("compare", ["--strategies", "scratch,full", "--no-pretrained", "--batch-size", "8"]),
    ],
)
def test_what_a_command_was_given_reads_back(tmp_path: Path, verb: str, words: list[str]) -> None:
    file, command = tmp_path / "config.yaml", cli.commands[verb]
    with command.make_context(verb, ["photos", "--study", "s", *words]) as first:
        leave_config(file)
    with command.make_context(verb, ["--config", str(file)]) as again:
        for name in ("data", "study", "source_data"):  # they hold from any folder
            if first.params.get(name):
                assert again.params.pop(name) == str(Path(first.params.pop(name)).absolute())
        assert again.params == first.params


# A value of each option whose type does not name one; `costs`, `test_data` and `data` are files.
ANOTHER = {
    "alpha_background": "black",
    "architecture": "timm/resnet18",
    "batch_size": "8",
    "database": "sqlite:///trials.db",
    "device_memory": "8GB",
    "group_by": "re:^[a-z]+",
    "hyperparameters": "layer_decay=0.8",
    "intensity_range": "0,4095",
    "interpolate_weights": "0.3",
    "label_column": "kind",
    "logger": "mlflow",
    "max_latency_ms": "12.5",
    "max_size_mb": "30",
    "metric": "sensitivity@specificity=0.9",
    "minutes": "7",
    "model": "timm/resnet18",
    "models": "lite0,lite1",
    "path_column": "file",
    "positive": "kind 1",
    "ray": "auto",
    "search": "lr",
    "source_data": "old",
    "split_names": "train=fold0,test=fold2",
    "strategies": "head,top_k(2, lr=0.1)",
    "strategy": "top_k(3, lr=0.1)",
    "study": "study",
    "threads": "3",
    "workers": "2",
}


def another(param: click.Parameter, name: str) -> str | None:
    """Return a value that is not the default, as the prompt has it; `None` for a switch."""
    if getattr(param, "is_flag", False):
        return None
    if isinstance(param.type, click.Choice):
        return str(next(choice for choice in param.type.choices if choice != param.default))
    if name in ANOTHER:
        return ANOTHER[name]
    if isinstance(param.type, click.IntRange):
        default = param.default if isinstance(param.default, int) else 0
        return str(max(2, int(param.type.min or 0) + 1, default + 1))
    if param.type is click.INT:
        return "7"
    if param.type is click.FLOAT or isinstance(param.type, click.FloatRange):
        return "0.35"
    raise AssertionError(f"{name} is new: give it a value in ANOTHER.")


@pytest.mark.parametrize("verb", ["train", "compare", "fit"])
def test_every_option_that_a_run_is_given_is_in_its_file_and_reads_back(verb: str, tmp_path: Path) -> None:
    command, (costs, images) = cli.commands[verb], (tmp_path / "costs.csv", tmp_path / "images")
    costs.write_text("label,a,b\na,0,1\nb,5,0\n")
    images.mkdir()
    words, given = [str(images)], {"data"}
    for param in command.params:
        name = names_in_file(param)[0]
        elsewhere = name in ("continue", "extra_epochs")  # of a run that is there: test_epochs.py
        if param.name in NOT_KEPT or name == "data" or elsewhere:
            continue
        given.add(str(param.name))
        files = {"costs": str(costs), "test_data": str(images)}
        value = files.get(name) or another(param, name)
        off = (param.secondary_opts or param.opts)[0]  # the default of --earlier/--no-earlier is on
        words += [off] if value is None else [max(param.opts, key=len), value]
    with command.make_context(verb, words) as first:
        defaults = {str(param.name): param.get_default(first) for param in command.params}
        same = [name for name in given if first.params[name] == defaults.get(name)]
        assert not same, "given a value that is the default"
        leave_config(tmp_path / FILE)
    with command.make_context(verb, ["--config", str(tmp_path / FILE)]) as again:
        for name in ("study", "source_data"):  # they hold from any folder
            if name in first.params:
                assert again.params.pop(name) == str(Path(first.params.pop(name)).absolute())
        assert again.params == first.params
    read, fields = Config.load(tmp_path / FILE), given & set(NAMES)
    assert {name: getattr(read, name) for name in fields} == {name: first.params[name] for name in fields}
    assert set(read.changed()) == fields
    of_python = {"keep", "stop_after", "temperature", "device"}  # without an option, or not kept
    alone = {"train": {"repeats"}, "compare": set(TRAIN_ALONE), "fit": set(TRAIN_ALONE)}
    assert set(NAMES) - fields == of_python | alone[verb]


def test_a_misspelt_field_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: lite0\nsed: 1\n")
    with pytest.raises(UsageError, match=r"'sed'.*Did you mean 'seed'"):
        Config.load(tmp_path / "config.yaml")


def test_every_option_of_the_commands_may_stand_in_a_file_that_python_reads() -> None:
    written = {
        name
        for verb in ("train", "compare", "fit")
        for param in cli.commands[verb].params
        for name in names_in_file(param)[:1]
        if param.name not in NOT_KEPT
    }
    assert written - set(NAMES) == set(OF_COMMANDS)
