"""A proxy before the S3 server that does to requests what networks and busy services do."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.s3_server import HOST, S3Server

FAULTS = ("500", "503", "reset before", "reset after", "truncate", "delay")
_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
_HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Request:
    """What a fault is chosen by."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def is_conditional_put(self) -> bool:
        """Whether it creates an object only where none is."""
        return self.method == "PUT" and "if-none-match" in self.headers


Choice = Callable[[Request], str | None]
"""The fault for a request; None lets it pass. ``"403 Code"`` answers with that status and code."""


def random_faults(seed: int | str, fraction: float, faults: tuple[str, ...] = FAULTS) -> Choice:
    """A seeded choice for a fraction of the requests."""
    draw = random.Random(seed)
    lock = threading.Lock()

    def choose(request: Request) -> str | None:
        with lock:
            return draw.choice(faults) if draw.random() < fraction else None

    return choose


@dataclass
class Proxy:
    """Where it listens, and what it has done so far."""

    endpoint: str
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by fault; ``passed`` those left alone."""
    created: Counter[str] = field(default_factory=Counter)
    """How often the server accepted a conditional put, by path."""

    @property
    def faults(self) -> int:
        """Requests that met a fault."""
        return self.counts.total() - self.counts["passed"]


@contextmanager
def s3_proxy(server: S3Server, choose: Choice, *, delay_seconds: float = 3) -> Iterator[Proxy]:
    """A proxy that answers until the end of the block."""
    httpd = _Httpd((HOST, 0), _Handler)
    httpd.upstream_port, httpd.choose, httpd.delay_seconds = server.port, choose, delay_seconds
    httpd.proxy = Proxy(f"http://{HOST}:{httpd.server_address[1]}")
    httpd.ended = threading.Event()
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield httpd.proxy
    finally:
        httpd.ended.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    upstream_port: int
    choose: Choice
    delay_seconds: float
    proxy: Proxy
    ended: threading.Event

    def shutdown_request(self, request: object) -> None:
        """Close at once: the polite end that comes before would turn a reset into an ordinary one."""
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Httpd
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_expect_100(self) -> bool:
        """Without the flush a client waits for the permission to send, and this proxy for what it sends."""
        permitted = super().handle_expect_100()
        self.wfile.flush()
        return permitted

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        fault = self.server.choose(request)
        self.server.proxy.counts[fault or "passed"] += 1
        if fault is None:
            self._pass_on(request, body)
        elif fault[0].isdigit():
            self._answer_error(fault)
        elif fault == "reset before":
            self._reset()
        elif fault == "reset after":
            self._forward(request, body)
            self._reset()
        elif fault == "truncate":
            self._truncate(request, body)
        elif fault == "flip":
            self._pass_on(request, bytes([body[0] ^ 1]) + body[1:] if body else body)
        else:
            self.server.ended.wait(self.server.delay_seconds)
            self._pass_on(request, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815 - the names that http.server calls

    def _forward(self, request: Request, body: bytes) -> tuple[HTTPResponse, bytes]:
        """The server's answer; the Host header goes along unchanged because the signature covers it."""
        upstream = HTTPConnection(HOST, self.server.upstream_port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_HEADERS:
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if request.is_conditional_put and response.status == 200:
            self.server.proxy.created[request.path] += 1
        return response, content

    def _pass_on(self, request: Request, body: bytes) -> None:
        try:
            response, content = self._forward(request, body)
        except (OSError, HTTPException):
            self._reset()
            return
        self._send_head(response, content)
        with suppress(OSError):
            self.wfile.write(content)
            self.wfile.flush()

    def _truncate(self, request: Request, body: bytes) -> None:
        response, content = self._forward(request, body)
        self._send_head(response, content)
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self._reset()

    def _send_head(self, response: HTTPResponse, content: bytes) -> None:
        self.send_response_only(response.status, response.reason)
        names = {name.lower() for name, _ in response.getheaders()}
        for name, value in response.getheaders():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        if "content-length" not in names and response.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def _answer_error(self, fault: str) -> None:
        status, _, code = fault.partition(" ")
        code = code or {"500": "InternalError", "503": "SlowDown"}[status]
        content = _ERROR.format(code=code, message="as the tests ask").encode()
        self.send_response_only(int(status), code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close with RST, as a peer that died does."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
