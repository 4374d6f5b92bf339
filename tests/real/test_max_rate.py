"""`--max-rate` on a real broker."""

from __future__ import annotations

import pytest

from backlog_clearer.run.report import Verdict
from tests.real.kafka_case import Case

PARTITIONS, EACH = 4, 2500


@pytest.mark.parametrize("rate", ["8k/s", "240kB/s"])
def test_a_limited_run_takes_its_time_and_clears_everything(case: Case, rate: str) -> None:
    """10,000 messages at 8,000/s (or in bytes as much, or less) are not read faster, and none is left."""
    case.create(PARTITIONS)
    for number in range(PARTITIONS):
        case.judge.produce(case.topic, number, EACH, size=30, compression="none")
    result = case.clear(max_rate=rate, workers=2)
    assert result.verdict is Verdict.CLEARED
    assert case.committed() == case.ends()
    assert result.totals.messages == PARTITIONS * EACH
    assert result.seconds >= 0.95 * PARTITIONS * EACH / 8000 - 0.3
