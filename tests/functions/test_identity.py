"""The storage queue reached with a managed identity: App Service's token endpoint, HTTPS, Azurite."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from backlog_clearer.errors import BrokerError
from backlog_clearer.fanout.configuration import Request
from backlog_clearer.testing.servers.azurite import Azurite, azurite
from backlog_clearer.testing.servers.kafka_judge import unique
from backlog_clearer.testing.support import answering
from functions.storage_queue import StorageQueue
from tests.functions.azure_host import queues


@dataclass
class Endpoint:
    """The token endpoint of a function app's or container app's identities."""

    port: int
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    status: int = 200


def token() -> str:
    """A token for Storage; Azurite checks who issued it for what and when, not the signature."""
    now = int(time.time())
    claims = {"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant/"}
    times = {"iat": now, "nbf": now - 60, "exp": now + 3600}
    return jwt.encode({**claims, **times}, "a key of at least thirty-two bytes", algorithm="HS256")


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """The endpoint: https://learn.microsoft.com/azure/app-service/overview-managed-identity."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["X-IDENTITY-HEADER"] == "header-1"
            found.asked.append(parse_qs(urlsplit(self.path).query))
            value = {
                "access_token": token(),
                "expires_on": str(int(time.time()) + 3600),
                "resource": "https://storage.azure.com",
                "token_type": "Bearer",
            }
            data = json.dumps(
                value if found.status == 200 else {"message": "no such identity"}
            ).encode()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    with answering(Handler) as port:
        found = Endpoint(port)
        yield found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Azurite, Path]]:
    """A storage account with TLS, and the folder of its authority."""
    folder = tmp_path_factory.mktemp("azurite")
    with azurite(folder, tls=True) as found:
        yield found, folder


@pytest.fixture
def identity(
    storage: tuple[Azurite, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Endpoint, dict[str, str]]]:
    """An identity's endpoint, and the settings that name a queue to reach with it."""
    for name in ("AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(storage[1] / "ca.pem"))
    monkeypatch.setenv("IDENTITY_HEADER", "header-1")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    with endpoint() as found:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{found.port}/msi/token")
        yield (
            found,
            {
                "BACKLOG_CLEARER_QUEUE": unique("slices"),
                "BACKLOG_CLEARER_STORAGE__queueServiceUri": storage[0].queue_url,
            },
        )


@pytest.mark.parametrize("name", ["BACKLOG_CLEARER_STORAGE__clientId", "AZURE_CLIENT_ID"])
def test_the_named_identity_reaches_the_queue(
    storage: tuple[Azurite, Path], identity: tuple[Endpoint, dict[str, str]], name: str
) -> None:
    """Without a connection string slices are enqueued with a token of the named identity."""
    found, environ = identity
    judge, _ = queues(storage[0], environ["BACKLOG_CLEARER_QUEUE"])
    queue = StorageQueue.from_environ({**environ, name: "client-7"})
    queue.put([Request(backlog="orders", slice=index, total=3) for index in range(3)])
    assert judge.get_queue_properties().approximate_message_count == 3
    assert {asked["client_id"][0] for asked in found.asked} == {"client-7"}
    assert {asked["resource"][0] for asked in found.asked} == {"https://storage.azure.com"}


def test_a_missing_identity_names_its_setting(
    storage: tuple[Azurite, Path], identity: tuple[Endpoint, dict[str, str]]
) -> None:
    """Without a token the error names the setting to check, and nothing is enqueued."""
    found, environ = identity
    judge, _ = queues(storage[0], environ["BACKLOG_CLEARER_QUEUE"])
    found.status = 400
    with pytest.raises(BrokerError, match="AZURE_CLIENT_ID"):
        StorageQueue.from_environ(environ).put([Request(backlog="orders", slice=0, total=1)])
    assert found.asked
    assert judge.get_queue_properties().approximate_message_count == 0
