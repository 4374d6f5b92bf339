"""How much lies between two positions, on each system that can count it."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from typing import Any

import pytest

from backlog_clearer.brokers.pulsar.positions import Layout, Place
from backlog_clearer.brokers.pulsar.source import PulsarSource
from backlog_clearer.model import Partition
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import open_source, options_model
from backlog_clearer.source import Countable

P = Partition("t", 0)
OPTIONS: dict[str, dict[str, Any]] = {
    "kafka": {"bootstrap_servers": "localhost:1", "topic": "t", "group_id": "g"},
    "iggy": {"stream_id": "s", "topic_id": "t", "group_id": "g", "username": "u", "password": "p"},
    "eventhubs": {
        "connection_string": "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=a2V5",
        "eventhub_name": "t",
    },
    "pulsar": {
        "service_url": "pulsar://localhost:1",
        "admin_url": "none",
        "topic": "t",
        "subscription": "s",
    },
}


def measured(system: str) -> Any:
    """A source that has not asked a broker yet."""
    return open_source(system, build(options_model(system), OPTIONS[system]), RunOptions(), "run")


@pytest.mark.parametrize(
    ("system", "first", "last", "expected"),
    [
        ("kafka", 3, 10, 7),
        ("kafka", 10, {"offset": 3, "metadata": "m", "leader_epoch": None}, -7),
        ("iggy", -1, 9, 10),
        ("eventhubs", {"offset": "9", "sequence_number": 3}, {"offset": None, "sequence_number": 8}, 5),
        (
            "eventhubs",
            {"offset": "9", "sequence_number": None},
            {"offset": "9", "sequence_number": 8},
            None,
        ),
        ("pulsar", "5:3", "5:10", 7),
        ("pulsar", "5:3", "6:10", None),
    ],
)
def test_positions_of_one_log_are_counted(
    system: str, first: Any, last: Any, expected: int | None
) -> None:
    """Offsets, sequence numbers and entries are subtracted; what a position does not show is unknown."""
    if system == "iggy":
        import_module("apache_iggy")  # not on every Python
    with closing(measured(system)) as source:
        assert isinstance(source, Countable)
        assert source.between(P, first, last) == expected


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [("5:3", "7:1", 18), ("7:1", "5:3", -18), ("4:0", "7:1", None), ("5:9", "6:9", 10)],
)
def test_pulsar_counts_entries_over_ledgers_that_still_exist(
    first: str, last: str, expected: int | None
) -> None:
    """Ledgers 5 and 6 of 10 entries lie before ledger 7; what was in ledger 4, which is gone, is unknown."""
    with closing(measured("pulsar")) as source:
        assert isinstance(source, PulsarSource)
        layout = Layout(((5, 10), (6, 10), (7, 4)), Place(7, 3), Place(5, 3))
        source._layouts[P] = layout
        assert source.between(P, first, last) == expected
