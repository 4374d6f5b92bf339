"""Places of receipts, as users write them: local paths, and URLs of the stores that are allowed.

Pure: nothing is opened. An error never contains the place, since a URL may contain a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection

SCHEMES = ("file", "gs", "gcs", "s3", "s3a", "az", "abfs", "abfss")
"""URL schemes that are always allowed: local files, Cloud Storage, S3, and Azure storage."""

LONGEST = 4096
"""Characters that a path can have; its parts have less."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SCHEME_LIKE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_AUTHORITY = re.compile(r"[^:@]+(?::\d+)?")
_WITH_USER = re.compile(rf"(?:[\w.-]{{1,64}}@)?{_AUTHORITY.pattern}", re.ASCII)
_NO_USER = frozenset({"gs", "gcs", "s3", "s3a"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
_PATTERN = re.compile(r"[][*?{}#]")

_NEVER = {
    **dict.fromkeys(
        ("simplecache", "filecache", "blockcache", "cached", "dir", "generic", "reference"),
        "it passes files on to another place",
    ),
    **dict.fromkeys(("async_wrapper", "asyncwrapper", "asynclocal", "local"), "write it as file://"),
    **dict.fromkeys(("memory", "pyscript"), "it keeps nothing after the process ends"),
    **dict.fromkeys(
        ("data", "http", "https", "git", "github", "gist", "hf", "zip", "tar", "libarchive"),
        "it cannot store files durably",
    ),
    **dict.fromkeys(("dask", "jlab", "jupyter", "wandb", "dvc", "root"), "it runs other programs"),
}
"""fsspec's schemes that no option allows, and why."""


def scheme_of(place: str) -> str | None:
    """The scheme of a URL, in lower case; None: a local path."""
    found = _URL.fullmatch(place)
    return found[1].lower() if found else None


def checked_place(place: str, also: Collection[str] = ()) -> str:
    """The place itself, where receipts may be stored there and be found again.

    `also` has the schemes that the user allows besides `SCHEMES`. Raises `ValueError` whose text does
    not contain the place.
    """
    if not place.strip():
        raise ValueError("it is empty; name a directory or a URL")
    if _CONTROL.search(place):
        raise ValueError("it contains a control character")
    if len(place) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} characters")
    if _NO_TEXT.search(place):
        raise ValueError("it contains bytes that are not UTF-8")
    scheme = scheme_of(place)
    if scheme is None:
        if _SCHEME_LIKE.match(place):
            raise ValueError(
                "it is neither a URL (SCHEME://BUCKET/…) nor a path; begin a path that has a colon in"
                " its first part with ./"
            )
        return place
    _check_scheme(scheme, also)
    _check_rest(scheme, place.partition("://")[2])
    return place


def checked_schemes(names: Collection[str]) -> None:
    """Raise `ValueError` for a scheme that cannot be allowed."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", name):
            raise ValueError("name URL schemes, as in sftp")
        if name.lower() in _NEVER:
            raise ValueError(f"{name.lower()}:// cannot hold receipts: {_NEVER[name.lower()]}")


def _check_scheme(scheme: str, also: Collection[str]) -> None:
    if scheme in _NEVER:
        raise ValueError(f"{scheme}:// cannot hold receipts: {_NEVER[scheme]}")
    if scheme not in SCHEMES and scheme not in {name.lower() for name in also}:
        raise ValueError(
            f"{scheme}:// is not one of {', '.join(SCHEMES)}; to use it, add --receipt-schemes {scheme}"
        )


def _check_rest(scheme: str, rest: str) -> None:
    """What comes after SCHEME://."""
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError("a file:// URL has an absolute path: file:///DIRECTORY")
        return
    if "::" in rest or _PATTERN.search(rest):
        raise ValueError("its URL contains '::' or one of the characters [ ] * ? { } #")
    authority, _, path = rest.partition("/")
    if not authority:
        raise ValueError(f"it names no bucket: write {scheme}://BUCKET/…")
    allowed = _AUTHORITY if scheme in _NO_USER else _WITH_USER
    if not allowed.fullmatch(authority) or "@" in path:
        raise ValueError(
            "its URL contains a password, or is malformed; give credentials by the environment or the"
            " store's own configuration"
        )
