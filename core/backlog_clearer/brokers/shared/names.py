"""A subscription of which nothing was ever stored: a new name, or a mistyped one? Pure.

An adapter asks its broker for the other names that have a position in the same place (and only those), and
puts the texts made here into `Survey.doubt` and `Survey.notes`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from backlog_clearer.text import amount, listed

_ALIKE = 0.8  # of `difflib.SequenceMatcher.ratio`: two letters of ten may differ


def similar(name: str, names: Iterable[str], *, limit: int = 3) -> tuple[str, ...]:
    """The names that `name` may be a mistyped form of, the nearest first; never `name` itself.

    Names that differ only in case, blanks or punctuation are the nearest.
    """
    wanted = _letters(name)
    scored = [(_likeness(wanted, _letters(other)), other) for other in set(names) - {name}]
    near = sorted((-score, other) for score, other in scored if score >= _ALIKE)
    return tuple(other for _, other in near[:limit])


def _letters(name: str) -> str:
    """The letters and digits of a name, in one spelling of their case."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(filter(str.isalnum, folded)) or folded


def _likeness(one: str, other: str) -> float:
    from difflib import SequenceMatcher  # noqa: PLC0415 only a name under which nothing is stored needs it

    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if matcher.real_quick_ratio() < _ALIKE or matcher.quick_ratio() < _ALIKE:
        return 0.0
    return matcher.ratio()


def doubt(what: str, near: Iterable[str]) -> str | None:
    """Why a clear is refused; None where no name is similar.

    `what` names the subscription: "group billng on topic orders". `near` comes from `similar`.
    """
    found = tuple(near)
    if not found:
        return None
    verb = "has" if len(found) == 1 else "have"
    return (
        f"Nothing was ever stored under the name of {what}, but {listed(map(repr, found))} {verb} a"
        " position there: the name may be mistyped. If it is meant to be new, use --new."
    )


def never_stored(
    what: str, backlogs: Mapping[str, int | None] | None, unit: str, *, asked: str = "other name"
) -> str:
    """The note that nothing was ever stored under this name, with the names that have a backlog.

    `backlogs` has, by name, the backlog of each other name that has a position there, in `unit`, or None
    where it is not known; as a whole None where the broker did not list the names. `asked`: of which
    names that is known, where it is not of all.
    """
    first = f"Nothing was ever stored under the name of {what}"
    if backlogs is None:
        return f"{first}; which other names have a position there is not known."
    behind = sorted(
        ((name, left) for name, left in backlogs.items() if left != 0),
        key=lambda item: (item[1] is None, -(item[1] or 0), item[0]),
    )
    if not behind:
        return f"{first}; no {asked} has a backlog there."
    texts = (f"{name!r} ({amount(left, unit)})" for name, left in behind)
    return f"{first}; names with a backlog there: {listed(texts)}."
