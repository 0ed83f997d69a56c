"""The last parts of the story: whether forecasts proved right, and how to use the model."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any

from frostline.data import as_options
from frostline.reports import chart_parts as b
from frostline.reports import charts as c
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import Found, duration
from frostline.reports.display_names import shortened, visible
from frostline.reports.section import Section
from frostline.reports.tried_strategies import of_network
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
    "batch_size": 32,
    "precision": "auto",
    "repeats": 3,
    "test_size": 0.2,
    "val_size": 0.2,
}
# Options of each verb that are written as they were asked for, where they differ from the default.
READING = ("split_names", "path_column", "label_column", "group_by")
FIT = (
    "minutes",
    *READING,
    "intensity_range",
    "alpha_background",
    "model",
    "models",
    "max_latency_ms",
    "max_size_mb",
    "architecture",
    "size",
    "resize",
    "strategies",
    "repeats",
    "seed",
    "metric",
    "augment",
    "min_crop",
    "rotate",
    "interpolate_weights",
    "precision",
)
COMPARE = (
    "minutes", "cuts", "model", "architecture", "size", "resize", "strategies", "repeats", "search", "draws",
    "seed", "metric", "augment", "min_crop", "rotate", "interpolate_weights", "precision",
    "test_size", "val_size", *READING, "intensity_range", "alpha_background",
)  # fmt: skip
TRAIN = (
    "strategy",
    *READING,
    "intensity_range",
    "alpha_background",
    "model",
    "size",
    "resize",
    "seed",
    "metric",
    "augment",
    "flip",
    "min_crop",
    "rotate",
    "imbalance",
    "batch_size",
    "views",
    "precision",
    "test_size",
    "val_size",
)


def foresight(found: Found) -> Section | None:
    """What was recommended, why, and whether it proved right; predicted against actual cost."""
    told, charts = found.told, []
    section = Section("foresight", "What was expected, and what came of it", "Forecast")
    if told.advice is not None:
        section.lead += [str(line) for line in told.advice["why"]]
        section.lead += _proved(found, told.advice)
        section.more = {
            "would_change": [str(line) for line in told.advice["would_change"]],
            "notes": [str(line) for line in told.advice["notes"]],
        }
        charts.append(_forecast_chart(found, told.advice))
    charts.append(_cost_chart(found))
    section.charts = [chart for chart in charts if chart is not None]
    return section if section.lead or section.charts else None


def _pairs(found: Found, advice: dict[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """Return each option that was run to its end, with its row."""
    mine = of_network(found.told, found.rows)
    rows = {row.strategy: row for row in reversed(mine) if row.whole and row.accuracy is not None}
    return [
        (option, rows[option["strategy"]])
        for option in advice["options"]
        if option["strategy"] in rows and option["expected_accuracy"] is not None
    ]


def _proved(found: Found, advice: dict[str, Any]) -> list[str]:
    pairs = _pairs(found, advice)
    if not pairs:
        return ["What was expected can't be held against a figure: none of it was raced to its end here."]
    inside = sum(option["low"] <= row.accuracy <= option["high"] for option, row in pairs)
    line = (
        f"{inside} of {len(pairs)} accuracies that were found lie within what was expected (an interval is "
        "to hold four in five)."
    )
    best = next((row for row in found.rows if row.winner), None)
    if best is None:
        return [line]
    if best.strategy == advice["recommended"]:
        word = "won" if best.whole else "leads, after its first runs"
        return [f"The recommended strategy, {best.strategy}, {word}.", line]
    return [f"Recommended was {advice['recommended']}; {best.strategy} was chosen.", line]


def _forecast_chart(found: Found, advice: dict[str, Any]) -> Chart | None:
    pairs = _pairs(found, advice)
    if not pairs:
        return None
    values, rows = [], []
    for option, row in pairs:
        name = shortened(row.strategy)
        low, high = (row.accuracy if end is None else end for end in (row.low, row.high))
        expected = (option["expected_accuracy"], option["low"], option["high"])
        for kind, (value, start, end) in (
            ("expected", expected),
            ("found", (row.accuracy, low, high)),
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
        "Accuracy: expected and found",
        "Grey is what experience on other image sets led to expect, with an 80 % interval; orange is what "
        "was found.",
        c.forecast(values, list(dict.fromkeys(value["name"] for value in values))),
        ("strategy", "expected (80 %)", "found (95 %)"),
        tuple(rows),
    )


def _cost_chart(found: Found) -> Chart | None:
    values = [
        {
            "name": shortened(row.title),
            "label": shortened(row.title, 24),
            "predicted": row.predicted_s,
            "side": "left",
            "taken": row.seconds,
        }
        for row in found.rows
        if row.predicted_s and row.seconds and row.whole
    ]
    if len(values) < 2:
        return None
    for value in values:
        value["side"] = b.side_of(float(value["predicted"]), [float(v["predicted"]) for v in values])  # type: ignore[arg-type]
    seconds = [float(value[key]) for value in values for key in ("predicted", "taken")]  # type: ignore[arg-type]
    return Chart(
        "costs",
        "Seconds: predicted and taken",
        "Below the dashed line a run took less than was predicted for it with nothing kept: frozen layers "
        "are computed once, so later runs find their rows in the store.",
        c.costs(values, (min(seconds) / 1.6, max(seconds) * 1.6)),
        ("strategy", "predicted", "taken"),
        tuple(
            (str(v["name"]), duration(float(v["predicted"])), duration(float(v["taken"])))  # type: ignore[arg-type]
            for v in values
        ),
    )


def use(found: Found) -> Section | None:
    """How to use the model, and the one command that repeats it all."""
    run = found.told.answering
    if run is None:
        return None
    study = found.told.path.name or "frostline-study"
    section = Section("use", "Use it, and repeat it", "Use it")
    section.lead.append(
        f"{visible(run.strategy)} answers: {found.told.why}. It is a plain PyTorch model; no part of "
        "frostline is needed to run it further."
    )
    if found.told.passed_over:
        section.lead.append(visible(passed_over_line(found.told.passed_over)))
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
            ("Take the model away, in timm's own format", f"frostline export {shlex.quote(study)}"),
            ("Repeat all of this", repeat(found)),
        ],
        "environment": _environment(run.folder, found),
    }
    return section


def repeat(found: Found) -> str:
    """Return the command that makes this study again; DATA stands for the images."""
    told = found.told
    race = told.comparison.result if told.comparison else None
    run = told.answering or next(iter(told.everyone))
    data = _data_name(found)
    if told.fit is not None and isinstance(told.fit.get("asked"), dict):
        source = told.fit["asked"].get("source")
        named = shlex.quote(visible(str(source))) if source else data
        return _command("fit", named, _asked({**told.fit["asked"], **_shares(found)}, FIT))
    if race is not None:
        names = dict.fromkeys(row["strategy"] for row in race["standings"])
        asked = {"strategies": list(names), **race.get("asked", {}), **_shares(found)}
        if asked.get("models"):  # `frostline compare` races one; several come from `fit`, or from Python
            return _command("fit", data, _asked(asked, FIT))
        if asked.get("cuts"):
            asked.pop("strategies")
        return _command("compare", data, _asked(asked, COMPARE))
    asked = {**run.config, "size": run.config["preprocessing"]["size"], "resize": _resize(run.config)}
    parted = _shares(found)
    lines = []
    for row in found.rows:
        mine = {**row.one.config, "resize": _resize(row.one.config)} if row.one else asked
        lines.append(
            _command("train", data, _asked({**asked, **mine, **parted, "strategy": row.strategy}, TRAIN))
        )
    return "\n".join(dict.fromkeys(lines))


def _resize(config: dict[str, Any]) -> Any:
    """Return how pictures were asked to become square; nothing where the backbone had it so."""
    source = config.get("source")
    return source.get("resize") if isinstance(source, dict) else None


def _data_name(found: Found) -> str:
    """The folder's name, where its folders are the classes; a table's name is not known."""
    data = found.told.data
    if data is None or data.root is None:
        return "DATA"
    by_name = "group_by" in data.reading and not data.reading["group_by"].startswith("column:")
    grouped = any(sample.group for sample in data.samples) and not by_name
    if grouped or {"path_column", "label_column"} & set(data.reading):  # a table
        return "DATA"
    if not all(sample.label in PurePath(sample.path).parts[:2] for sample in data.samples):
        return "DATA"
    return shlex.quote(visible(PurePath(data.root).name) + "/")


def _shares(found: Found) -> dict[str, Any]:
    """The shares of the images that were drawn for test and val, where the source named no such part.

    And what was said of how to read the source, and how images were said to be shown.
    """
    data = found.told.data
    if data is None or data.shares is None:
        return {}
    drawn = {
        f"{part}_size": share
        for part, share in zip(("test", "val"), data.shares, strict=True)
        if part not in data.given
    }
    return {**drawn, **data.reading, **as_options(data.rendering)}


def _asked(asked: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    words = []
    for name in names:
        value = asked.get(name)
        if value is None or value is False or value == DEFAULTS.get(name) or value in ([], ()):
            continue
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif name == "search":
            words += [f"{option} {shlex.quote(str(one))}" for one in value]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else _short(value)
            words.append(f"{option} {shlex.quote(text)}")
    if asked.get("deterministic"):
        words.append("--deterministic")
    return words


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _command(verb: str, data: str, words: list[str]) -> str:
    return " ".join([f"frostline {verb}", data, *words])


def _environment(folder: Any, found: Found) -> list[tuple[str, str]]:
    from frostline.reports.study_reader import object_of

    known = object_of(found.told, folder / "environment.json")
    if known is None:
        return []
    rows = [(name, str(version)) for name, version in known["packages"].items()]
    return [("python", str(known["python"])), *rows, ("machine", f"{known['system']}, {known['machine']}")]
