"""Whatever a library raises in a source or a lane becomes an error of this project, for every system.

Adapters translate the errors that they expect. Damaged answers make libraries raise others, of any kind, and so
do faults of an adapter: users see one sentence with the address, and logs of the level debug the traceback.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.source import Lane, Source

_LOG = logging.getLogger("backlog_clearer")

_PASSING = (ArithmeticError, EOFError, LookupError, OSError, ValueError, struct.error)
"""What an answer that was damaged, or ended early, leads to: asking again may help."""

_SOURCE = {
    "survey": "the survey",
    "prepare_undo": "preparing the undo",
    "remaining": "the verification",
    "skip": "the skip",
    "restore": "the restore",
    "cut": "finding the targets",
    "oldest": "asking for ages",
    "partitions": "asking for partitions",
    "lost": "asking for frozen targets",
    "unreported": "counting acknowledgements",
    "returned": "counting acknowledgements",
    "kept_notes": "asking what is kept for undos",
    "discard": "deleting what is kept for undos",
}
_LANE = {"read": "reading", "settle": "acknowledging"}

_Thing = TypeVar("_Thing", Source, Lane)


def guarded_source(source: Source, place: str) -> Source:
    """The same source; its methods and its lanes' raise no errors but ours. `place`: "kafka at b:9092"."""
    opening: Callable[..., Lane] = guarded_call(source.open_lane, place, "opening a client")

    def open_lane(claims: Any) -> Lane:
        return _guarded(opening(claims), place, _LANE)

    found = _guarded(source, place, _SOURCE)
    _replace(found, "open_lane", open_lane)
    return found


def guarded_call(call: Callable[..., Any], place: str, doing: str) -> Callable[..., Any]:
    """A call that raises `TransientError` or `BrokerError` in place of errors that are not ours."""

    @wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ClearerError:
            raise
        except Exception as failure:  # noqa: BLE001 of any library
            _LOG.debug("%s failed at %s", place, doing, exc_info=True)
            kind = TransientError if isinstance(failure, _PASSING) else BrokerError
            text = " ".join(str(failure).split())[:300]
            what = f"{type(failure).__name__}: {text}" if text else type(failure).__name__
            raise kind(
                f"{place} failed at {doing}, with an error that was not expected ({what})."
            ) from None

    return guarded


def _guarded(thing: _Thing, place: str, methods: dict[str, str]) -> _Thing:
    for name, doing in methods.items():
        call = getattr(thing, name, None)
        if call is not None:
            _replace(thing, name, guarded_call(call, place, doing))
    _replace(thing, "close", _silent(thing.close, place))
    return thing


def _replace(thing: Source | Lane, name: str, call: Callable[..., Any]) -> None:
    """Give this object, not its class, another method; one with `__slots__` keeps its own."""
    with suppress(AttributeError):
        setattr(thing, name, call)


def _silent(close: Callable[[], None], place: str) -> Callable[[], None]:
    """A `close` that keeps its promise not to raise."""

    @wraps(close)
    def closed() -> None:
        try:
            close()
        except Exception:  # noqa: BLE001 whatever is left of a connection, the work is done
            _LOG.debug("%s failed at closing", place, exc_info=True)

    return closed
