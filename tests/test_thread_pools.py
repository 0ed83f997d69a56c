"""Threads of ours never run while the environment is written: glibc's getenv may crash beside that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time

def report(event, values):
    if event in ("os.putenv", "os.unsetenv") and threading.active_count() > 1:
        print("written beside threads:", values[0])

import torch
from frostline.data.image_scan import in_threads
from frostline.feature_extraction.image_batches import ahead
from frostline.feature_extraction.ordered_threads import mapped
from frostline.system import cpu_threads

sys.addaudithook(report)
"""
# While pictures are decoded, the cores are counted by joblib where others are at work.
IMPORTS = "cpu_threads.cores(); import sklearn.metrics; print('imported', threading.active_count() > 1)"
POOLS = {
    "decoding": f"for done in mapped(time.sleep, [[0.5, 0.5], [0.5, 0.5]], 2):\n    {IMPORTS}; break",
    "scan": f"def work(item):\n    {IMPORTS}\nin_threads(work, [1], 1)",
    "ahead": f"for item in ahead(iter([1, 2])):\n    {IMPORTS}; break",
}


# Each pool in a copy of the process that has imported nothing more, and started no thread.
EACH = """
for name, program in sorted(POOLS.items()):
    process = os.fork()
    if not process:
        exec(program)
        print(name, flush=True)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert status == 0, name
"""


@pytest.mark.slow
def test_nothing_is_written_into_the_environment_beside_a_pool() -> None:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("KMP_")}
    command = [sys.executable, "-c", f"import os\n{PROGRAM}\nPOOLS = {POOLS!r}\n{EACH}"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        line for name in sorted(POOLS) for line in ("imported True", name)
    ]
