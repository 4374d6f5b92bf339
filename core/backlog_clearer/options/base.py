"""Closed, frozen models of what a user can ask for; the options of every system derive from here.

One model serves the command line (a field is a flag), the configuration file and the function
bundle, so that an option means the same everywhere. Models import no broker library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from backlog_clearer.errors import UsageError
from backlog_clearer.options.faults import fault_text
from backlog_clearer.options.references import is_reference, portable
from backlog_clearer.redaction.forms import is_distinct
from backlog_clearer.redaction.parts import sounds_secret
from backlog_clearer.redaction.redact import remember, remember_address, remember_login
from backlog_clearer.text import counted, shown_name, shown_value

MOST_PARTITIONS = 100_000
"""More of one topic are not believed, of a user or of a broker: what they take in memory stays bounded."""


def _comma_separated(value: object) -> object:
    """Let a list be written as one comma-separated string, as a flag is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _partition_numbers(value: object) -> object:
    """Expand "0,3,5-8" to the numbers it names."""
    if not isinstance(value, str):
        return value
    numbers: set[int] = set()
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part)
        if not match:
            raise ValueError(
                f"{shown_value(part.strip())} is not a partition number or a range, as in 0,3,5-8"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        if last - first >= MOST_PARTITIONS:
            raise ValueError(f"the range {part.strip()!r} has more than {MOST_PARTITIONS:,} partitions")
        numbers.update(range(first, last + 1))
        if len(numbers) > MOST_PARTITIONS:
            raise ValueError(f"more than {MOST_PARTITIONS:,} partitions are named")
    return tuple(sorted(numbers))


def _without_blanks(name: str) -> str:
    """Refuse blanks around a name: some clients strip them, and so would reach another subscription."""
    if name != name.strip():
        raise ValueError("the name begins or ends with a blank")
    return name


def _without_login(address: str) -> str:
    if "@" in address:
        raise ValueError("an address has no user or password in it; give them by their own options")
    return address


def names_file(name: str) -> bool:
    """Whether there is a file of this name."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a NUL in the name, or, before Python 3.14, a name that is too long
        return False


def _is_file(name: str) -> str:
    if not names_file(name):
        raise ValueError("this file does not exist")
    return str(Path(name).absolute())  # a receipt keeps it, and may be used in another directory


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
"""A comma-separated list of names."""

PartitionNumbers = Annotated[tuple[int, ...], BeforeValidator(_partition_numbers)]
"""Partition numbers and ranges, as in "0,3,5-8"."""


Name = Annotated[str, AfterValidator(_without_blanks)]
"""A name that neither begins nor ends with a blank."""

Host = Annotated[str, AfterValidator(_without_login)]
"""An address without a user or a password in it."""

ExistingFile = Annotated[str, AfterValidator(_is_file)]
"""The path of a file that exists."""


class Options(BaseModel):
    """Base of every options model: frozen and closed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=False,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nul(cls, values: object) -> object:
        """Refuse what no name, path or secret has, and what libraries in C cut off or fail at."""
        if isinstance(values, Mapping):
            for name, value in values.items():
                if any("\0" in text for text in _texts(value)):
                    raise ValueError(f"{flag(str(name))}: it contains a NUL character")
        return values


def _texts(value: object) -> Iterable[str]:
    """The strings in an option's value: itself, or those of a list or of settings."""
    if isinstance(value, SecretStr):
        return (value.get_secret_value(),)
    if isinstance(value, Mapping):
        return (text for pair in value.items() for text in pair if isinstance(text, str))
    many = value if isinstance(value, (list, tuple)) else (value,)
    return (text for text in many if isinstance(text, str))


SETTINGS = "settings"
"""The field that takes a client library's own dotted settings, where a system has one."""


class SystemOptions(Options):
    """Base of the brokers' models: how to reach one subscription.

    The value of a field of type `SecretStr` never reaches a receipt, a result or a log; where it was
    given as a reference, the receipt keeps the reference.
    """

    NAMES: ClassVar[tuple[str, ...]] = ()
    """Fields that name the subscription, of which a call may give several names; see `run.selection`."""

    COMMAS: ClassVar[bool] = True
    """Whether the system allows commas in such a name."""

    _references: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _keep_secrets_out_of_texts(cls, values: object) -> object:
        """Remember every secret before anything can be reported about the values."""
        if isinstance(values, Mapping):
            for name, value in values.items():
                if name == SETTINGS and isinstance(value, Mapping):
                    for key, item in value.items():
                        cls._remember_setting(key, item)
                elif "." in str(name):
                    cls._remember_setting(name, value)
                elif name in cls.secrets():
                    remember(_bare(value))
                else:
                    remember_address(str(value))
            for user, secret in LOGINS:
                remember_login(*(_bare(_among(values, name)) for name in (user, secret)))
        return values

    @classmethod
    def _remember_setting(cls, key: str, value: object) -> None:
        certainly = sounds_secret(str(key)) or key in cls.secret_settings() or SETTINGS in cls.secrets()
        if key in cls.public_settings() or not (certainly or is_distinct(str(value))):
            remember_address(str(value))
        else:
            remember(_bare(value))

    def public(self) -> dict[str, Any]:
        """What a receipt keeps, as JSON values: no secrets, only references to them; no defaults."""
        secret = self.secrets()
        shown = self.model_dump(mode="json", exclude={*secret, SETTINGS}, exclude_defaults=True)
        shown.update({name: text for name, text in self._references.items() if name in secret})
        given = getattr(self, SETTINGS, None) or {}
        referred = self._references.get(SETTINGS, {})
        settings = {
            key: referred[key] if key in referred else _portable_file(key, value)
            for key, value in given.items()
            if (key in self.public_settings() and not _has_login(value)) or key in referred
        }
        return {**shown, SETTINGS: settings} if settings else shown

    @property
    def place(self) -> str:
        """What is connected to, for people; '' where the system's name is enough."""
        return ""

    @property
    def consumer_name(self) -> str:
        """The name that positions are stored under, a group's or a subscription's; '' where it is not known."""
        given = (getattr(self, name) for name in self.NAMES)
        return next((str(name) for name in given if name is not None), "")

    def withheld(self) -> tuple[str, ...]:
        """Options that were given and that a receipt does not keep: fields, and keys of settings."""
        kept = self.public()
        fields = (
            name for name in sorted(self.secrets() - {SETTINGS}) if getattr(self, name) is not None
        )
        settings = getattr(self, SETTINGS, None) or {}
        kept_settings = kept.get(SETTINGS, {})
        return (
            *(name for name in fields if name not in kept),
            *(key for key in settings if key not in kept_settings),
        )

    def referring(self, given: Mapping[str, Any]) -> Self:
        """The same options, which remember those secrets of `given` that are references."""
        found: dict[str, Any] = {
            name: portable(text)
            for name, text in given.items()
            if name in self.secrets() and name != SETTINGS and is_reference(text)
        }
        settings = given.get(SETTINGS)
        if isinstance(settings, Mapping):
            keys = self.secret_settings()
            referred = {
                k: portable(text) for k, text in settings.items() if k in keys and is_reference(text)
            }
            if referred:
                found[SETTINGS] = referred
        copy = self.model_copy()
        copy._references = found  # noqa: SLF001 an object of this class
        return copy

    @classmethod
    def secrets(cls) -> frozenset[str]:
        """Names of the fields that may hold a secret."""
        typed = {name for name, field in cls.model_fields.items() if _is_secret(field.annotation)}
        return frozenset(typed) | cls.hidden()

    @classmethod
    def hidden(cls) -> frozenset[str]:
        """Names of fields that may hold a secret without being a `SecretStr`."""
        return frozenset()

    @classmethod
    def sent_files(cls) -> frozenset[str]:
        """Names of fields that name a file whose content is sent to a server, as a token's file is."""
        return frozenset()

    @classmethod
    def understood(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as users wrote them, references included, by the names that the client library has."""
        return dict(settings)

    @classmethod
    def public_settings(cls) -> frozenset[str]:
        """Keys of `settings` whose values a receipt keeps: they hold no secret, and run no code."""
        return frozenset()

    @classmethod
    def secret_settings(cls) -> frozenset[str]:
        """Keys of `settings` that a receipt keeps if the value was given as a reference."""
        return frozenset()


LOGINS = (
    ("username", "password"),
    ("sasl.username", "sasl.password"),
    ("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret"),
)
"""Options whose values are sent together: base64 of both is a form of the secret."""


def _among(values: Mapping[str, Any], name: str) -> object:
    settings = values.get(SETTINGS)
    inner = settings.get(name) if isinstance(settings, Mapping) else None
    return values.get(name, inner)


def _bare(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or SecretStr in get_args(annotation)


def _portable_file(key: str, value: Any) -> Any:
    """A setting's value; the path of a file so that it holds in any directory."""
    named = key.endswith(".location") and isinstance(value, str) and names_file(value)
    return str(Path(value).absolute()) if named else value


def _has_login(value: object) -> bool:
    """Whether a value is a URL with a user or a password in it."""
    return "@" in str(value) and "://" in str(value)


_Model = TypeVar("_Model", bound=BaseModel)


def flag(name: str) -> str:
    """The command-line spelling of a field: `group_id` -> `--group-id`."""
    return "--" + name.replace("_", "-")


def suggestion(name: str, known: list[str]) -> str:
    """' Did you mean …?' for the known name nearest to a mistyped one, or ''."""
    close = _nearest(name, known, 0.6)
    return f" Did you mean {close!r}?" if close else ""


def _nearest(name: str, known: list[str], likeness: float) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415 only a mistake needs it

    return next(iter(get_close_matches(name, known, n=1, cutoff=likeness)), None)


RISKY = frozenset(
    {
        "allow_reference",
        "assume_exists",
        "delete_group",
        "delete_snapshot",
        "delete_snapshots",
        "force",
        "lower_to_end",
        "new",
        "no_checkpoint",
        "no_snapshot",
        "yes",
    }
)
"""Options that are never suggested for a mistyped one: they switch off a safeguard, or delete something."""


def option_suggestion(name: str, known: Iterable[str]) -> str:
    """' Did you mean …?' for the known option nearest to a mistyped one, or '' where it is a risky one."""
    spelled = {each.lstrip("-").replace("-", "_"): each for each in known}
    close = _nearest(name.lstrip("-").replace("-", "_"), list(spelled), 0.7)
    return f" Did you mean {spelled[close]!r}?" if close and close not in RISKY else ""


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The sentence for a key that is not an option, with the nearest one."""
    return f"unknown option {shown_name(name)}.{option_suggestion(name, known)}"


_FAULTS = 20  # lines of an error; a longer list does not help


def build(model: type[_Model], values: Mapping[str, Any], *, strict: bool = False) -> _Model:
    """Validate values into a model; `strict`: JSON values of exactly the declared types.

    Raises `UsageError` that lists the faults at once, by flag name, with suggestions for unknown
    keys and without any value (a value may be a secret).
    """
    try:
        if strict:  # as JSON, in which the strings of an enumeration are its members
            return model.model_validate_json(json.dumps(values), strict=True)
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        faults = error.errors(include_url=False, include_input=False)
        for fault in faults[:_FAULTS]:
            # Only names that the model or the caller's keys spell are shown, never a value.
            name = str(fault["loc"][0]) if fault["loc"] else ""
            if fault["type"] == "extra_forbidden":
                lines.append(unknown_option(name, model.model_fields))
            elif fault["type"] == "missing":
                lines.append(f"{flag(name)} is required.")
            else:
                called = "-X" if name == SETTINGS else flag(name)
                between = ": " if fault["type"] == "value_error" else " "
                text = fault_text(fault)
                lines.append(f"{called}{between}{text}." if name else f"{text}.")
        if len(faults) > _FAULTS:
            lines.append(f"There are {counted(len(faults) - _FAULTS, 'further fault')}.")
        raise UsageError("\n".join(lines)) from None
