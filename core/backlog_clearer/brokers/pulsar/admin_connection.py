"""HTTP requests to the admin API: several hosts in turn, redirects to a topic's owner, failures by name.

Redirects are followed here, so that the login is kept for the owner's address, which has another host or port,
and a redirect to an address that cannot be reached is named as that.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.errors import ANOTHER_NAME, UnreachableError
from backlog_clearer.brokers.pulsar.oauth2 import TIMEOUT_S
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.shared.http_connection import HttpAnswer, HttpConnection
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.text import listed

_CONNECT_S = 4.0
_MAX_REDIRECTS = 10
_SILENT_S = 3.0  # how long an address that did not answer is not tried again
_MOVED = frozenset({301, 302, 303})  # a client may repeat these only as GET
_KEPT = frozenset({307, 308})  # as Pulsar redirects to the owner of a topic: the same request again
_ACCEPTED = {
    "User-Agent": "backlog-clearer",
    "Accept": "application/json, */*",
    "Accept-Encoding": "identity",
}
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str  # after the address of the admin API
    query: Mapping[str, str] | None
    body: Mapping[str, Any] | None


@dataclass
class AdminHosts:
    """The addresses of the admin API, for all sessions of a source; any thread may change it."""

    urls: tuple[str, ...]
    current: int = 0  # the one that answered last
    silent: dict[str, float] = field(default_factory=dict)
    """Addresses that a redirect led to and that did not answer, with their time.monotonic()."""
    tls: ssl.SSLContext | None = None  # made once: reading the authorities takes time

    @property
    def url(self) -> str:
        """The address that answered last."""
        return self.urls[self.current]

    def leave(self, url: str) -> None:
        """Have the next request begin with another address than this one, if there is one."""
        if self.url == url:
            self.current = (self.current + 1) % len(self.urls)


class AdminConnection:
    """Connections to the hosts of the admin API, one to each; for one thread."""

    def __init__(self, hosts: AdminHosts, options: PulsarOptions, access: Access) -> None:
        self._hosts = hosts
        self._access = access
        self._options = options
        self._open: dict[str, HttpConnection] = {}

    @property
    def _tls(self) -> ssl.SSLContext:
        """The settings of the brokers' protocol, with the authorities of `requests` where none are named."""
        if self._options.tls_trust_certs:
            return self._access.tls
        if self._hosts.tls is None:
            made = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
            made.check_hostname = self._access.check_names
            if own := self._access.login.certificate:
                made.load_cert_chain(own, self._access.login.certificate_key, password=lambda: "")
            self._hosts.tls = made
        return self._hosts.tls

    def request(self, asked: Asked) -> HttpAnswer:
        """The answer of the first address that gives one, from the topic's owner where it redirects.

        Raises `UnreachableError` where no address answers, `TransientError` where only a redirect's target does
        not, and `BrokerError` for a certificate that cannot be used.
        """
        until = time.monotonic() + TIMEOUT_S
        failed: UnreachableError | None = None
        for _ in self._hosts.urls:
            base = self._hosts.url
            try:
                return self._follow(base, asked, until)
            except UnreachableError as error:
                failed = error
                self._hosts.leave(base)
            if time.monotonic() >= until:
                break
        if failed and len(self._hosts.urls) == 1:
            raise failed
        raise UnreachableError(
            f"The admin API does not answer at {listed(self._hosts.urls)}: check --admin-url."
        )

    def _follow(self, base: str, asked: Asked, until: float) -> HttpAnswer:
        url, login = f"{base}{asked.path}", dict(self._access.headers())
        for number in range(_MAX_REDIRECTS):
            answer = self._send(url, asked, login, until, base if number else None)
            asked = asked._replace(query=None)  # a redirect's address has it
            if answer.status not in _MOVED | _KEPT:
                return answer
            onward = urljoin(url, answer.headers.get("location", ""))
            if onward == url or urlsplit(onward).scheme not in ("http", "https"):
                raise BrokerError(f"{base} redirects without a usable address: check --admin-url.")
            if answer.status in _MOVED and asked.method != "GET":
                raise BrokerError(
                    f"{base} redirects to {_host(urlsplit(onward))}: give that as --admin-url."
                )
            if urlsplit(url).scheme == "https" != urlsplit(onward).scheme:
                login = {}  # never from HTTPS to HTTP
            url = onward
        raise TransientError(f"{base} redirects from host to host without end: check --admin-url.")

    def _send(
        self, url: str, asked: Asked, login: dict[str, str], until: float, redirected_by: str | None
    ) -> HttpAnswer:
        parts, now = urlsplit(url), time.monotonic()
        where = _host(parts)
        wait_s = max(1.0, until - now)
        if redirected_by and now - self._hosts.silent.get(where, now - _SILENT_S) < _SILENT_S:
            raise _onward_silent(redirected_by, where)
        try:
            return self._ask(where, parts, asked, login, now + wait_s)
        except (ValueError, OSError) as error:
            fault = _tls_fault(error)
            if fault:
                raise BrokerError(f"{where} {fault}") from None
            if redirected_by:
                self._hosts.silent[where] = time.monotonic()
                raise _onward_silent(redirected_by, where) from None
            hint = " (does its port require https://?)" if _closed(error, url) else ""
            raise UnreachableError(
                f"The admin API at {where} does not answer{hint}: check --admin-url."
            ) from None

    def _ask(
        self, where: str, parts: SplitResult, asked: Asked, login: Mapping[str, str], until: float
    ) -> HttpAnswer:
        """The answer of one host, over its connection; one that failed is not used again."""
        body, fields = None, {**_ACCEPTED, **login}
        if asked.body is not None:
            body, fields["Content-Type"] = json.dumps(asked.body).encode(), "application/json"
        query = urlencode(asked.query) if asked.query else parts.query
        target = f"{parts.path or '/'}?{query}" if query else parts.path or "/"
        connection = self._open.pop(where, None)
        if connection is not None and not connection.usable:
            connection.close()
            connection = None
        if connection is None:
            left_s = max(0.1, until - time.monotonic())
            tls = self._tls if parts.scheme == "https" else None
            # To connect takes less, so that other hosts have their turn.
            connection = HttpConnection(where, min(_CONNECT_S, left_s), tls, whole_s=left_s)
        try:
            answer = connection.ask(asked.method, target, fields, body, until)
        except BaseException:
            connection.close()
            raise
        self._open[where] = connection
        return answer

    def close(self) -> None:
        """Close the connections."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def _host(parts: SplitResult) -> str:
    """A URL without its path, and without a user."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _onward_silent(asked: str, onward: str) -> TransientError:
    return TransientError(
        f"The admin API at {asked} redirects to {onward}, which does not answer: the broker that owns the"
        " topic is down, or its address cannot be reached from here (then give a Pulsar proxy as --admin-url)."
    )


def _closed(error: Exception, url: str) -> bool:
    """Whether the other side ended a connection without TLS before it answered."""
    ended = isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError)
    return url.startswith("http://") and (ended or "aborted" in str(error).lower())


def _tls_fault(error: BaseException) -> str | None:
    """What is wrong with TLS, by its cause; None: it is not about TLS, or may pass."""
    found = _ssl_error(error)
    if found is None or isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        reason = found.verify_message
        another = ANOTHER_NAME if "mismatch" in reason.lower() else ""
        return (
            f"has a certificate that is not trusted ({reason}): check --tls-trust-certs and"
            f" --admin-url{another}."
        )
    if found.reason in _NOT_TLS:
        return "does not use TLS on this port: check the scheme and the port of --admin-url."
    return (
        f"has a certificate that is not trusted, or does not use TLS ({found.reason or 'handshake failed'}):"
        " check --tls-trust-certs, --tls-certificate and --admin-url."
    )


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    """The error of the TLS library, or the one that caused an error."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, ssl.SSLError):
            return each
        seen.add(id(each))
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        waiting += [item for item in inner if isinstance(item, BaseException) and id(item) not in seen]
    return None
