"""redis-py's client, with bounded calls and without retries, and its errors in this project's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from backlog_clearer.errors import BrokerError, ClearerError, TransientError, UsageError
from tests.adapters.redis_streams.options import RedisOptions

TIMEOUT_S = 8.0  # of each answer; reads that block on the server wait for less than 1 s
CONNECT_S = 5.0


def open_client(options: RedisOptions) -> redis.Redis:
    """A client that connects at its first call; use it from one thread."""
    return redis.Redis(
        host=options.host,
        port=options.port,
        db=options.db,
        username=options.username,
        password=options.password.get_secret_value() if options.password else None,
        ssl=options.tls,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=CONNECT_S,
        retry=Retry(NoBackoff(), 0),  # by default it tries again, with pauses: the engine does that
        protocol=2,  # one shape of answers for all versions of the library and the server
        decode_responses=True,
        encoding_errors="replace",  # payloads may be any bytes; ids and names are text
        single_connection_client=False,  # connects lazily
    )


@contextmanager
def translated(options: RedisOptions, doing: str) -> Iterator[None]:
    """Turn redis-py's errors into this project's."""
    try:
        yield
    except exceptions.RedisError as error:
        raise to_clearer_error(error, options, doing) from None


def to_clearer_error(error: exceptions.RedisError, options: RedisOptions, doing: str) -> ClearerError:
    """An error of redis-py as one that states what was wrong, where, and what to do.

    The server's text is used only where it is known to hold no secret. An error of authentication is a
    `ConnectionError` to redis-py, and has to be recognized first.
    """
    place = f"{options.host}:{options.port}"
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return BrokerError(f"{place} refused the login. Check --username and --password.")
    if isinstance(error, exceptions.NoPermissionError):
        return BrokerError(f"{place} does not permit {doing}. Check the user's access control list.")
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
        return TransientError(
            f"{place} did not answer while {doing}. Check --host, --port, --tls and the network."
        )
    if isinstance(error, (exceptions.ReadOnlyError, exceptions.TryAgainError)):
        return TransientError(f"{place} is a replica, or fails over at the moment, while {doing}.")
    if text.startswith("WRONGTYPE"):
        return UsageError(f"The key {options.stream!r} on {place} is not a stream. Check --stream.")
    return BrokerError(f"{place} answered with an error while {doing}: {text[:200]}")
