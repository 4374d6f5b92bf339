"""The snapshots by which runs on one subscription can be undone: taken, listed and deleted.

A run's snapshot has the run's id in its name, and its subscription in a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from google.api_core.exceptions import AlreadyExists, GoogleAPICallError
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import Snapshot

from backlog_clearer.brokers.googlepubsub.errors import Call
from backlog_clearer.brokers.shared.pages import bounded_pages
from backlog_clearer.errors import BrokerError
from backlog_clearer.text import counted, listed

_LABEL = "backlog-clearer-subscription"  # its value is which subscription a snapshot belongs to
_PREFIX = "backlog-clearer-"  # of names
_PAGE = 1000  # a project has 5,000 at most
_UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)


class RunSnapshots:
    """The snapshots of one subscription; every request is sent once."""

    def __init__(
        self,
        client: SubscriberClient,
        subscription: str,
        call: Callable[[str, str, str], Call],
        ask: Callable[..., Any],
    ) -> None:
        """`call` describes a request by its kind, the permission that it needs, and its resource.

        `ask` sends it: it takes that, a method of the client, and the request's fields, and raises
        `AlreadyExists` or `BrokerError`.
        """
        self._client = client
        self._subscription = subscription
        self._project = "/".join(subscription.split("/")[:2])
        self._label = hashlib.sha256(subscription.encode()).hexdigest()[:40]
        self._call = call
        self._ask = ask

    def name_of(self, run_id: str) -> str:
        """The full name of a run's snapshot."""
        return f"{self._project}/snapshots/{_PREFIX}{run_id}"

    def take(self, name: str) -> datetime | None:
        """Take a run's snapshot, or find it; returns when the service lets it expire (None: unknown).

        Raises `BrokerError`, also where it is another subscription's.
        """
        call = self._call("snapshot", "pubsub.snapshots.create", self._project)
        labels = {_LABEL: self._label}
        try:
            taken = self._ask(
                call,
                self._client.create_snapshot,
                name=name,
                subscription=self._subscription,
                labels=labels,
            )
        except AlreadyExists:
            # Taken by an earlier attempt of this run: it holds at least the same messages.
            taken = self._look_up(name)
            if not self._is_own(taken):
                raise BrokerError(
                    f"{name} exists already for another subscription; use another run id."
                ) from None
        return _expiry(taken)

    def _look_up(self, name: str) -> Snapshot:
        call = self._call("look-up", "pubsub.snapshots.get", name)
        found: Snapshot = self._ask(call, self._client.get_snapshot, snapshot=name)
        return found

    def _is_own(self, snapshot: Snapshot) -> bool:
        return bool(snapshot.labels.get(_LABEL) == self._label)

    def delete(self, name: str) -> None:
        """Delete a snapshot; raises `BrokerError`."""
        call = self._call("deletion", "pubsub.snapshots.delete", name)
        self._ask(call, self._client.delete_snapshot, snapshot=name)

    def delete_own(self, name: str) -> None:
        """The same for a snapshot of a run on this subscription only; raises `BrokerError` for others."""
        if not self._is_own(self._look_up(name)):
            raise BrokerError(f"{name} was not taken for {self._subscription} by this tool: it stays.")
        self.delete(name)

    def notes(self) -> Sequence[str]:
        """Which snapshots runs have left, the last to expire first, for a status; [] where there are none."""
        call = self._call("list of snapshots", "pubsub.snapshots.list", self._project)
        try:
            answer = self._ask(
                call, self._client.list_snapshots, project=self._project, page_size=_PAGE
            )
            pages = bounded_pages(answer.pages, "their list")
            found = [item for page in pages for item in page.snapshots if self._is_own(item)]
        except (BrokerError, GoogleAPICallError) as error:  # the latter: of a later page
            return [f"Whether runs left snapshots of this subscription is unknown: {error}"]
        if not found:
            return []
        found.sort(key=lambda item: _expiry(item) or _UNKNOWN, reverse=True)
        names = listed(map(_until, found))
        text = (
            f"{counted(len(found), 'snapshot')} of runs on this subscription: {names}. What follows {_PREFIX}"
            " is the run's id: restore --run undoes the run, and receipts prune --delete-snapshots deletes the"
            " snapshot with its receipt."
        )
        return [text]


def _expiry(snapshot: Snapshot) -> datetime | None:
    expires: Any = snapshot.expire_time  # a datetime, unlike its annotation
    return expires or None


def _until(snapshot: Snapshot) -> str:
    expires = _expiry(snapshot)
    when = f"until {expires:%Y-%m-%dT%H:%MZ}" if expires else "for an unknown time"
    return f"{snapshot.name.rpartition('/')[2]} ({when})"
