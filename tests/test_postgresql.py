"""One comparison in PostgreSQL: two processes share it, and the password of its URL is kept nowhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import frostline
from frostline.errors import StudyError
from frostline.selection.trial_queue import TrialQueue
from tiny import tiny_backbone, write_folder

pytestmark = pytest.mark.system

PASSWORD = "s3cr@t/öld"
QUOTED = "s3cr%40t%2F%C3%B6ld"
OPTIONS: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1, "repeats": 1}
STRATEGIES = ("head(epochs=4)", "top_k(1, epochs=4)")

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import frostline
from test_postgresql import OPTIONS, STRATEGIES
from tiny import tiny_backbone

data = frostline.load_data(sys.argv[2], near_copies=False)
found = frostline.compare(
    tiny_backbone(), data, STRATEGIES, study=sys.argv[3], database=sys.argv[4], log=print, **OPTIONS
)
print(found.winner)
"""


def program(name: str) -> str:
    """Return one of PostgreSQL's programs; Debian keeps them apart from the path."""
    there = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(there[-1]) if there else shutil.which(name)
    if path is None:
        pytest.skip("needs Debian's package postgresql")
    return path


def as_postgres(*command: str) -> list[str]:
    """Return a command as the package's own user, where this is root: the server refuses to be."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else list(command)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a new database, on a server of this test's own that listens to this machine alone."""
    initdb, server = program("initdb"), program("pg_ctl")
    made = subprocess.run(as_postgres("mktemp", "-d"), capture_output=True, text=True, check=True, cwd="/")
    folder = made.stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ask = as_postgres("sh", "-c", f"cat > {folder}/password")
    subprocess.run(ask, input=PASSWORD.encode(), check=True, cwd="/")
    how = ("-A", "scram-sha-256", "-U", "frost", f"--pwfile={folder}/password", "-E", "UTF8", "--no-sync")
    subprocess.run(
        as_postgres(initdb, "-D", f"{folder}/data", *how), check=True, capture_output=True, cwd="/"
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    begin = (server, "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w")
    subprocess.run(as_postgres(*begin, "start"), check=True, capture_output=True, cwd="/")
    try:
        yield f"postgresql://frost:{QUOTED}@127.0.0.1:{port}/postgres"
    finally:
        stop = as_postgres(server, "-D", f"{folder}/data", "-m", "immediate", "stop")
        subprocess.run(stop, check=True, capture_output=True, cwd="/")
        subprocess.run(as_postgres("rm", "-rf", folder), check=True, cwd="/")


def test_two_processes_share_one_comparison_and_the_result_is_that_of_sqlite(
    database: str, tmp_path: Path
) -> None:
    images = write_folder(tmp_path / "images", per_class=16)
    study = tmp_path / "study"
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", WORKER, tests, str(images), str(study), database]
    two = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs

    data = frostline.load_data(images, near_copies=False)
    alone = frostline.compare(tiny_backbone(), data, STRATEGIES, study=tmp_path / "alone", **OPTIONS)
    assert [text.splitlines()[-1] for text in outputs] == [alone.winner] * 2
    with closing(TrialQueue.open(alone.folder.name, alone.folder)) as ledger:
        mine = ledger.outcomes()
    folder = study / "comparisons" / alone.folder.name
    with closing(TrialQueue.open(alone.folder.name, folder, database)) as ledger:
        shared, finished = ledger.outcomes(), [t for t in ledger._trials() if t.state.name == "COMPLETE"]
    assert shared.keys() == mine.keys()
    for task, outcome in shared.items():
        assert (outcome["score"], outcome["run"]) == (mine[task]["score"], mine[task]["run"])
    assert set(Counter(t.user_attrs["task"] for t in finished).values()) == {1}
    assert len({t.user_attrs["holder"]["pid"] for t in finished}) == 2
    lines = [line for text in outputs for line in text.splitlines() if "repeat 1" in line]
    assert len(lines) == len(finished), "a run was made twice"

    secret = [PASSWORD.encode(), QUOTED.encode()]
    files = [file for file in study.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if any(word in file.read_bytes() for word in secret)]
    assert not any(word.decode() in text for text in outputs for word in secret)


@pytest.mark.parametrize(
    "change", [("frost:", "nobody:"), ("/postgres", "/elsewhere"), ("127.0.0.1:", "127.0.0.1:1")]
)
def test_a_database_that_refuses_is_one_message_without_the_password(
    database: str, tmp_path: Path, change: tuple[str, str]
) -> None:
    url = change[1].join(database.rsplit(change[0], 1))
    with pytest.raises(StudyError, match="cannot be used") as raised:
        TrialQueue.open("x", tmp_path, url)
    for word in (PASSWORD, QUOTED, QUOTED[:8], "s3cr"):
        assert word not in str(raised.value)
    assert "127.0.0.1" in str(raised.value)
