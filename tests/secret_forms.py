"""Whether a text has a secret in any form, by its own reckoning: none of the product's code is used."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse


def forms(secret: str) -> set[str]:
    """The forms that tests look for: plain, encoded, and what base64 of it has at every alignment."""
    data = secret.encode()
    found = {
        secret,
        urllib.parse.quote(secret),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        repr(secret)[1:-1],
        repr(data)[2:-1],
        data.hex(),
        data.hex().upper(),
    }
    for before in range(3):
        whole = base64.b64encode(b"x" * before + data + b"xy").decode()
        first, last = (
            (before * 8 + 5) // 6,
            (before + len(data)) * 8 // 6,
        )  # what depends on nothing else
        found |= {whole[first:last], whole[first:last].replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= 5}


def leaks(text: str, *secrets: str) -> list[str]:
    """The forms of the secrets that a text has."""
    return [form for secret in secrets for form in forms(secret) if form in text]
