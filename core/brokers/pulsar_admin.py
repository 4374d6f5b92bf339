"""Pulsar's admin REST API: facts about a subscription, and the one call that moves it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from core.brokers.pulsar_auth import TIMEOUT_S, Bearer
from core.brokers.pulsar_positions import Layout, Place, layout
from core.errors import BrokerError, TransientError

_PARTITION = re.compile(r"-partition-(\d+)$")
_LOGIN = "check --token (has it expired?), --token-file or the oauth2 options"
_BUSY = frozenset({408, 409, 412, 429, 500, 502, 503, 504})


class NotFoundError(BrokerError):
    """The admin API says that there is no such thing."""


class Admin:
    """One connection to the admin API; for one thread."""

    def __init__(self, url: str, bearer: Bearer | None, trust: str | None) -> None:
        self.url = url
        self._bearer = bearer
        self._http = requests.Session()
        self._http.trust_env = False  # a .netrc or proxy would replace the login or the address
        self._http.verify = trust or True

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        version: str = "v2",
    ) -> Any:
        """Ask, and return the JSON answered (None: no content).

        Raises `NotFoundError`, `TransientError` or `BrokerError`, each with the address and what to
        check, never with a token.
        """
        headers = {"Authorization": f"Bearer {self._bearer()}"} if self._bearer else {}
        url = f"{self.url}/admin/{version}/{path}"
        try:
            answer = self._http.request(
                method, url, params=query, json=body, headers=headers, timeout=TIMEOUT_S
            )
        except requests.exceptions.SSLError:
            raise BrokerError(
                f"{self.url} has a certificate that is not trusted, or speaks no TLS: check"
                " --tls-trust-certs and --admin-url."
            ) from None
        except (requests.RequestException, ValueError):
            raise TransientError(
                f"The admin API at {self.url} does not answer: check --admin-url."
            ) from None
        status = answer.status_code
        if status == requests.codes.unauthorized:
            raise BrokerError(f"The admin API at {self.url} refused the login: {_LOGIN}.")
        if status == requests.codes.forbidden:
            raise BrokerError(
                f"The admin API at {self.url} does not permit {method} {path}: the role needs consume"
                " permission on the topic; see docs/pulsar.md."
            )
        if status == requests.codes.not_found:
            raise NotFoundError(f"{self.url}: {_reason(answer)}")
        if status in _BUSY:
            raise TransientError(f"{self.url} answered {status} to {method} {path}: {_reason(answer)}")
        if not answer.ok:
            raise BrokerError(f"{self.url} answered {status} to {method} {path}: {_reason(answer)}")
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise BrokerError(f"{self.url} is no Pulsar admin API: check --admin-url.") from None

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: it is not partitioned, or does not exist."""
        found = self.call(
            "GET", f"{_path(topic)}/partitions", query={"checkAllowAutoCreation": "false"}
        )
        return int(found.get("partitions", 0))

    def stats(self, topic: str) -> dict[str, Any]:
        """Statistics of one partition's topic, its backlog counted precisely."""
        query = {"getPreciseBacklog": "true", "subscriptionBacklogSize": "true"}
        return dict(self.call("GET", f"{_path(topic)}/stats", query=query))

    def layout(self, topic: str, subscription: str) -> Layout:
        """Ledgers and the subscription's cursor of one partition's topic."""
        found = self.call("GET", f"{_path(topic)}/internalStats")
        try:
            return layout(found, subscription)
        except (KeyError, ValueError, TypeError):
            raise BrokerError(f"{self.url} told nothing of the ledgers of {topic}.") from None

    def acknowledging(self, topic: str, subscription: str) -> int | None:
        """Open transactions that have acknowledged messages; None: not told.

        A broker without a transaction coordinator answers with an error, and there are none.
        """
        path = f"transactions/pendingAckStats/{_path(topic).removeprefix('persistent/')}"
        try:
            found = self.call("GET", f"{path}/{quote(subscription, safe='')}", version="v3")
            return int(found["ongoingTxnSize"])
        except (BrokerError, KeyError, ValueError, TypeError):
            return None

    def topics(self, topic: str) -> list[str]:
        """The topics of this topic's namespace, partitions not listed one by one."""
        namespace = topic.removeprefix("persistent://").rpartition("/")[0]
        names = self.call("GET", f"persistent/{_quote(namespace)}")
        return sorted({_PARTITION.sub("", str(name)) for name in names})

    def retention(self, topic: str) -> tuple[int, int] | None:
        """(minutes, megabytes) that acknowledged messages are kept; -1: without end.

        None: not told. The topic's own policy counts before the namespace's.
        """
        namespace = topic.removeprefix("persistent://").rpartition("/")[0]
        for path, query in (
            (f"{_path(topic)}/retention", {"applied": "true"}),
            (f"namespaces/{_quote(namespace)}/retention", {}),
        ):
            try:
                found = self.call("GET", path, query=query)
            except BrokerError:  # topic policies may be switched off, and policies forbidden
                continue
            if found:
                return int(found["retentionTimeInMinutes"]), int(found["retentionSizeInMB"])
            return 0, 0
        return None

    def reset(self, topic: str, subscription: str, after: Place) -> None:
        """Move a subscription so that the next message is the one after this place."""
        number = _PARTITION.search(topic)
        self.call(
            "POST",
            f"{_path(topic)}/subscription/{quote(subscription, safe='')}/resetcursor",
            body={
                "ledgerId": after.ledger,
                "entryId": after.entry + 1,  # `isExcluded` is ignored for whole entries
                "partitionIndex": int(number[1]) if number else -1,
                "batchIndex": -1,
                "isExcluded": False,
                "properties": {},
            },
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _quote(path: str) -> str:
    return "/".join(quote(part, safe="") for part in path.split("/"))


def _path(topic: str) -> str:
    return "persistent/" + _quote(topic.removeprefix("persistent://"))


def _reason(answer: requests.Response) -> str:
    """The broker's own words, if it has any."""
    try:
        return str(answer.json().get("reason", answer.reason))[:300]
    except (ValueError, AttributeError):
        return str(answer.reason)
