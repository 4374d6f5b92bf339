r"""Which subscriptions a call names: one, several separated by commas, or those that the system lists.

    --group-id a,b                          two groups; "\," is a comma in a name
    --topic t --all-groups --matching 'x-*' groups that the system lists
    --group-id a --all-topics               one group on every topic where it has something stored

A name that holds commas and exists as a whole is that one. Names that a broker reported are taken as they
are: nothing in them is a reference to a secret.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, get_origin

from pydantic import Field

from backlog_clearer.errors import ClearerError, UsageError
from backlog_clearer.model import Found
from backlog_clearer.options.base import Options, SystemOptions, build, flag
from backlog_clearer.options.layers import build_options
from backlog_clearer.options.references import resolve_references
from backlog_clearer.registry import list_only, list_options, list_subscriptions, options_model, system
from backlog_clearer.run.job import Job, now, reading_nothing
from backlog_clearer.run.receipt import check_run_id, new_run_id
from backlog_clearer.run.retry import repeated
from backlog_clearer.run.survey import look
from backlog_clearer.text import counted

MOST = 100
"""Subscriptions of one call: each keeps its connection from the survey to its result."""

_SEPARATOR = re.compile(r"(?<!\\),")
_PLACEHOLDER = "any"  # for a name or a topic that is found out later


class Selecting(Options):
    """The options that select subscriptions from what a system lists."""

    all_groups: bool = Field(
        False, description="all that the system lists there, instead of a name; see --matching"
    )
    all_topics: bool = Field(
        False, description="every topic where the name has a position, instead of --topic"
    )
    matching: str | None = Field(
        None,
        min_length=1,
        description="with --all-groups: only such names; * and ? match any characters",
    )


class Member(NamedTuple):
    """One of several subscriptions; `job` is None where `error` states why it cannot be cleared."""

    name: str
    topics: tuple[str, ...]  # () where they are not a part of the options
    job: Job | None
    error: ClearerError | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """The subscriptions of one call, in the order of their results."""

    system: str
    run_id: str  # each member's begins with it
    members: tuple[Member, ...]
    single: bool  # one subscription, as if only it had been named
    matching: str | None = None  # the pattern of names; None: all were named
    notes: tuple[str, ...] = ()
    complete: bool = True  # False: the system could not list all; a note states what is missing


@dataclass(frozen=True, slots=True)
class Naming:
    """A call that names its subscriptions otherwise than by one name and one topic."""

    system: str
    layers: tuple[Mapping[str, Any], ...]  # the other options
    key: str  # the option that takes a name
    names: tuple[str, ...]  # () where all that are listed are meant
    whole: str | None  # a text with commas that may be one name, too
    selecting: Selecting
    place: Mapping[str, Any]  # options that only the list has
    environ: Mapping[str, str] = field(repr=False)

    @property
    def lists(self) -> bool:
        """Whether the system has to list its subscriptions first."""
        return self.selecting.all_groups or self.selecting.all_topics

    @property
    def single(self) -> bool:
        """Whether only one subscription can be meant."""
        several_topics = self.selecting.all_topics and not _takes_topics(options_model(self.system))
        return len(self.names) == 1 and not several_topics

    @property
    def settled(self) -> bool:
        """Whether the one subscription is known without asking the system."""
        return self.single and not self.lists

    def job(self, name: str | None = None, topics: Sequence[str] = ()) -> Job:
        """The job of one subscription; without a name, one that shows whether the options are valid.

        Raises `UsageError`.
        """
        model = options_model(self.system)
        exact = {self.key: name or next(iter(self.names), _PLACEHOLDER)}
        if "topic" in model.model_fields and (topics or self.selecting.all_topics):
            exact["topic"] = ",".join(topics) or _PLACEHOLDER
        options, run = build_options(model, *self.layers, environ=self.environ, exact=exact)
        return Job(self.system, options, run)


def naming_of(
    name: str, *layers: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Naming | None:
    """How layers of options name subscriptions of a system; None: as usual, by one name.

    Raises `UsageError` for a combination that has no meaning, or that the system cannot serve.
    """
    model = options_model(name)
    if not model.NAMES:
        return None
    only = list_only(name) if system(name).list_options else ()
    chosen, others = _separated(layers, {*Selecting.model_fields, *only})
    values = {
        key: resolve_references(value, environ, flag(key))
        for layer in others
        for key, value in _spelled(layer).items()
        if key in model.NAMES and value is not None
    }
    picked = {key: resolve_references(value, environ, flag(key)) for key, value in chosen.items()}
    selecting = build(Selecting, {k: v for k, v in picked.items() if k in Selecting.model_fields})
    place = {key: value for key, value in picked.items() if key in only}
    key = next((key for key, value in values.items() if _is_several(value)), next(iter(values), None))
    _check(name, selecting, place, key)
    _check_topics(name, selecting, _spelled_all(others))
    several = key is not None and _is_several(values[key])
    if not (several or selecting.all_groups or selecting.all_topics):
        return None
    # Groups come last: they are what systems list.
    key = key or model.NAMES[-1 if selecting.all_groups else 0]
    value = values.get(key)
    if value is None and not selecting.all_groups:
        value = _default(model, key)
    names, whole = _names(value, key)
    return Naming(
        system=name,
        layers=tuple(
            {k: v for k, v in layer.items() if k.replace("-", "_") != key} for layer in others
        ),
        key=key,
        names=names,
        whole=whole if model.COMMAS and len(names) > 1 else None,
        selecting=selecting,
        place=place,
        environ=environ,
    )


def _spelled(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in layer.items()}


def _spelled_all(layers: Sequence[Mapping[str, Any]]) -> set[str]:
    """The options that are given in any layer."""
    return {
        key for layer in layers for key, value in _spelled(layer).items() if value not in (None, ())
    }


def _separated(
    layers: Sequence[Mapping[str, Any]], keys: set[str]
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The values of some keys, the last layer's of each, and the layers without them."""
    chosen: dict[str, Any] = {}
    others: list[Mapping[str, Any]] = []
    for layer in layers:
        kept = {key: value for key, value in layer.items() if key.replace("-", "_") not in keys}
        chosen.update({k: v for k, v in _spelled(layer).items() if k in keys and v is not None})
        others.append(kept)
    return chosen, others


def _is_several(value: object) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, str) and "," in value)


def _default(model: type[SystemOptions], key: str) -> object:
    default = model.model_fields[key].default
    if not isinstance(default, str):
        raise UsageError(f"{flag(key)} is required.")
    return default


def _names(value: object, key: str) -> tuple[tuple[str, ...], str | None]:
    """The names that a value holds, each once, and the text itself where it may be one name."""
    if value is None:
        return (), None
    if isinstance(value, str):
        parts = [part.strip().replace("\\,", ",") for part in _SEPARATOR.split(value)]
        names = tuple(dict.fromkeys(part for part in parts if part))
        return (names, value) if names else ((value,), None)
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, str) and n for n in value):
        raise UsageError(f"{flag(key)} takes a name, or a list of names.")
    if not value:
        raise UsageError(f"{flag(key)} is an empty list: give at least one name.")
    return tuple(dict.fromkeys(value)), None


def _takes_topics(model: type[SystemOptions]) -> bool:
    """Whether one subscription may have several topics."""
    found = model.model_fields.get("topic")
    return found is not None and get_origin(found.annotation) is tuple


def noun(name: str) -> str:
    """What a system calls what is cleared: "consumer group"; "subscription" where it has several words."""
    found = system(name).clears.partition(" ")[2]
    return found if found and " or " not in found else "subscription"


def _check(name: str, selecting: Selecting, place: Mapping[str, Any], named: str | None) -> None:
    """Raise `UsageError` for a combination of options that has no meaning."""
    everything, topics = selecting.all_groups, selecting.all_topics
    if (everything or topics) and system(name).list_options is None:
        raise UsageError(cannot_list(name, "--all-groups" if everything else "--all-topics"))
    if everything and named is not None:
        raise UsageError(f"Give {flag(named)} or --all-groups, not both.")
    if selecting.matching is not None and not everything:
        raise UsageError("--matching is for --all-groups.")
    if place and not topics:
        raise UsageError(f"{flag(next(iter(place)))} is for --all-topics.")


def _check_topics(name: str, selecting: Selecting, given: set[str]) -> None:
    """Raise `UsageError` where it is not clear which topics are meant."""
    everything, topics = selecting.all_groups, selecting.all_topics
    if "topic" not in options_model(name).model_fields:
        if topics:
            raise UsageError(
                f"--all-topics has no meaning for {name}: a {noun(name)} belongs to one topic already."
            )
    elif topics and "topic" in given:
        raise UsageError("Give --topic or --all-topics, not both.")
    elif everything and not topics and "topic" not in given:
        raise UsageError("--all-groups needs --topic, or --all-topics.")
    if everything and "topic" not in given and selecting.matching is None:
        raise UsageError(
            f"--all-groups without --topic needs --matching PATTERN; '*' means every {noun(name)}."
        )


def cannot_list(name: str, which: str) -> str:
    """The sentence that refuses an option on a system whose subscriptions cannot be listed."""
    named = " or ".join(flag(key) for key in options_model(name).NAMES)
    return (
        f"{which} is not possible on {name}, whose subscriptions cannot be listed: name them by {named},"
        " separated by commas."
    )


def select(naming: Naming, run_id: str | None = None) -> Selected:
    """The subscriptions that a call names; asks the system where that depends on it, and changes nothing.

    Raises `UsageError` where none is found, or too many, and whatever the list raises.
    """
    found = _listed(naming) if naming.lists else _given(naming)
    if len(found.members) > MOST:
        raise UsageError(
            f"{counted(len(found.members), noun(naming.system))} at once are too many; at most {MOST} are"
            " possible. Narrow --matching, or name fewer."
        )
    group = check_run_id(run_id or new_run_id(now()))
    members = tuple(
        item._replace(job=replace(item.job, run_id=check_run_id(f"{group}.{_mark(item)}")))
        if item.job is not None and not found.single
        else item
        for item in found.members
    )
    return replace(found, run_id=group, members=members)


def reading_all_nothing(selected: Selected) -> Selected:
    """The same for surveys only; see `run.job.reading_nothing`."""
    members = (
        item._replace(job=reading_nothing(item.job)) if item.job is not None else item
        for item in selected.members
    )
    return replace(selected, members=tuple(members))


def _mark(member: Member) -> str:
    """Distinguishes a member's run id from the others', and is the same in each attempt of a run."""
    assert member.job is not None  # noqa: S101 the caller has checked
    topic = getattr(member.job.options, "topic", None)
    text = f"{member.name}\0{topic if isinstance(topic, str) else ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _given(naming: Naming) -> Selected:
    """Those that are named; a text with commas is one name if that exists."""
    single = naming.single
    names = naming.names
    if naming.whole is not None and _exists(naming.job(naming.whole)):
        names, single = (naming.whole,), True
    members = tuple(Member(name, (), naming.job(name)) for name in names)
    return Selected(naming.system, "", members, single)


def _exists(job: Job) -> bool:
    """Whether something is stored under a name."""
    asked = replace(job, run=job.run.model_copy(update={"new": False}))  # it may be new, but not meant
    try:
        return any(state.position is not None for state in look(asked).survey.partitions)
    except UsageError:  # there is no such subscription
        return False


def _listed(naming: Naming) -> Selected:
    """Those that the system lists."""
    model = list_options(naming.system)
    patterns = (
        [naming.selecting.matching or "*"]
        if naming.selecting.all_groups
        else [glob.escape(name) for name in naming.names]
    )
    known = set(model.model_fields) - set(options_model(naming.system).NAMES)
    layers = [
        {k: v for k, v in layer.items() if k.replace("-", "_") in known or "." in k}
        for layer in naming.layers
    ]
    has_ages = "ages" in model.model_fields
    members: list[Member] = []
    notes: dict[str, None] = {}
    complete = True
    for index, pattern in enumerate(patterns):
        exact = {"matching": pattern, **({"ages": False} if has_ages else {}), **naming.place}
        options, _ = build_options(model, *layers, environ=naming.environ, exact=exact)
        listing = repeated("list", partial(list_subscriptions, naming.system, options))
        notes.update(dict.fromkeys(listing.notes))
        complete = complete and listing.complete
        here = [_member(naming, item) for item in listing.found if item.topics or item.error]
        if not here and not naming.selecting.all_groups:
            name = naming.names[index]
            error = UsageError(f"There is no {noun(naming.system)} {name!r} with a position there.")
            here = [Member(name, (), None, error)]
        members += here
    if not members:
        what = f" that matches {naming.selecting.matching!r}" if naming.selecting.matching else ""
        raise UsageError(
            f"There is no {noun(naming.system)}{what} with a position there.{_sentences(notes)}"
        )
    matching = patterns[0] if naming.selecting.all_groups else None
    return Selected(
        naming.system, "", tuple(members), naming.single, matching, tuple(notes), complete=complete
    )


def _sentences(notes: Mapping[str, None]) -> str:
    return f" {' '.join(notes)}" if notes else ""


def _member(naming: Naming, found: Found) -> Member:
    has_topic = "topic" in options_model(naming.system).model_fields
    topics = found.topics if has_topic else ()
    if found.error:
        return Member(found.name, topics, None, ClearerError(found.error))
    try:
        return Member(found.name, topics, naming.job(found.name, topics))
    except UsageError as error:
        return Member(found.name, topics, None, error)
