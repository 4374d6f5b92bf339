"""Apache Pulsar as its project releases it: a standalone broker, with or without TLS and tokens."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jwt
import requests

from backlog_clearer.testing.servers.java_classes import archived
from backlog_clearer.testing.support import Server, free_port, make_certificates, maven_jars, wait_until

VERSION = "4.0.7"
COORDINATES = (f"org.apache.pulsar:pulsar-broker:{VERSION}",)
PASSWORD = "password-of-admin"
_USERS = (
    "admin:$apr1$abcdefgh$GMUpY..yqv7hMfZVKPJ3D1\n"  # a password file with it (openssl passwd -apr1)
)
KEY = b"a key of thirty-two bytes or more, known only to the test broker"

_OPENS = ("java.lang", "sun.net", "java.io", "jdk.internal.misc", "jdk.internal.platform")
_PROVIDERS = "org.apache.pulsar.broker.authentication.AuthenticationProvider"
JAVA = (
    "java",
    "-Xmx640m",
    "-XX:MaxDirectMemorySize=768m",
    "-XX:+UseSerialGC",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENS),
)
QUICK_JAVA = (*JAVA, "-XX:TieredStopAtLevel=1")
"""Starts in less time, and runs slower: for tests, not for measurements."""

CHEAP = {
    "managedLedgerCacheEvictionIntervalMs": "1000",  # instead of 10: each time it looks at every topic
    "journalSyncData": "false",  # what is written survives the end of the process without it
}
"""Settings that save processor time: for tests, not for measurements."""

_LOGGING = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p [%t] %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
logger.requests.name = org.eclipse.jetty.server.RequestLog
logger.requests.level = warn
"""
"""As in Pulsar's jars, without requests, and without lines of the code, which take a trace of the stack."""


def token(subject: str = "admin", *, expires_in_s: float = 3600, key: bytes = KEY) -> str:
    """A signed token; negative times give one that has expired."""
    return jwt.encode({"sub": subject, "exp": int(time.time() + expires_in_s)}, key, "HS256")


def login_settings(folder: Path) -> dict[str, str]:
    """Settings of a broker or a proxy that requires a token and offers TLS; files go into the folder."""
    if not (folder / "ca.pem").exists():
        make_certificates(folder)
        (folder / "token.key").write_bytes(KEY)
    return {
        "tlsCertificateFilePath": str(folder / "server.crt"),
        "tlsKeyFilePath": str(folder / "server.key"),
        "tlsTrustCertsFilePath": str(folder / "ca.pem"),
        "authenticationEnabled": "true",
        "authenticationProviders": ",".join(f"{_PROVIDERS}{name}" for name in ("Token", "Tls")),
        "tokenSecretKey": str(folder / "token.key"),
        "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
    }


def quick_java(jars: Path) -> list[str]:
    """`QUICK_JAVA` for programs of a broker's jars, with an archive of the classes that a broker loads."""
    return archived(f"pulsar-{VERSION}-classes", jars, QUICK_JAVA, _trained)


def _trained(folder: Path, java: Sequence[str]) -> Server:
    """A started broker that loads the classes which tests need."""
    broker = PulsarServer(folder / "pulsar", transactions=True, java=java, more=CHEAP)
    broker.start()
    return broker.server


class PulsarServer:
    """One standalone broker on 127.0.0.1, in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        secure: bool = False,
        transactions: bool = False,
        java: Sequence[str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.jars = maven_jars(f"pulsar-{VERSION}", COORDINATES)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.secure = secure
        logging = folder / "log4j2.properties"
        logging.write_text(_LOGGING)
        self.java = [*(java or quick_java(self.jars)), f"-Dlog4j2.configurationFile={logging}"]
        self.ca = folder / "ca.pem"
        self.port, self.web = free_port(), free_port()
        settings = {
            "bindAddress": "127.0.0.1",
            "advertisedAddress": "127.0.0.1",
            "brokerServicePort": str(self.port),
            "webServicePort": str(self.web),
            "clusterName": "standalone",
            "listeningInterface": "lo",  # the bookie would listen everywhere
            "allowLoopback": "true",
            "managedLedgerDefaultEnsembleSize": "1",
            "managedLedgerDefaultWriteQuorum": "1",
            "managedLedgerDefaultAckQuorum": "1",
            "bookkeeperClientHealthCheckEnabled": "false",  # would avoid the only bookie after a restart
            "nettyMaxFrameSizeBytes": str(
                5 * 1024 * 1024 + 10_240
            ),  # of the bookie: a message and its head
            "diskUsageThreshold": "0.99",  # a full disk turns it read-only, in a storm of log lines
            "functionsWorkerEnabled": "false",
            "brokerDeleteInactiveTopicsEnabled": "false",
            "loadBalancerEnabled": "false",
            "allowAutoTopicCreation": "true",  # the worst case: a mistyped name could be created
            "acknowledgmentAtBatchIndexLevelEnabled": "true",
            "transactionCoordinatorEnabled": str(transactions).lower(),
        }
        if java is None:
            settings |= CHEAP
        if secure:
            self.secure_port, self.secure_web = free_port(), free_port()
            logins = login_settings(folder)
            (folder / "users").write_text(_USERS)
            logins["authenticationProviders"] += f",{_PROVIDERS}Basic"
            settings |= logins | {
                "basicAuthConf": str(folder / "users"),
                "brokerServicePortTls": str(self.secure_port),
                "webServicePortTls": str(self.secure_web),
                "authenticationRefreshCheckSeconds": "1",
                "authorizationEnabled": "true",
                "superUserRoles": "admin",
                "brokerClientAuthenticationParameters": f"token:{token()}",
            }
        self.config = folder / f"broker-{self.port}.conf"
        lines = (f"{key}={value}\n" for key, value in (settings | dict(more or {})).items())
        self.config.write_text("".join(lines))
        env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "PULSAR_STANDALONE_USE_ZOOKEEPER": "0"}
        log = folder / f"broker-{self.port}.log"
        self.server = Server(self._command(), port=self.port, log=log, cwd=folder, env=env)

    def _command(self) -> list[str]:
        folder = self.folder
        return [*self.java, "-cp", f"{self.jars}/*", "org.apache.pulsar.PulsarStandaloneStarter",
                "-c", str(self.config), "-nfw", "-nss", "-a", "127.0.0.1",
                "--zookeeper-dir", str(folder / "zk"), "--bookkeeper-dir", str(folder / "bk"),
                "--bookkeeper-port", str(free_port())]  # fmt: skip

    @property
    def service_url(self) -> str:
        """Where clients connect without TLS."""
        return f"pulsar://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """The admin API without TLS."""
        return f"http://127.0.0.1:{self.web}"

    def start(self) -> None:
        """Start and wait until the namespace for tests can be used."""
        self.server.start()
        headers = {"Authorization": f"Bearer {token()}"} if self.secure else {}

        def ready() -> bool:
            url = f"{self.admin_url}/admin/v2/namespaces/public/default"
            try:
                return requests.get(url, headers=headers, timeout=5).ok
            except requests.RequestException:
                return False

        wait_until(ready, "the namespace public/default", 240)

    def stop(self) -> None:
        """Stop it by its process id."""
        self.server.stop(signal.SIGKILL)


@contextmanager
def running_pulsar(
    folder: Path,
    *,
    secure: bool = False,
    transactions: bool = False,
    java: Sequence[str] | None = None,
) -> Iterator[PulsarServer]:
    """A broker that runs for a `with` block."""
    server = PulsarServer(folder, secure=secure, transactions=transactions, java=java)
    try:
        server.start()
        yield server
    finally:
        server.stop()
