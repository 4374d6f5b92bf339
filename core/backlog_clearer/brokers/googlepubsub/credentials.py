"""Google's credentials: those of a file, or Application Default Credentials."""

from __future__ import annotations

from typing import Any

import google.auth
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from backlog_clearer.errors import UsageError
from backlog_clearer.redaction.redact import remember
from backlog_clearer.text import shown_path


def google_credentials(file: str | None) -> Any:
    """The credentials of the file, or Application Default Credentials; raises `UsageError`."""
    scopes = SubscriberGrpcTransport.AUTH_SCOPES
    load: Any = google.auth.load_credentials_from_file
    try:
        found = load(file, scopes=scopes)[0] if file else google.auth.default(scopes=scopes)[0]
    except GoogleAuthError as error:
        problem = str(error).splitlines()[0] if file is None else type(error).__name__
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
    return found
