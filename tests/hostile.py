"""Requests and arguments that are meant to do harm, for the tests of each handler."""

from __future__ import annotations

import json


def _body(**values: object) -> str:
    return json.dumps({"backlog": "orders", **values})


_TEXTS: dict[str, str | bytes] = {
    "infinite seconds": '{"backlog": "orders", "max_seconds": 1e999}',
    "Infinity": '{"backlog": "orders", "max_seconds": Infinity}',
    "NaN": '{"backlog": "orders", "max_seconds": NaN}',
    "seconds as text": _body(max_seconds="1e999"),
    "NUL in the name": _body(backlog="or\0ders"),
    "only a NUL": _body(backlog="\0"),
    "NUL in the run id": _body(run_id="r\0"),
    "a key twice": '{"backlog": "orders", "backlog": "other"}',
    "an inner key twice": '{"backlog": "orders", "x": {"a": 1, "a": 2}}',
    "true as a slice": _body(slice=True, total=2),
    "true as a total": _body(slice=0, total=True),
    "a slice as text": _body(slice="0", total=2),
    "a fraction as a slice": _body(slice=0.5, total=2),
    "a slice beyond its total": _body(slice=2, total=2),
    "a negative slice": _body(slice=-1, total=2),
    "a huge number": '{"backlog": "orders", "max_messages": 1' + "0" * 5000 + "}",
    "a megabyte of unknown keys": _body(**{f"key{number}": number for number in range(70_000)}),
    "a megabyte of blanks": " " * 1_000_000,
    "a megabyte in a name": _body(backlog="x" * 1_000_000),
    "a long name": _body(backlog="x" * 1000),
    "nested deeply": _body(x=1).replace("1", "[" * 900 + "]" * 900),
    "nested beyond recursion": "[" * 60_000,
    "a list": "[]",
    "text": '"orders"',
    "null": "null",
    "nothing": "",
    "not UTF-8": b'{"backlog": "\xff"}',
    "UTF-16": '{"backlog": "orders"}'.encode("utf-16"),
    "half a surrogate": '{"backlog": "\\ud800"}',
    "verify as text": _body(verify="yes"),
    "turns beyond all": _body(requeued=10**9),
}

BODIES = {name: text.encode() if isinstance(text, str) else text for name, text in _TEXTS.items()}
"""Bodies of requests by what is wrong with them."""

UNUSABLE: list[list[str]] = [
    ["--max-seconds", "1e999"],
    ["--max-seconds", "inf"],
    ["--max-seconds", "nan"],
    ["--max-seconds", "-1"],
    ["--max-messages", "1e3"],
    ["--slice", "true", "--total", "2"],
    ["--slice", "0"],
    ["--slice", "2", "--total", "2"],
    ["--run-id", "../x"],
    ["--run-id", "a\0b"],
    ["--requeued", "9" * 30],
]
"""Arguments of the job that are wrong."""
