"""What a user can ask for, as closed, frozen models; the brokers' own options derive from here.

One model serves the command line (a field is a flag), the configuration file and the function
bundle, so that an option means the same everywhere. Models import no broker library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from core.errors import UsageError
from core.model import Mode, Partition

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


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
            raise ValueError(f"{part.strip()!r} is no partition number or range, as in 0,3,5-8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        numbers.extend(range(first, last + 1))
    return tuple(sorted(set(numbers)))


def _is_file(name: str) -> str:
    if not Path(name).is_file():
        raise ValueError("there is no such file")
    return name


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
"""A comma-separated list of names."""

PartitionNumbers = Annotated[tuple[int, ...], BeforeValidator(_partition_numbers)]
"""Partition numbers and ranges, as in "0,3,5-8"."""


ExistingFile = Annotated[str, AfterValidator(_is_file)]
"""The path of a file that exists."""


class Slice(BaseModel):
    """One part of a backlog that is cleared by several processes: partitions `[index::total]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0)
    total: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+)/(\d+)", value.strip())
            if not match:
                raise ValueError(f"{value!r} is no slice; write INDEX/TOTAL, as in 2/8")
            return {"index": int(match[1]), "total": int(match[2])}
        return value

    @model_validator(mode="after")
    def _index_below_total(self) -> Self:
        if self.index >= self.total:
            raise ValueError(
                f"slice {self} does not exist: indexes of {self.total} slices run from 0"
                f" to {self.total - 1}"
            )
        return self

    def __str__(self) -> str:
        return f"{self.index}/{self.total}"


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
        """Everything but the secrets, as JSON values, without what was left at its default."""
        secret = {
            name for name, value in iter(self) if isinstance(value, SecretStr) or name in self.hidden()
        }
        return self.model_dump(mode="json", exclude=secret, exclude_defaults=True)

    @classmethod
    def hidden(cls) -> frozenset[str]:
        """Names of fields that may hold a secret without being a `SecretStr`."""
        return frozenset()


class RunOptions(Options):
    """What to do with the backlog, the same for every system."""

    mode: Mode = Field(
        Mode.CONSUME, description="consume: read and acknowledge; skip: move the position to the end"
    )
    workers: int = Field(
        4, ge=1, le=1024, description="lanes that read at the same time, each with a client of its own"
    )
    batch_size: int = Field(
        2000, ge=1, le=1_000_000, description="messages that one read asks for, where it can be told"
    )
    stop_when_empty: bool = Field(
        False, description="end once the target is reached; otherwise go on until interrupted"
    )
    follow: bool = Field(
        False,
        description="go on past the end as it was at the start, instead of freezing it as the target",
    )
    max_messages: int | None = Field(None, ge=1, description="stop after this many messages")
    max_seconds: float | None = Field(None, gt=0, description="stop after this many seconds")
    stall_seconds: float = Field(
        60.0, gt=0, description="give up when backlog remains and nothing arrives for this long"
    )
    max_retries: int = Field(
        10, ge=0, le=1000, description="consecutive attempts after transient errors, with backoff"
    )
    quiet_seconds: float = Field(
        15.0,
        gt=0,
        description="where the broker gives no figures: end after this long without a message",
    )
    partitions: PartitionNumbers | None = Field(None, description="only these, as in 0,3,5-8")
    slice: Slice | None = Field(
        None, description="only every TOTALth partition of the sorted list, as in 2/8"
    )
    force: bool = Field(False, description="go on although consumers are attached")
    dry_run: bool = Field(False, description="show backlog, plan and cost; change nothing")
    receipt_dir: str = Field(
        "receipts", description="directory for receipts, a path or any fsspec URL (gs://, s3://, az://)"
    )

    def choose(self, partitions: Iterable[Partition]) -> list[Partition]:
        """Those that `--partitions` and `--slice` leave, sorted.

        Raises `UsageError` naming partitions that do not exist, and those that do.
        """
        chosen = sorted(partitions)
        if self.partitions is not None:
            existing = {partition.number for partition in chosen}
            missing = [number for number in self.partitions if number not in existing]
            if missing:
                raise UsageError(
                    f"--partitions names {', '.join(map(str, missing))}, but the partitions are"
                    f" {', '.join(map(str, sorted(existing)))}."
                )
            chosen = [partition for partition in chosen if partition.number in self.partitions]
        return chosen if self.slice is None else chosen[self.slice.index :: self.slice.total]


_Model = TypeVar("_Model", bound=BaseModel)


def read_text(path: str, called: str) -> str:
    """The text in a file; raises `UsageError` that begins with what the file is called."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise UsageError(f"{called} cannot be read: {reason}.") from None


def resolve_references(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Replace `${env:NAME}` and `${file:PATH}` in every string of a JSON value.

    Raises `UsageError` naming the variable or file that is missing, never its content.
    """
    if isinstance(value, Mapping):
        return {key: resolve_references(item, environ) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve_references(item, environ) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            if name not in environ:
                raise UsageError(
                    f"The environment variable {name}, referred to as {match[0]}, is not set."
                )
            return environ[name]
        return read_text(name, f"The file referred to as {match[0]}").strip()

    return _REFERENCE.sub(replace, value)


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
