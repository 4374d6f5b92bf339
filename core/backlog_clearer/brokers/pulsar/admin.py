"""Pulsar's admin REST API: facts about a subscription, and the one call that moves it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from backlog_clearer.brokers.pulsar.admin_connection import AdminConnection, AdminHosts, Asked
from backlog_clearer.brokers.pulsar.auth import Access
from backlog_clearer.brokers.pulsar.errors import (
    LOGIN_HINT,
    NoSubscriptionError,
    NotFoundError,
    UnreachableError,
    shortened,
)
from backlog_clearer.brokers.pulsar.figures import (
    FigureError,
    Origins,
    SubscriptionStats,
    optional_count,
    parse_origins,
    parse_retention,
    parse_stats,
    required_count,
    required_object,
)
from backlog_clearer.brokers.pulsar.oauth2 import TIMEOUT_S
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.positions import Layout, Place, parse_layout
from backlog_clearer.brokers.shared.http import parsed
from backlog_clearer.brokers.shared.http_connection import HttpAnswer
from backlog_clearer.brokers.shared.parallel import in_parallel
from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from backlog_clearer.options.base import MOST_PARTITIONS, suggestion
from backlog_clearer.redaction.redact import redacted

_PARTITION = re.compile(r"-partition-(\d+)$")
_AT_ONCE = 8  # requests under way: a broker serves all its administrators with a few threads
OLDEST = "earliestMsgPublishTimeInBacklog"
"""The figure of a subscription's statistics that is the time of its oldest message, in milliseconds."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_BUSY = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
_STARTING = frozenset({502, 503, 504})  # a host that starts or stops, or a proxy that reaches none


class Admin:
    """One HTTP session with the admin API; for one thread."""

    def __init__(self, hosts: AdminHosts, options: PulsarOptions, access: Access) -> None:
        self._hosts = hosts
        self._options = options
        self._access = access
        self._http = AdminConnection(hosts, options, access)

    @property
    def url(self) -> str:
        """The address that answered last."""
        return self._hosts.url

    def another(self) -> Admin:
        """A separate session with the same API, for another thread."""
        return Admin(self._hosts, self._options, self._access)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        version: str = "v2",
    ) -> Any:
        """Send a request, and return the JSON of the answer (None: no content).

        Raises `NotFoundError`, `TransientError` or `BrokerError`, each with the address and what to
        check, never with a token.
        """
        answer = self._http.request(Asked(method, f"/admin/{version}/{path}", query, body))
        where, status = self.url, answer.status
        if status == HTTPStatus.UNAUTHORIZED:
            raise BrokerError(f"The admin API at {where} refused the login: {LOGIN_HINT}.")
        if status == HTTPStatus.FORBIDDEN:
            raise BrokerError(
                f"The admin API at {where} does not permit {method} {path}: the role needs consume"
                " permission on the topic; see docs/pulsar.md."
            )
        if status in _STARTING:
            self._hosts.leave(where)
        if status in _BUSY:
            raise TransientError(
                f"{where} answered {status} to {method} {path}: {self._reason(answer)}"
            )
        if status >= HTTPStatus.BAD_REQUEST and status != HTTPStatus.NOT_FOUND:
            raise BrokerError(f"{where} answered {status} to {method} {path}: {self._reason(answer)}")
        try:
            found = parsed(answer.content) if answer.content else None
        except ValueError:
            raise BrokerError(
                f"{where} is not a Pulsar admin API: it answers {status} to {method} {path} with a page that"
                " is not JSON. Check --admin-url."
            ) from None
        if status == HTTPStatus.NOT_FOUND:
            if not isinstance(found, Mapping) or "reason" not in found:
                raise BrokerError(
                    f"{where} is not a Pulsar admin API: it answers 404 to {method} {path} without a reason."
                    " Check --admin-url."
                )
            raise NotFoundError(f"{where}: {self._reason(answer)}")
        return found

    def each(
        self, items: Sequence[_T], ask: Callable[[Admin, _T], _R], *, at_once: int = _AT_ONCE
    ) -> list[_R | ClearerError]:
        """Call a function for each item, several at a time, each with a session that no other thread uses.

        Returns the results in order, an error where one was raised; once the API gives no answer, it is
        not asked for the rest.
        """
        own, opened = iter([self]), list[Admin]()
        unreachable: list[UnreachableError] = []

        def work(admin: Admin, item: _T) -> _R:
            if unreachable:
                raise unreachable[0]
            try:
                return ask(admin, item)
            except UnreachableError as error:
                unreachable.append(error)
                raise

        def open_worker() -> Callable[[_T], _R]:
            admin = next(own, None)  # the first thread uses this session
            if admin is None:
                admin = self.another()
                opened.append(admin)
            return partial(work, admin)

        try:
            return in_parallel(
                items,
                open_worker,
                where=f"The admin API at {self.url}",
                threads=at_once,
                timeout_s=2 * TIMEOUT_S,
            )
        finally:
            for admin in opened:
                admin.close()

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0: it is not partitioned, or does not exist."""
        path = f"{_path(topic)}/partitions"
        with self._checked(topic):
            found = self._object(path, query={"checkAllowAutoCreation": "false"})
            count = required_count(found, "partitions")
            if count > MOST_PARTITIONS:
                raise FigureError(f"partitions is {count:,}, which is more than {MOST_PARTITIONS:,}")
            return count

    def stats(self, topic: str, subscription: str, *, missing_ok: bool = False) -> SubscriptionStats:
        """Statistics of a subscription of one partition's topic.

        Raises `NoSubscriptionError`, too, unless `missing_ok`.
        """
        query = {"getPreciseBacklog": "true", "subscriptionBacklogSize": "true"}
        with self._checked(topic):
            found = self._object(f"{_path(topic)}/stats", query=query)
            return parse_stats(found, subscription, topic, missing_ok=missing_ok)

    def first_from(self, topic: str, when_ms: int) -> Place | None:
        """The first entry of one partition's topic that was published at a time or later; may be yet to come.

        `when_ms`: milliseconds since 1970. None: the topic has no entries.
        """
        with self._checked(topic):
            found = self.call("GET", f"{_path(topic)}/messageid/{when_ms}")
            if found is None:
                return None
            if not isinstance(found, Mapping):
                raise FigureError("the answer is not an object")
            return Place(required_count(found, "ledgerId"), required_count(found, "entryId"))

    def oldest(self, topic: str, subscription: str) -> int | None:
        """When the first entry of a subscription's backlog was published, in milliseconds since 1970."""
        query = {"getEarliestTimeInBacklog": "true"}
        with self._checked(topic):
            found = required_object(self._object(f"{_path(topic)}/stats", query=query), "subscriptions")
            mine = required_object(found, subscription)
            return optional_count(mine, OLDEST)

    def layout(self, topic: str, subscription: str, *, missing_ok: bool = False) -> Layout:
        """Ledgers and the subscription's cursor of one partition's topic; `missing_ok`: see `parse_layout`."""
        with self._checked(topic):
            found = self._object(f"{_path(topic)}/internalStats")
            return parse_layout(found, subscription, missing_ok=missing_ok)

    def origins(self, topic: str, subscription: str, *, missing_ok: bool = False) -> Origins:
        """When one partition's topic and its subscription were created.

        The broker reads it from the metadata store, without loading the topic. Raises `NoSubscriptionError`,
        too, unless `missing_ok`. Where the role may not ask this, `stats` shows whether topic and subscription
        exist.
        """
        try:
            found = self._object(f"{_path(topic)}/internal-info")
            return parse_origins(found, subscription, topic, missing_ok=missing_ok)
        except (UnreachableError, NoSubscriptionError):
            raise
        except TransientError:  # 500 for a topic that does not exist, too
            self.stats(topic, subscription, missing_ok=missing_ok)
            raise
        except (BrokerError, FigureError):
            self.stats(topic, subscription, missing_ok=missing_ok)
            return Origins(None, None)

    def acknowledging(self, topic: str, subscription: str) -> int | None:
        """Open transactions that have acknowledged messages; None: not reported.

        A broker without a transaction coordinator answers with an error, and there are none.
        """
        path = f"transactions/pendingAckStats/{_path(topic).removeprefix('persistent/')}"
        try:
            found = self._object(f"{path}/{quote(subscription, safe='')}", version="v3")
        except UnreachableError:
            raise
        except (BrokerError, FigureError):
            return None
        return optional_count(found, "ongoingTxnSize")

    def topics(self, topic: str) -> list[str]:
        """The topics of this topic's namespace, partitions not listed one by one."""
        return sorted({_PARTITION.sub("", name) for name in self.namespace_topics(namespace_of(topic))})

    def namespace_topics(self, namespace: str) -> list[str]:
        """The topics of a namespace, each partition of those that have any as a topic; sorted."""
        names = self.call("GET", f"persistent/{_quote(namespace)}")
        return sorted(str(name) for name in names) if isinstance(names, list) else []

    def subscriptions(self, topic: str, *, ages: bool) -> Mapping[str, Any]:
        """Statistics of each subscription of one partition's topic, by name.

        `ages`: with `OLDEST`, for which the broker reads one entry a subscription.
        """
        query = {"getPreciseBacklog": "true", "getEarliestTimeInBacklog": str(ages).lower()}
        with self._checked(topic):
            return required_object(self._object(f"{_path(topic)}/stats", query=query), "subscriptions")

    def retention(self, topic: str) -> tuple[int, int] | None:
        """(minutes, megabytes) that acknowledged messages are kept; -1: without end.

        None: not known. The topic's own policy overrides the namespace's.
        """
        for path, query in (
            (f"{_path(topic)}/retention", {"applied": "true"}),
            (f"namespaces/{_quote(namespace_of(topic))}/retention", {}),
        ):
            with suppress(BrokerError, FigureError):  # switched off for topics, forbidden, or not set
                return parse_retention(self._object(path, query=query))
        return None

    def allowed_types(self, topic: str) -> frozenset[str] | None:
        """Subscription types that topic or namespace allow, in small letters; None: all, or not known."""
        for path in (_path(topic), f"namespaces/{_quote(namespace_of(topic))}"):
            with suppress(BrokerError):  # switched off for topics, or forbidden
                found = self.call("GET", f"{path}/subscriptionTypesEnabled")
                if isinstance(found, list) and found:
                    return frozenset(str(each).lower() for each in found)
        return None

    @contextmanager
    def _checked(self, topic: str) -> Iterator[None]:
        """Raise a figure that is missing or cannot be as an error that may pass: a topic that loads."""
        try:
            yield
        except FigureError as error:
            raise TransientError(
                f"The admin API at {self.url} returned figures of {topic} that cannot be used: {error}."
                " Check --admin-url, and the topic's state."
            ) from None

    def _object(self, path: str, **asked: Any) -> Mapping[str, Any]:
        """The JSON object that is answered; raises `FigureError` where the answer is none."""
        found = self.call("GET", path, **asked)
        if not isinstance(found, Mapping):
            raise FigureError("the answer is empty" if found is None else "the answer is not an object")
        return found

    def create(self, topic: str, subscription: str) -> None:
        """Create a subscription at the topic's start; one that exists stays as it is."""
        start = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}  # MessageId.earliest
        try:
            self.call("PUT", f"{_path(topic)}/subscription/{_twice(subscription)}", body=start)
        except TransientError:  # 409 where another slice created it meanwhile
            try:
                self.origins(topic, subscription)
            except NoSubscriptionError:
                pass
            else:
                return
            raise

    def reset(self, topic: str, subscription: str, after: Place) -> None:
        """Move a subscription so that the next entry is the one after this place."""
        number = _PARTITION.search(topic)
        self.call(
            "POST",
            f"{_path(topic)}/subscription/{_twice(subscription)}/resetcursor",
            body={
                "ledgerId": after.ledger,
                "entryId": after.entry + 1,  # the broker ignores `isExcluded` for whole entries
                "partitionIndex": int(number[1]) if number else -1,
                "batchIndex": -1,
                "isExcluded": False,
                "properties": {},
            },
        )

    def _reason(self, answer: HttpAnswer) -> str:
        """The broker's own text, if it has any, without what was sent to it."""
        try:
            text = str(parsed(answer.content).get("reason", answer.reason))
        except (ValueError, AttributeError):
            text = str(answer.reason)
        return shortened(redacted(text))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _quote(path: str) -> str:
    return "/".join(quote(part, safe="") for part in path.split("/"))


def _twice(subscription: str) -> str:
    """A subscription in a path of the admin API, which decodes it twice, as Pulsar's own client encodes it.

    Encoded once, "a+b" would move the subscription "a b".
    """
    once = quote(subscription, safe="")
    return quote(once if once.strip(".") else once.replace(".", "%2E"), safe="")


def missing_topic(topic: str, where: str, admin: Admin | None = None) -> UsageError:
    """The error for a topic that does not exist, with the nearest one that does where `admin` lists them."""
    near = ""
    with suppress(BrokerError):
        near = suggestion(topic, admin.topics(topic)) if admin else ""
    return UsageError(f"There is no topic {topic} at {where}; nothing was created.{near}")


def namespace_of(topic: str) -> str:
    """TENANT/NAMESPACE of a topic."""
    return topic.removeprefix("persistent://").rpartition("/")[0]


@lru_cache(maxsize=256)  # several requests about a topic follow each other
def _path(topic: str) -> str:
    return "persistent/" + _quote(topic.removeprefix("persistent://"))
