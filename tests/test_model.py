"""The values that every part of the tool shares refuse figures that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from backlog_clearer.model import (
    Advance,
    Partition,
    PartitionState,
    Remaining,
    Settled,
    oldest_known,
)

ONE = Partition("orders", 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda count: PartitionState(ONE, None, None, None, backlog=count),
        lambda count: PartitionState(ONE, None, None, None, 1, backlog_bytes=count),
        lambda count: Advance(ONE, messages=count, left=None),
        lambda count: Advance(ONE, 1, left=count),
        lambda count: Advance(ONE, 1, None, bytes=count),
        lambda count: Settled(ONE, messages=count, position=None),
        lambda count: Remaining(ONE, None, left=count),
    ],
)
def test_negative_counts_are_refused(make: Callable[[int], object]) -> None:
    """A count below 0 raises `ValueError` that names the partition; 0 is a count."""
    make(0)
    with pytest.raises(ValueError, match=r"orders\[0\]: -1 is not a count"):
        make(-1)


def test_the_oldest_time_is_unknown_where_one_backlog_has_none() -> None:
    """The earliest time is only returned where every backlog that is not empty has a time."""
    early = datetime(2026, 1, 1, tzinfo=timezone.utc)
    late = early + timedelta(hours=1)
    assert oldest_known([(3, late), (1, early), (0, None)]) == early
    assert oldest_known([(3, late), (1, None)]) is None
    assert oldest_known([(3, late), (None, None)]) is None
    assert oldest_known([(0, None)]) is None
    assert oldest_known([]) is None
