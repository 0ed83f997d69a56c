"""`train`: one strategy, one run, from labelled images to a model and its figures in a study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from torch import nn

from frostline.config import Config, Options
from frostline.data import Manifest, demand_manifest
from frostline.distributed import process_group
from frostline.distributed.torchrun_env import demand_alone
from frostline.errors import UsageError, option
from frostline.feature_cache import FeatureCache
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, demand_backbone, training_overlap
from frostline.progress import OnLine, OnProgress, Progress
from frostline.strategies import (
    Strategy,
    builds_on_pretrained,
    hyperparameters,
    loader_line,
    overridden,
    read_strategy,
    timm_loadable,
)
from frostline.strategies.overrides import unused_options
from frostline.studies.study_folder import (
    RunFolder,
    Study,
)
from frostline.system import deadline, devices, timing
from frostline.system.timing import Stopwatch
from frostline.training import batch_choice, continuation, ray_training, threshold_choice
from frostline.training.continuation import Parent
from frostline.training.execution import lead, study_of_request, take_part
from frostline.training.run_result import Run
from frostline.training.train_request import TrainRequest

DEFAULT_STUDY = "frostline-study"


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
    images stay in the test set.

    Parameters
    ----------
    backbone
        From `load_backbone`.
    data
        From `load_data`; the subsets train, val and test.
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
    The weights are the best on val as ever, with `keep` "last" those of the epoch in which it stopped; the
    schedule of learning rates is that of all the epochs. Refused without a val set, and for a head that is
    solved for.

    With `continue_from`, weights and split are the parent's: its test images stay test images, and images or
    subsets that differ are refused. So are options that contradict it; `minutes`, `patience`, `stop_after`,
    `keep`, `views`, `temperature`, `interpolate_weights` and what computes are free. All stages that learned
    in any of its phases learn in one phase, with fresh moments, by the strategy's warm-up and schedule; the
    peak at the head is `lr`, else half that of the parent's last phase. `backbone` is the one that the parent
    began with.
    A head that is solved for has no epochs, and is refused. A run that was interrupted is no parent: the same
    call resumes it.

    With `keep` "last", nothing was chosen on val, and its figures are those of images not seen before.

    `interpolate_weights` "auto" takes the best of six points on val; BatchNorm's statistics are re-estimated
    at each, which costs a pass over the training images. The result's `interpolation` says which was taken.

    In the processes that torchrun (or `accelerate launch`) starts, all call this and make one run together,
    of the same batches: the first one writes it, and all return it.
    """
    demand_backbone(backbone)
    demand_manifest(data)
    timing.prepare_process()
    cache, progress = feature_cache or FeatureCache(), Progress.of(progress, log)
    watch, chosen = watch or Stopwatch(), Config.of(config, options, without=("repeats",))
    backbone = backbone.resized(chosen.resize)
    if strategy is not None:
        strategy = read_strategy(strategy)
    parent, before = None, _before(continue_from, extra_epochs)
    if before is not None:
        strategy, chosen, lr = continuation.inherited(before, strategy, config, options)
        continuation.demand_same_backbone(before, backbone)
        parent, study = Parent.of(before, backbone, extra_epochs or 0, lr), _study_of(before, study)
    elif strategy is None:
        raise UsageError(
            f"Name a strategy, such as top_k(2), or a finished run with {option('continue_from')}."
        )
    else:
        (strategy,) = overridden([strategy], chosen.of_strategy).strategies
    chosen = chosen.without_strategy
    with process_group.together(), deadline.within(chosen.minutes, watch):
        data = _prepared(backbone, data, study, deadline.telling(progress, deadline.READING))
        request = TrainRequest(
            backbone=backbone,
            data=data if before is None else continuation.in_its_subsets(before, data),
            strategy=timm_loadable(strategy) if chosen.plain_timm else strategy,
            config=chosen,
            progress=progress,
            since=watch,
            parent=parent,
        )
        request.check()
        if feature_cache is None:  # else a comparison's run, whose options are for all of its strategies
            for unused in unused_options(chosen.changed(), [request.strategy]).values():
                progress.log(unused.finding)
            if line := loader_line([request.strategy], [str(backbone.source.get("kind"))]):
                progress.log(line)
        if parent is not None:
            progress.log(parent.sentence(request.strategy, backbone))
        request = batch_choice.settled(request, study)
        for line in _random_weights_lines(request):
            progress.log(line)
        if ray is not None:
            demand_alone("train --ray")
            return _in_ray(request, study, make_loggers(logger, study), cache, ray)
        loggers = make_loggers(logger if process_group.leads() else None, study)
        run = take_part(request, study, loggers, cache)
        if feature_cache is None:
            by_rule = run.operating_point is not None
            threshold_choice.tell_of_change(run.folder.name, run.replaced_rule, by_rule=by_rule)
        return run


def _before(continue_from: Run | str | Path | None, extra_epochs: int | None) -> RunFolder | None:
    """Return the folder of the run to continue from; `None` where none is asked for."""
    if continue_from is None:
        if extra_epochs is not None:
            raise UsageError(
                f"{option('extra_epochs')} is how long {option('continue_from')} trains: name a finished run "
                "with it."
            )
        return None
    if extra_epochs is None:
        raise UsageError(
            f"{option('continue_from')} trains for {option('extra_epochs')}: give a number of them, such "
            "as 10."
        )
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
    folder = Study(study)
    with process_group.in_turn():
        return training_overlap.keep_learned_in_train(
            [backbone], data.checked(progress).recalled(folder.path), folder
        )


def _in_ray(
    request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache, address: str
) -> Run:
    """Let a cluster make the run, unless it is finished; then read it back."""
    opened_study = study_of_request(request, study)
    reused = opened_study.run(request.identity()).finished
    if not reused:
        ray_training.train(request, opened_study.path, partial(_process, cache), address)
    return replace(lead(request, study, loggers, cache), reused=reused)


def _process(cache: FeatureCache, request: TrainRequest, study: str) -> None:
    """Be one process of a job on a cluster."""
    with devices.computing(request.config.device), process_group.together():
        take_part(request, study, make_loggers(None, study), cache)
