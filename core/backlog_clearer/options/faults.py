"""What pydantic finds wrong with a value, in plain words and without the value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "date_from_datetime_parsing": "must be a date",
    "datetime_from_date_parsing": "must be a time, as in 2026-11-26T03:15:00Z",
    "datetime_parsing": "must be a time, as in 2026-11-26T03:15:00Z",
    "datetime_type": "must be a time, as in 2026-11-26T03:15:00Z",
    "dict_type": "must be an object",
    "enum": "must be {expected}",
    "extra_forbidden": "is not known",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_pattern_mismatch": "has a form that is not allowed",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}
"""By pydantic's type of the fault; a bound in braces is one of its context, which holds no input."""


def fault_text(fault: Mapping[str, Any]) -> str:
    """The words for one of `ValidationError.errors()`, without a full stop, to follow the value's name."""
    words = _WORDS.get(fault["type"])
    if words is None:
        return str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    bounds = {key: _plain(value) for key, value in fault.get("ctx", {}).items()}
    return words.format_map(bounds)


def _plain(bound: object) -> object:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
