"""Draining an Event Hub over AMQP, beside the SDK's own `receive_batch`, on one server.

The server is the tests', in a separate process that makes events in bulk. So the figures compare readers;
they are not those of the service: where the server's CPU is the limit, only the CPU that a reader uses for
a million events shows how fast it could be. Both read four partitions on one thread, with the same batches
and events ahead: this tool over one connection, the SDK over one for each partition. Both write checkpoints
to Azurite once a second and at the end; without Node.js, which Azurite needs, neither does.
Peak memory is shown for two lengths of backlog.

    make bench-eventhubs [BENCH_ARGS='--rounds N --quick']
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from azure.storage.blob import ContainerClient

from backlog_clearer.testing.servers.azurite import azurite
from backlog_clearer.testing.support import free_port
from bench.processes import Ended, Ran, Served, compare, ended, served

PARTITIONS, SIZE, BATCH = 4, 100, 5000
SDK = """
import sys, threading, time
from azure.eventhub import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
cpu = time.process_time()
text, events, batch, store, container = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
kept = BlobCheckpointStore.from_connection_string(store, container) if store else None
client = EventHubConsumerClient.from_connection_string(
    text, "$Default", eventhub_name="bench", checkpoint_store=kept)
count, begun, done, last, due = 0, None, None, {}, {}
def take(context, batch):
    global count, begun, done
    begun = begun or time.perf_counter()
    if not batch or done:
        return
    count += len(batch)
    last[context.partition_id] = context, batch[-1]
    at = time.monotonic()
    if store and at >= due.setdefault(context.partition_id, at + 1):
        context.update_checkpoint(batch[-1])
        due[context.partition_id] = at + 1
    if count >= events:
        for context, event in last.values() if store else ():
            context.update_checkpoint(event)
        done = time.perf_counter()
        threading.Thread(target=client.close).start()
client.receive_batch(take, max_batch_size=batch, prefetch=batch, starting_position="-1")
print(done - begun, time.process_time() - cpu)
"""


@contextmanager
def storing() -> Iterator[str]:
    """Azurite's connection string; empty where it cannot run."""
    if not shutil.which("npm"):
        yield ""
        return
    with tempfile.TemporaryDirectory() as folder, azurite(Path(folder)) as store:
        yield store.connection_string


@dataclass(frozen=True)
class Field:
    """A filled hub, and its readers."""

    server: Served
    store: str
    events: int

    def _container(self) -> str:
        """A new container for checkpoints."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        if self.store:
            with ContainerClient.from_connection_string(self.store, name) as client:
                client.create_container()
        return name

    def _ran(self, before: float, seconds: float, done: Ended, cpu: float) -> Ran:
        million = self.events / 1e6
        server = (self.server.cpu() - before) / million
        return Ran(self.events / seconds, done.cpu, done.peak, server, seconds, million=cpu / million)

    def _command(self, container: str) -> Ended:
        """The command line with one worker."""
        kept = ("--checkpoint-store", self.store, "--checkpoint-container", container, "--new")
        with tempfile.TemporaryDirectory() as receipts:
            return ended(
                sys.executable, "cleaner.py", "eventhubs", "--connection-string", self.server.line,
                "--eventhub-name", "bench", "--reader", "amqp", "--workers", "1", "--stop-when-empty",
                "--batch-size", str(BATCH), "--prefetch", str(BATCH), "--receipt-dir", receipts,
                "--output", "json", *(kept if self.store else ("--no-checkpoint",)),
            )  # fmt: skip

    def ours(self) -> Ran:
        """Run this tool; with checkpoints a second run finds nothing, and shows what the start costs."""
        container = self._container()
        before = self.server.cpu()
        done = self._command(container)
        result = json.loads(done.output)
        if result["totals"]["messages"] != self.events or (self.store and not result["verified"]):
            raise SystemExit(f"not all events were cleared: {result['totals']}")
        ran = self._ran(before, result["seconds"], done, done.cpu)
        if not self.store:
            return ran
        return ran._replace(million=(done.cpu - self._command(container).cpu) / self.events * 1e6)

    def sdk(self, batch: int) -> Ran:
        """The SDK's own client."""
        container, before = self._container(), self.server.cpu()
        done = ended(
            sys.executable,
            "-c",
            SDK,
            self.server.line,
            str(self.events),
            str(batch),
            self.store,
            container,
        )
        seconds, cpu = map(float, done.output.split())
        return self._ran(before, seconds, done, cpu)


@contextmanager
def filled(store: str, events: int) -> Iterator[Field]:
    """A server with so many events in all."""
    name = "backlog_clearer.testing.servers.eventhubs_serve"
    with served(name, free_port(), "bench", PARTITIONS, events // PARTITIONS, SIZE) as server:
        yield Field(server, store, events)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (3)")
    args = parser.parse_args()
    scale = 10 if args.quick else 1
    few, many = 400_000 // scale, 4_000_000 // scale
    with storing() as store:
        with filled(store, few) as field:
            print(
                f"{few:,} events of {SIZE} B in {PARTITIONS} partitions, one process each,"
                f" {'with' if store else 'without'} checkpoints"
            )
            runs = {"amqp reader (this tool)": field.ours}
            for batch in (BATCH, 300):
                runs[f"receive_batch, {batch:,} events"] = partial(field.sdk, batch)
            compare(runs, args.rounds)
        with filled(store, many) as field:
            print(f"{many:,} events")
            compare({"amqp reader (this tool)": field.ours}, 1)


if __name__ == "__main__":
    main()
