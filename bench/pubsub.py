"""Draining a Pub/Sub subscription, compared with the official client's two ways, on one server.

The server is a separate process that sends responses built beforehand, a thousand messages each, to every
stream and pull, honours flow control, and accepts every acknowledgement. Each reader runs as a separate
process until it has acknowledged the given number of messages. The last part limits a stream to 10 MB/s,
as the service does, and shows how many streams fill a link and what that costs.

    make bench-pubsub [BENCH_ARGS=--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import grpc
from google.pubsub_v1 import types as pubsub

from bench.processes import Ran, ended, served, show

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
run = RunOptions(workers=int(sys.argv[2]), max_messages=int(sys.argv[1]), batch_size=2000)
options = PubSubOptions(subscription_id="projects/test/subscriptions/bench")
source = open_source("googlepubsub", options, run, "bench")
(state,) = source.survey().partitions
begun = time.perf_counter()
done = drain(source, [Claim(state, None, None)], run)
seconds = time.perf_counter() - begun
print(json.dumps([sum(item.messages for item in done.partitions.values()), seconds]))
"""
CALLBACK = """
import json, sys, threading, time
from google.cloud import pubsub_v1
count, wanted, begun, done = 0, int(sys.argv[1]), None, threading.Event()
lock = threading.Lock()
def take(message):
    global count, begun
    message.ack()
    with lock:
        begun = begun or time.perf_counter()
        count += 1
        if count == wanted:
            done.set()
client = pubsub_v1.SubscriberClient()
future = client.subscribe("projects/test/subscriptions/bench", take,
                          flow_control=pubsub_v1.types.FlowControl(max_messages=20000))
done.wait()
print(json.dumps([count, time.perf_counter() - begun]), flush=True)
import os
os._exit(0)
"""
PULL = """
import json, sys, time
from google.pubsub_v1 import SubscriberClient
from google.cloud import pubsub_v1
client = pubsub_v1.SubscriberClient()
name, count, wanted = "projects/test/subscriptions/bench", 0, int(sys.argv[1])
begun = time.perf_counter()
while count < wanted:
    got = client.pull(subscription=name, max_messages=1000).received_messages
    client.acknowledge(subscription=name, ack_ids=[item.ack_id for item in got])
    count += len(got)
print(json.dumps([count, time.perf_counter() - begun]))
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


def serve(rate: float) -> None:
    """Serve until standard input ends; a stream gets at most `rate` bytes a second (0: no limit)."""
    body = responses()
    state = {"streamed": 0, "acknowledged": 0, "streams": 0}
    lock = threading.Lock()

    def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        first = pubsub.StreamingPullRequest.deserialize(next(requests))
        begun, sent = time.monotonic(), 0
        with lock:
            state["streams"] += 1
        try:
            while context.is_active():
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

    def config(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        made = pubsub.Subscription(
            name=SUBSCRIPTION, topic="projects/test/topics/bench", ack_deadline_seconds=60
        )
        return bytes(pubsub.Subscription.serialize(made))

    unary: dict[str, Any] = {
        "GetSubscription": config,
        "Acknowledge": acknowledge,
        "ModifyAckDeadline": lambda _request, _context: b"",
        "Pull": lambda _request, _context: body,
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
def serving(rate: float = 0.0) -> Iterator[dict[str, str]]:
    """A server process; yields the environment that leads the official library to it."""
    with served("bench.pubsub", "--serve", rate) as port:
        yield {**os.environ, "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{port}"}


def run(script: str, env: dict[str, str], *args: int) -> Ran:
    """A reader to its end."""
    done = ended(sys.executable, "-c", script, *map(str, args), env=env)
    count, seconds = json.loads(done.output.splitlines()[-1])
    return Ran(count / seconds, done.cpu, done.peak)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    scale = 10 if args.quick else 1
    with serving() as env:
        print(f"{SIZE} B messages, responses of {BATCH}")
        ours = run(OURS, env, 2_000_000 // scale, 2)
        show("streams (this tool, 2)", ours, ours)
        show("pull + acknowledge", run(PULL, env, 200_000 // scale), ours)
        show("subscribe(callback)", run(CALLBACK, env, 100_000 // scale), ours)
    print("10 MB/s a stream")
    bytes_each, cores = len(responses()) / BATCH, 0.0
    with serving(10e6) as env:
        for streams in (1, 4, BUSY_STREAMS) if args.quick else (1, 4, BUSY_STREAMS, 60):
            messages = int(streams * 10e6 / bytes_each) * (2 if args.quick else 4)
            ran = run(OURS, env, messages, streams)
            seconds = messages / ran.rate
            print(
                f"  {streams:3} streams {ran.rate * bytes_each / 1e6:7.1f} MB/s  {ran.rate:10,.0f}/s"
                f"  {ran.cpu / seconds:5.2f} cores  peak {ran.peak:4.0f} MB",
                flush=True,
            )
            if streams == BUSY_STREAMS:
                cores = ran.cpu / seconds * 600e6 / (ran.rate * bytes_each)
    print(
        f"  600 MB/s: 60 streams by that limit, about {cores:.1f} cores by the cost of {BUSY_STREAMS}"
    )


if __name__ == "__main__":
    main()
