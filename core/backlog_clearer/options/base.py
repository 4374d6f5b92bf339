"""Closed, frozen models of what a user can ask for; the options of every system derive from here.

One model serves the command line (a field is a flag), the configuration file and the function
bundle, so that an option means the same everywhere. Models import no broker library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    ValidationError,
)

from backlog_clearer.errors import UsageError


def _comma_separated(value: object) -> object:
    """Let a list be written as one comma-separated string, as a flag is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _partition_numbers(value: object) -> object:
    """Expand "0,3,5-8" to the numbers it names."""
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match:
            raise ValueError(f"{part.strip()!r} is not a partition number or a range, as in 0,3,5-8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        numbers.extend(range(first, last + 1))
    return tuple(sorted(set(numbers)))


def _without_blanks(name: str) -> str:
    """Refuse blanks around a name: some clients strip them, and so would reach another subscription."""
    if name != name.strip():
        raise ValueError("the name begins or ends with a blank")
    return name


def _is_file(name: str) -> str:
    if not Path(name).is_file():
        raise ValueError("this file does not exist")
    return name


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
"""A comma-separated list of names."""

PartitionNumbers = Annotated[tuple[int, ...], BeforeValidator(_partition_numbers)]
"""Partition numbers and ranges, as in "0,3,5-8"."""


Name = Annotated[str, AfterValidator(_without_blanks)]
"""A name that neither begins nor ends with a blank."""

ExistingFile = Annotated[str, AfterValidator(_is_file)]
"""The path of a file that exists."""


class Options(BaseModel):
    """Base of every options model: frozen and closed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False
    )


class SystemOptions(Options):
    """Base of the brokers' models: how to reach one subscription.

    Fields of type `SecretStr` never reach a receipt, a result or a log.
    """

    def public(self) -> dict[str, Any]:
        """All fields except secrets and defaults, as JSON values."""
        secret = {
            name for name, value in iter(self) if isinstance(value, SecretStr) or name in self.hidden()
        }
        return self.model_dump(mode="json", exclude=secret, exclude_defaults=True)

    @classmethod
    def hidden(cls) -> frozenset[str]:
        """Names of fields that may hold a secret without being a `SecretStr`."""
        return frozenset()


_Model = TypeVar("_Model", bound=BaseModel)


def flag(name: str) -> str:
    """The command-line spelling of a field: `group_id` -> `--group-id`."""
    return "--" + name.replace("_", "-")


def suggestion(name: str, known: list[str]) -> str:
    """' Did you mean …?' for the known name nearest to a mistyped one, or ''."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def build(model: type[_Model], values: Mapping[str, Any]) -> _Model:
    """Validate values into a model.

    Raises `UsageError` that lists every fault at once, by flag name, with suggestions for unknown
    keys and without any value (a value may be a secret).
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            # Only names that the model or the caller's keys spell are shown, never a value.
            name = str(fault["loc"][0]) if fault["loc"] else ""
            if fault["type"] == "extra_forbidden":
                lines.append(f"unknown option {name!r}.{suggestion(name, list(model.model_fields))}")
            elif fault["type"] == "missing":
                lines.append(f"{flag(name)} is required.")
            else:
                text = fault["msg"].removeprefix("Value error, ").rstrip(".")
                lines.append(f"{flag(name)}: {text}." if name else f"{text}.")
        raise UsageError("\n".join(lines)) from None
