"""The systems whose faults are tried: a backlog on each, its state by an independent client, our flags."""

from __future__ import annotations

import base64
import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ClassVar

from backlog_clearer.testing.servers.kafka import PASSWORD, USER, KafkaCluster, running_kafka
from backlog_clearer.testing.servers.kafka_judge import Judge as KafkaJudge
from backlog_clearer.testing.servers.kafka_judge import unique
from backlog_clearer.testing.servers.pulsar import running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import KEPT, SUBSCRIPTION
from backlog_clearer.testing.servers.pulsar_judge import Judge as PulsarJudge
from bench.faults_relay import BYTES, KAFKA, PULSAR, Framing

VARIABLE = "FAULTS_SECRET"
"""The environment variable through which the tool gets the planted secret."""

Address = tuple[str, int]


class Backlog(ABC):
    """One subscription with messages."""

    total: int

    @abstractmethod
    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        """The command's flags, with another address for some of the system's routes."""

    @abstractmethod
    def left(self) -> dict[int, int]:
        """Messages still to be delivered, by partition number."""

    def environment(self, routes: Mapping[str, Address]) -> dict[str, str]:
        """More of the tool's environment."""
        del routes
        return {}


class System(ABC):
    """One system with its servers."""

    name: str
    secret: str = ""
    variants: Sequence[str] = ("",)
    settle_s: float = 0.0  # after a killed process, until its messages are delivered again

    @property
    @abstractmethod
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        """The ways to the system that faults can be put on; the first is the broker's own protocol."""

    @abstractmethod
    def backlog(self, variant: str, size: int) -> Backlog:
        """A new backlog of about `size` messages."""

    def replaced(self, route: str, port: int) -> list[tuple[bytes, bytes]]:
        """What a relay on `port` replaces, so that clients do not go past it."""
        del route, port
        return []

    @property
    def planted(self) -> tuple[str, ...]:
        """Every form of the secret that no output may contain."""
        if not self.secret:
            return ()
        return (self.secret, base64.b64encode(self.secret.encode()).decode().rstrip("="))


class KafkaBacklog(Backlog):
    """A group on one topic; it has committed a few messages of each partition."""

    COMMITTED: ClassVar = {0: 7, 1: 3}  # of partition 2 nothing: restore has to forget it

    def __init__(self, system: KafkaSystem, reader: str, size: int) -> None:
        self.system, self.reader = system, reader
        judge = system.judge
        self.topic = judge.create(unique("faults"), 3)
        self.group = unique("group")
        for number in range(3):
            for _ in range(4):  # several batches
                judge.produce(self.topic, number, size // 12, compression="none")
        judge.commit(self.topic, self.group, self.COMMITTED)
        self.total = sum(self.left().values())

    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        host, port = routes.get("broker", self.system.address)
        servers = f"{host}:{port}" if routes else self.system.cluster.bootstrap("SASL_PLAINTEXT")
        return [
            "kafka", "--bootstrap-servers", servers, "--topic", self.topic,
            "--group-id", self.group, "--reader", self.reader,
            "-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanisms=PLAIN",
            "-X", f"sasl.username={USER}", "-X", f"sasl.password=${{env:{VARIABLE}}}",
        ]  # fmt: skip

    def left(self) -> dict[int, int]:
        return self.system.judge.left(self.topic, self.group)


class KafkaSystem(System):
    """Real Kafka, with a login."""

    name = "kafka"
    secret = PASSWORD
    variants = ("headers", "client")

    def __init__(self, cluster: KafkaCluster) -> None:
        self.cluster = cluster
        self.judge = KafkaJudge(cluster.bootstrap())
        self.judge.wait_for_coordinators()
        self.address = ("127.0.0.1", cluster.nodes[0].ports["SASL_PLAINTEXT"])

    @property
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        return {"broker": (self.address, KAFKA)}

    def backlog(self, variant: str, size: int) -> KafkaBacklog:
        return KafkaBacklog(self, variant, size)

    def replaced(self, route: str, port: int) -> list[tuple[bytes, bytes]]:
        del route
        host = self.address[0].encode()
        return [(host + struct.pack(">i", self.address[1]), host + struct.pack(">i", port))]


@contextmanager
def kafka(folder: Path) -> Iterator[KafkaSystem]:
    """One broker."""
    with running_kafka(folder / "kafka") as cluster:
        yield KafkaSystem(cluster)


class PulsarBacklog(Backlog):
    """A subscription of a topic with two partitions; an entry is a message."""

    def __init__(self, system: PulsarSystem, kind: str, size: int) -> None:
        self.system, self.kind = system, kind
        self.topic = f"persistent://{KEPT}/{unique('faults')}"
        judge = system.judge
        judge.create(self.topic, 2)
        self.parts = [f"{self.topic}-partition-{number}" for number in range(2)]
        for part in self.parts:
            judge.produce(part, size // 2)
        self.total = sum(self.left().values())

    def flags(self, routes: Mapping[str, Address]) -> list[str]:
        broker, admin = (routes.get(name, self.system.routes[name][0]) for name in ("broker", "admin"))
        return [
            "pulsar", "--service-url", f"pulsar://{broker[0]}:{broker[1]}",
            "--admin-url", f"http://{admin[0]}:{admin[1]}", "--topic", self.topic,
            "--subscription", SUBSCRIPTION, "--subscription-type", self.kind,
            "--token", f"${{env:{VARIABLE}}}",
        ]  # fmt: skip

    def left(self) -> dict[int, int]:
        return {number: self.system.judge.backlog(part) for number, part in enumerate(self.parts)}


class PulsarSystem(System):
    """Real Pulsar; it takes any token."""

    name = "pulsar"
    variants = ("failover", "shared")

    def __init__(self, judge: PulsarJudge) -> None:
        self.judge = judge
        self.secret = f"eyJ-{secrets.token_urlsafe(18)}"

    @property
    def routes(self) -> Mapping[str, tuple[Address, Framing]]:
        server = self.judge.server
        return {
            "broker": (("127.0.0.1", server.port), PULSAR),
            "admin": (("127.0.0.1", server.web), BYTES),
        }

    def backlog(self, variant: str, size: int) -> PulsarBacklog:
        return PulsarBacklog(self, variant, size)

    def replaced(self, route: str, port: int) -> list[tuple[bytes, bytes]]:
        if route != "broker":
            return []
        return [(f"127.0.0.1:{self.judge.server.port}".encode(), f"127.0.0.1:{port}".encode())]


@contextmanager
def pulsar(folder: Path) -> Iterator[PulsarSystem]:
    """One broker."""
    with ExitStack() as stack:
        server = stack.enter_context(running_pulsar(folder / "pulsar"))
        yield PulsarSystem(stack.enter_context(closing(PulsarJudge(server))))
