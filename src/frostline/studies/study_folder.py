"""One folder per study: what was run on which data, with what result. Imports no torch.

    STUDY/
      study.json            format, digests of the data, the split and the test set
      manifest.jsonl        the images, labels, groups and subsets (written by the dataset)
      assignment.json, assignment.lock   what is remembered of images, also of those that have gone (written
                            by the dataset): {"seeds": [s, …], "images": {digest: [subset, fold for s, …]}},
                            null for no subset, and where it was held out in no fold of that seed
      thumbnails/           a few test images, small, for the report
      test-evaluations.json  how many configurations had been evaluated on the test set when the last run was
                            shown
      answer.json           which run predicts while a comparison is running
      backbone.json, signals.json, advice.json, fit.json   what `fit` measured, advised, and found
      models.json           what each of several backbones is, and which of them were compared
      comparisons/<digest>/ what was compared, what joined from earlier runs, its trials (Optuna's SQLite;
                            trials/: which run each finished one is), its outcome; error-gallery.json and
                            error-gallery/ as in a run, of predictions out of fold
      report.html           the study as one page, where requested
      tensorboard/<strategy> <run>/, mlflow.db  copies of all runs' metrics, where loggers were requested
      splits/<digest>/      a study for each other split of the same data: repeats, folds, everything
      runs/<digest>/        one folder per configuration
        config.json         the whole configuration; the folder's name is its digest
        environment.json    versions and machine
        plan.json           the numeric plan: what a timing decided, obeyed on resume
        metrics.jsonl       a line per epoch
        state.safetensors, state-before.safetensors   where an unfinished run resumes (removed at the end)
        lock, holder.json   which process trains the run
        best.safetensors    the weights
        fingerprints.safetensors   short digests of the images they learned from, through all generations
        backbone.json       the network's stages and cuts
        predictions-val.csv, predictions-test.csv, augmentation.png
        error-gallery.json, error-gallery/  pictures of the most confident mistakes on test, with
                            class-activation maps
        loggers.json       which of MLflow's runs this one is, where it was followed
        result.json         written last: its presence means the run is finished

A study belongs to one data set and one split: figures of two splits must not stand in one table. Studies in
`splits/` remember nothing of images: the outer one does.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from frostline.data import Manifest, Sample
from frostline.errors import FrostlineError, StudyError, demand_kind, option, spoken
from frostline.system import directories, text_output
from frostline.system.liveness import ProcessId

OF_STUDIES = ("runs", "splits", "thumbnails", "comparisons", "tensorboard")  # folders, some with pictures
FORMAT = 5  # of a study's files; raised when one of them changes its keys
# The largest published heads have 21,843 classes (ImageNet-21k in timm). A study that names more than a few
# times as many is damaged, or would fill the memory.
MAX_CLASSES = 100_000
TEST_EVALUATIONS = "test-evaluations.json"  # in a study and in each of its splits
# How long what a dead process left behind is waited for: torch's data workers look every 5 s whether their
# parent is there (torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL), and hold its locks until then.
ORPHANS_S = 20.0
# Where a run lies in its study, as `answer.json` and the trials name it. A study may come from a stranger.
PLACE_OF_RUN = re.compile(r"(splits/[\w-]+/)*runs/[\w-]+", re.ASCII)
CUSTOM = "custom "  # begins the name of a callable in a run's configuration
PACKAGES = (
    "frostline",
    "torch",
    "torchcodec",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "safetensors",
)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of canonical JSON: equal values have equal digests, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return the value with every number that JSON does not know (a metric that is undefined) as null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class RunFolder:
    """One configuration's folder inside a study.

    Of several processes that make one run together one `writes`; for the others writing does nothing.
    """

    path: Path
    writes: bool = True

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The start of the configuration's digest."""
        return self.path.name

    @property
    def study(self) -> Path:
        """The folder of the study that the run is in."""
        return self.path.parent.parent

    @property
    def finished(self) -> bool:
        """Return whether the run is finished."""
        return (self.path / "result.json").is_file()

    @property
    def ended(self) -> str:
        """When a finished run ended, as its result says (ISO 8601, UTC); empty where it says nothing."""
        result = self.read("result.json")
        return str(result.get("ended", "")) if isinstance(result, dict) else ""

    @property
    def weights(self) -> Path:
        """The best weights, in safetensors."""
        return self.path / "best.safetensors"

    @property
    def fingerprints(self) -> Path:
        """Short digests of the images that its model learned from, through all generations."""
        return self.path / directories.FINGERPRINTS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock this run: another process that tries to gets a `StudyError` that names this one.

        The system lets the lock go when its holder and what that had started are dead; these are waited for.
        """
        lock = FileLock(self.path / "lock")
        try:
            self._acquire(lock)
        except Timeout:
            raise StudyError(
                f"Run {self.name} is being trained by {self._holder()}. Wait for it, or stop it; the same "
                "command then resumes."
            ) from None
        except OSError as error:
            raise StudyError(f"The study folder {self.path} cannot be written ({error.strerror}).") from None
        try:
            own = ProcessId.own()
            holder = {"process": own.number, "host": own.host, "since": _clock(), "began": own.started}
            self.write("holder.json", holder)
            yield
        finally:
            (self.path / "holder.json").unlink(missing_ok=True)
            lock.release()

    def _acquire(self, lock: BaseFileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if self._holder_lives():
                raise
            lock.acquire(timeout=ORPHANS_S)

    def _holder_lives(self) -> bool:
        """Return whether the very process that noted itself runs, for all that can be seen from here."""
        try:
            holder = self.read("holder.json")
            return ProcessId(holder["host"], int(holder["process"]), float(holder["began"])).runs()
        except (StudyError, KeyError, TypeError, ValueError):
            return True

    def _holder(self) -> str:
        try:
            holder = self.read("holder.json")
            return f"process {holder['process']} on {holder['host']} since {holder['since']}"
        except (StudyError, KeyError, TypeError):  # it has only just begun, or just ended
            return "another process"

    def write(self, name: str, value: Any) -> None:
        """Write one JSON file so that no reader ever sees half of it."""
        if not self.writes:
            return
        text = json.dumps(plain(value), indent=1, allow_nan=False)
        directories.write_atomically(self.path / name, (text + "\n").encode())

    def read(self, name: str) -> Any:
        """Read one JSON file of the run. Raises `StudyError` where it is missing or damaged."""
        return _read_json(self.path / name)

    def checked_config(self) -> dict[str, Any]:
        """Return the run's configuration, checked: a study may be damaged, or come from somebody else.

        Raises `StudyError` where classes, strategy, source or preprocessing are missing or something else.
        """
        config = self.read("config.json")
        kinds: dict[str, type] = {"classes": list, "strategy": str, "source": dict, "preprocessing": dict}
        fields = config if isinstance(config, dict) else {}
        invalid = [key for key, kind in kinds.items() if not isinstance(fields.get(key), kind)]
        names = [] if invalid else fields["classes"]
        plain_names = all(isinstance(name, str) for name in names) and 1 < len(names) <= MAX_CLASSES
        if not invalid and not plain_names:
            invalid = [f"classes (expected 2 to {MAX_CLASSES:,} names)"]
        if invalid:
            raise StudyError(f"{self.path / 'config.json'} is damaged: {', '.join(invalid)}. Train again.")
        return dict(fields)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines written so far, up to the first damaged one."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(
                f"{self.path / 'metrics.jsonl'} cannot be read ({error}). Expected lines of JSON."
            ) from None
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except (
                ValueError,
                RecursionError,
            ):  # a line cut short by a crash: it and what follows are written again
                break
        return rows

    def write_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write all lines (a run's metrics are small; a whole file is never half a line)."""
        if not self.writes:
            return
        text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)
        directories.write_atomically(self.path / "metrics.jsonl", text.encode())

    def write_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write one CSV file."""
        if not self.writes:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        directories.write_atomically(self.path / name, text_output.encoded(text.getvalue()))


class Study:
    """A study folder; it may stand for its path. `open` makes it, or checks that it is of the same data."""

    def __init__(self, path: str | PathLike[str]) -> None:
        demand_kind("study", path, (str, PathLike), "a study or its folder")
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        data: str,
        split: str,
        test: str,
        samples: Sequence[Sample] = (),
        root: Path | None = None,
    ) -> Study:
        """Open or begin the study of one data set and split, given by their digests.

        A message about a study of other data compares its images with `samples`, whose paths start from
        `root`.
        Raises `StudyError` where the folder holds another study, something else, or can't be written.
        """
        study = cls(path)
        outer, run = study_and_run(path)
        if run is not None:
            raise StudyError(f"{path} is a run of the study {outer}. Name the folder of a study.")
        study._refuse_images(samples, root)
        try:
            (study.path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"The study folder {study.path} cannot be written ({error.strerror}).") from None
        if not os.access(study.path, os.W_OK):
            raise StudyError(f"The study folder {study.path} cannot be written. Use another with --study.")
        card = {"format": FORMAT, "data": data, "split": split, "test": test}
        card_path = study.path / "study.json"
        if not card_path.exists():
            directories.write_atomically(card_path, (json.dumps(card, indent=1) + "\n").encode())
            return study
        study._refuse_other(_object(card_path), card, samples)
        return study

    @classmethod
    def of(cls, path: str | PathLike[str], data: Manifest) -> Study:
        """Open or begin the study of these images. Raises as `open` does."""
        return cls.open(
            path,
            data=data.digest,
            split=data.split_digest,
            test=data.test_digest,
            samples=data.samples,
            root=data.root,
        )

    @classmethod
    def existing(cls, path: str | PathLike[str]) -> Study:
        """Return a study that must exist already. Raises `StudyError`."""
        study = cls(path)
        if not (study.path / "study.json").is_file():
            raise StudyError(f"{study.path} {no_study(study.path)}")
        try:
            card = study.card
        except StudyError:  # damaged: its runs can still be read
            return study
        if isinstance(card.get("format"), int):
            study._refuse_other_format(card)
        return study

    def _refuse_other_format(self, card: dict[str, Any]) -> None:
        written = card.get("format")
        if written != FORMAT:
            raise StudyError(
                f"{self.path} was written by another version of frostline (study format {written!r}, this "
                f"one reads {FORMAT}): take another folder with --study, or that version."
            )

    def _refuse_images(self, samples: Sequence[Sample], root: Path | None) -> None:
        """Raise `StudyError` for the folder of these images, or of a class: it could not be read as data."""
        if root is None or (self.path / "study.json").exists():
            return
        place, root = self.path.resolve(), root.resolve()
        if not place.is_relative_to(root):
            return
        below = "" if place == root else f"{place.relative_to(root).as_posix()}/"
        for sample in samples:
            folders = sample.path.split("/")[:-1]
            if sample.path.startswith(below) and folders and folders[-1] == sample.label:
                raise StudyError(
                    f"The study folder {self.path} holds images of the data ({sample.path}), and whoever "
                    f"reads it as data would find a study. Name a folder of its own with {option('study')}."
                )

    def _refuse_other(
        self, actual: dict[str, Any], expected: dict[str, Any], samples: Sequence[Sample]
    ) -> None:
        self._refuse_other_format(actual)
        if actual.get("data") != expected["data"]:
            raise StudyError(
                f"{self.path} is a study of other data: {self._difference(samples)}. "
                "Figures of two data sets must not stand in one table. Use another folder with --study."
            )
        if actual.get("split") != expected["split"]:
            raise StudyError(
                f"{self.path} is a study of the same data under another split (another --seed, "
                "--test-size or --val-size, other given subsets, or a model that learned from some of "
                "these images, so that none of them is held out). "
                + spoken(
                    "Give them as the study has them, or use another folder with --study.",
                    "Load them with load_data(…, study=…), which keeps the study's subsets, or use another "
                    "folder with study.",
                )
            )

    def _difference(self, samples: Sequence[Sample]) -> str:
        """Return what differs from the images of this study, as far as that can be read."""
        unknown = (
            "images, labels or groups (--group-by) differ, or how pixels are rendered (--intensity-range, "
            "--alpha-background)"
        )
        try:
            before = {sample.digest: sample for sample in Manifest.load(self.path / "manifest.jsonl").samples}
        except FrostlineError:
            return unknown
        now = {sample.digest: sample for sample in samples}
        common = before.keys() & now.keys()
        relabelled = sorted(now[key].path for key in common if before[key].label != now[key].label)
        counts = {
            "gone": len(before.keys() - common),
            "new": len(now.keys() - common),
            "of another label": len(relabelled),
            "of another group (--group-by)": sum(before[key].group != now[key].group for key in common),
        }
        parts = [f"{count} image(s) are {what}" for what, count in counts.items() if count]
        if not now or not parts:
            return unknown
        example = f" (such as {relabelled[0]})" if relabelled else ""
        return ", ".join(parts) + example

    @property
    def card(self) -> dict[str, Any]:
        """The study's digests."""
        return _object(self.path / "study.json")

    def run(self, config: dict[str, Any]) -> RunFolder:
        """Return this configuration's folder, begun if new."""
        folder = RunFolder(self.path / "runs" / digest_of(config)[:12])
        try:
            folder.path.mkdir(exist_ok=True)
            if not (folder.path / "config.json").exists():
                folder.write("config.json", config)
        except OSError as error:
            raise StudyError(f"The study folder {self.path} cannot be written ({error.strerror}).") from None
        return folder

    def runs(self) -> list[RunFolder]:
        """Return the finished runs, those first that ended first; a copy of a study keeps the order."""
        folders = [RunFolder(p) for p in (self.path / "runs").glob("*") if p.is_dir()]
        finished = [(folder.ended, folder.name, folder) for folder in folders if folder.finished]
        return [folder for *_, folder in sorted(finished, key=lambda entry: entry[:2])]

    def write(self, name: str, value: Any) -> None:
        """Write one JSON file of the study, whole or not at all."""
        text = json.dumps(plain(value), indent=1, allow_nan=False)
        directories.write_atomically(self.path / name, (text + "\n").encode())

    def read(self, name: str) -> dict[str, Any] | None:
        """Read one JSON file of the study; `None` where there is none. `StudyError` where it is damaged."""
        path = self.path / name
        return _object(path) if path.exists() else None

    def answer_by(self, folder: RunFolder, why: str, score: float | None = None) -> None:
        """Let this run predict while a comparison is running; at its end `best_of` chooses.

        `score` is how well it did on images held out, higher being better.
        """
        self.write(
            "answer.json", {"run": str(folder.path.relative_to(self.path)), "why": why, "score": score}
        )

    @property
    def answer(self) -> dict[str, Any] | None:
        """The run that predicts: `run` (relative to the study), `why`, `score`; None where there is none."""
        return self.read("answer.json")

    def run_at(self, name: object) -> RunFolder:
        """Return the run at a place that a file of the study names, such as `runs/1a2b`.

        Raises `StudyError` where that is no run inside this study: a file may say `../../elsewhere`.
        """
        place = self.path / str(name)
        valid = isinstance(name, str) and PLACE_OF_RUN.fullmatch(name)
        if not valid or not place.resolve().is_relative_to(self.path.resolve()):
            raise StudyError(
                f"{self.path} names {str(name)[:80]!r} as one of its runs; expected a folder inside "
                "the study, like runs/1a2b3c. Name a run with --run, or train again."
            )
        return RunFolder(place)


def study_and_run(path: str | PathLike[str]) -> tuple[Path, str | None]:
    """Return the study's folder and the run's name of STUDY/runs/RUN; of any other path itself, and None."""
    demand_kind("study", path, (str, PathLike), "a study or its folder")
    folder = Path(path).expanduser()
    place = folder.resolve()
    if place.parent.name == "runs" and (place / "config.json").is_file():
        return place.parents[1], place.name
    return folder, None


def outer_study(run: Path) -> Study:
    """Return the study of a run's folder that remembers its images: of a run in `splits/` the outer one."""
    path = run.parents[1]
    return Study(path.parents[1] if path.parent.name == "splits" else path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{path} cannot be read ({error}). Expected a JSON file written by frostline."
        ) from None


def _object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise StudyError(
            f"{path} holds a {type(value).__name__}, expected a JSON object written by frostline."
        )
    return value


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, Any]:
    """Return the versions and the machine, as a run keeps them. No name, no path, no address."""
    return {
        "python": sys.version.split()[0],
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def count_test_evaluation(test_digest: str, config_digest: str) -> int | None:
    """Record that a configuration was evaluated on this test set; return how many were, in any study.

    The best of many results on one test set is too optimistic, so evaluations are counted. `None`
    where the count cannot be kept.
    """
    try:
        path = directories.folder("test-evaluations") / f"{test_digest}.txt"
        configurations = set(path.read_text().split()) if path.exists() else set()
        if config_digest not in configurations:
            with open(path, "a", encoding="ascii") as file:
                file.write(config_digest + "\n")
            configurations.add(config_digest)
    except OSError:
        return None
    return len(configurations)


def no_study(folder: Path) -> str:
    """Return what a folder without a study is instead, and what to do, as the rest of a sentence."""
    expected = "Expected a folder that fit, compare or train wrote."
    if not folder.is_dir():
        return f"does not exist. {expected}"
    try:
        origin = _object(folder / "config.json").get("frostline")
    except StudyError:
        origin = None
    if not isinstance(origin, dict):
        return f"is not a study: it holds no study.json. {expected}"
    uses = []
    if origin.get("export") != "torch":  # loading that would unpickle
        uses.append(f"`frostline evaluate {shlex.quote(str(folder))} DATA` judges it on labelled images.")
    if (folder / "infer.py").is_file():
        uses.append("Its infer.py labels images.")
    return " ".join(["is an export, not a study.", *uses, "Its README.md says how to load it.", expected])
