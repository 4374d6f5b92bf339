"""Secrets are found in every form in which they may be in a text, and ordinary words stay readable."""

from __future__ import annotations

import base64
import json
import logging
import sys
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlog_clearer.errors import BrokerError
from backlog_clearer.redaction.forms import is_distinct
from backlog_clearer.redaction.parts import secrets_in
from backlog_clearer.redaction.redact import (
    MASK,
    forget_secrets,
    redact_logs,
    redacted,
    remember,
    remember_environment,
    remember_login,
)
from tests.secret_forms import leaks

SECRETS = [
    "hunter2-do-not-print",
    'S3cr3t/+"p\\w: é',
    "a?b>c~d/e=f&g",
    "pä$$w0rd",
    "0123456789abcdef" * 4,
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("a", "z"), ("user:", "\n"), ("us", "/x")])
def test_a_secret_is_found_in_every_encoding(secret: str, before: str, after: str) -> None:
    """Plain, URL, JSON, HTML, Python, hexadecimal, and base64 at each alignment: nothing of it is left."""
    remember(secret)
    text = before + secret + after
    data = text.encode()
    forms = [
        text,
        urllib.parse.quote(text),
        urllib.parse.quote(text, safe=""),
        urllib.parse.quote_plus(text),
        urllib.parse.quote(urllib.parse.quote(secret, safe=""), safe=""),
        json.dumps({"a": text}),
        json.dumps({"a": json.dumps({"b": secret})}),
        json.dumps(text, ensure_ascii=False),
        repr(text),
        repr(data),
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        base64.b64encode(urllib.parse.quote(secret, safe="").encode()).decode(),
        data.hex(),
    ]
    for form in forms:
        safe = redacted(f"refused: {form} (request 7)")
        assert MASK in safe
        assert not leaks(safe, secret), form
        assert safe.startswith("refused: ")


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=8).filter(
        lambda text: is_distinct(text) and text == " ".join(text.split())
    ),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_any_secret_is_found_in_base64(secret: str, before: bytes, after: bytes) -> None:
    """Whatever is around a secret, base64 of it has no part that depends only on the secret."""
    forget_secrets()
    remember(f"password={secret!r}", secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        form = encode(before + secret.encode() + after).decode()
        assert redacted(f"<{form}>") == f"<{MASK}>"
    forget_secrets()


@pytest.mark.parametrize(
    "text",
    [
        "recompile librdkafka with libsasl2",
        "group admin on topic kafka",
        "1000 messages, remaining 1000 offsets",
        "kafka-admin, kafkas, my.admin, admin/x",
        "set the password, or a secret, as in subscription orders",
        "https://host:8080/a@b abfs://container@account.dfs.core.windows.net/x sftp://user@host/x",
        "SharedAccessKeyName=RootManageSharedAccessKey; Basic authentication failed; Bearer tokens",
        "add -X 'sasl.password=${env:SASL_PASSWORD}' --allow-reference env:KAFKA_PASSWORD",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """Secrets that are words, numbers or short change no text in which they are not a value."""
    remember("kafka", "admin", "1000", "a", "true", "orders", "password", "subscription", "librdkafka")
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("sasl.password=admin is wrong", "sasl.password=*** is wrong"),
        ("the value 'admin' is wrong", "the value '***' is wrong"),
        ("http://u:admin@host/x", "http://***@host/x"),
        ("admin", "***"),
        ("Authorization YWRtaW4=", "Authorization ***"),
        ("Authorization dXNlcjphZG1pbg==", "Authorization ***"),
        ("swordfish was refused", "*** was refused"),
    ],
)
def test_a_word_is_found_where_it_stands_as_a_value(text: str, safe: str) -> None:
    """An ordinary word that is a secret is replaced after '=', in quotes, in a URL, alone and in base64."""
    remember_login("user", "admin")
    remember("swordfish")
    assert redacted(text) == safe


def test_names_in_structured_output_stay() -> None:
    """JSON and tables keep names that are ordinary words, even where one of them is a password, too."""
    remember("admin", "hunter2-do-not-print")
    text = '{"topic": "admin", "x": "hunter2-do-not-print"}'
    assert redacted(text, values=False) == '{"topic": "admin", "x": "***"}'


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("https://user:p%40ss@host/x", "https://***@host/x"),
        ("sftp://user:a/b@host/x", "sftp://***@host/x"),
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ("https://a.blob.core.windows.net/c?sv=1&sig=ab%2Bc%3D&se=2", "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2"),
        ("Endpoint=sb://n/;SharedAccessKeyName=R;SharedAccessKey=abc+d=;EntityPath=e", "Endpoint=sb://n/;SharedAccessKeyName=R;SharedAccessKey=***;EntityPath=e"),
        ('{"client_secret": "x y", "client_id": "c"}', '{"client_secret": "***", "client_id": "c"}'),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "Authorization: Basic ***"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.abc_-1 refused", "token *** refused"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----.", "***."),
    ],
)  # fmt: skip
def test_what_looks_like_a_credential_is_replaced(text: str, safe: str) -> None:
    """URLs' logins, signatures, keys, tokens and private keys are replaced though nothing is known of them."""
    assert redacted(text) == safe


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("plain", ["plain"]),
        ("https://account.blob.core.windows.net/c", []),
        ("http://user:pw@proxy:3128", ["pw"]),
        ("Endpoint=sb://n/;SharedAccessKeyName=R;SharedAccessKey=k3y=", ["k3y="]),
        ("https://a/c?sp=r&sig=a%2Bb", ["a%2Bb", "a+b"]),
        ('{"client_secret": "s1", "client_id": "c"}', ["s1"]),
        ('org.x.Login required username="u" password="p w";', ["p w"]),
    ],
)
def test_only_the_secret_parts_of_a_value_are_kept_out(value: str, parts: list[str]) -> None:
    """An address stays readable: only its password, key or signature is a secret."""
    assert set(secrets_in(value)) == set(parts)


@pytest.mark.parametrize("size", [8, 20, 30])
def test_the_rest_of_a_text_that_was_cut_off_is_found(size: int) -> None:
    """A library that cuts its text off in the middle of a secret leaves no beginning of it."""
    secret = "hunter2-do-not-print-this-at-all"
    remember(secret)
    for form in (secret, base64.b64encode(b"user:" + secret.encode()).decode()):
        safe = redacted("x" * 300 + " " + form[: size + 8])
        assert safe == "x" * 300 + f" {MASK}"


def test_secrets_of_the_environment_are_known_by_their_names() -> None:
    """Variables that libraries read secrets from are kept out; paths and other variables are not."""
    remember_environment(
        {
            "AWS_SECRET_ACCESS_KEY": "wJalr/K7MDENG",
            "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=Zm9vYmFyYmF6;",
            "HTTPS_PROXY": "http://u:pr0xy-pw@proxy:1",
            "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key-42.json",
            "HOME": "/home/user-1",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20c0llector%2Fpw,x-tenant=t3nant-47",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://u:endp0int-pw@collector:4318",
        }
    )
    text = "wJalr/K7MDENG Zm9vYmFyYmF6 pr0xy-pw /etc/key-42.json /home/user-1"
    assert redacted(text) == "*** *** *** /etc/key-42.json /home/user-1"
    assert redacted("c0llector/pw c0llector%2Fpw t3nant-47 endp0int-pw") == "*** *** *** ***"


def test_errors_and_log_records_have_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an error, a record's message, arguments and traceback are redacted where they are made."""
    secret = SECRETS[0]
    remember(secret)
    redact_logs()
    assert str(BrokerError(f"refused {secret}")) == f"refused {MASK}"
    log = logging.getLogger("some.library")
    log.warning("refused %s", secret)
    log.warning("refused %d", secret)
    try:
        int(secret)
    except ValueError:
        log.exception("failed")
    assert len(caplog.records) == 3
    formatted = [logging.Formatter().format(record) for record in caplog.records]
    assert not leaks("\n".join([*formatted, repr([record.args for record in caplog.records])]), secret)
    assert "ValueError" in formatted[-1]


def test_thousands_of_renewed_tokens_do_not_slow_it_down() -> None:
    """A process that renews its token for months keeps the newest ones only."""
    for number in range(3000):
        remember(f"token-{number}-abcdef")
    assert redacted("token-2999-abcdef") == MASK
    assert redacted("token-17-abcdef") == "token-17-abcdef"
    assert sys.getsizeof(redacted("x" * 1000)) < 2000
