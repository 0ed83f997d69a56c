"""Images in an object store: a local S3 server, s3fs as people have it, and a line that breaks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

import frostline
from frostline.data.sources import remote
from frostline.errors import DataError, RunWarning
from test_dataset_remote import write_shard
from tiny import tiny_backbone, write_folder

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default::DeprecationWarning")]

BUCKET = "bucket"


class Line:
    """Moto's server, and the line to it: the first `cut` images come in half, then it breaks."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.cut = 0
        self.asked: list[str] = []  # what was fetched, in order

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        answer = self.server(environ, start_response)
        if environ["REQUEST_METHOD"] != "GET" or not path.endswith((".png", ".tar")):
            return answer
        self.asked.append(path)
        if self.cut < 1:
            return answer
        self.cut -= 1
        content = b"".join(answer)
        return [content[: len(content) // 2]]  # fewer bytes than the headers promised


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Line, str]]:
    """A server of this module's own, and its address."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    line = Line(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, line, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield line, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def line(running: tuple[Line, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A bucket with a folder of pictures and two tar shards of the same, found as botocore finds it."""
    import s3fs

    found, address = running
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(remote, "WAIT_S", (0.001, 0.002))
    sign_in(monkeypatch, "testing", "testing")
    photos = write_folder(tmp_path / "photos", per_class=4)
    system = s3fs.S3FileSystem()
    system.mkdir(BUCKET)
    system.put(str(photos), f"{BUCKET}/photos", recursive=True)
    for number in range(2):
        shard = write_shard(tmp_path / f"shard-{number}.tar", photos / f"kind {number}")
        system.put_file(str(shard), f"{BUCKET}/shard-{number}.tar")
    found.cut = 0
    found.asked.clear()
    yield found
    found.cut = 0
    system.rm(BUCKET, recursive=True)


def sign_in(monkeypatch: pytest.MonkeyPatch, key: str | None, secret: str | None) -> None:
    import s3fs

    for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    remote._said.clear()


def probe(source: str | Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The weights of a probe on images, computed with nothing remembered."""
    monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(place / "cache"))
    data = frostline.load_data(source, near_copies=False)
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=place / "study", deterministic=True)
    return run.folder.weights.read_bytes()


def test_a_probe_on_a_bucket_is_the_probe_on_the_folder(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = probe(tmp_path / "photos", tmp_path / "here", monkeypatch)
    assert probe(f"s3://{BUCKET}/photos", tmp_path / "there", monkeypatch) == here
    assert len(set(line.asked)) == 12
    line.asked.clear()
    again = frostline.load_data(f"s3://{BUCKET}/photos", near_copies=False)
    assert line.asked == []  # the listing says that nothing changed
    assert again.samples[0].path.startswith(f"s3://{BUCKET}/photos/kind ")


def test_shards_in_a_bucket_are_read_by_ranges(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = probe(tmp_path / "shard-*.tar", tmp_path / "here", monkeypatch)
    assert probe(f"s3://{BUCKET}/shard-*.tar", tmp_path / "there", monkeypatch) == here


def test_a_connection_that_breaks_in_an_image_is_tried_again(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = probe(tmp_path / "photos", tmp_path / "here", monkeypatch)
    line.cut = 7  # s3fs itself gives up after five tries of one image
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there = probe(f"s3://{BUCKET}/photos", tmp_path / "there", monkeypatch)
    assert there == here
    assert line.cut == 0
    messages = [str(warning.message) for warning in caught if warning.category is RunWarning]
    assert messages == ["Reading from bucket failed and is tried again (reported once)."]


def test_a_line_that_stays_broken_is_one_message(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.cut = 10**6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        with pytest.raises(DataError, match=rf"s3://{BUCKET}/photos/.* could not be read in 5 tries"):
            frostline.load_data(f"s3://{BUCKET}/photos")


@pytest.mark.parametrize("what", ["photos", "shard-*.tar", "shard-0.tar"])
@pytest.mark.parametrize("known", ["wrong", "none"])
def test_wrong_and_missing_credentials_are_one_message_at_once(
    what: str, known: str, line: Line, running: tuple[Line, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = None if known == "none" else "wrong-secret-key"
    sign_in(monkeypatch, wrong, wrong)
    with rights_asked(running[1]), pytest.raises(DataError, match="may not be read: credentials") as refusal:
        frostline.load_data(f"s3://{BUCKET}/{what}")
    assert "AWS_PROFILE" in str(refusal.value)
    assert "wrong-secret-key" not in str(refusal.value)
    assert line.asked == []
    sign_in(monkeypatch, "testing", "testing")


@contextmanager
def rights_asked(address: str) -> Iterator[None]:
    """Let the server refuse keys that it did not give out, which it does not do by itself."""

    def allow(actions: str) -> None:
        plain = {"Content-Type": "text/plain"}
        urlopen(Request(f"{address}/moto-api/reset-auth", actions.encode(), plain)).close()

    allow("0")
    try:
        yield
    finally:
        allow("1000000")


def test_what_is_not_there_is_said(line: Line) -> None:
    for missing in ("nowhere/photos", f"{BUCKET}/none.tar"):
        with pytest.raises(DataError, match=f"s3://{missing} does not exist"):
            frostline.load_data(f"s3://{missing}")
