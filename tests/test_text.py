"""Counts and lists are spelled right."""

from __future__ import annotations

import pytest

from backlog_clearer.text import counted, listed


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 partitions"), (1, "1 partition"), (1200, "1,200 partitions")]
)
def test_a_noun_follows_its_count(count: int, expected: str) -> None:
    """Only 1 takes the singular, and thousands are separated."""
    assert counted(count, "partition") == expected


def test_an_irregular_plural_is_given() -> None:
    """A noun whose plural is not made with s brings its plural."""
    assert counted(2, "entry", "entries") == "2 entries"


def test_a_long_list_is_cut_with_a_count() -> None:
    """What is left out is counted, and a list that fits is not cut."""
    assert listed("abcdefg", limit=5) == "a, b, c, d, e and 2 more"
    assert listed("abc", limit=5) == "a, b, c"
