"""Draining an Event Hub over AMQP, beside the SDK's own `receive_batch`, on one server.

The server is the tests', in a separate process that makes events in bulk. So the figures compare readers;
they are not those of the service. Peak memory is shown for two lengths of backlog and has to be flat.
Neither side writes checkpoints.

    make bench-eventhubs [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import AbstractContextManager

from backlog_clearer.testing.support import free_port
from bench.processes import Ran, ended, served, show

PARTITIONS, SIZE = 4, 100
SDK = """
import sys, threading, time
from azure.eventhub import EventHubConsumerClient
text, events = sys.argv[1], int(sys.argv[2])
client = EventHubConsumerClient.from_connection_string(text, "$Default", eventhub_name="bench")
count, begun, done = 0, None, None
def take(context, batch):
    global count, begun, done
    begun = begun or time.perf_counter()
    count += len(batch)
    if count >= events and done is None:
        done = time.perf_counter()
        threading.Thread(target=client.close).start()
client.receive_batch(take, max_batch_size=5000, prefetch=5000, starting_position="-1", max_wait_time=1)
print(done - begun)
"""


def serving(events: int) -> AbstractContextManager[str]:
    """A server with this many events in all; yields its connection string."""
    each = events // PARTITIONS
    server = "backlog_clearer.testing.servers.eventhubs_serve"
    return served(server, free_port(), "bench", PARTITIONS, each, SIZE)


def ours(text: str, events: int) -> Ran:
    """The command line with one worker."""
    with tempfile.TemporaryDirectory() as receipts:
        done = ended(
            sys.executable, "cleaner.py", "eventhubs", "--connection-string", text,
            "--eventhub-name", "bench", "--reader", "amqp", "--no-checkpoint", "--workers", "1",
            "--stop-when-empty", "--receipt-dir", receipts, "--output", "json",
            code=1,  # without a checkpoint store nothing is cleared
        )  # fmt: skip
    result = json.loads(done.output)
    if result["totals"]["messages"] != events:
        raise SystemExit(f"not all events were counted: {result['totals']}")
    return Ran(events / result["seconds"], done.cpu, done.peak)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    scale = 10 if parser.parse_args().quick else 1
    few, many = 500_000 // scale, 5_000_000 // scale
    with serving(few) as text:
        small = ours(text, few)
        done = ended(sys.executable, "-c", SDK, text, str(few))
    print(f"{few:,} events of {SIZE} B in {PARTITIONS} partitions, one process each")
    show("amqp reader (this tool)", small, small)
    show("SDK receive_batch", Ran(few / float(done.output), done.cpu, done.peak), small)
    with serving(many) as text:
        large = ours(text, many)
    print(f"{many:,} events")
    show("amqp reader (this tool)", large, large)
    print(f"  memory: {large.peak - small.peak:+.0f} MB for ten times the events")


if __name__ == "__main__":
    main()
