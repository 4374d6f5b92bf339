"""How fast a run of many slices goes, by the results that its invocations stored: pure.

An invocation stores figures only at its end, so that those of a slice at work are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import NamedTuple

from backlog_clearer.model import Partition, StopReason, total_known
from backlog_clearer.run.receipt import Receipt, part_name
from backlog_clearer.run.report import Verdict

PATIENCE = timedelta(minutes=15)
"""After this time without a new invocation, none is expected any more: queues wait less between two."""


class SliceFigures(NamedTuple):
    """The figures of one slice."""

    backlog: int | None = None  # of its partitions, before; None: unknown, or shared with other slices
    gone: int | None = None  # of it, by the newest results; None: unknown, or shared
    messages: int = 0  # read and acknowledged by the invocations that ended
    seconds: float = 0.0  # that these drained, all together
    began: datetime | None = None  # the newest invocation

    @property
    def done(self) -> int | None:
        """What is gone, or the messages acknowledged where other slices share the partitions."""
        return self.messages if self.backlog is None and self.messages else self.gone

    @property
    def rate(self) -> float | None:
        """What is done in each second of draining; None: nothing ended yet."""
        return self.done / self.seconds if self.done and self.seconds else None


def shared_partitions(receipts: Sequence[Receipt]) -> frozenset[Partition]:
    """The partitions that several slices have."""
    slices: dict[Partition, set[str]] = {}
    for receipt in receipts:
        for entry in receipt.partitions:
            slices.setdefault(entry.id, set()).add(part_name(receipt.slice))
    return frozenset(key for key, names in slices.items() if len(names) > 1)


def slice_figures(
    receipts: Sequence[Receipt],
    left: Mapping[Partition, tuple[int | None, int | None]],
    shared: AbstractSet[Partition],
) -> SliceFigures:
    """The figures of a slice from its receipts; `left` has the backlog of each partition, and what is left."""
    if not receipts:
        return SliceFigures()
    results = [item.result for item in receipts if item.result is not None]
    own = {entry.id for receipt in receipts for entry in receipt.partitions}
    backlog = None if own & shared else total_known(left[key][0] for key in own)
    rest = total_known(left[key][1] for key in own)
    return SliceFigures(
        backlog,
        None if backlog is None or rest is None else max(0, backlog - rest),
        sum(result.totals.messages for result in results),
        sum(result.seconds for result in results),
        receipts[-1].created_at,
    )


def common_rate(slices: Sequence[SliceFigures]) -> float | None:
    """What one slice does in a second, by all that ended; None: none did, or they share partitions."""
    ended = [item for item in slices if item.gone is not None and item.seconds]
    seconds = sum(item.seconds for item in ended)
    return (sum(item.gone or 0 for item in ended) / seconds or None) if seconds else None


def slice_eta_s(figures: SliceFigures, rate: float | None, at: datetime) -> float | None:
    """In how many seconds a slice at work is done, at this rate since its invocation began; None: unknown."""
    if figures.backlog is None or rate is None or figures.began is None:
        return None
    elapsed_s = max(0.0, (at - figures.began).total_seconds())
    eta_s = (figures.backlog - (figures.gone or 0)) / rate - elapsed_s
    return eta_s if eta_s > 0 else None  # it takes longer than that, or died


def is_final(receipt: Receipt, at: datetime) -> bool:
    """Whether no other invocation is expected after a result that is not cleared.

    A limit that was asked for ends a slice, and so does a result that waiting does not prove. After anything
    else a platform continues or tries again, unless it has given up.
    """
    result = receipt.result
    if result is None:
        return False
    if result.verdict is Verdict.UNPROVEN:
        ended = not result.provable
    else:
        ended = result.stop_reason is StopReason.LIMIT or result.verdict is Verdict.COUNTED
    return ended or at - result.finished_at > PATIENCE
