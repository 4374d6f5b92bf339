"""Two nodes of an Iggy cluster for the tests: one leads the metadata, the other one all partitions.

As the SDK's typed calls expect it (`poll_routing.rs` of the crate `iggy` 0.11.0): a write of an offset is
accepted by the partition's primary only, on a connection that presents the session of the main one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from backlog_clearer.testing.servers.iggy import IggyServer, WireError
from backlog_clearer.testing.servers.iggy_frames import ClientSession
from backlog_clearer.testing.servers.iggy_model import RequestReader

_ATTACH, _ROUTE, _STORE, _DELETE = 14, 123, 161, 162
_NOT_ACCEPTED = 58
_LEADS, _FOLLOWS = 0, 1


class ClusterNode(IggyServer):
    """One node; `primary` takes the offsets, on this node if it is None."""

    def __init__(self, primary: ClusterNode | None = None) -> None:
        super().__init__()
        self.primary = primary
        self._attached: dict[int, int] = {}  # by the client of this node, the main node's client

    def _handle(self, client: ClientSession, kind: int, fields: RequestReader) -> bytes:
        if kind == _ROUTE:
            return self._route(client)
        if kind == _ATTACH:
            self._attached[client.id] = fields.take("Q")
            return b""
        if kind in {_STORE, _DELETE}:
            if self.primary is not None or client.id not in self._attached:
                raise WireError(_NOT_ACCEPTED)
            client = ClientSession(self._attached[client.id])
        return super()._handle(client, kind, fields)

    def _route(self, client: ClientSession) -> bytes:
        def text(value: bytes) -> bytes:
            return struct.pack("<I", len(value)) + value

        port = (self.primary or self).port
        session = struct.pack("<QQQQ", client.id, 0, 7, 1)
        return (
            session + text(b"node") + text(b"127.0.0.1") + struct.pack("<HHHHBB", port, 0, 0, 0, 1, 0)
        )


@contextmanager
def running_cluster() -> Iterator[tuple[ClusterNode, ClusterNode]]:
    """The node that leads the metadata, and the one that leads the partitions; they share all else."""
    with ClusterNode() as primary, ClusterNode(primary) as leader:
        primary.streams = leader.streams
        leader.nodes = primary.nodes = [(primary.port, _FOLLOWS), (leader.port, _LEADS)]
        yield leader, primary
