"""One HTTP connection that is kept open, against sockets that answer in every way an HTTP server may."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlog_clearer.answers import MOST_BYTES
from backlog_clearer.brokers.shared.http_connection import (
    HttpAnswer,
    HttpConnection,
    HttpError,
    http_head,
)
from backlog_clearer.testing.support import wait_until

LONG_S = 20.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SIZED = HEAD + b"Content-Length: 7\r\n\r\n" + b'{"a":1}'
CHUNKED = (
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n" + b'{"a\r\n4\r\n":1}\r\n0\r\nT: 1\r\n\r\n'
)
AFTER_ANOTHER = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CLOSED = b'HTTP/1.0 200 OK\r\n\r\n{"a":1}'


@contextmanager
def sending(*answers: Sequence[bytes], closes: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each request on its only connection with the next pieces; what it received."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError), server.accept()[0] as made:
                for pieces in answers:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        if not (more := made.recv(65536)):
                            return
                        request += more
                    received.append(request)
                    for piece in pieces:
                        made.sendall(piece)
                if not closes:
                    made.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/", received
    thread.join(LONG_S)


def asked(connection: HttpConnection, seconds: float = LONG_S) -> HttpAnswer:
    """The answer to a request."""
    return connection.ask("GET", "/a?b=c", {}, None, time.monotonic() + seconds)


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, AFTER_ANOTHER, CLOSED], ids=lambda each: each[-30:])
def test_content_is_whole_however_its_end_is_announced(answer: bytes) -> None:
    """A length, chunks, and the end of the connection all end the content; only the last ends its use."""
    closes = answer is CLOSED
    with (
        sending([answer], closes=closes) as (url, _),
        closing(HttpConnection(url, LONG_S, None)) as made,
    ):
        found = asked(made)
        assert (found.status, found.reason, found.content) == (200, "OK", b'{"a":1}')
        assert made.usable is not closes


@given(st.lists(st.integers(1, 40), max_size=8))
@settings(max_examples=15, deadline=None)
def test_an_answer_in_pieces_is_the_same_answer(cuts: list[int]) -> None:
    """Wherever an answer is cut on its way, what is read of it is the same."""
    pieces, rest = [], CHUNKED
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    with sending([*pieces, rest]) as (url, _), closing(HttpConnection(url, LONG_S, None)) as made:
        assert asked(made).content == b'{"a":1}'
        assert made.usable


def test_a_connection_answers_one_request_after_another() -> None:
    """A request names the host, its fields, and the size of its body; the next one goes the same way."""
    with (
        sending([EMPTY], [SIZED]) as (url, received),
        closing(HttpConnection(url, LONG_S, None)) as made,
    ):
        until = time.monotonic() + LONG_S
        first = made.ask("POST", "/ü x/%2F?q=1", {"Authorization": "Bearer t"}, b"{}", until)
        assert (first.status, first.content) == (204, b"")
        assert made.usable
        assert asked(made).content == b'{"a":1}'
        host = url.removeprefix("http://").rstrip("/")
        assert received[0].decode() == (
            f"POST /%C3%BC%20x/%2F?q=1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer t\r\n"
            "Content-Length: 2\r\n\r\n{}"
        )


def test_a_connection_that_the_other_side_ended_is_not_usable() -> None:
    """What ends or speaks without being asked is found out before the next request is sent."""
    with sending([SIZED], closes=True) as (url, _), closing(HttpConnection(url, LONG_S, None)) as made:
        asked(made)
        wait_until(lambda: not made.usable, "the end")
    more = SIZED + b"HTTP/1.1 200"
    with sending([more]) as (url, _), closing(HttpConnection(url, LONG_S, None)) as made:
        asked(made)
        wait_until(lambda: not made.usable, "bytes that were not asked for")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed before"),
        (SIZED[:-1], "closed before"),
        (CHUNKED[:-2], "closed before"),
        (b"\x15\x03\x01\x00\x02\x02\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/2 200 OK\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP answer"),
        (HEAD + b"no colon\r\n\r\n", "not valid"),
        (HEAD + b" folded: 1\r\n\r\n", "not valid"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 7\r\n\r\n{}", "two lengths"),
        (HEAD + b"Content-Length: -7\r\n\r\n{}", "not a number"),
        (HEAD + b"Content-Length: 999999999999\r\n\r\n{}", "more than"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", "not a number"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{}", "more than"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}{}", "does not end"),
        (HEAD + b"X: " + b"x" * 70_000, "a header of more than"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_an_answer_that_is_none_is_an_error(answer: bytes, text: str) -> None:
    """What is cut off, too large, or not HTTP is an error with its reason, never a shorter answer."""
    with (
        sending([answer], closes=True) as (url, _),
        closing(HttpConnection(url, LONG_S, None)) as made,
        pytest.raises(HttpError, match=text),
    ):
        asked(made)


def test_content_without_a_length_is_bounded() -> None:
    """A body that ends with the connection is given up once it is larger than any answer."""
    pieces = [b"HTTP/1.0 200 OK\r\n\r\n", *[bytes(1024 * 1024)] * (MOST_BYTES // 1024 // 1024 + 1)]
    with (
        sending(pieces, closes=True) as (url, _),
        closing(HttpConnection(url, LONG_S, None)) as made,
        pytest.raises(HttpError, match="more than"),
    ):
        asked(made)


def test_a_field_with_a_line_break_is_not_sent() -> None:
    """Nothing is sent that would be another field, or another request."""
    with sending([SIZED]) as (url, received), closing(HttpConnection(url, LONG_S, None)) as made:
        for target, fields in (("/", {"A": "b\r\nC: d"}), ("/", {"A\n": "b"})):
            with pytest.raises(ValueError, match="line break"):
                made.ask("GET", target, fields, None, time.monotonic() + LONG_S)
        assert asked(made).status == 200
        assert len(received) == 1


def test_a_name_server_may_take_longer_than_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up of an address has the time of the whole request, and no more."""
    look_up, ended = socket.getaddrinfo, threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        ended.wait(0.3)
        return look_up(*args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with sending([SIZED]) as (url, _):
        with closing(HttpConnection(url, 0.2, None, whole_s=LONG_S)) as made:
            assert asked(made).status == 200
        with pytest.raises(TimeoutError):
            HttpConnection(url, 0.2, None)
    ended.set()


@given(st.text(alphabet="HTP/1.0 2:\r\nabc-"))
def test_a_head_of_anything_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than by refusing it."""
    try:
        status, _, fields = http_head(f"HTTP/1.1 200{text}")
    except HttpError:
        return
    assert status == 200
    assert all(name == name.lower().strip() for name in fields)
