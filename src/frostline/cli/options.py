"""Options that several commands share, and loading the data and network that they name."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from frostline import strategies
from frostline.cli.command_context import Verb, stack
from frostline.config import BATCH, FILE, OF_STRATEGIES, Config, as_number, read_yaml, write_yaml
from frostline.distributed import ray_cluster
from frostline.errors import FrostlineError, UsageError, did_you_mean
from frostline.loggers import Loggers, make_loggers, parse_names

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.models import Backbone


class StrategyText(click.ParamType[str]):
    """A strategy in its notation, checked before anything is loaded."""

    name = "STRATEGY"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the canonical notation."""
        try:
            return str(strategies.parse(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Minutes(click.FloatRange):
    """A finite time above 0: click accepts `nan` and `inf`, which would be no limit."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return minutes."""
        minutes = super().convert(value, param, ctx)
        if not math.isfinite(minutes):
            self.fail(f"{value!r} is not a number of minutes. Leave it out for no limit.", param, ctx)
        return minutes


class SplitNames(click.ParamType[dict[str, str] | str]):
    """Parts with their folders, or `none`."""

    name = "PART=FOLDER,…"

    def convert(
        self, value: dict[str, str] | str, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str] | str:
        """Return folders with their parts."""
        if isinstance(value, dict) or value == "none":
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        parts = ("train", "val", "test")
        if not pairs or not all(folder and part.strip() in parts for part, _, folder in pairs):
            self.fail(f"{value!r} is neither none nor like train=FOLDER,test=FOLDER.", param, ctx)
        return {folder.strip().rstrip("/"): part.strip() for part, _, folder in pairs}


class Share(click.ParamType[float | str]):
    """A number between 0 and 1, or `auto`."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is neither auto nor a number between 0 and 1.", param, ctx)
        return share


class Workers(click.ParamType[int | str]):
    """A number from 0, or `auto`."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or "auto"."""
        return "auto" if value == "auto" else click.IntRange(0).convert(value, param, ctx)


class LoggerNames(click.ParamType[str]):
    """Loggers separated by commas, checked before anything is loaded."""

    name = "LOGGER"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the names as they are written."""
        try:
            return ",".join(parse_names(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class RayAddress(click.ParamType[str]):
    """Address of a Ray cluster. A value that looks like a path was meant as DATA."""

    name = "ADDRESS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address."""
        if value not in (ray_cluster.AUTO, ray_cluster.LOCAL) and not re.fullmatch(
            r"(ray://)?[^/\s]+:\d+", value
        ):
            self.fail(
                f"{value!r} is not the address of a Ray cluster. Expected {ray_cluster.ADDRESSES}; "
                "write --ray last, or --ray=auto.",
                param,
                ctx,
            )
        return value


ray_option = click.option(
    "--ray",
    "ray",
    is_flag=False,
    flag_value=ray_cluster.AUTO,
    type=RayAddress(),
    help="Use the workers of a Ray cluster with the same folders: a running one, else one on this machine. "
    "One worker per GPU, or per --threads cores, or per machine.",
)
shape_options = stack(
    click.option("--architecture", help="For a .safetensors FILE: the architecture, e.g. timm/resnet18."),
    click.option(
        "--size", type=click.IntRange(16, 4096), help="Input side in pixels [that of the checkpoint]."
    ),
    click.option(
        "--download",
        "download",
        is_flag=True,
        default=None,
        help="Download weights that are not on this machine [in a terminal, a question; else an error].",
    ),
)
model_options = stack(
    click.option(
        "--model",
        default="lite0",
        show_default=True,
        help="Backbone: lite0, timm/NAME, torchvision/NAME, hf/OWNER/NAME, FILE, FOLDER, STUDY. frostline "
        "models lists some.",
    ),
    shape_options,
    click.option(
        "--resize",
        type=click.Choice(["crop", "squash", "pad"]),
        help="How images become square, in training, prediction and export: centre crop, stretch, or pad "
        "with the mean colour [as the checkpoint or study has it, mostly crop].",
    ),
)
varied_options = stack(
    click.option(
        "--min-crop",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="FRACTION",
        help="Smallest share of an image's area in a random crop in training [0.7 with --augment light, 0.35 "
        "with standard and randaugment, 0.25 with strong].",
    ),
    click.option(
        "--rotate",
        type=click.Choice(["auto", "none", "90", "any"]),
        default="none",
        show_default=True,
        help="Rotate training images, for images without an orientation: by quarters, or by any angle. auto "
        "tests whether they have an orientation, and rotates by quarters if not.",
    ),
)


class Device(click.ParamType[str]):
    """The name of a device, whether this machine has it or not: that is known once torch is imported."""

    name = "DEVICE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            self.fail(
                f"{value!r} names no device. Expected auto, cpu, cuda, cuda:1 (a GPU's number) or mps.",
                param,
                ctx,
            )
        return value


device_option = click.option(
    "--device",
    type=Device(),
    metavar="auto|cpu|cuda|cuda:1|mps",
    default="auto",
    show_default=True,
    help="What computes. auto: a GPU where torch finds one, else the processor.",
)
plain_timm = click.option(
    "--plain-timm",
    is_flag=True,
    help="Only models whose weights timm loads alone: no heads that read several stages.",
)
workers_option = click.option(
    "--workers",
    type=Workers(),
    default="auto",
    show_default=True,
    help="Threads that decode images ahead [auto: as many as compute; with a GPU, one a core]; 0 decodes in "
    "between.",
)
pixels_option = click.option(
    "--pixels",
    type=click.Choice(["auto", "reference"]),
    default="auto",
    show_default=True,
    help="auto: training decodes large JPEGs at a fraction of their size, unless --deterministic. val, test "
    "and predictions see whole ones.",
)
running = stack(
    click.option(
        "--seed", default=0, show_default=True, help="Seed of split, order, initialisation and augmentation."
    ),
    device_option,
    click.option(
        "--deterministic",
        is_flag=True,
        help="Float32, no timed choices and, on a GPU, deterministic kernels: repeats are bit-identical.",
    ),
    workers_option,
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Number format of computation [the fastest, timed]. float16 is for NVIDIA's GPUs, where layers "
        "learn.",
    ),
    click.option("--threads", type=click.IntRange(1), help="Torch threads [the number of free cores]."),
)


class MetricName(click.ParamType[str]):
    """A metric's name, checked before anything is loaded."""

    name = "METRIC"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        from frostline import metrics

        try:
            return metrics.checked_name(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


METRIC_NAMES = (
    "accuracy, balanced_accuracy, macro_f1, auroc, average_precision, quadratic_kappa (of ordered classes), "
    "sensitivity@specificity=0.95 or log_loss"
)
metric_option = click.option(
    "--metric",
    type=MetricName(),
    default="accuracy",
    show_default=True,
    help=f"Metric that decides: {METRIC_NAMES}.",
)
tta_option = click.option(
    "--tta",
    type=click.Choice(["none", "flip", "five_crop", "ten_crop"]),
    default="none",
    show_default=True,
    help="Test-time augmentation: mean probabilities over views of each image, as many times slower.",
)
evaluation_metric_option = click.option(
    "--metric",
    type=MetricName(),
    default="accuracy",
    show_default=True,
    help=f"Metric that is shown first, and for each value of --by: {METRIC_NAMES}.",
)
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
operating_options = stack(
    click.option(
        "--positive",
        metavar="CLASS",
        help="The class of --min-recall, --min-precision or --metric sensitivity@specificity=….",
    ),
    click.option(
        "--min-recall",
        type=SHARE,
        metavar="SHARE",
        help="Choose the threshold of --positive, on held-out images, that finds at least so many of its "
        "images, e.g. 0.98.",
    ),
    click.option(
        "--min-precision",
        type=SHARE,
        metavar="SHARE",
        help="Choose the lowest threshold of --positive, on held-out images, at which so many of those "
        "predicted as it are of it.",
    ),
    click.option(
        "--costs",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE.csv",
        help="Predict the class of the least expected cost: a line for each label, a column for each "
        "predicted class.",
    ),
)
augment_option = click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong", "randaugment"]),
    default="standard",
    show_default=True,
    help="Strength of the augmentation.",
)
winner_weights_option = click.option(
    "--interpolate-weights",
    type=Share(),
    help="Interpolate the winner's weights: 0 is the pretrained ones with a probe, 1 the adapted ones; auto "
    "chooses by the folds.",
)
database_option = click.option(
    "--database", help="Optuna storage URL for workers on several machines [SQLite in the study]."
)
flip_option = click.option(
    "--flip",
    type=click.Choice(["auto", "none", "horizontal", "both"]),
    default="auto",
    show_default=True,
    help="Mirror training images? auto tests whether left and right matter in the images.",
)
imbalance_option = click.option(
    "--imbalance",
    type=click.Choice(["none", "weights", "sampler", "logit_adjustment"]),
    default="none",
    show_default=True,
    help="For classes with few images: weight their loss, sample them more often, or adjust logits.",
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1), default=BATCH, show_default=True, help="Images per step."
)
no_pretrained_option = click.option(
    "--no-pretrained",
    is_flag=True,
    help="Random weights of the architecture; nothing is downloaded. For strategies that train every layer: "
    "scratch, full.",
)


class Setting(click.ParamType[str]):
    """A hyperparameter with its value."""

    name = "KEY=VALUE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text without spaces around its parts."""
        key, sign, text = (part.strip() for part in value.partition("="))
        if not (key and sign and text):
            self.fail(
                f"{value!r} is not KEY=VALUE. Expected a hyperparameter with its value, such as "
                "layer_decay=0.8 (frostline strategies lists them).",
                param,
                ctx,
            )
        return f"{key}={text}"


def _by_name(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float | str] | None:
    """Return the values of --set by hyperparameter; `None` if there are none."""
    result: dict[str, float | str] = {}
    for value in values:
        key, _, text = value.partition("=")
        if key in result:
            raise click.BadParameter(f"{key} is given twice. Give each hyperparameter once.", ctx, param)
        number = as_number(text)
        result[key] = text if number is None else number
    return result or None


hyperparameter_options = stack(
    click.option(
        "--epochs",
        type=float,
        help="Passes over the training images [4 to 40, by their number].",
    ),
    click.option(
        "--lr", type=float, help="Peak learning rate of the head [0.0005 to 0.003, by the strategy]."
    ),
    click.option("--weight-decay", type=float, help="AdamW's weight decay [0.01]."),
    click.option(
        "--label-smoothing",
        type=float,
        metavar="SHARE",
        help="Share of each label that is spread over all classes [0.1 where steps train, else 0].",
    ),
    click.option(
        "--set",
        "hyperparameters",
        type=Setting(),
        multiple=True,
        callback=_by_name,
        help="Any hyperparameter of the strategy, such as layer_decay=0.8; may be given more than once "
        "(frostline strategies lists them).",
    ),
)
HYPERPARAMETERS = (*OF_STRATEGIES, "hyperparameters")  # the parameters of `hyperparameter_options`
repeats_option = click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="New splits and seeds."
)
logger_option = click.option(
    "--logger",
    "logger",
    type=LoggerNames(),
    multiple=True,
    help="Log each epoch to tensorboard, mlflow or wandb, too; may be given more than once.",
)
split_names_option = click.option(
    "--split-names",
    type=SplitNames(),
    help="Which folders of DATA are which part, such as train=fold0,train=fold1,test=fold2; none: folders "
    "are classes [by their names].",
)
path_column_option = click.option(
    "--path-column", metavar="NAME", help="Of a table: the column that names the images [path, filename, …]."
)
label_column_option = click.option(
    "--label-column", metavar="NAME", help="Of a table: the column of labels [label, class, category, …]."
)


class GroupBy(click.ParamType[str]):
    """What makes a group, checked before anything is loaded."""

    name = "GROUPS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        from frostline.data.splits.grouping import parsed

        try:
            parsed(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return value


test_data_option = click.option(
    "--test-data",
    "test_data",
    type=click.Path(exists=True),
    metavar="PATH",
    help="A labelled folder or table that is the test part alone; classes are matched by name, and copies of "
    "images of DATA left out.",
)
group_by_option = click.option(
    "--group-by",
    type=GroupBy(),
    metavar="parent|column:NAME|re:REGEX|auto",
    help="What defines a group, which stays in one part: the folder below the class folder, a table's "
    "column, the match of an expression in a file's name (in the path if it holds a slash), or what names "
    "suggest [a column group].",
)


class IntensityRange(click.ParamType[str]):
    """Two values, or how to find them."""

    name = "auto|per-image|LOW,HIGH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the range in its stored form."""
        from frostline.data.pixels.rendering import checked_range

        try:
            return checked_range(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class AlphaBackground(click.ParamType[str]):
    """A colour, or how to find it."""

    name = "auto|white|grey|black|R,G,B"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        from frostline.data.pixels.rendering_choice import rendering_options

        try:
            rendering_options(None, value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return value


shown_options = stack(
    click.option(
        "--intensity-range",
        type=IntensityRange(),
        help="Values that become black and white, for images deeper than 8 bits [as the study has it, else "
        "auto: robust percentiles of the training images].",
    ),
    click.option(
        "--alpha-background",
        type=AlphaBackground(),
        help="Background of transparent pixels [as the study has it, else white; grey if white would hide "
        "images].",
    ),
)


# Options that say how to show a call, not what it does: not left in its config.yaml.
NOT_KEPT = ("config", "as_json", "quiet", "explain", "cache_dir", "device")


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
    if unknown:
        names = sorted({names_in_file(one)[0] for one in params.values()})
        ctx.fail(
            f"{value} names {unknown[0]!r}, which is no option of frostline {ctx.info_name}."
            f"{did_you_mean(unknown[0], names)} Expected some of {', '.join(names)}."
        )
    written = {
        str(params[name].name): _as_written(params[name], one)
        for name, one in given.items()
        if one is not None
    }
    ctx.default_map = {**(ctx.default_map or {}), **written}


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
    if getattr(param, "multiple", False):
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_path(name: str, value: Any) -> bool:
    """Return whether an option's value is a path of this machine; a network may be one, or a name."""
    if name in ("data", "study", "source_data", "costs", "test_data", "continue"):
        return "://" not in value
    return name == "model" and Path(value).exists()


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


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_of_file,
    metavar="FILE",
    help="Options from a YAML file, such as the config.yaml that every run leaves; the prompt goes first.",
)
# Of a parent's config.yaml: how long and how far it ran, which a run that continues from it says anew.
NOT_INHERITED = (
    *("minutes", "patience", "interpolate_weights", "views", "source_data", "logger", "ray"),
    *(*OF_STRATEGIES, "set", "hyperparameters"),  # the strategy's notation holds them
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
        help="Epochs of --continue: fresh moments, and warm-up and schedule with the peak --lr [half the "
        "run's last].",
    ),
)
data_options = stack(
    click.option(
        "--test-size",
        "test_size",
        type=click.FloatRange(0, 0.9),
        default=0.2,
        show_default=True,
        help="Share of the test part, if DATA names none.",
    ),
    click.option(
        "--val-size",
        "val_size",
        type=click.FloatRange(0, 0.9),
        default=0.2,
        show_default=True,
        help="Share of the val part among the rest, if DATA names none.",
    ),
    click.option("--strict", is_flag=True, help="Refuse if any image cannot be used."),
    split_names_option,
    shown_options,
    path_column_option,
    label_column_option,
    group_by_option,
)


def given(option: str) -> bool:
    """Whether an option was written at the prompt."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not ParameterSource.DEFAULT


def given_hyperparameters(options: dict[str, Any]) -> dict[str, float | str]:
    """Return the hyperparameters that a command was given by options. Raises `UsageError` for two values."""
    return Config(**{name: options[name] for name in HYPERPARAMETERS}).of_strategy


def demand_effect(options: dict[str, Any], names: Iterable[str]) -> list[strategies.Strategy]:
    """Return the strategies of these notations with the hyperparameters that were given by options.

    Raises `UsageError`, before anything is loaded, where one has no effect or disagrees with the brackets,
    and where a strategy has no use for random weights.
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
    return list(changed)


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
    from frostline.feature_extraction.image_batches import AUTO, decoding_threads
    from frostline.models import zoo
    from frostline.system import deadline

    test_data = options.get("test_data")
    if test_data and given("test_size"):
        raise UsageError("--test-size draws a test part, and --test-data is one: give one of the two.")
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
        workers=decoding_threads(options.get("workers", AUTO)),
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
        from frostline.models import leakage
        from frostline.studies.study_folder import Study

        manifest = leakage.keep_learned_in_train([backbone], manifest, Study(options["study"]))
    deadline.disarm()
    return manifest, backbone
