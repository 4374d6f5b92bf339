"""Serves one Event Hub of the AMQP test server in a separate process, for benchmarks.

    python -m backlog_clearer.testing.servers.eventhubs_serve PORT HUB PARTITIONS EVENTS SIZE

prints the connection string and serves until standard input ends.
"""

from __future__ import annotations

import sys

from backlog_clearer.testing.servers.eventhubs import EventHubsServer


def main(argv: list[str]) -> None:
    """Serve one hub until standard input ends."""
    port, name, partitions, events, size = argv
    server = EventHubsServer(int(port))
    server.create(name, int(partitions), size=int(size))
    for number in range(int(partitions)):
        server.produce(name, number, int(events))
    sys.stdout.write(server.connection_string() + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
