"""The engine's own cost: a drain over the reference broker against a bare loop over the same lane.

Prints both rates and the overhead in per cent; the claim is under 5 %. Runs alternate, and the best
of each is compared, so that the machine's other work does not decide.

    make bench-engine
"""

from __future__ import annotations

import time

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import drain
from backlog_clearer.engine.worker import READ_WAIT_S
from backlog_clearer.model import Claim
from backlog_clearer.options.run import RunOptions

MESSAGES = 50_000_000  # enough that starting a thread does not count
SIZE = 100  # bytes a message
BATCH = 2000  # the default of --batch-size
ROUNDS = 7


def source() -> tuple[MemorySource, list[Claim]]:
    """A full partition and the claim on it."""
    broker = MemoryBroker()
    broker.create("t", 1, size=SIZE)
    broker.produce("t", 0, MESSAGES)
    made = MemorySource(broker, "t", "g", batch_size=BATCH)
    return made, [Claim(state, None, state.end) for state in made.survey().partitions]


def bare() -> float:
    """Seconds that the shortest possible loop takes."""
    made, claims = source()
    lane = made.open_lane(claims)
    begun = time.perf_counter()
    left: int | None = MESSAGES
    while left:
        for advance in lane.read(READ_WAIT_S, None):
            left = advance.left
    lane.settle()
    lane.close()
    return time.perf_counter() - begun


def engine() -> float:
    """Seconds that the engine takes."""
    made, claims = source()
    begun = time.perf_counter()
    done = drain(made, claims, RunOptions(workers=1, stop_when_empty=True, batch_size=BATCH))
    seconds = time.perf_counter() - begun
    assert sum(item.messages for item in done.partitions.values()) == MESSAGES  # noqa: S101 a wrong run must not be timed
    return seconds


def main() -> None:
    """Alternate both and print the comparison."""
    bare()
    engine()
    times = [(bare(), engine()) for _ in range(ROUNDS)]
    loop, drained = (min(column) for column in zip(*times, strict=True))
    print(f"bare loop  {MESSAGES / loop:>14,.0f} messages/s")
    print(f"engine     {MESSAGES / drained:>14,.0f} messages/s")
    print(f"ratio      {loop / drained:.3f}  (overhead {100 * (drained / loop - 1):.1f} %)")


if __name__ == "__main__":
    main()
