"""One worker: a thread with one lane at a time, its retries, and the figures it publishes.

Every figure has exactly one writer, so the hot path takes no lock. Messages count once they are
acknowledged: a lane that fails settles what it has read and is opened again where it settled;
messages that it could not settle are dropped from the count and read again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import tenacity

from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Claim, Position
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane, Source

_LOG = logging.getLogger("backlog_clearer")

READ_WAIT_S = 0.25  # how long a read may wait; also how soon a worker notices that it must stop
GRANTED_WAIT_S = 0.05  # the same where it holds a part of max_messages that other workers could use
GRANT_POLL_S = 0.01  # between two attempts to get a part that another worker gave back


@dataclass(slots=True)
class Share:
    """The progress of one worker on one claim; only that worker writes it."""

    claim: Claim
    read: int = 0  # messages read, including those settled
    settled: int = 0  # messages acknowledged
    bytes: int = 0
    left: int | None = None
    reached: bool = False  # read up to the target, not necessarily settled
    done: bool = False  # reached and settled
    error: str | None = None
    resume: Position | None = None


class Budget:
    """`max_messages`, shared by workers without any of them exceeding it."""

    def __init__(self, limit: int, workers: int) -> None:
        self._left = limit
        self._workers = workers
        self._lock = threading.Lock()

    def take(self) -> int:
        """Reserve a fair part of the rest; 0 when all of it is reserved or used."""
        with self._lock:
            grant = -(-self._left // self._workers)
            self._left -= grant
            return grant

    def refund(self, unused: int) -> None:
        """Give back the unused part of a reservation."""
        with self._lock:
            self._left += unused


class Worker:
    """One thread with one lane at a time."""

    def __init__(
        self,
        name: str,
        source: Source,
        claims: Iterable[Claim],
        *,
        run: RunOptions,
        halt: threading.Event,
        ended: threading.Event,
        budget: Budget | None,
    ) -> None:
        self.name = name
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.source = source
        self.shares = {claim.partition: Share(claim, resume=claim.resume) for claim in claims}
        self.run = run
        self.halt = halt
        self.ended = ended
        self.budget = budget
        self.progress_at = time.monotonic()
        self.retries = 0
        self.troubled = False  # between a transient error and the next read that works
        self.failure: str | None = None
        self._unsettled = False

    def _work(self) -> None:
        """Clear the claims; a failure is kept for the watching thread, which stops the others."""
        try:
            while not self.halt.is_set() and any(not share.done for share in self.shares.values()):
                self._retrying()
        except ClearerError as error:
            partition = error.partition if isinstance(error, BrokerError) else None
            share = self.shares.get(partition) if partition else None
            if share:
                share.error = share.error or str(error)
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001 an adapter's bug must end the run, not hang it
            _LOG.exception("%s failed", self.name)
            self.failure = f"{self.name} failed: {type(error).__name__}: {error}"
        finally:
            self.ended.set()

    def _retrying(self) -> None:
        """Run lanes until one has got further than the last, or retries are used up."""

        def report(state: tenacity.RetryCallState) -> None:
            self.retries += 1
            error = state.outcome.exception() if state.outcome else None
            wait = state.next_action.sleep if state.next_action else 0
            _LOG.warning("Retrying in %.1f s: %s", wait, error)

        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.run.max_retries + 1)
            | tenacity.stop_when_event_set(self.halt),
            wait=tenacity.wait_random_exponential(multiplier=0.2, min=0.2, max=8.0),
            sleep=tenacity.sleep_using_event(self.halt),
            before_sleep=report,
            reraise=True,
        )(self._session)

    def _session(self) -> None:
        """One lane from open to close; returns early after a transient error if it got further."""
        self._forget_unsettled()
        before = sum(share.settled for share in self.shares.values())
        claims = [
            replace(share.claim, resume=share.resume)
            for share in self.shares.values()
            if not share.done
        ]
        lane = self.source.open_lane(claims)
        try:
            try:
                self._read(lane)
            except ClearerError:
                self._settle_what_can_be(lane)
                raise
            self._settle(lane)
        except TransientError as error:
            self.troubled = True
            if self.halt.is_set() or sum(s.settled for s in self.shares.values()) == before:
                raise
            self.retries += 1
            _LOG.warning("Continuing from the last acknowledged position: %s", error)
            self.halt.wait(0.2)
        finally:
            lane.close()

    def _read(self, lane: Lane) -> None:
        """The hot loop: nothing here runs once per message, and little once per batch."""
        shares, read, halted, now = self.shares, lane.read, self.halt.is_set, time.monotonic
        budget = self.budget
        wait = GRANTED_WAIT_S if budget else READ_WAIT_S
        interval = self.source.traits.settle_interval_s
        settle_at = now() + interval
        waiting = sum(not share.reached for share in shares.values())
        while waiting and not halted():
            grant = budget.take() if budget else None
            if grant == 0:  # all of max_messages is reserved; another worker may give some back
                self.halt.wait(GRANT_POLL_S)
                continue
            got = 0
            try:
                advances = read(wait, grant)
                for partition, messages, left, size in advances:
                    share = shares[partition]
                    share.read += messages
                    share.bytes += size
                    share.left = left
                    got += messages
                    if left == 0 and share.claim.target is not None:
                        share.reached = True
                        waiting -= 1
            finally:
                if budget and grant is not None:
                    budget.refund(grant - got)
            if budget and not got:  # a worker that has messages but no grant must get its turn
                self.halt.wait(2 * GRANT_POLL_S)
            at = now()
            self.troubled = False
            if advances:
                self.progress_at = at
                self._unsettled = True
            if self._unsettled and at >= settle_at:
                self._settle(lane)
                settle_at = now() + interval

    def _settle(self, lane: Lane) -> None:
        """Acknowledge; raises `BrokerError` for a partition that the broker refuses for good."""
        refused = None
        for partition, messages, position, error in lane.settle():
            share = self.shares[partition]
            share.settled += messages
            if position is not None:
                share.resume = position
            if error is not None:
                share.error = error
                refused = partition
        self._unsettled = False
        for share in self.shares.values():
            share.done = share.reached and share.error is None
        if refused is not None:
            raise BrokerError(f"{refused}: {self.shares[refused].error}", refused)

    def _settle_what_can_be(self, lane: Lane) -> None:
        """After a failed read: acknowledge the messages read before it, if the broker still answers."""
        if self._unsettled:
            try:
                self._settle(lane)
            except ClearerError as error:
                _LOG.warning("The messages read last could not be acknowledged: %s", error)

    def _forget_unsettled(self) -> None:
        """Uncount messages that no lane can acknowledge any more: they will be read again."""
        for share in self.shares.values():
            lost = share.read - share.settled
            share.read = share.settled
            share.reached = share.done
            if lost and self.budget:
                self.budget.refund(lost)
        self._unsettled = False
