"""Downloads go on where they broke off and nothing half, foreign or glued together ends up in its place."""

import errno
import hashlib
import re
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cil.common.errors import UserError, explain
from cil.data import download as module
from cil.data.download import digest_of, fetch

BODY = bytes(i * 7 % 251 for i in range(3_000_000))
OTHER = bytes(i * 11 % 241 for i in range(3_000_000))


class Files:
    """What the server has and how it misbehaves."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.ranges, self.conditions, self.etags = True, True, True
        self.cuts: list[int] = []  # bytes sent before the connection drops, one an answer
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.condition: str | None = None  # the last If-Range


class Handler(BaseHTTPRequestHandler):
    def __init__(self, files: Files, *given) -> None:
        self.files = files
        super().__init__(*given)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files, wanted = self.files, self.headers.get("Range")
        files.asked.append((self.command, self.path, wanted))
        files.condition = self.headers.get("If-Range")
        body = files.bodies.get(self.path)
        if body is None:
            return self.send_error(404)
        etag, start, code = f'"{hashlib.md5(body).hexdigest()}"', 0, 200
        current = not files.conditions or self.headers.get("If-Range") in (None, etag)
        if files.ranges and wanted and current:
            start, code = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(code)
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if files.etags:
            self.send_header("ETag", etag)
        for key, value in files.headers.get(self.path, {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "GET":
            cut = files.cuts.pop(0) if files.cuts else len(body)
            self.wfile.write(body[start : start + cut])
        return None


@pytest.fixture
def files(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    files = Files()
    files.bodies["/f"] = BODY
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, files))
    server.handle_error = lambda *given: None  # what a client that breaks off leaves behind
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    yield files
    server.shutdown()
    server.server_close()


def sha(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def break_off(files, file, at: int, digest: str | None = None) -> None:
    """A call that gave up after so many bytes."""
    files.cuts = [at] + [0] * module.AGAIN
    with pytest.raises(UserError, match=rf"broke off 4 times, {at} bytes are kept in .*\.part; type the same command"):
        fetch(f"{files.url}/f", file, digest)
    assert not file.exists() and file.with_name("f.part").stat().st_size == at


def test_a_file_comes_whole_and_leaves_nothing_beside_it(files, tmp_path, capsys):
    assert fetch(f"{files.url}/f", tmp_path / "in" / "f", None) == sha(BODY)
    assert (tmp_path / "in" / "f").read_bytes() == BODY and names(tmp_path / "in") == ["f"]
    assert capsys.readouterr().err == f"fetching f from {files.url}/f\n"


def test_md5_is_given_back_as_md5(files, tmp_path):
    wanted = f"md5:{hashlib.md5(BODY).hexdigest()}"
    assert fetch(f"{files.url}/f", tmp_path / "f", wanted) == wanted == f"md5:{digest_of(tmp_path / 'f', 'md5')}"


def test_a_broken_connection_is_taken_up_in_the_same_call(files, tmp_path):
    files.cuts = [1_000_000, 500_000]
    assert fetch(f"{files.url}/f", tmp_path / "f", None) == sha(BODY)
    assert [asked[2] for asked in files.asked] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_the_next_call_goes_on(files, tmp_path):
    break_off(files, tmp_path / "f", 1_000_000)
    files.asked.clear()
    assert fetch(f"{files.url}/f", tmp_path / "f", sha(BODY)) == sha(BODY)
    assert [asked[2] for asked in files.asked] == ["bytes=1000000-"] and names(tmp_path) == ["f"]
    assert files.condition == f'"{hashlib.md5(BODY).hexdigest()}"'


def test_a_server_without_ranges_starts_over(files, tmp_path):
    files.ranges = False
    files.cuts = [1_000_000]
    assert fetch(f"{files.url}/f", tmp_path / "f", sha(BODY)) == sha(BODY)
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("conditions", [True, False])
def test_a_changed_file_is_not_glued(files, tmp_path, conditions):
    """Also where the server does not know If-Range and would send the rest of the new file."""
    files.conditions = conditions
    break_off(files, tmp_path / "f", 1_000_000)
    files.bodies["/f"] = OTHER
    assert fetch(f"{files.url}/f", tmp_path / "f", None) == sha(OTHER)
    assert (tmp_path / "f").read_bytes() == OTHER


def test_without_a_version_and_a_digest_nothing_is_continued(files, tmp_path):
    files.etags = False
    (tmp_path / "f.part").write_bytes(OTHER[:1_000_000])
    assert fetch(f"{files.url}/f", tmp_path / "f", None) == sha(BODY)
    assert files.asked[0][2] is None


def test_a_part_that_is_whole_already(files, tmp_path):
    break_off(files, tmp_path / "f", 1_000_000, sha(BODY))
    (tmp_path / "f.part").write_bytes(BODY)
    files.asked.clear()
    assert fetch(f"{files.url}/f", tmp_path / "f", sha(BODY)) == sha(BODY)
    assert [asked[2] for asked in files.asked] == ["bytes=3000000-"]


def test_a_part_longer_than_the_file_starts_over(files, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY + b"more")
    assert fetch(f"{files.url}/f", tmp_path / "f", sha(BODY)) == sha(BODY)
    assert names(tmp_path) == ["f"]


def test_a_wrong_digest_is_refused_and_removed(files, tmp_path):
    with pytest.raises(UserError) as told:
        fetch(f"{files.url}/f", tmp_path / "f", sha(OTHER))
    assert sha(BODY)[7:19] in str(told.value) and sha(OTHER)[7:19] in str(told.value) and "\n" not in str(told.value)
    assert names(tmp_path) == []


def test_a_file_that_was_there_stays_until_another_is_whole(files, tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(UserError):
        fetch(f"{files.url}/f", tmp_path / "f", sha(OTHER))
    assert (tmp_path / "f").read_bytes() == b"old"


def test_addresses_that_lead_nowhere(files, tmp_path):
    with pytest.raises(UserError, match=rf"{files.url}/g answered 404 Not Found; check the address"):
        fetch(f"{files.url}/g", tmp_path / "g", None)
    for url in ("http://127.0.0.1:9/f", "nonsense", (tmp_path / "absent").as_uri()):
        with pytest.raises(UserError, match=f"{re.escape(url)} cannot be reached"):
            fetch(url, tmp_path / "g", None)


def test_a_file_of_this_machine(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    assert fetch((tmp_path / "a").as_uri(), tmp_path / "b", None) == sha(BODY)
    assert names(tmp_path) == ["a", "b"]


def test_a_full_disk_is_told_as_one_and_the_part_stays(files, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError) as told:
        fetch(f"{files.url}/f", tmp_path / "f", None)
    assert told.value.errno == errno.ENOSPC and "is full" in explain(told.value)
    assert (tmp_path / "f.part").exists() and not (tmp_path / "f").exists()


def test_two_processes_do_not_write_one_part(files, tmp_path):
    with module.Part(tmp_path / "f").held(), pytest.raises(UserError, match="being fetched by another process"):
        fetch(f"{files.url}/f", tmp_path / "f", None)


def test_a_bar_where_somebody_watches(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    assert fetch(f"{files.url}/f", tmp_path / "f", None) == sha(BODY)
    captured = capsys.readouterr()
    assert "3.0/3.0 MB" in captured.err and captured.out == ""
