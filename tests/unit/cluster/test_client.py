"""The client against a real socket: what the server answers, and what it does not."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmbackup.cluster import client as module
from vmbackup.cluster.client import Client, find_kubeconfig
from vmbackup.cluster.errors import APIServerAway, Conflict, Denied, NotFound
from vmbackup.errors import NotYet, Refused

Answer = Callable[[http.server.BaseHTTPRequestHandler], object]


class Server:
    """Answers every request with `answer`; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Answer = says(200, {})
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append((self.command, self.path, headers, self.rfile.read(length)))
                outer.answer(self)

            do_GET = do_PATCH = handle_one  # noqa: N815 - the names are http.server's

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=lambda: self.http.serve_forever(poll_interval=0.01), daemon=True).start()


def says(status: int, body: Any, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def kubeconfig(directory: Path, url: str) -> Path:
    content = {
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret-word"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
    }
    path = directory / "config"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def client(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    client = Client(kubeconfig(tmp_path, server.url), field_manager="vmbackup-agent")
    yield client
    client.close()


def test_a_patch_says_who_writes_what(server: Server, client: Client) -> None:
    server.answer = says(200, {"kind": "VMBackup"})
    assert client.patch("/apis/x/y", {"status": {"node": "n1"}}) == {"kind": "VMBackup"}
    ((method, path, headers, body),) = server.asked
    assert (method, path) == ("PATCH", "/apis/x/y?fieldManager=vmbackup-agent")
    assert headers["content-type"] == "application/merge-patch+json"
    assert headers["authorization"] == "Bearer secret-word"
    assert headers["user-agent"] == "vmbackup-agent"
    assert json.loads(body) == {"status": {"node": "n1"}}


def test_long_lists_are_read_in_chunks(server: Server, client: Client) -> None:
    pages = iter([{"items": [{"n": 1}], "metadata": {"continue": "a+b/c=="}}, {"items": [{"n": 2}], "metadata": {}}])
    server.answer = lambda handler: says(200, next(pages))(handler)  # noqa: PLW0108 - one page per request
    assert list(client.list("/apis/x")) == [{"n": 1}, {"n": 2}]
    assert [path for _, path, _, _ in server.asked] == ["/apis/x?limit=500", "/apis/x?limit=500&continue=a%2Bb/c%3D%3D"]


@pytest.mark.parametrize(
    ("status", "kind", "next_"),
    [
        (409, Conflict, NotYet),
        (429, APIServerAway, NotYet),
        (500, APIServerAway, NotYet),
        (503, APIServerAway, NotYet),
        (404, NotFound, Refused),
        (410, NotFound, Refused),
        (403, Denied, Refused),
        (401, Denied, Refused),
        (422, Denied, Refused),
    ],
)
def test_every_refusal_says_what_happens_next(
    server: Server, client: Client, status: int, kind: type[Exception], next_: type[Exception]
) -> None:
    server.answer = says(status, {"kind": "Status", "message": "the server's own words"}, Retry_After="7")
    with pytest.raises(kind, match="the server's own words") as caught:
        client.get("/apis/x")
    assert isinstance(caught.value, next_)
    assert len(server.asked) == 1, "retries belong to the caller"
    if isinstance(caught.value, APIServerAway):
        assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize(("status", "words"), [(502, "bad gateway"), (200, "no JSON")])
def test_a_page_of_somebody_in_between_is_no_answer(server: Server, client: Client, status: int, words: str) -> None:
    server.answer = says(status, b"<html>bad gateway</html>")
    with pytest.raises(APIServerAway, match=words):
        client.get("/apis/x")


def test_a_server_that_never_answers_is_left_after_the_time_limit(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.1)
    released = threading.Event()
    server.answer = lambda _handler: released.wait(10)
    with pytest.raises(APIServerAway):
        client.get("/apis/x")
    released.set()


def test_a_broken_connection_is_a_server_that_is_away(server: Server, client: Client) -> None:
    server.answer = lambda handler: handler.connection.close()
    with pytest.raises(APIServerAway):
        client.patch("/apis/x", {})


def test_nobody_there_is_a_server_that_is_away(tmp_path: Path) -> None:
    client = Client(kubeconfig(tmp_path, "http://127.0.0.1:1"), field_manager="x")
    with pytest.raises(APIServerAway):
        client.get("/apis/x")


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        Client(tmp_path / "no-such-file", field_manager="x")


def test_which_kubeconfig_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert find_kubeconfig(None) is None
    usual = tmp_path / ".kube" / "config"
    usual.parent.mkdir()
    usual.touch()
    assert find_kubeconfig(None) == usual
    monkeypatch.setenv("KUBECONFIG", "/from/environment")
    assert find_kubeconfig(None) == Path("/from/environment")
    assert find_kubeconfig("/given") == Path("/given")
