"""Listings in pages, bounded as a whole: a service could name a next page for ever."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from backlog_clearer.errors import TransientError

MOST_PAGES = 100
"""More than any listing has that is asked for here: a page has a thousand items or more."""

WHOLE_S = 60.0
"""How long all pages may take."""

_Page = TypeVar("_Page")


def bounded_pages(pages: Iterable[_Page], what: str) -> Iterator[_Page]:
    """The pages of a listing; raises `TransientError` if there are too many, or they take too long."""
    until = time.monotonic() + WHOLE_S
    for number, page in enumerate(pages):
        if number >= MOST_PAGES or time.monotonic() >= until:
            raise TransientError(f"{what} did not end after {number} pages.")
        yield page
