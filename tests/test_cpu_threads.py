"""Threads, and how they wait, follow what the machine has free; remembered rates are held against now."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import joblib
import pytest
import torch
from threadpoolctl import threadpool_info

import frostline
from frostline import profiling
from frostline.config import Config
from frostline.cost import Rates, predict
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.profiling import rate_correction
from frostline.profiling.rate_correction import Expected
from frostline.selection import trial_runner as contests
from frostline.selection.trial_runner import TrialRunner
from frostline.system import cpu_threads, directories, numerics
from frostline.system.cpu_threads import AS_IT_COMES, PASSIVE, Free, Reading
from test_cost import DATA, DEAR, INVENTED
from tiny import PREPROCESSING, tiny_backbone, write_table


class Machine:
    """A machine with so many cores, on which so many cores' worth of work is others', by its own clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, quota: int | None = None) -> None:
        self.cores, self.clock, self.others, self.inside, self.own = cores, 100.0, 0.0, 0.0, 0.0
        self._busy = self._group = 0.0
        monkeypatch.setattr(cpu_threads, "psutil", self)
        monkeypatch.setattr(cpu_threads, "_group_s", lambda: self._group)
        monkeypatch.setattr(cpu_threads, "time", SimpleNamespace(perf_counter=self._now, sleep=self.sleep))
        monkeypatch.setattr(cpu_threads.os, "cpu_count", lambda: cores)
        monkeypatch.setattr(cpu_threads.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(joblib, "cpu_count", lambda: quota or cores)
        monkeypatch.setattr(cpu_threads, "_wait", [])
        monkeypatch.setattr(cpu_threads, "free", cpu_threads.free.__wrapped__)
        for name in (*cpu_threads.WAITING, *cpu_threads.COUNTING, "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(cpu_threads, "_first", Reading.now())

    def _now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self._busy += seconds * self.others
        self._group += seconds * self.inside

    def cpu_times(self, percpu: bool) -> list[SimpleNamespace]:
        each = {"system": 0.0, "nice": 99.0, "idle": self.clock}
        return [SimpleNamespace(user=self._busy / self.cores, **each) for _ in range(self.cores)]

    def cpu_count(self, logical: bool) -> int:
        return self.cores

    def Process(self) -> SimpleNamespace:
        affinity = list(range(self.cores))
        return SimpleNamespace(
            cpu_affinity=lambda: affinity, nice=lambda: 0, cpu_times=lambda: (self.own, 0.0)
        )


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not imported torch yet, and gets its environment back."""
    monkeypatch.setattr(cpu_threads.sys, "modules", {k: v for k, v in sys.modules.items() if k != "torch"})
    monkeypatch.setenv("OMP_WAIT_POLICY", "x")  # so that monkeypatch puts back what was there


@pytest.mark.parametrize(
    ("cores", "others", "sharing", "aside"),
    [
        (2, 0.0, 2, 2),
        (2, 0.3, 2, 2),
        (2, 2.0, 2, 1),
        (16, 2.0, 14, 14),
        (16, 8.0, 16, 8),
        (16, 16.0, 16, 8),
        (1, 1.0, 1, 1),
    ],
)
def test_threads_are_as_many_as_the_machine_has_room_for(
    cores: int, others: float, sharing: int, aside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, cores)
    machine.others = others
    threads = cpu_threads.free()
    assert threads.others == pytest.approx(others)
    spinning, passive = (dataclasses.replace(threads, wait=wait) for wait in (AS_IT_COMES, PASSIVE))
    assert (passive.threads(), spinning.threads()) == (sharing, aside)
    assert threads.threads(steady=True) == cores  # what must agree does not hang on the neighbours


@pytest.mark.usefixtures("before_torch")
def test_threads_beside_others_wait_passively(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    machine.others = 2.0
    assert cpu_threads.settle() == PASSIVE == cpu_threads.free().wait
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.usefixtures("before_torch")
def test_threads_of_a_quiet_machine_wait_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 2)
    assert cpu_threads.settle() == AS_IT_COMES
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.usefixtures("before_torch")
def test_a_stir_that_is_over_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    machine.others = 2.0
    machine.sleep(cpu_threads.LOOK_S)  # the first look sees it
    machine.others = 0.0
    assert cpu_threads.settle() == AS_IT_COMES
    assert cpu_threads.free().threads() == 2


@pytest.mark.usefixtures("before_torch")
@pytest.mark.parametrize("name", cpu_threads.WAITING)
def test_how_the_user_lets_threads_wait_is_obeyed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    machine.others = 2.0
    monkeypatch.setenv(name, "1000")
    assert cpu_threads.settle() == f"as {name}=1000 says"
    assert os.environ.get("OMP_WAIT_POLICY") == ("1000" if name == "OMP_WAIT_POLICY" else None)


def test_torch_that_is_there_already_is_left_to_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    machine.others = 2.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    plan = numerics.pinned_plan("float32")
    assert (plan.threads, plan.wait) == (1, AS_IT_COMES)
    assert plan.load == "2.0 of 2 cores were busy with other work"
    assert "OMP_WAIT_POLICY" not in os.environ
    assert numerics.exact_plan().threads == 2


def test_a_container_of_two_cores_gets_two_threads_of_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 16, quota=2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert numerics.thread_count() == numerics.exact_plan().threads == 2
    machine.others = 10.0  # elsewhere on the machine: there is room beside it
    assert numerics.thread_count() == 2
    machine.inside = 2.0  # in the container itself
    monkeypatch.setattr(cpu_threads, "_first", Reading.now())
    assert numerics.thread_count() == 1


def test_the_quota_of_a_container_is_read(tmp_path: Path) -> None:
    """joblib reads it for us, as both kinds of control groups say it; this is what we rely on it for."""
    code = """
import builtins, io, os, sys
files = {"/sys/fs/cgroup/cpu.max": "200000 100000"} if sys.argv[1] == "2" else {
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
real, there = builtins.open, os.path.exists
builtins.open = lambda path, *a, **k: io.StringIO(files[path]) if path in files else real(path, *a, **k)
os.path.exists = lambda path: path in files or (not str(path).startswith("/sys/fs/cgroup") and there(path))
os.cpu_count = lambda: 16
os.sched_getaffinity = lambda _: set(range(16))
from frostline.system import cpu_threads
print(cpu_threads.cores())
"""
    for version in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, version], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == ["2"]


def test_what_the_user_counts_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 8)
    machine.others = 8.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert numerics.thread_count() == 4
    assert numerics.thread_count(7) == 7  # --threads
    with numerics.threads(6):
        assert numerics.thread_count() == 6  # of the plan around
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert numerics.thread_count() == 5  # torch.set_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert numerics.thread_count() == 8


def test_a_test_begins_with_one_thread() -> None:
    """Also after the one above, which leaves eight: what follows would take many times as long."""
    assert torch.get_num_threads() == 1


def test_libraries_of_linear_algebra_are_looked_for_again_where_modules_were_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counts() -> list[int]:
        return [row["num_threads"] for row in threadpool_info() if row["user_api"] == "blas"]

    before = counts()
    assert before
    for count in (1, 2):
        with cpu_threads.linear_algebra(count):
            assert set(counts()) == {count}
        assert counts() == before
    misses = cpu_threads._libraries.cache_info().misses
    with cpu_threads.linear_algebra(None):
        assert counts() == before
    assert cpu_threads._libraries.cache_info().misses == misses
    monkeypatch.setitem(sys.modules, "loaded_since", ModuleType("loaded_since"))
    with cpu_threads.linear_algebra(1):
        assert cpu_threads._libraries.cache_info().misses == misses + 1


def test_processes_of_one_job_are_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    machine.others = 3.0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cpu_threads.free() == Free(4, 0.0, AS_IT_COMES)


def test_a_count_of_cores_that_is_none_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    with pytest.raises(UsageError, match="LOKY_MAX_CPU_COUNT is 'many'"):
        cpu_threads.cores()


@pytest.mark.slow
def test_a_run_says_how_its_threads_waited_and_bits_do_not_hang_on_it(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    results = {}
    for wait in ("PASSIVE", "ACTIVE"):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import json, frostline; from tiny import tiny_backbone\n"
            "data = frostline.load_data(sys.argv[2], near_copies=False)\n"
            "given = {'threads': 2, 'deterministic': True, 'study': sys.argv[3]}\n"
            "run = frostline.train(tiny_backbone(), data, 'full(epochs=2)', **given)\n"
            "print(json.dumps([run.numeric_plan['wait'], run.folder.weights.read_bytes().hex()]))"
        )
        environment = {**os.environ, "OMP_WAIT_POLICY": wait, "OMP_NUM_THREADS": "2"}
        arguments = [str(Path(__file__).parent), str(table), str(tmp_path / wait)]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment, capture_output=True, text=True, check=True, timeout=200,
        )  # fmt: skip
        said, results[wait] = json.loads(done.stdout.splitlines()[-1])
        assert said == f"as OMP_WAIT_POLICY={wait} says"
    assert results["PASSIVE"] == results["ACTIVE"]


def test_a_plan_of_a_run_is_obeyed_when_the_machine_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    machine = Machine(monkeypatch, 2)
    machine.others = 2.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("frostline.training.numeric_plan.augmentation", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        frostline.train(tiny_backbone(), data, "head", study=tmp_path / "study")
    monkeypatch.undo()
    run = frostline.train(tiny_backbone(), data, "head", study=tmp_path / "study")
    assert run.numeric_plan["threads"] == 1
    assert run.numeric_plan["load"] == "2.0 of 2 cores were busy with other work"


# --- rates that were remembered -----------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


@pytest.fixture
def images(data: Manifest) -> Images:
    return Images(data, data.subset("train"), PREPROCESSING, policy=Policy("standard"))


@pytest.mark.parametrize(("now_s", "ratio"), [(1.0, 1.0), (1.2, 1.0), (2.0, 2.0), (0.5, 0.5)])
def test_remembered_rates_are_checked_by_one_timing(
    now_s: float, ratio: float, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    monkeypatch.setattr(rate_correction.numeric_search, "pass_s", lambda *_: 1.0)
    then = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    timed: list[int] = []
    monkeypatch.setattr(
        rate_correction.numeric_search, "pass_s", lambda _, count, threads: timed.append(count) or now_s
    )
    now = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert len(timed) == 1
    assert now.stages == then.times(ratio).stages
    assert bool(now.notes) == (ratio != 1.0)
    expected = [stage.learning[stage.plan].backward_s * ratio for stage in then.stages]
    assert [stage.learning[stage.plan].backward_s for stage in now.stages] == pytest.approx(expected)
    monkeypatch.setattr(rate_correction.numeric_search, "pass_s", lambda *_: 1.0)
    third = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert third.stages == then.stages  # what is remembered stays


def another_process(monkeypatch: pytest.MonkeyPatch, *, others: float) -> None:
    """Go on as a process that finds so many of two cores busy, now and while it times."""
    monkeypatch.setattr(numerics, "_measured_here", set())
    monkeypatch.setattr(cpu_threads, "cores", lambda: 2)
    monkeypatch.setattr(cpu_threads, "free", lambda: Free(2, others, PASSIVE))
    monkeypatch.setattr(cpu_threads, "_look", lambda since=None: others)


def test_rates_of_a_busy_machine_are_timed_again_on_a_quiet_one(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed beside six other processes, they refused on a quiet machine what there was time for."""
    backbone = tiny_backbone()
    monkeypatch.setattr(rate_correction, "checked", lambda rates, *_: rates)
    slower = [6.0]
    real = numerics.seconds
    monkeypatch.setattr(numerics, "seconds", lambda *args, **options: slower[0] * real(*args, **options))

    def measured() -> Rates:
        return profiling.measure(backbone, images, cache=FeatureCache(), threads=1)

    another_process(monkeypatch, others=1.7)
    busy = measured()
    learned(backbone, 2.5)
    another_process(monkeypatch, others=1.7)
    assert measured().stages == busy.stages  # nothing better is to be had
    another_process(monkeypatch, others=0.1)
    slower[0] = 1.0
    quiet = measured()
    assert quiet.at(1).frozen_s < 0.5 * busy.at(1).frozen_s
    assert quiet.factor == 1.0  # what runs took was held against other rates
    another_process(monkeypatch, others=1.7)
    assert measured().stages == quiet.stages


def test_a_choice_among_ways_to_compute_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another precision would compute every kept feature anew."""
    another_process(monkeypatch, others=1.7)
    chosen = numerics.timed_plan("step", lambda plan: None, 1)
    another_process(monkeypatch, others=0.0)
    monkeypatch.setattr(numerics, "seconds", lambda run, **_: pytest.fail("timed again"))
    assert numerics.timed_plan("step", lambda plan: None, 1).precision == chosen.precision


@pytest.mark.parametrize("content", [{"step": 1.0}, {"measured": 3, "cpu_share": 1.0}, {"measured": {}}])
def test_a_timing_that_cannot_be_read_is_made_again(content: dict[str, object]) -> None:
    """Those of an earlier version had no share of the processor."""
    directories.remember("rates", numerics.rates_key("pass", 1), content)
    assert not numerics.is_remembered("pass", 1)
    assert numerics.measured("pass", lambda: {"step": 2.0}, 1) == {"step": 2.0}
    assert numerics.measured("pass", lambda: pytest.fail("measured again"), 1) == {"step": 2.0}


def test_ways_to_compute_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that comes and goes must not meet one of them alone."""
    order: list[str] = []
    monkeypatch.setattr(numerics, "seconds", lambda run, **_: run() or 0.01)
    runs = {name: functools.partial(order.append, name) for name in ("float32", "bfloat16")}
    numerics.seconds_of("in turn", runs, 1)
    assert order == ["float32", "bfloat16"] * numerics.REPEATS


def test_a_process_times_a_network_once(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was quiet as the process began, and busy from then on."""
    another_process(monkeypatch, others=1.7)
    monkeypatch.setattr(cpu_threads, "free", lambda: Free(2, 0.0, PASSIVE))
    monkeypatch.setattr(rate_correction, "checked", lambda rates, *_: rates)
    first, second = (
        profiling.measure(tiny_backbone(), images, cache=FeatureCache(), threads=1) for _ in range(2)
    )
    assert first.stages == second.stages


@pytest.mark.parametrize(
    ("threads", "others", "share"),
    [(1, 1.0, 1.0), (1, 1.7, 0.3), (2, 0.3, 0.85), (2, 1.0, 0.5), (4, 0.0, 1.0)],
)
def test_other_work_takes_time_only_from_threads_that_share_its_cores(
    threads: int, others: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_threads, "cores", lambda: 2)
    assert cpu_threads.share_left(threads, others) == pytest.approx(share)


def test_remembered_rates_carry_device_threads_and_load(
    images: Images, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_threads, "free", lambda: Free(2, 1.5, PASSIVE))
    rates = profiling.measure(tiny_backbone(), images, cache=FeatureCache(), threads=1)
    assert rates.device == numerics.device_name()
    assert rates.others == 1.5
    documents = [json.loads(file.read_text()) for file in (own_cache / "rates").glob("*.json")]
    assert documents
    for each in documents:
        assert each["about"] == {
            "device": numerics.device_name(), "threads": 1, "cores": 2, "others": 1.5, "wait": PASSIVE,
        }  # fmt: skip


def test_another_card_has_rates_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for name in ("NVIDIA H100", "NVIDIA T4"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None, name=name: name)
        keys.add(numerics.rates_key("x", 1))
        assert name in numerics.rates_key("x", 1)
    assert len(keys) == 2


def test_a_glimpse_is_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides what there is time for, so another process's glimpse of another day is none."""
    for second in (1.0, 5.0):
        backbone, timed = tiny_backbone(), []
        monkeypatch.setattr(
            profiling.numeric_search, "pass_s", lambda *_, s=second, t=timed: t.append(s) or s
        )
        assert (
            profiling.rough_image_s(backbone, 1)
            == profiling.rough_image_s(backbone, 1)
            == second / profiling.numeric_search.GLIMPSE
        )
        assert timed == [second]  # once in a process


def learned(backbone: frostline.Backbone, taken_s: float, **changed: float) -> float:
    pace = {"trains": True, "expected_s": 10.0, "factor_then": 1.0, "before": 0.0, "meanwhile": 0.0} | changed
    return profiling.learn(backbone, 1, taken_s=taken_s, **pace)


def test_runs_correct_remembered_rates_down_as_well_as_up(images: Images) -> None:
    backbone = tiny_backbone()
    assert learned(backbone, 40.0) == pytest.approx(2.0)  # halfway to four times, in logarithms
    assert learned(backbone, 10.0, factor_then=2.0) == pytest.approx(2.0)  # as was expected by now
    assert learned(backbone, 2.5, factor_then=2.0) == pytest.approx(1.0)
    assert learned(backbone, 2.5) == pytest.approx(0.5)
    rates = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert rates.factor == pytest.approx(0.5)
    plain = dataclasses.replace(rates, factor=1.0)
    given = {**DATA, "flip": "none"}
    half, whole = (predict("head", one, **given) for one in (rates, plain))  # type: ignore[arg-type]
    assert half.seconds == pytest.approx(0.5 * whole.seconds)
    assert sum(half.parts.values()) == pytest.approx(half.seconds)
    assert rate_correction.factor(backbone, 2, trains=True) == 1.0  # other threads, other factor
    assert rates.solved_factor == 1.0  # solved heads are another kind of run
    learned(backbone, 40.0, trains=False)
    solved = profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    assert (solved.factor, solved.solved_factor) == (pytest.approx(0.5), pytest.approx(2.0))
    probes = [
        predict("linear_probe", one, **given).seconds
        for one in (solved, dataclasses.replace(solved, solved_factor=1.0))
    ]  # type: ignore[arg-type]
    assert probes[0] == pytest.approx(2 * probes[1])


def test_runs_that_were_predicted_together_are_not_counted_twice() -> None:
    """Twenty runs of a comparison take 0.8 of what was predicted as it began: so that is the factor."""
    backbone = tiny_backbone()
    factors = [learned(backbone, 8.0) for _ in range(20)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.8, abs=1e-4)


def test_a_run_that_says_nothing_teaches_nothing() -> None:
    backbone = tiny_backbone()
    assert learned(backbone, 1e6) == pytest.approx(2.0)  # a night's sleep counts four times at most
    assert learned(backbone, 4.0, expected_s=0.9) == pytest.approx(2.0)  # too short to be of the rates
    assert learned(backbone, 90.0, meanwhile=2.0) == pytest.approx(2.0)  # a neighbour came
    together = {"before": 2.0, "meanwhile": 2.1, "factor_then": 2.0}  # it was there before
    assert learned(backbone, 90.0, **together) == pytest.approx(4.0)


def test_of_a_run_that_found_its_rows_less_is_expected() -> None:
    cold, warm = (predict("top_k(1)", DEAR, **DATA, warm=warm) for warm in (False, True))
    expected = Expected.of(cold, warm, 1.0)
    assert expected.features >= DATA["train"] + DATA["val"]
    assert expected.seconds(expected.features) == expected.seconds(10 * expected.features) == cold.seconds
    assert expected.seconds(0) == pytest.approx(warm.seconds)
    between = expected.seconds(expected.features // 2)
    assert warm.seconds < between < cold.seconds
    full = predict("full", INVENTED, **DATA, cache="compute")
    assert Expected.of(full, full, 1.0).features == 0


def raced(outcomes: dict[int, dict[str, float]]) -> TrialRunner:
    schedule = SimpleNamespace(folds=2)
    whole = [10.0, 10.0]
    given = dict.fromkeys(("backbones", "data", "study", "queue", "clock", "loggers", "cache", "progress"))
    trial_runner = TrialRunner(
        **given, candidates=[], schedule=schedule, short_s=whole, whole_s=whole, final_s=whole,
        config=Config(),
    )  # type: ignore[arg-type]  # fmt: skip
    for fold, outcome in outcomes.items():
        trial_runner.outcomes[contests.Task(0, 1.0, contests.resampling.Cell(0, fold))] = outcome  # type: ignore[assignment]
    return trial_runner


def test_the_rest_of_a_race_is_corrected_down_as_well_as_up() -> None:
    fast = raced({0: {"seconds": 2.0, "expected": 10.0}})
    assert fast._factor() == pytest.approx(0.2)
    slow = raced({0: {"seconds": 30.0, "expected": 10.0}})
    assert slow._factor() == pytest.approx(3.0)


def test_runs_that_found_rows_make_the_rest_no_faster_than_it_is() -> None:
    schedule = raced({0: {"seconds": 10.0, "expected": 10.0}, 1: {"seconds": 2.0, "expected": 2.0}})
    assert schedule._factor() == pytest.approx(1.0)
    again = contests.Task(0, 1.0, contests.resampling.Cell(0, 2))
    assert schedule._predicted(again) == 2.0  # the third fold finds what the second found
    assert schedule._predicted(contests.Task(0, 1.0, contests.resampling.Cell(1, 0))) == 10.0  # other views
    assert schedule._predicted(contests.Task(1, 1.0, contests.resampling.Cell(0, 0))) == 10.0
