"""Clears the backlog of one subscription.

Imports point one way: entry points (`cli`, the functions) -> `fanout` -> `run` -> `engine` -> `source`
<- `brokers`. Only `brokers` imports broker libraries, and only `cli` imports click and rich.
"""

__version__ = "0.1.0"
