"""The stop rules, one by one and against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backlog_clearer.engine.stop import Moment, decide
from backlog_clearer.model import StopReason
from backlog_clearer.options.run import RunOptions

RUN = RunOptions(stop_when_empty=True, stall_seconds=60, quiet_seconds=15)
AT_WORK = Moment(elapsed_s=5, quiet_s=0, messages=100, charged=100, empty=False, left=900)


def test_a_drain_with_work_left_continues() -> None:
    """A drain that makes progress and has work left does not stop."""
    assert decide(AT_WORK, RUN) is None


@pytest.mark.parametrize(
    ("change", "run", "reason"),
    [
        ({"failed": True}, RUN, StopReason.FAILED),
        ({"signalled": True}, RUN, StopReason.SIGNAL),
        ({"empty": True, "left": 0}, RUN, StopReason.EMPTY),
        ({"charged": 500}, RUN.model_copy(update={"max_messages": 500}), StopReason.LIMIT),
        ({"elapsed_s": 30}, RUN.model_copy(update={"max_seconds": 30}), StopReason.DEADLINE),
        ({"quiet_s": 60}, RUN, StopReason.STALLED),
        ({"quiet_s": 15, "left": None}, RUN, StopReason.QUIET),
    ],
)
def test_each_rule_stops_the_drain(
    change: dict[str, object], run: RunOptions, reason: StopReason
) -> None:
    """Each rule alone stops the drain with its own reason."""
    assert decide(replace(AT_WORK, **change), run) is reason  # type: ignore[arg-type] # one per case


def test_silence_is_not_emptiness() -> None:
    """Unknown backlog and silence end as QUIET, never as EMPTY."""
    silent = replace(AT_WORK, left=None, quiet_s=3600)
    assert decide(silent, RUN) is StopReason.QUIET


def test_trouble_is_not_silence() -> None:
    """While a worker is retrying, silence proves nothing and does not end the drain."""
    assert decide(replace(AT_WORK, left=None, quiet_s=59, troubled=True), RUN) is None


@pytest.mark.parametrize(("quiet_s", "reason"), [(59, None), (60, StopReason.QUIET)])
def test_a_lane_that_opens_slowly_is_not_silence(quiet_s: float, reason: StopReason | None) -> None:
    """Before every partition was read once, only a silence as long as a stall ends the drain."""
    moment = replace(AT_WORK, left=None, quiet_s=quiet_s, starting=True)
    assert decide(moment, RUN) is reason


def test_failure_outranks_emptiness() -> None:
    """A drain that failed does not end as EMPTY, even if nothing is left."""
    assert decide(replace(AT_WORK, failed=True, empty=True, left=0), RUN) is StopReason.FAILED


def test_an_endless_drain_waits_for_more() -> None:
    """An empty or silent backlog does not end a drain without --stop-when-empty."""
    endless = RUN.model_copy(update={"stop_when_empty": False})
    assert decide(replace(AT_WORK, empty=True, left=0, quiet_s=3600), endless) is None
    assert decide(replace(AT_WORK, left=None, quiet_s=3600), endless) is None


def test_without_stop_when_empty_a_stall_is_still_reported() -> None:
    """Backlog that does not shrink ends even an endless drain."""
    endless = RUN.model_copy(update={"stop_when_empty": False})
    assert decide(replace(AT_WORK, quiet_s=61), endless) is StopReason.STALLED
