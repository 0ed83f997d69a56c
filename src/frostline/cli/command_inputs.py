"""What a command was given: its hyperparameters, loggers, images and network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from frostline import strategies
from frostline.cli.command_context import Verb, given
from frostline.cli.options import HYPERPARAMETERS
from frostline.config import Config
from frostline.errors import UsageError
from frostline.loggers import Loggers, make_loggers
from frostline.strategies.overrides import unused_options

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.models import Backbone


def given_hyperparameters(options: dict[str, Any]) -> dict[str, float | str]:
    """Return the hyperparameters that a command was given by options. Raises `UsageError` for two values."""
    return Config(**{name: options[name] for name in HYPERPARAMETERS}).of_strategy


def demand_effect(options: dict[str, Any], names: Iterable[str]) -> list[strategies.Strategy]:
    """Return the strategies of these notations with the hyperparameters that were given by options.

    Raises `UsageError`, before anything is loaded, where one has no effect or disagrees with the brackets,
    where an option that was written at the prompt changes none of the strategies, and where a strategy has no
    use for random weights. (A file's options may be those of an earlier run, which is to be repeatable.)
    """
    values = given_hyperparameters(options)
    changed = strategies.overridden([strategies.parse(name) for name in names], values).strategies
    frozen = [str(one) for one in changed if one.pretrained and strategies.builds_on_pretrained(one)]
    if options.get("no_pretrained") and frozen:
        raise UsageError(
            f"--no-pretrained gives random weights, and {', '.join(frozen)} freezes layers or starts from "
            "their features: random ones carry no knowledge. Take strategies that train every layer "
            "(scratch, full), or leave --no-pretrained out."
        )
    if fault := strategies.patience_fault(options.get("patience"), changed):
        raise UsageError(fault)
    written = {name: value for name, value in options.items() if _written_at_the_prompt(name)}
    if unused := unused_options(written, changed):
        raise UsageError(" ".join(map(str, unused.values())))
    return list(changed)


def _written_at_the_prompt(option: str) -> bool:
    """Whether an option was written at the prompt or in the environment, not in a file of options."""
    source = click.get_current_context().get_parameter_source(option)
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def followed(verb: Verb, options: dict[str, Any]) -> Loggers:
    """Return the loggers that a command names, and log where they write; raise before anything is loaded."""
    loggers = make_loggers(options["logger"], options["study"])
    for line in loggers.lines():
        verb.progress.log(line)
    return loggers


def loaded(
    verb: Verb, data: str, options: dict[str, Any], *, learns: bool = False
) -> tuple[Manifest, Backbone]:
    """Load the images and the network that a command names, and start its clock.

    If the command `learns`, images that the network was trained on before are not held out.
    """
    import frostline
    from frostline.data import is_study
    from frostline.data.decoding_threads import AUTO
    from frostline.models import zoo
    from frostline.system import deadline

    test_data = options.get("test_data")
    if test_data and given("test_size"):
        raise UsageError("--test-size draws a test set, and --test-data is one: give one of the two.")
    verb.start_for(data)
    random = bool(options.get("no_pretrained"))
    download = zoo.agreed(
        options["model"], download=options["download"], random=random
    )  # before reading images, which may take minutes
    study = options.get("study")
    manifest = frostline.load_data(
        data,
        seed=options["seed"],
        test_size=options["test_size"],
        val_size=options["val_size"],
        strict=options["strict"],
        split_names=options["split_names"],
        intensity_range=options["intensity_range"],
        alpha_background=options["alpha_background"],
        path_column=options["path_column"],
        label_column=options["label_column"],
        group_by=options["group_by"],
        test_data=test_data,
        progress=deadline.telling(verb.progress, deadline.READING),
        workers=options.get("workers", AUTO),
        study=study if study and is_study(Path(study)) else None,
    )
    backbone = frostline.load_backbone(
        options["model"],
        size=options["size"],
        resize=options["resize"],
        random=random,
        architecture=options["architecture"],
        download=download,
    )
    preprocessing = backbone.preprocessing
    manifest = manifest.framed(preprocessing.crop_mode, preprocessing.crop_pct)
    if learns:
        from frostline.models import training_overlap
        from frostline.studies.study_folder import Study

        manifest = training_overlap.keep_learned_in_train([backbone], manifest, Study(options["study"]))
    deadline.disarm()
    return manifest, backbone
