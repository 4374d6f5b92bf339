"""How old a backlog is: the times of its oldest messages, where the broker reports them."""

from __future__ import annotations

import logging
from dataclasses import replace

from backlog_clearer.errors import ClearerError
from backlog_clearer.model import PartitionState
from backlog_clearer.options.run import RunOptions
from backlog_clearer.source import Dated, Source

_LOG = logging.getLogger("backlog_clearer")


def aged(
    source: Source, run: RunOptions, states: tuple[PartitionState, ...]
) -> tuple[PartitionState, ...]:
    """The states with the times of their oldest messages; asked once, since no run depends on them."""
    asked = [state for state in states if state.error is None and state.backlog != 0]
    if not run.ages or not asked or not isinstance(source, Dated):
        return states
    try:
        found = source.oldest(asked)
    except ClearerError as error:
        _LOG.debug("The age of the backlog is not known: %s", error)
        return states
    return tuple(replace(state, oldest=found.get(state.partition)) for state in states)
