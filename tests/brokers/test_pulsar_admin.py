"""Logins to Pulsar's admin API when it redirects."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.testing.support import answering, make_certificates


@contextmanager
def serving(scheme: str, folder: Path, seen: list[str | None], onward: str = "") -> Iterator[str]:
    """A server that records the logins it gets, and redirects to another one, or has no partitions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(307 if onward else 200)
            if onward:
                self.send_header("Location", onward + self.path)
            body = b"" if onward else b'{"partitions": 0}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with answering(Handler, context) as port:
        yield f"{scheme}://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("http", "http", True),
        ("http", "https", True),
        ("https", "https", True),
        ("https", "http", False),
    ],
)
def test_login_follows_to_the_owner(tmp_path: Path, first: str, second: str, *, shown: bool) -> None:
    """The login is sent to the broker that a redirect leads to, but never from HTTPS to HTTP."""
    make_certificates(tmp_path)
    seen: list[str | None] = []
    with serving(second, tmp_path, seen) as owner, serving(first, tmp_path, seen, owner) as asked:
        options = PulsarOptions(
            service_url="pulsar://127.0.0.1:7000",
            admin_url=asked,
            topic="t",
            subscription="s",
            tls_trust_certs=str(tmp_path / "ca.pem"),
            token="s3cret",
        )
        admin = Admin(asked, options, access(options))
        with closing(admin):
            assert admin.partitions("persistent://public/default/t") == 0
    assert seen == ["Bearer s3cret", "Bearer s3cret" if shown else None]
