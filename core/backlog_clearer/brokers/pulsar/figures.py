"""Figures of the admin API's JSON answers, each checked before anything is computed from it: pure.

A figure that is missing, negative or not a whole number is never taken for 0: where a decision depends on
it, it is a `FigureError`; where it is only for information, it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from backlog_clearer.brokers.pulsar.errors import NoSubscriptionError

_NO_TIME = "1970-"


class FigureError(ValueError):
    """An answer lacks a figure, or has one that cannot be; the text names it."""


def required_count(answer: Mapping[str, Any], key: str) -> int:
    """A whole number of 0 or more; raises `FigureError`."""
    found = optional_count(answer, key)
    if found is None:
        raise FigureError(f"{key} is {answer[key]!r}" if key in answer else f"{key} is missing")
    return found


def optional_count(answer: Mapping[str, Any], key: str) -> int | None:
    """A whole number of 0 or more; None: missing, or not one."""
    value = answer.get(key)
    return value if type(value) is int and value >= 0 else None  # True is an int, too


def optional_time(value: object) -> str | None:
    """A time as brokers spell it; None: missing, or 1970, which stands for no time."""
    return value if isinstance(value, str) and value and not value.startswith(_NO_TIME) else None


def required_object(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A JSON object; raises `FigureError`."""
    value = answer.get(key)
    if not isinstance(value, Mapping):
        raise FigureError(f"{key} is missing or not an object")
    return value


def required_objects(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A JSON array of objects; raises `FigureError`."""
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise FigureError(f"{key} is missing or not a list of objects")
    return value


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """What a topic's `stats` report of one subscription; None: not reported."""

    kind: str | None  # its type, in small letters
    consumers: tuple[tuple[str, str], ...]  # (name, address)
    backlog_bytes: int | None
    delayed: int | None  # messages
    open_transactions: int | None  # with messages in the topic
    replicated: bool
    expired: int | None = None  # entries, unread, since its broker loaded the topic
    exists: bool = True


def parse_stats(
    answer: Mapping[str, Any], subscription: str, topic: str, *, missing_ok: bool = False
) -> SubscriptionStats:
    """Read a topic's `stats`; raises `NoSubscriptionError` (unless `missing_ok`) or `FigureError`."""
    subscriptions = required_object(answer, "subscriptions")
    transactions = optional_count(answer, "ongoingTxnCount")
    if subscription not in subscriptions:
        if missing_ok:
            return SubscriptionStats(None, (), None, 0, transactions, replicated=False, exists=False)
        raise NoSubscriptionError(topic, list(subscriptions))
    mine = required_object(subscriptions, subscription)
    return SubscriptionStats(
        kind=str(mine["type"]).lower() if mine.get("type") else None,
        consumers=tuple(
            (str(item.get("consumerName") or "unnamed"), str(item.get("address") or "unknown address"))
            for item in required_objects(mine, "consumers")
        ),
        backlog_bytes=optional_count(mine, "backlogSize"),
        delayed=optional_count(mine, "msgDelayed"),
        open_transactions=transactions,
        replicated=bool(mine.get("isReplicated") or mine.get("replicated")),
        expired=optional_count(mine, "totalMsgExpired"),
    )


@dataclass(frozen=True, slots=True)
class Origins:
    """When a topic and a subscription were created; None: not reported.

    Both come from the admin API's `internal-info`, which returns the `creationDate` that the metadata store
    keeps of the managed ledger and of each of its cursors (ZooKeeper's ctime, and its like in RocksDB). They
    stay the same while ledgers are trimmed, and the topic is unloaded, truncated or moved; a topic or
    subscription created again has others, as has one of the same name on another cluster. A store that keeps
    no times reports 1970.
    """

    topic: str | None
    subscription: str | None
    ledgers: frozenset[int] = frozenset()  # of the topic, at that moment
    cursor_ledger: int | None = None  # where the subscription's position is stored; None: in no ledger


def cursor_name(subscription: str) -> str:
    """What Pulsar calls a subscription's cursor: the name as java.net.URLEncoder spells it."""
    return quote_plus(subscription, safe="*").replace("~", "%7E")


def parse_origins(
    answer: Mapping[str, Any], subscription: str, topic: str, *, missing_ok: bool = False
) -> Origins:
    """Read a topic's `internal-info`; raises `NoSubscriptionError` (unless `missing_ok`) or `FigureError`."""
    cursors = required_object(answer, "cursors")
    name = cursor_name(subscription)
    if name not in cursors:
        if missing_ok:
            return Origins(optional_time(answer.get("creationDate")), None)
        raise NoSubscriptionError(topic, [unquote_plus(str(each)) for each in cursors])
    cursor = required_object(cursors, name)
    return Origins(
        optional_time(answer.get("creationDate")),
        optional_time(cursor.get("creationDate")),
        _ledgers(answer.get("ledgers")),
        optional_count(cursor, "cursorsLedgerId"),
    )


def _ledgers(found: object) -> frozenset[int]:
    """The numbers of those ledgers that have one."""
    items = found if isinstance(found, list) else ()
    numbers = (optional_count(item, "ledgerId") for item in items if isinstance(item, Mapping))
    return frozenset(number for number in numbers if number is not None)


def parse_retention(answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """(minutes, megabytes) of a retention policy, -1: without end; None: not a policy."""
    found = answer.get("retentionTimeInMinutes"), answer.get("retentionSizeInMB")
    minutes, megabytes = found
    if type(minutes) is not int or type(megabytes) is not int or min(minutes, megabytes) < -1:
        return None
    return minutes, megabytes
