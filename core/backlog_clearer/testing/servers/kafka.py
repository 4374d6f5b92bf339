"""Apache Kafka as its project releases it: KRaft nodes, every kind of listener, its own tools."""

from __future__ import annotations

import shutil
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backlog_clearer.testing.servers.java_classes import archived
from backlog_clearer.testing.support import Server, cached, free_port, make_certificates, maven_jars

VERSION = "4.2.1"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-tools:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j2-impl:2.25.2",
)
LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL")
USER, PASSWORD = "clara", "clara-s3cret"

_BOOTSTRAP = "bootstrap.checkpoint"  # the first records of a cluster: its version, and its users
_JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # starts fast
SERVER_JAVA = ("java", "-Xmx1g", "-XX:+UseG1GC")  # runs fast: as Kafka's own start script has it
_SMALL = {
    "num.network.threads": "1",  # for each listener
    "num.io.threads": "2",
    "background.threads": "2",
    "group.coordinator.threads": "1",
    "log.cleaner.dedupe.buffer.size": "4194304",  # instead of 128 MB, which is zeroed with each start
    "metadata.max.idle.interval.ms": "0",  # instead of a record for every node each half second
}
"""What a node of a few small topics can do without; it starts faster, and idles at less cost."""


class GroupOffset(NamedTuple):
    """One line of what Kafka's consumer-group tool prints; None where it prints '-'."""

    current: int | None
    end: int | None
    lag: int | None


@dataclass(frozen=True)
class Node:
    """One broker that is also a controller."""

    number: int
    ports: Mapping[str, int]
    server: Server


def _tls(folder: Path) -> None:
    """Certificates, and `server.pem` with all of them, as Kafka wants it."""
    make_certificates(folder)
    parts = ("server.key", "server.crt", "ca.pem")
    (folder / "server.pem").write_text("".join((folder / part).read_text() for part in parts))


class KafkaCluster:
    """1..n nodes on 127.0.0.1, in one folder; stop it, or use it with `running_kafka`."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        java: Sequence[str] | None = None,
        relays: Mapping[int, int] | None = None,
    ) -> None:
        """`relays`: by node, the port that it advertises to clients instead of its PLAINTEXT port."""
        self.folder = folder
        self.jars = maven_jars(f"kafka-{VERSION}", COORDINATES)
        settings = {**({} if java else _SMALL), **(settings or {})}
        java = java or archived(f"kafka-{VERSION}-classes", self.jars, _JAVA, _trained)
        self._tools = java if "-XX:SharedArchiveFile" in java[-1] else _JAVA
        folder.mkdir(parents=True, exist_ok=True)
        _tls(folder)
        self.ca = folder / "ca.pem"
        names = (*LISTENERS, "CONTROLLER")
        ports = [{name: free_port() for name in names} for _ in range(nodes)]
        voters = ",".join(f"{n}@127.0.0.1:{p['CONTROLLER']}" for n, p in enumerate(ports, 1))
        cluster_id = _random_id()
        self.nodes = []
        for number, mine in enumerate(ports, 1):
            home = folder / f"node-{number}"
            home.mkdir()
            config = home / "server.properties"
            named = mine | {"PLAINTEXT": (relays or {}).get(number, mine["PLAINTEXT"])}
            lines = self._properties(number, mine, named, voters, nodes) | settings
            config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
            self._format(config, home / "data", number, cluster_id)
            command = [*java, "-cp", f"{self.jars}/*", "kafka.Kafka", str(config)]
            server = Server(command, port=mine["PLAINTEXT"], log=home / "kafka.log", cwd=home)
            self.nodes.append(Node(number, mine, server))

    def _properties(
        self,
        number: int,
        ports: Mapping[str, int],
        named: Mapping[str, int],
        voters: str,
        nodes: int,
    ) -> dict[str, str]:
        copies = str(min(3, nodes))
        plain = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required"
            f' user_{USER}="{PASSWORD}";'
        )
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        bearer = (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
            f' unsecuredLoginStringClaim_sub="{USER}";'
        )
        jaas = {
            f"listener.name.{name}.{kind}.sasl.jaas.config": module
            for name in ("sasl_plaintext", "sasl_ssl")
            for kind, module in (
                ("plain", plain),
                ("scram-sha-256", scram),
                ("scram-sha-512", scram),
                ("oauthbearer", bearer),
            )
        }
        return {
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "advertised.listeners": ",".join(f"{n}://127.0.0.1:{named[n]}" for n in LISTENERS),
            "listener.security.protocol.map": ",".join(
                [f"{name}:{name}" for name in LISTENERS] + ["CONTROLLER:PLAINTEXT"]
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "broker.rack": f"rack-{number}",
            "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
            **jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.folder / "ca.pem"),
            "log.dirs": str(self.folder / f"node-{number}" / "data"),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "default.replication.factor": copies,
            "auto.create.topics.enable": "true",
            "group.initial.rebalance.delay.ms": "0",
        }

    def _format(self, config: Path, data: Path, number: int, cluster_id: str) -> None:
        """Make an empty data folder; the result of Kafka's tool is cached, and gets its ids here."""
        with cached(f"kafka-{VERSION}-formatted") as (folder, complete):
            if not complete:
                scram = [f"SCRAM-SHA-{n}=[name={USER},password={PASSWORD}]" for n in (256, 512)]
                self._java(
                    "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(config),
                    "--add-scram", scram[0], "--add-scram", scram[1],
                )  # fmt: skip
                shutil.copy(data / _BOOTSTRAP, folder)
        data.mkdir(exist_ok=True)
        shutil.copy(folder / _BOOTSTRAP, data)
        ids = {"cluster.id": cluster_id, "node.id": number, "directory.id": _random_id(), "version": 1}
        (data / "meta.properties").write_text("".join(f"{key}={value}\n" for key, value in ids.items()))

    def start(self) -> None:
        """Start every node and wait until they accept connections."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:  # together: a single node has no quorum
            list(pool.map(lambda node: node.server.start(), self.nodes))

    def stop(self) -> None:
        """Stop every node by its process id."""
        for node in self.nodes:
            node.server.stop()

    def kill(self, number: int = 1) -> None:
        """Kill one node at once, as a power cut does."""
        self.nodes[number - 1].server.stop(signal.SIGKILL)

    def restart(self, number: int = 1) -> None:
        """Start a killed node again on its data, and wait until it accepts connections."""
        self.nodes[number - 1].server.start()

    def bootstrap(self, listener: str = "PLAINTEXT") -> str:
        """HOST:PORT of every node, for one kind of listener."""
        return ",".join(f"127.0.0.1:{node.ports[listener]}" for node in self.nodes)

    def login(self, listener: str, mechanism: str = "PLAIN") -> dict[str, str]:
        """The librdkafka settings that one kind of listener accepts."""
        settings = {"security.protocol": listener}
        if "SSL" in listener.replace("SASL", ""):
            settings["ssl.ca.location"] = str(self.ca)
        if listener.startswith("SASL") and mechanism == "OAUTHBEARER":
            settings["sasl.mechanisms"] = mechanism
            settings["enable.sasl.oauthbearer.unsecure.jwt"] = "true"
            settings["sasl.oauthbearer.config"] = f"principal={USER} lifeSeconds=3600"
        elif listener.startswith("SASL"):
            settings.update(
                {"sasl.mechanisms": mechanism, "sasl.username": USER, "sasl.password": PASSWORD}
            )
        return settings

    def _java(self, main: str, *args: str) -> str:
        command = [*self._tools, "-cp", f"{self.jars}/*", main, *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            raise RuntimeError(f"{main} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def tool(self, main: str, *args: str) -> str:
        """The output of one of Kafka's own command line tools, run against this cluster."""
        return self._java(main, "--bootstrap-server", self.bootstrap(), *args)

    def limit_reads(self, bytes_per_s: int) -> None:
        """Deliver at most so many bytes a second to a client and node, so that a drain takes time."""
        self.tool(
            "kafka.admin.ConfigCommand", "--alter", "--add-config",
            f"consumer_byte_rate={bytes_per_s}", "--entity-type", "clients", "--entity-default",
        )  # fmt: skip

    def group_offsets(self, group: str) -> dict[tuple[str, int], GroupOffset]:
        """A group's offsets by topic and partition, as Kafka's consumer-group tool prints them."""
        text = self.tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            "--describe", "--offsets", "--group", group,
        )  # fmt: skip
        rows = [line.split() for line in text.splitlines() if line.strip()]
        header = next((row for row in rows if row[0] == "GROUP"), [])
        named = [dict(zip(header, row, strict=False)) for row in rows if row[0] == group]
        return {
            (row["TOPIC"], int(row["PARTITION"])): GroupOffset(
                *(_number(row[name]) for name in ("CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"))
            )
            for row in named
        }


def _trained(folder: Path, java: Sequence[str]) -> Server:
    """A started node that loads the classes which tests need."""
    cluster = KafkaCluster(folder / "kafka", java=java)
    cluster.start()
    return cluster.nodes[0].server


def _random_id() -> str:
    """An id as Kafka writes it; with a leading zero byte, as one that began with "-" would be an option."""
    return urlsafe_b64encode(bytes(1) + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


@contextmanager
def running_kafka(
    folder: Path,
    nodes: int = 1,
    settings: Mapping[str, str] | None = None,
    java: Sequence[str] | None = None,
    relays: Mapping[int, int] | None = None,
) -> Iterator[KafkaCluster]:
    """A cluster that runs for a `with` block."""
    cluster = KafkaCluster(folder, nodes, settings, java, relays)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
