"""One HTTP/1.1 connection that is kept open, for APIs that are asked thousands of times.

`requests` takes a millisecond of CPU for each request, this about a tenth of that: it sends a request in one
call, parses of an answer only what is needed (RFC 9112), and needs no thread to limit its time as a whole. It
follows no redirect, uses no proxy, no .netrc and no cookies, and repeats nothing.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from backlog_clearer.answers import MOST_BYTES
from backlog_clearer.brokers.shared.sockets import Waitable, connect, wait
from backlog_clearer.deadline import within

_MOST_HEAD = 64 * 1024  # bytes of a status line and its header fields, and of a line in a chunked body
_PIECE_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_LITERAL = "%/:=&?~#+!$,;'@()*[]"  # what `quote` leaves as it is in an address
_NO_CONTENT = frozenset({204, 304})
_CONTINUE = 200  # a status below it announces another one


class HttpAnswer(NamedTuple):
    """An answer with all of its content."""

    status: int
    reason: str
    headers: Mapping[str, str]  # names in small letters; of several with one name, the last
    content: bytes


class HttpError(OSError):
    """What arrived is not an HTTP answer, or not a whole one."""


class HttpConnection(Waitable):
    """A connection to the host of a URL; used by one thread.

    Every method raises `OSError`, of which `ssl.SSLError` is one. After an error it has no further use.
    """

    def __init__(
        self, url: str, timeout_s: float, tls: ssl.SSLContext | None, *, whole_s: float | None = None
    ) -> None:
        """Connect; `tls`: used for https.

        `timeout_s`: seconds for each step; `whole_s`: for all of them and the look-up of the address, which may
        take longer than a step where the first name server is down (None: `timeout_s`).
        """
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or _PORTS[parts.scheme]
        named = f"[{host}]" if ":" in host else host
        self._host = named if port == _PORTS[parts.scheme] else f"{named}:{port}"
        opened = partial(connect, host, port, timeout_s, tls if secure else None)
        self._socket: socket.socket = within(whole_s or timeout_s, opened)
        self._received = bytearray()  # and not used yet
        self._last = False  # the other side closes after the present answer

    @property
    def usable(self) -> bool:
        """Whether another request can be sent: nothing is awaited, so that whatever arrives is the end."""
        return not self._last and not self._received and not wait([self], 0)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        until: float,
    ) -> HttpAnswer:
        """Send a request and return its answer.

        `target`: path and query, encoded. `until`: a `time.monotonic()` by which the whole answer is here.
        Raises `ValueError`, too, for header fields that have line breaks.
        """
        fields = {"Host": self._host, **headers}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {quote(target, _LITERAL)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header field has a line break")
        self._socket.settimeout(max(0.001, until - time.monotonic()))
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        status, reason, found = self._head(until)
        while status < _CONTINUE:
            status, reason, found = self._head(until)
        if method == "HEAD" or status in _NO_CONTENT:
            return HttpAnswer(status, reason, found, b"")
        return HttpAnswer(status, reason, found, self._body(found, until))

    def _head(self, until: float) -> tuple[int, str, dict[str, str]]:
        end = self._find(b"\r\n\r\n", until)
        head = bytes(self._received[:end]).decode("latin-1")
        del self._received[: end + 4]
        status, reason, fields = http_head(head)
        tokens = {token.strip().lower() for token in fields.get("connection", "").split(",")}
        self._last = "close" in tokens or (head.startswith("HTTP/1.0") and "keep-alive" not in tokens)
        return status, reason, fields

    def _find(self, end: bytes, until: float) -> int:
        """Where these bytes are in what is received, which is waited for."""
        start = 0
        while (at := self._received.find(end, start)) < 0:
            if len(self._received) > _MOST_HEAD:
                raise HttpError(f"Connection aborted: a header of more than {_MOST_HEAD:,} bytes")
            start = max(0, len(self._received) - len(end) + 1)
            self._more(until)
        return at

    def _more(self, until: float) -> None:
        """Wait for more bytes; raises where the other side closed."""
        if not self._receive(until):
            raise HttpError("Connection aborted: closed before the whole answer was there")

    def _receive(self, until: float) -> int:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole answer in time")
        self._socket.settimeout(left)
        piece = self._socket.recv(_PIECE_BYTES)
        self._received += piece
        return len(piece)

    def _body(self, headers: Mapping[str, str], until: float) -> bytes:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks(until)
        if "content-length" in headers:
            return self._take(_number(headers["content-length"], 10), until)
        self._last = True
        while self._receive(until):
            _bounded(len(self._received))
        return self._take(len(self._received), until)

    def _take(self, size: int, until: float) -> bytes:
        _bounded(size)
        while len(self._received) < size:
            self._more(until)
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _chunks(self, until: float) -> bytes:
        content = bytearray()
        while size := _number(self._line(until).partition(b";")[0].decode("latin-1").strip(), 16):
            _bounded(len(content) + size)
            content += self._take(size, until)
            if self._take(2, until) != b"\r\n":
                raise HttpError("Connection aborted: a chunk that does not end where it should")
        while self._line(until):  # fields behind the content
            pass
        return bytes(content)

    def _line(self, until: float) -> bytes:
        end = self._find(b"\r\n", until)
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line


def http_head(head: str) -> tuple[int, str, dict[str, str]]:
    """Status, reason, and header fields of an answer's head, without its last empty line: pure.

    Raises `HttpError` for what is not HTTP/1.
    """
    first, *lines = head.split("\r\n")
    protocol, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not protocol.startswith("HTTP/1.") or len(code) != 3 or not code.isascii() or not code.isdigit():  # noqa: PLR2004 digits of a status
        raise HttpError("Connection aborted: not an HTTP answer")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError("Connection aborted: a header field that is not valid")
        name, value = name.lower(), value.strip()
        if name == "content-length" and fields.get(name, value) != value:
            raise HttpError("Connection aborted: two lengths")
        fields[name] = value
    return int(code), reason.strip(), fields


def _number(text: str, base: int) -> int:
    """A size in a header, at most a few digits and nothing else."""
    if not text.isascii() or not text.isalnum() or len(text) > 16:  # noqa: PLR2004 more than any size
        raise HttpError("Connection aborted: a size that is not a number")
    try:
        return int(text, base)
    except ValueError:
        raise HttpError("Connection aborted: a size that is not a number") from None


def _bounded(size: int) -> None:
    if size > MOST_BYTES:
        raise HttpError(f"more than {MOST_BYTES:,} bytes")
