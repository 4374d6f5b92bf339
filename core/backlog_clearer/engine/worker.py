"""One worker: a thread with one lane at a time, its retries, and the figures it publishes.

Every figure has exactly one writer, so the hot path takes no lock. Messages count once they are
acknowledged: a lane that fails settles what it has read and is opened again where it settled;
messages that it could not settle are dropped from the count and read again.

An error that names a partition concerns only that partition: a final one ends it, a transient one is
retried while the others are read. An error without a partition concerns the lane: a transient one is
retried, and after a final one, or too many, the worker retires and its claims go to the others
(`engine.crew`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from backlog_clearer.engine.allowance import GRANT_POLL_S, Allowance
from backlog_clearer.engine.share import Share
from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Advance, Partition
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane, Source
from backlog_clearer.text import counted

_LOG = logging.getLogger("backlog_clearer")

READ_WAIT_S = 0.25  # how long a read may wait; also how soon a worker notices that it must stop
GRANTED_WAIT_S = 0.05  # the same where it holds a part of a limit that other workers could use
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 8.0
ATTEMPT_LAST_S = BACKOFF_LAST_S + 15.0  # the longest that an attempt takes, and the wait before it
TRIAL_S = 1.0  # how long a spare worker reads a partition before another worker takes it over
TOGETHER_S = 0.5  # claims that are due within this time are tried in one lane
GATHER_S = 0.05  # wait for further claims before a lane is opened again with some
REPEATED_S = 10.0  # how long a lane is silent before messages expected again count as acknowledged

FOREVER_S = 10.0**9

_Shares = Mapping[Partition, Share]


class Exchange(Protocol):
    """What a worker asks of the others; see `engine.crew.Crew`."""

    def inbox_of(self, worker: Worker) -> list[Share]:
        """Take the claims that were given to a worker."""

    def set_apart(self, share: Share, worker: Worker) -> None:
        """Have another worker retry a claim, or this one where there is no other."""

    def hand_back(self, shares: Iterable[Share], worker: Worker) -> None:
        """Return claims that a spare worker has read again."""

    def hand_over(
        self, shares: Iterable[Share], worker: Worker, *, retires: bool, working: bool
    ) -> None:
        """Give claims to workers whose client did not fail with them; those without one end.

        `working`: only to workers whose client has worked.
        """

    def changed(self) -> None:
        """Report that something is over."""


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row: 0.2 to 8 s, half of it by chance."""
    longest = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 10))
    return max(BACKOFF_FIRST_S, random.uniform(longest / 2, longest))  # noqa: S311 not a secret


class Worker:
    """One thread with one lane at a time."""

    def __init__(
        self,
        name: str,
        source: Source,
        shares: Iterable[Share],
        *,
        run: RunOptions,
        halt: threading.Event,
        crew: Exchange,
        allowance: Allowance | None,
        spare: bool = False,
    ) -> None:
        self.name = name
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.source = source
        self.shares = {share.claim.partition: share for share in shares}
        self.run = run
        self.halt = halt
        self.crew = crew
        self.allowance = allowance
        self.spare = spare  # reads only claims that are retried, until they work again
        self.inbox: list[Share] = []  # guarded by the crew
        self.called = False  # the inbox is not empty, or the drain is over
        self.wake = threading.Event()
        self.retired = False
        self.progress_at = time.monotonic()  # a message arrived
        self.opened_at = self.progress_at  # its lane was opened
        self.retries = 0
        self.held_s = 0.0  # for how long --max-rate kept it from reading
        self.refusal: str | None = None  # why it retired
        self.lane: Lane | None = None
        self._throttled_s = 0.0
        self._failures = 0  # transient errors of lanes in a row, without progress between them
        self._proven: set[Partition] = set()  # claims that a lane of this worker has read
        self._suspects: set[Partition] = set()  # handed over, and in a lane that failed for good
        self._aside = False  # the suspects wait until the other claims were tried without them
        self._unsettled = False
        self._perhaps = False  # its last settle raised, and may have acknowledged something
        self._alone = False  # the limit has room only for messages that are read again

    @property
    def throttled_s(self) -> float:
        """For how long the broker has asked this worker's lanes to wait; any thread may ask."""
        return self._throttled_s + _throttled_s(self.lane)

    @property
    def excused_s(self) -> float:
        """For how long it could not receive anything, because the broker or a limit made it wait."""
        return self.throttled_s + self.held_s

    @property
    def proven(self) -> bool:
        """Whether its client has read something, or could have."""
        return bool(self._proven)

    @property
    def load(self) -> int:
        """How many claims it has, or will have."""
        return len(self.inbox) + sum(not share.over for share in list(self.shares.values()))

    def _work(self) -> None:
        """Clear the claims, and those given later, until the drain is over or the client fails."""
        try:
            while not self.halt.is_set() and not self.retired:
                if self.called:
                    self.halt.wait(GATHER_S)
                for share in self.crew.inbox_of(self):
                    self.shares[share.claim.partition] = share
                active = self._active()
                now = time.monotonic()
                due = [share for share in active if share.due_at <= now + TOGETHER_S]
                if due and min(share.due_at for share in due) <= now:
                    due = self._repeated(due)
                    self._session({share.claim.partition: share for share in due})
                    continue
                due_at = min((share.due_at for share in active), default=None)
                self.wake.wait(None if due_at is None else due_at - now)
                self.wake.clear()
        except Exception as failure:  # noqa: BLE001 as in a session: whatever fails must not hang the run
            _LOG.debug("%s failed", self.name, exc_info=True)
            self._retire(BrokerError(f"{self.name} failed: {type(failure).__name__}: {failure}"))
        finally:
            self.crew.changed()

    def _repeated(self, due: list[Share]) -> list[Share]:
        """One claim alone, where the limit has room only for messages of it that are read again."""
        alone, self._alone = self._alone, False
        return next(([share] for share in due if alone and share.owed), due)

    def _active(self) -> list[Share]:
        """The claims to try; without the suspects while they are set aside and there are others."""
        active = [share for share in self.shares.values() if not share.over]
        suspects = self._suspects if self._aside else ()
        return [share for share in active if share.claim.partition not in suspects] or active

    def _session(self, shares: _Shares) -> None:
        """One lane from open to close; an error costs the partition it names, or this worker's client."""
        self._forget_unsettled(shares)
        before = {partition: share.settled for partition, share in shares.items()}
        begun = time.monotonic()
        error: ClearerError | None = None
        try:
            self.lane = self.source.open_lane(
                [replace(share.claim, resume=share.resume) for share in shares.values()]
            )
            self.opened_at = time.monotonic()
            self._use(self.lane, shares)
        except ClearerError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 an adapter's bug must end the run, not hang it
            _LOG.debug("%s failed", self.name, exc_info=True)
            error = BrokerError(f"{self.name} failed: {type(failure).__name__}: {failure}")
        finally:
            lane, self.lane = self.lane, None
            if lane is not None:
                lane.close()
                self._throttled_s += _throttled_s(lane)
        long = time.monotonic() - begun > max(self.run.stall_seconds, self.run.quiet_seconds)
        idle = long and not any(share.left for share in shares.values())
        for partition, share in shares.items():
            if share.settled > before[partition] or idle:
                share.failures = self._failures = 0
        advanced = {key for key, share in shares.items() if share.settled > before[key]}
        if self.halt.is_set():
            self._end_unsettled(shares, error)
        elif error is not None:
            self._forget_unsettled(shares)
            self._failed(error, shares, advanced)
        elif self.spare:
            back = [share for share in shares.values() if not share.over]
            self._drop(back)
            self.crew.hand_back(back, self)
        self.crew.changed()

    def _use(self, lane: Lane, shares: _Shares) -> None:
        """Read and settle, and settle what can be if a read fails."""
        try:
            self._read(lane, shares)
        except ClearerError:
            self._settle_what_can_be(lane, shares)
            raise
        self._settle(lane, shares)

    def _read(self, lane: Lane, shares: _Shares) -> None:
        """The hot loop: nothing here runs once per message, and little once per batch."""
        read, halted, now = lane.read, self.halt.is_set, time.monotonic
        allowance = self.allowance
        at = now()
        interval = self.source.traits.settle_interval_s
        settle_at, until, fresh = at + interval, at + FOREVER_S, True
        self._alone = False
        waiting = sum(not share.reached for share in shares.values())
        while waiting and not (halted() or self.called or self._alone):
            if at >= until and not (allowance and len(shares) == 1 and _owed(shares)):
                break
            advances = self._granted(lane, allowance, shares) if allowance else read(READ_WAIT_S, None)
            for partition, messages, left, size in advances or ():
                share = shares[partition]
                share.read += messages
                share.bytes += size
                share.left = left
                if left == 0 and share.claim.target is not None:
                    share.reached = True
                    waiting -= 1
            at = now()
            if fresh and advances is not None:
                fresh, until = False, self._works(shares, at)
            if advances:
                self.progress_at = at
                self._unsettled = True
            if self._unsettled and at >= settle_at:
                self._settle(lane, shares)
                settle_at = now() + interval

    def _granted(self, lane: Lane, allowance: Allowance, shares: _Shares) -> Sequence[Advance] | None:
        """Read as much as the run's limits allow now; None: nothing yet, and a while is over."""
        owed = _owed(shares) if allowance.budget else 0
        grant = allowance.take(owed if len(shares) == 1 else 0)
        if isinstance(grant, float):
            begun = time.monotonic()
            self._alone = allowance.budget is not None and (
                (owed > 0 and len(shares) > 1)
                or any(
                    share.owed and not share.over and share.due_at <= begun
                    for key, share in self.shares.items()
                    if key not in shares
                )
            )
            self._aside &= not self._alone
            self.halt.wait(grant)
            self.held_s += time.monotonic() - begun
            return None
        messages = size = again = 0
        try:
            advances = lane.read(GRANTED_WAIT_S, grant.messages)
            messages = sum(advance.messages for advance in advances)
            size = sum(advance.bytes for advance in advances)
            again = sum(shares[item.partition].repeat(item.messages) for item in advances)
        finally:
            allowance.used(grant, messages, size, again=again)
        if not messages:
            if owed and time.monotonic() - max(self.opened_at, self.progress_at) > REPEATED_S:
                for share in shares.values():
                    share.give_up_repeats()
            self.halt.wait(2 * GRANT_POLL_S)  # one that has messages but no grant must get its turn
        return advances

    def _works(self, shares: _Shares, now: float) -> float:
        """Note that a lane's first read worked; when the lane is to end for the worker's other claims."""
        self._proven.update(shares)
        self._aside = False
        for share in shares.values():
            share.tried, share.troubled = True, False
        others = [item for key, item in self.shares.items() if key not in shares and not item.over]
        last = now + (TRIAL_S if self.spare else FOREVER_S)
        return min((last, *(share.due_at for share in others)))

    def _settle(self, lane: Lane, shares: _Shares) -> None:
        """Acknowledge; raises `BrokerError` for a partition that the broker refuses for good."""
        refused = None
        try:
            settled = lane.settle()
        except Exception as failure:
            self._perhaps |= not getattr(failure, "unsent", False)
            for share in shares.values():
                share.doubted |= share.read > share.settled
            raise
        for partition, messages, position, error in settled:
            share = shares[partition]
            share.settled += messages
            if position is not None:
                share.resume = position
            if error is not None:
                share.error = error
                refused = partition
        self._unsettled = False
        for share in shares.values():
            share.done = share.reached and share.error is None
        if refused is not None:
            raise BrokerError(f"{refused}: {shares[refused].error}", refused)

    def _settle_what_can_be(self, lane: Lane, shares: _Shares) -> None:
        """After a failed read: acknowledge the messages read before it, if the broker still answers."""
        if self._unsettled:
            try:
                self._settle(lane, shares)
            except ClearerError as error:
                _LOG.warning("The messages read last could not be acknowledged: %s", error)

    def _forget_unsettled(self, shares: _Shares) -> None:
        """Uncount messages that will be read again; those of a partition that is over stay counted."""
        for share in shares.values():
            if not share.over:
                share.forget(gone=self._perhaps and not self.source.traits.repeats)
        self._perhaps = False
        self._unsettled = False

    @staticmethod
    def _end_unsettled(shares: _Shares, error: ClearerError | None) -> None:
        """At the end of a drain: messages that stay unacknowledged are their partition's error."""
        for share in shares.values():
            if error is not None and share.read > share.settled:
                share.error = share.error or str(error)

    def _failed(self, error: ClearerError, shares: _Shares, advanced: set[Partition]) -> None:
        """Decide what an error costs: a partition, some time, or this worker's client."""
        partition = error.partition if isinstance(error, BrokerError) else None
        named = shares.get(partition) if partition is not None else None
        active = [share for share in shares.values() if not share.over]
        if partition is not None and named is not None:
            if not named.over:
                self._failed_partition(named, error, active, again=partition not in advanced)
            return
        transient = isinstance(error, TransientError)
        handed = [share for share in active if share.refused_by and not self._has_read(share)]
        if transient:  # another failure than the one for which it was handed over is nothing special
            handed = [share for share in handed if share.exhausted]
        if handed and (transient or self.proven):
            # Another client failed with these before, and now this one did.
            suspects = {share.claim.partition for share in handed}
            if transient or len(handed) == len(active) or suspects <= self._suspects:
                self._refuse(handed, error, retires=False)  # its others still work
            else:  # unless its place was taken meanwhile, which a lane without these shows
                self._suspects |= suspects
                self._aside = True
                for share in handed:
                    share.due_at = time.monotonic() + backoff_s(1)
            return
        self._failures += not advanced
        if transient and self._failures <= self.run.max_retries:
            self._rest(active, self._failures, error)
        else:
            self._retire(error)

    def _failed_partition(
        self, share: Share, error: ClearerError, active: list[Share], *, again: bool
    ) -> None:
        share.failures += again
        now = time.monotonic()
        if share.failures <= 1:
            share.failing_since = now
        # Where many partitions fail slowly, one after the other, each has its time, and not its attempts.
        late = share.failures > 1 and now - share.failing_since > ATTEMPT_LAST_S * self.run.max_retries
        tired = share.failures > self.run.max_retries or late
        if tired or not isinstance(error, TransientError):
            share.error = str(error)
            _LOG.warning("%s is given up: %s", share.claim.partition, error)
        elif share.failures <= 1 or self.spare or len(active) == 1:
            self._rest([share] if self.spare else active, share.failures, error)
        else:  # a retry that helped did not follow: the other partitions must not wait for it
            self._rest([share], share.failures, error)
            self._drop([share])
            self.crew.set_apart(share, self)

    def _rest(self, shares: list[Share], failures: int, error: ClearerError) -> None:
        """Try again after a while."""
        wait = backoff_s(failures)
        self.retries += 1
        for share in shares:
            share.troubled = True
            share.due_at = time.monotonic() + wait
        level = logging.INFO if failures <= 1 else logging.WARNING  # one that passes is only counted
        _LOG.log(level, "Retrying in %.1f s: %s", wait, error)

    def _refuse(self, shares: list[Share], error: ClearerError, *, retires: bool) -> None:
        """Pass on claims with which this worker's client fails for good."""
        for share in shares:
            share.refused_by.add(self.name)
            share.doubts += self.proven
            share.exhausted |= isinstance(error, TransientError)
            share.refusal = share.refusal or str(error)
        self._drop(shares)
        if retires:
            self.refusal = str(error)
        partitions = counted(len(shares), "partition")
        _LOG.warning("%s leaves %s to the others: %s", self.name, partitions, error)
        working = isinstance(
            error, TransientError
        )  # others that do not work yet have retries themselves
        self.crew.hand_over(shares, self, retires=retires, working=working)

    def _retire(self, error: ClearerError) -> None:
        """Pass on all claims, also those that wait for a retry."""
        self._refuse([s for s in self.shares.values() if not s.over], error, retires=True)

    def _drop(self, shares: list[Share]) -> None:
        for share in shares:
            self.shares.pop(share.claim.partition, None)

    def _has_read(self, share: Share) -> bool:
        return share.claim.partition in self._proven


def _owed(shares: _Shares) -> int:
    """Messages that these are to deliver again, and that are charged already."""
    return sum(share.owed for share in shares.values())


def _throttled_s(lane: Lane | None) -> float:
    """A lane's time of throttling; an adapter of an earlier version has none."""
    return 0.0 if lane is None else getattr(lane, "throttled_s", 0.0)
