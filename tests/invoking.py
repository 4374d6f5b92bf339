"""Calls the command line in this process, on the reference broker as system `memory`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.model import Partition
from tests import memory_system


@contextmanager
def on_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[MemoryBroker]:
    """An empty broker that is reachable as system `memory`, from the given folder."""
    monkeypatch.setitem(registry.SYSTEMS, "memory", memory_system.SYSTEM)
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield memory_system.reset()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def three_partitions(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with on_memory(monkeypatch, folder) as made:
        made.create("orders", 3)
        for number in range(3):
            made.produce("orders", number, 1000)
        yield made


def call(*args: str, **settings: Any) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(commands.cli, args, **settings)


def clear(*args: str, **settings: Any) -> Result:
    """Run it on topic `orders`, group `billing`."""
    return call("memory", "--topic", "orders", "--group-id", "billing", *args, **settings)


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions on the broker."""
    return [broker.position("billing", Partition("orders", number)) for number in range(3)]
