"""Faults: the tool as a process, killed, signalled, and behind a relay that breaks what a broker sends.

Each try makes a separate backlog, disturbs one run, judges by the broker's state (asked with an independent
client), clears the rest without a fault, and restores the first receipt. The table has to be all zeros; the
exit code is 1 where it is not. What a try does depends only on the seed and its name, and both are printed:
`--seed 7 --only kafka/relay/12` repeats one.

    make bench-faults [BENCH_ARGS='--quick --seed 7 --only kafka --jobs 3']

It takes minutes: hours on a machine with other work. IGGY_SERVER=PATH names a real Iggy server's program.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backlog_clearer.testing.support import UnavailableError
from bench import faults_brokers, faults_clouds, faults_systems, faults_tool
from bench.faults_relay import Fault, injection
from bench.faults_systems import System
from bench.faults_tool import COLUMNS, Try, relayed, signalled

SYSTEMS: Mapping[str, Callable[[Path], AbstractContextManager[System]]] = {
    "kafka": faults_systems.kafka,
    "pulsar": faults_systems.pulsar,
    "iggy": faults_clouds.iggy,
    "eventhubs": faults_clouds.eventhubs,
    "googlepubsub": faults_clouds.googlepubsub,
}
FULL = {"kill -9": 20, "SIGTERM": 20, "SIGTERM, slow": 10, "relay": 100, "broker": 20}
QUICK = {"kill -9": 1, "SIGTERM": 1, "SIGTERM, slow": 0, "relay": 3, "broker": 0}
QUICK_SYSTEMS = ("iggy",)
QUICK_FAULTS = (Fault.CUT, Fault.FLIP, Fault.HUGE)  # the others wait for time-outs
SIZE = 6000  # messages of a backlog
DRAIN_S = 3.0  # about how long a run is to take that is killed or signalled
FAMILIES = {
    "kill -9": "kill",
    "SIGTERM": "term",
    "SIGTERM, slow": "slow",
    "relay": "relay",
    "broker": "broker",
}
SLOW_FAULTS = (Fault.STALL, Fault.DRIP, Fault.SWALLOW)  # what a run waits for when the signal comes


class Table:
    """What all tries came to."""

    def __init__(self) -> None:
        self.tries: Counter[tuple[str, str]] = Counter()
        self.wrong: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.peak_stop_s = 0.0
        self._lock = threading.Lock()

    def add(self, system: str, fault: str, name: str, tried: Try) -> None:
        """Count a try, and print what went wrong in it."""
        with self._lock:
            self.tries[system, fault] += 1
            self.wrong[system, fault].update({item.column for item in tried.found})
            for item in tried.found:
                print(f"\n{name} ({fault}): {item.column}: {item.text}", flush=True)

    def markdown(self) -> str:
        """The table, in Markdown."""
        head = ("system", "fault", "tries", *COLUMNS)
        rows = [head, ("---", "---", *["--:"] * (len(head) - 2))]
        for (system, fault), tries in sorted(self.tries.items()):
            wrong = self.wrong[system, fault]
            rows.append((system, fault, str(tries), *(str(wrong[name]) for name in COLUMNS)))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    @property
    def clean(self) -> bool:
        """Whether all tries came to nothing wrong, and there were some."""
        return bool(self.tries) and not any(self.wrong.values())


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    seed: int
    only: str
    jobs: int
    counts: Mapping[str, int]
    faults: Collection[Fault]
    folder: Path

    def names(self, system: str, family: str) -> Iterator[tuple[str, random.Random]]:
        """The tries of a family that are asked for, each with its own source of chance."""
        for number in range(self.counts[family]):
            name = f"{system}/{FAMILIES[family]}/{number}"
            if not self.only or f"{name}/".startswith(f"{self.only.rstrip('/')}/"):
                yield name, random.Random(f"{self.seed}/{name}")  # noqa: S311 it must be the same again


def measure(system: System, variant: str, route: str, plan: Plan) -> int:
    """How many frames the system sends on a route in a run without a fault."""
    with ExitStack() as stack:
        relay = relayed(stack, system, route)
        folder = plan.folder / f"clean-{time.monotonic_ns()}"
        tried = Try(system, variant, SIZE, folder)
        done = tried.tool({route: ("127.0.0.1", relay.port)})
        left = sum(tried.check(done).values())
        if tried.found or done.code != 0 or left:
            raise SystemExit(
                f"{system.name} {variant}: a run without faults failed: {tried.found} exit {done.code},"
                f" {left} left\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
            )
        return relay.frames


def try_relay(
    system: System, name: str, chance: random.Random, frames: Mapping[Any, int], plan: Plan
) -> tuple[str, Try]:
    """One fault of the relay."""
    variant = chance.choice(system.variants)
    routes = list(system.routes)
    route = routes[0] if len(routes) == 1 or chance.random() < 0.75 else routes[1]
    injected = injection(system.routes[route][1], frames[variant, route], chance, plan.faults)
    tried = Try(system, variant, SIZE, plan.folder / name)
    with ExitStack() as stack:
        relay = relayed(stack, system, route, injected)
        done = tried.tool({route: ("127.0.0.1", relay.port)})
    wait_for_delivery(system, chance)
    left = tried.check(done)
    first = tried.receipts()[:1]
    tried.finish(left)
    if chance.random() < 0.25:
        tried.undo(first, relay)
    tried.search_secrets()
    for at, item in enumerate(tried.found):
        what = f"{variant} {route} {injected}: exit {done.code} {done.result.get('verdict')}: "
        tried.found[at] = item._replace(text=what + item.text)
    return f"relay: {injected.fault.value}", tried


def wait_for_delivery(system: System, _: object) -> None:
    """Wait until messages that a killed process held are delivered again."""
    if system.settle_s:
        time.sleep(system.settle_s)


def try_signal(
    system: System,
    name: str,
    chance: random.Random,
    number: signal.Signals,
    *,
    plan: Plan,
    frames: Mapping[Any, int] | None = None,
) -> Try:
    """One signal at some time between the start and the end of a slow run.

    With `frames` the broker drips or falls silent before.
    """
    variant = chance.choice(system.variants)
    tried = Try(system, variant, SIZE, plan.folder / name)
    after_s = chance.uniform(0.1, DRAIN_S + 2.0)
    injected = None
    with ExitStack() as stack:
        route = next(iter(system.routes))
        if frames is not None:
            framing = system.routes[route][1]
            injected = injection(framing, frames[variant, route], chance, SLOW_FAULTS)
            after_s += DRAIN_S
        relay = relayed(stack, system, route, injected, rate=SIZE * 110 / DRAIN_S)
        done = tried.tool({route: ("127.0.0.1", relay.port)}, disturb=signalled(number, after_s))
    wait_for_delivery(system, chance)
    tried.conclude(done, relay, f"{variant} {injected or ''} after {after_s:.2f} s")
    return tried


def run_system(system: System, key: str, plan: Plan, table: Table) -> None:
    """All tries of one system that share its servers."""

    def relay(item: tuple[str, random.Random]) -> None:
        fault, tried = try_relay(system, *item, frames, plan)
        table.add(system.name, fault, item[0], tried)

    def signals(family: str, number: signal.Signals) -> Callable[[tuple[str, random.Random]], None]:
        def one(item: tuple[str, random.Random]) -> None:
            tried = try_signal(system, *item, number, plan=plan)
            table.add(system.name, family, item[0], tried)

        return one

    works: list[tuple[Callable[[Any], None], Any]] = []
    for family, number in (("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)):
        works += [(signals(family, number), item) for item in plan.names(key, family)]
    relays = list(plan.names(key, "relay"))
    slow = list(plan.names(key, "SIGTERM, slow"))
    frames: dict[Any, int] = {}

    def slowly(item: tuple[str, random.Random]) -> None:
        tried = try_signal(system, *item, signal.SIGTERM, plan=plan, frames=frames)
        table.add(system.name, "SIGTERM, slow", item[0], tried)

    if relays or slow:
        for variant in system.variants:
            for route in system.routes:
                frames[variant, route] = measure(system, variant, route, plan)
    works += [(slowly, item) for item in slow]
    works += [(relay, item) for item in relays]
    with ThreadPoolExecutor(plan.jobs) as pool:
        for number_done, _ in enumerate(pool.map(lambda work: work[0](work[1]), works), 1):
            print(f"\r{key}: {number_done} of {len(works)} tries", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def run_brokers(key: str, plan: Plan, table: Table) -> None:
    """All tries of one system whose brokers are killed, one after the other."""
    names = list(plan.names(key, "broker"))
    opened = faults_brokers.PAIRS.get(key)
    if opened is None or not names:
        return
    with opened(plan.folder) as pair:
        for number, (name, chance) in enumerate(names, 1):
            tried = faults_brokers.try_broker(pair, chance, plan.folder / name)
            table.add(pair.system.name, pair.fault, name, tried)
            print(f"\r{key}: {number} of {len(names)} brokers", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few tries on a server without Java")
    parser.add_argument("--seed", type=int, default=None, help="what the tries depend on")
    parser.add_argument("--only", default="", help="names of tries begin so: kafka, kafka/relay/12")
    parser.add_argument("--jobs", type=int, default=2, help="tries at the same time")
    parser.add_argument("--tool", default=None, help="a program to try instead of cleaner.py")
    parser.add_argument(
        "--stop-seconds", type=float, default=5.0, help="from a signal to the end at most"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tries")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the tries, and print the table."""
    given = parse()
    seed = random.randrange(1 << 20) if given.seed is None else given.seed  # noqa: S311
    print(f"seed {seed}", flush=True)
    Try.stop_s = given.stop_seconds
    if given.tool:
        faults_tool.TOOL[:] = [given.tool]
    counts = QUICK if given.quick else {name: round(n * given.scale) for name, n in FULL.items()}
    table = Table()
    with tempfile.TemporaryDirectory() as place:
        faults = QUICK_FAULTS if given.quick else tuple(Fault)
        plan = Plan(seed, given.only, given.jobs, counts, faults, Path(place))
        for key, opened in SYSTEMS.items():
            wanted = not given.only or given.only.split("/")[0] == key
            if not wanted or (given.quick and not given.only and key not in QUICK_SYSTEMS):
                continue
            try:
                if any(any(plan.names(key, family)) for family in FULL if family != "broker"):
                    with opened(plan.folder) as system:
                        run_system(system, key, plan, table)
                run_brokers(key, plan, table)
            except (
                UnavailableError,
                TimeoutError,
            ) as error:  # also of a broker that does not come back
                print(f"{key}: {error}", flush=True)
            print(table.markdown(), flush=True)
    raise SystemExit(0 if table.clean else 1)


if __name__ == "__main__":
    main()
