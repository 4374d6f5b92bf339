"""The flags that select several subscriptions of one system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from backlog_clearer.cli import flags
from backlog_clearer.options.base import flag
from backlog_clearer.registry import list_only, list_options, options_model, system
from backlog_clearer.run.selection import Selecting, cannot_list

_SEVERAL = "; several, comma-separated"


def system_options(name: str) -> list[click.Option]:
    """A system's own flags, and those that select several of its subscriptions."""
    model = options_model(name)
    made = flags.options_of(model)
    for option in made:
        if option.name in model.NAMES:
            text, bracket, default = (option.help or "").partition(" [")
            option.help = f"{text}{_SEVERAL}{bracket}{default}"
    return [*made, *_selecting(name)] if model.NAMES else made


def _selecting(name: str) -> list[click.Option]:
    model = options_model(name)
    if system(name).list_options is None:
        return [_refused(name, field) for field in Selecting.model_fields]
    has_topic = "topic" in model.model_fields
    found = flags.options_of(Selecting)
    for option in found:
        option.hidden = option.name == "all_topics" and not has_topic
        if option.name == "all_groups":
            option.opts.append("--all-subscriptions")
    only = list_only(name)
    places = flags.options_of(list_options(name), *only) if only else []
    for option in places:
        option.help = f"with --all-topics: {option.help}"
    return [*found, *places]


def _refused(name: str, field: str) -> click.Option:
    """A flag that this system cannot serve, answered with the reason."""

    def refuse(_: click.Context, option: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            raise click.UsageError(cannot_list(name, option.opts[0]))

    callback: Callable[..., None] = refuse
    takes_value = field == "matching"
    return click.Option(
        [flag(field), *(["--all-subscriptions"] if field == "all_groups" else [])],
        is_flag=not takes_value,
        hidden=True,
        expose_value=False,
        callback=callback,
    )
