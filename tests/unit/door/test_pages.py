"""The page of metrics: nothing else is served, and nobody in the network can wear the process out."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fakes.waiting import eventually
from vmbackup.core.metrics import CONTROLLER, QUEUE_DEPTH
from vmbackup.door import pages
from vmbackup.door.metrics import Metrics, serve_metrics
from vmbackup.door.pages import READERS_MAX, Page, Server, listening_address


@pytest.fixture
def server() -> Iterator[Server]:
    found = serve_metrics(Metrics(CONTROLLER, lambda: {QUEUE_DEPTH: {(): 7}}), ("127.0.0.1", 0))
    assert found is not None
    yield found
    found.shutdown()
    found.server_close()


def ask(server: Server, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_metrics_are_shown_in_the_words_of_prometheus(server: Server) -> None:
    status, text = ask(server)
    assert status == 200
    assert "# TYPE vmbackup_queue_depth gauge" in text
    assert "\nvmbackup_queue_depth 7.0\n" in text
    assert "\nprocess_resident_memory_bytes " in text
    assert "vmbackup_build_info{version=" in text


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics/", "/metrics/../etc/passwd", "/debug/pprof"])
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(server: Server, method: str) -> None:
    assert ask(server, method=method)[0] == 501


def test_readers_that_say_nothing_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PATIENCE_SECONDS", 1.0)
    server = Server(("127.0.0.1", 0), {"/metrics": lambda: Page(b"fine", "text/plain")})
    with ExitStack() as stack:
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        silent = [stack.enter_context(socket.create_connection(server.server_address[:2], 10)) for _ in range(40)]
        for one in silent:
            one.settimeout(10)
        hung_up = [one for one in silent[READERS_MAX:] if one.recv(1) == b""]
        assert len(hung_up) == len(silent) - READERS_MAX
        eventually(lambda: answered(server), "the next reader is served though the silent ones stay")


def answered(server: Server) -> bool:
    try:
        return ask(server)[0] == 200
    except OSError:
        return False


def test_page_that_cannot_be_made_is_an_error_and_not_the_end() -> None:
    working = False

    def page() -> Page:
        if not working:
            raise RuntimeError("a fault of ours")
        return Page(b"fine", "text/plain")

    server = Server(("127.0.0.1", 0), {"/metrics": page})
    try:
        assert ask(server)[0] == 500
        working = True
        assert ask(server) == (200, "fine")
    finally:
        server.shutdown()
        server.server_close()


def test_address_that_is_taken_is_told_and_ends_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    address = "127.0.0.1", int(server.server_address[1])
    assert serve_metrics(Metrics(CONTROLLER), address) is None
    assert "metrics are not shown" in caplog.text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        (":0", ("", 0)),
        ("[::]:80", ("::", 80)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert listening_address(text) == address


@pytest.mark.parametrize("text", ["9090", "host", "host:", "host:x", "::1:80", "host:65536", "host:-1", "h:²"])
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is no address to listen on: write"):
        listening_address(text)
