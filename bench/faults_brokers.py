"""Brokers that are killed while the tool drains them: one of two of Kafka, and the only one of Pulsar."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from backlog_clearer.testing.servers.kafka import running_kafka
from backlog_clearer.testing.servers.pulsar import running_pulsar
from backlog_clearer.testing.servers.pulsar_judge import KEPT
from backlog_clearer.testing.servers.pulsar_judge import Judge as PulsarJudge
from backlog_clearer.testing.support import wait_until
from bench.faults_systems import KafkaSystem, PulsarSystem, System
from bench.faults_tool import Try

_SIZE = 6000
_LATEST_S = 5.0  # after the start of a run, a broker is killed
_DOWN_S = 2.0
_SLOW = 250_000  # bytes a second that a Kafka broker delivers
_SLOW_MESSAGES = 1500  # a second that Pulsar delivers to a subscription
_Answer = TypeVar("_Answer")


class Pair(NamedTuple):
    """A system whose brokers may be killed."""

    system: System
    fault: str
    nodes: int
    kill: Callable[[int], None]
    restart: Callable[[int], None]
    ready: Callable[[], object]


@contextmanager
def kafka(folder: Path) -> Iterator[Pair]:
    """Two brokers, which deliver slowly."""
    settings = {"quota.window.num": "2"}
    with running_kafka(folder / "kafka-pair", nodes=2, settings=settings) as cluster:
        system = KafkaSystem(cluster)
        cluster.limit_reads(_SLOW)
        ready = system.judge.wait_for_coordinators
        yield Pair(system, "one broker of two killed", 2, cluster.kill, cluster.restart, ready)


@contextmanager
def pulsar(folder: Path) -> Iterator[Pair]:
    """One broker, which delivers slowly."""
    with running_pulsar(folder / "pulsar-single") as server, closing(PulsarJudge(server)) as judge:
        judge.slow_down(KEPT, _SLOW_MESSAGES)
        system = PulsarSystem(judge)
        yield Pair(
            system,
            "the broker killed",
            1,
            lambda _: server.stop(),
            lambda _: server.start(),
            lambda: None,
        )


PAIRS: Mapping[str, Callable[[Path], AbstractContextManager[Pair]]] = {"kafka": kafka, "pulsar": pulsar}


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """What a broker answers once it is up again."""
    found: list[_Answer] = []

    def asked() -> bool:
        with suppress(Exception):  # of either system's client, until its broker is up
            found.append(ask())
        return bool(found)

    wait_until(asked, "an answer of a broker that was killed", 90)
    return found[0]


def try_broker(pair: Pair, chance: random.Random, folder: Path) -> Try:
    """Kill a broker at some time of a run, start it again, and judge then."""
    variant = chance.choice(pair.system.variants)
    tried = Try(pair.system, variant, _SIZE, folder)
    node, after_s = chance.randint(1, pair.nodes), chance.uniform(0.0, _LATEST_S)

    def disturb(process: Any) -> None:
        with suppress(Exception):
            process.wait(after_s)
        pair.kill(node)
        time.sleep(_DOWN_S)
        pair.restart(node)

    done = tried.tool({}, disturb=disturb)
    patiently(pair.ready)
    patiently(tried.backlog.left)
    tried.conclude(done, None, f"{variant}, node {node} after {after_s:.2f} s")
    return tried
