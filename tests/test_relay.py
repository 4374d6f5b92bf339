"""The relay breaks, refuses, holds and drops exactly what it is asked to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from backlog_clearer.testing.damage import AnswerFault, DamagingRelay
from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.support import free_port, wait_until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with suppress(OSError), closing(client):
            while data := client.recv(1024):
                client.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def relay(echo: int) -> Iterator[Relay]:
    """A relay in front of the server."""
    with Relay("127.0.0.1", echo) as running:
        yield running


@pytest.fixture
def client(relay: Relay) -> Iterator[socket.socket]:
    """A connection through the relay, used once."""
    with socket.create_connection(("127.0.0.1", relay.port), 5) as found:
        assert reply(found, b"hello") == b"hello"
        yield found


def reply(client: socket.socket, data: bytes) -> bytes:
    """What comes back for some bytes; b"" at the connection's end."""
    client.sendall(data)
    return client.recv(1024)


def silent(client: socket.socket, data: bytes) -> bool:
    """Whether nothing comes back for some bytes, and the connection stays open."""
    client.settimeout(0.3)
    try:
        reply(client, data)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def broken(client: socket.socket) -> bool:
    """Whether a connection has ended."""
    try:
        return reply(client, b"x") == b""
    except OSError:
        return True


def fresh(relay: Relay) -> socket.socket:
    """Another connection through the relay."""
    return socket.create_connection(("127.0.0.1", relay.port), 5)


def test_bytes_and_connections_are_counted(relay: Relay, client: socket.socket) -> None:
    """Bytes of both directions are counted, and each connection once."""
    assert reply(client, b"again") == b"again"
    with fresh(relay):
        wait_until(lambda: relay.connections == 2, "the second connection")
    wait_until(lambda: (relay.sent, relay.received) == (10, 10), "ten bytes either way")


def test_cut_breaks_open_connections_only(relay: Relay, client: socket.socket) -> None:
    """After a cut the old connection has ended and a new one passes."""
    relay.cut()
    assert broken(client)
    with fresh(relay) as another:
        assert reply(another, b"more") == b"more"


def test_refuse_resets_and_counts_new_connections(relay: Relay, client: socket.socket) -> None:
    """While it refuses, old and new connections end at once, and the new ones are counted."""
    relay.refuse()
    assert broken(client)
    for _ in range(3):
        with suppress(OSError), fresh(relay) as another:
            assert broken(another)
    wait_until(lambda: relay.connections == 4, "three refused connections")
    relay.heal()
    with fresh(relay) as another:
        assert reply(another, b"more") == b"more"


def test_stall_keeps_connections_open_and_silent(relay: Relay, client: socket.socket) -> None:
    """While it stalls, nothing comes back on old and new connections; healing breaks them."""
    relay.stall()
    assert silent(client, b"x")
    with fresh(relay) as another:
        assert silent(another, b"x")
        relay.heal()
        assert broken(client)
        assert broken(another)
    assert relay.sent == len(b"hello")


def test_swallow_drops_only_what_clients_send(relay: Relay, client: socket.socket) -> None:
    """While it swallows, the server gets nothing, and no answer comes."""
    relay.swallow()
    assert silent(client, b"dropped")
    assert relay.sent == len(b"hello")
    relay.heal()
    assert broken(client)


def test_addresses_are_replaced_in_what_the_server_sends(echo: int) -> None:
    """Byte strings are replaced on the way to the client; pairs of different lengths are refused."""
    with (
        Relay("127.0.0.1", echo, replace=[(b"port 111", b"port 222")]) as relay,
        fresh(relay) as client,
    ):
        assert reply(client, b"at port 111") == b"at port 222"
    with pytest.raises(ValueError, match="same length"):
        Relay("127.0.0.1", echo, replace=[(b"a", b"bb")])


def test_a_broker_that_is_down_ends_the_connection() -> None:
    """Where nothing listens behind the relay, a client's connection ends."""
    with Relay("127.0.0.1", free_port()) as relay:
        try:
            client = fresh(relay)
        except ConnectionError:  # it ended even before connecting to the relay returned
            return
        with client:
            assert broken(client)


@pytest.mark.parametrize("fault", [AnswerFault.ZEROS, AnswerFault.ONES, AnswerFault.NOISE], ids=str)
def test_only_the_chosen_answer_is_garbled(echo: int, fault: AnswerFault) -> None:
    """The second answer arrives in its length and with other bytes; those before and after it are whole."""
    with DamagingRelay("127.0.0.1", echo, seed="7") as relay, fresh(relay) as client:
        relay.arm(1, fault)
        texts = [b"first one", b"second one", b"third one"]
        first, second, third = (reply(client, text) for text in texts)
        assert (first, third) == (texts[0], texts[2])
        assert (second != texts[1], len(second)) == (True, len(texts[1]))
        assert (relay.answers, relay.damaged) == (3, True)


def test_a_cut_answer_ends_its_connection(echo: int) -> None:
    """The connection whose answer is cut has ended, and another one passes."""
    with DamagingRelay("127.0.0.1", echo) as relay, fresh(relay) as client:
        relay.arm(0, AnswerFault.CUT)
        assert broken(client)
        with fresh(relay) as another:
            assert reply(another, b"more") == b"more"


def test_a_swallowed_answer_never_arrives_and_a_late_one_does(echo: int) -> None:
    """After a swallowed answer the connection is open and silent; one that is late is whole."""
    with DamagingRelay("127.0.0.1", echo) as relay, fresh(relay) as client:
        relay.arm(0, AnswerFault.SWALLOW)
        assert silent(client, b"x")
        relay.arm(0, AnswerFault.DELAY)
        assert reply(client, b"late") == b"late"
        assert relay.damaged
