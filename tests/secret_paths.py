"""Ways to give a secret at a wrong place, or in a wrong form: tables that several tests run through."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

SECRET = "hunter2-D0n/t+print=it"
"""Differs in every encoding, and contains the characters that separate parts of settings and URLs."""

KAFKA = {"bootstrap_servers": "127.0.0.1:1", "topic": "t", "group_id": "g"}
_LOGIN = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", "sasl.username": "user"}


def configuration(**changes: Any) -> dict[str, Any]:
    """A configuration whose password is given as it is."""
    options = {**KAFKA, **_LOGIN, "sasl.password": SECRET, **changes}
    return {"receipts": "r", "backlogs": {"orders": {"system": "kafka", "options": options}}}


def _broken_texts() -> Iterator[tuple[str, str]]:
    whole = json.dumps(configuration())
    yield "single quotes kept", f"'{whole}'"
    yield "double quotes kept", f'"{whole}"'
    yield "typographic quotes", f"“{whole}”"
    yield "backslashes kept", whole.replace('"', '\\"')
    yield "JSON in JSON", json.dumps(whole)
    yield "array", f"[{whole}]"
    yield "base64", base64.b64encode(whole.encode()).decode()
    yield "base64 for URLs", base64.urlsafe_b64encode(whole.encode()).decode()
    yield "base64 in lines", base64.encodebytes(whole.encode()).decode()
    yield "URL-encoded", urllib.parse.quote(whole)
    yield "cut off", whole[: whole.index(SECRET) + len(SECRET) + 3]
    yield "cut off at the front", whole[1:]
    yield "followed by more", f"{whole} {whole}"
    yield "comma at the end", whole.replace("}}}", ",}}}")
    yield "Python's quotes", str(configuration())
    yield "YAML", f"backlogs:\n  orders:\n    sasl.password: {SECRET}\n"
    yield "an assignment", f"BACKLOG_CLEARER_CONFIG={whole}"
    yield "a control character", whole.replace("orders", "or\x01ders")
    yield "NUL", whole.replace("orders", "or\0ders").removeprefix("{")
    yield "a key twice", whole.replace('"group_id"', '"topic"')
    yield "nested 900 deep", whole[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"
    yield "nested 100,000 deep", whole[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    yield (
        "options nested 900 deep",
        json.dumps(configuration()).replace(
            '"topic": "t"', '"topic": ' + '{"a": ' * 900 + "1" + "}" * 900
        ),
    )
    yield "NaN", whole[:-1] + ', "x": NaN}'
    yield "only the secret", SECRET
    yield "a path of a secret", f"/{SECRET}/config"
    yield "longer than a path can be", SECRET * 1000
    yield "a byte order mark and quotes", f"\ufeff'{whole}'"


def _wrong_values() -> Iterator[tuple[str, dict[str, Any]]]:
    def entry(**changes: Any) -> dict[str, Any]:
        value = configuration()
        value["backlogs"]["orders"].update(changes)
        return value

    yield "unknown field", entry(password=SECRET)
    yield "field of this name", entry(**{SECRET: 1})
    yield "unknown system", entry(system=SECRET)
    yield "unknown mode", entry(mode=SECRET)
    yield "workers", entry(workers=SECRET)
    yield "infinite limit", entry(max_seconds=SECRET)
    yield "options as text", entry(options=f"sasl.password={SECRET}")
    yield "options as a list", entry(options=[f"sasl.password={SECRET}"])
    yield "backlogs as a list", {"backlogs": [configuration()["backlogs"]]}
    yield "unknown top field", {**configuration(), "password": SECRET}
    yield "top field of this name", {**configuration(), SECRET: 1}
    for name, value in (
        ("list without '='", [f"sasl.password:{SECRET}"]),
        ("list with a blank", [f"sasl.password {SECRET}"]),
        ("list with the secret", [SECRET]),
        ("text", f"sasl.password:{SECRET}"),
        ("numbers", [1, SECRET]),
        ("a key with a blank", {f"sasl.password {SECRET}": ""}),
        ("an unknown key", {f"sasl.{SECRET}": "x"}),
    ):
        yield f"settings: {name}", configuration(settings=value)
    yield "dotted key with a colon", configuration(**{f"sasl.password:{SECRET}": ""})
    yield "unknown option", configuration(pasword=SECRET)
    yield "option of this name", configuration(**{SECRET: "x"})
    for name in ("topic", "sasl.password", "group_id"):
        yield f"{name}: variable of this name", configuration(**{name: f"${{env:{SECRET}}}"})
        yield f"{name}: file of this name", configuration(**{name: f"${{file:{SECRET}}}"})
        yield f"{name}: file with NUL", configuration(**{name: f"${{file:/x\0{SECRET}}}"})
    yield "address with a login", configuration(bootstrap_servers=f"user:{SECRET}@b:9092")
    yield "address with a scheme", configuration(bootstrap_servers=f"SASL_SSL://u:{SECRET}@b:9092")
    for url in (f"https://user:{SECRET}@h/", f"ftp://h/{SECRET}", f"https://h/ {SECRET}", SECRET):
        yield f"notify: {url[:12]}", entry(notify=url)
    yield "notify: variable of this name", entry(notify=f"${{env:{SECRET}}}")
    yield "authorization without a URL", entry(notify_authorization=SECRET)
    yield "authorization without TLS", entry(notify=f"http://h/{SECRET}", notify_authorization=SECRET)
    yield (
        "authorization of two lines",
        entry(notify="https://h/x", notify_authorization=f"{SECRET}\n{SECRET}"),
    )
    for place in places()[::4]:
        yield f"receipts in {place[:20]}", {**configuration(), "receipts": place}


def places() -> list[str]:
    """Places of receipts with a secret in them, by every scheme that may have one."""
    encoded = urllib.parse.quote(SECRET, safe="")
    logins = [f"{encoded}@", f":{encoded}@", f"user:{encoded}@", f"user:{SECRET}@"]
    schemes = ("ftp", "http", "https", "s3", "sftp", "webhdfs", "smb", "github", "gs", "file", "hdfs")
    return [
        *(f"{scheme}://{login}host/x" for scheme in schemes for login in logins),
        f"az://container/x?sig={encoded}",
        f"abfs://c:{encoded}@account.dfs.core.windows.net/x",
        f"s3://bucket/x?secret={encoded}",
        f"simplecache::s3://key:{encoded}@bucket/x",
        f"github://org:repo@{encoded}/x",
        f"user:{SECRET}@host:/x",
    ]


BROKEN = dict(_broken_texts())
"""Texts of `BACKLOG_CLEARER_CONFIG` that are not an object of JSON, by what is wrong with them."""

WRONG = dict(_wrong_values())
"""Configurations that are JSON and are refused, by what is wrong with them."""


SYSTEMS: dict[str, list[str]] = {
    "kafka": ["--bootstrap-servers", "127.0.0.1:1", "--topic", "t", "--group-id", "g"],
    "pulsar": ["--service-url", "pulsar://127.0.0.1:6650", "--topic", "t", "--subscription", "s"],
    "streamnative": [
        "--service-url", "pulsar+ssl://127.0.0.1:6651", "--topic", "t", "--subscription", "s", "--token",
        SECRET,
    ],
    "googlepubsub": ["--project-id", "p", "--subscription-id", "s"],
    "eventhubs": ["--fully-qualified-namespace", "n.servicebus.windows.net", "--eventhub-name", "e"],
    "iggy": ["--stream-id", "s", "--topic-id", "t", "--username", "user", "--password", SECRET],
}  # fmt: skip
"""A call of each system that is complete; its address answers nothing."""

_SASL = ["-X", "security.protocol=SASL_PLAINTEXT"]
_SSL = ["-X", "security.protocol=SSL"]
_SAS = f"Endpoint=sb://n/;SharedAccessKeyName=R;SharedAccessKey={SECRET}"

MISPLACED: dict[str, list[list[str]]] = {
    "kafka": [
        ["-X", f"sasl.password:{SECRET}"],
        ["-X", f"sasl.password {SECRET}"],
        ["-X", "sasl.password", SECRET],
        ["-X", SECRET],
        [f"-X{SECRET}"],
        ["-X", f"{SECRET}=x"],
        ["-X", f"sasl.password.{SECRET}=x"],
        ["-X", f"sasl.passwort={SECRET}"],
        ["-X", f"group.id={SECRET}"],
        ["-X", f"sasl.password={SECRET}", *_SASL, "-X", "sasl.mechanisms=NONE"],
        ["-X", f"security.protocol={SECRET}"],
        ["-X", f"ssl.key.pem={SECRET}", "-X", "security.protocol=SSL"],
        ["-X", f"ssl.keystore.password={SECRET}", *_SSL, "-X", "ssl.keystore.location=/none"],
        ["-X", f"sasl.oauthbearer.config={SECRET}", *_SASL, "-X", "sasl.mechanisms=X"],
        [f"--sasl.password={SECRET}"],
        ["--bootstrap-servers", f"user:{SECRET}@127.0.0.1:1"],
        ["--bootstrap-servers", f"user:{SECRET}"],
        ["--reader", SECRET],
    ],
    "pulsar": [
        ["--service-url", f"pulsar://user:{SECRET}@127.0.0.1:6650"],
        ["--service-url", f"http://{SECRET}"],
        ["--service-url", f"pulsar://user:{SECRET}"],
        ["--admin-url", f"http://user:{SECRET}"],
        ["--admin-url", f"http://user:{SECRET}@127.0.0.1:1"],
        ["--token", SECRET, "--token-file", SECRET],
        ["--token-file", SECRET],
        ["--token-file", f"x\0{SECRET}"],
        ["--token", SECRET, "--oauth2-key-file", SECRET],
        ["--oauth2-key-file", f'{{"client_secret": "{SECRET}"}}'],
        ["--oauth2-issuer-url", f"https://user:{SECRET}@issuer"],
        ["--tls-key", SECRET],
        ["--subscription-type", SECRET],
    ],
    "streamnative": [
        ["--service-url", f"pulsar://token:{SECRET}@127.0.0.1:6650"],
        ["--token-file", SECRET],
        ["--admin-url", f"https://{SECRET}@127.0.0.1:1"],
        ["--tls-trust-certs", SECRET],
    ],
    "googlepubsub": [
        ["--credentials-file", SECRET],
        ["--credentials-file", f'{{"private_key": "{SECRET}"}}'],
        ["--credentials-file", f"x\0{SECRET}"],
        ["--api-endpoint", f"user:{SECRET}@127.0.0.1:1"],
        ["--monitoring-endpoint", f"http://user:{SECRET}@127.0.0.1:1"],
        ["--subscription-id", f"a/{SECRET}"],
    ],
    "eventhubs": [
        ["--connection-string", _SAS],
        ["--fully-qualified-namespace", _SAS],
        ["--checkpoint-store", f"https://a.blob.core.windows.net/?sig={SECRET}"],
        ["--checkpoint-store", f"AccountName=a;AccountKey={SECRET}", "--no-checkpoint"],
        ["--http-proxy", f"http://user:{SECRET}@proxy:1"],
        ["--http-proxy", f"https://user:{SECRET}@proxy:1", "--transport", "websocket"],
        ["--custom-endpoint-address", f"sb://user:{SECRET}@gateway:1"],
        ["--kafka-bootstrap-servers", f"user:{SECRET}@gateway:1"],
        ["--connection-verify", SECRET, "--checkpoint-format", "none"],
    ],
    "iggy": [
        ["--token", SECRET],
        ["--host", f"user:{SECRET}@127.0.0.1"],
        ["--port", SECRET],
        ["--tls-ca-file", SECRET, "--tls"],
        ["--group-id", "g", "--consumer-id", "c"],
        ["--tls-domain", SECRET],
    ],
}
"""Arguments after those in `SYSTEMS` that make the call wrong."""

ANYWHERE: list[list[str]] = [
    [SECRET],
    ["--yes", SECRET, SECRET],
    [f"--pasword={SECRET}"],
    [f"--{SECRET}"],
    [f"--password:{SECRET}"],
    [f"--yes={SECRET}"],
    ["--output", SECRET],
    ["--mode", SECRET],
    ["--workers", SECRET],
    ["--partitions", SECRET],
    ["--slice", SECRET],
    ["--max-rate", SECRET],
    ["--max-seconds", SECRET],
    ["--max-messages", SECRET],
    ["--config-json", SECRET],
    ["--config-json", f'{{"password": "{SECRET}"}}'],
    ["--config-json", f"x\0{SECRET}"],
    ["--group-id", f"${{env:{SECRET}}}", "--topic", f"${{env:{SECRET}}}"],
    ["--receipt-dir", f"s3://key:{SECRET}@bucket/x"],
    ["--receipt-dir", f"${{file:{SECRET}}}"],
    ["--receipt-schemes", SECRET],
    ["--notify", SECRET],
    ["--notify", f"https://user:{SECRET}@127.0.0.1:1/x"],
    ["--notify", f"http://127.0.0.1:1/{SECRET}", "--notify-authorization", f"{SECRET}\n"],
    ["--notify-authorization", SECRET],
    ["--watch", SECRET],
    ["--older-than", SECRET],
    ["--until", SECRET],
]
"""Arguments that make a call of any system wrong."""
