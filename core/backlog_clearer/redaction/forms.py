"""The forms in which a secret may be found in a text: pure.

A secret that looks like no ordinary word is found anywhere, also inside of longer words, and in the
encodings of URLs, JSON, HTML, Python and base64. A word, a number and a very short value are found only
where they are a value, so that the password "kafka" does not make "librdkafka" unreadable.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, quote_plus

_SHORT = 6  # a shorter value may be a part of any word
_WORD = re.compile(r"[A-Za-z]?[a-z]+(?:[-_. ][A-Za-z]?[a-z]+)*|[A-Z]+(?:[-_. ][A-Z]+)*|\d+")
_LONGEST_WORD = 20
_SHORTEST_TOKEN = 8  # shorter words are common as names of topics, users and systems
_LEAST_OF_BASE64 = 6  # characters of base64 that are taken for a secret's
_TRUNCATED = 200  # a library may have cut off a text that is longer
_LEAST_OF_TAIL = 6

_WORDS = (
    "access backlog billing certificate checkpoint checkpoints configuration connection consumer consumers"
    " container databases default endpoint environment eventhubs googlepubsub group interrupted librdkafka"
    " localhost message messages namespace partition partitions password passwords persistent plaintext"
    " position positions protocol receipt receipts reference secret secrets security server settings"
    " snapshot streamnative subscription timestamp token topic transport username"
)
_OURS = frozenset(_WORDS.split())
"""Words of this project's own texts: as secrets they are found only as a value."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_-]")

Span = tuple[int, int]
"""Where a text has something to replace: from, up to."""


def is_distinct(secret: str) -> bool:
    """Whether a secret may be replaced wherever its characters are: it is neither a word nor short."""
    if len(secret) < _SHORT:
        return False
    return len(secret) > _LONGEST_WORD or _WORD.fullmatch(secret) is None


@dataclass(frozen=True, slots=True)
class Forms:
    """One secret's forms; `spans` finds them."""

    distinct: bool
    texts: tuple[str, ...]  # found anywhere
    base64: tuple[str, ...]  # found anywhere, with the base64 around it
    pattern: re.Pattern[str] | None  # found as a value

    def spans(self, text: str, *, values: bool = True) -> Iterator[Span]:
        """Where a text has the secret; `values`: also where an ordinary word is a value."""
        for form in self.texts:
            yield from _found(form, text)
        for core in self.base64:
            for start, end in _found(core, text):
                yield _run(text, start, end)
        if values and self.pattern is not None:
            for match in self.pattern.finditer(text):
                yield match.span()
        if self.distinct and len(text) > _TRUNCATED:
            yield from self._tail(text)

    def _tail(self, text: str) -> Iterator[Span]:
        """The beginning of a secret at the end of a text that was cut off."""
        bare = text.rstrip(".… )\"'")
        for form in (*self.texts, *self.base64):
            for size in range(min(len(form), len(bare)) - 1, _LEAST_OF_TAIL - 1, -1):
                if bare.endswith(form[:size]):
                    start = len(bare) - size
                    yield _run(bare, start, len(bare)) if form in self.base64 else (start, len(bare))
                    break


@lru_cache(maxsize=4096)
def forms_of(secret: str) -> Forms:
    """The forms of a secret."""
    distinct = is_distinct(secret)
    cores = tuple(sorted(_cores(secret)))
    if distinct:
        texts = {form for text in _spellings(secret) for form in _encoded(text)}
        return Forms(True, tuple(sorted(texts, key=len, reverse=True)), cores, None)
    return Forms(False, (), cores, _as_value(secret))


def _spellings(secret: str) -> set[str]:
    """The secret itself, and as a text in one line has it."""
    return {secret, " ".join(secret.split())}


def _encoded(text: str) -> Iterator[str]:
    """A text, plain and encoded for URLs, JSON, HTML and Python."""
    import html  # noqa: PLC0415 loads all names of characters, which only a secret needs

    data = text.encode("utf-8", "surrogatepass")
    yield text
    for safe in ("", "/", "/~!*'()", "/?:@!$&'()*+,;=~"):
        for form in (quote(data, safe=safe), quote_plus(data, safe=safe)):
            yield from (form, re.sub(r"%..", lambda found: found[0].lower(), form))
    yield quote(quote(data, safe=""), safe="")
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (escaped, escaped.replace("/", "\\/"), json.dumps(escaped)[1:-1])
    yield from (html.escape(text), html.escape(text, quote=False))
    yield from (repr(text)[1:-1], repr(data)[2:-1], data.hex(), data.hex().upper())


def _cores(secret: str) -> set[str]:
    """What base64 has of a secret whatever is around it: three alignments, standard and URL-safe."""
    found = set()
    for text in {secret, quote(secret.encode("utf-8", "surrogatepass"), safe="")}:
        data = text.encode("utf-8", "surrogatepass")
        for shift in range(3):
            whole = base64.b64encode(b"\0" * shift + data).decode()
            core = whole[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
            if len(core) >= _LEAST_OF_BASE64:
                found |= {core, core.replace("+", "-").replace("/", "_")}
    return found


def _as_value(secret: str) -> re.Pattern[str]:
    """A word where it is quoted, follows '=', is a URL's password, or is all there is."""
    text = re.escape(secret)
    encoded = re.escape(base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode())
    forms = [
        rf"(?<==){text}(?![\w-])",
        rf"(?<=[\"'`]){text}(?=[\"'`\\])",
        rf"(?<=:){text}(?=@)",
        rf"\A{text}\Z",
        rf"(?<![A-Za-z0-9+/_-]){encoded}(?![A-Za-z0-9+/_=-])",
    ]
    if len(secret) >= _SHORTEST_TOKEN and not secret.isdigit() and secret.lower() not in _OURS:
        forms.append(rf"(?<![\w.-]){text}(?![\w-]|\.\w)")
    return re.compile("|".join(forms))


def _found(form: str, text: str) -> Iterator[Span]:
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + len(form))


def _run(text: str, start: int, end: int) -> Span:
    """The run of base64 around a part of it."""
    while start and _NOT_BASE64.match(text, start - 1) is None:
        start -= 1
    match = _BASE64.match(text, end)
    return start, match.end() if match else end
