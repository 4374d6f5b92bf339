"""An OAuth2 issuer for client credentials, which runs in this process."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

from backlog_clearer.testing.support import answering

CLIENT, SECRET = "tool", "s3cret-of-tool"


class Issuer(NamedTuple):
    """A running issuer."""

    url: str
    forms: list[dict[str, list[str]]]  # of the requests for a token


@contextmanager
def issuing(
    token: Callable[[], str],
    folder: Path | None = None,
    *,
    refusal: tuple[int, str] = (401, '{"error": "access_denied"}'),
) -> Iterator[Issuer]:
    """An issuer that gives a token to the client `CLIENT`, and refuses others in the given way.

    With a folder from `make_certificates` it uses TLS.
    """
    forms: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/.well-known/openid-configuration":
                self._answer(404, "<html>not here</html>")
            else:
                self._answer(200, json.dumps({"token_endpoint": f"{url}/token"}))

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            forms.append(form)
            if form["client_id"] == [CLIENT] and form["client_secret"] == [SECRET]:
                self._answer(200, json.dumps({"access_token": token(), "expires_in": 3600}))
            else:
                status, body = refusal
                self._answer(status, body.replace("ECHO", form["client_secret"][0]))

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    context = None
    if folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with answering(Handler, context) as port:
        url = f"{'https' if folder else 'http'}://127.0.0.1:{port}"
        yield Issuer(url, forms)
