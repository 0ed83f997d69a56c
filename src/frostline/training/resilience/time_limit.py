"""A hard limit on a run's wall time: training stops while there is still time to say what was learned.

What must come after training is kept free: the final figures of val and test, what the model may doubt its
answers by, and the files, from timings of this machine. The limit is from start to exit: time that processes
killed before have spent counts, and so does what came before the run, where `TrainRequest.since` says when.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from frostline import profiling
from frostline.cost.run_time import DRIFT_IMAGES
from frostline.data import Manifest, Sample
from frostline.distributed import process_group
from frostline.errors import UsageError
from frostline.feature_extraction.image_batches import evaluation_batch
from frostline.inference import error_gallery, selective_prediction
from frostline.models import Backbone
from frostline.progress import Progress
from frostline.strategies import hyperparameters
from frostline.system import deadline
from frostline.system.deadline import MARGIN, refusal
from frostline.system.timing import Stopwatch
from frostline.training.techniques.wise_ft import POINTS
from frostline.training.train_request import TrainRequest

TIMED_IMAGES = 8  # images decoded to measure how long that takes
# Weights, tables and thumbnails (0.1 to 0.3 s for lite0 on a local disk), then the end of the process (0.5 s
# on one core of a busy machine).
ENDING_S = 1.0
BEFORE_STEPS = "loading, features of the frozen layers and the final figures"
DOUBT_SHARE = 0.1  # of the limit may go into what answers are doubted by: a choice


class OutOfTime(Exception):
    """Raised between two steps when the time is up; never seen outside of training."""


class TimeLimit:
    """What is left of a run's time. Without a limit nothing is measured and nothing stops."""

    def __init__(self, limit_s: float | None, reserve_s: float, watch: Stopwatch) -> None:
        self._end_s = None if limit_s is None else limit_s - reserve_s
        self._reserve_s = reserve_s
        self._watch = watch
        self._longest: dict[str, float] = {}  # seconds of the longest one of each kind of work
        self.earlier_s = 0.0  # spent by processes that were stopped

    def note(self, kind: str, began: float) -> None:
        """Note that a piece of work is done which began then (`time.perf_counter()`)."""
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.perf_counter() - began)

    def late(self, kind: str) -> bool:
        """Whether no piece of work as long as the longest of its kind fits in any more."""
        if self._end_s is None:
            return False
        return self.earlier_s + self._watch.seconds + self._longest.get(kind, 0.0) > self._end_s

    def check(self, kind: str) -> None:
        """Raise `OutOfTime` where it is late, in all processes of a job if it is in one."""
        if self._end_s is not None and any(process_group.any_of(self.late(kind))):
            raise OutOfTime

    @contextmanager
    def before_steps(self, progress: Progress) -> Iterator[Progress]:
        """Let what must be done before a first step, such as solving for the head, look at the clock.

        Yields a `progress` that does, too. Where the work doesn't fit, `NoTime` is raised, since there is no
        model yet. In a job of several processes nothing looks at a clock: all must leave at one place.
        """
        if self._end_s is None or process_group.size() > 1:
            yield progress
            return
        minutes = (self._end_s + self._reserve_s) / 60.0
        with deadline.within(minutes, self._watch, self._reserve_s), deadline.purpose(BEFORE_STEPS):
            yield deadline.telling(progress, BEFORE_STEPS)

    def telling(self, progress: Progress) -> Progress:
        """Return a `progress` that also looks at this process's clock, for work that says how far it is."""
        if self._end_s is None:
            return progress

        def checked(what: str, done: int, total: int) -> None:
            progress(what, done, total)
            if self.late(what):
                raise OutOfTime

        return Progress.of(checked, progress.log)


def begin(request: TrainRequest, watch: Stopwatch) -> TimeLimit:
    """Start a run's budget; with a limit, estimate from timings what must be kept free for the end.

    Raises `UsageError` where the limit is shorter than what comes before and after the first step.
    """
    if request.config.minutes is None:
        return TimeLimit(None, 0.0, watch)
    limit_s, watch = 60.0 * request.config.minutes, request.since or watch
    reserve_s, spent_s = process_group.decided(lambda: (_reserve_s(request), watch.seconds))
    if spent_s + reserve_s > limit_s:
        raise UsageError(
            refusal(
                request.config.minutes, spent_s + reserve_s, "loading, a first step and the final figures"
            )
        )
    return TimeLimit(limit_s, reserve_s, watch)


def pass_s(backbone: Backbone, data: Manifest, samples: Sequence[Sample], threads: int | None) -> float:
    """Return the seconds an image takes from its file through all layers in float32, roughly and soon."""
    looked = samples[:TIMED_IMAGES]
    began = time.perf_counter()
    for sample in looked:
        backbone.preprocessing.crop(data.read(sample))
    decode_s = (time.perf_counter() - began) / max(1, len(looked))
    return profiling.rough_image_s(backbone, threads) + decode_s


def to_doubt_by(request: TrainRequest) -> int:
    """Return how many training images the model's doubts may rest on: with a limit, a share of it."""
    if request.config.minutes is None:
        return selective_prediction.MOST
    return _fitting(request, _pass_s(request))


def _fitting(request: TrainRequest, each_s: float) -> int:
    fits = int(DOUBT_SHARE * 60.0 * (request.config.minutes or 0.0) / (MARGIN * max(each_s, 1e-9)))
    return min(selective_prediction.MOST, fits)


def _pass_s(request: TrainRequest) -> float:
    samples = [sample for subset in ("val", "test", "train") for sample in request.data.subset(subset)]
    return pass_s(request.backbone, request.data, samples, request.config.threads)


def _reserve_s(request: TrainRequest) -> float:
    subsets, each_s = ["val", "test"], _pass_s(request)
    if hyperparameters(request.strategy).bn == "recalibrate":
        subsets.append("train")
    if hyperparameters(request.strategy).refit_layers:
        subsets.append("train")
    counts = [len(request.data.subset(subset)) for subset in subsets]
    if all(phase.cut for phase in request.phases()):  # frozen batches are filled up
        counts = [math.ceil(count / evaluation_batch()) * evaluation_batch() for count in counts]
    if request.config.interpolate_weights is not None:  # BatchNorm over train and answers on val, at each
        shares = len(POINTS) if request.config.interpolate_weights == "auto" else 1
        train, val = len(request.data.subset("train")), len(request.data.subset("val"))
        counts += [train, *[train + val] * shares]  # the first: features for a probe
    if request.taken_away:
        counts.append(min(_fitting(request, each_s), len(request.data.subset("train"))))
        moved = len(request.data.subset("val")) or len(request.data.subset("train"))
        counts.append(min(DRIFT_IMAGES, moved) if request.strategy.trains else 0)
    counts.append(error_gallery.MOST if request.data.subset("test") else 0)
    return ENDING_S + MARGIN * each_s * sum(counts)
