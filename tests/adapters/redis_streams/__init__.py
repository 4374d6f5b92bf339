"""Redis Streams for backlog-clearer: the worked example of docs/adapters.md.

As a distribution, its entry point in the group `backlog_clearer.systems` names `SYSTEM` below.
"""

from backlog_clearer.registry import System

SYSTEM = System(
    summary="a consumer group on a Redis stream",
    options="tests.adapters.redis_streams.options:RedisOptions",
    opener="tests.adapters.redis_streams.source:open_source",
    extra="redis",
    libraries=("redis",),
    clears="a consumer group",
    position="last delivered id and pending entries",
    unit="messages",
)
