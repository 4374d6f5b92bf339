"""A reverse proxy before an HTTP service that answers some requests in the service's place."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler

from backlog_clearer.testing.support import answering

Fault = Callable[[str, str, bytes], int | None]
"""(method, path, body) to the status that is answered instead; None: the service answers."""

SILENCE = 0
"""Instead of a status: the connection ends without an answer."""


@contextmanager
def flaky(port: int, fault: Fault, answer_body: bytes = b"") -> Iterator[int]:
    """The proxy's own port, for a `with` block; `answer_body` is the body of its own answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = fault(self.command, self.path, body)
            if status == SILENCE:
                self.close_connection = True
                return
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer_body)))
                self.end_headers()
                self.wfile.write(answer_body)
                return
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as upstream:
                upstream.request(self.command, self.path, body or None, dict(self.headers))
                answer = upstream.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815 # the library's names

        def log_message(self, *_args: object) -> None:
            """Nothing: the service has its own log."""

    with answering(Handler) as own:
        yield own
