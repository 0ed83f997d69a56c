"""Ray clusters: connect, and run one function on every worker.

Which worker does which trial or row is decided elsewhere, by the trial queue and the cache's claims,
so a worker that dies costs what it had claimed and nothing else. Workers see the same folders as the caller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.errors import FrostlineError, TrainingError, UsageError
from frostline.system import directories

AUTO, LOCAL = "auto", "local"
ADDRESSES = "auto (one that runs, else one on this machine), local, HOST:PORT or ray://HOST:PORT"

# Arguments travel through Ray's shared memory, once for all workers of a machine: a network and a manifest.
# What is larger Ray writes to disk. Ray refuses less than 75 MB; its own default is 30 % of the memory.
OBJECTS_BYTES = 256_000_000
RETRIES = 3  # of a worker that was killed; Ray's own default for tasks
GRACE_S = 2.0  # for workers that end of the same trouble a moment later; a choice
POLL_S = 0.5  # between two looks at what workers have done
SHARED_LIBRARIES = ("frostline", "torch", "torchvision", "timm", "pillow", "numpy")  # that may change a bit


@dataclass(frozen=True)
class WorkerResources:
    """The resources of one worker."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that is connected, and how it is shared among workers."""

    ray: Any
    shares: tuple[WorkerResources, ...]
    address: str  # as it is shown to a person
    own: bool = False  # whether the connection ends with this use of it, and with it all that runs

    def everywhere(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        folders: Sequence[Path],
        on_poll: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Let every worker do `function`, which must divide its work by itself; return their results.

        A worker that is killed begins again. `folders` must be the caller's own on every worker. `on_poll` is
        called while waiting. Raises what a worker raises, or `TrainingError` where none was left alive.
        """
        return self._run(self.shares, function, arguments, folders, on_poll)

    def once(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        folders: Sequence[Path],
        on_poll: Callable[[], None] = lambda: None,
    ) -> Any:
        """Let one worker do `function`, as `everywhere` does."""
        return self._run(self.shares[:1], function, arguments, folders, on_poll)[0]

    def _run(
        self,
        shares: Sequence[WorkerResources],
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        folders: Sequence[Path],
        on_poll: Callable[[], None],
    ) -> list[Any]:
        calling_process = caller(folders)
        packed = self.ray.put(arguments)
        remote = self.ray.remote(_obey)
        options = {"scheduling_strategy": "SPREAD", "max_retries": RETRIES}
        waiting = [
            remote.options(num_cpus=share.cpus, num_gpus=share.gpus, **options).remote(
                calling_process, function, packed
            )
            for share in shares
        ]
        try:
            return self._gathered(waiting, on_poll)
        except BaseException:
            self._call_off(waiting)
            raise

    def _call_off(self, tasks: list[Any]) -> None:
        """Stop what is still at work, where the connection does not end now and all of it with it.

        Ray (2.60.0) aborts this process where a task that is cancelled returns at that very moment ("Tried to
        complete task that was not pending"): workers that fail of the same thing end together, so what is
        about to end is let end first.
        """
        if self.own:
            return
        with contextlib.suppress(Exception):  # what is over can't be called off
            _, running = self.ray.wait(tasks, num_returns=len(tasks), timeout=GRACE_S)
            for task in running:
                self.ray.cancel(task)

    def _gathered(self, waiting: list[Any], on_poll: Callable[[], None]) -> list[Any]:
        results, lost = [], ""
        while waiting:
            ready, waiting = self.ray.wait(waiting, timeout=POLL_S)
            on_poll()
            for task in ready:
                try:
                    results.append(self.ray.get(task))
                except self.ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, FrostlineError):
                        raise error.cause from None
                    raise
                except self.ray.exceptions.RayError as error:  # killed again and again, or its node is gone
                    lost = str(error).strip().splitlines()[0]
        if not results:
            raise TrainingError(
                f"Every worker of the Ray cluster was lost ({lost}). What is finished is kept; the same "
                "command resumes."
            )
        return results


@dataclass(frozen=True)
class Caller:
    """The folders and versions that a worker must share with its caller."""

    home: str
    folders: list[str]
    versions: dict[str, str]


def caller(folders: Sequence[Path]) -> Caller:
    """Describe this process to its workers."""
    return Caller(str(directories.home().resolve()), [str(f.resolve()) for f in folders], _versions())


def take_after(caller: Caller) -> None:
    """Let this worker use its caller's cache. Raises `UsageError` where it lacks what the caller has."""
    _demand_same(caller)
    os.environ[directories.VARIABLE] = caller.home


@contextlib.contextmanager
def connected(
    address: str = AUTO, *, threads: int | None = None, most: int | None = None
) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine, which ends with the block.

    One worker a GPU; without any, one for each `threads` cores of a machine, or one a machine; `most` at
    most. One that is connected already is used and left as it is.
    Raises `UsageError` where Ray is missing or can't be reached.
    """
    address = _resolved(address)
    ray = _ray(address)
    started_here = not ray.is_initialized()
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, ResourceWarning):  # Ray's own; ours are heard
            warnings.simplefilter("ignore", category)
        if started_here:
            _begin(ray, address)
        try:
            shares = _shares(ray.nodes(), threads)[:most]
            if not shares:
                raise UsageError(
                    f"No machine of the Ray cluster has {threads or 1} cores. Use fewer --threads."
                )
            yield Cluster(ray, shares, ray.get_runtime_context().gcs_address, started_here)
        finally:
            if started_here:
                ray.shutdown()


def _ray(address: str) -> Any:
    """Import Ray with its telemetry off and, where it will run here, for this machine alone."""
    if address == LOCAL:  # else Ray takes the address that others reach, and listens on every one
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, which reads it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by itself one day
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f'Ray cannot be imported here ({error}). Install it: pip install "frostline[ray]"'
        ) from None
    return ray


def _begin(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one here."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    alone = {
        "include_dashboard": False,
        "object_store_memory": OBJECTS_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    with _signals_kept():
        try:
            ray.init(address=address, **quiet, **(alone if address == LOCAL else {}))
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own
            raise UsageError(
                f"The Ray cluster at {address!r} cannot be used ({_first_line(error)}). Expected {ADDRESSES}."
            ) from None


def _resolved(address: str) -> str:
    """Return what `AUTO` comes to: the cluster that runs, by Ray's own notes of it, else one here."""
    if address != AUTO or os.environ.get("RAY_ADDRESS"):
        return address
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return AUTO if note.exists() else LOCAL


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the program's own SIGTERM handler, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shares(nodes: Sequence[dict[str, Any]], threads: int | None) -> tuple[WorkerResources, ...]:
    """Divide the machines that are up among workers."""
    up = [node["Resources"] for node in nodes if node["Alive"]]
    sizes = [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in up]
    with_gpu = [
        WorkerResources(max(1, cpus // gpus), 1)
        for cpus, gpus in sizes
        if gpus
        for _ in range(min(gpus, max(1, cpus)))
    ]
    if with_gpu:
        return tuple(with_gpu)
    return tuple(
        WorkerResources(threads or cpus, 0)
        for cpus, _ in sizes
        if cpus
        for _ in range(cpus // (threads or cpus))
    )


def _obey(caller: Caller, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Do a function in a worker, once it has what its caller has."""
    take_after(caller)
    return function(*arguments)


def _demand_same(caller: Caller) -> None:
    host, own_versions = socket.gethostname(), _versions()
    differing = [
        f"{name} {own_versions.get(name)} (the caller has {version})"
        for name, version in caller.versions.items()
        if own_versions.get(name) != version
    ]
    if differing:
        raise UsageError(
            f"The Ray worker on {host} has {', '.join(differing)}. Install the same versions everywhere: "
            "the bits of a feature depend on them."
        )
    unseen = [folder for folder in caller.folders if not Path(folder).is_dir()]
    if unseen:
        raise UsageError(
            f"The Ray worker on {host} does not see {', '.join(unseen)}. Expected a folder that all machines "
            "share under the same name: put images, --study and --cache-dir there."
        )


def _versions() -> dict[str, str]:
    from importlib import metadata  # `--help` imports this module, and compares no versions

    versions = {}
    for name in SHARED_LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a checkout
            versions[name] = metadata.version(name)
    return versions


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
