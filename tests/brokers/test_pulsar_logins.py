"""Pulsar's logins in every form that its clients take, and texts without their secrets."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.brokers.pulsar.auth import Access, access
from backlog_clearer.brokers.pulsar.connection import Connection
from backlog_clearer.brokers.pulsar.options import PulsarOptions, StreamNativeOptions
from backlog_clearer.brokers.pulsar.service_url import Address
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.options.base import build
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.testing.support import make_certificates
from tests.oauth2_issuer import CLIENT, SECRET, issuing

NAMES = {"service_url": "pulsar+ssl://a", "topic": "orders", "subscription": "billing"}
TOKEN = "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl"


def opened(**options: Any) -> Access:
    """How a connection is opened with these options."""
    return access(build(PulsarOptions, {**NAMES, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private authority, and a server's certificate that it signed."""
    made = tmp_path_factory.mktemp("certificates")
    make_certificates(made)
    return made


def key_text(issuer: str, secret: str = SECRET) -> str:
    """An OAuth2 key with its issuer, as StreamNative's are."""
    return json.dumps({"client_id": CLIENT, "client_secret": secret, "issuer_url": issuer})


def _path(key: str, file: Path) -> dict[str, str]:
    file.write_text(key)
    return {"oauth2_private_key": str(file)}


def _file_url(key: str, file: Path) -> dict[str, str]:
    file = file.with_name("a key.json")
    file.write_text(key)
    return {"oauth2_private_key": file.as_uri()}


def _key_file(key: str, file: Path) -> dict[str, str]:
    file.write_text(key)
    return {"oauth2_key_file": file.as_uri()}


def _data_url(key: str, _: Path) -> dict[str, str]:
    return {
        "oauth2_private_key": f"data:application/json;base64,{base64.b64encode(key.encode()).decode()}"
    }


def _content(key: str, _: Path) -> dict[str, str]:
    return {"oauth2_private_key": f"{key}\n"}


def _java_params(key: str, file: Path) -> dict[str, str]:
    file.write_text(key)
    issuer = json.loads(key)["issuer_url"]
    return {
        "auth_plugin": "org.apache.pulsar.client.impl.auth.oauth2.AuthenticationOAuth2",
        "auth_params": json.dumps({"privateKey": file.as_uri(), "issuerUrl": issuer, "type": "x"}),
    }


@pytest.mark.parametrize("form", [_path, _file_url, _key_file, _data_url, _content])
def test_oauth2_keys_in_every_form_log_in(
    folder: Path, tmp_path: Path, form: Callable[[str, Path], dict[str, str]]
) -> None:
    """A key as path, file: URL, data: URL or text gets a token from the issuer in it, over a private CA."""
    with issuing(lambda: TOKEN, folder) as issuer:
        options = form(key_text(issuer.url), tmp_path / "key.json")
        found = opened(**options, oauth2_trust_certs=str(folder / "ca.pem"))
        assert found.credentials() == {"auth_method_name": "token", "auth_data": TOKEN.encode()}
        assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
    (form_sent,) = issuer.forms
    assert "audience" not in form_sent
    assert "scope" not in form_sent


def test_oauth2_parameters_of_a_client_log_in(folder: Path, tmp_path: Path) -> None:
    """What a client.conf has for OAuth2 (privateKey, issuerUrl) is taken as it is."""
    with issuing(lambda: TOKEN, folder) as issuer:
        options = _java_params(key_text(issuer.url), tmp_path / "key.json")
        params = json.loads(options["auth_params"]) | {
            "audience": "urn:a", "scope": "s", "trustCertsFilePath": str(folder / "ca.pem"),
        }  # fmt: skip
        found = opened(auth_plugin=options["auth_plugin"], auth_params=json.dumps(params))
        assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
    assert (issuer.forms[0]["audience"], issuer.forms[0]["scope"]) == (["urn:a"], ["s"])


def test_an_option_replaces_the_issuer_in_the_key(tmp_path: Path) -> None:
    """The issuer of the options is asked rather than the one in the key."""
    with issuing(lambda: TOKEN) as issuer:
        options = _path(key_text("http://127.0.0.1:1"), tmp_path / "key.json")
        assert opened(**options, oauth2_issuer_url=f"{issuer.url}/").bearer is not None
        assert opened(**options, oauth2_issuer_url=f"{issuer.url}/").headers()


@pytest.mark.parametrize(
    ("refusal", "expected", "kind"),
    [
        (
            (401, '{"error": "invalid_client", "error_description": "ECHO"}'),
            "401, invalid_client",
            BrokerError,
        ),
        ((400, '{"error": "ECHO"}'), "HTTP 400)", BrokerError),
        ((403, "<html>ECHO</html>"), "HTTP 403)", BrokerError),
        ((500, "ECHO"), "answered 500", TransientError),
        ((302, "ECHO"), "answered 302", TransientError),
        ((200, "ECHO"), "returned no token", TransientError),
        ((200, '{"access_token": ["ECHO"]}'), "returned no token", TransientError),
    ],
)
def test_refusals_of_an_issuer_show_no_secret(
    tmp_path: Path, refusal: tuple[int, str], expected: str, kind: type[ClearerError]
) -> None:
    """An issuer that echoes the secret of a refused client: the error has the reason, and no secret."""
    with issuing(lambda: TOKEN, refusal=refusal) as issuer:
        found = opened(**_path(key_text(issuer.url, "another-s3cret"), tmp_path / "key.json"))
        with pytest.raises(ClearerError) as raised:
            found.headers()
    assert expected in str(raised.value)
    assert type(raised.value) is kind
    assert "another-s3cret" not in str(raised.value)


def test_faults_of_an_issuer_are_named(folder: Path, tmp_path: Path) -> None:
    """A foreign authority, an address without discovery and one that is closed are distinguished."""
    with issuing(lambda: TOKEN, folder) as issuer:
        key = _path(key_text(issuer.url), tmp_path / "key.json")
        with pytest.raises(BrokerError, match="--oauth2-trust-certs"):
            opened(**key).headers()
        elsewhere = f"{issuer.url}/realms/absent"
        trusted = {"oauth2_trust_certs": str(folder / "ca.pem")}
        with pytest.raises(BrokerError, match="no discovery document"):
            opened(**key, **trusted, oauth2_issuer_url=elsewhere).headers()
    with pytest.raises(TransientError, match="does not answer"):
        opened(**key, **trusted).headers()
    assert not issuer.forms


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data:application/json;base64,!!!", "is not an OAuth2 key"),
        ('{"client_id": "tool"}', "is not an OAuth2 key"),
        ('["s3cret"]', "cannot be read"),
        ("file:///no/such/key.json", "cannot be read: /no/such/key.json"),
        ('{"client_id": "tool", "client_secret": "s3cret"}', "--oauth2-issuer-url, or an issuer_url"),
    ],
)
def test_keys_that_cannot_be_used_are_named(key: str, expected: str) -> None:
    """A key that is damaged, incomplete, absent or without an issuer is wrong use, before any connection."""
    with pytest.raises(UsageError) as raised:
        opened(oauth2_private_key=key)
    assert expected in str(raised.value)
    assert "s3cret" not in str(raised.value) or key.startswith("[")


def test_streamnative_has_an_issuer_by_default() -> None:
    """StreamNative's profile needs a key only: audience and issuer may be left out."""
    key = json.dumps({"client_id": CLIENT, "client_secret": SECRET})
    assert access(build(StreamNativeOptions, {**NAMES, "oauth2_private_key": key})).bearer is not None


@pytest.mark.parametrize(
    "options",
    [
        {"basic": "admin:pass:word"},
        {"auth_plugin": "basic", "auth_params": "userId:admin,password:pass:word"},
        {
            "auth_plugin": "org.apache.pulsar.client.impl.auth.AuthenticationBasic",
            "auth_params": '{"userId": "admin", "password": "pass:word"}',
        },
    ],
)
def test_basic_logins_have_user_and_password(options: dict[str, str]) -> None:
    """USER:PASSWORD is presented to brokers as it is, and to the admin API as HTTP has it."""
    found = opened(**options)
    assert found.credentials() == {"auth_method_name": "basic", "auth_data": b"admin:pass:word"}
    encoded = base64.b64encode(b"admin:pass:word").decode()
    assert found.headers() == {"Authorization": f"Basic {encoded}"}
    echo = f"no access with admin:pass:word, {encoded}, pass:word"
    assert redacted(echo) == "no access with ***, ***, ***"


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("form", ["token", "token_file", "plugin", "plugin json", "plugin file"])
def test_tokens_lose_the_line_break_at_their_end(tmp_path: Path, form: str, line_end: str) -> None:
    """A token with a line break at its end is presented without it, wherever it came from."""
    file = tmp_path / "token.jwt"
    file.write_text(TOKEN + line_end)
    found = opened(
        **{
            "token": {"token": TOKEN + line_end},
            "token_file": {"token_file": str(file)},
            "plugin": {"auth_plugin": "token", "auth_params": f"token:{TOKEN}{line_end}"},
            "plugin json": {"auth_plugin": "token", "auth_params": f'{{"token": "{TOKEN}"}}{line_end}'},
            "plugin file": {"auth_plugin": "token", "auth_params": file.as_uri() + line_end},
        }[form]
    )
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "text",
    ["", "\n", f"{TOKEN}\n{TOKEN}", f"Bearer {TOKEN}", f'"{TOKEN}"', f"token:{TOKEN}", "file:///a.jwt"],
)
@pytest.mark.parametrize("form", ["token", "token_file"])
def test_tokens_that_cannot_be_one_are_refused(tmp_path: Path, form: str, text: str) -> None:
    """A token that is empty, broken, quoted or in another form is wrong use, and is not shown."""
    file = tmp_path / "token.jwt"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        opened(**{form: text if form == "token" else str(file)})
    assert re.search("is empty|has a blank|is in quotes", str(raised.value))
    assert TOKEN not in str(raised.value)


def test_a_token_file_that_is_emptied_later_may_pass(tmp_path: Path) -> None:
    """A token file that is empty for a moment during a run is an error that is retried."""
    file = tmp_path / "token.jwt"
    file.write_text(TOKEN)
    found = opened(token_file=str(file))
    file.write_text("")
    with pytest.raises(TransientError, match="empty"):
        found.headers()
    file.write_text(f"{TOKEN}2")
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}2"}


@pytest.mark.parametrize(
    ("plugin", "params", "expected"),
    [
        ("basic", "userId:admin", "lacks password"),
        ("oauth2", '{"issuerUrl": "https://a"}', "lacks privateKey"),
        ("tls", "tlsKeyFile:/k", "lacks tlsCertFile"),
        ("tls", "{", "not valid JSON"),
        ("token", '{"tokens": "t"}', "lacks token"),
        ("token", "env:PULSAR_TOKEN", "is written as"),
    ],
)
def test_incomplete_parameters_of_a_plugin_are_named(plugin: str, params: str, expected: str) -> None:
    """Parameters of a login that lack a part are wrong use, with the part's name."""
    with pytest.raises(UsageError, match=expected):
        opened(auth_plugin=plugin, auth_params=params)


def test_an_sni_proxy_is_sent_the_brokers_name() -> None:
    """The TLS handshake with a proxy names the broker, by which the proxy finds it."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        found = opened(proxy_service_url=f"pulsar+ssl://127.0.0.1:{proxy.getsockname()[1]}")
        hello: list[bytes] = []

        def answer() -> None:
            made, _ = proxy.accept()
            hello.append(made.recv(4096))
            made.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransientError, match="--proxy-service-url"):
            Connection(Address("broker-7.internal", 6651, tls=True), found)
        thread.join()
    assert b"broker-7.internal" in hello[0]
