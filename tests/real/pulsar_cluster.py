"""Two real Pulsar brokers that share topics, and Pulsar's own proxy before them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import requests

from backlog_clearer.testing.servers.pulsar import (
    COORDINATES,
    VERSION,
    PulsarServer,
    login_settings,
    quick_java,
    token,
)
from backlog_clearer.testing.servers.pulsar_judge import Judge
from backlog_clearer.testing.support import Server, free_port, maven_jars, running, wait_until
from tests.brokers.pulsar_relay import Relay

# Used with the broker's jars, plus what those lack: Maven Central has no proxy 4.0.7, and not all of the
# dependencies that the others declare.
PROXY = (
    "org.apache.pulsar:pulsar-proxy:4.0.6",
    "org.eclipse.jetty:jetty-proxy:9.4.57.v20241219",
    "com.github.seancfoley:ipaddress:5.5.0",
)
_CLUSTER = "two"


def _zookeeper(folder: Path) -> Server:
    """The store that brokers share."""
    jars = maven_jars(f"pulsar-{VERSION}", COORDINATES)
    port, config = free_port(), folder / "zoo.cfg"
    config.write_text(
        f"dataDir={folder / 'zookeeper'}\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "admin.enableServer=false\n"
    )
    main = "org.apache.zookeeper.server.ZooKeeperServerMain"
    command = [*quick_java(jars), "-cp", f"{jars}/*", main, str(config)]
    return Server(command, port=port, log=folder / "zookeeper.log", cwd=folder)


class Broker(PulsarServer):
    """A broker of a cluster: a standalone one would call itself a proxy, so that clients ask no other."""

    def __init__(self, folder: Path, store: str, *, bookie: bool) -> None:
        self.bookie = bookie
        more = {
            "clusterName": _CLUSTER,
            "metadataStoreUrl": store,
            "metadataStoreSessionTimeoutMillis": "10000",  # then others take a dead broker's topics over
            "configurationMetadataStoreUrl": store,
            "superUserRoles": "admin,proxy",
            "proxyRoles": "proxy",
            "loadBalancerEnabled": "true",  # without it, a topic belongs to the broker asked first
            "loadBalancerSheddingEnabled": "false",  # only tests move topics
            "loadBalancerAutoBundleSplitEnabled": "false",
            "systemTopicEnabled": "false",  # its readers would claim what a test leaves without owner
            "topicLevelPoliciesEnabled": "false",
        }
        if bookie:
            more |= {
                "metadataServiceUri": f"zk+null://{store.removeprefix('zk:')}/ledgers",
                "bookiePort": str(free_port()),
                "ledgerDirectories": str(folder / "ledgers"),
                "journalDirectory": str(folder / "journal"),
            }
        super().__init__(folder, secure=True, more=more)
        self.outside = Relay(self.port, answers_lookups=False)  # the address of the listener "outside"
        listeners = (
            f"inside:{self.service_url}",
            f"inside:pulsar+ssl://127.0.0.1:{self.secure_port}",
            f"outside:{self.outside.url}",
        )
        with self.config.open("a") as config:
            config.write(f"internalListenerName=inside\nadvertisedListeners={','.join(listeners)}\n")

    def _command(self) -> list[str]:
        main = "org.apache.pulsar.PulsarBrokerStarter"
        bookie = ["--run-bookie", "--bookie-conf", str(self.config)] if self.bookie else []
        return [*self.java, "-cp", f"{self.jars}/*", main, "--broker-conf", str(self.config), *bookie]

    def found(self, store: str) -> None:
        """Write the cluster's metadata to the store."""
        main = "org.apache.pulsar.PulsarClusterMetadataSetup"
        subprocess.run(
            [*self.java, "-cp", f"{self.jars}/*", main, "--cluster", _CLUSTER, "--metadata-store", store,
             "--configuration-metadata-store", store, "--web-service-url", self.admin_url,
             "--broker-service-url", self.service_url],
            cwd=self.folder, check=True, capture_output=True, timeout=240,
        )  # fmt: skip


class Proxy:
    """Pulsar's proxy: it forwards the tokens of clients to the brokers."""

    def __init__(self, folder: Path, broker: PulsarServer) -> None:
        folder.mkdir()
        self.ca = broker.ca
        self.port, self.web, self.secure_port, self.secure_web = (free_port() for _ in range(4))
        settings = {
            **login_settings(broker.folder),
            "bindAddress": "127.0.0.1",
            "advertisedAddress": "127.0.0.1",
            "clusterName": _CLUSTER,
            "servicePort": str(self.port),
            "servicePortTls": str(self.secure_port),
            "webServicePort": str(self.web),
            "webServicePortTls": str(self.secure_web),
            "brokerServiceURL": broker.service_url,
            "brokerWebServiceURL": broker.admin_url,
            "brokerProxyAllowedTargetPorts": "*",
            "forwardAuthorizationCredentials": "true",
            "brokerClientAuthenticationParameters": f"token:{token('proxy')}",
        }
        config = folder / "proxy.conf"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        # The broker's first: only then does Java use the archive of their classes.
        jars = [broker.jars, maven_jars("pulsar-proxy-4.0.6", PROXY, alone=True)]
        main = "org.apache.pulsar.proxy.server.ProxyServiceStarter"
        path = ":".join(f"{folder}/*" for folder in jars)
        command = [*quick_java(broker.jars), "-cp", path, main, "--config", str(config)]
        self.service_url = f"pulsar://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.web}"
        opened_last = self.secure_web
        self.server = Server(command, port=opened_last, log=folder / "proxy.log", cwd=folder)

    def connections(self) -> int:
        """How many connections of clients it has taken so far."""
        login = {"Authorization": f"Bearer {token()}"}
        text = requests.get(f"{self.admin_url}/metrics", headers=login, timeout=30).text
        found = re.search(r"^pulsar_proxy_new_connections_total\S* (\S+)$", text, re.MULTILINE)
        assert found, text
        return int(float(found[1]))


class TwoBrokers(Judge):
    """Two brokers and a proxy, all with TLS and tokens, as plain clients see them through the first."""

    def __init__(self, first: Broker, second: Broker, proxy: Proxy) -> None:
        super().__init__(first)
        self.first = first
        self.second = second
        self.proxy = proxy

    def _lookup(self, topic: str, more: str = "", asked: PulsarServer | None = None) -> str:
        path = topic.replace("://", "/")
        url = (asked or self.first).admin_url
        answer = self.http.get(f"{url}/lookup/v2/topic/{path}{more}", timeout=30)
        answer.raise_for_status()
        return answer.text

    def owner(self, topic: str, asked: PulsarServer | None = None) -> str:
        """The service URL of a topic's owner, as one broker reports it; a topic without one gets one."""
        return str(json.loads(self._lookup(topic, asked=asked))["brokerUrl"])

    def unload(self, topic: str, **query: str) -> None:
        """Take a topic, and those of its bundle, from their owner."""
        namespace = topic.removeprefix("persistent://").rpartition("/")[0]
        self.admin("PUT", f"namespaces/{namespace}/{self.bundle(topic)}/unload", **query)

    def bundle(self, topic: str) -> str:
        """The bundle of topics that one broker owns together, to which a topic belongs."""
        return self._lookup(topic, "/bundle").strip('"')

    def give(self, topic: str, to: PulsarServer) -> None:
        """Take a topic, and those of its bundle, from their owner until that broker has them.

        Once may not suffice: the leader drops the destination with the first lookup, and may redirect a
        second lookup, before the new owner holds the topic, elsewhere. If two brokers then claim the
        topic, one gets an error.
        """

        def given() -> bool:
            self.unload(topic, destinationBroker=f"127.0.0.1:{to.web}")
            with suppress(requests.HTTPError):
                return self.owner(topic, asked=to) == to.service_url  # others may not be notified yet
            return False

        wait_until(given, f"{topic} at {to.service_url}")


@contextmanager
def two_brokers(folder: Path) -> Iterator[TwoBrokers]:
    """Two brokers and a proxy that run for a `with` block."""
    with ExitStack() as stack:
        zookeeper = stack.enter_context(running(_zookeeper(folder)))
        store = f"zk:127.0.0.1:{zookeeper.port}"
        first, second = (Broker(folder, store, bookie=bookie) for bookie in (True, False))
        for broker in (first, second):
            stack.enter_context(broker.outside)
        proxy = Proxy(folder / "proxy", first)
        try:
            first.found(store)
            first.start()
            with ThreadPoolExecutor() as starting:
                list(starting.map(lambda server: server.start(), (second, proxy.server)))
            wait_for_all([first, second])
            judge = TwoBrokers(first, second, proxy)
            yield judge
            judge.close()
        finally:
            proxy.server.stop()
            second.stop()
            first.stop()


def wait_for_all(brokers: Sequence[PulsarServer]) -> None:
    """Wait until every broker lists the others; before that no topic can be moved there."""
    headers = {"Authorization": f"Bearer {token()}"}

    def listed() -> bool:
        urls = [f"{broker.admin_url}/admin/v2/brokers/{_CLUSTER}" for broker in brokers]
        found = [requests.get(url, headers=headers, timeout=5).json() for url in urls]
        return all(len(names) == len(brokers) for names in found)

    wait_until(listed, "brokers that list each other")
