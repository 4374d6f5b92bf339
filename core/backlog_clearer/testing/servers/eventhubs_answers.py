"""The answers of the AMQP test server to tokens and management requests: pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any

from azure.eventhub._pyamqp.types import TYPE, VALUE, AMQPTypes
from azure.eventhub._pyamqp.utils import amqp_long_value

from backlog_clearer.testing.servers.eventhubs_events import Hub, offset_of, text_of

KEY_NAME = "RootManageSharedAccessKey"
KEY = base64.b64encode(b"the key of this test server").decode()


def token_status(
    token: str, audience: str, known: Collection[str] | None, jwt: str | None
) -> tuple[int, str]:
    """The status and its description for a claims-based security token.

    `known` are the Event Hubs that exist; None: that is not checked here. `jwt` is the bearer token
    that is accepted; every other token has to be a SAS of `KEY`.
    """
    hub = urllib.parse.urlparse(audience).path.strip("/").split("/")[0]
    if known is not None and hub not in known:
        return 404, f"The messaging entity '{audience}' could not be found."
    if token == jwt:
        return 202, "Accepted"
    fields = dict(part.partition("=")[::2] for part in token.rpartition(" ")[2].split("&"))
    signed = f"{fields.get('sr', '')}\n{fields.get('se', '')}".encode()
    digest = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
    expected = base64.b64encode(digest).decode()
    if fields.get("skn") != KEY_NAME or urllib.parse.unquote(fields.get("sig", "")) != expected:
        return 401, "InvalidSignature: The token has an invalid signature."
    return 202, "Accepted"


def describe(
    hubs: Mapping[str, Hub],
    namespace: str,
    asked: Mapping[bytes, Any],
    disabled: Collection[tuple[str, int]] = (),
) -> tuple[int, str, dict[str, Any] | None]:
    """The answer to a request to the management node: status, description, properties."""
    name = text_of(asked[b"name"])
    hub = hubs.get(name)
    if hub is None:
        return 404, f"The messaging entity 'sb://{namespace}/{name}' could not be found.", None
    if text_of(asked[b"type"]) == "com.microsoft:eventhub":
        numbers = [str(number) for number in range(len(hub.partitions))]
        return (
            200,
            "OK",
            {
                "name": name,
                "created_at": {TYPE: AMQPTypes.timestamp, VALUE: hub.created_ms}
                if hub.created_ms
                else None,
                "partition_ids": numbers,
            },
        )
    if (name, int(text_of(asked[b"partition"]))) in disabled:
        return 409, "com.microsoft:entity-disabled: The partition is disabled.", None
    log = hub.partitions[int(text_of(asked[b"partition"]))]
    return (
        200,
        "OK",
        {
            "name": name,
            "partition": text_of(asked[b"partition"]),
            "begin_sequence_number": amqp_long_value(log.begin),
            "last_enqueued_sequence_number": amqp_long_value(log.end - 1),
            "last_enqueued_offset": offset_of(log.end - 1),
            "last_enqueued_time_utc": amqp_long_value(log.time_of(log.end)),
            "is_partition_empty": log.begin >= log.end,
        },
    )
