"""IAM access control of Amazon MSK: a token that AWS's own library signs with the process's credentials.

To Kafka it is SASL/OAUTHBEARER with a presigned URL for a token, which is valid for 15 minutes:
https://docs.aws.amazon.com/msk/latest/developerguide/iam-access-control.html. The setting is spelled as
Java clients spell it, `sasl.mechanisms=AWS_MSK_IAM`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from backlog_clearer.errors import UsageError
from backlog_clearer.redaction.redact import remember

MECHANISM = "AWS_MSK_IAM"
"""The user's setting; not a mechanism of Kafka's protocol."""

_NAMES = ("sasl.mechanisms", "sasl.mechanism")


def asks_for_iam(settings: Mapping[str, Any]) -> bool:
    """Whether these settings ask for it."""
    return any(str(settings.get(name, "")).upper() == MECHANISM for name in _NAMES)


def librdkafka_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with librdkafka's own names instead; raises `UsageError` like `MskToken`."""
    kept = {name: value for name, value in settings.items() if name not in _NAMES}
    provider = MskToken()
    return {**kept, "sasl.mechanisms": "OAUTHBEARER", "oauth_cb": lambda _config: provider.signed()}


class MskToken:
    """A token signed when a connection logs in: a token provider of kafka-python.

    Raises `UsageError` where it cannot be signed.
    """

    def __init__(self) -> None:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise UsageError(
                f"{MECHANISM} needs the cluster's region: set AWS_REGION, as in eu-west-1."
            )
        self._region = region
        try:
            from aws_msk_iam_sasl_signer import (  # noqa: PLC0415 only users of IAM need it
                MSKAuthTokenProvider,
            )
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{MECHANISM} needs the Python package that provides {error.name!r}, which is not"
                " installed; install it with: pip install '.[kafka,aws]'"
            ) from None
        self._signer = MSKAuthTokenProvider

    def signed(self) -> tuple[str, float]:
        """The token, and when it ends in seconds since 1970."""
        token, ends_ms = self._signer.generate_auth_token(self._region)
        remember(token)
        return str(token), ends_ms / 1000

    def token(self) -> str:
        """A fresh token."""
        return self.signed()[0]

    def extensions(self) -> dict[str, str]:
        """No SASL extensions."""
        return {}
