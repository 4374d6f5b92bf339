"""HTTP answers that are bounded in time and size as a whole: `requests` limits the time between two bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import requests

from backlog_clearer.answers import kept_whole
from backlog_clearer.deadline import within
from backlog_clearer.text import json_values

MOST_VALUES = 500_000
"""More values than any answer has that is asked for here: each takes up to 200 bytes of memory."""


def whole_content(answer: requests.Response, **_: Any) -> requests.Response:
    """A response hook: see `answers.kept_whole`; raises `requests.RequestException`."""
    whole: requests.Response = kept_whole(answer, too_large=requests.exceptions.ContentDecodingError)
    return whole


def whole_answer(
    ask: Callable[..., requests.Response], *where: str, timeout_s: float, **asked: Any
) -> requests.Response:
    """The answer of `requests.get`, `session.request` and the like, with all of its content.

    `timeout_s`: seconds for all of it. Raises `requests.RequestException`, also for an answer that takes
    too long or is too large.
    """
    try:
        hooks = {"response": whole_content}
        return within(timeout_s, partial(ask, *where, timeout=timeout_s, hooks=hooks, **asked))
    except TimeoutError as error:
        raise requests.Timeout(str(error)) from None


def parsed(content: bytes) -> Any:
    """The JSON value of an answer; raises `ValueError`, also for one that is nested too deep, or too large."""
    if json_values(content) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
