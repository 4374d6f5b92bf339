"""The reference broker as a registered system, so that the command line can be run against it."""

from __future__ import annotations

import base64
import json
import logging
import time
import urllib.parse
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemoryLane, MemorySource
from backlog_clearer.errors import BrokerError
from backlog_clearer.model import Found, Listing, Partition
from backlog_clearer.options.base import Name, Names, SystemOptions
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import System
from backlog_clearer.source import Source

if TYPE_CHECKING:
    import pytest  # the processes that tests start do without it

BROKER = MemoryBroker()
"""The broker that `open_source` reaches; tests replace its content."""

PARTITION = Partition("t", 0)
"""The partition that most tests clear."""

SYSTEM = System(
    "a group on the reference broker",
    "tests.memory_system:MemoryOptions",
    "tests.memory_system:open_source",
    None,
    clears="a group",
    lister="tests.memory_system:list_groups",
    list_options="tests.memory_system:MemoryListOptions",
)


class MemoryOptions(SystemOptions):
    """How to reach a group in memory."""

    NAMES: ClassVar[tuple[str, ...]] = ("group_id",)

    topic: str = Field(description="topic to clear")
    group_id: Name = Field(description="group whose backlog is cleared")
    password: SecretStr | None = Field(None, description="a secret")
    servers: Names = Field(("a", "b"), description="addresses")
    settings: dict[str, str] = Field(default_factory=dict, description="client settings")

    @classmethod
    def hidden(cls) -> frozenset[str]:
        return frozenset({"settings"})


class MemoryListOptions(SystemOptions):
    """The groups on the reference broker."""

    topic: str = Field("", description="only groups on this topic")
    matching: str = Field("*", description="only such groups")


def list_groups(options: SystemOptions) -> Listing:
    """The groups that have a position; see `registry.Lister`."""
    assert isinstance(options, MemoryListOptions)
    stored: dict[tuple[str, str], None] = {}
    for group, partition in sorted(BROKER.positions):
        if fnmatchcase(group, options.matching) and options.topic in ("", partition.topic):
            stored[group, partition.topic] = None
    return Listing("memory", "messages", tuple(Found(g, None, (t,), None, None) for g, t in stored))


def reset() -> MemoryBroker:
    """An empty broker."""
    BROKER.__init__()  # type: ignore[misc] # the module keeps one object that open_source sees
    return BROKER


def slow_down(patched: pytest.MonkeyPatch, seconds: float) -> None:
    """Make every read take at least this many seconds."""
    read = MemoryLane.read

    def slow(lane: MemoryLane, *args: Any) -> Any:
        time.sleep(seconds)
        return read(lane, *args)

    patched.setattr(MemoryLane, "read", slow)


def open_source(options: SystemOptions, run: RunOptions, run_id: str) -> Source:
    """A source on `BROKER`; the run's id is not used."""
    if not isinstance(options, MemoryOptions):
        raise TypeError(f"{run_id}: {options!r}")
    password = options.password.get_secret_value() if options.password else None
    return MemorySource(
        BROKER, options.topic, options.group_id, batch_size=run.batch_size, password=password
    )


def said(secret: str, form: str) -> str:
    """What a library may report of a login with a secret, in one of several forms."""
    login = f"user:{secret}"
    forms = {
        "plain": f"refused {login}",
        "url": f"refused https://host/?q={urllib.parse.quote(login, safe='')}",
        "base64": f"refused Authorization: Basic {base64.b64encode(login.encode()).decode()}",
        "repr": f"refused {json.dumps({'password': secret})} {login.encode()!r}",
    }
    return forms[form]


def complain(patched: pytest.MonkeyPatch, moment: str, text: str) -> None:
    """Make a step of every run fail with an error of this text."""

    def fail(*_: Any, **__: Any) -> Any:
        logging.getLogger("backlog_clearer.library").debug("debug: %s", text)
        raise (RuntimeError if moment == "crash" else BrokerError)(text)

    if moment in {"open", "crash"}:
        patched.setattr("tests.memory_system.open_source", fail)
    elif moment == "survey":
        patched.setattr(MemorySource, "survey", fail)
    elif moment == "verify":
        patched.setattr(MemorySource, "remaining", fail)
    elif moment == "settle":
        patched.setattr(MemoryLane, "settle", fail)
    else:
        patched.setattr(MemoryLane, "read", fail)
