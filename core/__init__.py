"""The engine of backlog-clearer and its types.

Arrows point one way: the command line and the function handlers call `core.run`,
which drives `core.engine`, which knows brokers only through the protocols in
`core.source`. Nothing in this package outside `core.brokers` imports a broker library.
"""

__version__ = "0.1.0"
