"""The report's last sections: forecasts against measurements, and how to use the model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from frostline import sentences
from frostline.config import AUTO_BATCH, BATCH, OF_OPERATING_POINT
from frostline.data import as_options
from frostline.data.splits.grouping import GroupBy
from frostline.reports import chart_parts, charts
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import ReportContext, duration
from frostline.reports.display_names import shortened, visible
from frostline.reports.section import Section
from frostline.reports.study_reader import RunContents, read_operating_point
from frostline.reports.tried_strategies import rows_of_backbone
from frostline.sentences import between, percent
from frostline.studies.best_run import passed_over_line

DEFAULTS = {
    "model": "lite0",
    "seed": 0,
    "metric": "accuracy",
    "augment": "standard",
    "flip": "auto",
    "rotate": "none",
    "imbalance": "none",
    "batch_size": "auto",
    "precision": "auto",
    "compile": "auto",
    "repeats": 3,
    "test_size": 0.2,
    "val_size": 0.2,
}
# Options of each command that are written out where they differ from the default.
READING_OPTIONS = ("split_names", "path_column", "label_column", "group_by", "test_data")
RUN_OPTIONS = (  # of all three commands
    *(*READING_OPTIONS, "intensity_range", "alpha_background", "model", "size", "resize", "seed", "metric"),
    *("augment", "flip", "min_crop", "rotate", "imbalance", "batch_size", "patience", "precision", "compile"),
    "no_pretrained",
)
SEVERAL_OPTIONS = (  # of the two that compare strategies
    *("minutes", "architecture", "strategies", "repeats", *OF_OPERATING_POINT, "interpolate_weights"),
    *(*RUN_OPTIONS, "hyperparameters"),
)
FIT_OPTIONS = (*SEVERAL_OPTIONS, "plain_timm", "models", "max_latency_ms", "max_size_mb")
COMPARE_OPTIONS = (*SEVERAL_OPTIONS, "cuts", "search", "draws", "test_size", "val_size")
TRAIN_OPTIONS = (
    *("strategy", "continue", "extra_epochs", "lr", "views", *RUN_OPTIONS, "pixels", "interpolate_weights"),
    *(*OF_OPERATING_POINT, "minutes", "test_size", "val_size"),
)


def forecasts(context: ReportContext) -> Section | None:
    """Return the section on the advice and how it turned out, and predicted against actual cost."""
    contents, section_charts = context.contents, []
    section = Section("foresight", "Forecasts and results", "Forecast")
    if contents.advice is not None:
        section.lead += [str(line) for line in contents.advice["why"]]
        if contents.fit is not None and contents.fit.get("forecast"):
            section.lead.append(sentences.forecast(contents.fit["forecast"]))
        section.lead += _forecast_quality(context, contents.advice)
        section.more = {
            "would_change": [str(line) for line in contents.advice["would_change"]],
            "notes": [str(line) for line in contents.advice["notes"]],
        }
        section_charts.append(_forecast_chart(context, contents.advice))
    section_charts.append(_cost_chart(context))
    section.charts = [chart for chart in section_charts if chart is not None]
    return section if section.lead or section.charts else None


def _forecast_rows(context: ReportContext, advice: dict[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """Return each advised option that was run to the end, with its row."""
    backbone_rows = rows_of_backbone(context.contents, context.rows)
    rows = {row.strategy: row for row in reversed(backbone_rows) if row.complete and row.accuracy is not None}
    return [
        (option, rows[option["strategy"]])
        for option in advice["options"]
        if option["strategy"] in rows and option["expected_accuracy"] is not None
    ]


def _forecast_quality(context: ReportContext, advice: dict[str, Any]) -> list[str]:
    option_rows = _forecast_rows(context, advice)
    if not option_rows:
        return ["The expected accuracies can't be checked: none of these strategies was run to the end here."]
    n_inside = sum(option["low"] <= row.accuracy <= option["high"] for option, row in option_rows)
    line = (
        f"{n_inside} of {len(option_rows)} measured accuracies are within the expected interval (it should "
        "hold four in five)."
    )
    best = next((row for row in context.rows if row.winner), None)
    if best is None:
        return [line]
    if best.strategy == advice["recommended"]:
        outcome = "won" if best.complete else "leads, after its first runs"
        return [f"The recommended strategy, {best.strategy}, {outcome}.", line]
    return [f"The recommended strategy was {advice['recommended']}; {best.strategy} was chosen.", line]


def _forecast_chart(context: ReportContext, advice: dict[str, Any]) -> Chart | None:
    option_rows = _forecast_rows(context, advice)
    if not option_rows:
        return None
    values, rows = [], []
    for option, row in option_rows:
        name = shortened(row.strategy)
        low, high = (row.accuracy if end is None else end for end in (row.low, row.high))
        expected = (option["expected_accuracy"], option["low"], option["high"])
        for kind, (value, start, end) in (
            ("expected", expected),
            ("measured", (row.accuracy, low, high)),
        ):
            values.append({"name": name, "kind": kind, "value": value, "low": start, "high": end})
        rows.append(
            (
                visible(row.strategy),
                f"{percent(expected[0])} ({between(*expected[1:])})",
                f"{percent(row.accuracy)} ({between(low, high)})",
            )
        )
    return Chart(
        "forecast",
        "Accuracy: expected and measured",
        "Grey is the accuracy expected from other image sets, with an 80 % interval; orange is the measured "
        "accuracy.",
        charts.forecast(values, list(dict.fromkeys(value["name"] for value in values))),
        ("strategy", "expected (80 %)", "measured (95 %)"),
        tuple(rows),
    )


def _cost_chart(context: ReportContext) -> Chart | None:
    values = [
        {
            "name": shortened(row.title),
            "label": shortened(row.title, 24),
            "predicted": row.predicted_s,
            "side": "left",
            "measured": row.seconds,
        }
        for row in context.rows
        if row.predicted_s and row.seconds and row.complete
    ]
    if len(values) < 2:
        return None
    for value in values:
        predicted = [float(v["predicted"]) for v in values]  # type: ignore[arg-type]
        value["side"] = chart_parts.side_of(float(value["predicted"]), predicted)  # type: ignore[arg-type]
    seconds = [float(value[key]) for value in values for key in ("predicted", "measured")]  # type: ignore[arg-type]
    return Chart(
        "costs",
        "Seconds: predicted and measured",
        "Predictions assume an empty cache. Below the dashed line a run took less: features of frozen layers "
        "are computed once, and later runs read them from the cache.",
        charts.costs(values, (min(seconds) / 1.6, max(seconds) * 1.6)),
        ("strategy", "predicted", "measured"),
        tuple(
            (str(v["name"]), duration(float(v["predicted"])), duration(float(v["measured"])))  # type: ignore[arg-type]
            for v in values
        ),
    )


def usage(context: ReportContext) -> Section | None:
    """Return the section on using the model, and the command that repeats the study."""
    run = context.contents.best_run
    if run is None:
        return None
    study = context.contents.path.name or "frostline-study"
    section = Section("use", "Use the model, repeat the study", "Use it")
    section.lead.append(
        f"The study's model is {visible(run.strategy)}: {context.contents.why}. It is a plain PyTorch model; "
        "frostline is not needed to run it."
    )
    result = run.result or {}
    if result.get("layers"):
        section.lead.append(sentences.reads_several(int(result["layers"])))
    if context.contents.passed_over:
        section.lead.append(visible(passed_over_line(context.contents.passed_over)))
    python = (
        "import frostline\n\n"
        f"for answer in frostline.predict({study!r}, 'new-photos/'):\n"
        "    print(answer.path, answer.label, answer.probability)\n\n"
        f"model = frostline.load_model({study!r})  # a torch.nn.Module in eval mode"
    )
    section.more = {
        "codes": [
            ("Label new images at the prompt", f"frostline predict {shlex.quote(study)} new-photos/"),
            ("The same in Python, and the model itself", python),
            (_export_title(result.get("loads_in") or []), f"frostline export {shlex.quote(study)}"),
            ("Repeat the study", repeat(context)),
        ],
        "environment": _environment(run.folder, context),
    }
    return section


def _export_title(loads_in: Sequence[str]) -> str:
    if not loads_in:
        return "Export the model, with a file that loads it"
    return f"Export the model, for {' and '.join(map(visible, loads_in))}"


def repeat(context: ReportContext) -> str:
    """Return the command that repeats this study; DATA stands for the images."""
    contents = context.contents
    comparison = contents.comparison.result if contents.comparison else None
    run = contents.best_run or next(iter(contents.all_runs))
    data = _data_name(context)
    if contents.fit is not None and isinstance(contents.fit.get("options"), dict):
        source = contents.fit["options"].get("source")
        source_argument = shlex.quote(visible(str(source))) if source else data
        return _command(
            "fit",
            source_argument,
            _options({**contents.fit["options"], **_split_options(context)}, FIT_OPTIONS),
        )
    if comparison is not None:
        strategy_names = dict.fromkeys(row["strategy"] for row in comparison["standings"])
        arguments = {
            "strategies": list(strategy_names),
            **comparison.get("options", {}),
            **_split_options(context),
        }
        if arguments.get("models"):  # `frostline compare` takes one; several come from `fit`, or from Python
            return _command("fit", data, _options(arguments, FIT_OPTIONS))
        if arguments.get("cuts"):
            arguments.pop("strategies")
        return _command("compare", data, _options(arguments, COMPARE_OPTIONS))
    runs = [row.example_run for row in context.rows if row.example_run] or [run]
    commands = [
        _command(
            "train",
            data,
            _options({**_train_options(context, one), **_split_options(context)}, TRAIN_OPTIONS),
        )
        for one in sorted(runs, key=_when)
    ]
    return "\n".join(dict.fromkeys(commands))


def _train_options(context: ReportContext, run: RunContents) -> dict[str, Any]:
    """Return what a run was given, by its configuration alone."""
    config = run.config
    options = {
        **config,
        "strategy": run.strategy,
        "batch_size": _batch_size(run),
        "no_pretrained": _random(config),
        "size": config["preprocessing"]["size"],
        "resize": _resize(config),
        # Runs without bit-exact results choose fast pixels of their own accord, where there are such.
        "pixels": None if "pixels" in config or config.get("deterministic") else "reference",
    }
    if parent := config.get("parent"):
        options["continue"] = f"{context.contents.path.name}/runs/{parent['run']}"
        options["extra_epochs"], options["lr"] = parent["extra_epochs"], parent["lr"]
    return {**options, **_operating_options(context, run)}


def _operating_options(context: ReportContext, run: RunContents) -> dict[str, Any]:
    """Return what a run's operating point was chosen by; a table of costs has no name any more."""
    point = read_operating_point(context.contents, run)
    if point is None:
        return {}
    if "threshold" in point:
        return {"positive": point["threshold"]["label"], f"min_{point['aim']}": point["minimum"]}
    return {"costs": "COSTS.csv"}


def _random(config: Mapping[str, Any]) -> bool:
    """Return whether a run began with random weights, as `--no-pretrained` asks for."""
    source = config.get("source")
    return isinstance(source, dict) and bool(source.get("random")) and "classes" not in source


def _when(run: RunContents) -> tuple[int, str]:
    """Return what puts runs in an order to make them again: parents first, then as they ended.

    The first one draws the split, by its seed.
    """
    parent = run.config.get("parent")
    return int(parent["epochs"]) if parent else 0, str((run.result or {}).get("ended", ""))


def _batch_size(run: RunContents) -> int | str:
    """Return the `batch_size` that a run was given; "auto" where the rule chose it."""
    config, plan = run.config, (run.result or {}).get("numeric_plan")
    batch = plan.get("batch") if isinstance(plan, dict) else None
    images = int(config.get("batch_size", BATCH))
    if config.get("parent"):  # which it has its batches from
        return AUTO_BATCH
    if batch is None:
        return AUTO_BATCH if images == BATCH or "lr_factor" in config else images
    return AUTO_BATCH if batch["auto"] else images


def _resize(config: dict[str, Any]) -> Any:
    """Return the `resize` option of a run; `None` where it was the backbone's default."""
    source = config.get("source")
    return source.get("resize") if isinstance(source, dict) else None


def _data_name(context: ReportContext) -> str:
    """Return the folder's name where its folders are the classes, else DATA: a table's name is not stored."""
    data = context.contents.data
    if data is None or data.root is None:
        return "DATA"
    by_name = "group_by" in data.reading and GroupBy(data.reading["group_by"]).column is None
    grouped = any(sample.group for sample in data.samples) and not by_name
    if grouped or {"path_column", "label_column"} & set(data.reading):  # a table
        return "DATA"
    if not all(sample.label in PurePath(sample.path).parts[:2] for sample in data.samples):
        return "DATA"
    return shlex.quote(visible(PurePath(data.root).name) + "/")


def _split_options(context: ReportContext) -> dict[str, Any]:
    """Return the options of the split, of reading the source and of rendering.

    The sizes of test and val are included where the source named no such subset.
    """
    data = context.contents.data
    if data is None or data.shares is None:
        return {}
    sizes = {
        f"{subset}_size": share
        for subset, share in zip(("test", "val"), data.shares, strict=True)
        if subset not in data.predefined
    }
    return {**sizes, **data.reading, **as_options(data.rendering)}


def _options(arguments: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    options = []
    for name in names:
        value = arguments.get(name)
        if value is None or value is False or value == DEFAULTS.get(name) or value in ([], ()):
            continue
        option = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif name == "hyperparameters":
            options += [f"--set {shlex.quote(f'{key}={entry}')}" for key, entry in value.items()]
        elif name == "search":
            options += [f"{option} {shlex.quote(str(entry))}" for entry in value]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else _short(value)
            options.append(f"{option} {shlex.quote(text)}")
    if arguments.get("deterministic"):
        options.append("--deterministic")
    return options


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _command(verb: str, data: str, options: list[str]) -> str:
    return " ".join([f"frostline {verb}", data, *options])


def _environment(folder: Any, context: ReportContext) -> list[tuple[str, str]]:
    from frostline.reports.study_reader import read_json_object

    environment = read_json_object(context.contents, folder / "environment.json")
    if environment is None:
        return []
    rows = [(name, str(version)) for name, version in environment["packages"].items()]
    return [
        ("python", str(environment["python"])),
        *rows,
        ("machine", f"{environment['system']}, {environment['machine']}"),
    ]
