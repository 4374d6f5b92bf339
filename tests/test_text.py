"""Counts and lists are spelled right."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backlog_clearer.text import amount, counted, listed, printable, ranged


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 partitions"), (1, "1 partition"), (1200, "1,200 partitions")]
)
def test_a_noun_follows_its_count(count: int, expected: str) -> None:
    """Only 1 takes the singular, and thousands are separated."""
    assert counted(count, "partition") == expected


def test_an_irregular_plural_is_given() -> None:
    """A noun whose plural is not made with s brings its plural."""
    assert counted(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1, "messages", "1 message"),
        (1, "entries", "1 entry"),
        (2000, "offsets", "2,000 offsets"),
        (0, "events", "0 events"),
        (None, "events", "unknown"),
    ],
)
def test_an_amount_takes_the_singular_of_its_unit(value: int | None, unit: str, expected: str) -> None:
    """A unit is given as a plural; one of it is spelled as one, and None is unknown, not 0."""
    assert amount(value, unit) == expected


def test_a_long_list_is_cut_with_a_count() -> None:
    """What is left out is counted, and a list that fits is not cut."""
    assert listed("abcdefg", limit=5) == "a, b, c, d, e and 2 more"
    assert listed("abc", limit=5) == "a, b, c"
    assert listed(range(2000), limit=1) == "0 and 1,999 more"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (range(30), "0-29"),
        ([3, 1, 2, 7], "1-3, 7"),
        ([5], "5"),
        ([], ""),
        (range(0, 2000, 2), "0, 2, 4, 6, 8 and 995 more"),
    ],
)
def test_numbers_that_follow_each_other_are_a_range(numbers: Iterable[int], text: str) -> None:
    """However many partitions there are, their ids fit into a line."""
    assert ranged(numbers) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe: 5 €\tja", "Größe: 5 €\tja"),
        ("\x1b[2Kgone", "\\x1b[2Kgone"),
        ("a\rb\x00\x9b", "a\\x0db\\x00\\x9b"),
        ("abc\u202egpj", "abc\\u202egpj"),
        ("\ud800", "\\ud800"),
        ("first\nUndo: rm", "first\n  Undo: rm"),
    ],
)
def test_no_text_steers_the_terminal(text: str, shown: str) -> None:
    """Control characters are spelled out, and only a text's first line is at the margin."""
    assert printable(text) == shown
