"""`train`: one strategy, one run, from labelled images to a model and its figures in a study."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import save
from torch import nn

from frostline import sentences
from frostline.config import FILE, Config, Options, write_yaml
from frostline.data import Manifest, prediction_inputs
from frostline.distributed import process_group
from frostline.distributed.torchrun_env import demand_alone
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, Frozen
from frostline.inference import selective_prediction, test_time_augmentation
from frostline.inference.prediction import (
    Predictions,
    Predictor,
    check_confidence,
    check_views,
    decided_by,
    predict_rows,
)
from frostline.loggers import Loggers, OnEpochs, make_loggers
from frostline.models import Backbone, leakage, weights_digest
from frostline.progress import OnLine, OnProgress, Progress
from frostline.reports import notebook
from frostline.reports.classification import Confusion, KeptPredictions, classification_report
from frostline.strategies import (
    Strategy,
    builds_on_pretrained,
    checked,
    hyperparameters,
    overridden,
    parse,
    timm_loadable,
)
from frostline.studies.operating_point import OperatingTarget
from frostline.studies.result_fields import AccuracyFigures, Figure, ProbabilityFigures
from frostline.studies.study_folder import (
    LOOKS,
    RunFolder,
    Study,
    digest_of,
    environment,
    look_at_test,
    plain,
)
from frostline.system import deadline, devices, directories, numerics, timing
from frostline.system.timing import PeakMemory, Stopwatch, imported_baseline_bytes
from frostline.training import artifacts, continuation, evaluation, numeric_plan, operating, ray_training
from frostline.training.caching import cache_planning
from frostline.training.continuation import Parent
from frostline.training.evaluation import HeldOut
from frostline.training.loop import learner
from frostline.training.request import Parts, TrainRequest
from frostline.training.resilience import checkpoint, nan_oom_recovery, time_limit

DEFAULT_STUDY = "frostline-study"


@dataclass(frozen=True)
class Run(AccuracyFigures, ProbabilityFigures):
    """A finished run: its figures, and where it lies."""

    result: dict[str, Any]
    folder: RunFolder
    study: Study
    again: bool = False  # it had been finished before, and was read back
    backbone: Backbone | None = field(default=None, repr=False, compare=False)  # where it is at hand

    run = Figure[str]("The name of its folder in runs/.")
    strategy = Figure[str]("The strategy in its notation.")
    model = Figure[str]("The backbone's name.")
    accuracy = Figure[float | None]("Share of test images predicted correctly, 0–1; None without any.")
    macro_f1 = Figure[float | None]("Mean F1 over classes.")
    auroc = Figure[float | None]("Mean one-against-rest area under the ROC curve.")
    per_class = Figure[dict[str, Any] | None]("Precision, recall and counts of each class.")
    val_accuracy = Figure[float | None]("Share of val images predicted correctly, 0–1.")
    val_goodness = Figure[float | None]("The metric on val, higher is better.")
    cv_score = Figure[float | None]("A probe's metric on images held out by its folds, higher is better.")
    cv_images = Figure[int | None]("How many images those were.")
    l2 = Figure[float | None]("A probe's L2 penalty.")
    temperature = Figure[float]("What logits are divided by.")
    n_train = Figure[int]("Training images.")
    n_val = Figure[int]("Val images.")
    n_test = Figure[int]("Test images.")
    seconds = Figure[float]("Wall time of the run, those of resumed processes included.")
    peak_memory_bytes = Figure[int]("Most memory held, above the imports.")
    peak_memory_exact = Figure[bool]("False where it was sampled.")
    device_peak_bytes = Figure[int | None]("Most memory held on a GPU.")
    world_size = Figure[int]("Processes that made the run.")
    trainable_parameters = Figure[int]("Parameters that learned in any phase.")
    cut = Figure[str]("The earliest stage that learned.")
    loads_in = Figure[list[str]]("Libraries that load the weights without a loader of frostline's.")
    layers = Figure[int | None]("Of a solved head: stages that it reads, null for the last alone.")
    steps = Figure[int]("Optimizer steps done.")
    steps_planned = Figure[int]("Optimizer steps of the whole schedule.")
    stopped = Figure[str | None]('"minutes" where the time was up first.')
    early_stopping = Figure[dict[str, Any] | None](
        "Of `patience`: it, epochs done, and epochs_saved and seconds_saved (0 where it stopped nothing)."
    )
    parent = Figure[dict[str, Any] | None](
        "The run that this one continued from, its epochs, extra_epochs and the peak lr; None without."
    )
    best_epoch = Figure[int | None]("The epoch whose weights were kept, from 1.")
    notes = Figure[list[str]]("What went wrong on the way.")
    augment = Figure[str]("The augmentation.")
    flip = Figure[str]("Flips: none, horizontal or both.")
    flip_test = Figure[dict[str, Any] | None]("What the images said about flips.")
    rotate = Figure[str | None]("Rotation, where it was asked for.")
    rotate_test = Figure[dict[str, Any] | None]("What the images said about rotation.")
    decoding = Figure[dict[str, Any]](
        "Threads that decoded images ahead, and the pixels of training images and folds: reference or fast."
    )
    numeric_plan = Figure[dict[str, Any]]("Device, threads, precision, memory format, and what was cached.")
    store = Figure[dict[str, int]]("Features of frozen layers: rows_computed and rows_read.")
    interpolation = Figure[dict[str, Any] | None]("How far back to the pretrained weights, and the points.")
    ended = Figure[str]("When, ISO 8601 in UTC.")
    set_aside = Figure[int]("Images that were skipped.")
    learned_before = Figure[int]("Images that the backbone had learned from before.")
    weights_digest = Figure[str]("SHA-256 of the weights.")
    drift = Figure[dict[str, Any] | None]("How far features moved.")
    forgetting = Figure[dict[str, Any] | None]("What was forgotten of the source data.")
    test_looks = Figure[int | None]("Configurations that have read this test part.")
    operating_point = Figure[dict[str, Any] | None](
        "How it decides, where one was asked for: what it promises."
    )

    @devices.computes(float32=True)
    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        target_accuracy: float | None = None,
        min_confidence: float | None = None,
        all_probabilities: bool = False,
        tta: str = "none",
        path_column: str | None = None,
        device: str = "auto",
        progress: OnProgress | None = None,
    ) -> Predictions:
        """Label images with this run.

        `images` is a path (a file, a folder, a CSV with a column `path`), a PIL image, an array (H, W) or
        (H, W, 3), uint8 or floats in 0–1, or several of these; the rest is as in `frostline.predict`.
        The model is kept in memory for the next call. Raises `StudyError`, `UsageError` or `DataError`.
        """
        check_confidence(min_confidence)
        check_views(tta, target_accuracy)
        doubts = (
            None
            if target_accuracy is None
            else selective_prediction.doubts(self.folder.path, target_accuracy)
        )
        predicted = predict_rows(
            self.predictor,
            prediction_inputs(images, path_column),
            top=top,
            doubts=doubts,
            min_confidence=min_confidence,
            all_probabilities=all_probabilities,
            tta=tta,
            progress=Progress.of(progress),
        )
        return Predictions(
            predicted.rows,
            predicted.unreadable,
            self.folder.name,
            "as asked for",
            self.strategy,
            doubts,
            tuple(self.predictor.classes),
            notes=(*predicted.notes, *test_time_augmentation.note(tta, self.flip)),
            min_confidence=min_confidence,
            probabilities=predicted.probabilities,
            decided_by=decided_by(self.folder.path, self.predictor),
        )

    @property
    def confusion(self) -> Confusion:
        """What was predicted as what on the test part, else on val (`basis` says which).

        Raises `UsageError` where the run had neither.
        """
        kept = KeptPredictions.of_run(self.folder.path)
        return Confusion.of(kept.classes, kept.targets, kept.predicted, kept.basis)

    def classification_report(self, *, output_dict: bool = False) -> Any:
        """Return scikit-learn's classification report of the images that `confusion` counts: text or dict.

        Raises `UsageError` where the run had neither a test nor a val part.
        """
        kept = KeptPredictions.of_run(self.folder.path)
        return classification_report(kept.classes, kept.targets, kept.predicted, output_dict)

    @cached_property
    def predictor(self) -> Predictor:
        """The model, kept in memory for the next call."""
        return Predictor.of_run(self.folder, backbone=self.backbone)

    def __repr__(self) -> str:
        """One line: what was trained, how good it is, and where it lies."""
        worth = sentences.short(self.result["accuracy"], self.result["low"], self.result["high"], "on test")
        if self.result["accuracy"] is None and self.result["val_accuracy"] is not None:
            worth = f"{sentences.percent(self.result['val_accuracy'])} on val, which chose"
        name = f"{self.result['strategy']} on {self.result['model']}"
        return f"<Run {self.folder.name}: {name}, {worth}; in {self.folder.path}>"

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("strategy", "model", "accuracy", "low", "high", "val_accuracy", "seconds", "run")
        return notebook.table_html("Run", [{key: self.result.get(key) for key in shown}])

    def to_pandas(self) -> Any:
        """The epochs, a row each. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.folder.metrics())

    def plot(self) -> notebook.Plot:
        """Draw the loss, epoch by epoch."""
        return notebook.epochs_plot(self.folder.metrics())


@devices.computes()
def train(
    backbone: Backbone,
    data: Manifest,
    strategy: Strategy | str | None = None,
    *,
    continue_from: Run | str | Path | None = None,
    extra_epochs: int | None = None,
    study: str | Path = DEFAULT_STUDY,
    config: Config | None = None,
    logger: str | Iterable[str] | Loggers | None = None,
    ray: str | None = None,
    watch: Stopwatch | None = None,
    feature_cache: FeatureCache | None = None,
    progress: OnProgress | None = None,
    log: OnLine | None = None,
    **options: Unpack[Options],
) -> Run:
    """Adapt `backbone` to `data` by one strategy, and keep the result in the study.

    A run that is finished is read back; an unfinished one is resumed. A backbone that was adapted before
    knows which images it learned from: those of `data` train it again and are never held out, and its test
    images stay in the test part.

    Parameters
    ----------
    backbone
        From `load_backbone`.
    data
        From `load_data`; the parts train, val and test.
    strategy
        A notation such as ``"top_k(2, lr=0.0005)"``, or a `Strategy`. None: that of `continue_from`.
    continue_from
        A finished run, or its folder, to train on from, for `extra_epochs`. That is a new run in the same
        study, which names its parent.
    extra_epochs
        Epochs of its schedule.
    study
        The folder that keeps the run; made if it is not there.
    config
        Options as a `Config`; default: every default. The run's folder holds one that repeats it
        (``config.yaml``).
    logger
        "tensorboard", "mlflow", "wandb", or several: they follow the run, which changes neither it nor its
        result. A run that was finished without one is handed over as a whole.
    ray
        Address of a Ray cluster ("auto": one that runs, else one on this machine). Its workers, which see the
        same folders, are the processes of one run: one a GPU, or for each `threads` cores, or a machine.
    watch
        When the minutes began; default: with this call.
    feature_cache
        Where features of frozen layers are kept; default: the one of this machine.
    progress
        Called with (what, done, total).
    log
        Called with a line for a person after each epoch: loss, metric on val, highest learning rate of the
        last step, seconds, and the time left; not with `ray`. None leaves lines to `progress`, where that is
        a `Progress`.
    **options
        Fields of `Config` by name, which override those of `config`. Hyperparameters among them (`epochs`,
        `lr`, …) are the same as in the strategy's brackets, and make the same run.

    Returns
    -------
    Run
        Figures (rates are fractions 0–1, times seconds), and where the run lies.

    Raises
    ------
    UsageError, DataError, ModelError, StudyError, TrainingError

    Notes
    -----
    With `minutes`, training stops while there is time left for the final figures, with the best weights on
    val so far, or else the last ones: `stopped` is then "minutes", and `steps` is below `steps_planned`. What
    comes before the first step, and a head that is solved for, is not cut short: where it doesn't fit, that
    is refused in time, and the features computed so far are kept.

    With `patience` N, training stops after N epochs in a row of the last phase in which the metric on val was
    not above its best so far (in any phase; an equal value is no progress): earlier phases run to their end.
    The weights are the best on val as ever, and the schedule of learning rates is that of all the epochs.
    Refused without a val part, with `keep` "last", and for a head that is solved for.

    With `continue_from`, weights and split are the parent's: its test images stay test images, and images or
    parts that differ are refused. So are options that contradict it; `minutes`, `patience`, `keep`, `views`,
    `temperature`, `interpolate_weights` and what computes are free. All stages that learned in any of its
    phases learn in one phase, with fresh moments, by the strategy's warm-up and schedule; the peak at the
    head is `lr`, else half that of the parent's last phase. `backbone` is the one that the parent began with.
    A head that is solved for has no epochs, and is refused. A run that was interrupted is no parent: the same
    call resumes it.

    With `keep` "last", nothing was chosen on val, and its figures are those of images not seen before.

    `interpolate_weights` "auto" takes the best of six points on val; BatchNorm's statistics are re-estimated
    at each, which costs a pass over the training images. The result's `interpolation` says which was taken.

    In the processes that torchrun (or `accelerate launch`) starts, all call this and make one run together,
    of the same batches: the first one writes it, and all return it.
    """
    timing.prepare_process()
    cache, progress = feature_cache or FeatureCache(), Progress.of(progress, log)
    watch, chosen = watch or Stopwatch(), Config.of(config, options, without=("repeats",))
    backbone = backbone.resized(chosen.resize)
    strategy = parse(strategy) if isinstance(strategy, str) else strategy and checked(strategy)
    parent, before = None, _before(continue_from, extra_epochs)
    if before is not None:
        strategy, chosen, lr = continuation.inherited(before, strategy, config, options)
        continuation.demand_same_backbone(before, backbone)
        parent, study = Parent.of(before, backbone, extra_epochs or 0, lr), _study_of(before, study)
    elif strategy is None:
        raise UsageError("Name a strategy, such as top_k(2), or a finished run with continue_from.")
    else:
        (strategy,) = overridden([strategy], chosen.of_strategy).strategies
    chosen = chosen.without_strategy
    with process_group.together(), deadline.within(chosen.minutes, watch):
        data = _prepared(backbone, data, study, deadline.telling(progress, deadline.READING))
        request = TrainRequest(
            backbone=backbone,
            data=data if before is None else continuation.in_its_parts(before, data),
            strategy=timm_loadable(strategy) if chosen.plain_timm else strategy,
            config=chosen,
            progress=progress,
            since=watch,
            parent=parent,
        )
        request.check()
        for line in _random_weights_lines(request):
            progress.log(line)
        if ray is not None:
            demand_alone("train --ray")
            return _in_ray(request, study, make_loggers(logger, study), cache, ray)
        loggers = make_loggers(logger if process_group.leads() else None, study)
        return _take_part(request, study, loggers, cache)


def _before(continue_from: Run | str | Path | None, extra_epochs: int | None) -> RunFolder | None:
    """Return the folder of the run to continue from; `None` where none is asked for."""
    if continue_from is None:
        if extra_epochs is not None:
            raise UsageError("extra_epochs is how long continue_from goes on: name a finished run with it.")
        return None
    if extra_epochs is None:
        raise UsageError("continue_from goes on for extra_epochs: give a number of them, such as 10.")
    if isinstance(continue_from, Run):
        return continue_from.folder
    return continuation.run_folder(continue_from)


def _study_of(before: RunFolder, study: str | Path) -> Path:
    """Return the study of the run to continue from. Raises `UsageError` where another one is named."""
    own = before.study
    if str(study) != DEFAULT_STUDY and Path(study).resolve() not in (
        own.resolve(),
        continuation.outer_study(before).resolve(),
    ):
        raise UsageError(
            f"Run {before.name} is in the study {own}, where a run that continues from it goes, too: leave "
            f"{study} out."
        )
    return own


def _random_weights_lines(request: TrainRequest) -> list[str]:
    """Return what to know of a strategy for pretrained weights, where the backbone's are random."""
    strategy, backbone = request.strategy, request.backbone
    if not backbone.has_random_weights or not strategy.pretrained:
        return []
    if builds_on_pretrained(strategy):
        line = (
            f"{backbone.name} has random weights here, and {strategy} freezes layers or starts from their "
            "features: random ones carry no knowledge. scratch and full train all of them."
        )
        return [line]
    still = hyperparameters(strategy).bn in ("eval", "affine")
    if still and any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in backbone.model.modules()
    ):
        line = (
            f"{backbone.name} has random weights here, and {strategy} leaves BatchNorm's statistics as they "
            "are, which are of no images: scratch, or bn=train, trains with those of each batch."
        )
        return [line]
    return []


def _prepared(backbone: Backbone, data: Manifest, study: str | Path, progress: Progress) -> Manifest:
    """Return the images without damaged ones, none held out that the backbone learned from before.

    Processes of one job don't all decode them.
    """
    with process_group.in_turn():
        return leakage.keep_learned_in_train(
            [backbone], data.checked(progress).recalled(Path(study)), Study(study)
        )


def _in_ray(
    request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache, address: str
) -> Run:
    """Let a cluster make the run, unless it is finished; then read it back."""
    opened_study = _study(request, study)
    again = opened_study.run(request.identity()).finished
    if not again:
        ray_training.train(request, opened_study.path, partial(_process, cache), address)
    return replace(_lead(request, study, loggers, cache), again=again)


def _process(cache: FeatureCache, request: TrainRequest, study: str) -> None:
    """Be one process of a job on a cluster."""
    with devices.computing(request.config.device), process_group.together():
        _take_part(request, study, make_loggers(None, study), cache)


def _take_part(request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache) -> Run:
    """Make the run, alone or as one of the processes of a job."""
    process_group.demand_same(digest_of(request.identity()))
    if process_group.leads():
        return _lead(request, study, loggers, cache)
    return _help(request, study, cache)


def _study(request: TrainRequest, study: str | Path) -> Study:
    return Study.open(
        study,
        data=request.data.digest,
        split=request.data.split_digest,
        test=request.data.test_digest,
    )


def _lead(request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache) -> Run:
    """Make the run, or read it back; the other processes of a job, if there are any, help."""
    opened_study = _study(request, study)
    folder = opened_study.run(request.identity())
    again = folder.finished
    with loggers.follow(folder, request.identity()) as following:
        if not again:
            request.data.keep_in(opened_study.path)
            with nan_oom_recovery.told_plainly(), folder.held():
                if not folder.finished:  # by another process, just now
                    process_group.decided(lambda: {"run": folder.name})
                    with cache_planning.opened(request.config.cache, cache) as store:
                        _perform(request, opened_study, folder, following.epochs, store)
        checkpoint.remove(folder.path)  # of a process that was killed between its result and this
        result = folder.read("result.json")
        following.end(folder.metrics(), result)
    looks = _looks(request)
    if looks is not None:
        with contextlib.suppress(OSError):  # a finished run can be read from a study that can't be written
            opened_study.write(LOOKS, {"configurations": looks})
    point = operating.settle(folder.path, request.data, OperatingTarget.of(request.config))
    if again and point is not None:
        with contextlib.suppress(OSError):
            _write_config(request, folder)
    figures = {
        **result,
        "test_looks": looks,
        **({} if point is None else {"operating_point": point.as_dict()}),
    }
    process_group.decided(lambda: {"result": plain(figures), "run": folder.name, "again": again})
    return Run(figures, folder, opened_study, again, request.backbone)


def _help(request: TrainRequest, study: str | Path, cache: FeatureCache) -> Run:
    """Do this process's part of a run that the first process of the job makes; writes nothing."""
    opened_study = Study(study)
    shared = process_group.decided(dict)
    folder = RunFolder(opened_study.path / "runs" / shared["run"], writes=False)
    if "result" not in shared:
        with nan_oom_recovery.told_plainly(), cache_planning.opened(request.config.cache, cache) as store:
            _work(request, folder, lambda rows: None, Stopwatch(), store)
        shared = process_group.decided(dict)
    return Run(shared["result"], folder, opened_study, shared["again"], request.backbone)


def _perform(
    request: TrainRequest, study: Study, folder: RunFolder, hear: OnEpochs, store: FeatureCache | None
) -> None:
    """Do the run: plan, learn, choose, predict, and write the result last."""
    watch = Stopwatch()
    numerics.forget_device_peak()
    with PeakMemory(imported_baseline_bytes()) as memory:
        folder.write("environment.json", environment())
        folder.write("backbone.json", request.backbone.as_dict())
        _write_config(request, folder)
        made = _work(request, folder, hear, watch, store)
    model, chosen, about = made.model, made.chosen, made.about
    directories.write_atomically(folder.weights, save(_plain_state(model), metadata={"format": "pt"}))
    leakage.inherited_fingerprints(request.backbone, request.data).write(folder.fingerprints)
    result = {
        "strategy": str(request.strategy),
        "model": request.backbone.name,
        **made.figures,
        "n_train": len(request.data.part("train")),
        "n_val": len(request.data.part("val")),
        "n_test": len(request.data.part("test")),
        "seconds": watch.seconds + chosen.pop("earlier_seconds", 0.0),
        "peak_memory_bytes": memory.bytes,
        "peak_memory_exact": memory.exact,
        "device_peak_bytes": numerics.device_peak_bytes(),
        "world_size": process_group.size(),
        **chosen,
        **about,
        "ended": datetime.now(UTC).isoformat(),
        "set_aside": len(request.data.set_aside),
        "learned_before": sum(sample.digest in request.data.learned for sample in request.data.samples),
        "weights_digest": weights_digest(model),
        "loads_in": _loads_in(request, chosen.get("layers")),
        "run": folder.name,
        "study": str(study.path),
        **({} if request.parent is None else {"parent": request.parent.as_dict()}),
    }
    plan = about["numeric_plan"]
    with devices.computing(plan["device"]), numerics.threads(plan["threads"]), deadline.lifted():
        result |= artifacts.leave(request, folder, model, result["cut"], made.parts, made.held_out, store)
    folder.write("result.json", result)


def _write_config(request: TrainRequest, folder: RunFolder) -> None:
    """Write what repeats the run; no file can hold a callable."""
    if request.custom is not None or callable(request.config.metric) or not folder.writes:
        return
    options = {"strategy": str(request.strategy), **request.config.changed()}
    options.pop("device", None)  # it is no part of what a run is
    if request.parent is not None:
        options["continue"] = str(request.parent.folder.path)
        options["extra_epochs"], options["lr"] = request.parent.extra_epochs, request.parent.lr
    write_yaml(folder.path / FILE, {"model": request.backbone.name, **options})


@dataclass(frozen=True)
class _Made:
    """A model, its figures, what was chosen on the way, and how it was done."""

    model: nn.Module
    figures: dict[str, Any]
    chosen: dict[str, Any]
    about: dict[str, Any]
    parts: Parts
    held_out: HeldOut


def _work(
    request: TrainRequest, folder: RunFolder, hear: OnEpochs, watch: Stopwatch, store: FeatureCache | None
) -> _Made:
    """Do what all processes of a job have a part in."""
    plan, counts = numeric_plan.begin(request, folder), Counts()
    with devices.computing(plan.numbers.device), numerics.threads(plan.numbers.threads):
        head = Frozen(
            request.backbone, request.backbone.model, request.backbone.cuts[-1], plan.way, store, counts
        )
        policy, tests = numeric_plan.augmentation(request, head)
        parts = request.parts(policy)
        if not plan.whole:
            cache_planning.decide(request, plan, parts.train, store)
            folder.write("plan.json", plan.as_dict())
        time_left = time_limit.begin(request, watch)
        with deadline.lifted():  # from here on the budget keeps the limit
            model, chosen = learner.learn(request, folder, plan, head, parts, watch, time_left, hear)
            figures, held_out = evaluation.predict_parts(request, folder, model, chosen, parts, store, counts)
        decoding = {"workers": parts.train.workers(request.config.workers), "pixels": request.pixels}
    rows = torch.tensor([counts.rows_computed, counts.rows_read])
    process_group.add_up([rows])
    about = {
        "augment": policy.name,
        "flip": policy.flip,
        **tests,
        **({} if policy.rotate == "none" and "rotate_test" not in tests else {"rotate": policy.rotate}),
        "numeric_plan": plan.as_dict(),
        "decoding": decoding,
        "store": dict(zip(asdict(counts), rows.tolist(), strict=True)),
    }
    return _Made(model, figures, chosen, about, parts, held_out)


def _loads_in(request: TrainRequest, layers: int | None) -> list[str]:
    """Return the libraries that load the run's weights without frostline's loader."""
    if request.strategy.head != "linear" or layers is not None:
        return []
    libraries = {"timm": ["timm", "transformers"], "hf": ["transformers"]}
    return libraries.get(str(request.backbone.source.get("kind")), [])


def _looks(request: TrainRequest) -> int | None:
    """How many configurations have looked at this test part by now; `None` where there is none."""
    if not request.data.part("test"):
        return None
    return look_at_test(request.data.test_digest, digest_of(request.identity()))


def _plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
