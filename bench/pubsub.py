"""Draining a Pub/Sub subscription, compared with the official client's two ways, on one server.

The server is a separate process that sends responses built beforehand, a thousand messages each, to every
stream and pull, honours flow control, and accepts every acknowledgement. So the figures compare readers;
they are not those of the service: where the server's CPU is the limit, only the CPU that a reader uses for a
million messages shows how fast it could be. Each reader runs as a separate process until it has acknowledged
the given number of messages; the programs take turns, with as many streams or threads each, and
a stream may have 20,000 messages outstanding. Figures leave out the start of Python and the imports.
The last part limits a stream to 10 MB/s, as the service does, and shows how many streams fill a link and
what that costs.

    make bench-pubsub [BENCH_ARGS='--rounds N --quick']
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any

import grpc
from google.pubsub_v1 import types as pubsub

from backlog_clearer.text import counted
from bench.processes import Ran, Served, compare, ended, served

SUBSCRIPTION = "projects/test/subscriptions/bench"
BATCH, SIZE = 1000, 100
BUSY_STREAMS = 16  # more of them share this machine's cores with the server
ACK_BYTES = 160  # an acknowledgement id of 157 characters in a request

OURS = """
import json, sys, time
sys.path.insert(0, ".")
from backlog_clearer.engine.drain import drain
from backlog_clearer.model import Claim
from backlog_clearer.options.run import RunOptions
from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.registry import open_source
run = RunOptions(workers=int(sys.argv[2]), max_messages=int(sys.argv[1]))
options = PubSubOptions(subscription_id="projects/test/subscriptions/bench")
source = open_source("googlepubsub", options, run, "bench")
(state,) = source.survey().partitions
begun, cpu = time.perf_counter(), time.process_time()
done = drain(source, [Claim(state, None, None)], run)
seconds = time.perf_counter() - begun
count = sum(item.messages for item in done.partitions.values())
print(json.dumps([count, seconds, time.process_time() - cpu]))
"""
CALLBACK = """
import json, os, sys, threading, time
from google.cloud import pubsub_v1
count, wanted, streams, begun, done = 0, int(sys.argv[1]), int(sys.argv[2]), None, threading.Event()
lock = threading.Lock()
def take(message):
    global count, begun
    message.ack()
    with lock:
        begun = begun or time.perf_counter()
        count += 1
        if count == wanted:
            done.set()
clients = [pubsub_v1.SubscriberClient() for _ in range(streams)]
cpu = time.process_time()
flow = pubsub_v1.types.FlowControl(max_messages=20000)
futures = [
    client.subscribe("projects/test/subscriptions/bench", take, flow_control=flow) for client in clients]
done.wait()
print(json.dumps([count, time.perf_counter() - begun, time.process_time() - cpu]), flush=True)
os._exit(0)
"""
PULL = """
import json, sys, threading, time
from google.cloud import pubsub_v1
name, wanted, threads = "projects/test/subscriptions/bench", int(sys.argv[1]), int(sys.argv[2])
counts = [0] * threads
clients = [pubsub_v1.SubscriberClient() for _ in range(threads)]
def loop(number):
    client = clients[number]
    while counts[number] < wanted // threads:
        got = client.pull(subscription=name, max_messages=1000).received_messages
        client.acknowledge(subscription=name, ack_ids=[item.ack_id for item in got])
        counts[number] += len(got)
begun, cpu = time.perf_counter(), time.process_time()
loops = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
for each in loops:
    each.start()
for each in loops:
    each.join()
print(json.dumps([sum(counts), time.perf_counter() - begun, time.process_time() - cpu]))
"""


def responses() -> bytes:
    """One response of `BATCH` messages, as it goes over the wire; pull and streaming have one shape."""
    now = datetime.now(timezone.utc)
    received = [
        pubsub.ReceivedMessage(
            ack_id=f"{'a' * 150}-{number:06}",  # about as long as the service's
            message=pubsub.PubsubMessage(
                data=bytes(SIZE), message_id=f"{10**15 + number}", publish_time=now
            ),
        )
        for number in range(BATCH)
    ]
    made = pubsub.StreamingPullResponse(received_messages=received)
    return bytes(pubsub.StreamingPullResponse.serialize(made))


def described(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    """The subscription's description."""
    made = pubsub.Subscription(
        name=SUBSCRIPTION, topic="projects/test/topics/bench", ack_deadline_seconds=60
    )
    return bytes(pubsub.Subscription.serialize(made))


def serve(rate: float) -> None:
    """Serve until standard input ends; a stream gets at most `rate` bytes a second (0: no limit)."""
    body = responses()
    state = {"streamed": 0, "acknowledged": 0, "streams": 0}
    lock = threading.Lock()

    def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        first = pubsub.StreamingPullRequest.deserialize(next(requests))
        begun, sent = time.monotonic(), 0
        over = threading.Event()  # by the client, upon which the service ends a stream, too

        def follow() -> None:
            with suppress(Exception):  # the stream broke
                deque(requests, 0)
            over.set()

        threading.Thread(target=follow, daemon=True).start()
        with lock:
            state["streams"] += 1
        try:
            while context.is_active() and not over.is_set():
                with lock:
                    room = first.max_outstanding_messages * state["streams"]
                    full = state["streamed"] - state["acknowledged"] + BATCH > room
                    state["streamed"] += 0 if full else BATCH
                if full:
                    time.sleep(0.001)
                    continue
                yield body
                sent += len(body)
                if rate:
                    time.sleep(max(0.0, begun + sent / rate - time.monotonic()))
        finally:
            with lock:
                state["streams"] -= 1
                if not state["streams"]:  # messages under way have no reader any more
                    state["streamed"] = state["acknowledged"] = 0

    def acknowledge(request: bytes, _context: grpc.ServicerContext) -> bytes:
        with lock:  # by its length, since decoding it would cost more than everything else
            state["acknowledged"] += round(len(request) / ACK_BYTES)
        return b""

    def pull(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        with lock:
            state["streamed"] += BATCH
        return body

    unary: dict[str, Any] = {
        "GetSubscription": described,
        "Acknowledge": acknowledge,
        "ModifyAckDeadline": lambda _request, _context: b"",
        "Pull": pull,
    }
    methods = {name: grpc.unary_unary_rpc_method_handler(each) for name, each in unary.items()}
    methods["StreamingPull"] = grpc.stream_stream_rpc_method_handler(stream)
    server = grpc.server(ThreadPoolExecutor(128))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


@contextmanager
def serving(rate: float = 0.0) -> Iterator[Served]:
    """A server process."""
    with served("bench.pubsub", "--serve", rate) as server:
        yield server


def ran(server: Served, script: str, messages: int, streams: int) -> Ran:
    """A reader to its end."""
    environ = {**os.environ, "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{server.line}"}
    before = server.cpu()
    done = ended(sys.executable, "-c", script, str(messages), str(streams), env=environ)
    count, seconds, cpu = json.loads(done.output.splitlines()[-1])
    used, million = server.cpu() - before, count / 1e6
    return Ran(count / seconds, cpu, done.peak, used / million, seconds, million=cpu / million)


def readers(rounds: int, messages: int) -> None:
    """Read by this tool and in the official client's two ways."""
    with serving() as server:
        for streams in (1, 2):
            print(
                f"{messages:,} messages of {SIZE} B, responses of {BATCH}, {counted(streams, 'stream')}"
            )
            scripts = {
                "streams (this tool)": OURS,
                "pull + acknowledge": PULL,
                "subscribe(callback)": CALLBACK,
            }
            compare(
                {
                    name: partial(ran, server, script, messages, streams)
                    for name, script in scripts.items()
                },
                rounds,
            )


def streams_of_a_link(counts: Sequence[int], seconds: int) -> None:
    """How many streams of 10 MB/s fill a link, and what they cost."""
    print("10 MB/s a stream")
    size, cores = len(responses()) / BATCH, 0.0
    with serving(10e6) as server:
        for streams in counts:
            done = ran(server, OURS, int(streams * 10e6 / size) * seconds, streams)
            used = (done.million or 0.0) * done.rate / 1e6
            print(
                f"  {streams:3} streams {done.rate * size / 1e6:7.1f} MB/s  {done.rate:10,.0f}/s"
                f"  {used:5.2f} cores  peak {done.peak:4.0f} MB",
                flush=True,
            )
            if streams == BUSY_STREAMS:
                cores = used * 600e6 / (done.rate * size)
    print(
        f"  600 MB/s: 60 streams by that limit, about {cores:.1f} cores by the cost of {BUSY_STREAMS}"
    )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (3)")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    readers(args.rounds, 500_000 // (10 if args.quick else 1))
    busy = (1, 4, BUSY_STREAMS)
    streams_of_a_link(busy if args.quick else (*busy, 60), 2 if args.quick else 4)


if __name__ == "__main__":
    main()
