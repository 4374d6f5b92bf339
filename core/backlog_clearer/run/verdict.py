"""What a run came to: the verdict, the sentence for it and the exit code; all of it pure.

The verdict follows from the figures, not from how the run ended: a run that was interrupted after the last
message is cleared if the broker confirms it.
"""

from __future__ import annotations

from collections.abc import Sequence

from backlog_clearer.model import Mode, StopReason
from backlog_clearer.run.report import Action, PartitionResult, RunResult, Verdict
from backlog_clearer.text import amount, counted

EXIT_DONE, EXIT_NOT_DONE, EXIT_WRONG_USE, EXIT_UNPROVEN = 0, 1, 2, 4

_CAUSES = {
    StopReason.LIMIT: "--max-messages is reached",
    StopReason.DEADLINE: "--max-seconds is reached",
    StopReason.SIGNAL: "it was interrupted",
    StopReason.STALLED: "backlog remains, but no message arrived for --stall-seconds",
    StopReason.FAILED: "it failed",
    StopReason.DECLINED: "it was not confirmed",
}
_WORDS = {
    Verdict.CLEARED: "Cleared and verified",
    Verdict.RESTORED: "Restored and verified",
    Verdict.NOT_CLEARED: "NOT cleared",
    Verdict.NOT_RESTORED: "NOT restored",
}
_HOW = "look at the backlog with the status command once the broker has new figures"


def judge_clear(
    rows: Sequence[PartitionResult], reason: StopReason, *, counts_only: bool = False
) -> Verdict:
    """The verdict of a drain or a skip; without any partition nothing is left to clear.

    `counts_only`: see `model.Traits`.
    """
    if counts_only and reason.done:
        return Verdict.COUNTED
    if all(item.verified is True for item in rows):
        return Verdict.CLEARED
    unknown = [item for item in rows if item.verified is None]
    failed = any(item.verified is False for item in rows) or any(item.error for item in unknown)
    return Verdict.NOT_CLEARED if failed or not reason.done else Verdict.UNPROVEN


def judge_restore(rows: Sequence[PartitionResult], *, complete: bool) -> Verdict:
    """The verdict of a restore; `complete`: every partition of the receipt still exists."""
    if not complete or any(item.error or item.verified is False for item in rows):
        return Verdict.NOT_RESTORED
    return Verdict.RESTORED if all(item.verified for item in rows) else Verdict.UNPROVEN


def changed(item: PartitionResult, mode: Mode | None) -> bool:
    """Whether the run may have changed this partition; `mode` None: it was a restore.

    A position that cannot be read back after it may have been written counts as changed.
    """
    if item.messages or item.unacknowledged or item.at_least:
        return True
    if item.after is not None:
        return item.after != item.before
    return mode is not Mode.CONSUME and (item.error is None or item.before is not None)


def exit_code(result: RunResult) -> int:
    """The exit code of a result: 0 done and proven (or shown), 1 not done, 4 done and not proven."""
    match result.verdict:
        case Verdict.CLEARED | Verdict.RESTORED:
            return EXIT_DONE
        case Verdict.UNPROVEN:
            return EXIT_UNPROVEN
        case Verdict.COUNTED | None:
            return EXIT_NOT_DONE if result.totals.errors or result.error else EXIT_DONE
    return EXIT_NOT_DONE


def sentence(result: RunResult) -> str:
    """The outcome of a run in one sentence without its end mark, from a fixed set."""
    work = _places(result) if result.action is Action.RESTORE else _work(result)
    match result.verdict:
        case None:
            text = "Nothing was changed"
        case Verdict.CLEARED if not result.partitions:
            text = "Nothing to do: no partition belongs to this slice"
        case Verdict.CLEARED if not result.changed:
            text = "Nothing to do: no backlog is left up to the target"
        case Verdict.UNPROVEN:
            how = result.proof or _HOW
            text = f"Done, but not proven: {work}. The broker gives no proof yet; {how}"
        case Verdict.COUNTED:
            text = f"Counted, and nothing acknowledged: {work}"
        case Verdict.CLEARED | Verdict.RESTORED:
            text = f"{_WORDS[result.verdict]}: {work}"
        case Verdict.NOT_CLEARED | Verdict.NOT_RESTORED:
            text = f"{_WORDS[result.verdict]} ({_cause(result)}): {work}"
    return text


def _cause(result: RunResult) -> str:
    """Why a run did not reach its end; only what was seen."""
    if result.stop_reason in _CAUSES:
        return _CAUSES[result.stop_reason]
    if result.totals.errors:
        return f"{counted(result.totals.errors, 'partition')} failed"
    if result.action is Action.RESTORE:
        moved = sum(item.verified is False for item in result.partitions)
        if moved:
            return f"the broker reports another position of {counted(moved, 'partition')}"
        return "partitions of the receipt do not exist any more"
    left = result.totals.remaining
    if left:
        return f"the broker reports {amount(left, result.unit)} up to the target"
    return "the broker does not confirm it"


def _places(result: RunResult) -> str:
    done = sum(item.error is None and item.verified is not False for item in result.partitions)
    partitions = counted(len(result.partitions), "partition")
    return f"{done:,} of {partitions} in {result.seconds:.2f} s"


def _work(result: RunResult) -> str:
    if result.totals.at_least and not result.totals.messages:
        return f"messages that could not be counted, {result.seconds:.2f} s"
    if not result.totals.messages:
        return f"no messages transferred, {result.seconds:.2f} s"
    rate = result.totals.messages_per_second
    work = (
        f"{result.totals.bound}{counted(result.totals.messages, 'message')} in {result.seconds:.2f} s"
    )
    return f"{work}, {rate:,.0f} messages/s" if rate else work
