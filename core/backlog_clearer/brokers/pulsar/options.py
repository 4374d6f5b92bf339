"""How to reach a subscription's backlog on Apache Pulsar and on StreamNative."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from typing_extensions import Self

from backlog_clearer.brokers.pulsar.login import file_of, plugin_kind
from backlog_clearer.brokers.pulsar.service_url import addresses, admin_addresses, bracketed
from backlog_clearer.errors import UsageError
from backlog_clearer.model import StrEnum
from backlog_clearer.options.base import ExistingFile, Host, Name, SystemOptions, flag, names_file

_TOPIC = re.compile(r"(?:persistent://)?(?:([-=:.\w]+)/([-=:.\w]+)/)?([^/]+)", re.ASCII)
"""What brokers accept: the names of tenants and namespaces are limited (NamedEntity), a topic's is not."""
_ADMIN_PORTS = {(False, 6650): ("http", 8080), (True, 6651): ("https", 8443)}  # by TLS and port
_LOGINS = (*("token", "token_file", "basic", "oauth2_key_file", "oauth2_private_key", "auth_plugin"),)
_STREAMNATIVE = (".streamnative.cloud", ".snio.cloud", ".sn2.dev", ".sn3.dev")


class SubscriptionType(StrEnum):
    """How the lanes subscribe; Pulsar fixes the type of a subscription only while it has consumers."""

    AUTO = "auto"  # the type the broker reports, else failover
    EXCLUSIVE = "exclusive"
    FAILOVER = "failover"
    SHARED = "shared"
    KEY_SHARED = "key_shared"


class PulsarReader(StrEnum):
    """How messages are read."""

    AUTO = "auto"  # entries, or client for a login that only the client library has
    ENTRIES = "entries"  # only the heads of entries: nothing is decompressed, no objects are made
    CLIENT = "client"  # Pulsar's client library


STREAMNATIVE_ISSUER = "https://auth.streamnative.cloud"
"""The OAuth2 issuer of StreamNative Cloud."""

NO_ADMIN = "none"
"""The value of --admin-url that switches the admin API off."""

COMPETING = frozenset({SubscriptionType.SHARED, SubscriptionType.KEY_SHARED})
"""The types whose consumers share a partition's messages, and acknowledge them one by one."""


def _path_of(value: object) -> object:
    """Let a file be named by a file: URL, as Pulsar's clients do."""
    return file_of(value) if isinstance(value, str) and value.startswith("file:") else value


class PulsarOptions(SystemOptions):
    """One subscription of one topic, partitioned or not."""

    NAMES: ClassVar[tuple[str, ...]] = ("subscription",)

    service_url: str = Field(
        description="pulsar://HOST:6650 or pulsar+ssl://HOST:6651, or HOST:PORT,HOST:PORT for several"
    )
    topic: Name = Field(description="persistent://TENANT/NAMESPACE/TOPIC")
    subscription: Name = Field(min_length=1, description="subscription whose backlog is cleared")
    admin_url: str | None = Field(
        None,
        description="the admin REST API, as in http://HOST:8080, or http://HOST:PORT,HOST:PORT for several;"
        " derived where the service URL has a default port or is StreamNative's; none: do without it",
    )
    listener_name: str | None = Field(
        None,
        min_length=1,
        description="which of the brokers' advertised listeners to use, where they have several",
    )
    proxy_service_url: str | None = Field(
        None,
        description="an SNI proxy before the brokers, as in pulsar+ssl://HOST:4443; not for Pulsar's own proxy,"
        " which --service-url names",
    )
    subscription_type: SubscriptionType = Field(
        SubscriptionType.AUTO,
        description="how to subscribe; auto: as the broker reports, else failover",
    )
    reader: PulsarReader = Field(
        PulsarReader.AUTO,
        description="entries: count by the heads of entries only, the fastest; client: Pulsar's client"
        " library; auto: entries, or client for a login that only that library has",
    )
    assume_exists: bool = Field(
        False,
        description="without the admin API: do not ask the broker whether the subscription exists;"
        " a mistyped one is then created",
    )
    token: SecretStr | None = Field(None, description="JWT, better as ${env:NAME} or ${file:PATH}")
    token_file: ExistingFile | None = Field(
        None, description="file with the JWT, read again for each connection"
    )
    basic: SecretStr | None = Field(
        None,
        description="USER:PASSWORD for basic authentication, better as ${env:NAME} or ${file:PATH}",
    )
    oauth2_key_file: Annotated[ExistingFile, BeforeValidator(_path_of)] | None = Field(
        None, description="JSON key file for OAuth2 client credentials (client_id, client_secret)"
    )
    oauth2_private_key: SecretStr | None = Field(
        None,
        description="the same as Pulsar's clients take it: file:///PATH, data:application/json;base64,KEY"
        " or a path; better as ${env:NAME}",
    )
    oauth2_issuer_url: Host | None = Field(
        None, description="OAuth2 issuer, as in https://HOST, if the key has no issuer_url"
    )
    oauth2_audience: str | None = Field(
        None, description="OAuth2 audience, where the issuer requires one: urn:sn:pulsar:ORG:INSTANCE"
    )
    oauth2_scope: str | None = Field(None, description="OAuth2 scope, where the issuer requires one")
    oauth2_trust_certs: ExistingFile | None = Field(
        None, description="PEM file with the authorities to trust for the OAuth2 issuer"
    )
    auth_plugin: str | None = Field(
        None,
        min_length=1,
        description="the login as a client.conf has it, authPlugin: token, basic, tls, oauth2, athenz, the"
        " Java class of one of them, or the path of a C++ client's plugin library",
    )
    auth_params: SecretStr | None = Field(
        None, description="authParams for --auth-plugin, better as ${env:NAME} or ${file:PATH}"
    )
    tls_trust_certs: ExistingFile | None = Field(
        None, description="PEM file with the authorities to trust instead of the system's"
    )
    tls_validate_hostname: bool = Field(
        True, description="require that a server's certificate is of the host that was asked"
    )
    tls_certificate: ExistingFile | None = Field(
        None, description="PEM file with the certificate to log in with, where the cluster requires one"
    )
    tls_key: ExistingFile | None = Field(
        None, description="PEM file with its private key, if that is not in the certificate's file"
    )

    @field_validator("service_url")
    @classmethod
    def _is_service_url(cls, url: str) -> str:
        addresses(url)
        return url.rstrip("/")

    @field_validator("proxy_service_url")
    @classmethod
    def _is_proxy_url(cls, url: str | None) -> str | None:
        if url is not None and (not url.startswith("pulsar+ssl://") or len(addresses(url)) > 1):
            raise ValueError("write it as pulsar+ssl://HOST:PORT, with one host")
        return url

    @field_validator("admin_url")
    @classmethod
    def _is_admin_url(cls, url: str | None) -> str | None:
        if url is None or url == NO_ADMIN:
            return url
        return ",".join(admin_addresses(url))

    @field_validator("topic")
    @classmethod
    def _full_name(cls, topic: str) -> str:
        if topic.startswith("non-persistent:"):
            raise ValueError("a non-persistent topic keeps no backlog")
        match = _TOPIC.fullmatch(topic)
        if not match or ("://" in topic and not topic.startswith("persistent://")):
            raise ValueError("write it as persistent://TENANT/NAMESPACE/TOPIC")
        return f"persistent://{match[1] or 'public'}/{match[2] or 'default'}/{match[3]}"

    @field_validator("token", "basic", "oauth2_private_key", "auth_params")
    @classmethod
    def _not_empty(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not secret.get_secret_value().strip():
            raise ValueError("it is empty")
        return secret

    @field_validator("auth_plugin")
    @classmethod
    def _is_plugin(cls, name: str | None) -> str | None:
        try:
            if name and plugin_kind(name) is None and not names_file(name):
                raise ValueError("this plugin library does not exist")
        except UsageError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _logins_fit(self) -> Self:
        if sum(getattr(self, name) is not None for name in _LOGINS) > 1:
            raise ValueError(f"give one of {', '.join(map(flag, _LOGINS))}")
        if self.auth_params and not self.auth_plugin:
            raise ValueError("--auth-params needs --auth-plugin")
        if self.proxy_service_url and not self.service_url.startswith("pulsar+ssl://"):
            raise ValueError("--proxy-service-url needs a --service-url that starts with pulsar+ssl://")
        if self.proxy_service_url and self.chosen_reader is PulsarReader.CLIENT:
            raise ValueError(
                "--proxy-service-url needs --reader entries: the client library has no SNI proxies"
            )
        if self.chosen_reader is PulsarReader.CLIENT and self.admin is None and not self.assume_exists:
            raise ValueError(
                "the client library cannot ask a broker whether the subscription exists: give --admin-url, or"
                " --assume-exists, which creates a mistyped one"
            )
        if self.reader is PulsarReader.ENTRIES and self._needs_client:
            raise ValueError("--auth-plugin names a login that only --reader client has")
        if self.tls_key and not self.tls_certificate:
            raise ValueError("--tls-key needs --tls-certificate")
        if self.tls_certificate and not self.service_url.startswith("pulsar+ssl://"):
            raise ValueError("--tls-certificate needs a --service-url that starts with pulsar+ssl://")
        if self.admin is None and self.admin_url != NO_ADMIN and not self.assume_exists:
            raise ValueError(
                "--admin-url is needed: it cannot be derived from this service URL. Use --admin-url none to do"
                " without it, or --assume-exists where that does not suffice: see docs/pulsar.md"
            )
        return self

    @property
    def _needs_client(self) -> bool:
        return self.auth_plugin is not None and plugin_kind(self.auth_plugin) in (None, "athenz")

    @property
    def chosen_reader(self) -> PulsarReader:
        """The reader that is used, never `AUTO`."""
        if self.reader is not PulsarReader.AUTO:
            return self.reader
        return PulsarReader.CLIENT if self._needs_client else PulsarReader.ENTRIES

    @classmethod
    def hidden(cls) -> frozenset[str]:
        """See `SystemOptions`; the plugin may be a library, whose code is run."""
        return frozenset({"auth_plugin"})

    @classmethod
    def sent_files(cls) -> frozenset[str]:
        """See `SystemOptions`."""
        return frozenset({"oauth2_key_file", "token_file"})

    @property
    def place(self) -> str:
        """See `SystemOptions`."""
        return self.service_url

    @property
    def issuer(self) -> str | None:
        """The OAuth2 issuer where neither the options nor the key name one."""
        return None

    @property
    def admin(self) -> str | None:
        """The admin API's addresses, separated by commas, as given or derived; None: do without it."""
        if self.admin_url == NO_ADMIN:
            return None
        return self.admin_url or derived_admin_url(self.service_url)


class StreamNativeOptions(PulsarOptions):
    """One subscription on StreamNative Cloud: Pulsar with TLS and a login."""

    subscription: Name = Field(
        "backlog-clearer", min_length=1, description="subscription whose backlog is cleared"
    )

    @model_validator(mode="after")
    def _tls_and_login(self) -> Self:
        if not self.service_url.startswith("pulsar+ssl://"):
            raise ValueError("--service-url of StreamNative must start with pulsar+ssl://")
        if all(getattr(self, name) is None for name in _LOGINS):
            raise ValueError(f"StreamNative needs {' or '.join(map(flag, _LOGINS))}")
        return self

    @property
    def issuer(self) -> str | None:
        """See `PulsarOptions`; StreamNative Cloud has one issuer."""
        return STREAMNATIVE_ISSUER


def derived_admin_url(service_url: str) -> str | None:
    """The admin API's address, where the service URL determines it; None: it does not."""
    first, *others = addresses(service_url)
    if others:
        return None
    if first.host.endswith(_STREAMNATIVE):
        return f"https://{first.host}"
    found = _ADMIN_PORTS.get((first.tls, first.port))
    return f"{found[0]}://{bracketed(first.host)}:{found[1]}" if found else None
