"""Options that several commands share."""

from __future__ import annotations

import click

from frostline.cli.command_context import stack
from frostline.cli.parameter_types import (
    AlphaBackgroundType,
    BatchSizesType,
    DeviceType,
    GroupByType,
    IntensityRangeType,
    LoggerNamesType,
    MetricNameType,
    RayAddressType,
    SettingType,
    ShareType,
    SizeType,
    SplitNamesType,
    WorkersType,
)
from frostline.config import AUTO_BATCH, OF_OPERATING_POINT, OF_STRATEGIES, as_number
from frostline.distributed import ray_cluster

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
device_option = click.option(
    "--device",
    type=DeviceType(),
    metavar="auto|cpu|cuda|cuda:1|mps",
    default="auto",
    show_default=True,
    help="Device to compute on. auto: a GPU where torch finds one, else the processor.",
)

device_memory_option = click.option(
    "--device-memory",
    type=SizeType(),
    help="Memory of the GPU that a run may use, e.g. 8GB [all that it has]. A batch that needs more is "
    "split, and gradients are accumulated.",
)
plain_timm = click.option(
    "--plain-timm",
    is_flag=True,
    help="Only heads that read the last stage: timm (or transformers) then loads the weights of its own "
    "networks alone.",
)
workers_option = click.option(
    "--workers",
    type=WorkersType(),
    default="auto",
    show_default=True,
    help="Threads that decode images [auto: as many as compute; with a GPU, one a core]; 0 decodes in "
    "between.",
)
pixels_option = click.option(
    "--pixels",
    type=click.Choice(["auto", "reference"]),
    default="auto",
    show_default=True,
    help="auto: training resizes by torch, and decodes large JPEGs at a fraction of their size, unless "
    "--deterministic. reference: Pillow and whole pictures, as val, test and predictions always.",
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
compile_option = click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="torch.compile. auto: on a GPU, where the seconds that it saves are more than those it takes; never "
    "on a processor.",
)
METRIC_NAMES = (
    "accuracy, balanced_accuracy, macro_f1, auroc, average_precision, quadratic_kappa (each class's name "
    "holds a number, its place), sensitivity@specificity=0.95 or log_loss"
)
metric_option = click.option(
    "--metric",
    type=MetricNameType(),
    default="accuracy",
    show_default=True,
    help=f"Metric that decides: {METRIC_NAMES}.",
)
evaluation_metric_option = click.option(
    "--metric",
    type=MetricNameType(),
    default="accuracy",
    show_default=True,
    help=f"Metric that is shown first, and for each value of --by: {METRIC_NAMES}.",
)
tta_option = click.option(
    "--tta",
    type=click.Choice(["none", "flip", "five_crop", "ten_crop"]),
    default="none",
    show_default=True,
    help="Test-time augmentation: mean probabilities over views of each image, as many times slower.",
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
        help="Smallest recall of the --positive class, e.g. 0.98: the threshold is chosen on held-out "
        "images.",
    ),
    click.option(
        "--min-precision",
        type=SHARE,
        metavar="SHARE",
        help="Smallest precision of the --positive class: the lowest threshold that reaches it on held-out "
        "images is chosen.",
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
patience_option = click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Stop a run early: after so many epochs of its last phase in a row without a better metric on the "
    "images that it holds out. The winner stops after the median of its runs [run to the end].",
)
winner_weights_option = click.option(
    "--interpolate-weights",
    type=ShareType(),
    help="Interpolate the winner's weights: 0 is the pretrained ones with a probe, 1 the adapted ones; auto "
    "chooses by the folds.",
)
database_option = click.option(
    "--database", help="Optuna storage URL for workers on several machines [SQLite in the study]."
)
ray_option = click.option(
    "--ray",
    "ray",
    is_flag=False,
    flag_value=ray_cluster.AUTO,
    type=RayAddressType(),
    help="Use the workers of a Ray cluster with the same folders: a running one, else one on this machine. "
    "One worker per GPU, or per --threads cores, or per machine.",
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
    "--batch-size",
    type=BatchSizesType(),
    default=AUTO_BATCH,
    show_default=True,
    help="Images per step. auto: 32; on an NVIDIA GPU up to 256, with a learning rate that follows unless "
    "it is given.",
)
no_pretrained_option = click.option(
    "--no-pretrained",
    is_flag=True,
    help="Random weights of the architecture; nothing is downloaded. For strategies that train every layer: "
    "scratch, full.",
)


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
        help="Passes over the training images, in whole epochs [4 to 40, by their number; top_k 6 to 60].",
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
        type=SettingType(),
        multiple=True,
        callback=_by_name,
        help="Any hyperparameter of the strategy, such as layer_decay=0.8; may be given more than once "
        "(frostline strategies lists them).",
    ),
)
HYPERPARAMETERS = (*OF_STRATEGIES, "hyperparameters")  # the parameters of `hyperparameter_options`
# Options of a run, by the names that `train`, `compare` and `fit` have for them in Python.
OF_RUNS = (
    "study",
    "seed",
    "metric",
    *OF_OPERATING_POINT,
    "augment",
    "flip",
    "min_crop",
    "rotate",
    "imbalance",
    "batch_size",
    *HYPERPARAMETERS,
    "device",
    "device_memory",
    "deterministic",
    "plain_timm",
    "precision",
    "compile",
    "threads",
    "workers",
    "pixels",
    "patience",
    "interpolate_weights",
    "minutes",
)
repeats_option = click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="New splits and seeds."
)
logger_option = click.option(
    "--logger",
    "logger",
    type=LoggerNamesType(),
    multiple=True,
    help="Log each epoch to tensorboard, mlflow or wandb, too; may be given more than once.",
)
split_names_option = click.option(
    "--split-names",
    type=SplitNamesType(),
    help="Which folders of DATA are which subset, such as train=fold0,train=fold1,test=fold2; none: folders "
    "are classes [by their names].",
)
path_column_option = click.option(
    "--path-column", metavar="NAME", help="Of a table: the column that names the images [path, filename, …]."
)
label_column_option = click.option(
    "--label-column", metavar="NAME", help="Of a table: the column of labels [label, class, category, …]."
)
test_data_option = click.option(
    "--test-data",
    "test_data",
    type=click.Path(exists=True),
    metavar="PATH",
    help="A labelled folder or table that is the test set alone; classes are matched by name, and copies of "
    "images of DATA left out.",
)
group_by_option = click.option(
    "--group-by",
    type=GroupByType(),
    metavar="parent|column:NAME|re:REGEX|auto",
    help="What defines a group, which stays in one subset: the folder below the class folder, a table's "
    "column, the match of an expression in a file's name (in the path if it holds a slash), or what names "
    "suggest [a column group].",
)
shown_options = stack(
    click.option(
        "--intensity-range",
        type=IntensityRangeType(),
        help="Values that become black and white, for images deeper than 8 bits [as the study has it, else "
        "auto: robust percentiles of the training images].",
    ),
    click.option(
        "--alpha-background",
        type=AlphaBackgroundType(),
        help="Background of transparent pixels [as the study has it, else white; grey if white would hide "
        "images].",
    ),
)
data_options = stack(
    click.option(
        "--test-size",
        "test_size",
        type=click.FloatRange(0, 0.9),
        default=0.2,
        show_default=True,
        help="Share of the test set, if DATA names none.",
    ),
    click.option(
        "--val-size",
        "val_size",
        type=click.FloatRange(0, 0.9),
        default=0.2,
        show_default=True,
        help="Share of the val set among the rest, if DATA names none.",
    ),
    click.option("--strict", is_flag=True, help="Refuse if any image cannot be used."),
    split_names_option,
    shown_options,
    path_column_option,
    label_column_option,
    group_by_option,
)
