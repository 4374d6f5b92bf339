"""How to reach one consumer group of one Event Hub, and where its checkpoints are."""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from typing_extensions import Self

from backlog_clearer.model import StrEnum
from backlog_clearer.options.addresses import checked_address
from backlog_clearer.options.base import Host, Name, SystemOptions

FUNCTIONS_CONTAINER = "azure-webjobs-eventhub"
"""Where Azure Functions' Event Hubs extension keeps checkpoints, in the AzureWebJobsStorage account."""

_PORT, _EMULATOR_PORT, _WEBSOCKET_PORT = 5671, 5672, 443
_STORE_URL = re.compile(r"(?P<scheme>https?://)(?P<host>[^/?;=]+)(?P<path>[^?;=]*)(?P<query>(?:\?.*)?)")
_ADDRESS = re.compile(r"(?:[^.:]+|[0-9.]+|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?")  # or a name without dots


def _port_of(url: SplitResult) -> int | None:
    """The port of a URL; None where it has none, or one that cannot be."""
    try:
        return url.port
    except ValueError:
        return None


class EventReader(StrEnum):
    """The protocol that events are read by."""

    AUTO = "auto"
    AMQP = "amqp"  # by the SDK's AMQP layers, which are not its public API
    CLIENT = "client"  # over AMQP as well, by the SDK's public client only
    KAFKA = "kafka"


class EventTransport(StrEnum):
    """What AMQP is carried by."""

    AMQP = "amqp"  # TCP, port 5671
    WEBSOCKET = "websocket"  # WebSockets, port 443


class CheckpointFormat(StrEnum):
    """Whose checkpoints they are."""

    PROCESSOR = "processor"  # the event processors of the Azure SDKs
    FUNCTIONS = "functions"  # Azure Functions' Event Hubs trigger


class EventHubsOptions(SystemOptions):
    """One consumer group of one Event Hub."""

    NAMES: ClassVar[tuple[str, ...]] = ("consumer_group",)
    COMMAS: ClassVar[bool] = False

    connection_string: SecretStr | None = Field(
        None,
        description="of the namespace or the Event Hub (Endpoint=sb://…), with the Listen claim",
    )
    fully_qualified_namespace: Host | None = Field(
        None,
        description="<namespace>.servicebus.windows.net, to sign in with Microsoft Entra ID"
        " (DefaultAzureCredential) instead of a connection string",
    )
    eventhub_name: Name | None = Field(
        None, description="the Event Hub; may be left out if the connection string has an EntityPath"
    )
    consumer_group: Name = Field("$Default", min_length=1, description="the consumer group")
    checkpoint_store: SecretStr | None = Field(
        None,
        description="Blob Storage that holds the checkpoints: a connection string, the URL of an account or"
        " a container with a SAS, or one without a SAS to sign in with Microsoft Entra ID",
    )
    checkpoint_container: Name | None = Field(
        None, description=f"blob container of the checkpoints; for Functions {FUNCTIONS_CONTAINER}"
    )
    checkpoint_format: CheckpointFormat = Field(
        CheckpointFormat.PROCESSOR,
        description="processor: of the Azure SDKs' event processors; functions: of Azure Functions",
    )
    no_checkpoint: bool = Field(False, description="only drain and count: no checkpoint is written")
    reader: EventReader = Field(
        EventReader.AUTO,
        description="amqp: AMQP, counting; client: AMQP by the SDK's public client, slower; kafka: the Kafka"
        " endpoint; auto chooses, and a note gives the reason",
    )
    transport: EventTransport = Field(
        EventTransport.AMQP,
        description="amqp: TCP on port 5671; websocket: AMQP over WebSockets on port 443, where only that is"
        " open",
    )
    http_proxy: SecretStr | None = Field(
        None,
        description="http://[USER:PASSWORD@]HOST:PORT, a proxy for --transport websocket; without it, the"
        " one of the environment (HTTPS_PROXY)",
    )
    prefetch: int = Field(
        5000, ge=1, le=100_000, description="link credit: events on the way for one partition (AMQP)"
    )
    owner_level: int | None = Field(
        None,
        ge=0,
        description="read as the exclusive consumer of this owner level (epoch), which disconnects"
        " consumers of the same or a lower one; without it, read beside others",
    )
    ownership_expiration: float = Field(
        180.0,
        gt=0,
        description="seconds for which an ownership blob means a live processor (the processors'"
        " partition ownership expiration)",
    )
    custom_endpoint_address: Host | None = Field(
        None, description="sb://host:port to connect to instead, through a gateway or private endpoint"
    )
    kafka_bootstrap_servers: str | None = Field(
        None, description="the Kafka endpoint, if it is not <namespace>:9093"
    )
    connection_verify: str | None = Field(
        None, description="path of a CA bundle to verify the endpoint's certificate with"
    )

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_addresses(cls, text: str | None) -> str | None:
        for part in text.split(",") if text is not None else ():
            checked_address(part.strip())
        return text

    @property
    def container(self) -> str | None:
        """The container of the checkpoints, from whichever option names it."""
        named = self.checkpoint_container or self._split_store()[1]
        if named is None and self.checkpoint_format is CheckpointFormat.FUNCTIONS:
            return FUNCTIONS_CONTAINER
        return named

    @property
    def store_account(self) -> str:
        """The checkpoint store without a container: a connection string, or a URL with its SAS; a secret."""
        return self._split_store()[0]

    def _split_store(self) -> tuple[str, str | None]:
        """The checkpoint store as it reaches the account, and the container that a URL names."""
        text = self.checkpoint_store.get_secret_value().strip() if self.checkpoint_store else ""
        found = _STORE_URL.fullmatch(text)
        if found is None:
            return text, None
        parts = [part for part in found["path"].split("/") if part]
        # An emulator has the account in the path; on Azure, it is a part of the host's name.
        account = parts[: 1 if _ADDRESS.fullmatch(found["host"]) else 0]
        container = parts[len(account)] if len(parts) > len(account) else None
        return "/".join([found["scheme"] + found["host"], *account]) + found["query"], container

    @property
    def namespace(self) -> str:
        """The fully qualified namespace, from whichever option names it."""
        return self.fully_qualified_namespace or self._part("Endpoint").partition("://")[2].rstrip("/")

    @property
    def hub(self) -> str:
        """The Event Hub, from whichever option names it."""
        return self.eventhub_name or self._part("EntityPath")

    @property
    def port(self) -> int:
        """The port of a namespace that names none: the emulator's documented string does not."""
        if self.transport is EventTransport.WEBSOCKET:
            return _WEBSOCKET_PORT
        return _EMULATOR_PORT if self.emulated else _PORT

    @property
    def proxy(self) -> SplitResult | None:
        """The proxy's address."""
        return urlsplit(self.http_proxy.get_secret_value()) if self.http_proxy else None

    @property
    def place(self) -> str:
        """What is connected to, for errors."""
        place = self.custom_endpoint_address or self.namespace
        return f"the Event Hubs emulator at {place}" if self.emulated else place

    @property
    def emulated(self) -> bool:
        """Whether the connection string is the development emulator's, which has no TLS."""
        return self._part("UseDevelopmentEmulator").lower() == "true"

    def _part(self, key: str) -> str:
        """One part of the connection string; '' if there is none."""
        text = self.connection_string.get_secret_value() if self.connection_string else ""
        found = re.search(rf"(?:^|;)\s*{key}\s*=\s*([^;]*)", text, re.IGNORECASE)
        return found[1].strip() if found else ""

    @model_validator(mode="after")
    def _proxied(self) -> Self:
        proxy = self.proxy
        if proxy is not None:
            if self.transport is not EventTransport.WEBSOCKET:
                raise ValueError("--http-proxy needs --transport websocket")
            if proxy.scheme != "http" or not proxy.hostname or _port_of(proxy) is None:
                raise ValueError("--http-proxy has the form http://[USER:PASSWORD@]HOST:PORT")
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.connection_string is None) == (self.fully_qualified_namespace is None):
            raise ValueError(
                "give either --connection-string or --fully-qualified-namespace (which signs in with"
                " Microsoft Entra ID)"
            )
        if not self.namespace or "/" in self.namespace:
            raise ValueError(
                "the namespace is missing: --connection-string begins with"
                " Endpoint=sb://<namespace>.servicebus.windows.net/, and --fully-qualified-namespace is"
                " only that host"
            )
        entity = self._part("EntityPath")
        if self.eventhub_name and entity and self.eventhub_name.lower() != entity.lower():
            raise ValueError(
                f"--eventhub-name is {self.eventhub_name!r}, but the connection string has the EntityPath"
                f" {entity!r}"
            )
        if not self.hub:
            raise ValueError(
                "--eventhub-name is required unless the connection string has an EntityPath"
            )
        if self.no_checkpoint and self.checkpoint_store is not None:
            raise ValueError("--no-checkpoint and --checkpoint-store cannot be used together")
        in_url = self._split_store()[1]
        if in_url is not None and self.checkpoint_container not in {None, in_url}:
            raise ValueError(
                f"--checkpoint-store is the URL of the container {in_url!r}, but --checkpoint-container is"
                f" {self.checkpoint_container!r}"
            )
        if self.checkpoint_store is not None and self.container is None:
            raise ValueError("--checkpoint-container is required with --checkpoint-store")
        if self.reader is EventReader.KAFKA and self.connection_string is None:
            raise ValueError(
                "--reader kafka needs --connection-string, with which it signs in to the Kafka endpoint"
            )
        return self
