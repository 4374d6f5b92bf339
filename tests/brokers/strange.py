"""Makes every library object that an adapter holds, and every new connection, fail with a strange error."""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
import requests

from backlog_clearer.errors import BrokerError
from backlog_clearer.guard import guarded_source
from backlog_clearer.model import Claim, Partition, Position
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Lane, Source
from backlog_clearer.testing import Bench
from backlog_clearer.testing.support import wait_until

LIBRARIES = (
    "azure",
    "cimpl",
    "confluent_kafka",
    "google",
    "grpc",
    "apache_iggy",
    "requests",
    "socket",
    "pulsar",
)
FAILURES = (RuntimeError("strange"), KeyError("strange"))


class _Broken:
    """Whatever is asked of it fails."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        raise self._failure

    def __iter__(self) -> Any:
        raise self._failure


@contextmanager
def broken(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, *things: object, names: Sequence[str] = ()
) -> Iterator[None]:
    """While it lasts, library objects below these things fail, and so does a new connection.

    `names`: the full names of library objects that modules hold.
    """

    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    found = list(_library_objects(things))
    assert found
    with monkeypatch.context() as patched:
        patched.setattr(socket, "create_connection", fail)
        patched.setattr(socket.socket, "connect", fail)
        patched.setattr(requests.adapters.HTTPAdapter, "send", fail)
        for name in names:
            patched.setattr(name, _Broken(failure))
        for replace, _ in found:
            replace(_Broken(failure))
        try:
            yield
        finally:
            for replace, before in found:
                replace(before)


def _library_objects(things: Any) -> Iterator[tuple[Callable[[object], None], object]]:
    """How to replace each library object that objects of this project hold, and the object."""
    waiting, seen = list(things), set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        for replace, value in _held(thing):
            module = type(value).__module__
            if module.split(".")[0] in LIBRARIES and not isinstance(value, type):
                yield replace, value
            elif module.startswith("backlog_clearer") or isinstance(
                value, list | dict | set | collections.deque
            ):
                waiting.append(value)


def _held(thing: Any) -> Iterator[tuple[Callable[[object], None], object]]:
    if isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield lambda new, key=key: thing.__setitem__(key, new), value  # type: ignore[misc]
    elif isinstance(thing, list):
        for at, value in enumerate(thing):
            yield lambda new, at=at: thing.__setitem__(at, new), value  # type: ignore[misc]
    else:
        names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]
        for name in names:
            if hasattr(thing, name):
                yield lambda new, name=name: object.__setattr__(thing, name, new), getattr(thing, name)  # type: ignore[misc]


def check_calls(
    bench: Bench, address: str, monkeypatch: pytest.MonkeyPatch, *, names: Sequence[str] = ()
) -> None:
    """Survey, read, settle and verification on a bench: each failure is ours, with the address."""
    for failure in FAILURES:
        inner = bench.source(RunOptions())
        with closing(guarded_source(inner, f"{bench.system} at {address}")) as source:
            claims = _claims(bench, source)
            targets = {claim.partition: claim.target for claim in claims}
            with broken(monkeypatch, failure, inner):
                _check(source.survey, address)
                _check(partial(_verify, source, targets), address)
            lane = source.open_lane(claims)
            with broken(monkeypatch, failure, lane, names=names):
                _check(partial(_read, lane), address)
            lane.close()
            with closing(source.open_lane(_claims(bench, source))) as lane:
                _read(lane)
                if bench.confirms:  # otherwise what was read was sent at once
                    with broken(monkeypatch, failure, lane, inner):
                        _check(lane.settle, address)


def _claims(bench: Bench, source: Source) -> list[Claim]:
    """A claim on new messages, which no lane before has leased."""
    bench.produce(0, 20)
    state = max(source.survey().partitions, key=lambda each: each.backlog or 0)
    return [Claim(state, None, state.end)]


def _verify(source: Source, targets: Mapping[Partition, Position | None]) -> None:
    """Ask what is left; raises what the answer for the partition has as its error."""
    (found,) = source.remaining(targets)
    if found.error is not None:
        assert found.left is None
        raise BrokerError(found.error)


def _read(lane: Lane) -> None:
    wait_until(lambda: bool(lane.read(0.2, None)), "messages")


def _check(call: Callable[[], Any], address: str) -> None:
    with pytest.raises(BrokerError) as raised:
        call()
    assert address in str(raised.value)
    assert "\n" not in str(raised.value)
