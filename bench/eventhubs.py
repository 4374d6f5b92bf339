"""Draining an Event Hub over AMQP, beside the SDK's own `receive_batch`, on one server.

The server is the tests' (a process of its own, which makes events in bulk), so the figures compare
readers and say nothing of the service. Peak memory is shown for two lengths of backlog: it has to be
flat. Nothing is checkpointed here, on either side.

    make bench-eventhubs [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import free_port

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


@contextmanager
def serving(events: int) -> Iterator[str]:
    """A server with this many events in all; yields its connection string."""
    command = (
        sys.executable, "-m", "tests.brokers.eventhubs_serve", str(free_port()), "bench",
        str(PARTITIONS), str(events // PARTITIONS), str(SIZE),
    )  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None  # noqa: S101 narrows the types
    assert process.stdout is not None  # noqa: S101
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


def run(*command: str, code: int = 0) -> tuple[str, float, float]:
    """A program to its end: (what it printed, CPU seconds, peak MB)."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode != code:
            raise SystemExit(f"{' '.join(command)[:120]} failed: {output.read()[-500:]!r}")
        return (
            output.read().decode(),
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / 1024,
        )


def ours(text: str, events: int) -> tuple[float, float, float]:
    """Events a second, CPU seconds and peak MB of the command line, one worker."""
    with tempfile.TemporaryDirectory() as receipts:
        printed, cpu, peak = run(
            sys.executable, "cleaner.py", "eventhubs", "--connection-string", text,
            "--eventhub-name", "bench", "--reader", "amqp", "--no-checkpoint", "--workers", "1",
            "--stop-when-empty", "--receipt-dir", receipts, "--output", "json",
            code=1,  # without a checkpoint store nothing is cleared
        )  # fmt: skip
    result = json.loads(printed)
    if result["totals"]["messages"] != events:
        raise SystemExit(f"not all events were counted: {result['totals']}")
    return events / result["seconds"], cpu, peak


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    scale = 10 if parser.parse_args().quick else 1
    few, many = 500_000 // scale, 5_000_000 // scale
    with serving(few) as text:
        rate, cpu, small = ours(text, few)
        printed, sdk_cpu, sdk_peak = run(sys.executable, "-c", SDK, text, str(few))
    sdk = few / float(printed)
    print(f"{few:,} events of {SIZE} B in {PARTITIONS} partitions, one process each")
    print(f"  amqp reader (this tool) {rate:12,.0f}/s  cpu {cpu:5.1f} s  peak {small:4.0f} MB")
    print(f"  SDK receive_batch       {sdk:12,.0f}/s  cpu {sdk_cpu:5.1f} s  peak {sdk_peak:4.0f} MB")
    print(f"  ratio {rate / sdk:.1f}")
    with serving(many) as text:
        rate, cpu, large = ours(text, many)
    print(f"{many:,} events")
    print(f"  amqp reader (this tool) {rate:12,.0f}/s  cpu {cpu:5.1f} s  peak {large:4.0f} MB")
    print(f"  memory: {large - small:+.0f} MB for ten times the events")


if __name__ == "__main__":
    main()
