"""A group's state on the server: asked for, acknowledged, moved. redis-py's errors are let out."""

from __future__ import annotations

from typing import Any

import redis

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import suggestion
from tests.adapters.redis_streams.options import RedisOptions
from tests.adapters.redis_streams.positions import Id, Place, parse_id

PAGE = 1000  # pending entries in one request


def stream_end(client: redis.Redis, options: RedisOptions) -> Place:
    """The place after the last entry; raises `UsageError` for a stream that does not exist."""
    if not client.exists(options.stream):
        raise UsageError(
            f"There is no stream {options.stream!r} on {options.host}:{options.port}. Check --stream and --db."
        )
    found = client.xinfo_stream(options.stream)
    return Place(parse_id(found["last-generated-id"]), int(found["entries-added"]))


def group_info(client: redis.Redis, options: RedisOptions) -> dict[str, Any]:
    """What the server reports of the group; raises `UsageError` for one that does not exist."""
    groups: list[dict[str, Any]] = client.xinfo_groups(options.stream)
    for group in groups:
        if group["name"] == options.group:
            return group
    names = [str(group["name"]) for group in groups]
    raise UsageError(
        f"The stream {options.stream!r} has no group {options.group!r}.{suggestion(options.group, names)}"
    )


def group_place(client: redis.Redis, options: RedisOptions) -> Place:
    """Where the group is."""
    group = group_info(client, options)
    oldest = client.xpending(options.stream, options.group)["min"] if group["pending"] else None
    read = group["entries-read"]
    return Place(
        parse_id(group["last-delivered-id"]),
        None if read is None else int(read),
        None if oldest is None else parse_id(oldest),
    )


def pending_up_to(client: redis.Redis, options: RedisOptions, last: Id) -> list[str]:
    """The ids of pending entries up to an id: a request for each `PAGE` of them."""
    ids: list[str] = []
    start = "-"
    while True:
        page = client.xpending_range(options.stream, options.group, start, str(last), PAGE)
        ids += [str(item["message_id"]) for item in page]
        if len(page) < PAGE:
            return ids
        start = f"({ids[-1]}"


def acknowledge(client: redis.Redis, options: RedisOptions, ids: list[str]) -> int:
    """Acknowledge pending entries; how many the server confirms, which leaves out what others did."""
    return sum(
        int(client.xack(options.stream, options.group, *ids[first : first + PAGE]))
        for first in range(0, len(ids), PAGE)
    )


def advance(client: redis.Redis, options: RedisOptions, place: Place) -> Place:
    """Move the last delivered id forward, never back; returns where it was before."""
    stored = group_place(client, options)
    if place.id > stored.id:
        put(client, options, place)
    return stored


def put(client: redis.Redis, options: RedisOptions, place: Place) -> None:
    """Move the last delivered id to any place."""
    command: list[Any] = ["XGROUP", "SETID", options.stream, options.group, str(place.id)]
    if place.entries is not None:  # without it the server reports no lag
        command += ["ENTRIESREAD", place.entries]
    client.execute_command(*command)
