"""A relay that injects one fault into what a broker sends, at one frame of its protocol."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from backlog_clearer.model import StrEnum
from backlog_clearer.testing.relay import Relay

_CHUNK = 64 * 1024
_DRIP_S = 0.2  # between two bytes
_MOST_BYTES = 4 * 1024 * 1024  # of a frame that is held until all of it is there


class Fault(StrEnum):
    """What happens to a frame, and to those after it."""

    NONE = "none"
    CUT = "cut"  # the connection is reset in the middle of the frame
    STALL = "stall"  # from the middle of the frame on, nothing passes on this connection
    DRIP = "drip"  # from the middle of the frame on, a byte now and then
    FLIP = "flip"  # one bit is another
    WRONG_ID = "wrong-id"  # the answer's correlation id is another request's
    HUGE = "huge"  # the frame announces a length of 100 MB to 2 GB
    SWALLOW = "swallow"  # the frame does not arrive, and those after it do


class Framing(NamedTuple):
    """How a protocol's frames are separated."""

    head: int  # bytes that are needed to know a frame's size; 0: whatever arrives at once is a frame
    size: Callable[[bytes], int] = len
    announce: Callable[[bytearray, int], None] | None = None  # write another size into a frame
    identifier: int | None = None  # where four bytes with the request's number are

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that this protocol allows."""
        impossible = {
            Fault.NONE,
            *([] if self.announce else [Fault.HUGE]),
            *([] if self.identifier is not None else [Fault.WRONG_ID]),
        }
        return tuple(fault for fault in Fault if fault not in impossible)


def _announce(format_: str, at: int, most: int) -> Callable[[bytearray, int], None]:
    def write(frame: bytearray, size: int) -> None:
        struct.pack_into(format_, frame, at, min(size, most))

    return write


def _amqp_size(head: bytes) -> int:
    return 8 if head[:4] == b"AMQP" else int.from_bytes(head[:4], "big")


def _announce_http2(frame: bytearray, size: int) -> None:
    frame[:3] = min(size, (1 << 24) - 1).to_bytes(3, "big")


KAFKA = Framing(
    4, lambda head: 4 + int.from_bytes(head, "big"), _announce(">I", 0, (1 << 31) - 1), identifier=4
)
PULSAR = Framing(4, KAFKA.size, _announce(">I", 0, (1 << 31) - 1))
IGGY = Framing(
    52, lambda head: int.from_bytes(head[48:52], "little"), _announce("<I", 48, (1 << 32) - 1)
)
AMQP = Framing(8, _amqp_size, _announce(">I", 0, (1 << 32) - 1))
HTTP2 = Framing(9, lambda head: 9 + int.from_bytes(head[:3], "big"), _announce_http2)
BYTES = Framing(0)


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault, at one frame."""

    fault: Fault
    frame: int  # counted over all connections, from 1
    where: float  # 0 to 1: how far in the frame
    size: int  # what `HUGE` announces


def injection(
    framing: Framing, frames: int, chance: random.Random, allowed: Collection[Fault]
) -> Injection:
    """A fault at one of the frames that a run without faults has, both by chance."""
    fault = chance.choice([fault for fault in framing.faults if fault in allowed])
    frame = 1 + int(chance.random() * frames)
    return Injection(fault, frame, chance.random(), chance.randint(100 << 20, 2 << 30))


class _CutError(OSError):
    """The connection is to be reset."""


class FaultRelay(Relay):
    """A relay for a `with` block that counts the broker's frames and does one injection to them."""

    def __init__(
        self,
        host: str,
        port: int,
        framing: Framing,
        injected: Injection | None = None,
        rate: float | None = None,
        *,
        listen: int = 0,
    ) -> None:
        """`rate`: bytes a second that the broker may send on each connection."""
        super().__init__(host, port, listen=listen)
        self.broker = (host, port)
        self.framing = framing
        self.injected = injected
        self.rate = rate
        self.frames = 0
        self.done = False  # the injection took place
        self._counted = threading.Lock()

    def _pump(self, source: socket.socket, target: socket.socket, upward: bool) -> None:
        if upward:
            super()._pump(source, target, upward)
            return
        try:
            self._answers(source, target)
        except _CutError:
            self._reset_both(source, target)
        except OSError:
            pass
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    @staticmethod
    def _reset_both(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)

    def _answers(self, source: socket.socket, target: socket.socket) -> None:
        """Pass frames on; the one that was chosen, and what follows, as the fault has it."""
        held = bytearray()  # of a frame whose size is not known yet, or that is chosen
        left = 0  # bytes to come of the frame that passes now
        while data := source.recv(_CHUNK):
            for old, new in self.replace:
                data = data.replace(old, new)
            self._slow(len(data))
            at = 0
            while at < len(data):
                if left:
                    piece = data[at : at + left]
                    target.sendall(piece)
                    at += len(piece)
                    left -= len(piece)
                    continue
                held += data[at:]
                at = len(data)
                head = self.framing.head
                if len(held) < head:
                    break
                size = max(head, self.framing.size(bytes(held[:head] if head else held)))
                chosen = self._is_chosen(held, size)
                if chosen is None:
                    break  # it is, and all of it has to be there
                frame, rest = held[:size], bytes(held[size:])
                held = bytearray()
                if chosen:
                    self._inject(frame, rest, source, target)
                else:
                    target.sendall(frame)
                left = size - len(frame)
                data, at = rest, 0

    def _is_chosen(self, held: bytearray, size: int) -> bool | None:
        """Count a frame; None: it is the chosen one, and is not complete."""
        with self._counted:
            injected = self.injected
            mine = injected is not None and not self.done and self.frames + 1 == injected.frame
            if mine and len(held) < min(size, _MOST_BYTES):
                return None
            self.frames += 1
            self.done = self.done or mine
            return mine

    def _inject(
        self, frame: bytearray, rest: bytes, source: socket.socket, target: socket.socket
    ) -> None:
        injected = self.injected
        assert injected is not None  # noqa: S101 narrows the type
        middle = int(injected.where * len(frame))
        fault = injected.fault
        if fault is Fault.CUT:
            target.sendall(frame[:middle])
            raise _CutError
        if fault is Fault.STALL:
            target.sendall(frame[:middle])
            while source.recv(_CHUNK):
                pass
            raise _CutError
        if fault is Fault.DRIP:
            target.sendall(frame[:middle])
            self._drip(bytes(frame[middle:]) + rest, source, target)
        if fault is Fault.SWALLOW:
            return
        if fault is Fault.FLIP:
            bit = int(injected.where * len(frame) * 8)
            frame[bit // 8] ^= 1 << bit % 8
        elif fault is Fault.HUGE and self.framing.announce is not None:
            self.framing.announce(frame, injected.size)
        elif fault is Fault.WRONG_ID and self.framing.identifier is not None:
            frame[self.framing.identifier + 3] ^= 0x55
        target.sendall(frame)

    @staticmethod
    def _drip(data: bytes, source: socket.socket, target: socket.socket) -> None:
        """Pass a byte now and then until either side closes."""
        while True:
            for number in range(len(data)):
                target.sendall(data[number : number + 1])
                time.sleep(_DRIP_S)
            data = source.recv(_CHUNK)
            if not data:
                raise _CutError

    def _slow(self, size: int) -> None:
        if self.rate:
            time.sleep(size / self.rate)
