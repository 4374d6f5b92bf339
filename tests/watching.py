"""The command line in a separate process, on the reference broker with a producer and a consumer.

`python -m tests.watching SECONDS ARGS`: every survey is preceded by 60 new messages and 100 acknowledged
ones in each partition of topic `orders`. The survey with the number that FAIL names fails.
"""

from __future__ import annotations

import os
import sys

from backlog_clearer import registry
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli.commands import main
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Partition, Survey
from tests.memory_system import BROKER, SYSTEM


def run() -> None:
    """Begin."""
    registry.SYSTEMS["memory"] = SYSTEM
    BROKER.create("orders", 2)
    for number in range(2):
        BROKER.produce("orders", number, 1000)
        BROKER.positions["billing", Partition("orders", number)] = 0
    survey, count = MemorySource.survey, 0

    def moving(source: MemorySource) -> Survey:
        nonlocal count
        count += 1
        for number in range(2):
            BROKER.produce("orders", number, 60)
            BROKER.positions["billing", Partition("orders", number)] += 100
        if count == int(os.environ.get("FAIL", "0")):
            raise BrokerError("the broker refused this look")
        return survey(source)

    setattr(MemorySource, "survey", moving)  # noqa: B010 mypy knows its own type
    sys.argv[0] = "backlog-clearer"
    main()


if __name__ == "__main__":
    run()
