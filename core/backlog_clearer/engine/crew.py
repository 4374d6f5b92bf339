"""The workers of a drain together: who has which claim, and who takes one that another gives up.

A claim has one worker at a time. It moves where a partition is retried while the others of its lane are
read, where a worker's client fails for good, and where partitions are added to a running drain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from backlog_clearer.engine.allowance import allowance_of
from backlog_clearer.engine.share import Share
from backlog_clearer.engine.worker import Worker
from backlog_clearer.model import Claim
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Source
from backlog_clearer.text import counted

JOIN_S = 30.0  # longest wait for workers to settle and close
SIGNAL_JOIN_S = 2.0  # the same after a signal; a machine that is late itself gives them more
_TICK_S = 0.1
DOUBTS = 3  # clients that worked and then failed for good with a claim, before it ends


class Crew:
    """Workers and their claims."""

    def __init__(
        self,
        source: Source,
        run: RunOptions,
        halt: threading.Event,
        lanes: Sequence[Sequence[Claim]],
    ) -> None:
        self.source = source
        self.run = run
        self.halt = halt
        self.event = threading.Event()  # set when something is over
        self.shares: list[Share] = []  # of all workers; only grows
        self.workers: list[Worker] = []  # without the spare one
        self._spare: Worker | None = None
        self._lock = threading.RLock()
        self._allowance = allowance_of(run, len(lanes))
        for claims in lanes:
            shares = [Share(claim, resume=claim.resume) for claim in claims]
            self.shares += shares
            self.workers.append(self._made(f"worker-{len(self.workers)}", shares))

    def _made(self, name: str, shares: Iterable[Share], *, spare: bool = False) -> Worker:
        return Worker(
            name,
            self.source,
            shares,
            run=self.run,
            halt=self.halt,
            crew=self,
            allowance=self._allowance,
            spare=spare,
        )

    @property
    def all(self) -> list[Worker]:
        """The workers, and the spare one if it was needed."""
        return [*self.workers, self._spare] if self._spare else list(self.workers)

    def start(self) -> None:
        """Start the threads."""
        for worker in self.workers:
            worker.thread.start()

    def stop(self, signalled: Callable[[], bool] = lambda: False) -> list[Worker]:
        """Wait until all have settled and closed; those that did not in time, a short one once `signalled`."""
        self.halt.set()
        with self._lock:
            workers = self.all
            for worker in workers:
                worker.called = True
                worker.wake.set()
        deadline = time.monotonic() + JOIN_S
        ticks = round(SIGNAL_JOIN_S / _TICK_S)
        for worker in workers:
            while worker.thread.is_alive() and ticks and (left_s := deadline - time.monotonic()) > 0:
                worker.thread.join(min(_TICK_S, left_s))
                ticks -= signalled()
        return [worker for worker in workers if worker.thread.is_alive()]

    def add(self, claims: Iterable[Claim]) -> None:
        """Take on more claims, with more workers if there are fewer than allowed."""
        with self._lock:
            for claim in claims:
                share = Share(claim, resume=claim.resume)
                self.shares.append(share)
                if len(self.workers) < self.run.workers and not self._free(share):
                    worker = self._made(f"worker-{len(self.workers)}", [share])
                    self.workers.append(worker)
                    worker.thread.start()
                else:
                    self._give(share)

    def changed(self) -> None:
        """Wake the watching thread."""
        self.event.set()

    def inbox_of(self, worker: Worker) -> list[Share]:
        """Take the claims that were given to a worker."""
        with self._lock:
            found, worker.inbox = worker.inbox, []
            worker.called = self.halt.is_set()
            return found

    def set_apart(self, share: Share, worker: Worker) -> None:
        """Have a worker without claims, or the spare one, retry a claim; otherwise its own."""
        with self._lock:
            free = self._free(share)
            if not free and not self.source.traits.competing and not self.halt.is_set():
                if self._spare is None:
                    self._spare = self._made("spare worker", (), spare=True)
                    self._spare.thread.start()
                if not self._spare.retired and self._spare.name not in share.refused_by:
                    free = [self._spare]
            _pass(share, free[0] if free else worker)

    def hand_back(self, shares: Iterable[Share], worker: Worker) -> None:
        """Return claims that the spare worker has read again."""
        with self._lock:
            for share in shares:
                self._give(share, otherwise=worker)

    def hand_over(
        self, shares: Iterable[Share], worker: Worker, *, retires: bool, working: bool
    ) -> None:
        """Give claims to workers whose client did not fail with them; those without one end.

        `working`: only to workers whose client has worked.
        """
        with self._lock:
            found = list(shares)
            if retires:
                worker.retired = True
                found += worker.inbox
                worker.inbox = []
            for share in found:
                share.due_at = 0.0
                self._give(share, working=working)

    def _free(self, share: Share) -> list[Worker]:
        """Workers that can take a claim and have none."""
        return [worker for worker in self.workers if _can_take(worker, share) and not worker.load]

    def _give(self, share: Share, *, otherwise: Worker | None = None, working: bool = False) -> None:
        """Pass a claim to the worker with the fewest, end it where there is none."""
        able = [worker for worker in self.workers if _can_take(worker, share)]
        if working:
            able = [worker for worker in able if worker.proven]
        if self.source.traits.competing and any(
            other is not share and other.claim.partition == share.claim.partition and not other.over
            for other in self.shares
        ):
            share.yielded = True
        elif able and share.doubts < DOUBTS:
            _pass(share, min(able, key=lambda worker: (not worker.proven, worker.load)))
        elif otherwise is not None and _can_take(otherwise, share):
            _pass(share, otherwise)
        else:
            share.error = share.refusal or "no worker can read it"

    def notes(self) -> tuple[str, ...]:
        """Facts about the workers that the user should know at the end."""
        retired = [worker for worker in self.workers if worker.retired]
        if not retired or len(retired) == len(self.workers):
            return ()
        workers = counted(len(self.workers), "worker")
        note = f"{len(retired)} of {workers} could not continue and left their partitions to the others"
        return (f"{note}: {retired[0].refusal}",)


def _can_take(worker: Worker, share: Share) -> bool:
    return not worker.retired and worker.name not in share.refused_by


def _pass(share: Share, worker: Worker) -> None:
    worker.inbox.append(share)
    worker.called = True
    worker.wake.set()
