"""Google's credentials against token endpoints whose answers have no end, by Google's own library."""

from __future__ import annotations

import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest
from google.auth.exceptions import GoogleAuthError
from google.oauth2.credentials import Credentials

from backlog_clearer.brokers.googlepubsub import credentials as login
from backlog_clearer.testing.support import Stopwatch, answering

LONG_S = 20.0
STEP_S = 0.05


class _Tokens(BaseHTTPRequestHandler):
    """Answers with much at once, in small pieces, or with a token, by the path."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.path == "/token":
            self.wfile.write(b'{"access_token": "of a test", "expires_in": 3600}')
            return
        begun = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - begun < LONG_S:
                self.wfile.write(bytes(65536) if self.path == "/endless" else b" ")
                time.sleep(0 if self.path == "/endless" else STEP_S)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name of the base class
        """Print nothing."""


def refreshed(port: int, path: str) -> Credentials:
    """Credentials after they asked this endpoint for a token."""
    made = Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token="of a test",
        token_uri=f"http://127.0.0.1:{port}{path}",
        client_id="c",
        client_secret="of a test",
    )
    found: Credentials = login.with_bounded_refresh(made)
    found.refresh(None)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize(
    ("path", "reason"), [("/endless", "more than 12,582,912 bytes"), ("/drip", "no whole answer")]
)
def test_a_token_endpoint_without_an_end_is_an_error(
    monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    """It is given up by its size and by its time, as the library's own error."""
    if path == "/drip":
        monkeypatch.setattr(login, "WHOLE_S", 0.5)
    with answering(_Tokens) as port, Stopwatch() as watch:
        with pytest.raises(GoogleAuthError, match=reason):
            refreshed(port, path)
        assert watch.seconds < LONG_S


def test_a_token_of_an_endpoint_that_answers_is_used() -> None:
    """The bounds change nothing of an ordinary answer."""
    with answering(_Tokens) as port:
        assert refreshed(port, "/token").token == "of a test"
