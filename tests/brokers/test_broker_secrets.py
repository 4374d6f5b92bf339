"""The systems' real libraries against servers that repeat what they are sent: nothing of a secret is shown."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.secret_forms import leaks
from tests.secret_paths import SECRET, SYSTEMS
from tests.test_secrets import command


class _Echo(BaseHTTPRequestHandler):
    """Answers every request with all of it: its line, its headers and its body."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:  # http.server's name
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size).decode(errors="replace")
        said = f"refused: {self.requestline} {self.headers} {body}"
        answer: Any = {"reason": said, "error": said, "error_description": said}
        status: int = self.server.status  # type: ignore[attr-defined] # see `echoing`
        if "openid-configuration" in self.path:
            status = 200
            answer = {"token_endpoint": f"http://{self.headers['Host']}/token"}
        data = json.dumps(answer).encode()
        self.send_response(status, f"Refused {self.headers.get('Authorization', '')}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_HEAD = do_CONNECT = do_GET  # noqa: N815 # http.server's names

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class _Repeat(socketserver.BaseRequestHandler):
    """Sends back what it gets, once."""

    def handle(self) -> None:
        self.request.settimeout(2)
        for _ in range(3):
            try:
                data = self.request.recv(65536)
            except OSError:
                return
            if not data:
                return
            self.request.sendall(data)


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    server.daemon_threads = True  # type: ignore[attr-defined] # both servers have threads
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def echoing(status: int) -> Iterator[int]:
    """The port of an HTTP server that answers with this status and the request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.status = status  # type: ignore[attr-defined] # for the handler
    with _serving(server) as port:
        yield port


@contextmanager
def repeating() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Repeat)) as port:
        yield port


def _oidc(port: int, reader: str) -> list[str]:
    settings = {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "app", "sasl.oauthbearer.client.secret": SECRET,
        "sasl.oauthbearer.token.endpoint.url": f"http://127.0.0.1:{port}/token",
    }  # fmt: skip
    flags = [text for key, value in settings.items() for text in ("-X", f"{key}={value}")]
    return ["kafka", *SYSTEMS["kafka"], "--reader", reader, *flags]


def _pulsar(port: int, *login: str) -> list[str]:
    return ["pulsar", *SYSTEMS["pulsar"], "--admin-url", f"http://127.0.0.1:{port}", *login]


def _oauth2(port: int) -> list[str]:
    Path("input-key.json").write_text(json.dumps({"client_id": "app", "client_secret": SECRET}))
    issuer = ["--oauth2-issuer-url", f"http://127.0.0.1:{port}", "--oauth2-audience", "a"]
    return _pulsar(port, "--oauth2-key-file", "input-key.json", *issuer)


def _proxied(port: int) -> list[str]:
    key = f"Endpoint=sb://127.0.0.1/;SharedAccessKeyName=R;SharedAccessKey={SECRET};EntityPath=e"
    proxy = f"http://user:{SECRET.replace('/', '%2F').replace('+', '%2B')}@127.0.0.1:{port}"
    return [
        "eventhubs", "--connection-string", key, "--no-checkpoint", "--transport", "websocket", "--http-proxy",
        proxy,
    ]  # fmt: skip


HTTP: dict[str, Callable[[int], list[str]]] = {
    "kafka, client": lambda port: _oidc(port, "client"),
    "kafka, headers": lambda port: _oidc(port, "headers"),
    "pulsar, token": lambda port: _pulsar(port, "--token", SECRET),
    "pulsar, oauth2": _oauth2,
    "event hubs": _proxied,
}
"""Calls of systems whose login is answered by the server at a port."""

QUICK = (
    "kafka, headers",
    "pulsar, token",
    "pulsar, oauth2",
)  # the others retry, or wait for a time-out


@pytest.mark.parametrize(("path", "status"), [*product(QUICK, (400, 403)), *product(HTTP, (401,))])
def test_a_login_that_repeats_the_request_shows_no_secret(
    path: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """A token endpoint, an admin API and a proxy that answer with the whole request, refused or not."""
    monkeypatch.chdir(tmp_path)
    with echoing(status) as port:
        args = ("status", *HTTP[path](port), "--log-level", "debug")
        seen = command(caplog, *args)
    assert "127.0.0.1" in seen.check(1, 2)
    login = base64.b64encode(f"app:{SECRET}".encode()).decode()
    assert login[:12] not in seen.text
    assert not leaks(seen.text, login)


def test_a_server_that_repeats_a_login_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server than Iggy, which sends back what it gets: the error has no byte of the password."""
    import_module("apache_iggy")  # not on every Python
    monkeypatch.chdir(tmp_path)
    with repeating() as port:
        args = ("status", "iggy", *SYSTEMS["iggy"], "--port", str(port), "--log-level", "debug")
        assert "127.0.0.1" in command(caplog, *args).check(1)


def test_a_refused_refresh_of_google_credentials_shows_no_secret(tmp_path: Path) -> None:
    """The library's error has the answer of the token endpoint, which may repeat the client's secret."""
    transport = pytest.importorskip("google.auth.transport.requests")
    login = pytest.importorskip("backlog_clearer.brokers.googlepubsub.credentials")
    errors = pytest.importorskip("backlog_clearer.brokers.googlepubsub.errors")
    with echoing(401) as port:
        key = {
            "type": "authorized_user", "client_id": "app", "client_secret": SECRET, "refresh_token": SECRET,
            "token_uri": f"http://127.0.0.1:{port}/token",
        }  # fmt: skip
        (tmp_path / "key.json").write_text(json.dumps(key))
        credentials = login.google_credentials(str(tmp_path / "key.json"))
        credentials._token_uri = key["token_uri"]  # of such a file, the library takes Google's own
        with pytest.raises(login.GoogleAuthError) as refused:
            credentials.refresh(transport.Request())
    assert leaks(str(refused.value), SECRET), "the library's error does not repeat the request any more"
    error = errors.to_broker_error(refused.value, errors.Call("look-up", "s", "p", "host"))
    assert not leaks(str(error), SECRET)
