"""A front before the API server that can hang up, or answer with an error in its place."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from testbed.controlplane import ControlPlane

PIECE_BYTES = 65536
HOP = {"connection", "transfer-encoding", "content-length", "host"}
Verdict = Callable[[str, str], int | None]  # method and path to the status to answer with; None: pass it on


def all_pass(_method: str, _path: str) -> int | None:
    return None


class Front:
    """`verdict` decides over every request; `hang_up` cuts every connection and takes no new one until `answer`."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.verdict: Verdict = all_pass
        self.refused = 0
        self._away = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.certificate, cluster.directory / "tls.key")
        front = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                raw, address = super().get_request()
                if front._away:
                    raw.close()
                    raise OSError("away")
                raw.settimeout(10)
                connection = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                with front._lock:
                    front._open.add(connection)
                return connection, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # connections die here all the time

            def shutdown_request(self, request: Any) -> None:
                with front._lock:
                    front._open.discard(request)
                super().shutdown_request(request)

        class Handler(_Handler):
            owner = front
            upstream_url = cluster.url
            trust = ssl.create_default_context(cafile=cluster.certificate)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="front", daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        """Return a copy of a kubeconfig that leads here."""
        content = json.loads(path.read_text())
        content["clusters"][0]["cluster"]["server"] = self.url
        copy = path.with_name(f"front.{path.name}")
        copy.write_text(json.dumps(content))
        copy.chmod(0o600)
        return copy

    def hang_up(self) -> None:
        self._away = True
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self) -> None:
        """Be the API server again."""
        self._away, self.verdict = False, all_pass

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ClassVar[Front]
    upstream_url: ClassVar[str]
    trust: ClassVar[ssl.SSLContext]
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.connection.settimeout(None)
        super().handle()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.owner.verdict(self.command, self.path)
        if status is not None:
            self.owner.refused += 1
            self._answer_with(status)
            return
        at = urlsplit(self.upstream_url)
        upstream = http.client.HTTPSConnection(at.hostname or "", at.port, context=self.trust)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            self._relay(upstream.getresponse())
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # as if the API server itself had gone
        finally:
            upstream.close()

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length")
        if length is not None:
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(answer.read())
            return
        self.send_header("Connection", "close")  # a watch: it ends with the connection
        self.end_headers()
        while piece := answer.read1(PIECE_BYTES):
            self.wfile.write(piece)
        self.close_connection = True

    def _answer_with(self, status: int) -> None:
        words = json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(words)))
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(words)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - http.server calls them so

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass
