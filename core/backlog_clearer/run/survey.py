"""The first question of every run, asked again where what was wrong may pass in a moment."""

from __future__ import annotations

import logging

import tenacity

from backlog_clearer.errors import TransientError
from backlog_clearer.model import Survey
from backlog_clearer.source import Source

_LOG = logging.getLogger("backlog_clearer")

ATTEMPTS = 4
PATIENCE_S = 5.0  # a broker that took as long to fail is not asked again
_WAIT_S = 0.3  # at least, between two attempts
_SHOWN = 3  # partitions in a line of the log


def survey(source: Source) -> Survey:
    """`source.survey()`, a few times if a coordinator moves or a partition has no leader yet.

    Raises like it, in a few seconds more; a partition that goes on failing keeps its error.
    """

    def report(state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        failed = outcome.exception() if outcome else None
        passing = _passing(outcome.result()) if outcome and not failed else []
        _LOG.warning("Asking again: %s", failed or "; ".join(passing[:_SHOWN]))

    asked: Survey = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError)
        | tenacity.retry_if_result(lambda found: bool(_passing(found))),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE_S),
        wait=tenacity.wait_random_exponential(multiplier=_WAIT_S, min=_WAIT_S, max=2.0),
        before_sleep=report,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )(source.survey)
    return asked


def _passing(found: Survey) -> list[str]:
    """What is wrong with partitions, and may be over in a moment."""
    return [f"{state.partition}: {state.error}" for state in found.partitions if state.passing]
