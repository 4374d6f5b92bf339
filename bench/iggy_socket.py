"""How fast an Iggy server answers polls: connections that ask ahead, and drop what arrives.

Prints the seconds from the logins to the last reply, and the seconds of CPU. SECRET is the password.

    python -m bench.iggy_socket HOST:PORT STREAM USER PARTITIONS EACH BATCH CONNECTIONS AHEAD
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque

from pydantic import SecretStr

from backlog_clearer.brokers.iggy import wire
from backlog_clearer.brokers.iggy.connection import TIMEOUT_S, IggyConnection, ServerAddress
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.iggy.poll_wire import PollWalk


class Share:
    """One connection, and the polls of its partitions."""

    def __init__(self, options: IggyOptions, who: bytes, polls: list[tuple[int, int]]) -> None:
        """`polls`: partitions, and the offsets to ask them for."""
        self.connection = IggyConnection(options, ServerAddress(options.host, options.port))
        self._who, self._polls = who, deque(polls)
        self.under_way = 0

    def ask(self, batch: int) -> None:
        """Ask for the next messages, if there are more."""
        if self._polls:
            partition, offset = self._polls.popleft()
            payload = wire.poll(self._who, partition, offset, batch)
            self.connection.ask(wire.READ, wire.POLL, payload, PollWalk(batch))
            self.under_way += 1

    def take(self, batch: int) -> int:
        """Wait for the oldest reply, and ask for more; the messages in it."""
        reply = self.connection.answer(TIMEOUT_S)
        self.under_way -= 1
        self.ask(batch)
        return reply.polled.messages if reply and reply.polled else 0


def main(address: str, stream: str, user: str, *figures: str) -> None:
    """Poll everything once."""
    partitions, each, batch, connections, ahead = map(int, figures)
    host, _, port = address.rpartition(":")
    options = IggyOptions(
        host=host, port=int(port), stream_id=stream, topic_id="bench",
        username=user, password=SecretStr(os.environ["SECRET"]),
    )  # fmt: skip
    place = wire.identifier(stream) + wire.identifier("bench")
    who = wire.subject(wire.CONSUMER, wire.identifier("0"), place)
    begun, cpu = time.perf_counter(), time.process_time()
    shares = [
        Share(
            options,
            who,
            [
                (number, offset)
                for number in range(index, partitions, connections)
                for offset in range(0, each, batch)
            ],
        )
        for index in range(connections)
    ]
    for share in shares:
        for _ in range(ahead):
            share.ask(batch)
    found = 0
    while any(share.under_way for share in shares):
        found += sum(share.take(batch) for share in shares if share.under_way)
    if found != partitions * each:
        raise SystemExit(f"{found} messages arrived, not {partitions * each}")
    print(time.perf_counter() - begun, time.process_time() - cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
