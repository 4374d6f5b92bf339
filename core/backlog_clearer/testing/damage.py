"""A relay that damages one answer of a broker, whatever the protocol is."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Sequence

from backlog_clearer.model import StrEnum
from backlog_clearer.testing.relay import Relay, reset

_LATE_S = 0.2


class AnswerFault(StrEnum):
    """What becomes of the first bytes that a broker sends after a request; it has done what was asked."""

    CUT = "cut"  # the connection is reset
    DELAY = "delay"  # they are late
    SWALLOW = "swallow"  # they never arrive
    ZEROS = "zeros"  # from some place on, all are 0
    ONES = "ones"  # from some place on, all bits are set
    NOISE = "noise"  # from some place on, they are others

    @property
    def garbles(self) -> bool:
        """Whether bytes arrive that the broker has not sent."""
        return self in {AnswerFault.ZEROS, AnswerFault.ONES, AnswerFault.NOISE}


class DamagingRelay(Relay):
    """A relay for a `with` block that counts a broker's answers, and damages one of them.

    An answer is what arrives at once after a client has sent something on its connection. `seed` decides
    where in an answer its garbled bytes begin, and what they are.
    """

    def __init__(
        self, host: str, port: int, *, replace: Sequence[tuple[bytes, bytes]] = (), seed: str = ""
    ) -> None:
        super().__init__(host, port, replace=replace)
        self.answers = 0  # since `arm`
        self.damaged = False
        self._seed = seed
        self._chosen: tuple[int, AnswerFault] | None = None
        self._asked: set[socket.socket] = set()
        """Clients that have sent something since the last answer."""
        self._counting = threading.Lock()

    def arm(self, number: int | None = None, fault: AnswerFault = AnswerFault.CUT) -> None:
        """Count from 0, and damage the answer with this number; None: none."""
        with self._counting:
            self.answers, self.damaged = 0, False
            self._chosen = None if number is None else (number, fault)

    def _passed(
        self, data: bytes, source: socket.socket, target: socket.socket, *, upward: bool
    ) -> bytes:
        data = super()._passed(data, source, target, upward=upward)
        fault = None
        with self._counting:
            if upward:
                self._asked.add(source)
                return data
            if target in self._asked:
                self._asked.discard(target)
                if self._chosen is not None and self._chosen[0] == self.answers:
                    fault, self.damaged = self._chosen[1], True
                self.answers += 1
        return data if fault is None else self._damaged(data, fault, source, target)

    def _damaged(
        self, data: bytes, fault: AnswerFault, source: socket.socket, target: socket.socket
    ) -> bytes:
        chance = random.Random(f"{self._seed}/{len(data)}")  # noqa: S311 it must be the same again
        at = chance.choice((0, int(len(data) * chance.random())))
        rest = len(data) - at
        match fault:
            case AnswerFault.CUT:
                reset(source)
                reset(target)
                raise ConnectionResetError
            case AnswerFault.DELAY:
                time.sleep(_LATE_S)
                return data
            case AnswerFault.SWALLOW:
                return b""
            case AnswerFault.ZEROS:
                return data[:at] + bytes(rest)
            case AnswerFault.ONES:
                return data[:at] + b"\xff" * rest
        return data[:at] + chance.randbytes(rest)
