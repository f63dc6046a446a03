"""A small web server for pages that others read: bounded, so that nobody in the network can wear the process out."""

import http.server
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

READERS_MAX = 8  # at once; others are hung up on
PATIENCE_SECONDS = 5.0  # with a reader that says nothing, or takes nothing

log = logging.getLogger(__name__)


class Page(NamedTuple):
    body: bytes
    content_type: str
    status: int = 200


Address = tuple[str, int]
Pages = Mapping[str, Callable[[], Page]]


def listening_address(text: str) -> Address:
    """Read `host:port`, `[v6 address]:port` or `:port` (all addresses).

    Raises: ValueError: it is none.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address to listen on: write host:port, such as 0.0.0.0:9090")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text!r} is no address to listen on: write an IPv6 address in brackets, such as [::]:9090")
    return host.strip("[]"), int(port)


class Server(http.server.ThreadingHTTPServer):
    """Serves pages from a thread until the process ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: Address, pages: Pages) -> None:
        """Raises: OSError: the address cannot be listened on."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._readers = threading.BoundedSemaphore(READERS_MAX)
        super().__init__(address, _answering(pages))
        threading.Thread(target=self.serve_forever, name="pages", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._readers.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._readers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Readers hang up, and attackers do it often: nothing to talk about. Our own faults are logged in the answer.
        log.debug("a reader at %s went away", client_address, exc_info=True)


def _answering(pages: Pages) -> type[http.server.BaseHTTPRequestHandler]:
    class Answer(http.server.BaseHTTPRequestHandler):
        timeout = PATIENCE_SECONDS
        server_version, sys_version = "vmbackup-operator", ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(404)
                return
            try:
                answer = page()
            except Exception:
                log.exception("%s cannot be shown", self.path)
                self.send_error(500)
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            log.debug(format, *args)

    return Answer
