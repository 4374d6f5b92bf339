"""Google's credentials: those of a file, or Application Default Credentials."""

from __future__ import annotations

import json
import os
from typing import Any

import google.auth
import requests
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import Request
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from backlog_clearer.brokers.shared.http import whole_content
from backlog_clearer.deadline import within
from backlog_clearer.errors import UsageError
from backlog_clearer.options.references import read_text
from backlog_clearer.redaction.redact import remember
from backlog_clearer.text import listed, shown_path

WHOLE_S = 10.0
"""Seconds for a token: requests that need one have little more."""

KINDS = (
    "authorized_user",
    "external_account",
    "external_account_authorized_user",
    "gdch_service_account",
    "impersonated_service_account",
    "service_account",
)
"""What google-auth reads from a file, by its "type" (google.auth._default)."""


def _check(file: str) -> None:
    """Raise `UsageError` for a file that cannot hold credentials; its content is not shown."""
    called = f"--credentials-file {shown_path(file)}"
    text = read_text(file, called)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{called} is broken: it is not a JSON object.")
    if value.get("type") not in KINDS:
        raise UsageError(
            f'{called} is of an unknown kind: its "type" must be one of {listed(KINDS, 20)}.'
        )


def google_credentials(file: str | None) -> Any:
    """The credentials of the file, or Application Default Credentials.

    Raises `UsageError` that states whether the file is missing, broken, or of an unknown kind.
    """
    if file:
        _check(file)
    scopes = SubscriberGrpcTransport.AUTH_SCOPES
    load: Any = google.auth.load_credentials_from_file
    try:
        found = load(file, scopes=scopes)[0] if file else google.auth.default(scopes=scopes)[0]
    except GoogleAuthError as error:
        problem = str(error).splitlines()[0] if file is None else type(error).__name__
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if named and shown_path(named) != named:  # the variable may have the key instead of its path
            problem = problem.replace(named, shown_path(named))
        raise UsageError(
            f"There are no usable credentials{f' in {shown_path(file)}' if file else ''}: {problem} Name a file"
            " with --credentials-file, or log in with: gcloud auth application-default login"
        ) from None
    except (OSError, ValueError) as error:
        shown = shown_path(file or "")
        raise UsageError(
            f"--credentials-file {shown} cannot be read: {type(error).__name__}."
        ) from None
    remember(*(getattr(found, name, None) for name in ("client_secret", "refresh_token")))
    return with_bounded_refresh(found)


def with_bounded_refresh(credentials: Any) -> Any:
    """The same credentials, whose token endpoint's answers have a size and a deadline.

    The clients bring a transport without either; a token is asked for through one of ours instead. Copies
    that clients make of a service account sign their tokens themselves.
    """
    refresh = credentials.refresh

    def bounded(_request: object) -> None:
        with requests.Session() as session:
            session.hooks["response"].append(whole_content)
            try:
                within(WHOLE_S, lambda: refresh(Request(session)))
            except TimeoutError as error:
                text = f"The token endpoint sent {error}."
                raise TransportError(text) from None  # type: ignore[no-untyped-call]

    credentials.refresh = bounded
    return credentials
