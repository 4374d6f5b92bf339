"""How to reach the topics whose subscriptions are listed."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from backlog_clearer.brokers.pulsar.options import STREAMNATIVE_ISSUER, PulsarOptions
from backlog_clearer.options.base import Name
from backlog_clearer.options.listing import ListOptions

_NAMESPACE = re.compile(r"[-=:.\w]+/[-=:.\w]+", re.ASCII)


class PulsarListOptions(ListOptions, PulsarOptions):
    """The subscriptions of one topic, or of all topics of a namespace."""

    LISTED: ClassVar[tuple[str, ...]] = (
        "service_url", "topic", "namespace", "matching", "ages", "admin_url", "token", "token_file", "basic",
        "oauth2_key_file", "oauth2_private_key", "oauth2_issuer_url", "oauth2_audience", "oauth2_scope",
        "oauth2_trust_certs", "auth_plugin", "auth_params", "tls_trust_certs", "tls_validate_hostname",
        "tls_certificate", "tls_key",
    )  # fmt: skip

    topic: Name = Field("", description="only this topic, persistent://TENANT/NAMESPACE/TOPIC")
    namespace: str | None = Field(None, description="all topics of it, TENANT/NAMESPACE")
    subscription: Name = Field("*", description="not used")

    @field_validator("namespace")
    @classmethod
    def _is_namespace(cls, name: str | None) -> str | None:
        if name is not None and not _NAMESPACE.fullmatch(name):
            raise ValueError("write it as TENANT/NAMESPACE")
        return name

    @model_validator(mode="after")
    def _names_a_place(self) -> Self:
        if bool(self.topic) == bool(self.namespace):
            raise ValueError("give --topic or --namespace")
        if self.admin is None:
            raise ValueError("--admin-url is needed: only the admin API can list subscriptions")
        return self


class StreamNativeListOptions(PulsarListOptions):
    """The same on StreamNative Cloud."""

    @property
    def issuer(self) -> str | None:
        """See `StreamNativeOptions`."""
        return STREAMNATIVE_ISSUER
