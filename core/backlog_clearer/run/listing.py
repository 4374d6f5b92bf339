"""The subscriptions of a system that have a backlog, largest first; changes nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from backlog_clearer.model import Found, total_known
from backlog_clearer.options.base import SystemOptions
from backlog_clearer.registry import list_subscriptions
from backlog_clearer.run.job import now
from backlog_clearer.run.report import Reported
from backlog_clearer.run.retry import repeated

LIST_SCHEMA: Literal["backlog-clearer/list/1"] = "backlog-clearer/list/1"


class ListedSubscription(Reported):
    """One subscription."""

    name: str
    kind: str | None = Field(description="the broker's word for its kind; null: not known")
    topics: tuple[str, ...]
    backlog: int | None = Field(description="in `unit`; null: unknown")
    oldest: datetime | None = Field(
        description="when the oldest message of the backlog was published; null: unknown, or no backlog"
    )
    members: int | None = Field(description="consumers attached; null: unknown")
    error: str | None = None


class ListResult(Reported):
    """The subscriptions of a system, the largest backlog first, then those whose backlog is unknown."""

    schema_: Literal["backlog-clearer/list/1"] = Field(LIST_SCHEMA, alias="schema")
    system: str
    place: str = Field(description="where they are, for people")
    unit: str = Field(description="the unit of `backlog`")
    at: datetime
    subscriptions: tuple[ListedSubscription, ...]
    empty: int = Field(description="how many more have no backlog, and are left out")
    backlog: int | None = Field(description="of all of them, in `unit`; null: unknown for some")
    notes: tuple[str, ...] = ()


def listing(system: str, options: SystemOptions, *, everything: bool = False) -> ListResult:
    """List subscriptions; with `everything`, those without a backlog, too.

    Raises `UsageError` and `BrokerError`.
    """
    found = repeated("list", lambda: list_subscriptions(system, options))
    kept = [item for item in found.found if everything or item.backlog != 0]
    return ListResult(
        system=system,
        place=found.place,
        unit=found.unit,
        at=now(),
        subscriptions=tuple(map(_listed, sorted(kept, key=_rank))),
        empty=len(found.found) - len(kept),
        backlog=total_known(item.backlog for item in found.found),
        notes=found.notes,
    )


def _rank(item: Found) -> tuple[bool, int, str]:
    return item.backlog is None, -(item.backlog or 0), item.name


def _listed(item: Found) -> ListedSubscription:
    return ListedSubscription(
        name=item.name,
        kind=item.kind,
        topics=item.topics,
        backlog=item.backlog,
        oldest=item.oldest,
        members=item.members,
        error=item.error,
    )
