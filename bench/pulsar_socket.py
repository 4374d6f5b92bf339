"""How fast a broker sends: a bare socket that asks for everything and throws the bytes away.

No reader of one connection can be faster. Prints the seconds from the first permits to the last entry.

    python -m bench.pulsar_socket HOST PORT SUBSCRIPTION PERMITS ENTRIES PARTITION_TOPIC…

The frames are those of Pulsar's binary protocol (PulsarApi.proto): CONNECT, LOOKUP, SUBSCRIBE, FLOW.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

from backlog_clearer.testing.servers.pulsar_frames import (
    CONNECT,
    FLOW,
    LOOKUP,
    MESSAGE,
    SUBSCRIBE,
    frame,
)

_PROTOCOL = 19
_EXCLUSIVE, _EARLIEST = 0, 1


class Connection:
    """One connection; a frame is read into the same buffer as the one before."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._buffer = memoryview(bytearray(8 << 20))
        self.send(frame(CONNECT, f1="bench", f4=_PROTOCOL))
        self.kind()

    def send(self, data: bytes) -> None:
        """Send frames."""
        self._socket.sendall(data)

    def _fill(self, size: int) -> None:
        done = 0
        while done < size:
            count = self._socket.recv_into(self._buffer[done:size])
            if not count:
                raise ConnectionError("the broker closed the connection")
            done += count

    def kind(self) -> int:
        """Read one frame to its end; the type of its command."""
        self._fill(4)
        self._fill(struct.unpack_from(">I", self._buffer)[0])
        return self._buffer[5]  # behind the command's own size and the tag of its first field


def main(host: str, port: str, subscription: str, permits: str, entries: str, *topics: str) -> None:
    """Read so many entries of these topics."""
    connection = Connection(host, int(port))
    for number, topic in enumerate(topics):
        connection.send(frame(LOOKUP, f1=topic, f2=number))  # loads the topic
        connection.kind()
        connection.send(
            frame(
                SUBSCRIBE,
                f1=topic,
                f2=subscription,
                f3=_EXCLUSIVE,
                f4=number,
                f5=number,
                f13=_EARLIEST,
            )
        )
        connection.kind()
    begun = time.perf_counter()
    connection.send(b"".join(frame(FLOW, f1=n, f2=int(permits)) for n in range(len(topics))))
    left = int(entries)
    while left:
        left -= connection.kind() == MESSAGE
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
