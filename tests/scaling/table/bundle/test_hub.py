"""hf://datasets/USER/NAME, read through the Hub's own library from a Hub of this machine."""

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from isoflop.scaling.table.bundle.hub import address, fetch, on_hub
from isoflop.scaling.table.columns import TableError
from tests.support.tables.shared import write_shared

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """What the library asks of the Hub to fetch a data set: the list of its files, and each of them."""

    folder = Path()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/anna/runs/tree/"):
            self._answer(200, json.dumps([self._listed(name) for name in sorted(os.listdir(self.folder))]).encode())
        elif path.startswith("/api/datasets/anna/runs"):
            files = [{"rfilename": name} for name in sorted(os.listdir(self.folder))]
            body = json.dumps({"id": "anna/runs", "sha": COMMIT, "siblings": files, "private": False, "tags": []})
            self._answer(200, body.encode())
        elif path.startswith("/datasets/anna/runs/resolve/") and (self.folder / path.rsplit("/", 1)[1]).is_file():
            self._answer(200, (self.folder / path.rsplit("/", 1)[1]).read_bytes())
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def _listed(self, name: str) -> dict[str, object]:
        content = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json" if self.path.startswith("/api") else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    FakeHub.folder = write_shared(folder / "runs", folder / "b")
    (FakeHub.folder / ".gitattributes").write_text("x")
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", FakeHub.folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def ended(hub, commands, tmp_path):
    """Exit code of a command that knows this Hub alone, and what it printed."""
    settings = {"HF_ENDPOINT": hub[0], "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

    def run(*arguments: object) -> tuple[int | None, str]:
        command = commands.start(arguments, cwd=tmp_path, **settings)
        printed, _ = command.communicate()
        return command.returncode, printed

    return run


@pytest.mark.slow
@pytest.mark.process
def test_a_bundle_on_the_hub_is_read_and_verified_as_the_folder_is(hub, ended, tmp_path):
    pytest.importorskip("huggingface_hub")
    code, message = ended("compact", "hf://datasets/anna/runs", "-o", "far.parquet")
    assert code == 0, message
    code, message = ended("compact", hub[1], "-o", "near.parquet")
    assert code == 0, message
    assert (tmp_path / "far.parquet").read_bytes() == (tmp_path / "near.parquet").read_bytes()
    code, message = ended("share", "--check", "hf://datasets/anna/runs@main")
    assert code == 0, message
    assert "hf://datasets/anna/runs@main: verifies: 3 runs, the ids of 3 follow" in message
    code, message = ended("compact", "hf://datasets/anna/runs/runs.parquet", "-o", "one.parquet")
    assert code == 0, message
    code, message = ended("fit", "hf://datasets/anna/nothing")
    assert code == 2
    assert message.startswith("isoflop: hf://datasets/anna/nothing: the Hub did not give it (")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "place",
    ["hf://datasets", "hf://datasets/x", "hf://models/a/b", "hf://a/b", "hf:", "hf://datasets/../b", "hf://datasets/a/.b",
     "hf://datasets/a/b@", "hf://datasets/a/b@../x"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_anything_is_asked(place):
    with pytest.raises(TableError, match="write it as hf://datasets/USER/NAME"):
        fetch(Path(place), [])


def test_a_path_keeps_its_address():
    assert on_hub(Path("hf://datasets/a/b"))
    assert not on_hub(Path("hf/datasets/a/b"))
    assert address(Path("hf://datasets/a/b@v1/x.csv")) == "hf://datasets/a/b@v1/x.csv"


def test_without_the_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TableError, match=r"pip install 'isoflop\[hub\]'"):
        fetch(Path("hf://datasets/a/b"), [])
