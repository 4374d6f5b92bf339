"""Open, committed and aborted transactions on real Pulsar: notes, and effects on the backlog."""

from __future__ import annotations

import pytest

from backlog_clearer.model import Mode, StopReason
from backlog_clearer.testing.servers.pulsar_judge import Case
from tests.real.pulsar_transaction import transaction

BEFORE, WITHIN, AFTER = 10, 5, 7


@pytest.mark.parametrize(("kind", "end"), [("failover", "commit"), ("shared", "abort")])
def test_consume_stalls_before_an_open_transaction(pulsar_case: Case, kind: str, end: str) -> None:
    """Messages of an open transaction, and those after them, are noted before and stay until it has ended."""
    topic = pulsar_case.create()
    pulsar_case.changes["subscription_type"] = kind
    pulsar_case.judge.produce(topic, BEFORE)
    with transaction(pulsar_case.judge.server, topic, "send", WITHIN) as sent:
        pulsar_case.judge.produce(topic, AFTER)
        notes = pulsar_case.clear(dry_run=True).notes
        first = pulsar_case.clear(stall_seconds=2)
        left = pulsar_case.judge.backlog(topic)
        sent.end(end)
    assert any("Open transactions with messages: 1." in note for note in notes)
    assert (first.stop_reason, first.totals.messages) == (StopReason.STALLED, BEFORE)
    assert (first.verified, left) == (False, WITHIN + AFTER)
    second = pulsar_case.clear()
    assert not any("Open transactions" in note for note in second.notes)
    assert second.totals.messages == (AFTER if end == "abort" else WITHIN + AFTER)
    assert (second.verified, pulsar_case.judge.backlog(topic)) == (True, 0)


def test_skip_passes_over_an_open_transaction(pulsar_case: Case) -> None:
    """After a skip, the transaction's messages are not delivered even when it commits, but restore works."""
    topic = pulsar_case.create()
    pulsar_case.judge.produce(topic, BEFORE)
    with transaction(pulsar_case.judge.server, topic, "send", WITHIN) as sent:
        skipped = pulsar_case.clear(mode=Mode.SKIP)
        sent.end("commit")
    assert skipped.verified
    assert pulsar_case.judge.received(topic) == 0
    assert pulsar_case.restore(skipped).verified
    assert pulsar_case.judge.received(topic) == BEFORE + WITHIN


def acknowledging(case: Case, kind: str) -> str:
    """A topic with messages, to be read as a subscription of this type."""
    topic = case.create()
    case.changes["subscription_type"] = kind
    case.judge.produce(topic, BEFORE)
    return topic


def test_acknowledgements_of_an_open_transaction_are_noted(pulsar_case: Case) -> None:
    """Messages that an open transaction acknowledged are noted before, and neither delivered nor cleared."""
    topic = acknowledging(pulsar_case, "shared")
    with transaction(pulsar_case.judge.server, topic, "acknowledge", WITHIN) as acknowledged:
        notes = pulsar_case.status().notes
        first = pulsar_case.clear(stall_seconds=2)
        left = pulsar_case.judge.backlog(topic)
        acknowledged.end("abort")
    assert any("Open transactions with acknowledgements: 1." in note for note in notes)
    assert any("consume stalls before them" in note for note in notes)
    assert (first.stop_reason, first.totals.messages) == (StopReason.STALLED, BEFORE - WITHIN)
    assert (first.verified, left) == (False, WITHIN)
    assert pulsar_case.clear().totals.messages == WITHIN
    assert pulsar_case.judge.backlog(topic) == 0


def test_in_order_such_acknowledgements_are_passed_over(pulsar_case: Case) -> None:
    """In order, the position passes over them: noted before, gone when they abort, restored by a receipt."""
    topic = acknowledging(pulsar_case, "failover")
    with transaction(pulsar_case.judge.server, topic, "acknowledge", WITHIN) as acknowledged:
        notes = pulsar_case.status().notes
        result = pulsar_case.clear()
        acknowledged.end("abort")
    assert any("consume and skip pass over them" in note for note in notes)
    assert (result.totals.messages, result.verified) == (BEFORE - WITHIN, True)
    assert pulsar_case.judge.received(topic) == 0
    assert pulsar_case.restore(result).verified
    assert pulsar_case.judge.received(topic) == BEFORE
