"""Options from a file: --config, the config.yaml that a call leaves, and the run of --continue."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from frostline.cli.command_context import given, stack
from frostline.cli.parameter_types import SizeType
from frostline.config import FILE, NAMES, OF_STRATEGIES, read_yaml, write_yaml
from frostline.errors import FrostlineError, UsageError, did_you_mean

# Options that say how to show a call, not what it does: not left in its config.yaml.
NOT_KEPT = ("config", "as_json", "quiet", "explain", "cache_dir", "device")
# Of a parent's config.yaml: how long and how far it ran, which a run that continues from it says anew.
NOT_INHERITED = (
    *("minutes", "patience", "interpolate_weights", "views", "source_data", "logger", "ray"),
    *(*OF_STRATEGIES, "set", "hyperparameters"),  # the strategy's notation holds them
)


def leave_config(path: Path) -> None:
    """Write what the present call was given into `path` as YAML, so that --config repeats it."""
    ctx = click.get_current_context()
    values = {}
    for param in ctx.command.params:
        value, name = ctx.params.get(str(param.name)), names_in_file(param)[0]
        if param.name in NOT_KEPT or value is None or not given(str(param.name)):
            continue
        if _is_path(name, value):  # the file holds from any folder
            value = str(Path(value).absolute())
        values[name] = list(value) if isinstance(value, tuple) else value
    with contextlib.suppress(OSError):  # a finished study can be read where it can't be written
        write_yaml(path, values)


MAPPINGS = ("hyperparameters", "split_names", "costs")  # options that may have entries of their own


def names_in_file(param: click.Parameter) -> list[str]:
    """Return what an option is called in a file; the first of them is written."""
    if param.name == "hyperparameters":  # as in `Config`
        return [param.name, "set"]
    return [max(param.opts, key=len).lstrip("-").replace("-", "_"), str(param.name)]


def _as_written(param: click.Parameter, value: Any) -> Any:
    """Return a value of a file as the prompt would have it."""
    if param.name == "hyperparameters" and isinstance(value, dict):
        return [f"{key}={entry}" for key, entry in value.items()]
    if isinstance(value, bool | dict):
        return value
    if isinstance(param.type, SizeType) and isinstance(value, int):
        return f"{value}B"  # a bare number is bytes, as in Config
    if getattr(param, "multiple", False):
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_path(name: str, value: Any) -> bool:
    """Return whether an option's value is a path of this machine; a network may be one, or a name."""
    if name in ("data", "study", "source_data", "costs", "test_data", "continue"):
        return "://" not in value
    return name == "model" and Path(value).exists()


def _of_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Take the options of a file for those that are not written at the prompt."""
    if value is None:
        return
    params = {name: one for one in ctx.command.params for name in names_in_file(one) if one is not param}
    try:
        given = read_yaml(value)
    except UsageError as error:
        ctx.fail(str(error))
    unknown = [name for name in given if name not in params]
    if unknown and unknown[0] in NAMES:
        ctx.fail(
            f"{value} names {unknown[0]!r}, which frostline {ctx.info_name} has no option for. Leave it "
            "out, or "
            "repeat the run in Python: its config is frostline.Config.load of the file."
        )
    if unknown:
        names = sorted(
            {names_in_file(one)[0] for one in params.values() if not getattr(one, "hidden", False)}
        )
        ctx.fail(
            f"{value} names {unknown[0]!r}, which is no option of frostline {ctx.info_name}."
            f"{did_you_mean(unknown[0], names)} Expected some of {', '.join(names)}."
        )
    for name, one in given.items():
        if isinstance(one, bool) and not getattr(params[name], "is_flag", False):
            ctx.fail(
                f"{value} gives {name} a truth value, {str(one).lower()}; expected what the option takes."
            )
        if isinstance(one, dict) and params[name].name not in MAPPINGS:
            ctx.fail(f"{value} gives {name} entries of its own; expected what the option takes.")
        twins = [other for other in given if params[other] is params[name]]
        if len(twins) > 1:
            ctx.fail(f"{value} gives {' and '.join(twins)}, which are one option. Leave one of them out.")
    written = {
        str(params[name].name): _as_written(params[name], one)
        for name, one in given.items()
        if one is not None
    }
    ctx.default_map = {**(ctx.default_map or {}), **written}


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_of_file,
    metavar="FILE",
    help="Options from a YAML file, such as the config.yaml that every run leaves; the prompt goes first.",
)


def _of_parent(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Take a run's options for those that are not written at the prompt."""
    if value is None:
        return None
    from frostline.training import continuation

    params = {name: one for one in ctx.command.params for name in names_in_file(one)}
    try:
        folder = continuation.run_folder(value)
        own = folder.checked_config()
        options = read_yaml(folder.path / FILE) if (folder.path / FILE).is_file() else {}
    except FrostlineError as error:
        ctx.fail(str(error))
    settings = {
        "size": own["preprocessing"].get("size"),
        **{name: one for name, one in options.items() if name not in (*NOT_INHERITED, "continue")},
        "strategy": own["strategy"],
        "study": str(continuation.outer_study(folder)),
    }
    settings.pop("extra_epochs", None)
    inherited = {
        str(params[name].name): _as_written(params[name], one)
        for name, one in settings.items()
        if name in params and one is not None
    }
    ctx.default_map = {**inherited, **(ctx.default_map or {})}
    return value


continue_options = stack(
    click.option(
        "--continue",
        "continue_from",
        type=click.Path(exists=True, file_okay=False),
        is_eager=True,
        callback=_of_parent,
        metavar="RUN",
        help="Train on from a finished run, such as STUDY/runs/1a2b3c4d5e6f, for --extra-epochs: a new run "
        "with its weights, split and options.",
    ),
    click.option(
        "--extra-epochs",
        type=click.IntRange(1),
        help="Epochs of --continue. The optimizer and the schedule start afresh, with --lr as the peak [half "
        "of the run's last].",
    ),
)


def _not_here(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Name the command that trains on from a run."""
    if value is not None:
        ctx.fail(
            f"{param.opts[0]} trains on from one finished run, and frostline {ctx.info_name} compares "
            "strategies: give it to frostline train, such as frostline train DATA --continue STUDY/runs/NAME "
            "--extra-epochs 10."
        )


continue_elsewhere = stack(
    *(
        click.option(name, hidden=True, expose_value=False, callback=_not_here)
        for name in ("--continue", "--extra-epochs")
    )
)
