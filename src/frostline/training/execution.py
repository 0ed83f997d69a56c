"""How a run is made: by one process, or by the processes of a job, the first of which writes it."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from frostline.config import FILE, write_yaml
from frostline.distributed import process_group
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, Frozen
from frostline.loggers import Loggers, OnEpochs
from frostline.models import training_overlap, weights_digest
from frostline.studies.operating_point import OperatingTarget
from frostline.studies.study_folder import (
    TEST_EVALUATIONS,
    RunFolder,
    Study,
    count_test_evaluation,
    digest_of,
    environment,
    plain,
)
from frostline.system import deadline, devices, directories, numerics
from frostline.system.timing import PeakMemory, Stopwatch, imported_baseline_bytes
from frostline.training import artifacts, numeric_plan, run_evaluation, threshold_choice
from frostline.training.caching import cache_planning
from frostline.training.loop import learner
from frostline.training.loop.solved_head import TrainedModel
from frostline.training.resilience import checkpoint, nan_oom_recovery, time_limit
from frostline.training.run_evaluation import EvaluationExtras
from frostline.training.run_result import Run
from frostline.training.train_request import Subsets, TrainRequest


def take_part(request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache) -> Run:
    """Make the run, alone or as one of the processes of a job."""
    process_group.demand_same(digest_of(request.identity()))
    if process_group.leads():
        return lead(request, study, loggers, cache)
    return _help(request, study, cache)


def study_of_request(request: TrainRequest, study: str | Path) -> Study:
    return Study.of(study, request.data)


def lead(request: TrainRequest, study: str | Path, loggers: Loggers, cache: FeatureCache) -> Run:
    """Make the run, or read it back; the other processes of a job, if there are any, help."""
    opened_study = study_of_request(request, study)
    folder = opened_study.run(request.identity())
    reused = folder.finished
    with loggers.follow(folder, request.identity()) as following:
        if not reused:
            request.data.keep_in(opened_study.path)
            with nan_oom_recovery.told_plainly(), folder.held():
                if not folder.finished:  # by another process, just now
                    process_group.decided(lambda: {"run": folder.name})
                    with cache_planning.opened(request.config.cache, cache) as opened:
                        _perform(request, opened_study, folder, following.epochs, opened)
        checkpoint.remove(folder.path)  # of a process that was killed between its result and this
        result = folder.read("result.json")
        following.end(folder.metrics(), result)
    evaluations = _test_evaluations(request)
    if evaluations is not None:
        with contextlib.suppress(OSError):  # a finished run can be read from a study that can't be written
            opened_study.write(TEST_EVALUATIONS, {"configurations": evaluations})
    replaced, point = threshold_choice.settle(folder.path, request.data, OperatingTarget.of(request.config))
    if reused and point is not None:
        with contextlib.suppress(OSError):
            _write_config(request, folder)
    figures = {
        **result,
        "test_evaluations": evaluations,
        **({} if point is None else {"operating_point": point.as_dict()}),
        **({} if replaced is None else {"replaced_rule": replaced}),
    }
    process_group.decided(lambda: {"result": plain(figures), "run": folder.name, "reused": reused})
    return Run(figures, folder, opened_study, reused, request.backbone)


def _help(request: TrainRequest, study: str | Path, cache: FeatureCache) -> Run:
    """Do this process's part of a run that the first process of the job makes; writes nothing."""
    opened_study = Study(study)
    shared = process_group.decided(dict)
    folder = RunFolder(opened_study.path / "runs" / shared["run"], writes=False)
    if "result" not in shared:
        with nan_oom_recovery.told_plainly(), cache_planning.opened(request.config.cache, cache) as opened:
            _work(request, folder, lambda rows: None, Stopwatch(), opened)
        shared = process_group.decided(dict)
    return Run(shared["result"], folder, opened_study, shared["reused"], request.backbone)


def _perform(
    request: TrainRequest, study: Study, folder: RunFolder, hear: OnEpochs, cache: FeatureCache | None
) -> None:
    """Do the run: plan, learn, choose, predict, and write the result last."""
    watch = Stopwatch()
    numerics.forget_device_peak()
    with PeakMemory(imported_baseline_bytes()) as memory:
        folder.write("environment.json", environment())
        folder.write("backbone.json", request.backbone.as_dict())
        _write_config(request, folder)
        outcome = _work(request, folder, hear, watch, cache)
    model, figures = outcome.adapted.model, outcome.adapted.figures
    directories.write_atomically(folder.weights, save(_plain_state(model), metadata={"format": "pt"}))
    training_overlap.inherited_fingerprints(request.backbone, request.data).write(folder.fingerprints)
    result = {
        "strategy": str(request.strategy),
        "model": request.backbone.name,
        **outcome.figures,
        "n_train": len(request.data.subset("train")),
        "n_val": len(request.data.subset("val")),
        "n_test": len(request.data.subset("test")),
        "seconds": watch.seconds + outcome.adapted.earlier_seconds,
        "peak_memory_bytes": memory.bytes,
        "peak_memory_exact": memory.exact,
        "device_peak_bytes": numerics.device_peak_bytes(),
        "world_size": process_group.size(),
        **figures,
        **outcome.about,
        "ended": datetime.now(UTC).isoformat(),
        "skipped": len(request.data.skipped),
        "learned_before": sum(sample.digest in request.data.learned for sample in request.data.samples),
        "weights_digest": weights_digest(model),
        "loads_in": _loads_in(request, figures["layers"]),
        "run": folder.name,
        "study": str(study.path),
        **({} if request.parent is None else {"parent": request.parent.as_dict()}),
    }
    plan = outcome.about["numeric_plan"]
    with devices.computing(plan["device"]), numerics.threads(plan["threads"]), deadline.lifted():
        result |= artifacts.leave(
            request, folder, model, figures["cut"], outcome.subsets, outcome.held_out, cache
        )
    folder.write("result.json", result)


def _write_config(request: TrainRequest, folder: RunFolder) -> None:
    """Write what repeats the run; no file can hold a callable."""
    if request.custom is not None or callable(request.config.metric) or not folder.writes:
        return
    options = {"strategy": str(request.strategy), **request.config.changed()}
    for name in ("device", "device_memory"):  # they are no part of what a run is
        options.pop(name, None)
    if request.parent is not None:
        options["continue"] = str(request.parent.folder.path)
        options["extra_epochs"], options["lr"] = request.parent.extra_epochs, request.parent.lr
    write_yaml(folder.path / FILE, {"model": request.backbone.name, **options})


@dataclass(frozen=True)
class _Outcome:
    """A model, its figures, and how it was outcome."""

    adapted: TrainedModel
    figures: dict[str, Any]
    about: dict[str, Any]
    subsets: Subsets
    held_out: EvaluationExtras


def _work(
    request: TrainRequest, folder: RunFolder, hear: OnEpochs, watch: Stopwatch, cache: FeatureCache | None
) -> _Outcome:
    """Do what all processes of a job have a part in."""
    plan, counts = numeric_plan.begin(request, folder), Counts()
    with (
        devices.computing(plan.numbers.device),
        numerics.threads(plan.numbers.threads),
        numerics.device_memory_bounded(request.config.device_memory),
    ):
        head = Frozen(
            request.backbone,
            request.backbone.model,
            request.backbone.cuts[-1],
            plan.forward_config,
            cache,
            counts,
        )
        policy, tests = numeric_plan.augmentation(request, head)
        subsets = request.subsets(policy)
        if not plan.whole:
            cache_planning.decide(request, plan, subsets.train, cache)
            folder.write("plan.json", plan.as_dict())
        time_left = time_limit.begin(request, watch)
        with deadline.lifted():  # from here on the budget keeps the limit
            adapted = learner.learn(request, folder, plan, head, subsets, watch, time_left, hear)
            figures, held_out = run_evaluation.predict_subsets(
                request, folder, adapted, subsets, cache, counts
            )
        workers = subsets.train.workers(request.config.workers)
        rates = subsets.train.rates + subsets.val.rates + subsets.test.rates
        decoding = {"workers": workers, "pixels": request.pixels, **rates.as_dict(workers)}
        if pace := adapted.figures.get("pace"):  # steps timed on the GPU, which the rates only see launched
            decoding["network_images_per_s"] = round(pace["step_images_per_s"], 1)
        elif starved := rates.starved(workers, plan.numbers.device):
            request.progress.log("  " + starved)
    rows = torch.tensor([counts.computed, counts.from_cache])
    process_group.add_up([rows])
    about = {
        "augment": policy.name,
        "flip": policy.flip,
        **tests,
        **({} if policy.rotate == "none" and "rotate_test" not in tests else {"rotate": policy.rotate}),
        "numeric_plan": plan.as_dict(),
        "decoding": decoding,
        "features": dict(zip(asdict(counts), rows.tolist(), strict=True)),
    }
    return _Outcome(adapted, figures, about, subsets, held_out)


def _loads_in(request: TrainRequest, layers: int | None) -> list[str]:
    """Return the libraries that load the run's weights without frostline's loader."""
    if request.strategy.head != "linear" or layers is not None:
        return []
    libraries = {"timm": ["timm", "transformers"], "hf": ["transformers"]}
    return libraries.get(str(request.backbone.source.get("kind")), [])


def _test_evaluations(request: TrainRequest) -> int | None:
    """How many configurations have looked at this test set by now; `None` where there is none."""
    if not request.data.subset("test"):
        return None
    return count_test_evaluation(request.data.test_digest, digest_of(request.identity()))


def _plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
