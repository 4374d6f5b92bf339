"""What the contract suite needs of a broker: one subscription, filled and judged from outside."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import pytest

from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.testing.relay import Relay

MESSAGES = 700  # per partition: several batches of BATCH, and not a multiple of it
BATCH = 64
SOME = 3 * BATCH + 8  # per partition, where no test needs a run that lasts


class Faults(Protocol):
    """What can go wrong between the adapter and the broker; `testing.relay.Relay` does it to TCP."""

    @property
    def connections(self) -> int:
        """Connections that clients have opened so far, or tried to."""

    @property
    def address(self) -> str:
        """The address that the adapter was given; errors must name it."""

    def cut(self) -> None:
        """Break all connections; new ones pass."""

    def refuse(self) -> None:
        """Break all connections, and refuse new ones."""

    def stall(self) -> None:
        """Leave all connections open, and answer nothing."""

    def drip(self) -> None:
        """Answer byte by byte, with pauses."""

    def heal(self) -> None:
        """Answer again; connections that a fault has touched are broken first."""


class Approach(NamedTuple):
    """One address that the adapter talks to; a system may have several, each with its protocol."""

    host: str
    port: int
    source_via: Callable[[RunOptions, str, int], Source]
    readdressed: Callable[[int], Sequence[tuple[bytes, bytes]]] = lambda _port: ()


class Bench(ABC):
    """One topic with one subscription on a running broker, as the test sees it from outside.

    The abstract members are required. Each further member has a default; where that is "not offered",
    the tests that need it are skipped with a reason.
    """

    system: str = ""
    partitions: int = 3
    has_figures: bool = True  # the broker reports how much is left
    exact_restore: bool = True  # restore brings back exactly the stored positions
    exact_limit: bool = True  # max_messages can be kept exactly
    unit_is_messages: bool = True  # backlog counts messages, one by one
    detects_live: bool = True  # attached consumers can be made and are reported
    refuses_missing: bool = True  # the broker can be asked whether a subscription exists
    answers_empty: bool = True  # a topic that never had a message can be surveyed
    survives_skip: bool = True  # a skip that leaves messages does not end the broker's process
    shows_position: bool = True  # the broker shows a position, so that a skip can keep from lowering it
    confirms: bool = True  # the broker confirms acknowledgements
    lease_s: float = 0.0  # messages in delivery to a consumer that ended may stay away for so long
    call_limit_s: float = 15.0  # the longest that any call may take while the broker does not answer
    wait_slack_s: float = 1.0  # by how much a read may exceed `max_wait_s`
    patience_s: float = 30.0  # the longest until a message that is there arrives
    cuts_by_time: bool = False  # the adapter is `Bounded`, and the broker's clock is this machine's
    counts_parts: bool = True  # the broker reports how much there is before a time
    cuts_by_count: bool = False  # the adapter can keep the last messages of each partition
    shows_age: bool = False  # the adapter is `Dated`
    notices_silence: bool = False  # lanes notice a silent connection within `RunOptions.answer_seconds`
    stall_s: float = 12.0  # --stall-seconds where that is tested
    attempts: int = 3  # connections that one call may try to open while they are refused
    endpoint: tuple[str, int] | None = (
        None  # the broker's host and port; the suite puts a relay before it
    )
    damaged_answers: int = 1  # of each kind of call, in each way; 0: only with --answers
    takes_garbled: bool = True  # False: the client library ends the process on bytes that cannot be
    secrets: tuple[str, ...] = ()  # strings in the adapter's options that no text may contain

    @abstractmethod
    def source(self, run: RunOptions, run_id: str = "contract") -> Source:
        """The adapter under test, opened on this subscription."""

    @abstractmethod
    def missing_source(self, run: RunOptions) -> Source:
        """The adapter, opened on a topic (or subscription) that does not exist."""

    @abstractmethod
    def produce(self, number: int, count: int) -> None:
        """Publish `count` messages to one partition, and wait until they are stored."""

    @abstractmethod
    def left(self) -> dict[int, int]:
        """Messages still to be delivered to the subscription, by partition number.

        Judged by the broker's figures or by a plain consumer of the broker's own library, never by
        the adapter.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether the missing topic (or subscription) exists now."""

    def confirmed_late(self) -> int:
        """Acknowledgements that the broker confirmed after it had taken their messages back.

        An adapter cannot distinguish them, so that such a message may be counted twice. For brokers with
        leases, whose servers in a test may end them earlier than the adapter was promised.
        """
        return 0

    @property
    @abstractmethod
    def missing_name(self) -> str:
        """The name that `missing_source` uses."""

    def between(self) -> datetime:
        """A time after all messages published so far, and before all that follow."""
        time.sleep(0.05)
        now = datetime.now(timezone.utc)
        time.sleep(0.05)
        return now

    def attach(self) -> AbstractContextManager[Any]:
        """A block in which an ordinary consumer is attached to the subscription."""
        self._not_offered("attach")

    def source_via(self, run: RunOptions, host: str, port: int) -> Source:
        """The adapter, opened on this subscription through another address of the broker."""
        self._not_offered("source_via")

    def approaches(self) -> Mapping[str, Approach]:
        """The ways to the broker whose answers can be damaged, by a name for people."""
        if self.endpoint is None:
            return {}
        return {"broker": Approach(*self.endpoint, self.source_via, self.readdressed)}

    def readdressed(self, port: int) -> Sequence[tuple[bytes, bytes]]:
        """What to replace in what the broker sends, so that clients stay on a relay's port; see `Relay`."""
        del port
        return ()

    @contextmanager
    def faults(self) -> Iterator[tuple[Faults, Callable[[RunOptions], Source]]]:
        """A block in which sources can be opened whose way to the broker can be disturbed."""
        if self.endpoint is None:
            self._not_offered("endpoint")
        with Relay(*self.endpoint) as relay:
            relay.replace += self.readdressed(relay.port)
            yield relay, lambda run: self.source_via(run, "127.0.0.1", relay.port)

    def other_source(self, run: RunOptions) -> Source:
        """The adapter, opened on another subscription that exists, on the same broker."""
        self._not_offered("other_source")

    def denied_source(self, run: RunOptions) -> Source:
        """The adapter, opened with credentials that the broker refuses; they are among `secrets`."""
        self._not_offered("denied_source")

    def abandon(self, count: int) -> None:
        """Let a plain consumer receive messages of partition 0, acknowledge none, and vanish."""
        self._not_offered("abandon")

    def advance(self, number: int, to: int) -> None:
        """Let a plain client acknowledge the first `to` messages of a partition, as another process does."""
        self._not_offered("advance")

    def forget(self, number: int, to: int) -> None:
        """Let the broker lose what was acknowledged in a partition after its first `to` messages.

        For brokers that keep acknowledgements in memory, and so may be killed with some of them.
        """
        self._not_offered("forget")

    def recreate(self) -> None:
        """Delete the topic (hub, stream), and create it again with as many partitions and no messages.

        The subscription exists afterwards, as one whose consumers attach to the new topic at once.
        """
        self._not_offered("recreate")

    def breaking(self, number: int) -> AbstractContextManager[Callable[[], None]]:
        """A block with a function that breaks one partition, so that nothing can be asked of it or read.

        For good as the adapter sees it (deleted, its subscription deleted, access to it refused); only
        until the end of the block. `left` must still count the others then.
        """
        self._not_offered("breaking")

    def half_missing_source(self, run: RunOptions) -> Source:
        """The adapter, opened on this topic and on one that does not exist, `missing_name`."""
        self._not_offered("half_missing_source")

    def limited_consumers(self) -> AbstractContextManager[str]:
        """A block in which the subscription may have one consumer; yields words of the broker's refusal."""
        self._not_offered("limited_consumers")

    def add_partition(self) -> int:
        """Add a partition to the topic, and return its number."""
        self._not_offered("add_partition")

    def throttling(self) -> AbstractContextManager[Any]:
        """A block in which the broker asks clients that read to wait."""
        self._not_offered("throttling")

    def small_answers(self) -> AbstractContextManager[Any]:
        """A block in which an answer of `BATCH` messages is too large, and one of few is not."""
        self._not_offered("small_answers")

    def refusing(self, number: int) -> AbstractContextManager[Any]:
        """A block in which the broker refuses for good to store the position of one partition."""
        self._not_offered("refusing")

    def _not_offered(self, member: str) -> NoReturn:
        pytest.skip(f"{type(self).__name__} does not offer `{member}`")

    def options(self, tmp_path: Path, **changes: Any) -> RunOptions:
        """Run options that suit a test."""
        values: dict[str, Any] = {
            "workers": 2,
            "batch_size": BATCH,
            "stop_when_empty": True,
            "max_seconds": 60,
            "quiet_seconds": 3,
            "receipt_dir": str(tmp_path / "receipts"),
        }
        return RunOptions(**{**values, **changes})

    def options_after(self, tmp_path: Path, **changes: Any) -> RunOptions:
        """The same for a run that follows one that ended early, and must find all that is left."""
        options = self.options(tmp_path, **changes)
        return options.model_copy(update={"quiet_seconds": options.quiet_seconds + self.lease_s})
